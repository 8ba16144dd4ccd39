import { Deployment } from "effect-serve"
import { Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Broken, Point } from "./Probe.ts"

/** When a call ran, in milliseconds since 1970, and on which thread. */
const Ran = Schema.Struct({ thread: Schema.Number, from: Schema.Number, to: Schema.Number })

const Request = Schema.Struct({
  requestId: Schema.String,
  millisLeft: Schema.Number,
  priority: Schema.String,
  tenant: Schema.UndefinedOr(Schema.String)
})

const methods = [
  Deployment.Blocking(Rpc.make("spin", { payload: { millis: Schema.Number }, success: Ran })),
  Deployment.Blocking(Rpc.make("move", { payload: { point: Point, at: Schema.Date }, success: Point })),
  Deployment.Blocking(Rpc.make("reverse", { payload: { bytes: Schema.Uint8Array }, success: Schema.Uint8Array })),
  Deployment.Blocking(Rpc.make("request", { success: Request })),
  Deployment.Blocking(Rpc.make("fail", { payload: { part: Schema.String }, success: Schema.Void, error: Broken })),
  Deployment.Blocking(Rpc.make("refuse", { success: Schema.Void })),
  Deployment.Blocking(Rpc.make("die", { payload: { message: Schema.String }, success: Schema.Void })),
  Deployment.Blocking(Rpc.make("wrong", { success: Schema.Number })),
  Deployment.Blocking(
    Rpc.make("count", {
      payload: { to: Schema.Number, failAt: Schema.Number },
      success: Schema.Number,
      error: Broken,
      stream: true
    })
  ),
  Deployment.Blocking(Rpc.make("list", { success: Point, stream: true })),
  Deployment.Blocking(
    Rpc.make("counts", { success: Schema.Struct({ produced: Schema.Number, finished: Schema.Number }) })
  ),
  Deployment.Blocking(Rpc.make("endless", { success: Schema.Void })),
  Deployment.Blocking(Rpc.make("obedient", { success: Schema.Void })),
  Deployment.Blocking(Rpc.make("exit", { payload: { code: Schema.Number }, success: Schema.Void })),
  Deployment.Blocking(Rpc.make("built", { success: Schema.Number }))
] as const

/** Blocks in whatever way a test wants, and has a method that does not. */
export class Work extends Deployment.Service<Work>()("Work", [
  ...methods,
  Rpc.make("loop", { success: Schema.Number })
]) {}

/** Does nothing but block. */
export class Block extends Deployment.Service<Block>()("Block", [
  Deployment.Blocking(Rpc.make("thread", { success: Schema.Number })),
  Deployment.Blocking(Rpc.make("memory", { success: Schema.UndefinedOr(Schema.Number) })),
  Deployment.Blocking(Rpc.make("numbers", { success: Schema.Number, stream: true }))
]) {}
