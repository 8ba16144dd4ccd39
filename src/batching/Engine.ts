/**
 * Runs batches: binds `BatchQueue` to Effect.
 *
 * An item comes, waits in its group, and goes with a batch when a slot is free. Every item has exactly one outcome, and
 * nothing that a user's function does can stop the engine: what it throws is the outcome of the items it concerns. A batch runs
 * in a fiber of its own, in the services of the layer that made the batcher; when all its callers have left, it is interrupted.
 *
 * @since 0.1.0
 */
import { Cause, Clock, Context, Duration, Effect, Exit, Fiber, Random, Tracer } from "effect"
import { Alarm } from "../admission/Alarm.ts"
import * as RequestContext from "../core/RequestContext.ts"
import * as ServeError from "../core/ServeError.ts"
import type { Batch, BatchQueue, Group, Limits, Release } from "./BatchQueue.ts"
import type { CostModel } from "./CostModel.ts"
import { type Counts, Tally } from "./Tally.ts"
import type { Running, Ticket } from "./Ticket.ts"

/**
 * What bounds a batcher. Times are in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface EngineLimits extends Limits {
  readonly maxConcurrentBatches: number
  readonly maxQueuedItems: number
}

/**
 * What a batcher does at the moment. Times are in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface State extends Counts, EngineLimits {
  readonly name: string
  readonly status: "Ready" | "Draining" | "Stopped"
  /** Items that wait. */
  readonly queued: number
  /** Batches that run. */
  readonly running: number
  /** What was learnt of the run times: what each batch takes, and what each item adds. */
  readonly fixedMillis: number
  readonly millisPerItem: number
}

export class Engine<A, S> {
  readonly tally: Tally
  /** Warns when the batches can't fill. */
  readonly warn: Effect.Effect<void>
  private limits: EngineLimits
  private readonly name: string
  private readonly queue: BatchQueue<A, S, Ticket<A>>
  private readonly cost: CostModel
  private readonly work: (tickets: ReadonlyArray<Ticket<A>>) => Effect.Effect<boolean, unknown>
  private readonly context: Context.Context<never>
  private readonly clock: Clock.Clock
  private readonly alarm: Alarm<Group<Ticket<A>>>
  private readonly running = new Set<Running<A>>()
  private readonly gracefulShutdownTimeout: Duration.Duration
  private status: "Ready" | "Draining" | "Stopped" = "Ready"
  private pumping = false
  private turns = 0
  /** Milliseconds for which the last batch held the event loop when it began. */
  private lastStart = 0
  private onIdle: (() => void) | undefined = undefined

  /**
   * `work` runs a batch and gives its tickets their outcomes, or answers them; those that have none are answered with its
   * failure. Its result is whether its run time says how long such a batch takes.
   */
  constructor(options: {
    readonly name: string
    readonly limits: EngineLimits
    readonly queue: BatchQueue<A, S, Ticket<A>>
    readonly cost: CostModel
    readonly work: (tickets: ReadonlyArray<Ticket<A>>) => Effect.Effect<boolean, unknown>
    readonly context: Context.Context<never>
    readonly gracefulShutdownTimeout: Duration.Duration
    readonly warn: (limits: EngineLimits) => Effect.Effect<void>
  }) {
    this.warn = Effect.suspend(() => options.warn(this.limits))
    this.name = options.name
    this.limits = options.limits
    this.queue = options.queue
    this.cost = options.cost
    this.work = options.work
    this.context = options.context
    this.gracefulShutdownTimeout = options.gracefulShutdownTimeout
    this.clock = Context.get(options.context, Clock.Clock)
    this.tally = new Tally(() => this.queue.size)
    const fork = Effect.runForkWith(options.context)
    this.alarm = new Alarm({
      now: () => this.now,
      after: (delay, effect) => fork(Effect.andThen(this.clock.sleep(delay), effect)),
      strike: (group) => {
        this.schedule(group)
        this.pump()
      }
    })
  }

  /** Milliseconds on the clock. */
  get now(): number {
    return this.clock.currentTimeMillisUnsafe()
  }

  get state(): State {
    return {
      name: this.name,
      status: this.status,
      queued: this.queue.size,
      running: this.running.size,
      ...this.limits,
      fixedMillis: this.cost.fixed,
      millisPerItem: this.cost.perItem,
      ...this.tally.counts
    }
  }

  /** Queues an item, or answers why not. Never waits. */
  submit(ticket: Ticket<A>): void {
    if (this.status !== "Ready") return ticket.answer(Exit.fail(this.unavailable))
    if (ticket.deadline <= ticket.arrivedAt) return this.expire(ticket)
    const { maxBatchSize, maxConcurrentBatches, maxQueuedItems } = this.limits
    const mayRun = this.running.size < maxConcurrentBatches
    if (this.queue.size >= maxQueuedItems && !mayRun) return ticket.answer(Exit.fail(this.queueFull))
    ticket.turn = this.turns++
    try {
      const size = this.queue.measure(ticket.value)
      if (size > maxBatchSize) return ticket.answer(Exit.fail(this.tooLarge(size)))
      this.schedule(this.queue.add(ticket, ticket.arrivedAt))
    } catch (error) {
      return ticket.answer(Exit.die(error))
    }
    if (this.pumping) return
    this.pump()
    const { group } = ticket
    if (group === undefined || this.queue.size <= maxQueuedItems) return
    this.queue.remove(ticket, ticket.arrivedAt)
    this.schedule(group)
    ticket.answer(Exit.fail(this.queueFull))
  }

  /** Ends the wait of a caller that has left. The last one of a batch waits until the batch has stopped, the others don't. */
  leave(ticket: Ticket<A>): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (!ticket.isLive) return Effect.void
      ticket.hasLeft = true
      const { batch, group } = ticket
      if (group !== undefined) {
        this.queue.remove(ticket, this.now)
        this.tally.drop("left")
        this.schedule(group)
        this.pump()
        return Effect.void
      }
      if (batch === undefined) {
        this.tally.drop("left")
        return Effect.void
      }
      this.tally.waste()
      return batch.tickets.some(({ isLive }) => isLive) ? Effect.void : stop(batch)
    })
  }

  /** Changes the limits. A batch that items wait for already keeps its own; slots and places count at once. */
  update(limits: EngineLimits): void {
    this.limits = limits
    this.queue.limits = limits
    this.pump()
  }

  /**
   * Takes nothing more, runs what waits and lets what runs finish within `gracefulShutdownTimeout`; then fails what still
   * waits and interrupts what still runs.
   */
  get close(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.status = "Draining"
      for (const group of this.queue.all) this.schedule(group)
      this.pump()
      return Effect.timeoutOrElse(this.idle, {
        duration: this.gracefulShutdownTimeout,
        orElse: () =>
          Effect.andThen(
            Effect.suspend(() => this.abandon()),
            this.idle
          )
      })
    }).pipe(
      Effect.andThen(
        Effect.sync(() => {
          this.status = "Stopped"
          this.alarm.close()
        })
      )
    )
  }

  /** Sees to it that a group is ripe when it should be. */
  private schedule(group: Group<Ticket<A>>): void {
    const { now } = this
    this.alarm.unwatch(group)
    if (this.status !== "Ready") return this.queue.ripen(group, now, "drain")
    const { at, release } = this.queue.ripens(group, now)
    if (at <= now) return this.queue.ripen(group, now, release)
    group.due = Math.ceil(at)
    this.alarm.watch(group)
  }

  /** Runs ripe batches as long as there are slots. */
  private pump(): void {
    if (this.pumping) return
    this.pumping = true
    try {
      while (this.running.size < this.limits.maxConcurrentBatches) {
        const { now } = this
        const batch = this.queue.next(now)
        if (batch === undefined) break
        if (batch.entries.length > 0) this.start(batch, now)
        this.schedule(batch.group)
        for (const ticket of batch.expired) this.expire(ticket)
        for (const { entry, size } of batch.tooLarge) entry.answer(Exit.fail(this.tooLarge(size)))
        for (const { entry, error } of batch.broken) entry.answer(Exit.die(error))
      }
    } finally {
      this.pumping = false
    }
    this.rest()
  }

  private start({ entries, release }: Batch<Ticket<A>>, now: number): void {
    const batch: Running<A> = { tickets: entries, startedAt: now, fiber: undefined }
    this.running.add(batch)
    this.tally.start(release, entries.length, now - entries[0]!.arrivedAt)
    for (const ticket of entries) ticket.batch = batch
    const context = Context.add(this.context, RequestContext.RequestContext, together(entries))
    const fiber = Effect.runForkWith(context)(traced(this.work(entries), this.name, release, entries))
    this.lastStart = this.now - now
    // Before anything else: a caller that left on this very stack waits for it.
    batch.fiber = fiber
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return this.ended(batch, exit)
    fiber.addObserver((exit) => this.ended(batch, exit))
  }

  private ended(batch: Running<A>, exit: Exit.Exit<boolean, unknown>): void {
    const millis = this.now - batch.startedAt
    this.running.delete(batch)
    this.tally.end(millis)
    if (Exit.isSuccess(exit) && exit.value) this.cost.record(batch.tickets.length, millis)
    // To hear their outcomes and to act on them keeps the callers busy for as long as a small batch takes, so the next one
    // begins before, unless its beginning keeps everyone waiting.
    if (this.lastStart <= QUICK) this.pump()
    for (const ticket of batch.tickets) {
      if (ticket.isLive) ticket.answer(ticket.outcome ?? this.failureOf(exit))
    }
    this.pump()
  }

  /** The outcome of an item that was given none. */
  private failureOf(exit: Exit.Exit<boolean, unknown>): Exit.Exit<never, unknown> {
    if (Exit.isSuccess(exit)) return Exit.die(new Error("The batch ended without an outcome for this item"))
    if (!Cause.hasInterruptsOnly(exit.cause)) return Exit.failCause(exit.cause)
    return this.status === "Ready"
      ? Exit.die(new Error("The run function of the batch interrupted itself"))
      : Exit.fail(this.unavailable)
  }

  private abandon(): Effect.Effect<void> {
    for (const ticket of Array.from(this.queue)) {
      // One that was answered before may have made it leave.
      if (ticket.group === undefined) continue
      this.queue.remove(ticket, this.now)
      ticket.answer(Exit.fail(this.unavailable))
    }
    return Effect.forEach(Array.from(this.running), stop, { concurrency: "unbounded", discard: true })
  }

  private expire(ticket: Ticket<A>): void {
    if (!ticket.isLive) return
    this.tally.drop("expired")
    ticket.answer(Exit.fail(because(() => new ServeError.DeadlineExceeded({ deployment: this.name, stage: "batch" }))))
  }

  private rest(): void {
    if (this.running.size === 0 && this.queue.size === 0) this.onIdle?.()
  }

  private get idle(): Effect.Effect<void> {
    return Effect.callback((resume) => {
      this.onIdle = () => resume(Effect.void)
      this.rest()
    })
  }

  private get unavailable(): ServeError.ServeError {
    return because(() => new ServeError.Unavailable({ deployment: this.name, why: "draining" }))
  }

  private tooLarge(size: number): ServeError.ServeError {
    return because(() => new ServeError.ItemTooLarge({ size, maxBatchSize: this.limits.maxBatchSize }))
  }

  private get queueFull(): ServeError.ServeError {
    const { maxBatchSize, maxConcurrentBatches, maxQueuedItems } = this.limits
    const ongoing = Array.from(this.running).reduce((sum, { tickets }) => sum + tickets.length, 0)
    // Batches that are full, one after the other, in each of the slots.
    const batches = (this.queue.size + 1) / maxBatchSize / maxConcurrentBatches
    const drainTime = batches * (this.cost.known ? this.cost.predict(maxBatchSize) : UNKNOWN)
    return because(
      () =>
        new ServeError.QueueFull({
          deployment: this.name,
          ongoing,
          maxOngoingRequests: Math.min(Math.floor(maxBatchSize * maxConcurrentBatches), Number.MAX_SAFE_INTEGER),
          queued: this.queue.size,
          maxQueuedRequests: maxQueuedItems,
          retryAfter: Duration.millis(
            Math.ceil(drainTime * (1 + Context.get(this.context, Random.Random).nextDoubleUnsafe()))
          )
        })
    )
  }
}

const UNKNOWN = 1000

/** A batch that holds the event loop for more milliseconds when it begins is computed right there. */
const QUICK = 1

const { because } = ServeError

/** Interrupts a batch and waits until it has stopped. */
const stop = <A>(batch: Running<A>): Effect.Effect<void> =>
  batch.fiber === undefined
    ? // It is starting further down this very stack.
      Effect.andThen(
        Effect.yieldNow,
        Effect.suspend(() => stop(batch))
      )
    : Effect.asVoid(Fiber.interrupt(batch.fiber))

/** What the items of a batch have in common, and until when the last of them is of use. */
const together = (tickets: ReadonlyArray<Ticket<unknown>>): RequestContext.RequestContext => {
  const requests = tickets.map(({ request }) => request)
  const same = <K extends "tenant" | "modelId" | "sessionId" | "route" | "principal">(key: K) => {
    const value = requests[0]![key]
    return requests.every((request) => request[key] === value) ? value : undefined
  }
  return {
    requestId: requests.length === 1 ? requests[0]!.requestId : "",
    deadline: requests.reduce((latest, { deadline }) => Math.max(latest, deadline), 0),
    priority: priorities.find((priority) => requests.some((request) => request.priority === priority))!,
    tenant: same("tenant"),
    modelId: same("modelId"),
    sessionId: same("sessionId"),
    route: same("route"),
    principal: same("principal"),
    lastEventId: undefined
  }
}

const priorities = ["critical", "default", "sheddable"] as const

/** Gives a batch a span of its own, linked to those of its callers, when any of them is traced. */
const traced = (
  work: Effect.Effect<boolean, unknown>,
  name: string,
  release: Release,
  tickets: ReadonlyArray<Ticket<unknown>>
): Effect.Effect<boolean, unknown> => {
  const traces = tickets.flatMap(({ trace }) => trace ?? [])
  if (traces.length === 0) return work
  const span = Effect.withSpan(work, `${name}.batch`, {
    root: true,
    links: traces.map(({ span }) => ({ span, attributes: {} })),
    attributes: { size: tickets.length, release }
  })
  const { tracer } = traces[0]!
  return tracer === undefined ? span : Effect.provideService(span, Tracer.Tracer, tracer)
}
