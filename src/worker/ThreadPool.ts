/**
 * A pool of threads that run functions of a module, one at a time in each.
 *
 * A call goes to a thread that is free, or waits in line. Functions that are short, by experience, are also sent ahead to a thread
 * that is not free yet, so that it need not wait for its next task; what it has not started can be taken back, and is when
 * another thread has nothing to do. A call whose caller leaves is told to stop, and when it doesn't, its thread is ended and replaced.
 *
 * @since 0.1.0
 */
import { Clock, Context, Duration, Effect, Exit, type Scope, Stream } from "effect"
import { Alarm } from "../admission/Alarm.ts"
import { Line } from "../admission/Line.ts"
import * as Metrics from "../core/Metrics.ts"
import { RequestContext } from "../core/RequestContext.ts"
import * as ServeError from "../core/ServeError.ts"
import { Call, Elements, missing, type Outcome, Task, TaskError, unsendable } from "./Call.ts"
import { Crew, describeExit, type Rules } from "./Crew.ts"
import * as Oversubscription from "./Oversubscription.ts"
import type { ModuleFailed } from "../core/ModuleFile.ts"
import type { Thread } from "./Thread.ts"
import { About, type Answer, type Failure, type Kind, type Thrown, transferOf } from "./Wire.ts"
import type { Options } from "./WorkerPool.ts"

/**
 * What a pool does at the moment, and the options it goes by.
 *
 * @category models
 * @since 0.1.0
 */
export interface PoolState {
  readonly name: string
  readonly status: "Ready" | "Draining" | "Stopped"
  /** Threads that there are, also those that are being started or ended. */
  readonly threads: number
  /** Threads that run a task. */
  readonly running: number
  /** Calls that wait until a thread starts them. */
  readonly queued: number
  /** Calls by outcome. Those that were refused on arrival are none of them. */
  readonly completed: number
  readonly failed: number
  readonly cancelled: number
  /** Threads that ended by themselves, and threads that were started in place of others. */
  readonly crashes: number
  readonly restarts: number
  readonly options: typeof Options.Type
}

/** Starts a pool whose threads are ready. Closing the scope ends it. */
export const make = Effect.fnUntraced(function* (
  options: Rules & typeof Options.Type
): Effect.fn.Return<ThreadPool, ModuleFailed, Scope.Scope> {
  const context = yield* Effect.context()
  const pool = yield* Effect.acquireRelease(
    Effect.sync(() => new ThreadPool(options, context)),
    (pool) => pool.close
  )
  yield* Oversubscription.register({ kind: "pool", name: options.name, threads: options.size })
  yield* pool.start
  yield* pool.show
  return pool
})

/** What a task is expected to take behind which nothing is sent, in milliseconds. */
const LONG = 1e6

/** Milliseconds after which a task is one that takes longer than expected, if others were sent behind it. */
const STUCK = 2

/** Threads that may end under a call before they start it. */
const MAX_LOSSES = 3

type Answered = Effect.Effect<unknown, ServeError.ServeError | TaskError>
type Streamed = Stream.Stream<unknown, ServeError.ServeError | TaskError>

export class ThreadPool {
  private readonly name: string
  private readonly options: typeof Options.Type
  private readonly clock: Clock.Clock
  private readonly alarm: Alarm<Call>
  private readonly crew: Crew
  private readonly tasks = new Map<string, Task>()
  private readonly queue = new Line<Call>()
  private readonly grace: number
  private readonly taskTimeout: number
  private readonly runTime = new Metrics.Histogram()
  private readonly counts = { completed: 0, failed: 0, cancelled: 0 }
  private status: PoolState["status"] = "Ready"
  private turns = 0
  /** Calls that were accepted and are not settled. */
  private size = 0
  private meanMillis = 0

  constructor(rules: Rules & typeof Options.Type, context: Context.Context<never>) {
    const { attach: _, data: __, entry: ___, name, ...options } = rules
    this.name = name
    this.options = options
    this.clock = Context.get(context, Clock.Clock)
    this.grace = Duration.toMillis(options.cancelGrace)
    this.taskTimeout = Duration.toMillis(options.taskTimeout)
    const fork = Effect.runForkWith(context)
    this.alarm = new Alarm({
      now: () => this.now,
      after: (delay, effect) => fork(Effect.andThen(this.clock.sleep(delay), effect)),
      strike: (call) => this.strike(call)
    })
    this.crew = new Crew(rules, context, {
      onAnswer: (thread, call, answer) => this.answered(thread, call, answer),
      onFree: () => this.handOut(),
      onLost: (thread, exitCode, error) => this.lost(thread, exitCode, error)
    })
  }

  private get now(): number {
    return this.clock.currentTimeMillisUnsafe()
  }

  /** Starts the threads. */
  get start(): Effect.Effect<void, ModuleFailed> {
    return Effect.map(this.crew.start, (functions) => {
      functions.forEach(([name, kind], number) => this.tasks.set(name, new Task(name, kind, number)))
    })
  }

  /** What the threads can run. */
  get functions(): ReadonlyMap<string, Kind> {
    return new Map(Array.from(this.tasks.values(), ({ kind, name }) => [name, kind]))
  }

  /** Calls a function that has one result. */
  call(name: string, args: ReadonlyArray<unknown>): Answered {
    return Effect.withFiber((caller) =>
      Effect.callback<unknown, ServeError.ServeError | TaskError>((resume) => {
        const task = this.tasks.get(name)
        if (task === undefined) return resume(Effect.fail(missing(name)))
        const call = new Call({
          task,
          args,
          moved: transferOf(args, this.options.transfer),
          request: caller.getRef(RequestContext),
          resume
        })
        this.submit(call)
        return call.state === "Settled" ? undefined : this.cancel(call)
      })
    )
  }

  /** Calls a generator. */
  stream(name: string, args: ReadonlyArray<unknown>): Streamed {
    const open = Effect.withFiber((caller) =>
      Effect.suspend(() => {
        const task = this.tasks.get(name)
        if (task === undefined) return Effect.fail(missing(name))
        const elements = new Elements((wanted) => {
          if (call.state === "Sent") call.thread!.want(call, wanted)
        })
        const call = new Call({
          task,
          args,
          moved: transferOf(args, this.options.transfer),
          request: caller.getRef(RequestContext),
          elements,
          resume: (outcome) => elements.end(outcome)
        })
        this.submit(call)
        return Effect.succeed({ call, elements })
      })
    )
    return Stream.unwrap(
      Effect.map(
        Effect.acquireRelease(open, ({ call }) => this.cancel(call)),
        ({ elements }) => Stream.fromPull(Effect.succeed(elements.pull))
      )
    )
  }

  get state(): PoolState {
    const { busy, crashes, restarts, size } = this.crew
    return {
      name: this.name,
      status: this.status,
      threads: size,
      running: busy,
      queued: this.size - busy,
      ...this.counts,
      crashes,
      restarts,
      options: this.options
    }
  }

  /** Shows the metrics until the scope closes. */
  get show(): Effect.Effect<void, never, Scope.Scope> {
    const tags = { pool: this.name }
    return Effect.all(
      [
        Metrics.showGauge(Metrics.poolThreads, tags, () => this.crew.size),
        Metrics.showGauge(Metrics.poolRunning, tags, () => this.crew.busy),
        Metrics.showGauge(Metrics.poolQueued, tags, () => this.size - this.crew.busy),
        Metrics.showCounter(Metrics.poolCompleted, tags, () => this.counts.completed),
        Metrics.showCounter(Metrics.poolFailed, tags, () => this.counts.failed),
        Metrics.showCounter(Metrics.poolCancelled, tags, () => this.counts.cancelled),
        Metrics.showCounter(Metrics.poolCrashes, tags, () => this.crew.crashes),
        Metrics.showHistogram(Metrics.poolRunTime, tags, this.runTime)
      ],
      { discard: true }
    )
  }

  /** Fails what waits, tells what runs to stop, and waits until all threads have ended. */
  get close(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.status = "Draining"
      const sent = Array.from(this.crew.all).flatMap(({ unanswered }) => unanswered)
      for (const call of [...this.queue, ...sent]) {
        if (call.state === "Settled" || call.isAnswered) continue
        if (this.withdraw(call)) this.answer(call, Exit.fail(this.unavailable))
        else this.stop(call)
      }
      return this.crew.close
    }).pipe(
      Effect.andThen(
        Effect.sync(() => {
          this.status = "Stopped"
          this.alarm.close()
        })
      )
    )
  }

  private submit(call: Call): void {
    if (this.status !== "Ready") return this.refuse(call, this.unavailable)
    if (call.deadline !== Infinity && call.deadline <= this.now) return this.refuse(call, this.late("queue"))
    if (this.size >= this.options.size + this.options.maxQueuedTasks) return this.refuse(call, this.full)
    this.size++
    call.turn = this.turns++
    const thread = this.queue.size === 0 ? this.threadFor(call) : undefined
    if (thread === undefined) this.enqueue(call)
    else this.send(call, thread)
  }

  private refuse(call: Call, error: ServeError.ServeError): void {
    call.state = "Settled"
    call.answer(Exit.fail(error))
  }

  private enqueue(call: Call): void {
    this.watch(call, call.deadline)
    this.queue.add(call)
    this.crew.grow(this.queue.size)
  }

  /** The thread that a call goes to, if it need not wait. */
  private threadFor({ moved, task }: Call): Thread<Call> | undefined {
    // What is moved can't be sent again, so it goes only to a thread that will not keep it waiting.
    return (
      this.crew.free ?? (moved === undefined && task.kind === "function" ? this.crew.ahead(task.meanMillis) : undefined)
    )
  }

  private handOut(): void {
    for (let call = this.queue.first; call !== undefined; call = this.queue.first) {
      const thread = this.threadFor(call)
      if (thread === undefined) return
      this.queue.remove(call)
      this.send(call, thread)
    }
  }

  private send(call: Call, thread: Thread<Call>): void {
    try {
      thread.send(call)
    } catch (error) {
      this.settle(call)
      return this.answer(call, Exit.fail(unsendable(call, error)))
    }
    call.state = "Sent"
    call.thread = thread
    call.expected = call.task.kind === "generator" ? LONG : Math.min(call.task.meanMillis, LONG)
    thread.backlog += call.expected
    this.goOn(thread)
  }

  /** A thread was sent a call, or has one less: if another one is its first now, that runs from now on. */
  private goOn(thread: Thread<Call>): void {
    const { current, first } = thread
    if (first === current) return
    thread.current = first
    if (first === undefined) {
      thread.backlog = 0
      return this.crew.release(thread)
    }
    if (current === undefined) this.crew.engage(thread)
    thread.busySince = this.now
    this.watch(first, Math.min(first.deadline, thread.busySince + this.taskTimeout))
  }

  private watch(call: Call, due: number): void {
    this.alarm.unwatch(call)
    call.due = Math.ceil(due)
    this.alarm.watch(call)
  }

  private answered(thread: Thread<Call>, call: Call | undefined, answer: Answer): void {
    if (answer[1] === About.TakenBack) return this.handOut()
    if (call === undefined) return
    if (answer[1] === About.Element) return this.flows(call, answer[2])
    this.ran(call, thread, answer[3])
    this.settle(call)
    this.leaves(call, thread)
    this.answer(call, answer[1] === About.Result ? Exit.succeed(answer[2]) : Exit.fail(this.failure(call, answer[2])))
    if (thread.size === 0) this.share()
  }

  private flows(call: Call, element: unknown): void {
    if (call.isAnswered) return
    // The timeout of a task is that to the first element.
    if (this.taskTimeout !== Infinity) this.watch(call, call.deadline)
    call.elements?.push(element)
  }

  private ran(call: Call, thread: Thread<Call>, millis: number): void {
    thread.failures = 0
    call.task.ran(millis)
    this.runTime.record(millis)
    this.meanMillis += (millis - this.meanMillis) / 8
  }

  /** A thread has a call less to do. */
  private leaves(call: Call, thread: Thread<Call>): void {
    thread.backlog -= call.expected
    this.goOn(thread)
    // What waits came later than what some thread was sent and can't start.
    if (this.queue.size > 0) for (const thread of this.crew.all) this.takeBackFrom(thread)
    this.handOut()
  }

  /** Takes back what a thread was sent behind a task that takes longer than expected. */
  private takeBackFrom(thread: Thread<Call>): void {
    if (thread.size < 2 || this.now - thread.busySince < STUCK) return
    thread.backlog += LONG
    this.takeBackAll(thread)
  }

  /** Takes back all that a thread has not started. */
  private takeBackAll(thread: Thread<Call>): void {
    for (const call of thread.takeBackAll()) this.restore(call)
    this.goOn(thread)
  }

  /** Takes back what the thread that has most to do has not started, for one that has nothing to do. */
  private share(): void {
    const { free, longest } = this.crew
    if (free === undefined || longest === undefined) return
    this.takeBackAll(longest)
    this.handOut()
  }

  /** Gives a call that was taken back its place in the queue. */
  private restore(call: Call): void {
    call.thread!.backlog -= call.expected
    call.thread = undefined
    call.state = "Queued"
    this.watch(call, call.deadline)
    this.queue.restore(call)
  }

  /** A call is no longer a concern of the pool. */
  private settle(call: Call): void {
    call.state = "Settled"
    this.alarm.unwatch(call)
    this.size--
  }

  private answer(call: Call, result: Outcome): void {
    const outcome = call.isLate ? Exit.fail(this.late("handler")) : result
    if (!call.isAnswered) {
      if (Exit.isSuccess(outcome)) this.counts.completed++
      else this.counts.failed++
    }
    call.answer(outcome)
    if (call.state === "Settled") call.onSettled?.()
  }

  /** Ends a call whose caller leaves, and waits until its task has stopped. */
  private cancel(call: Call): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (call.isAnswered) return Effect.void
      call.isAnswered = true
      this.counts.cancelled++
      if (this.withdraw(call)) return Effect.void
      if (call.state === "Sent") this.stop(call)
      return Effect.callback<void>((resume) => {
        if (call.state === "Settled") return resume(Effect.void)
        call.onSettled = () => resume(Effect.void)
      })
    })
  }

  /** Takes a call out that no thread has started. Whether that was possible. */
  private withdraw(call: Call): boolean {
    const { thread } = call
    if (thread === undefined) this.queue.remove(call)
    else if (!thread.takeBack(call)) return false
    this.settle(call)
    if (thread !== undefined) this.leaves(call, thread)
    return true
  }

  private strike(call: Call): void {
    if (call.state === "Stopping") return this.doom(call)
    if (call.state === "Doomed") return this.crew.end(call.thread!)
    if (this.withdraw(call)) return this.answer(call, Exit.fail(this.late("queue")))
    this.stop(call)
    // Whoever serves a request holds a permit for it, which is not to come back before the thread has stopped.
    if (call.isServing) call.isLate = true
    else this.answer(call, Exit.fail(this.late("handler")))
  }

  /** Tells a task that runs to stop, and sees to it that its thread is ended when it doesn't. */
  private stop(call: Call): void {
    const thread = call.thread!
    call.state = "Stopping"
    this.alarm.unwatch(call)
    thread.cancel(call)
    this.takeBackAll(thread)
    // Nothing is sent behind it.
    thread.backlog += LONG
    if (this.grace === 0) this.crew.end(thread)
    else if (this.grace !== Infinity) this.halfLater(call)
    this.handOut()
  }

  /** The second half of the grace: another thread is started, so that it is ready when this one has to be ended. */
  private doom(call: Call): void {
    call.state = "Doomed"
    this.crew.doom(call.thread!)
    this.halfLater(call)
  }

  private halfLater(call: Call): void {
    this.watch(call, this.now + this.grace / 2)
  }

  /** A thread has ended: what it had not started goes elsewhere. */
  private lost(thread: Thread<Call>, exitCode: number, error: Thrown | undefined): void {
    for (const call of thread.takeBackAll()) {
      if (++call.losses < MAX_LOSSES && this.status === "Ready") this.restore(call)
      else this.crash(call, exitCode, error)
    }
    for (const call of thread.unanswered) this.crash(call, exitCode, error)
  }

  private crash(call: Call, exitCode: number, error: Thrown | undefined): void {
    const outcome =
      this.status === "Ready"
        ? because(() => new ServeError.WorkerCrashed({ exitCode, description: describeExit(exitCode, error) }))
        : this.unavailable
    this.settle(call)
    this.answer(call, Exit.fail(outcome))
  }

  private failure(call: Call, failure: Failure): ServeError.ServeError | TaskError {
    return this.status === "Ready" ? new TaskError({ task: call.task.name, ...failure }) : this.unavailable
  }

  private get unavailable(): ServeError.ServeError {
    return because(() => new ServeError.Unavailable({ deployment: this.name, why: "draining" }))
  }

  private late(stage: "queue" | "handler"): ServeError.ServeError {
    return because(() => new ServeError.DeadlineExceeded({ deployment: this.name, stage }))
  }

  private get full(): ServeError.ServeError {
    const { maxQueuedTasks, size } = this.options
    const { busy } = this.crew
    const queued = this.size - busy
    return because(
      () =>
        new ServeError.QueueFull({
          deployment: this.name,
          ongoing: busy,
          maxOngoingRequests: size,
          queued,
          maxQueuedRequests: maxQueuedTasks,
          retryAfter: Duration.millis(Math.ceil((this.meanMillis * (queued + 1)) / size))
        })
    )
  }
}

const { because } = ServeError
