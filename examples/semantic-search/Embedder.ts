/**
 * A deployment that turns texts into vectors with the Universal Sentence Encoder.
 *
 * This is its contract. `embedder.module.ts` has the model, which computes for a tenth of a second at a time: each replica has a
 * thread of its own for that, and the app's event loop stays free.
 */
import { Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"

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

export const EmbedderLive = Embedder.toLayerModule<typeof import("./embedder.module.ts")>(
  new URL("./embedder.module.ts", import.meta.url),
  // They wait for their batch most of the time, so there are more of them than a batch has.
  { maxOngoingRequests: 64 }
)
