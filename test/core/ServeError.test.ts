import { assert, describe, it } from "@effect/vitest"
import { ServeError } from "effect-serve"
import { Duration, Effect, Schema } from "effect"

const reasons: { readonly [Tag in ServeError.Reason["_tag"]]: Extract<ServeError.Reason, { readonly _tag: Tag }> } = {
  QueueFull: new ServeError.QueueFull({
    deployment: "Sentiment",
    ongoing: 10,
    maxOngoingRequests: 10,
    queued: 500,
    maxQueuedRequests: 500,
    retryAfter: Duration.seconds(2)
  }),
  Shed: new ServeError.Shed({ deployment: "Sentiment", why: "the queue stands", retryAfter: Duration.millis(250) }),
  DeadlineExceeded: new ServeError.DeadlineExceeded({ deployment: "Sentiment", stage: "handler" }),
  ReplicaLost: new ServeError.ReplicaLost({ replica: "Sentiment#1", started: true }),
  Unavailable: new ServeError.Unavailable({ deployment: "Sentiment", why: "draining" }),
  BatchContract: new ServeError.BatchContract({ expected: 3, received: 2 }),
  ItemTooLarge: new ServeError.ItemTooLarge({ size: 600, maxBatchSize: 512 }),
  WorkerCrashed: new ServeError.WorkerCrashed({ exitCode: 137 }),
  SlowConsumer: new ServeError.SlowConsumer({}),
  BadUpload: new ServeError.BadUpload({ why: "tooLarge", description: "it has more than 10 bytes" }),
  TransportError: new ServeError.TransportError({
    deployment: "Sentiment",
    started: true,
    description: "it was reset"
  })
}

const error = (reason: ServeError.Reason) => new ServeError.ServeError({ reason })
const json = Schema.toCodecJson(ServeError.ServeError)

describe("ServeError", () => {
  describe("crosses a wire", () => {
    for (const reason of Object.values(reasons)) {
      it.effect(`with ${reason._tag}`, () =>
        Effect.gen(function* () {
          const text = JSON.stringify(yield* Schema.encodeEffect(json)(error(reason)))
          const decoded = yield* Schema.decodeUnknownEffect(json)(JSON.parse(text))
          assert.instanceOf(decoded, ServeError.ServeError)
          assert.deepStrictEqual(decoded, error(reason))
          assert.strictEqual(decoded.message, reason.message)
        })
      )
    }

    it.effect("with the numbers of an unbounded queue", () =>
      Effect.gen(function* () {
        const full = error(
          new ServeError.QueueFull({
            deployment: "Sentiment",
            ongoing: 10,
            maxOngoingRequests: 10,
            queued: 0,
            maxQueuedRequests: Infinity,
            retryAfter: Duration.zero
          })
        )
        const text = JSON.stringify(yield* Schema.encodeEffect(json)(full))
        assert.deepStrictEqual(yield* Schema.decodeUnknownEffect(json)(JSON.parse(text)), full)
      })
    )

    it.effect("as plain JSON that a client in another language can read", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* Schema.encodeEffect(json)(error(reasons.QueueFull)), {
          _tag: "ServeError",
          reason: {
            _tag: "QueueFull",
            deployment: "Sentiment",
            ongoing: 10,
            maxOngoingRequests: 10,
            queued: 500,
            maxQueuedRequests: 500,
            retryAfter: 2000
          }
        })
      })
    )
  })

  describe("says what happened, and to whom", () => {
    const words: Record<ServeError.Reason["_tag"], ReadonlyArray<string>> = {
      QueueFull: ["Sentiment", "10 of 10", "500 of 500", "raise maxOngoingRequests or maxQueuedRequests"],
      Shed: ["Sentiment", "the queue stands", "Try again later"],
      DeadlineExceeded: ["Sentiment", "handler", "longer timeout"],
      ReplicaLost: ["Sentiment#1", "while it ran the request"],
      Unavailable: ["Sentiment", "draining"],
      BatchContract: ["3 items", "2 results", "one result per item"],
      ItemTooLarge: ["600", "512", "raise maxBatchSize"],
      WorkerCrashed: ["137"],
      SlowConsumer: ["too slow"],
      BadUpload: ["could not be read", "more than 10 bytes"],
      TransportError: ["Sentiment", "nobody knows how it ended", "it was reset"]
    }
    for (const reason of Object.values(reasons)) {
      it(`in ${reason._tag}`, () => {
        for (const word of words[reason._tag]) assert.include(error(reason).message, word)
      })
    }

    it("tells whether a lost request had started", () => {
      const { message } = error(new ServeError.ReplicaLost({ replica: "Sentiment#1", started: false }))
      assert.include(message, "before it ran the request")
    })
  })

  it.effect("is handled one reason at a time", () =>
    Effect.gen(function* () {
      const call = (reason: ServeError.Reason) =>
        Effect.fail(error(reason)).pipe(
          Effect.catchReason("ServeError", "QueueFull", ({ retryAfter }) => Effect.succeed(retryAfter))
        )
      assert.deepStrictEqual(yield* call(reasons.QueueFull), Duration.seconds(2))
      assert.deepStrictEqual(yield* Effect.flip(call(reasons.SlowConsumer)), error(reasons.SlowConsumer))
    })
  )
})
