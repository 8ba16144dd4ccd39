/**
 * A limit of 100 that lets one run: `npm run example -- 10`.
 *
 * The page's `BlockingCPU`, which is a mistake: a `def` on the loop with `max_ongoing_requests=100`. A hundred may have a permit; but the loop
 * runs one function at a time. The right form is in 11, and here beside it.
 */
import { ConfigProvider, Effect } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, peak, Ran, runsOf, times, together, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"
import { hash } from "./modules/work.ts"

export const title = "a mistake: a high limit before a function that holds the loop"

class BlockingCPU extends Deployment.Service<BlockingCPU>()("BlockingCPU", [
  Deployment.Blocking(Rpc.make("call", { success: Ran }))
]) {}

export default BlockingCPU.module({ call: () => hash(600_000) })

const measure = (env: Record<string, string>) =>
  Effect.gen(function* () {
    const { call } = yield* BlockingCPU
    const [[calls, { running }], reports] = yield* TestServe.blocked(
      Effect.all([together(times(6, "call", call())), Effect.delay(BlockingCPU.state, "20 millis")], {
        concurrency: "unbounded"
      })
    )
    return {
      calls,
      permits: running,
      atOnce: peak(runsOf(calls)),
      culprits: culprits(reports)
    }
  }).pipe(
    Effect.provide(BlockingCPU.toLayerModule(new URL(import.meta.url), { maxOngoingRequests: 100, poolSize: 2 })),
    Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
  )

export const program = Effect.gen(function* () {
  const onLoop = yield* measure({ SERVE_RUN_SYNC_IN_THREADPOOL: "0" })
  const onThreads = yield* measure({})
  yield* printChart([
    { title: `On the loop: ${onLoop.permits} have a permit, ${onLoop.atOnce} computes`, calls: onLoop.calls },
    { title: `On two threads: ${onThreads.permits} have a permit, ${onThreads.atOnce} compute`, calls: onThreads.calls }
  ])
  yield* printEnd(
    [...onLoop.culprits, ...onThreads.culprits],
    "A permit lets a request begin, and does not give it a thread: on a loop, work that computes goes one after the other. " +
      "Let it run on threads, and keep maxOngoingRequests near their number."
  )
  const result = ({ atOnce, calls, culprits, permits }: typeof onLoop) => ({
    took: took(calls),
    atOnce,
    culprits,
    permits
  })
  return { onLoop: result(onLoop), onThreads: result(onThreads) }
})
