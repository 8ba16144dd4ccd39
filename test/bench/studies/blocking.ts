/**
 * What the blocking detector costs a loop that has nothing to spare.
 */
import { Deployment } from "effect-serve"
import { ConfigProvider, Context, Effect, Layer } from "effect"
import { Rpc } from "effect/rpc"
import * as BlockingDetector from "../../../src/watch/BlockingDetector.ts"
import * as CurrentMethod from "../../../src/watch/CurrentMethod.ts"
import { measureCases } from "../harness/cases.ts"
import { atMost, type Study } from "../harness/Study.ts"
import { quantile } from "../harness/table.ts"

const TURNS = 30
const SLICES = 10
const CALLS = 5000

class Noop extends Deployment.Service<Noop>()("Noop", [Rpc.make("run")]) {}

// Its layer watches nothing, so that the benchmark can.
const unwatched = ConfigProvider.layer(ConfigProvider.fromUnknown({ SERVE_BLOCKING_THRESHOLD: 0 }))
const Live = Noop.toLayer({ run: () => Effect.void }, { maxOngoingRequests: 64 }).pipe(Layer.provide(unwatched))

const call = Effect.gen(function* () {
  const { run } = yield* Noop
  for (let i = 0; i < CALLS; i++) yield* run()
})

/** Some steps, as many as a short handler has. */
const work = Effect.gen(function* () {
  for (let i = 0; i < 5; i++) yield* Effect.void
})
const plain = Context.empty()
const known = CurrentMethod.contextOf(plain, { deployment: "Noop", method: "run" })

const requests = (context: Context.Context<never>) =>
  Effect.sync(() => {
    for (let i = 0; i < CALLS; i++) CurrentMethod.fork(context, work)
  })

/** Nanoseconds of each call, in slices, after a pause in which the thread that watches can start. */
const slices = <R>(calls: Effect.Effect<void, unknown, R>) =>
  Effect.andThen(
    Effect.sleep("30 millis"),
    Effect.forEach(Array.from({ length: SLICES }), () =>
      Effect.suspend(() => {
        const start = performance.now()
        return Effect.map(calls, () => ((performance.now() - start) * 1e6) / CALLS)
      })
    )
  )

const watched = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.scoped(Effect.andThen(BlockingDetector.watch("Noop", ["run"]), effect))

/** One round. */
const run = Effect.gen(function* () {
  const cases = {
    call: slices(call),
    "call, watched": watched(slices(call)),
    request: slices(requests(plain)),
    "request, method known": slices(requests(known))
  }
  const found: Record<string, Array<number>> = {}
  for (let turn = 0; turn < TURNS; turn++) {
    for (const [name, measure] of Object.entries(cases)) (found[name] ??= []).push(...(yield* measure))
  }
  return Object.fromEntries(Object.entries(found).map(([name, values]) => [name, quantile(0.25, values)]))
}).pipe(Effect.provide(Live))

const text = `What the blocking detector costs a loop that has nothing to spare: a call through a handle while its loop is not watched ("call") and while
it is, and the work of a request whose method is not known ("request") and of one whose method is.

The cases take turns, ${TURNS} in each round, in slices of ${CALLS} calls, which are some milliseconds: so all have the same share of what else happens
on the machine. What counts of the slices of a round is the first quartile: whatever else happens only makes them longer.`

export const blocking: Study = {
  name: "blocking",
  measure: measureCases({
    title: "The blocking detector",
    rounds: 5,
    unit: "ns per call",
    run,
    text,
    verdicts: (median) => [
      atMost("a call while the loop is watched / while it is not", median("call, watched") / median("call"), 1.01),
      atMost(
        "a call whose method is known / one whose is not",
        1 + (median("request, method known") - median("request")) / median("call"),
        1.01
      )
    ]
  })
}
