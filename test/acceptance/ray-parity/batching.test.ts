/**
 * What Ray's tests of batching check, as far as no other test here does: see `docs/ray-serve.md`.
 *
 * Seen red for each of these mutations. Engine: one batch at once, or one too many. BatchQueue: all keys are one; every item is a batch.
 * Balancer: always the first replica.
 */
import { assert, describe, it } from "@effect/vitest"
import { Batching, Deployment } from "effect-serve"
import { Effect, Fiber, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { batcher, range, send } from "../../batching/batches.ts"
import { call, isDone, settle } from "../../deployments.ts"

const payload = { text: Schema.String, most: Schema.Int, isLoud: Schema.Boolean }

class Reader extends Deployment.Service<Reader>()("Reader", [
  Rpc.make("read", { payload, success: Schema.Struct({ replica: Schema.String, words: Schema.Array(Schema.Unknown) }) })
]) {}

const readerLayer = (options: Deployment.DeploymentOptions) =>
  Reader.toLayer(
    Effect.gen(function* () {
      const { id } = yield* Deployment.thisReplica
      const read = yield* Batching.make({
        maxBatchSize: 3,
        batchWaitTimeout: "1 second",
        run: (items: ReadonlyArray<{ readonly text: string; readonly most: number; readonly isLoud: boolean }>) =>
          Effect.succeed(
            items.map((item) => ({ replica: id, words: [items.length, item.text, item.most, item.isLoud] }))
          )
      })
      return Reader.of({ read })
    }),
    { gracefulShutdownTimeout: 0, ...options }
  )

describe("batching", () => {
  it.effect("items have several fields, and arrive whole, in whatever order they were written", () =>
    Effect.gen(function* () {
      const { read } = yield* Reader
      const callers = yield* Effect.forEach(
        [
          read({ text: "a", most: 1, isLoud: true }),
          read({ most: 2, isLoud: false, text: "b" }),
          read({ isLoud: true, text: "c", most: 3 })
        ],
        call
      )
      yield* settle
      assert.deepStrictEqual(
        (yield* Effect.forEach(callers, Fiber.join)).map(({ words }) => words),
        [
          [3, "a", 1, true],
          [3, "b", 2, false],
          [3, "c", 3, true]
        ]
      )
    }).pipe(Effect.provide(readerLayer({})))
  )

  it.effect("two replicas batch apart, each with its own state", () =>
    Effect.gen(function* () {
      const { read } = yield* Reader
      // Three would fill a batch, if it were one.
      const callers = yield* Effect.forEach(range(4), (most) => call(read({ text: "", most, isLoud: false })))
      yield* settle
      assert.isFalse(callers.some(isDone))
      assert.deepStrictEqual(
        (yield* Reader.state).replicas.map(({ batchers }) => batchers[0]?.queued),
        [2, 2]
      )
      yield* TestClock.adjust("1 second")
      const all = yield* Effect.forEach(callers, Fiber.join)
      assert.deepStrictEqual(
        all.map(({ words }) => words[0]),
        [2, 2, 2, 2]
      )
      assert.deepStrictEqual(all.map(({ replica }) => replica).toSorted(), [
        "Reader#0",
        "Reader#0",
        "Reader#1",
        "Reader#1"
      ])
    }).pipe(Effect.provide(readerLayer({ replicas: 2 })))
  )

  it.effect("a thousand models that were used once leave nothing that waits or runs", () =>
    Effect.gen(function* () {
      const { batched, notes } = yield* batcher({
        key: (n) => n,
        maxConcurrentBatches: 7,
        maxQueuedItems: Infinity,
        run: (items) => Effect.as(Effect.sleep("1 millis"), items)
      })
      const callers = yield* send(batched, ...range(1000))
      // Every third model is given up before it had its turn.
      yield* Fiber.interruptAll(callers.filter((_, n) => n % 3 === 2))
      yield* TestClock.adjust("1 second")
      yield* settle
      assert.isTrue(callers.every(isDone))
      assert.deepInclude(yield* batched.state, {
        queued: 0,
        running: 0,
        items: 667,
        dropped: { left: 333, expired: 0 }
      })
      assert.deepStrictEqual(
        notes.batches,
        range(1000)
          .filter((n) => n % 3 !== 2)
          .map((n) => [n])
      )
      assert.strictEqual(notes.most, 7)
    })
  )
})
