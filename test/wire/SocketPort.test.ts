/**
 * On a socket that takes frames when it is told to. Pings go by the timers of the process, which the tests move.
 *
 * Seen red for each of these mutations: frames are not cut, or a byte too early, or an empty one comes before a large message; all is sent at
 * once, or waits although it fills a frame, or for ever; of a turn that is refused something stays, or its cuts; messages may be larger, or only
 * smaller; none has begun, or all that were written, or some when none was sent; ids don't run over; what is written doesn't fill; whoever waits
 * for room isn't told, or while there is none, or not at the end; it isn't paused for calls, or when it is full, or more than once, or a side that
 * serves nothing is, or it isn't resumed; a pong is answered; pings are told; what is malformed is ignored; text is read; frames may be larger;
 * it closes twice. Of pings: the system's taking counts at once, or never; what isn't read because of calls counts, or when it is full doesn't;
 * pieces of a message don't count; it takes a look more, or less; it is heard for ever; nobody is asked; what waits isn't sent before the end.
 */
import { assert, beforeEach, describe, it, vi } from "@effect/vitest"
import { ServeError } from "effect-serve"
import { Duration, Effect } from "effect"
import { FRAME, HEAD, read } from "../../src/wire/Frame.ts"
import { Misfit } from "../../src/wire/MethodCodec.ts"
import type { Message } from "../../src/wire/Port.ts"
import { frameSize, type Socket, SocketPort } from "../../src/wire/SocketPort.ts"
import { empty } from "../../src/core/RequestContext.ts"

type Listener = (data: never, isBinary: boolean) => void

/** A socket that takes frames when it is told to. */
class Script implements Socket {
  /** What was given to be sent. */
  readonly frames: Array<Uint8Array> = []
  readonly log: Array<string> = []
  /** Whether frames are taken as they come. */
  isFree = false
  /** Bytes that have come. */
  bytes = 0
  private readonly waiting: Array<(error?: Error | null) => void> = []
  private readonly listeners = new Map<string, Array<Listener>>()

  send(frame: Uint8Array, sent: (error?: Error | null) => void): void {
    // What is given must not change any more.
    this.frames.push(frame)
    this.waiting.push(sent)
    if (this.isFree) this.take()
  }
  /** Takes the oldest frames. */
  take(count = Infinity, error: Error | null = null): void {
    for (const sent of this.waiting.splice(0, count)) sent(error)
  }
  received(): number {
    return this.bytes
  }
  pause(): void {
    this.log.push("pause")
  }
  resume(): void {
    this.log.push("resume")
  }
  close(code: number): void {
    this.log.push(`close ${code}`)
  }
  terminate(): void {
    this.log.push("terminate")
    this.emit("close", 1006)
  }
  on(event: string, listener: Listener): void {
    this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener])
  }
  emit(event: string, data: unknown, isBinary = true): void {
    for (const listener of this.listeners.get(event) ?? []) listener(data as never, isBinary)
  }
  /** What each frame holds. */
  get messages(): ReadonlyArray<ReadonlyArray<Message>> {
    return this.frames.map(read)
  }
}

const written = (...messages: ReadonlyArray<Message>): Uint8Array => {
  const { frames, port } = open()
  port.post(messages)
  return frames[0]!
}

const open = (carried = Infinity, maxSize = 10_000_000) => {
  const socket = new Script()
  const port = new SocketPort(socket, { carried, largest: 10_000_000 })
  port.maxSize = maxSize
  const received: Array<ReadonlyArray<Message>> = []
  let closed = 0
  port.listen(
    (messages) => received.push(messages),
    () => closed++
  )
  const { frames, log } = socket
  return { socket, port, received, frames, log, closed: () => closed }
}

const call = (id: number, size = 0): Message => [
  "call",
  id,
  "m",
  new Uint8Array(size).fill(id),
  Object.assign({ span: undefined }, empty)
]
const elements = (id: number, size: number): Message => ["elements", id, new Uint8Array(size).fill(id)]
const idsOf = (messages: ReadonlyArray<Message>) => messages.map((message) => message[1])

const MOST_UNSENT = 1024 * 1024

/** The error with which something is refused that is too large. */
const refusal = (post: () => void): ServeError.BadUpload => {
  try {
    post()
  } catch (error) {
    assert.instanceOf(error, ServeError.ServeError)
    assert.instanceOf(error.reason, ServeError.BadUpload)
    return error.reason
  }
  throw new Error("It was not refused")
}

/** Lets so many milliseconds pass on the timers of the process. */
const pass = (millis: number) =>
  Effect.promise(async () => {
    for (let passed = 0; passed < millis; passed += 50) await vi.advanceTimersByTimeAsync(50)
  })

/** A connection that is kept alive, and may be silent for 400 milliseconds. */
const alive = (carried = Infinity) => {
  const opened = open(carried)
  opened.socket.isFree = true
  const fiber = Effect.runFork(opened.port.keepAlive(Duration.millis(400)))
  const end = Effect.sync(() => fiber.interruptUnsafe())
  return { ...opened, end, isDead: () => opened.log.includes("terminate") }
}

describe("SocketPort", () => {
  describe("post", () => {
    it("sends at once when nothing waits, and all of a turn together", () => {
      const { frames, port, socket } = open()
      port.post([call(1), ["cancel", 2]])
      assert.deepStrictEqual(socket.messages.map(idsOf), [[1, 2]])
      socket.take()
      port.post([["cancel", 3]])
      assert.lengthOf(frames, 2)
    })

    it("keeps what comes while the system takes no more, and sends it as one frame", () => {
      const { frames, port, socket } = open()
      port.post([call(1)])
      for (let id = 2; id <= 50; id++) port.post([call(id)])
      assert.lengthOf(frames, 1)
      socket.take()
      assert.deepStrictEqual(socket.messages.map(idsOf), [[1], Array.from({ length: 49 }, (_, i) => i + 2)])
      socket.take()
      assert.lengthOf(frames, 2)
    })

    it("sends before the system takes more when there is a frame's worth", () => {
      const { frames, port, socket } = open()
      port.post([call(1)])
      port.post([elements(2, FRAME - 100)])
      assert.lengthOf(frames, 1)
      port.post([elements(3, 200)])
      assert.deepStrictEqual(socket.messages.map(idsOf), [[1], [2], [3]])
    })

    it("begins another frame before one would be larger than 64 KiB", () => {
      const { frames, port, socket } = open()
      port.post(Array.from({ length: 40 }, (_, i) => elements(i, 10_000)))
      assert.deepStrictEqual(
        frames.map(({ length }) => Math.floor(length / 10_009)),
        [6, 6, 6, 6, 6, 6, 4]
      )
      assert.deepStrictEqual(
        socket.messages.flatMap(idsOf),
        Array.from({ length: 40 }, (_, i) => i)
      )
      socket.take()
      const before = frames.length
      // Exactly full, and by one byte too much.
      port.post([elements(1, FRAME - 9 - 9), elements(2, 0)])
      socket.take()
      port.post([elements(3, FRAME - 9 - 8), elements(4, 0)])
      assert.deepStrictEqual(socket.messages.slice(before).map(idsOf), [[1, 2], [3], [4]])
    })

    it("gives a message that is larger than a frame one to itself", () => {
      const { port, socket } = open()
      port.post([elements(1, 10), elements(2, 3 * FRAME), elements(3, 10), elements(4, 10), elements(5, 2 * FRAME)])
      assert.deepStrictEqual(socket.messages.map(idsOf), [[1], [2], [3, 4], [5]])
    })

    it("keeps what it gave to the socket as it was", () => {
      const { frames, port, socket } = open()
      for (let id = 1; id < 60; id++) {
        port.post([elements(id, 1000 * id), elements(id, 7)])
        if (id % 3 === 0) socket.take(2)
      }
      socket.isFree = true
      socket.take()
      const all = frames.flatMap((frame) => read(frame))
      assert.lengthOf(all, 118)
      for (const [, id, bytes] of all) assert.isTrue((bytes as Uint8Array).every((byte) => byte === id))
    })

    it("refuses a message that the other side would not take, with both sizes, and none of its turn is sent", () => {
      const { frames, port, socket } = open(Infinity, 100_000)
      const size = 100_000 + HEAD
      const { description, why } = refusal(() => port.post([call(1), elements(2, size), call(3)]))
      assert.strictEqual(why, "tooLarge")
      assert.include(description, String(size + 9))
      assert.include(description, "100000")
      assert.lengthOf(frames, 0)
      assert.isFalse(port.hasBegun(1))
      port.post([call(4), elements(5, size - 9)])
      assert.deepStrictEqual(socket.messages.map(idsOf), [[4], [5]])
    })

    it("takes back a turn that is refused from among what waits, wherever its frames would have ended", () => {
      for (const size of [10, 30_000, FRAME - 9, FRAME, 2 * FRAME]) {
        const { port, socket } = open(Infinity, 3 * FRAME)
        port.post([call(1)])
        port.post([elements(2, 30_000)])
        refusal(() => port.post([elements(3, size), elements(4, size), elements(5, 3 * FRAME + HEAD)]))
        port.post([elements(6, 20), elements(7, 40_000), elements(8, 20)])
        socket.isFree = true
        socket.take()
        assert.deepStrictEqual(socket.messages.flatMap(idsOf), [1, 2, 6, 7, 8], String(size))
        assert.isTrue(socket.frames.every(({ length }) => length <= FRAME))
      }
    })

    it("refuses a text that is too long, and nothing of it is left", () => {
      const { frames, port, socket } = open()
      assert.throws(() => port.post([call(1), ["note", "x".repeat(9000), null]]), Misfit)
      assert.lengthOf(frames, 0)
      port.post([["note", "x", 1]])
      assert.deepStrictEqual(socket.messages, [[["note", "x", 1]]])
    })

    it("sends nothing when it has closed", () => {
      const { frames, port, socket } = open()
      socket.emit("close", 1000)
      port.post([call(1)])
      port.close(1000, "")
      assert.lengthOf(frames, 0)
    })
  })

  it("allows the other side's frames to be as large as its messages may become", () => {
    assert.strictEqual(frameSize(1000), FRAME + HEAD)
    assert.strictEqual(frameSize(FRAME + 1), FRAME + 1 + HEAD)
    const { frames, port } = open(Infinity, 100_000)
    port.post([elements(1, 100_000 + HEAD - 9)])
    assert.isAtMost(frames[0]!.length, frameSize(100_000))
  })

  describe("isFull", () => {
    it("is so when there is 1 MiB that the system has not taken, and whoever waits hears when it has", () => {
      const { port, socket } = open()
      const heard: Array<number> = []
      assert.isFalse(port.isFull())
      for (let i = 0; i < 20; i++) port.post([elements(i, 50_000)])
      assert.isFalse(port.isFull())
      port.post([elements(20, 50_000)])
      assert.isTrue(port.isFull())
      port.whenRoom(() => heard.push(1))
      port.whenRoom(() => heard.push(2))
      assert.deepStrictEqual(heard, [])
      socket.take(1)
      assert.isFalse(port.isFull())
      assert.deepStrictEqual(heard, [1, 2])
      socket.take()
      assert.deepStrictEqual(heard, [1, 2])
    })

    it("is so until less than that is left", () => {
      const { port, socket } = open()
      let heard = 0
      for (let i = 0; i < 40; i++) port.post([elements(i, 50_000)])
      port.whenRoom(() => heard++)
      socket.take(10)
      assert.isTrue(port.isFull())
      assert.strictEqual(heard, 0)
      socket.take(10)
      assert.strictEqual(heard, 1)
    })

    it("counts what has not been given to the system either", () => {
      const { port, socket } = open()
      port.post([elements(1, MOST_UNSENT - 9 - 9)])
      assert.isFalse(port.isFull())
      port.post([elements(2, 0)])
      assert.isTrue(port.isFull())
      assert.lengthOf(socket.frames, 1)
    })

    it("lets nobody wait who waits when it closes", () => {
      const { port, socket } = open()
      let heard = 0
      port.post([elements(1, MOST_UNSENT)])
      port.whenRoom(() => heard++)
      socket.emit("close", 1006)
      assert.strictEqual(heard, 1)
    })
  })

  describe("carry", () => {
    it("stops reading while the calls of the other side have more than they may, and goes on when they don't", () => {
      const { log, port } = open(1000)
      port.carry(1000)
      assert.deepStrictEqual(log, [])
      port.carry(1001)
      port.carry(5000)
      assert.deepStrictEqual(log, ["pause"])
      port.carry(1000)
      port.carry(0)
      assert.deepStrictEqual(log, ["pause", "resume"])
    })

    it("goes on reading when the system has taken enough", () => {
      const { log, port, socket } = open(1000)
      port.post([elements(1, MOST_UNSENT)])
      socket.take()
      assert.deepStrictEqual(log, ["pause", "resume"])
    })

    it("stops reading while it is full, if the other side calls", () => {
      const { log, port, socket } = open(1000)
      port.post([elements(1, MOST_UNSENT)])
      assert.deepStrictEqual(log, ["pause"])
      port.carry(2000)
      socket.take()
      assert.deepStrictEqual(log, ["pause"])
      port.carry(10)
      assert.deepStrictEqual(log, ["pause", "resume"])
      const client = open()
      client.port.post([elements(1, MOST_UNSENT)])
      client.port.carry(1e9)
      assert.deepStrictEqual(client.log, [])
    })
  })

  describe("hasBegun", () => {
    it("is so of the calls that the socket was given, and of no others", () => {
      const { port, socket } = open()
      assert.isFalse(port.hasBegun(1))
      port.post([call(1)])
      port.post([call(2), ["cancel", 9]])
      assert.deepStrictEqual(
        [1, 2, 3].map((id) => port.hasBegun(id)),
        [true, false, false]
      )
      socket.take()
      assert.deepStrictEqual(
        [1, 2, 3].map((id) => port.hasBegun(id)),
        [true, true, false]
      )
    })

    it("is so of none when none was sent", () => {
      const { port } = open()
      port.post([["note", "hello", null]])
      for (const id of [0, 1, -1, 2 ** 31 - 1]) assert.isFalse(id > 0 && port.hasBegun(id))
    })

    it("goes on when the ids run over", () => {
      const { port } = open()
      const last = 2 ** 31 - 1
      const next = -(2 ** 31)
      port.post([call(last)])
      assert.deepStrictEqual([port.hasBegun(last), port.hasBegun(next)], [true, false])
      port.post([call(next)])
      port.close(1000, "")
      assert.deepStrictEqual([port.hasBegun(last), port.hasBegun(next), port.hasBegun(next + 1)], [true, true, false])
    })

    it("is not so of what waits when it closes", () => {
      const { port, socket } = open()
      port.post([call(1)])
      port.post([call(2)])
      socket.emit("close", 1006)
      socket.take(Infinity, new Error("closed"))
      assert.deepStrictEqual([port.hasBegun(1), port.hasBegun(2)], [true, false])
      assert.lengthOf(socket.frames, 1)
    })
  })

  describe("listen", () => {
    it("gives what arrives, a frame at a time", () => {
      const { received, socket } = open()
      socket.emit("message", written(["cancel", 1], ["credit", 2, 3, 4]))
      socket.emit("message", written(["note", "hello", { a: 1 }]))
      assert.deepStrictEqual(received, [
        [
          ["cancel", 1],
          ["credit", 2, 3, 4]
        ],
        [["note", "hello", { a: 1 }]]
      ])
    })

    it("answers a ping, and tells nobody of it or of the answer", () => {
      const { received, socket } = open()
      socket.isFree = true
      socket.emit("message", written(["note", "ping", null], ["cancel", 1]))
      socket.emit("message", written(["note", "pong", null]))
      assert.deepStrictEqual(socket.messages, [[["note", "pong", null]]])
      assert.deepStrictEqual(received.flat(), [["cancel", 1]])
    })

    it("closes when what arrives is no frame, and hears nothing more", () => {
      const frame = written(["cancel", 1])
      const wrong: Record<string, readonly [unknown, boolean]> = {
        "cut off": [frame.subarray(0, 3), true],
        unknown: [Uint8Array.from([99, 0, 0, 0, 0]), true],
        text: [frame, false]
      }
      for (const [name, [data, isBinary]] of Object.entries(wrong)) {
        const { closed, log, port, received, socket } = open()
        socket.emit("message", data, isBinary)
        assert.deepStrictEqual(log, ["close 1002", "terminate"], name)
        assert.strictEqual(closed(), 1)
        assert.deepStrictEqual(received, [])
        assert.include(port.why, "frame")
      }
    })

    it("closes when a frame is larger than what it was told to take", () => {
      const socket = new Script()
      const port = new SocketPort(socket, { carried: Infinity, largest: 100_000 })
      const received: Array<unknown> = []
      port.listen(
        (messages) => received.push(messages),
        () => {}
      )
      socket.emit("message", written(elements(1, frameSize(100_000) - 9)))
      assert.lengthOf(received, 1)
      socket.emit("message", written(elements(1, frameSize(100_000) - 8)))
      assert.lengthOf(received, 1)
      assert.deepStrictEqual(socket.log, ["close 1009", "terminate"])
      assert.include(port.why, "too large")
    })

    it("closes when who listens can't make sense of it", () => {
      const socket = new Script()
      const port = new SocketPort(socket, { carried: Infinity, largest: 100_000 })
      port.listen(
        () => {
          throw new Error("There is a call 1 already")
        },
        () => {}
      )
      socket.emit("message", written(["cancel", 1]))
      assert.deepStrictEqual(socket.log, ["close 1002", "terminate"])
      assert.include(port.why, "There is a call 1 already")
    })

    it("says once that it has closed, and why", () => {
      const { closed, port, socket } = open()
      socket.emit("error", new Error("read ECONNRESET"))
      assert.strictEqual(closed(), 0)
      socket.emit("close", 1006)
      socket.emit("close", 1006)
      assert.strictEqual(closed(), 1)
      assert.strictEqual(port.why, "read ECONNRESET")
    })
  })

  it("sends all that waits before it closes in good order", () => {
    const { frames, log, port } = open()
    port.post([call(1)])
    port.post([call(2)])
    port.close(1001, "the server stops")
    assert.lengthOf(frames, 2)
    assert.deepStrictEqual(log, ["close 1001"])
  })

  it("says when the system has all that was to be sent, or the connection has closed", () => {
    for (const end of ["take", "close"]) {
      const { port, socket } = open()
      port.post([call(1)])
      port.post([call(2)])
      const fiber = Effect.runFork(port.sent)
      assert.isUndefined(fiber.pollUnsafe())
      assert.lengthOf(socket.frames, 2)
      socket.take(1)
      assert.isUndefined(fiber.pollUnsafe())
      if (end === "take") socket.take(1)
      else socket.emit("close", 1006)
      assert.isDefined(fiber.pollUnsafe())
    }
    assert.isDefined(Effect.runFork(open().port.sent).pollUnsafe())
  })

  describe("keepAlive", () => {
    beforeEach(() => {
      // It takes real time, whatever the clock of the program: here time is what the timers of the process say.
      vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] })
      return () => vi.useRealTimers()
    })

    const pong = written(["note", "pong", null])

    it.live("asks four times in that time whether the other side is there", () =>
      Effect.gen(function* () {
        const { end, socket } = alive()
        for (let i = 0; i < 8; i++) {
          socket.emit("message", pong)
          yield* pass(100)
        }
        yield* end
        assert.deepStrictEqual(
          socket.messages,
          Array.from({ length: 8 }, () => [["note", "ping", null]])
        )
      })
    )

    it.live("ends a connection on which nothing is heard for that time, and says so", () =>
      Effect.gen(function* () {
        const { closed, end, isDead, log, port, socket } = alive()
        yield* pass(100)
        socket.emit("message", pong)
        yield* pass(400)
        assert.isFalse(isDead())
        yield* pass(100)
        yield* end
        assert.deepStrictEqual(log, ["close 1001", "terminate"])
        assert.strictEqual(closed(), 1)
        assert.include(port.why, "400ms")
      })
    )

    it.live("is content with anything that is heard", () =>
      Effect.gen(function* () {
        const { end, isDead, socket } = alive()
        for (let i = 0; i < 6; i++) {
          yield* pass(300)
          socket.emit("message", written(["cancel", 1]))
        }
        yield* end
        assert.isFalse(isDead())
      })
    )

    it.live("is content with pieces of a message that is long on its way", () =>
      Effect.gen(function* () {
        const { end, isDead, socket } = alive()
        for (let i = 0; i < 6; i++) {
          yield* pass(300)
          socket.bytes += 10
        }
        assert.isFalse(isDead())
        yield* pass(600)
        yield* end
        assert.isTrue(isDead())
      })
    )

    it.live("is patient while the system takes what had to wait", () =>
      Effect.gen(function* () {
        const { end, isDead, port, socket } = alive()
        socket.isFree = false
        for (let id = 0; id < 12; id++) port.post([elements(id, 2 * FRAME)])
        for (let i = 0; i < 6; i++) {
          yield* pass(250)
          socket.take(1)
        }
        assert.isFalse(isDead())
        yield* pass(600)
        yield* end
        assert.isTrue(isDead())
      })
    )

    it.live("doesn't miss what it doesn't read because of calls", () =>
      Effect.gen(function* () {
        const { end, isDead, port } = alive(1000)
        port.carry(5000)
        yield* pass(2000)
        assert.isFalse(isDead())
        port.carry(0)
        yield* pass(600)
        yield* end
        assert.isTrue(isDead())
      })
    )

    it.live("ends a connection that takes nothing, although it isn't read for that", () =>
      Effect.gen(function* () {
        const { end, isDead, log, port, socket } = alive(1000)
        socket.isFree = false
        port.post([elements(1, MOST_UNSENT)])
        assert.deepStrictEqual(log, ["pause"])
        yield* pass(600)
        yield* end
        assert.isTrue(isDead())
      })
    )
  })
})
