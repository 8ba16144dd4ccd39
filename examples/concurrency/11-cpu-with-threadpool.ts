/**
 * Functions that compute, on threads: `npm run example -- 11`.
 *
 * The page's `CPUWithThreadpool`. `poolSize` is how many threads a replica has for its blocking methods, by default one for each core, and
 * `replicas` is the other way to more of them.
 */
import { Effect } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { availableParallelism } from "node:os"
import { type Call, culprits, oneByOne, peak, Ran, runsOf, times, together, took } from "./calls.ts"
import { printEnd, printTable } from "./chart.ts"
import { hash } from "./modules/work.ts"

export const title = "functions that compute, on the threads of one replica and of two"

class CPUWithThreadpool extends Deployment.Service<CPUWithThreadpool>()("CPUWithThreadpool", [
  Deployment.Blocking(Rpc.make("call", { success: Ran }))
]) {}

export default CPUWithThreadpool.module({ call: () => hash(300_000) })

const result = (calls: ReadonlyArray<Call>) => ({ took: took(calls), peak: peak(runsOf(calls)) })

const measure = (options: { readonly poolSize: number; readonly replicas: number }) =>
  Effect.gen(function* () {
    const { call } = yield* CPUWithThreadpool
    const calls = times(6, "call", call())
    const [[alone, all], reports] = yield* TestServe.blocked(Effect.all([oneByOne(calls), together(calls)]))
    return { ...options, alone: result(alone), together: result(all), culprits: culprits(reports) }
  }).pipe(
    Effect.provide(CPUWithThreadpool.toLayerModule(new URL(import.meta.url), { ...options, maxOngoingRequests: 100 }))
  )

export const program = Effect.gen(function* () {
  const rows = [yield* measure({ replicas: 1, poolSize: 2 }), yield* measure({ replicas: 2, poolSize: 1 })]
  yield* printTable(
    ["six calls", "replicas", "poolSize", "took, ms", "computed at once"],
    rows.flatMap(({ alone, poolSize, replicas, together }) => [
      ["one after the other", replicas, poolSize, alone.took, alone.peak],
      ["all together", replicas, poolSize, together.took, together.peak]
    ])
  )
  const cores = availableParallelism()
  yield* printEnd(
    rows.flatMap(({ culprits }) => culprits),
    `Threads of one replica and replicas of one thread do the same for a function without state, up to the number of cores, ${cores} here. ` +
      "What more requests there are waits for a thread, so a high maxOngoingRequests adds nothing but a second line."
  )
  return { rows }
})
