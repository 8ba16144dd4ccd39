/**
 * What a call through a handle costs: with nobody waiting, and with 100, 10,000 and 1,000,000 callers waiting.
 *
 * Uncontended: one caller calls a no-op handler in a loop. Waiting: N callers stand in the queue of one deployment and
 * each comes back as soon as it is answered, so the queue stays N long; the handler only gives up its turn once, which is
 * what makes the others wait.
 */
import { Deployment } from "effect-serve"
import { Deferred, Effect, Layer } from "effect"
import { Rpc } from "effect/rpc"
import { type Bench, perSecond, ratio } from "./report.ts"

class Noop extends Deployment.Service<Noop>()("Noop", [Rpc.make("run")]) {}
class Turn extends Deployment.Service<Turn>()("Turn", [Rpc.make("run")]) {}

const Live = Layer.mergeAll(
  Noop.toLayer({ run: () => Effect.void }, { maxOngoingRequests: 64 }),
  Turn.toLayer({ run: () => Effect.yieldNow }, { maxOngoingRequests: 64, maxQueuedRequests: Infinity })
)

const uncontended = (calls: number) =>
  Effect.gen(function* () {
    const { run } = yield* Noop
    const start = performance.now()
    for (let i = 0; i < calls; i++) yield* run()
    return ((performance.now() - start) * 1e6) / calls
  })

const waiting = (callers: number, calls: number) =>
  Effect.gen(function* () {
    const { run } = yield* Turn
    const done = yield* Deferred.make<number>()
    const warmUp = callers
    let served = 0
    let start = 0
    const caller = Effect.gen(function* () {
      while (served < warmUp + calls) {
        yield* run()
        if (++served === warmUp) start = performance.now()
        if (served === warmUp + calls) yield* Deferred.succeed(done, ((performance.now() - start) * 1e6) / calls)
      }
    })
    for (let i = 0; i < callers; i++) yield* Effect.forkScoped(caller)
    return yield* Deferred.await(done)
  }).pipe(Effect.scoped)

export const handle: Bench = {
  name: "handle",
  rounds: 5,
  run: Effect.gen(function* () {
    return {
      uncontended: yield* uncontended(500_000),
      "100 waiting": yield* waiting(100, 300_000),
      "10,000 waiting": yield* waiting(10_000, 300_000),
      "1,000,000 waiting": yield* waiting(1_000_000, 1_000_000)
    }
  }).pipe(Effect.provide(Live)),
  unit: "ns per call",
  verdicts: (median) => [
    perSecond("uncontended", median("uncontended"), 500_000),
    ratio("1,000,000 waiting / 100 waiting", median("1,000,000 waiting") / median("100 waiting"), 2)
  ]
}
