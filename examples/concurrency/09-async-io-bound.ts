/**
 * A bound on what waits for others: `npm run example -- 09`.
 *
 * The page's `AsyncIOBound` with `max_ongoing_requests=100`. While handlers wait, `maxOngoingRequests` is the concurrency: of the replica, and
 * so of what it asks of others.
 */
import { Effect, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, Ran, ran, slowest, times, together, took } from "./calls.ts"
import { printEnd, printTable } from "./chart.ts"
import { upstream } from "./upstream.ts"

export const title = "while handlers wait, maxOngoingRequests is the concurrency"

class AsyncIOBound extends Deployment.Service<AsyncIOBound>()("AsyncIOBound", [
  Rpc.make("call", { payload: { url: Schema.String }, success: Ran })
]) {}

const measure = (maxOngoingRequests: number) =>
  Effect.gen(function* () {
    const { call } = yield* AsyncIOBound
    const { peak, slow } = yield* upstream
    // So that connections are there.
    yield* together(times(maxOngoingRequests, "first", call({ url: slow(0) })))
    yield* peak
    const [calls, reports] = yield* TestServe.blocked(together(times(100, "call", call({ url: slow(100) }))))
    return {
      maxOngoingRequests,
      took: took(calls),
      slowest: slowest(calls),
      peak: yield* peak,
      culprits: culprits(reports)
    }
  }).pipe(
    Effect.scoped,
    Effect.provide(
      AsyncIOBound.toLayer(
        { call: ({ url }) => ran(Effect.promise(async () => (await fetch(url)).text())) },
        { maxOngoingRequests }
      )
    )
  )

export const program = Effect.gen(function* () {
  const rows = yield* Effect.forEach([10, 25, 100], measure)
  yield* printTable(
    ["maxOngoingRequests", "100 calls took, ms", "calls per second", "the upstream had at once"],
    rows.map(({ maxOngoingRequests, peak, took }) => [maxOngoingRequests, took, 1e5 / took, peak])
  )
  yield* printEnd(
    rows.flatMap(({ culprits }) => culprits),
    "With handlers that wait, ten times the limit is nearly ten times the throughput of one thread. " +
      "Choose it by what the upstream can take, for that is what it will get."
  )
  return { rows }
})
