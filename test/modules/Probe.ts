import { Deployment } from "effect-serve"
import { Schema } from "effect"
import { Rpc } from "effect/rpc"

export class Broken extends Schema.TaggedError<Broken>("test/modules/Broken")("Broken", { part: Schema.String }) {}

/** A class, which structured clone alone would turn into a plain object. */
export class Point extends Schema.Class<Point>("test/modules/Point")({ x: Schema.Number, y: Schema.Number }) {}

const Seen = Schema.Struct({
  requestId: Schema.String,
  millisLeft: Schema.Number,
  priority: Schema.String,
  tenant: Schema.UndefinedOr(Schema.String),
  modelId: Schema.UndefinedOr(Schema.String),
  sessionId: Schema.UndefinedOr(Schema.String),
  route: Schema.UndefinedOr(Schema.String),
  principal: Schema.UndefinedOr(
    Schema.Struct({
      id: Schema.String,
      tenant: Schema.optionalKey(Schema.String),
      claims: Schema.optionalKey(Schema.Record(Schema.String, Schema.Unknown))
    })
  ),
  lastEventId: Schema.UndefinedOr(Schema.String)
})

/** Another deployment, on the app's loop, for the calls that `Probe` makes. */
export class Part extends Deployment.Service<Part>()("Part", [
  Rpc.make("double", { payload: { x: Schema.Number }, success: Schema.Number, error: Broken }),
  Rpc.make("seen", { success: Seen }),
  Rpc.make("count", { payload: { to: Schema.Number }, success: Schema.Number, stream: true }),
  Rpc.make("never", { success: Schema.Void })
]) {}

/** Does whatever a test wants to see happen in a replica. */
export class Probe extends Deployment.Service<Probe>()("Probe", [
  Rpc.make("move", { payload: { point: Point, at: Schema.Date }, success: Point }),
  Rpc.make("reverse", { payload: { bytes: Schema.Uint8Array }, success: Schema.Uint8Array }),
  Rpc.make("seen", { success: Seen }),
  Rpc.make("thread", { success: Schema.Number }),
  Rpc.make("memory", { success: Schema.UndefinedOr(Schema.Number) }),
  Rpc.make("replica", { success: Schema.String }),
  Rpc.make("fail", { payload: { part: Schema.String }, success: Schema.Void, error: Broken }),
  Rpc.make("die", { payload: { message: Schema.String }, success: Schema.Void }),
  Rpc.make("wrong", { success: Schema.Number }),
  // Calls that are interrupted, or not: how many have begun, and how many have stopped.
  Rpc.make("never", { success: Schema.Void }),
  Rpc.make("linger", { payload: { millis: Schema.Number }, success: Schema.Void }),
  Rpc.make("pause", { payload: { millis: Schema.Number }, success: Schema.Number }),
  Rpc.make("begun", { success: Schema.Number }),
  Rpc.make("stopped", { success: Schema.Number }),
  Rpc.make("count", {
    payload: { to: Schema.Number, failAt: Schema.Number },
    success: Schema.Number,
    error: Broken,
    stream: true
  }),
  Rpc.make("chunk", { payload: { size: Schema.Number }, success: Schema.Number, stream: true }),
  Rpc.make("hang", { payload: { after: Schema.Number }, success: Schema.Number, stream: true }),
  Rpc.make("produced", { success: Schema.Number }),
  // Calls to `Part`.
  Rpc.make("double", { payload: { x: Schema.Number }, success: Schema.Number, error: Broken }),
  Rpc.make("partSeen", { success: Seen }),
  Rpc.make("partCount", { payload: { to: Schema.Number }, success: Schema.Number, stream: true }),
  Rpc.make("partLate", { success: Schema.Void }),
  Rpc.make("partNever", { success: Schema.Void }),
  // What is to be seen from outside.
  Rpc.make("log", { payload: { message: Schema.String }, success: Schema.Void }),
  Rpc.make("span", { success: Schema.Void }),
  Rpc.make("measure", { success: Schema.Void }),
  Rpc.make("batch", { payload: { n: Schema.Number }, success: Schema.Number }),
  // The end of a replica, or of its thread.
  Rpc.make("leave", { success: Schema.Void }),
  Rpc.make("exit", { payload: { code: Schema.Number }, success: Schema.Void }),
  Rpc.make("callAndExit", { success: Schema.Void }),
  Rpc.make("spin", { payload: { millis: Schema.Number }, success: Schema.Void }),
  Rpc.make("spinAndExit", { payload: { millis: Schema.Number }, success: Schema.Void }),
  Rpc.make("throwLater", { payload: { message: Schema.String }, success: Schema.Void }),
  Rpc.make("hog", { success: Schema.Void })
]) {}
