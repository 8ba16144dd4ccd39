/**
 * Continuous batching: a loop of steps over a set of sequences, which join and leave between two steps.
 *
 * A language model makes one token of each sequence per step, and sequences end at different times. In a batch that runs to its
 * end, the ones that are done take part in vain and new ones wait (Yu et al., "Orca", OSDI 2022, call this iteration-level
 * scheduling). Here a sequence that has ended leaves at once, and one that waits takes its place in the next step.
 *
 * @since 0.1.0
 */
import { Cause, Clock, Duration, Effect, Exit, Fiber, Latch, Queue, Schema, type Scope, Stream } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import { Line } from "../admission/Line.ts"
import { count, CountOrInfinity, decode, orElse, Time } from "../core/Options.ts"
import {
  BatchContract,
  because,
  DeadlineExceeded,
  QueueFull,
  type ServeError,
  Unavailable
} from "../core/ServeError.ts"
import { Host, nameIn } from "./Host.ts"
import { Tally } from "./Tally.ts"
import { originOf, Ticket } from "./Ticket.ts"

/**
 * The options of {@link continuous} that are data.
 *
 * @category options
 * @since 0.1.0
 */
export const ContinuousLimits = Schema.Struct({
  /** Most sequences that take part in a step, at least 1. Default `8`. */
  maxActive: count(1).pipe(Schema.withDecodingDefaultTypeKey(orElse(8))),
  /** Items that wait to join; more fail with `QueueFull`. `Infinity` is allowed. Default `1000`. */
  maxQueuedItems: CountOrInfinity.pipe(Schema.withDecodingDefaultTypeKey(orElse(1000))),
  /** Elements that a caller may leave unread, at least 1; its sequence sits out the steps until it has read some. Default `16`. */
  bufferSize: count(1).pipe(Schema.withDecodingDefaultTypeKey(orElse(16))),
  /** Time that sequences get to end when the scope closes. Default `"20 seconds"`. */
  gracefulShutdownTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(20))))
})

/**
 * What a step did for one sequence: its next state, what it gives its caller, and whether it has ended.
 *
 * @category models
 * @since 0.1.0
 */
export interface Step<S, B> {
  readonly state: S
  readonly emit: ReadonlyArray<B>
  readonly done: boolean
}

/**
 * The options of {@link continuous}.
 *
 * @category options
 * @since 0.1.0
 */
export interface ContinuousOptions<A, S, B, E, R> extends Partial<typeof ContinuousLimits.Encoded> {
  /** Its name in states and metrics. Default `"batcher"`, `"batcher-2"` for the second of a replica, and so on. */
  readonly name?: string
  /** Makes the state of a sequence from an item, before its first step. */
  readonly admit: (item: A) => Effect.Effect<S, E, R>
  /**
   * Takes one step with the sequences that are active: one result for each, in the same order. A result that is a failed `Exit`
   * ends its own sequence, a failure of `step` ends all that took part, and the loop goes on with the others.
   */
  readonly step: (
    active: NonEmptyReadonlyArray<S>
  ) => Effect.Effect<ReadonlyArray<Step<S, B> | Exit.Exit<Step<S, B>, E>>, E, R>
  /** Gives back what a state holds, when its sequence ends for any reason. Default: nothing is done. */
  readonly release?: (state: S) => Effect.Effect<void, never, R>
}

/**
 * What a continuous batcher does at the moment.
 *
 * @category models
 * @since 0.1.0
 */
export interface ContinuousState {
  readonly name: string
  readonly status: "Ready" | "Draining" | "Stopped"
  readonly maxActive: number
  readonly maxQueuedItems: number
  /** Items that wait to join. */
  readonly queued: number
  /** Sequences that take part. */
  readonly active: number
  /** Steps taken since the start, and the sequences that took part in them, added up. */
  readonly steps: number
  readonly sequenceSteps: number
}

/**
 * A function that lets an item join the loop and gives what its sequence emits. It fails with the error of `admit` or `step`, or with a
 * `ServeError`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Continuous<A, B, E> {
  (item: A): Stream.Stream<B, E | ServeError>
  readonly state: Effect.Effect<ContinuousState>
}

class Sequence<A, S, B, E> {
  readonly ticket: Ticket<A>
  readonly outbox: Queue.Queue<B, E | ServeError | Cause.Done>
  state: S | undefined = undefined
  /** Opened when nobody waits for it any more. */
  readonly over = Latch.makeUnsafe()
  /** Whether it waits to join. */
  waits = false
  /** Elements that its caller has not read. */
  unread = 0

  turn = 0
  spot = 0

  constructor(ticket: Ticket<A>, outbox: Queue.Queue<B, E | ServeError | Cause.Done>) {
    this.ticket = ticket
    this.outbox = outbox
  }
}

/**
 * Starts a loop that takes steps with all the sequences that are active, as long as there are any.
 *
 * A caller that leaves, or whose deadline passes, takes its sequence out before the next step; when none is left, the step that
 * runs is interrupted. A caller that reads slowly makes its own sequence sit out, and no other.
 *
 * Streams fail with the error of `admit` or `step`, or with a `ServeError`: `QueueFull`, `BatchContract`, `DeadlineExceeded` or
 * `Unavailable`. Dies when an option is out of range.
 *
 * @example
 * ```ts
 * import { Effect, Stream } from "effect"
 * import { Batching } from "effect-serve"
 *
 * const program = Effect.gen(function*() {
 *   const countdown = yield* Batching.continuous({
 *     maxActive: 4,
 *     admit: (from: number) => Effect.succeed(from),
 *     step: (active) => Effect.succeed(active.map((n) => ({ state: n - 1, emit: [n], done: n === 1 })))
 *   })
 *   return yield* Effect.forEach([3, 1], (n) => Stream.runCollect(countdown(n)), { concurrency: "unbounded" })
 * })
 *
 * console.log(await Effect.runPromise(Effect.scoped(program))) // => [ [ 3, 2, 1 ], [ 1 ] ]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const continuous = <A, S, B, E = never, R = never>(
  options: ContinuousOptions<A, S, B, E, R>
): Effect.Effect<Continuous<A, B, E>, never, R | Scope.Scope> =>
  Effect.gen(function* () {
    const host = yield* Host
    const name = nameIn(host, options.name)
    const written = Object.entries(options).filter(([key]) => key in ContinuousLimits.fields)
    const limits = yield* decode(ContinuousLimits, Object.fromEntries(written), name)
    const clock = yield* Clock.Clock
    const loop = new Loop(host === undefined ? name : `${host.deployment}.${name}`, limits, options, clock)
    yield* loop.tally.show({ deployment: host?.deployment ?? "none", replica: host?.replica ?? "none", batcher: name })
    const fiber = yield* Effect.forkScoped(loop.run)
    yield* Effect.addFinalizer(() =>
      Effect.andThen(
        loop.close,
        Effect.sync(() => fiber.interruptUnsafe())
      )
    )
    const state = () => loop.counts
    if (host !== undefined) {
      yield* Effect.acquireRelease(
        Effect.sync(() => host.batchers.add(state)),
        () => Effect.sync(() => host.batchers.delete(state))
      )
    }
    const call = (item: A) =>
      Stream.unwrap(
        Effect.map(
          Effect.acquireRelease(loop.open(item), (sequence) => loop.leave(sequence)),
          (sequence) => Stream.fromPull(Effect.succeed(loop.pull(sequence)))
        )
      )
    return Object.assign(call, { state: Effect.sync(state) })
  })

class Loop<A, S, B, E, R> {
  readonly tally: Tally
  private readonly name: string
  private readonly limits: typeof ContinuousLimits.Type
  private readonly options: ContinuousOptions<A, S, B, E, R>
  private readonly clock: Clock.Clock
  private readonly waiting = new Line<Sequence<A, S, B, E>>()
  private active: Array<Sequence<A, S, B, E>> = []
  /** Those whose states are being made, and those in the step that runs. */
  private joining: ReadonlyArray<Sequence<A, S, B, E>> = []
  private taking: ReadonlyArray<Sequence<A, S, B, E>> = []
  /** No deadline passes before. */
  private earliest = Infinity
  /** Opened when there may be something to do, and when nobody waits for the step that runs. */
  private readonly wake = Latch.makeUnsafe()
  private readonly abandoned = Latch.makeUnsafe()
  private readonly idle = Latch.makeUnsafe(true)
  private status: ContinuousState["status"] = "Ready"
  private turns = 0
  private steps = 0
  private sequenceSteps = 0

  constructor(
    name: string,
    limits: typeof ContinuousLimits.Type,
    options: ContinuousOptions<A, S, B, E, R>,
    clock: Clock.Clock
  ) {
    this.name = name
    this.limits = limits
    this.options = options
    this.clock = clock
    this.tally = new Tally(() => this.waiting.size)
  }

  get counts(): ContinuousState {
    return {
      name: this.name,
      status: this.status,
      maxActive: this.limits.maxActive,
      maxQueuedItems: this.limits.maxQueuedItems,
      queued: this.waiting.size,
      active: this.active.length,
      steps: this.steps,
      sequenceSteps: this.sequenceSteps
    }
  }

  /** Takes steps as long as the scope is open. */
  get run(): Effect.Effect<never, never, R> {
    return Effect.forever(
      Effect.suspend(() => {
        this.wake.closeUnsafe()
        this.expireLate()
        return this.removeEnded.pipe(
          Effect.andThen(this.admitWaiting),
          Effect.andThen(Effect.suspend(() => this.takeStep)),
          Effect.andThen(this.removeEnded),
          Effect.andThen(Effect.suspend(() => (this.mayStep ? Effect.yieldNow : this.rest)))
        )
      })
    )
  }

  open(item: A): Effect.Effect<Sequence<A, S, B, E>> {
    return Effect.withFiber((caller) =>
      Effect.map(Queue.unbounded<B, E | ServeError | Cause.Done>(), (outbox) => {
        const now = this.clock.currentTimeMillisUnsafe()
        const ticket = new Ticket(item, now, originOf(caller), (exit: Exit.Exit<void, E | ServeError>) =>
          Exit.isSuccess(exit) ? Queue.endUnsafe(outbox) : Queue.failCauseUnsafe(outbox, exit.cause)
        )
        const sequence = new Sequence<A, S, B, E>(ticket, outbox)
        this.offer(sequence, now)
        return sequence
      })
    )
  }

  /** What the caller reads: all that is there, the end, or the failure. */
  pull(sequence: Sequence<A, S, B, E>) {
    return Effect.tap(Queue.takeAll(sequence.outbox), (elements) =>
      Effect.sync(() => {
        sequence.unread -= elements.length
        this.wake.openUnsafe()
      })
    )
  }

  leave(sequence: Sequence<A, S, B, E>): Effect.Effect<void> {
    return Effect.sync(() => {
      const { ticket } = sequence
      if (!ticket.isLive) return
      ticket.hasLeft = true
      sequence.over.openUnsafe()
      if (sequence.waits) {
        this.dequeue(sequence)
        this.tally.drop("left")
      } else this.tally.waste()
      this.changed()
    })
  }

  /** Takes nothing more and lets what is there end within `gracefulShutdownTimeout`; then it fails. */
  get close(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.status = "Draining"
      this.changed()
      return Effect.timeoutOrElse(this.idle.await, {
        duration: this.limits.gracefulShutdownTimeout,
        orElse: () =>
          Effect.andThen(
            Effect.sync(() => this.abandon()),
            this.idle.await
          )
      })
    }).pipe(Effect.andThen(Effect.sync(() => (this.status = "Stopped"))))
  }

  private abandon(): void {
    const error = Exit.fail(this.unavailable)
    for (const sequence of Array.from(this.waiting)) {
      this.dequeue(sequence)
      sequence.ticket.answer(error)
    }
    for (const { over, ticket } of [...this.joining, ...this.active]) {
      ticket.answer(error)
      over.openUnsafe()
    }
    this.changed()
  }

  private changed(): void {
    this.wake.openUnsafe()
    if (this.taking.every(({ ticket }) => !ticket.isLive)) this.abandoned.openUnsafe()
  }

  private dequeue(sequence: Sequence<A, S, B, E>): void {
    sequence.waits = false
    this.waiting.remove(sequence)
  }

  private offer(sequence: Sequence<A, S, B, E>, now: number): void {
    const { ticket } = sequence
    if (this.status !== "Ready") return ticket.answer(Exit.fail(this.unavailable))
    const free = this.limits.maxActive - this.active.length - this.joining.length
    if (this.waiting.size >= this.limits.maxQueuedItems + free) return ticket.answer(Exit.fail(this.queueFull))
    if (ticket.deadline <= now) return this.expire(sequence, "batch")
    sequence.turn = this.turns++
    sequence.waits = true
    this.earliest = Math.min(this.earliest, ticket.deadline)
    this.waiting.add(sequence)
    this.idle.closeUnsafe()
    this.wake.openUnsafe()
  }

  /** Lets those who wait join as long as there is room. */
  private get admitWaiting(): Effect.Effect<void, never, R> {
    return Effect.suspend(() => {
      this.expireLate()
      const joining: Array<Sequence<A, S, B, E>> = []
      while (this.active.length + joining.length < this.limits.maxActive) {
        const sequence = this.waiting.first
        if (sequence === undefined) break
        this.dequeue(sequence)
        joining.push(sequence)
      }
      if (joining.length === 0) return Effect.void
      this.joining = joining
      return Effect.andThen(
        Effect.forEach(joining, (sequence) => this.admitOne(sequence), { concurrency: "unbounded", discard: true }),
        Effect.sync(() => (this.joining = []))
      )
    })
  }

  private admitOne(sequence: Sequence<A, S, B, E>): Effect.Effect<void, never, R> {
    // A state that was made is never lost, even if its caller leaves at that moment.
    const join = Effect.uninterruptibleMask((restore) =>
      Effect.matchCause(restore(Effect.suspend(() => this.options.admit(sequence.ticket.value))), {
        onFailure: (cause) => sequence.ticket.answer(failureOf(cause)),
        onSuccess: (state) => {
          sequence.state = state
          this.active.push(sequence)
        }
      })
    )
    return Effect.ignoreCause(Effect.raceFirst(join, sequence.over.await))
  }

  /** Fails all whose deadlines have passed. */
  private expireLate(): void {
    const now = this.clock.currentTimeMillisUnsafe()
    if (now < this.earliest) return
    for (const sequence of Array.from(this.waiting)) {
      if (sequence.ticket.deadline > now) continue
      this.dequeue(sequence)
      this.expire(sequence, "batch")
    }
    for (const sequence of this.active) if (sequence.ticket.deadline <= now) this.expire(sequence, "stream")
    this.earliest = Math.min(...Array.from([...this.waiting, ...this.active], ({ ticket }) => ticket.deadline))
  }

  private get takeStep(): Effect.Effect<void, never, R> {
    this.expireLate()
    const now = this.clock.currentTimeMillisUnsafe()
    const taking = this.active.filter((sequence) => this.canStep(sequence))
    if (taking.length === 0) return Effect.void
    this.taking = taking
    this.abandoned.closeUnsafe()
    const states = taking.map(({ state }) => state!) as unknown as NonEmptyReadonlyArray<S>
    this.steps++
    this.sequenceSteps += taking.length
    return Effect.suspend(() => this.options.step(states)).pipe(
      Effect.map((results) => this.apply(taking, results)),
      Effect.raceFirst(this.abandoned.await),
      Effect.matchCause({
        onFailure: (cause) => {
          for (const { ticket } of taking) ticket.answer(failureOf(cause))
        },
        onSuccess: () => {}
      }),
      Effect.andThen(Effect.sync(() => this.tally.step(taking.length, this.clock.currentTimeMillisUnsafe() - now)))
    )
  }

  private apply(
    taking: ReadonlyArray<Sequence<A, S, B, E>>,
    results: ReadonlyArray<Step<S, B> | Exit.Exit<Step<S, B>, E>>
  ): void {
    const expected = taking.length
    const received = results.length
    if (received !== expected) {
      const error = because(() => new BatchContract({ expected, received }))
      for (const { ticket } of taking) ticket.answer(Exit.fail(error))
      return
    }
    taking.forEach((sequence, i) => {
      const result = results[i]!
      const exit = Exit.isExit(result) ? result : Exit.succeed(result)
      if (Exit.isFailure(exit)) return sequence.ticket.answer(failureOf(exit.cause))
      const { done, emit, state } = exit.value
      sequence.state = state
      if (!sequence.ticket.isLive) return
      sequence.unread += emit.length
      for (const element of emit) Queue.offerUnsafe(sequence.outbox, element)
      if (done) sequence.ticket.answer(Exit.void)
    })
  }

  private get removeEnded(): Effect.Effect<void, never, R> {
    return Effect.suspend(() => {
      const { release } = this.options
      const ended = this.active.filter(({ ticket }) => !ticket.isLive)
      if (ended.length === 0) return Effect.void
      this.active = this.active.filter(({ ticket }) => ticket.isLive)
      return release === undefined
        ? Effect.void
        : Effect.forEach(
            ended,
            // In a fiber of its own, so that nothing that it does can end the loop.
            ({ state }) =>
              Effect.flatMap(Effect.forkChild(Effect.suspend(() => release(state!))), (fiber) => Fiber.await(fiber)),
            { discard: true }
          )
    })
  }

  private get rest(): Effect.Effect<void> {
    if (this.active.length === 0 && this.waiting.size === 0) {
      this.earliest = Infinity
      this.idle.openUnsafe()
    }
    if (this.earliest === Infinity) return this.wake.await
    const millis = this.earliest - this.clock.currentTimeMillisUnsafe()
    return Effect.asVoid(Effect.timeoutOption(this.wake.await, Math.max(millis, 0)))
  }

  private get mayStep(): boolean {
    return (
      this.active.some((sequence) => this.canStep(sequence)) ||
      (this.waiting.size > 0 && this.active.length < this.limits.maxActive)
    )
  }

  private canStep({ ticket, unread }: Sequence<A, S, B, E>): boolean {
    return ticket.isLive && unread < this.limits.bufferSize
  }

  private expire({ ticket }: Sequence<A, S, B, E>, stage: "batch" | "stream"): void {
    this.tally.drop("expired")
    ticket.answer(Exit.fail(because(() => new DeadlineExceeded({ deployment: this.name, stage }))))
  }

  private get unavailable(): ServeError {
    return because(() => new Unavailable({ deployment: this.name, why: "draining" }))
  }

  private get queueFull(): ServeError {
    return because(
      () =>
        new QueueFull({
          deployment: this.name,
          ongoing: this.active.length,
          maxOngoingRequests: this.limits.maxActive,
          queued: this.waiting.size,
          maxQueuedRequests: this.limits.maxQueuedItems,
          retryAfter: Duration.seconds(1)
        })
    )
  }
}

// A step that interrupts itself must not look like an interruption of the callers.
const failureOf = <E>(cause: Cause.Cause<E>): Exit.Exit<never, E> =>
  Cause.hasInterruptsOnly(cause) ? Exit.die(new Error("The step interrupted itself")) : Exit.failCause(cause)
