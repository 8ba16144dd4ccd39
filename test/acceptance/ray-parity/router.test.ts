/**
 * What Ray's tests of its power-of-two router check, as far as no other test here does: see `docs/ray-serve.md`.
 *
 * Seen red for each of these mutations. Router: a permit that comes free wakes nobody; who leaves stays in the queue. Balancer: only the
 * first replica has room again.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deployment } from "effect-serve"
import { Effect, Fiber, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { range } from "../../batching/batches.ts"
import { call, isDone, Job, jobLayer, settle } from "../../deployments.ts"
import { held } from "./family.ts"

const Work = Schema.declare((u): u is Effect.Effect<unknown> => Effect.isEffect(u))

/** Runs what its caller sends, and answers with the replica that did. */
class Site extends Deployment.Service<Site>()("Site", [Rpc.make("run", { payload: Work, success: Schema.String })]) {}

const siteLayer = (options: Deployment.DeploymentOptions) =>
  Site.toLayer(
    Effect.map(Deployment.thisReplica, ({ id }) => Site.of({ run: (work) => Effect.as(work, id) })),
    { gracefulShutdownTimeout: 0, ...options }
  )

const running = Effect.map(Site.state, ({ replicas }) => replicas.map((replica) => replica.running))

describe("the router", () => {
  it.effect("when all are full, the first permit that comes free is taken in the same instant", () =>
    Effect.gen(function* () {
      const { run } = yield* Site
      const works = range(3).map((n) => held(`${n}`))
      const holders = yield* Effect.forEach(works, ({ work }) => call(run(work)))
      const waiting = yield* call(run(Effect.void))
      yield* settle
      assert.isFalse(isDone(waiting))
      // No time passes: there is no pause before another try.
      yield* works[1]!.end
      assert.isTrue(isDone(waiting))
      assert.strictEqual(yield* Fiber.join(waiting), yield* Fiber.join(holders[1]!))
    }).pipe(Effect.provide(siteLayer({ replicas: 3, maxOngoingRequests: 1 })))
  )

  it.effect("of three replicas only those that have room get requests", () =>
    Effect.gen(function* () {
      const { run } = yield* Site
      const works = range(9).map((n) => held(`${n}`))
      const holders = yield* Effect.forEach(works, ({ work }) => call(run(work)))
      assert.deepStrictEqual(yield* running, [3, 3, 3])
      // Makes room on one of them, again and again: what comes goes there.
      yield* Effect.forEach(range(9), (n) =>
        Effect.gen(function* () {
          yield* works[n]!.end
          const site = yield* Fiber.join(holders[n]!)
          const next = held("next")
          const caller = yield* call(run(next.work))
          assert.deepStrictEqual(yield* running, [3, 3, 3])
          yield* next.end
          assert.strictEqual(yield* Fiber.join(caller), site)
          yield* call(run(Effect.never))
          assert.deepStrictEqual(yield* running, [3, 3, 3])
        })
      )
    }).pipe(Effect.provide(siteLayer({ replicas: 3, maxOngoingRequests: 3 })))
  )

  it.effect("callers that leave while all are full are forgotten, and the others keep their order", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      const log: Array<string> = []
      const first = held("first")
      yield* call(run(first.work))
      const callers = yield* Effect.forEach(range(6), (n) =>
        call(
          run(
            Effect.andThen(
              Effect.yieldNow,
              Effect.sync(() => log.push(`${n}`))
            )
          )
        )
      )
      yield* Fiber.interruptAll([callers[0]!, callers[3]!])
      assert.strictEqual((yield* Job.state).queued, 4)
      yield* first.end
      yield* settle
      assert.deepStrictEqual(log, ["1", "2", "4", "5"])
      assert.deepInclude(yield* Job.state, { running: 0, queued: 0, completed: 5, cancelled: 2 })
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
  )
})
