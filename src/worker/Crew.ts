/**
 * The threads of a pool: starts them, keeps as many as are needed, and starts others in place of those that end.
 *
 * A thread that has nothing to do for `idleTimeout` ends, down to `minSize`, and another one is started when a call finds none
 * free. One that crashes is made good at once the first time, and after a rest that doubles while no thread in its place finishes a
 * task.
 *
 * @since 0.1.0
 */
import { Clock, Context, Duration, Effect, type Fiber } from "effect"
import type { Call } from "./Call.ts"
import { ModuleFailed } from "../core/ModuleFile.ts"
import { type Origin, Thread } from "./Thread.ts"
import type { Answer, Kind, Thrown } from "./Wire.ts"

/** Tasks that a thread is sent at most before it has done the first of them, and the milliseconds that they may take. */
const MAX_AHEAD = 16
const MAX_MILLIS_AHEAD = 0.4

/** Milliseconds of rest after the second of a row of crashes, and after any later one at most. */
const FIRST_REST = 100
const LONGEST_REST = 30_000

/**
 * How many threads there should be.
 *
 * @category options
 * @since 0.1.0
 */
export interface Rules extends Origin {
  readonly size: number
  readonly minSize: number
  readonly idleTimeout: Duration.Duration
}

/** The functions that threads can run. */
export type Functions = ReadonlyArray<readonly [name: string, kind: Kind]>

type Started = Effect.Effect<Functions, ModuleFailed>

/** What threads tell the pool. */
interface Listener {
  readonly onAnswer: (thread: Thread<Call>, call: Call | undefined, answer: Answer) => void
  /** There may be a thread that is free. */
  readonly onFree: () => void
  /** A thread has ended, for what `error` says, and left what it had to do. */
  readonly onLost: (thread: Thread<Call>, exitCode: number, error: Thrown | undefined) => void
}

export class Crew {
  crashes = 0
  restarts = 0
  private readonly rules: Rules
  private readonly listener: Listener
  private readonly clock: Clock.Clock
  private readonly fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>
  /** All that have not ended. */
  private readonly threads = new Set<Thread<Call>>()
  /** Those that have nothing to do; the last one was the last to have something. */
  private readonly idle: Array<Thread<Call>> = []
  /** Those that are about to be started, after a rest. */
  private readonly resting = new Set<Fiber.Fiber<void>>()
  private shrinking: Fiber.Fiber<void> | undefined = undefined
  private isClosing = false
  private onStarted: ((started: Started) => void) | undefined = undefined
  private unready: number
  private onEnded: (() => void) | undefined = undefined

  constructor(rules: Rules, context: Context.Context<never>, listener: Listener) {
    this.rules = rules
    this.unready = rules.size
    this.listener = listener
    this.clock = Context.get(context, Clock.Clock)
    this.fork = Effect.runForkWith(context)
  }

  /** Starts all threads, and gives the functions that they have when they are ready. Fails when one of them can't be. */
  readonly start: Started = Effect.callback((resume) => {
    this.onStarted = resume
    for (let i = 0; i < this.rules.size; i++) this.add()
  })

  get all(): Iterable<Thread<Call>> {
    return this.threads
  }

  /** Threads that have not ended. */
  get size(): number {
    return this.threads.size
  }

  /** Threads that have something to do. */
  get busy(): number {
    let busy = 0
    for (const { size } of this.threads) if (size > 0) busy++
    return busy
  }

  /** A thread that has nothing to do. */
  get free(): Thread<Call> | undefined {
    return this.idle.findLast(({ hasRoom }) => hasRoom)
  }

  /** The thread that will soonest be through with what it has, if that is soon. */
  ahead(millis: number): Thread<Call> | undefined {
    let soonest: Thread<Call> | undefined
    for (const thread of this.threads) {
      if (!thread.hasRoom || thread.size >= MAX_AHEAD || thread.backlog + millis > MAX_MILLIS_AHEAD) continue
      if (soonest === undefined || thread.backlog < soonest.backlog) soonest = thread
    }
    return soonest
  }

  /** The thread that has most to do, if that is more than one task. */
  get longest(): Thread<Call> | undefined {
    let longest: Thread<Call> | undefined
    for (const thread of this.threads) if (thread.size > (longest?.size ?? 1)) longest = thread
    return longest
  }

  /** A thread has something to do. */
  engage(thread: Thread<Call>): void {
    const at = this.idle.lastIndexOf(thread)
    if (at !== -1) this.idle.splice(at, 1)
  }

  /** A thread has nothing to do any more. */
  release(thread: Thread<Call>): void {
    if (thread.status !== "Ready") return
    if (this.isClosing) return thread.end()
    thread.isDoomed = false
    this.idle.push(thread)
    if (this.threads.size > this.rules.size) this.trim()
    if (this.threads.size <= this.rules.minSize) return
    thread.idleSince = this.clock.currentTimeMillisUnsafe()
    this.shrink()
  }

  /** Starts another thread when there can be more, and fewer than `waiting` are being started. */
  grow(waiting: number): void {
    let starting = 0
    for (const { status } of this.threads) if (status === "Starting") starting++
    if (starting + this.resting.size < waiting && this.strength < this.rules.size) this.add()
  }

  /** Starts another thread in place of one that will have to be ended. */
  doom(thread: Thread<Call>): void {
    thread.isDoomed = true
    this.replace()
  }

  /** Ends a thread, whatever it does, and starts another in its place. */
  end(thread: Thread<Call>): void {
    thread.end()
    this.replace()
  }

  /** Ends when all threads have: those that have nothing to do at once, the others when they are released. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    this.isClosing = true
    this.shrinking?.interruptUnsafe()
    for (const fiber of this.resting) fiber.interruptUnsafe()
    for (const thread of this.threads) if (thread.size === 0) thread.end()
    if (this.threads.size === 0) return Effect.void
    return Effect.callback<void>((resume) => {
      this.onEnded = () => resume(Effect.void)
    })
  })

  /** Threads that there are, or will be, once those that have to be ended are gone. */
  private get strength(): number {
    let strength = this.resting.size
    for (const { isDoomed, status } of this.threads) if (status !== "Ending" && !isDoomed) strength++
    return strength
  }

  private add(failures = 0): void {
    const thread = new Thread<Call>(this.rules, failures, {
      onReady: this.joined,
      onAnswer: this.listener.onAnswer,
      onExit: this.left
    })
    this.threads.add(thread)
  }

  private readonly joined = (thread: Thread<Call>, functions: Functions): void => {
    this.unready--
    this.release(thread)
    if (this.unready === 0) {
      // Only from now on is there anything to do.
      for (const thread of this.idle) thread.idleSince = this.clock.currentTimeMillisUnsafe()
      this.started(Effect.succeed(functions))
      this.shrink()
    }
    this.listener.onFree()
  }

  private started(started: Started): void {
    this.onStarted?.(started)
    this.onStarted = undefined
  }

  private readonly left = (thread: Thread<Call>, exitCode: number, error: Thrown | undefined): void => {
    this.threads.delete(thread)
    this.engage(thread)
    this.listener.onLost(thread, exitCode, error)
    if (thread.status !== "Ending") this.crashed(thread, describeExit(exitCode, error))
    if (this.threads.size === 0) this.onEnded?.()
    this.listener.onFree()
  }

  private crashed(thread: Thread<Call>, why: string): void {
    if (this.isClosing) return
    if (this.onStarted !== undefined) {
      return this.started(Effect.fail(new ModuleFailed({ module: this.rules.entry.href, description: why })))
    }
    this.crashes++
    const failures = thread.failures + 1
    const rest = failures === 1 ? 0 : Math.min(FIRST_REST * 2 ** (failures - 2), LONGEST_REST)
    this.fork(
      Effect.logWarning(`A thread of pool "${this.rules.name}" is gone: ${why}. Another one is started in ${rest} ms.`)
    )
    this.replace(failures, rest)
  }

  private replace(failures = 0, rest = 0): void {
    if (this.isClosing || this.strength >= this.rules.size) return
    this.restarts++
    if (rest === 0) return this.add(failures)
    const fiber = this.after(Duration.millis(rest), () => {
      this.resting.delete(fiber)
      this.add(failures)
    })
    this.resting.add(fiber)
  }

  /** Ends a thread that there is too many, because a task that was told to stop did. */
  private trim(): void {
    if (this.strength <= this.rules.size) return
    const extra = Array.from(this.threads).find(({ status }) => status === "Starting") ?? this.idle.shift()
    extra?.end()
  }

  /** Ends threads that have had nothing to do for long, as soon as they have. */
  private shrink(): void {
    const [first] = this.idle
    if (this.unready > 0 || this.shrinking !== undefined || first === undefined || this.strength <= this.rules.minSize)
      return
    const timeout = Duration.toMillis(this.rules.idleTimeout)
    if (timeout === Infinity) return
    const rest = Math.max(first.idleSince + timeout - this.clock.currentTimeMillisUnsafe(), 0)
    this.shrinking = this.after(Duration.millis(rest), () => {
      this.shrinking = undefined
      const before = this.clock.currentTimeMillisUnsafe() - timeout
      while (this.strength > this.rules.minSize && this.idle.length > 0 && this.idle[0]!.idleSince <= before) {
        this.idle.shift()!.end()
      }
      this.shrink()
    })
  }

  private after(delay: Duration.Duration, run: () => void): Fiber.Fiber<void> {
    return this.fork(Effect.andThen(this.clock.sleep(delay), Effect.sync(run)))
  }
}

export const describeExit = (exitCode: number, error: Thrown | undefined): string =>
  error === undefined ? `ended with exit code ${exitCode}` : `${error.name}: ${error.description}`
