/**
 * What Ray's tests of cancellation check, as far as no other test here does: see `docs/ray-serve.md`.
 *
 * Seen red for each of these mutations of Router: who leaves stays in the queue; everything that runs is interrupted with the first.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deployment } from "effect-serve"
import { Effect, Fiber } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { range } from "../../batching/batches.ts"
import { call, isDone, Job, jobLayer, open, Part, partLayer, settle } from "../../deployments.ts"
import { held } from "./family.ts"

describe("cancellation", () => {
  it.effect("code without Effect cancels with an AbortSignal, a call that runs and one that waits", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      const log: Array<string> = []
      const calls = [held("running", log), held("waiting", log)].map(({ work }) => {
        const controller = new AbortController()
        const outcome = Effect.runPromise(run(work), { signal: controller.signal }).then(
          () => "answered",
          () => "cancelled"
        )
        return { controller, outcome }
      })
      const [running, waiting] = calls
      yield* settle
      assert.deepInclude(yield* Job.state, { running: 1, queued: 1 })
      for (const { controller, outcome } of [waiting!, running!]) {
        controller.abort()
        assert.strictEqual(yield* Effect.promise(() => outcome), "cancelled")
      }
      assert.deepStrictEqual(log, ["start running", "interrupt running"])
      assert.deepInclude(yield* Job.state, { running: 0, queued: 0, cancelled: 2 })
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
  )

  it.effect("only what worked for the caller that left is interrupted", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      const part = yield* Part
      const log: Array<string> = []
      const [mine, other] = [held("mine", log), held("other", log)]
      const leaving = yield* call(run(part.run(mine.work)))
      const staying = yield* call(run(part.run(other.work)))
      yield* Fiber.interrupt(leaving)
      assert.deepStrictEqual(log, ["start mine", "start other", "interrupt mine"])
      yield* other.end
      assert.strictEqual(yield* Fiber.join(staying), "other")
    }).pipe(Effect.provide([jobLayer(), partLayer()]))
  )

  it.effect("what the builder started goes on, and so does what a handler started for good", () =>
    Effect.gen(function* () {
      class Clock extends Deployment.Service<Clock>()("Clock", [Rpc.make("start")]) {}
      const ticks = { builder: 0, handler: 0 }
      const ticking = (name: keyof typeof ticks) =>
        Effect.forever(
          Effect.andThen(
            Effect.sleep("1 second"),
            Effect.sync(() => ticks[name]++)
          )
        )
      const layer = Clock.toLayer(
        Effect.gen(function* () {
          const scope = yield* Effect.scope
          yield* Effect.forkScoped(ticking("builder"))
          return Clock.of({ start: () => Effect.andThen(Effect.forkIn(ticking("handler"), scope), Effect.never) })
        }),
        { gracefulShutdownTimeout: 0 }
      )
      const { close, handle } = yield* open(Clock, layer)
      const caller = yield* call(handle.start())
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(caller)
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(ticks, { builder: 3, handler: 3 })
      yield* close
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(ticks, { builder: 3, handler: 3 })
    })
  )

  it.effect("a hundred callers leave at once, and no call below is left", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      const part = yield* Part
      let living = 0
      const work = Effect.acquireUseRelease(
        Effect.sync(() => living++),
        () => Effect.never,
        () => Effect.sync(() => living--)
      )
      const callers = yield* Effect.forEach(range(100), () => call(run(part.run(work))))
      assert.strictEqual(living, 30)
      assert.deepInclude(yield* Part.state, { running: 30, queued: 70 })
      yield* Fiber.interruptAll(callers)
      assert.isTrue(callers.every(isDone))
      assert.strictEqual(living, 0)
      for (const state of [yield* Job.state, yield* Part.state]) {
        assert.deepInclude(state, { running: 0, queued: 0, cancelled: 100 })
      }
    }).pipe(Effect.provide([jobLayer({ maxOngoingRequests: 100 }), partLayer({ maxOngoingRequests: 30 })]))
  )
})
