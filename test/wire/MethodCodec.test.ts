/**
 * What a method takes and gives, sent through the structured clone that a message goes through, is the same on the other side.
 *
 * Seen red for each of these mutations: bytes are sent as text, all of them or only those that something else stands for; a ServeError
 * is sent as the method's own error; a failure hides a defect; a handler that interrupts itself looks like an interrupted caller;
 * defects lose their stack.
 */
import { assert, describe, it } from "@effect/vitest"
import { ServeError } from "effect-serve"
import { Cause, Duration, Equal, Exit, Option, Schema, SchemaTransformation } from "effect"
import { Rpc } from "effect/rpc"
import { inspect } from "node:util"
import * as MethodCodec from "../../src/wire/MethodCodec.ts"
import { Broken, Point } from "../modules/Probe.ts"

class Wrong extends Schema.TaggedError<Wrong>("test/wire/Wrong")("Wrong", {
  at: Schema.Date,
  near: Schema.optionalKey(Point)
}) {}

class Box extends Schema.Class<Box>("test/wire/Box")({
  corner: Point,
  name: Schema.String,
  inside: Schema.Array(Point)
}) {}

class Image extends Schema.Class<Image>("test/wire/Image")({ pixels: Schema.Uint8Array }) {}

/** Text that is written as bytes. */
const text = Schema.Uint8Array.pipe(
  Schema.decodeTo(
    Schema.String,
    SchemaTransformation.transform({
      decode: (bytes: Uint8Array) => new TextDecoder().decode(bytes),
      encode: (text): Uint8Array => new TextEncoder().encode(text)
    })
  )
)

interface Tree {
  readonly value: number
  readonly children: ReadonlyArray<Tree>
}
const Tree = Schema.Struct({
  value: Schema.Int,
  children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
})

const schemas = {
  struct: Schema.Struct({ a: Schema.String, b: Schema.Int, c: Schema.Boolean, d: Schema.Null }),
  "any number": Schema.Number,
  class: Box,
  union: Schema.Union([Schema.String, Schema.Int, Point, Schema.Struct({ _tag: Schema.Literal("A"), a: Schema.Date })]),
  optional: Schema.Struct({ a: Schema.optionalKey(Schema.Int), b: Schema.optional(Schema.String) }),
  undefined: Schema.UndefinedOr(Schema.Int),
  void: Schema.Void,
  date: Schema.Date,
  bigint: Schema.BigInt,
  duration: Schema.Duration,
  option: Schema.Option(Point),
  map: Schema.ReadonlyMap(Schema.String, Point),
  set: Schema.ReadonlySet(Schema.Int),
  tuple: Schema.Tuple([Schema.String, Point]),
  record: Schema.Record(Schema.String, Schema.Int),
  recursive: Tree,
  bytes: Schema.Uint8Array,
  "bytes in a struct": Schema.Struct({ a: Schema.Struct({ b: Schema.Array(Schema.Uint8Array) }), at: Schema.Date }),
  "bytes in a map": Schema.ReadonlyMap(Schema.Int, Schema.Uint8Array),
  "bytes in an option": Schema.Option(Schema.Uint8Array),
  "bytes or a point": Schema.Union([Point, Schema.Uint8Array]),
  "what is written in another way": Schema.Struct({ n: Schema.BigIntFromString, at: Schema.DateFromString })
}

/** As if it had been sent to another thread and back. */
const cross = <A>(sent: A): A => structuredClone(sent)

const forms = { "to a thread": MethodCodec.cloned, "to another process": MethodCodec.binary }

const codecOf = (success: Schema.Top, error: Schema.Top = Schema.Never, form = MethodCodec.cloned) =>
  MethodCodec.make(Rpc.make("method", { payload: success, success, error }), form)

const passOn = (codec: MethodCodec.MethodCodec, exit: Exit.Exit<unknown, unknown>) =>
  codec.decodeExit(cross(codec.encodeExit(exit)))

const squashed = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isFailure(exit) ? Cause.squash(exit.cause) : assert.fail("it succeeded")

const isDefect = (exit: Exit.Exit<unknown, unknown>) => Exit.isFailure(exit) && Cause.hasDies(exit.cause)

/** Every object in a value; of an array of bytes only itself. */
const objectsIn = (value: unknown): ReadonlyArray<object> => {
  if (typeof value !== "object" || value === null) return []
  return ArrayBuffer.isView(value) ? [value] : [value, ...Object.values(value).flatMap(objectsIn)]
}

/** Whether the texts in a value are Unicode: bytes have no place for half of a surrogate pair. */
const isText = (value: unknown) => !/\\u[dD][89a-fA-F]/.test(inspect(value, { depth: Infinity }))

/** What is wrong, in words, when something throws. */
const issue = (run: () => unknown) => {
  try {
    run()
  } catch (mismatch) {
    return (mismatch as Error).message
  }
  return assert.fail("it did not throw")
}

describe("MethodCodec", () => {
  describe.each(Object.entries(forms))("carries %s", (_, form) => {
    for (const [name, schema] of Object.entries(schemas)) {
      const codec = codecOf(schema, Schema.Never, form)
      it.prop(name, [schema as Schema.Schema<unknown>], ([value]) => {
        if (form === MethodCodec.binary && !isText(value)) return
        const payload = codec.payload.decode(cross(codec.payload.encode(value)))
        const answer = passOn(codec, Exit.succeed(value))
        // What is the same may be written in two ways, as a duration in milliseconds or nanoseconds.
        if (Equal.equals(payload, value) && Equal.equals(answer, Exit.succeed(value))) return
        assert.deepStrictEqual(payload, value)
        assert.deepStrictEqual(answer, Exit.succeed(value))
      })
    }

    it("classes as instances of them", () => {
      const codec = codecOf(Box, Schema.Never, form)
      const point = new Point({ x: 1, y: 2 })
      const box = codec.success.decode(
        cross(codec.success.encode(new Box({ corner: point, name: "b", inside: [point] })))
      )
      assert.instanceOf(box, Box)
      assert.instanceOf(box.corner, Point)
      assert.instanceOf(box.inside[0], Point)
    })

    it("numbers that JSON has not", () => {
      const codec = codecOf(Schema.Number, Schema.Never, form)
      for (const number of [Number.NaN, Infinity, -Infinity, -0]) {
        assert.isTrue(Object.is(codec.success.decode(cross(codec.success.encode(number))), number), `${number}`)
      }
    })

    it("the elements of a stream", () => {
      const codec = MethodCodec.make(Rpc.make("method", { success: Point, error: Broken, stream: true }), form)
      assert.isTrue(codec.stream)
      const points = [new Point({ x: 1, y: 2 }), new Point({ x: 3, y: 4 })]
      const elements = codec.elements.decode(cross(codec.elements.encode(points))) as ReadonlyArray<unknown>
      assert.deepStrictEqual(elements, points)
      assert.instanceOf(elements[1], Point)
      assert.deepStrictEqual(passOn(codec, Exit.void), Exit.void)
      assert.instanceOf(squashed(passOn(codec, Exit.fail(new Broken({ part: "a" })))), Broken)
    })
  })

  describe("sends bytes as bytes, not as text", () => {
    const bytes = new Uint8Array(60_000).fill(7)
    const alone = Schema.Uint8Array
    const values: Record<string, readonly [Schema.Top, unknown]> = {
      "by themselves": [alone, bytes],
      "with annotations": [alone.annotate({ title: "Pixels" }), bytes],
      "with checks": [alone.check(Schema.makeFilter(({ length }: Uint8Array) => length > 0)), bytes],
      "in arrays of optional fields": [Schema.Struct({ a: Schema.optionalKey(Schema.Array(alone)) }), { a: [bytes] }],
      "in unions": [Schema.Union([Schema.String, Schema.Struct({ a: alone })]), { a: bytes }],
      "in records": [Schema.Record(Schema.String, alone), { a: bytes }],
      "in tuples": [Schema.Tuple([Schema.Int, alone]), [1, bytes]],
      "in maps": [Schema.ReadonlyMap(Schema.String, alone), new Map([["a", bytes]])],
      "in options": [Schema.Option(alone), Option.some(bytes)],
      "in what is suspended": [Schema.suspend(() => alone), bytes],
      "in what they stand for": [text, "a".repeat(bytes.length)],
      "in classes": [Image, new Image({ pixels: bytes })]
    }
    for (const [where, [schema, value]] of Object.entries(values)) {
      it(where, () => {
        const codec = codecOf(schema)
        const parts = objectsIn(codec.payload.encode(value))
        assert.isTrue(parts.some((part) => part instanceof Uint8Array && part.length >= bytes.length))
        assert.deepStrictEqual(codec.payload.decode(cross(codec.payload.encode(value))), value)
      })
    }
  })

  describe("carries the end of a call", () => {
    const codec = codecOf(Schema.Int, Schema.Union([Broken, Wrong]))

    it.prop("with a declared error, in its class", [Schema.Union([Broken, Wrong])], ([error]) => {
      const received = squashed(passOn(codec, Exit.fail(error)))
      assert.isTrue(error instanceof Broken ? received instanceof Broken : received instanceof Wrong)
      assert.deepStrictEqual(received, error)
    })

    it.prop("with any ServeError", [ServeError.Reason], ([reason]) => {
      const error = new ServeError.ServeError({ reason })
      const received = passOn(codec, Exit.fail(error))
      assert.isFalse(isDefect(received))
      assert.instanceOf(squashed(received), ServeError.ServeError)
      assert.deepStrictEqual(squashed(received), error)
    })

    it("with a ServeError where the method declares no error", () => {
      const error = ServeError.because(
        () => new ServeError.Shed({ deployment: "Part", why: "load", retryAfter: Duration.millis(5) })
      )
      assert.deepStrictEqual(squashed(passOn(codecOf(Schema.Int), Exit.fail(error))), error)
    })

    it("with a defect, by name, message and stack", () => {
      const thrown = new RangeError("too far", { cause: new TypeError("inner") })
      const received = squashed(passOn(codec, Exit.die(thrown)))
      assert.instanceOf(received, Error)
      const { message, name, stack } = received
      assert.deepStrictEqual([name, message, stack], [thrown.name, thrown.message, thrown.stack])
      assert.isTrue(isDefect(passOn(codec, Exit.die(thrown))))
    })

    it("with nothing of a defect to another process, unless it is the fault of who calls", () => {
      const codec = codecOf(Schema.Int, Broken, MethodCodec.binary)
      const { message, name, stack } = squashed(passOn(codec, Exit.die(new RangeError("secret")))) as Error
      assert.notInclude(`${name} ${message} ${stack}`, "secret")
      assert.include(message, "whose log says why")
      const misfit = squashed(passOn(codec, Exit.die(new MethodCodec.Misfit("no such method")))) as Error
      assert.strictEqual(misfit.message, "no such method")
      // What a handler makes may hold anything.
      assert.include((squashed(passOn(codec, Exit.succeed("secret"))) as Error).message, "whose log says why")
    })

    it("with declared errors and ServeErrors to another process", () => {
      const codec = codecOf(Schema.Int, Broken, MethodCodec.binary)
      assert.deepStrictEqual(squashed(passOn(codec, Exit.fail(new Broken({ part: "a" })))), new Broken({ part: "a" }))
      const error = ServeError.because(() => new ServeError.ReplicaLost({ replica: "a#0", started: true }))
      assert.deepStrictEqual(squashed(passOn(codec, Exit.fail(error))), error)
    })

    it("with a defect that is no error", () => {
      for (const thrown of ["text", 1, null, undefined, { a: 1 }, () => 1, Symbol("s"), 5n, new Map([[1, 2]])]) {
        assert.isTrue(isDefect(passOn(codec, Exit.die(thrown))))
      }
      assert.strictEqual(squashed(passOn(codec, Exit.die("text"))), "text")
    })

    it("with a defect that can't be looked at", () => {
      const circular: Record<string, unknown> = {}
      circular["self"] = circular
      const hostile = new Error("hostile")
      Object.defineProperty(hostile, "message", {
        get: () => {
          throw new Error("no")
        }
      })
      for (const thrown of [circular, hostile, Object.create(null)]) {
        assert.isTrue(isDefect(passOn(codec, Exit.die(thrown))))
      }
    })

    it("with the defect when it both failed and died", () => {
      const both = Cause.combine(Cause.fail(new Broken({ part: "a" })), Cause.die(new TypeError("worse")))
      const received = passOn(codec, Exit.failCause(both))
      assert.isTrue(isDefect(received))
      assert.include((squashed(received) as Error).message, "worse")
    })

    it("with a defect when the handler interrupted itself", () => {
      const received = passOn(codec, Exit.interrupt(1))
      assert.isTrue(isDefect(received))
      assert.include((squashed(received) as Error).message, "interrupted itself")
    })

    it("as a defect that names the method and what is wrong, when a result or an error is not of its type", () => {
      const result = passOn(codec, Exit.succeed("1"))
      const error = passOn(codec, Exit.fail("undeclared"))
      assert.isTrue(isDefect(result) && isDefect(error))
      for (const word of ["result", `"method"`, "Expected"]) assert.include((squashed(result) as Error).message, word)
      for (const word of ["error", `"method"`, "Expected"]) assert.include((squashed(error) as Error).message, word)
    })
  })

  it("says what is wrong with a payload", () => {
    const codec = codecOf(Schema.Struct({ a: Schema.Struct({ b: Schema.Int }) }))
    for (const text of [
      issue(() => codec.payload.encode({ a: { b: "1" } })),
      issue(() => codec.payload.decode({ a: { b: "1" } }))
    ]) {
      assert.include(text, `["a"]["b"]`)
    }
  })

  it("takes nothing over from the value that was sent", () => {
    const codec = codecOf(Schema.Struct({ a: Schema.Int }))
    const extra = { a: 1, secret: () => 2 }
    assert.deepStrictEqual(cross(codec.success.encode(extra)), { a: 1 })
  })

  it("doesn't lose a none inside a some", () => {
    const schema = Schema.Option(Schema.Option(Schema.Int))
    const codec = codecOf(schema)
    const values = [Option.none(), Option.some(Option.none()), Option.some(Option.some(1))]
    for (const value of values) {
      assert.deepStrictEqual(codec.success.decode(cross(codec.success.encode(value))), value)
    }
  })
})
