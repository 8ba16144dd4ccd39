import { Deployment } from "effect-serve"
import { Schema } from "effect"
import { Rpc } from "effect/rpc"

/** When some code ran, in milliseconds since 1970, and on which thread. */
const Ran = Schema.Struct({ thread: Schema.Number, from: Schema.Number, to: Schema.Number })

/** Says where its code runs: that of its builder, of its handlers, its batches and its blocking methods. */
export class Where extends Deployment.Service<Where>()("Where", [
  Rpc.make("builder", { success: Schema.Number }),
  Rpc.make("handler", { success: Schema.Number }),
  Rpc.make("elements", { success: Schema.Number, stream: true }),
  Rpc.make("batch", { success: Schema.Number }),
  // How often a fiber has had its turn that the builder started.
  Rpc.make("turns", { success: Schema.Number }),
  // Computes in a handler that is an Effect.
  Rpc.make("compute", { payload: { millis: Schema.Number }, success: Ran }),
  Rpc.make("steps", { payload: { count: Schema.Number, millis: Schema.Number }, success: Schema.Number, stream: true }),
  Deployment.Blocking(Rpc.make("block", { payload: { millis: Schema.Number }, success: Ran })),
  Deployment.Blocking(
    Rpc.make("blockingSteps", {
      payload: { count: Schema.Number, millis: Schema.Number },
      success: Schema.Number,
      stream: true
    })
  )
]) {}
