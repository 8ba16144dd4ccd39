/**
 * The app's end of a link to a thread that has an Effect runtime of its own.
 *
 * @since 0.1.0
 */
import { Clock, Context, Effect, type LogLevel, Option, References, Tracer } from "effect"
import { MessageChannel, type MessagePort } from "node:worker_threads"
import { Link } from "./Link.ts"
import { runner } from "./Serving.ts"
import { cloned } from "./MethodCodec.ts"
import * as Spans from "./Spans.ts"
import * as Telemetry from "./Telemetry.ts"
import { type Begun, ThreadPort } from "./ThreadPort.ts"

/**
 * What the thread at the other end is started with.
 *
 * @category models
 * @since 0.1.0
 */
export interface Start {
  readonly port: MessagePort
  readonly begun: Begun
  readonly minimumLogLevel: LogLevel.LogLevel
}

export interface AppEnd {
  readonly link: Link
  readonly start: Start
  /** Takes what the thread has said at once, and not when this loop comes to it. */
  readonly drain: () => void
}

/**
 * Makes links, each to a thread of its own. What is logged and traced over there goes to the loggers and the tracer of here;
 * `onNote` gets what else a thread says.
 */
export const make: Effect.Effect<(onNote: (name: string, value: unknown) => void) => AppEnd> = Effect.gen(function* () {
  const context = yield* Effect.context()
  const clock = yield* Clock.Clock
  const minimumLogLevel = yield* References.MinimumLogLevel
  const tracer = Option.getOrUndefined(Context.getOption(context as Context.Context<Tracer.Tracer>, Tracer.Tracer))
  // The thread has left out what is below the level.
  const log = Effect.runForkWith(Context.add(context, References.MinimumLogLevel, "All"))
  return (onNote) => {
    const { port1, port2 } = new MessageChannel()
    const [here, there] = [counter(), counter()]
    const spans = Spans.ofApp(tracer)
    const port = new ThreadPort(port1, { here, there })
    const link = new Link({
      port,
      form: cloned,
      clock,
      spans,
      runner,
      onNote: (name, value) => {
        if (name === "log") log(Telemetry.log(value as Telemetry.LogNote))
        else if (name === "span") spans.told(value as Spans.SpanNote)
        else onNote(name, value)
      }
    })
    return {
      link,
      drain: () => port.drain(),
      start: { port: port2, begun: { here: there, there: here }, minimumLogLevel }
    }
  }
})

const counter = () => new Int32Array(new SharedArrayBuffer(4))
