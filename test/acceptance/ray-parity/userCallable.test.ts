/**
 * What Ray's tests of its wrapper around user code check, as far as no other test here does: see `docs/ray-serve.md`.
 *
 * Seen red for each of these mutations. Router: closing waits for nobody. ModuleReplica: user code never has a thread; blocking methods
 * never, or always, have some.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Deployment } from "effect-serve"
import { Effect, Fiber, Layer, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { threadId } from "node:worker_threads"
import { range } from "../../batching/batches.ts"
import { call, isDone, open, settle } from "../../deployments.ts"
import { Logs } from "../../modules/app.ts"
import { Where } from "../../modules/Where.ts"

class Model extends Deployment.Service<Model>()("Model", [Rpc.make("answer", { success: Schema.Int })]) {}

const where = (options: Deployment.DeploymentModuleOptions) =>
  Where.toLayerModule<typeof import("../../modules/where.module.ts")>(
    new URL("../../modules/where.module.ts", import.meta.url),
    options
  ).pipe(Layer.provideMerge(Logs.layer))

/** Where code of each kind runs. */
const threads = Effect.gen(function* () {
  const here = yield* Where
  return {
    builder: yield* here.builder(),
    handler: yield* here.handler(),
    elements: (yield* Stream.runCollect(here.elements()))[0],
    batch: yield* here.batch(),
    blocking: (yield* here.block({ millis: 1 })).thread
  }
})

// Other programs may take the cores for longer than what is told apart here.
describe("user code", { retry: 3 }, () => {
  it.effect("there is no handle before a builder that waits is done", () =>
    Effect.gen(function* () {
      let built = 0
      const build = Effect.as(
        Effect.delay(
          Effect.sync(() => built++),
          "1 second"
        ),
        Model.of({ answer: () => Effect.succeed(42) })
      )
      const opening = yield* call(open(Model, Model.toLayer(build)))
      yield* TestClock.adjust("999 millis")
      assert.isFalse(isDone(opening))
      yield* TestClock.adjust("1 millis")
      const { close, handle } = yield* Fiber.join(opening)
      assert.deepStrictEqual([yield* handle.answer(), yield* handle.answer()], [42, 42])
      assert.strictEqual(built, 1)
      yield* close
    })
  )

  it.effect("what a builder acquired is released once, after a hundred calls", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const build = Effect.gen(function* () {
        yield* Effect.acquireRelease(Effect.void, () => Effect.sync(() => log.push("released")))
        const work = Effect.delay(
          Effect.sync(() => log.push("answered")),
          "1 second"
        )
        return Model.of({ answer: () => work })
      })
      const { close, handle } = yield* open(Model, Model.toLayer(build, { maxOngoingRequests: 50 }))
      yield* Effect.forEach(range(100), () => call(handle.answer()))
      const closing = yield* call(close)
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(closing)
      yield* settle
      assert.deepStrictEqual(log, [...range(100).map(() => "answered"), "released"])
    })
  )

  it.effect("fibers that a builder starts run on, until the replica ends", () =>
    Effect.gen(function* () {
      let turns = 0
      const build = Effect.gen(function* () {
        const turn = Effect.andThen(
          Effect.sleep("1 second"),
          Effect.sync(() => ++turns)
        )
        yield* Effect.forkScoped(Effect.forever(turn))
        return Model.of({ answer: () => Effect.sync(() => turns) })
      })
      const { close, handle } = yield* open(Model, Model.toLayer(build))
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(yield* handle.answer(), 3)
      yield* close
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(turns, 3)
    })
  )

  const real = { excludeTestServices: true } as const
  layer(where({ poolSize: 1 }), real)("of a module", (it) => {
    it.effect("builder, handlers, streams and batches of a replica run on one thread, which is not the app's", () =>
      Effect.gen(function* () {
        const { batch, builder, elements, handler } = yield* threads
        assert.notStrictEqual(builder, threadId)
        assert.deepStrictEqual([handler, elements, batch], [builder, builder, builder])
      })
    )

    it.effect("fibers of the builder go on there while a method blocks its own thread", () =>
      Effect.gen(function* () {
        const { block, turns } = yield* Where
        const blocking = yield* call(block({ millis: 100 }))
        const before = yield* turns()
        yield* Effect.sleep("50 millis")
        assert.isAbove(yield* turns(), before)
        assert.isFalse(isDone(blocking))
        yield* Fiber.join(blocking)
      })
    )

    it.effect("blocking methods run on another thread, and on that of the handlers when the pool is off", () =>
      Effect.gen(function* () {
        const withPool = yield* threads
        assert.notInclude([threadId, withPool.handler], withPool.blocking)
        const without = yield* Effect.provide(threads, where({ runSyncInThreadpool: false }))
        assert.strictEqual(without.blocking, without.handler)
        assert.notStrictEqual(without.blocking, threadId)
      })
    )
  })
})
