/**
 * What a call through a handle costs: with nobody waiting, and with 100 to 1,000,000 callers waiting.
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
import { lines } from "../harness/chart.ts"
import { measureCases } from "../harness/cases.ts"
import { promised, type Study } from "../harness/Study.ts"

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

const lengths = [1e2, 1e3, 1e4, 1e5, 1e6]
const CALLERS = 1_000_000
const nameOf = (length: number) => `${length.toLocaleString("en")} waiting`
const aloneOf = (length: number) => `${length.toLocaleString("en")} fibers alone`

export const handle: Study = {
  name: "handle",
  measure: measureCases({
    title: "A call through a handle",
    rounds: 5,
    unit: "ns per call",
    run: Effect.gen(function* () {
      const results: Record<string, number> = { uncontended: yield* uncontended(500_000) }
      for (const length of lengths) Object.assign(results, yield* waiting(nameOf(length), length, CALLERS))
      for (const length of [lengths[0]!, lengths.at(-1)!]) {
        Object.assign(results, yield* fibersAlone(aloneOf(length), length, CALLERS))
      }
      return results
    }).pipe(Effect.provide(Live)),
    text: `In one process. *Uncontended*: one caller calls a handler that does nothing, in a loop. *Waiting*: one request holds the only permit while
so many callers join the queue behind it; then it lets go, and all of them are served. What one of them costs is its share of both: starting the
caller and joining, and being handed the permit, run and answered. *Fibers alone* are the same without a deployment: fibers that park and are
resumed in order, which is the least that any queue in front of them could cost. What makes a long queue expensive is that V8 moves everything that
waits out of the young generation.`,
    verdicts: (median) => [
      promised.atLeast("uncontended", 1e6 / median("uncontended"), 500, "thousand calls/s"),
      promised.atMost("1,000,000 waiting, of 100 waiting", median(nameOf(1e6)) / median(nameOf(1e2)), 2)
    ],
    charts: (median) => ({
      "handle-queue.svg": lines("Cost of a call, by the number of callers that wait", [
        {
          title: "microseconds for each call",
          x: {
            label: "callers that wait",
            from: 1e2,
            to: 1e6,
            marks: lengths,
            isLogarithmic: true,
            write: (length) => `10^${Math.log10(length)}`
          },
          y: { label: "", from: 0, to: 3, marks: [0, 1, 2, 3], write: (micros) => `${micros}` },
          lines: ["", ", join", ", serve"].map((part) => ({
            name: part === "" ? "in all" : part.slice(2),
            points: lengths.map((length) => [length, median(`${nameOf(length)}${part}`) / 1000] as const)
          }))
        }
      ])
    })
  })
}
