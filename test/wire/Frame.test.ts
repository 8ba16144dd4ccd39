/**
 * Messages as bytes, and back.
 *
 * Seen red for each of these mutations: ids are not signed; a deadline is sent, or taken, as a time of day; NaN is a time; a text that says
 * nothing is none; a principal stays behind; two things that may be left out share a bit, and then a trace takes a principal's place; all
 * traces are sampled; texts that are longer may be written, or read; what ends too early is read; an unknown byte is; there is no room for
 * characters of several bytes; a buffer that grows loses what it had; frames share their buffer; what was taken is taken again; a frame begins
 * where its buffer does; a principal has no id, or another tenant or claims than texts and an object; an ending has no value.
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import type { Crossing } from "../../src/wire/Crossing.ts"
import { FRAME, FrameWriter, HEAD, read } from "../../src/wire/Frame.ts"
import { Misfit } from "../../src/wire/MethodCodec.ts"
import type { Message } from "../../src/wire/Port.ts"

const TEXT = 8 * 1024

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

const Text = Schema.Union([
  Schema.String,
  Schema.Literals(["", "é", "日本語", "🙂 👩‍👩‍👧 ❤️", "a\u0000b", "\u2028", "\uFEFF", '"\\', "😀".repeat(200)])
])
const Id = Schema.Union([between(-(2 ** 31), 2 ** 31 - 1), Schema.Literals([0, 1, -1, 2 ** 31 - 1, -(2 ** 31)])])
const Count = Schema.Union([between(0, 2 ** 32 - 1), Schema.Literals([0, 1, 2 ** 31, 2 ** 32 - 1])])
const Json = Schema.Union([
  Schema.Null,
  Schema.Boolean,
  Schema.Finite,
  Schema.String,
  Schema.Struct({ maxSize: Schema.Int, methods: Schema.Array(Schema.String) })
])
const Principal = Schema.Struct({
  id: Schema.String,
  tenant: Schema.optionalKey(Schema.String),
  claims: Schema.optionalKey(Schema.Struct({ plan: Text, roles: Schema.Array(Schema.String), __proto: Schema.Null }))
})
/** A deadline: so many seconds from now, or never. */
const Ahead = Schema.NullOr(between(-100, 1e9))
const Context = Schema.Struct({
  requestId: Text,
  deadline: Ahead,
  priority: Schema.Literals(["critical", "default", "sheddable"]),
  tenant: Schema.UndefinedOr(Text),
  modelId: Schema.UndefinedOr(Text),
  sessionId: Schema.UndefinedOr(Text),
  route: Schema.UndefinedOr(Text),
  lastEventId: Schema.UndefinedOr(Text),
  principal: Schema.UndefinedOr(Principal),
  span: Schema.UndefinedOr(Schema.Struct({ traceId: Text, spanId: Text, sampled: Schema.Boolean }))
})
const How = Schema.Literals(["success", "error", "serveError", "refusal", "defect", "interrupted"])
const AnyMessage = Schema.Union([
  Schema.Tuple([Schema.Literal("call"), Id, Text, Schema.Uint8Array, Context]),
  Schema.Tuple([Schema.Literal("exit"), Id, Schema.Tuple([How, Schema.UndefinedOr(Schema.Uint8Array)])]),
  Schema.Tuple([Schema.Literal("cancel"), Id]),
  Schema.Tuple([Schema.Literal("elements"), Id, Schema.Uint8Array]),
  Schema.Tuple([Schema.Literal("credit"), Id, Count, Count]),
  Schema.Tuple([Schema.Literal("note"), Text, Schema.UndefinedOr(Json)])
])
const Messages = Schema.Array(AnyMessage).check(Schema.isMaxLength(12))

/** A text as UTF-8 can have it. */
const wellFormed = (value: unknown): unknown =>
  typeof value === "string"
    ? value.toWellFormed()
    : value instanceof Uint8Array
      ? Uint8Array.from(value)
      : Array.isArray(value)
        ? value.map(wellFormed)
        : typeof value === "object" && value !== null
          ? Object.fromEntries(Object.entries(value).map(([key, field]) => [key, wellFormed(field)]))
          : value

const millis = (deadline: number | null) => (deadline === null ? Infinity : 1000 * deadline)

/** What is to arrive when a message was written whose deadline is so far from `now`. */
const expected = (message: typeof AnyMessage.Type): unknown => {
  switch (message[0]) {
    case "exit":
      return wellFormed(["exit", message[1], [message[2][0], message[2][1] ?? new Uint8Array(0)]])
    case "note":
      // JSON has words for halves of characters.
      return ["note", message[1].toWellFormed(), JSON.parse(JSON.stringify(message[2] ?? null))]
    case "call":
      return wellFormed([...message.slice(0, 4), { ...message[4], deadline: millis(message[4].deadline) }])
    default:
      return wellFormed(message)
  }
}

const from = (now: number) => (message: typeof AnyMessage.Type) =>
  (message[0] === "call"
    ? ["call", message[1], message[2], message[3], { ...message[4], deadline: now + millis(message[4].deadline) }]
    : message) as Message

/** What arrived, with deadlines as the time from then, in whole seconds. */
const arrived = (messages: ReadonlyArray<Message>, now: number) =>
  messages.map((message) =>
    message[0] === "call"
      ? wellFormed([
          ...message.slice(0, 4),
          { ...message[4], deadline: 1000 * Math.round((message[4].deadline - now) / 1000) }
        ])
      : message[0] === "note"
        ? [...message]
        : wellFormed(message)
  )

const fits = (text: string) => Buffer.byteLength(text) <= TEXT
/** Whether all its texts may be written. */
const isShort = (message: typeof AnyMessage.Type): boolean => {
  if (message[0] === "note") return fits(message[1])
  if (message[0] !== "call") return true
  const {
    lastEventId = "",
    modelId = "",
    principal,
    requestId,
    route = "",
    sessionId = "",
    span,
    tenant = ""
  } = message[4]
  const texts = [
    message[2],
    requestId,
    tenant,
    modelId,
    sessionId,
    route,
    lastEventId,
    span?.traceId ?? "",
    span?.spanId ?? ""
  ]
  return texts.every(fits) && fits(JSON.stringify(principal ?? null))
}

const written = (messages: ReadonlyArray<Message>): Uint8Array => {
  const writer = new FrameWriter()
  for (const message of messages) writer.write(message)
  return writer.take()
}

const nobody: Crossing = {
  requestId: "r",
  deadline: Infinity,
  priority: "default",
  tenant: undefined,
  modelId: undefined,
  sessionId: undefined,
  route: undefined,
  principal: undefined,
  lastEventId: undefined,
  span: undefined
}

const called = (crossing: Partial<Crossing>): Message => ["call", 1, "m", new Uint8Array(0), { ...nobody, ...crossing }]

/** Where the parts are of a call with nothing that may be left out, a method of one letter, and no payload. */
const AT = { kind: 0, target: 5, size: 10, requestId: 14, deadline: 19, priority: 27, present: 28 }

const left = (frame: Uint8Array) => {
  const now = Date.now()
  const [message] = read(frame)
  return message?.[0] === "call" ? message[4].deadline - now : Number.NaN
}

const tooLong = (message: Message) => {
  const writer = new FrameWriter()
  const before: Message = ["cancel", 1]
  writer.write(before)
  const { size } = writer
  assert.throws(() => writer.write(message), Misfit, /8\d\d\d bytes.*8192/)
  writer.truncate(size)
  const after: Message = ["credit", 2, 3, 4]
  writer.write(after)
  assert.deepStrictEqual(read(writer.take()), [before, after])
}

const changed = (message: Message, change: (frame: Buffer) => void) => {
  const frame = Buffer.from(written([message]))
  change(frame)
  return () => read(frame)
}

describe("Frame", () => {
  it.prop(
    "brings every message there as it was",
    [Messages],
    ([messages]) => {
      const now = Date.now()
      const short = messages.filter(isShort)
      assert.deepStrictEqual(arrived(read(written(short.map(from(now)))), now), short.map(expected))
    },
    { arbitrary: { runs: 300, size: 60, seed: 1 } }
  )

  it("brings contexts with each combination of what may be left out", () => {
    const all = {
      tenant: "t",
      modelId: "m",
      sessionId: "s",
      route: "/r",
      lastEventId: "e",
      principal: { id: "p", tenant: "pt", claims: { plan: "pro" } },
      span: { traceId: "t".repeat(32), spanId: "s".repeat(16), sampled: true }
    }
    const names = Object.keys(all) as ReadonlyArray<keyof typeof all>
    const messages = Array.from({ length: 2 ** names.length }, (_, set) =>
      called(Object.fromEntries(names.map((name, i) => [name, (set & (1 << i)) === 0 ? undefined : all[name]])))
    )
    assert.deepStrictEqual(arrived(read(written(messages)), 0), messages.map(wellFormed))
  })

  it("keeps a text that says nothing apart from none", () => {
    const message = called({ requestId: "", tenant: "", route: "" })
    assert.deepStrictEqual(arrived(read(written([message])), 0), [wellFormed(message)])
  })

  it("brings deadlines as the time that is left", () => {
    const frame = written([called({ deadline: Date.now() + 5000 })])
    assert.approximately(Buffer.from(frame).readDoubleLE(AT.deadline), 5000, 20)
    assert.approximately(left(frame), 5000, 20)
    // As it would be after an hour on its way.
    Buffer.from(frame.buffer, frame.byteOffset).writeDoubleLE(-3_600_000, AT.deadline)
    assert.approximately(left(frame), -3_600_000, 20)
    assert.strictEqual(left(written([called({ deadline: Infinity })])), Infinity)
  })

  it("puts half a character in place of what is none", () => {
    const [message] = read(written([called({ requestId: "a\ud800b" })]))
    assert.strictEqual(message?.[0] === "call" ? message[4].requestId : "", "a\ufffdb")
  })

  it("has room for messages that are larger than a frame, whatever was written before", () => {
    const large = new Uint8Array(3 * FRAME + 17).fill(7)
    const messages: ReadonlyArray<Message> = [
      ["cancel", -3],
      ["elements", 1, large],
      ["exit", 2, ["success", large.subarray(5)]],
      ["cancel", 4]
    ]
    assert.deepStrictEqual(arrived(read(written(messages)), 0), messages.map(wellFormed))
  })

  it("has room for characters of several bytes, wherever its buffer ends", () => {
    for (let left = 0; left < 200; left++) {
      const messages = [
        ["elements", 1, new Uint8Array(FRAME - 9 - left)] as const,
        called({ tenant: "日本語".repeat(20) })
      ]
      assert.deepStrictEqual(arrived(read(written(messages)), 0)[1], wellFormed(messages[1]), String(left))
    }
  })

  it("gives what it has written once, and doesn't write into what it gave", () => {
    const writer = new FrameWriter()
    const frames = [200, FRAME, 30_000, 10, 3 * FRAME, 10].map((size, i) => {
      writer.write(["elements", i, new Uint8Array(size).fill(i)])
      assert.strictEqual(writer.size, size + 9)
      return writer.take()
    })
    assert.strictEqual(writer.size, 0)
    assert.lengthOf(writer.take(), 0)
    frames.forEach((frame, i) => {
      const [message] = read(frame)
      assert.strictEqual(message?.[1], i)
      assert.isTrue((message![2] as Uint8Array).every((byte) => byte === i))
    })
  })

  describe("that is written", () => {
    const long = "x".repeat(TEXT + 1)
    const texts: Record<string, Message> = {
      "a method": ["call", 1, long, new Uint8Array(0), nobody],
      "a request id": called({ requestId: long }),
      "a tenant": called({ tenant: "é".repeat(TEXT / 2) + "x" }),
      "an event id": called({ lastEventId: long }),
      "a principal": called({ principal: { id: long } }),
      "a trace": called({ span: { traceId: "", spanId: long, sampled: true } }),
      "the name of a note": ["note", long, null]
    }
    for (const [name, message] of Object.entries(texts)) {
      it(`has no text that is too long: ${name}`, () => tooLong(message))
    }

    it("says in a note as much as it must", () => {
      const methods = Array.from({ length: 2000 }, (_, i) => `methodNumber${i}`)
      const hello: Message = ["note", "hello", { methods }]
      assert.deepStrictEqual(read(written([hello])), [hello])
    })

    it("has what goes along with the longest payload in what is kept for that", () => {
      const most = "é".repeat(TEXT / 2)
      const id = { id: "x".repeat(TEXT - 9) }
      const span = { traceId: most, spanId: most, sampled: true }
      const texts = { requestId: most, tenant: most, modelId: most, sessionId: most, route: most, lastEventId: most }
      const frame = written([["call", 1, most, new Uint8Array(0), { ...nobody, ...texts, principal: id, span }]])
      assert.isBelow(frame.length, HEAD)
    })
  })

  describe("that is read", () => {
    it.prop(
      "is refused wherever it is cut off",
      [AnyMessage],
      ([message]) => {
        if (!isShort(message)) return
        const frame = written([from(Date.now())(message)])
        const step = Math.ceil(frame.length / 50)
        for (let length = 1; length < frame.length; length += step) {
          assert.throws(() => read(frame.subarray(0, length)), /too early/, String(length))
        }
      },
      { arbitrary: { runs: 60, size: 30, seed: 1 } }
    )

    it.prop(
      "is either refused or made of what there is, when any of it is changed",
      [Messages, Schema.Array(Schema.Tuple([between(0, 1e6), between(0, 255)])).check(Schema.isMinLength(1))],
      ([messages, changes]) => {
        const frame = Buffer.from(written(messages.filter(isShort).map(from(Date.now()))))
        for (const [at, byte] of changes) if (frame.length > 0) frame[at % frame.length] = byte
        let found: ReadonlyArray<Message>
        try {
          found = read(frame)
        } catch (error) {
          assert.instanceOf(error, Error)
          assert.notInstanceOf(error, RangeError)
          return
        }
        // What is taken can be written, to be taken again.
        for (const message of found) {
          if (isShort(message as never)) assert.doesNotThrow(() => new FrameWriter().write(message))
          if (message[0] !== "call") continue
          const { deadline, principal, priority } = message[4]
          assert.isFalse(Number.isNaN(deadline))
          assert.include(["critical", "default", "sheddable"], priority)
          if (principal !== undefined) assert.isString(principal.id)
        }
      },
      { arbitrary: { runs: 500, size: 30, seed: 1 } }
    )

    it("is refused when a byte names nothing", () => {
      assert.throws(
        changed(called({}), (frame) => (frame[AT.kind] = 7)),
        /unknown/
      )
      assert.throws(
        changed(called({}), (frame) => (frame[AT.priority] = 3)),
        /unknown/
      )
      assert.throws(
        changed(["exit", 1, ["success", new Uint8Array(0)]], (frame) => (frame[5] = 6)),
        /unknown/
      )
    })

    it("is refused when it has no time", () => {
      assert.throws(
        changed(called({}), (frame) => frame.writeDoubleLE(Number.NaN, AT.deadline)),
        /no time/
      )
    })

    it("is refused when a length is more than there is, or than a text may have", () => {
      for (const length of [1, 100, 2 ** 31, 2 ** 32 - 1]) {
        assert.throws(
          changed(["elements", 1, new Uint8Array(0)], (frame) => frame.writeUInt32LE(length, 5)),
          /too early/
        )
      }
      const text = Buffer.concat([written([["note", "x".repeat(TEXT), null]]), Buffer.alloc(TEXT)])
      assert.throws(() => read(text.fill(TEXT + 1, 5, 6).fill((TEXT + 1) >> 8, 6, 7)), /too long/)
    })

    it("is refused when a principal is none", () => {
      for (const value of [
        "1",
        "null",
        "[]",
        "{}",
        '{"id":1}',
        '{"id":"a","tenant":1}',
        '{"id":"a","claims":"b"}',
        "{"
      ]) {
        const id = "x".repeat(60)
        const frame = Buffer.from(written([called({ principal: { id } })]))
        const at = frame.indexOf(`{"id":"x`)
        frame.fill(" ", at).write(value, at)
        assert.throws(() => read(frame), Error, undefined, value)
      }
    })

    it("may begin anywhere in a larger buffer", () => {
      const frame = written([called({ tenant: "t" }), ["cancel", 7]])
      const larger = new Uint8Array(frame.length + 20).fill(255)
      larger.set(frame, 13)
      assert.deepStrictEqual(read(larger.subarray(13, 13 + frame.length)), read(frame))
    })

    it("may hold nothing", () => {
      assert.deepStrictEqual(read(new Uint8Array(0)), [])
    })
  })
})
