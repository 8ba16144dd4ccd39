import { Deployment } from "effect-serve"
import { Schema } from "effect"
import { Rpc } from "effect/rpc"

/** What the worker benchmark calls in a replica on a thread. */
export class Replica extends Deployment.Service<Replica>()("Replica", [
  Rpc.make("nothing", { payload: { x: Schema.Number }, success: Schema.Number }),
  Rpc.make("count", { payload: { to: Schema.Number }, success: Schema.Number, stream: true })
]) {}
