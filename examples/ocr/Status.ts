/**
 * A light deployment beside `Reader`, on the app's own thread: what `Reader` is doing. It answers at once however much there is to
 * read, and how fast it answers is what `measure.ts` looks at.
 */
import { Effect, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import { Reader } from "./Reader.ts"

export class Status extends Deployment.Service<Status>()("Status", [
  Rpc.make("show", {
    success: Schema.Struct({
      replicas: Schema.Int,
      reading: Schema.Int,
      waiting: Schema.Int,
      done: Schema.Int
    })
  })
]) {}

export const StatusLive = Status.toLayer({
  show: () =>
    Effect.map(Reader.state, ({ completed, queued, replicas, running }) => ({
      replicas: replicas.length,
      reading: running,
      waiting: queued,
      done: completed
    }))
})
