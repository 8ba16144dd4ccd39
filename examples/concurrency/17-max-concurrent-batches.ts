/**
 * Several batches at once: `npm run example -- 17`.
 *
 * The page's section on `max_concurrent_batches`. With `maxConcurrentBatches` several batches run at once, as long as `run` gives the loop back
 * while it waits. A `run` that computes inline runs one batch at a time, whatever the option says, which is a mistake.
 */
import { Effect, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Batching, Deployment, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import type { Run } from "./clock.ts"
import { culprits, peak, Ran, ran, runsOf, together, took } from "./calls.ts"
import { printEnd, printTable } from "./chart.ts"
import { predict } from "./modules/work.ts"
import { upstream } from "./upstream.ts"

export const title = "maxConcurrentBatches, for batches that wait and for batches that hold the loop"

class Work extends WorkerPool.Service<Work, typeof import("./modules/work.ts")>()("Work", {
  module: new URL("./modules/work.ts", import.meta.url)
}) {}

class Model extends Deployment.Service<Model>()("Model", [
  Rpc.make("predict", { payload: { input: Schema.Number }, success: Ran })
]) {}

/** A batch of eight, run in one of three ways. */
type Way = (inputs: ReadonlyArray<number>) => Effect.Effect<Run, never, Work>

/** The mistake: `run` computes on the loop. */
const inline: Way = (inputs) => Effect.sync(() => predict(inputs))

const measure = (name: string, maxConcurrentBatches: number, run: Way) =>
  Effect.gen(function* () {
    const model = yield* Model
    const inputs = Array.from({ length: 32 }, (_, i) => ({ name: `${i}`, call: model.predict({ input: i }) }))
    const [calls, reports] = yield* TestServe.blocked(together(inputs))
    const batches = Array.from(new Map(runsOf(calls).map((run) => [run.from, run])).values())
    return {
      name,
      maxConcurrentBatches,
      batches: batches.length,
      peak: peak(batches),
      took: took(calls),
      culprits: culprits(reports)
    }
  }).pipe(
    Effect.provide(
      Model.toLayer(
        Effect.gen(function* () {
          const predict = yield* Batching.make({
            maxBatchSize: 8,
            maxConcurrentBatches,
            run: (inputs: ReadonlyArray<number>) =>
              Effect.map(run(inputs), ({ from, thread, to }) => inputs.map(() => ({ from, thread, to })))
          })
          return Model.of({ predict: ({ input }) => predict(input) })
        }),
        { maxOngoingRequests: 32 }
      )
    )
  )

export const program = Effect.gen(function* () {
  const work = yield* Work
  const { slow } = yield* upstream
  const offloaded: Way = (inputs) => Effect.orDie(work.predict(inputs))
  const remote: Way = () => ran(Effect.promise(async () => (await fetch(slow(100))).text()))
  yield* Effect.all([offloaded([0]), offloaded([0]), remote([])], { concurrency: "unbounded" })

  const rows = [
    yield* measure("computed on the loop", 1, inline),
    yield* measure("computed on the loop", 4, inline),
    yield* measure("computed on two threads", 1, offloaded),
    yield* measure("computed on two threads", 2, offloaded),
    yield* measure("waits for another service", 1, remote),
    yield* measure("waits for another service", 4, remote)
  ]
  yield* printTable(
    ["a batch is", "maxConcurrentBatches", "batches", "at once", "took, ms"],
    rows.map(({ batches, maxConcurrentBatches, name, peak, took }) => [name, maxConcurrentBatches, batches, peak, took])
  )
  yield* printEnd(
    Array.from(new Set(rows.flatMap(({ culprits }) => culprits))),
    "maxConcurrentBatches helps batches that wait, for a thread or for another service. " +
      "Set it to as many as can go on at once there: the threads of the pool, or what the service takes."
  )
  return { rows }
}).pipe(Effect.scoped, Effect.provide(Work.layer({ size: 2, minSize: 2 })))
