/**
 * What a call through a handle costs: with nobody waiting, and with 100, 10,000 and 1,000,000 callers waiting.
 *
 * Uncontended: one caller calls a no-op handler in a loop. Waiting: one request holds the only permit while N callers
 * join the queue behind it, and then it lets go, and all N are served. What one of them costs is its share of both:
 * starting the caller and joining, and being handed the permit, run and answered. Both matter: what makes a long queue
 * expensive is that V8 moves everything that waits out of the young generation, and that happens while callers join.
 * "Fibers alone" is the same without a deployment: fibers that park and are resumed in order. It bounds what any queue in
 * front of them could reach.
 */
import { Deployment } from "effect-serve"
import { Deferred, Effect, Layer } from "effect"
import { Rpc } from "effect/rpc"
import { type Bench, perSecond, ratio } from "./report.ts"

class Noop extends Deployment.Service<Noop>()("Noop", [Rpc.make("run")]) {}
class Turn extends Deployment.Service<Turn>()("Turn", [Rpc.make("run"), Rpc.make("hold")]) {}

let gate = Deferred.makeUnsafe<void>()

const Live = Layer.mergeAll(
  Noop.toLayer({ run: () => Effect.void }, { maxOngoingRequests: 64 }),
  Turn.toLayer(
    { run: () => Effect.void, hold: () => Deferred.await(gate) },
    { maxOngoingRequests: 1, maxQueuedRequests: Infinity }
  )
)

const uncontended = (calls: number) =>
  Effect.gen(function* () {
    const { run } = yield* Noop
    const start = performance.now()
    for (let i = 0; i < calls; i++) yield* run()
    return ((performance.now() - start) * 1e6) / calls
  })

const queueOf = (callers: number) =>
  Effect.gen(function* () {
    const { hold, run } = yield* Turn
    gate = Deferred.makeUnsafe()
    yield* Effect.forkScoped(hold(), { startImmediately: true })
    const done = Deferred.makeUnsafe<void>()
    let left = callers
    const caller = Effect.flatMap(
      Effect.suspend(() => run()),
      () => (--left === 0 ? Deferred.succeed(done, undefined) : Effect.void)
    )
    const start = performance.now()
    for (let i = 0; i < callers; i++) Effect.runFork(caller)
    const joined = performance.now()
    yield* Deferred.succeed(gate, undefined)
    yield* Deferred.await(done)
    return { join: joined - start, serve: performance.now() - joined }
  }).pipe(Effect.scoped)

const waiting = (name: string, callers: number, requests: number) =>
  Effect.gen(function* () {
    let join = 0
    let serve = 0
    for (let i = 0; i < requests; i += callers) {
      const times = yield* queueOf(callers)
      join += (times.join * 1e6) / requests
      serve += (times.serve * 1e6) / requests
    }
    return { [name]: join + serve, [`${name}, join`]: join, [`${name}, serve`]: serve }
  })

const fibersAlone = (name: string, fibers: number, requests: number) =>
  Effect.sync(() => {
    const start = performance.now()
    for (let i = 0; i < requests; i += fibers) {
      const parked: Array<(effect: Effect.Effect<void>) => void> = []
      const fiber = Effect.callback<void>((resume) => {
        parked.push(resume)
        return Effect.void
      })
      for (let i = 0; i < fibers; i++) Effect.runFork(fiber)
      for (const resume of parked) resume(Effect.void)
    }
    return { [name]: ((performance.now() - start) * 1e6) / requests }
  })

export const handle: Bench = {
  name: "handle",
  rounds: 5,
  run: Effect.gen(function* () {
    return {
      uncontended: yield* uncontended(500_000),
      ...(yield* waiting("100 waiting", 100, 1_000_000)),
      ...(yield* waiting("10,000 waiting", 10_000, 1_000_000)),
      ...(yield* waiting("1,000,000 waiting", 1_000_000, 1_000_000)),
      ...(yield* fibersAlone("100 fibers alone", 100, 1_000_000)),
      ...(yield* fibersAlone("1,000,000 fibers alone", 1_000_000, 1_000_000))
    }
  }).pipe(Effect.provide(Live)),
  unit: "ns per call",
  verdicts: (median) => [
    perSecond("uncontended", median("uncontended"), 500_000),
    ratio("1,000,000 waiting / 100 waiting", median("1,000,000 waiting") / median("100 waiting"), 2)
  ]
}
