/**
 * Batches on the loop: `npm run example -- 15`.
 *
 * The page's `BatchedModel`, with `@serve.batch(max_batch_size=32)`. Batching makes the work less, and changes nothing about where it runs. A
 * model that computes inline holds the loop for a whole batch at a time, which is a mistake; 16 has it on threads.
 */
import { Effect, Layer, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Batching, Deployment } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import type { Run } from "./clock.ts"
import { culprits, named, paced, Ran, ran, runsOf, slowest, together, took } from "./calls.ts"
import { printEnd, printTable } from "./chart.ts"
import { predict } from "./modules/work.ts"

export const title = "batches make the work less; computed on the loop, they hold it for longer"

const methods = [Rpc.make("predict", { payload: { input: Schema.Number }, success: Ran })] as const

class BatchedModel extends Deployment.Service<BatchedModel>()("BatchedModel", methods) {}
class SingleModel extends Deployment.Service<SingleModel>()("SingleModel", methods) {}
class Light extends Deployment.Service<Light>()("Light", [Rpc.make("ping", { success: Ran })]) {}

const BatchedModelLive = BatchedModel.toLayer(
  Effect.gen(function* () {
    const predictOne = yield* Batching.make({
      maxBatchSize: 32,
      // The mistake: the model computes here, on the loop. One outcome for each item, and they have the same run.
      run: (inputs: ReadonlyArray<number>) =>
        Effect.sync((): Array<Run> => {
          const { from, thread, to } = predict(inputs)
          return inputs.map(() => ({ from, thread, to }))
        })
    })
    return BatchedModel.of({ predict: ({ input }) => predictOne(input) })
  }),
  { maxOngoingRequests: 64 }
)

const SingleModelLive = SingleModel.toLayer(
  { predict: ({ input }) => Effect.sync(() => predict([input])) },
  { maxOngoingRequests: 64 }
)

const LightLive = Light.toLayer({ ping: () => ran(Effect.void) })

const inputs = Array.from({ length: 64 }, (_, i) => i)

export const program = Effect.gen(function* () {
  const light = yield* Light
  const measure = Effect.fnUntraced(function* (name: string, model: BatchedModel["Service"]) {
    const [calls, reports] = yield* TestServe.blocked(
      together([
        ...inputs.map((input) => ({ name: `predict ${input}`, call: model.predict({ input }) })),
        ...paced(2, 40, "ping", light.ping())
      ])
    )
    const runs = new Set(runsOf(named(calls, "predict")).map(({ from }) => from))
    const longest = Math.max(...runsOf(calls).map(({ from, to }) => to - from))
    return {
      name,
      runs: runs.size,
      longest,
      took: took(calls),
      ping: slowest(named(calls, "ping")),
      culprits: culprits(reports)
    }
  })
  const single = yield* measure("one by one", yield* SingleModel)
  const batched = yield* measure("in batches of up to 32", yield* BatchedModel)

  yield* printTable(
    ["64 inputs, ms", "runs of the model", "longest run", "took", "slowest ping"],
    [single, batched].map(({ longest, name, ping, runs, took }) => [name, runs, longest, took, ping])
  )
  yield* printEnd(
    batched.culprits,
    `Batches did the same in ${((100 * batched.took) / single.took).toFixed(0)} % of the time. ` +
      "But each of their runs holds the loop for many requests at once, so a model that computes belongs on a thread."
  )
  return { single, batched }
}).pipe(Effect.provide(Layer.mergeAll(BatchedModelLive, SingleModelLive, LightLive)))
