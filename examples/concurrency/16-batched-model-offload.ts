/**
 * Batches on a thread: `npm run example -- 16`.
 *
 * The page's `BatchedModelOffload`, with `run_in_executor`. `run` calls the model in a `WorkerPool`: the batches are as full as in 15, and
 * the loop is free while they are computed.
 */
import { Effect, Layer, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Batching, Deployment, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, named, paced, Ran, ran, runsOf, slowest, threadsOf, together, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"

export const title = "batches that are computed on a thread"

class Work extends WorkerPool.Service<Work, typeof import("./modules/work.ts")>()("Work", {
  module: new URL("./modules/work.ts", import.meta.url)
}) {}

class BatchedModelOffload extends Deployment.Service<BatchedModelOffload>()("BatchedModelOffload", [
  Rpc.make("predict", { payload: { input: Schema.Number }, success: Ran })
]) {}

// Its pings need no permit of the model's, of which the predictions take all.
class Light extends Deployment.Service<Light>()("Light", [Rpc.make("ping", { success: Ran })]) {}

const BatchedModelOffloadLive = BatchedModelOffload.toLayer(
  Effect.gen(function* () {
    const work = yield* Work
    const predict = yield* Batching.make({
      maxBatchSize: 32,
      run: (inputs: ReadonlyArray<number>) =>
        Effect.map(Effect.orDie(work.predict(inputs)), ({ from, thread, to }) =>
          inputs.map(() => ({ from, thread, to }))
        )
    })
    return BatchedModelOffload.of({ predict: ({ input }) => predict(input) })
  }),
  { maxOngoingRequests: 64 }
).pipe(Layer.provide(Work.layer({ size: 1 })))

const LightLive = Light.toLayer({ ping: () => ran(Effect.void) })

export const program = Effect.gen(function* () {
  const light = yield* Light
  const model = yield* BatchedModelOffload
  const inputs = Array.from({ length: 64 }, (_, i) => i)
  yield* model.predict({ input: 0 })

  const [calls, reports] = yield* TestServe.blocked(
    together([
      ...inputs.map((input) => ({ name: `predict ${input}`, call: model.predict({ input }) })),
      ...paced(5, 60, "ping", light.ping())
    ])
  )
  const predictions = named(calls, "predict")
  const pings = named(calls, "ping")
  const runs = new Set(runsOf(predictions).map(({ from }) => from)).size

  yield* printChart([
    { title: `64 inputs in ${runs} batches, on a thread`, calls: predictions },
    { title: "Pings of another deployment meanwhile", calls: pings }
  ])
  yield* printEnd(
    culprits(reports),
    `The slowest ping took ${slowest(pings).toFixed(1)} ms while a batch takes more than a hundred. ` +
      "Batching says how much is computed at once, and the WorkerPool says where."
  )
  return {
    runs,
    took: took(predictions),
    ping: slowest(pings),
    threads: threadsOf(predictions),
    culprits: culprits(reports)
  }
}).pipe(Effect.provide(Layer.merge(BatchedModelOffloadLive, LightLive)))
