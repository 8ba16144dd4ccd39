/** Calls the deployment as it is served, with its queue and its deadlines, while the test moves the clock. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import { PromptTooLong, Writer, WriterLive } from "../src/Writer.ts"

/** A request that takes one second. */
const request = { prompt: "to be or not", words: 10 }

describe("Writer", () => {
  describe("write", () => {
    it.effect("runs two requests at once, and the third when one of them has ended", () =>
      Effect.gen(function* () {
        const { write } = yield* Writer
        const fibers = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(write(request)))
        const ended = () => fibers.map((fiber) => fiber.pollUnsafe() !== undefined)

        yield* TestClock.adjust("900 millis")
        assert.deepStrictEqual(ended(), [false, false, false])
        const { queued, running } = yield* Writer.state
        assert.deepStrictEqual({ queued, running }, { queued: 1, running: 2 })

        yield* TestClock.adjust("100 millis")
        assert.deepStrictEqual(ended(), [true, true, false])

        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(fibers[2]!), "to be or not to be or not to be")
      }).pipe(Effect.provide(WriterLive))
    )

    it.effect("gives up a request that waits for longer than its timeout", () =>
      Effect.gen(function* () {
        const { write } = yield* Writer
        const running = yield* Effect.forEach([1, 2], () => Effect.forkChild(write(request)))
        const late = yield* write(request, { timeout: "500 millis" }).pipe(
          Effect.catchReason("ServeError", "DeadlineExceeded", ({ stage }) => Effect.succeed(stage)),
          Effect.forkChild
        )
        yield* TestClock.adjust("500 millis")
        assert.strictEqual(yield* Fiber.join(late), "queue")

        yield* TestClock.adjust("500 millis")
        yield* Effect.forEach(running, Fiber.join)
      }).pipe(Effect.provide(WriterLive))
    )

    it.effect("fails when the prompt is too long", () =>
      Effect.gen(function* () {
        const { write } = yield* Writer
        const error = yield* Effect.flip(write({ prompt: "word ".repeat(101), words: 1 }))
        assert.deepStrictEqual(error, new PromptTooLong({ words: 101, most: 100 }))
      }).pipe(Effect.provide(WriterLive))
    )
  })

  describe("stream", () => {
    it.effect("gives words as they are written", () =>
      Effect.gen(function* () {
        const { stream } = yield* Writer
        const words: Array<string> = []
        const reader = yield* stream({ prompt: "to be", words: 3 }).pipe(
          Stream.runForEach((word) => Effect.sync(() => words.push(word))),
          Effect.forkChild
        )
        yield* TestClock.adjust("200 millis")
        assert.deepStrictEqual(words, ["to", "be"])

        yield* TestClock.adjust("100 millis")
        yield* Fiber.join(reader)
        assert.deepStrictEqual(words, ["to", "be", "to"])
      }).pipe(Effect.provide(WriterLive))
    )
  })
})
