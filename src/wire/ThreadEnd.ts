/**
 * The thread's end of its link to the app.
 *
 * @since 0.1.0
 */
import { type Cause, Clock, Context, Deferred, Effect, Exit, Logger, References, type Scope } from "effect"
import type { Start } from "./AppEnd.ts"
import { Link } from "./Link.ts"
import { type Runner, runner as plainRunner } from "./Serving.ts"
import { cloned } from "./MethodCodec.ts"
import * as Spans from "./Spans.ts"
import * as Telemetry from "./Telemetry.ts"
import { ThreadPort } from "./ThreadPort.ts"

export interface ThreadEnd {
  readonly link: Link
  /** The services of the thread: what is logged goes to the app. */
  readonly context: Context.Context<never>
  /** Waits until the app says something. */
  readonly hear: (name: string) => Effect.Effect<unknown>
}

/** The clock of all threads. */
export const clock = Context.get(Context.empty(), Clock.Clock)

/** Opens the link with which the thread was started. `runner` starts what the app calls. */
export const open = ({ begun, minimumLogLevel, port }: Start, runner: Runner = plainRunner): ThreadEnd => {
  const heard = new Map<string, Deferred.Deferred<unknown>>()
  const note = (name: string) => {
    const before = heard.get(name)
    if (before !== undefined) return before
    const made = Deferred.makeUnsafe<unknown>()
    heard.set(name, made)
    return made
  }
  const link: Link = new Link({
    port: new ThreadPort(port, begun),
    form: cloned,
    clock,
    spans: Spans.ofThread((span) => link.note("span", span)),
    runner,
    onNote: (name, value) => Deferred.doneUnsafe(note(name), Effect.succeed(value))
  })
  const logger = Telemetry.logger((entry) => link.note("log", entry))
  const context = Context.empty().pipe(
    Context.add(Logger.CurrentLoggers, new Set([logger])),
    Context.add(References.MinimumLogLevel, minimumLogLevel)
  )
  return { link, context, hear: (name) => Deferred.await(note(name)) }
}

/**
 * What a thread does: it runs `program`, which tells the app when it is ready, until the app says `stop` and `lastWork` is done: what the
 * app has called, unless something else is given. If it fails, the app gets what `describe` makes of the cause. Then the thread ends.
 */
export const runMain = <E>(
  { context, hear, link }: ThreadEnd,
  program: Effect.Effect<void, E, Scope.Scope>,
  describe: (cause: Cause.Cause<E>) => unknown,
  lastWork: Effect.Effect<void> = link.idle
): void => {
  const untilStopped = Effect.raceFirst(Effect.andThen(program, Effect.never), Effect.andThen(hear("stop"), lastWork))
  Effect.runForkWith(context)(Effect.scoped(untilStopped)).addObserver((exit) => {
    if (Exit.isFailure(exit)) link.note("failed", describe(exit.cause))
    // Messages leave with the microtasks of this turn.
    setImmediate(() => process.exit())
  })
}
