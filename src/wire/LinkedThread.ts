/**
 * A thread of the app that has an Effect runtime of its own, from its start to its end.
 *
 * @since 0.1.0
 */
import { Clock, Context, Duration, Effect, Exit, Option, type Scope } from "effect"
import { type ResourceLimits, Worker } from "node:worker_threads"
import type { AppEnd } from "./AppEnd.ts"
import type { Link } from "./Link.ts"

/**
 * How a thread is started and stopped.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  readonly name: string
  readonly entry: URL
  /** Copied into the thread, beside what its end of the link needs. */
  readonly data: object
  readonly makeEnd: (onNote: OnNote) => AppEnd
  /** Hears what the thread says, except how its start went. */
  readonly onNote: OnNote
  readonly resourceLimits: ResourceLimits
  /** Time that it gets to stop when it is told to, before it is ended. */
  readonly stopTimeout: Duration.Duration
}

type OnNote = (name: string, value: unknown) => void

export class LinkedThread {
  readonly link: Link
  /** What happens when it ends without having been told to, and why it did. */
  onLoss: (why: string) => void = () => {}
  private readonly stopTimeout: Duration.Duration
  private readonly worker: Worker
  private readonly drain: () => void
  private started: Exit.Exit<unknown, unknown> | undefined = undefined
  private ended = false
  private stopping = false
  private isLost = false
  private silentSeconds = 0
  private error: string | undefined = undefined
  private onStarted: ((exit: Exit.Exit<unknown, unknown>) => void) | undefined = undefined
  private readonly onEnded: Array<() => void> = []

  private constructor(options: Options) {
    const { data, entry, makeEnd, name, onNote, resourceLimits } = options
    const { drain, link, start } = makeEnd((name, value) => {
      this.silentSeconds = 0
      if (name === "ready") this.settle(Exit.succeed(value))
      else if (name === "failed") this.settle(Exit.fail(value))
      else onNote(name, value)
    })
    this.link = link
    this.drain = drain
    this.stopTimeout = options.stopTimeout
    this.worker = new Worker(entry, {
      name,
      workerData: { ...data, ...start },
      transferList: [start.port],
      resourceLimits
    })
    this.worker.on("error", (error) => (this.error = `of ${String(error)}`))
    this.worker.on("exit", (code) => this.onExit(code))
  }

  /** Starts a thread, which is stopped when the scope closes. */
  static start(options: Options): Effect.Effect<LinkedThread, never, Scope.Scope> {
    return Effect.acquireRelease(
      Effect.sync(() => new LinkedThread(options)),
      (thread) => thread.stop
    )
  }

  /** Waits until it is ready, with what it says then. Fails with what it says when it can't be, or with words on how it ended. */
  get ready(): Effect.Effect<unknown, unknown> {
    return Effect.callback((resume) => {
      if (this.started === undefined) this.onStarted = resume
      else resume(this.started)
    })
  }

  /** Ends it when it says nothing for longer than `timeout`. For threads that say something every second. */
  endWhenSilent(timeout: Duration.Duration): Effect.Effect<void> {
    // Seconds are counted here, so that a time in which this loop was held is not taken for silence.
    const check = Effect.sync(() => ++this.silentSeconds * 1000 > Duration.toMillis(timeout))
    return check.pipe(
      Effect.delay("1 second"),
      Effect.repeat({ until: (isOver) => isOver }),
      Effect.andThen(Effect.sync(() => (this.error ??= "it did not react any more"))),
      Effect.andThen(this.terminate),
      Effect.provideService(Clock.Clock, wall)
    )
  }

  private get terminate(): Effect.Effect<void> {
    return Effect.asVoid(Effect.promise(() => this.worker.terminate()))
  }

  /** Sees to its calls as `Link.closeWithPeer` does. `onClose` is told whether the thread ended without having been told to. */
  closeWithThread(onClose: (isLost: boolean) => (begun: boolean) => Exit.Exit<never, unknown>): void {
    this.link.closeWithPeer(() => {
      this.isLost = !this.stopping
      return onClose(this.isLost)
    })
  }

  /** Lets it finish what it runs and close its scope, and ends it when that takes longer than `stopTimeout`. */
  get stop(): Effect.Effect<void> {
    const ended = Effect.callback<void>((resume) => {
      if (this.ended) resume(Effect.void)
      else this.onEnded.push(() => resume(Effect.void))
    })
    return Effect.suspend(() => {
      this.stopping = true
      this.link.note("stop", undefined)
      return Effect.timeoutOption(ended, this.stopTimeout)
    }).pipe(
      Effect.flatMap((exit) => (Option.isSome(exit) ? Effect.void : this.terminate)),
      Effect.provideService(Clock.Clock, wall)
    )
  }

  private onExit(code: number): void {
    // It may have said why, and that may come after its end.
    this.drain()
    const why = this.error === undefined ? `with exit code ${code}` : `because ${this.error}`
    this.ended = true
    this.settle(Exit.fail(`its thread ended ${why}`))
    for (const resume of this.onEnded) resume()
    if (this.isLost || !this.stopping) this.onLoss(why)
  }

  private settle(exit: Exit.Exit<unknown, unknown>): void {
    this.started ??= exit
    this.onStarted?.(this.started)
  }
}

// A thread takes real time, whatever the clock of the program.
const wall = Context.get(Context.empty(), Clock.Clock)
