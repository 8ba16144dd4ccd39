/**
 * Brings each request of a deployment to a replica, and sees it to its end.
 *
 * A request is admitted, waits if every permit is taken, is given a replica, runs in a fiber of its own, and is settled
 * once. Taking a request from the queue, choosing its replica and reserving the permit are one synchronous step, and a
 * permit that comes free goes to the next request at once: nothing polls, and there is no moment in which a permit is
 * lost or given twice. Every counter changes with the state of a request and nowhere else, so at every instant
 * `accepted = completed + failed + cancelled + expired + queued + running`.
 *
 * @since 0.1.0
 */
import { Clock, Context, type Duration, Effect, Exit, Fiber, Option, Random, Scheduler, type Scope } from "effect"
import { AdmissionQueue, type Discipline, type Fairness, type ShedReason } from "../admission/AdmissionQueue.ts"
import { Alarm } from "../admission/Alarm.ts"
import { Line } from "../admission/Line.ts"
import type { Priority } from "../core/RequestContext.ts"
import type { ServeError } from "../core/ServeError.ts"
import type { Replica } from "../replica/Replica.ts"
import type { Request, StopReason } from "../replica/Request.ts"
import { Cancel } from "./Cancel.ts"
import { Places, type PlaceState, type Rules } from "./Places.ts"
import { Refusals } from "./Refusals.ts"
import { RetryBudget } from "./RetryBudget.ts"
import { type Counts, type Outcome, Tally } from "./Tally.ts"
import * as Work from "./Work.ts"

/** Requests handed over in one go, and milliseconds that this may take, before other fibers get a turn. */
const HANDOVERS_PER_TURN = 1024
const MILLIS_PER_TURN = 2

/**
 * What a deployment does at the moment.
 *
 * @category models
 * @since 0.1.0
 */
export interface State extends Counts {
  readonly deployment: string
  readonly status: "Ready" | "Draining" | "Stopped"
  readonly replicas: ReadonlyArray<PlaceState>
  /** Requests that hold a permit, on all replicas. */
  readonly running: number
  /** Requests that wait for a permit. */
  readonly queued: number
  /** The same by priority. */
  readonly waiting: Readonly<Record<Priority, number>>
  /** Whether the queue has not been empty for so long that there is more work than capacity. */
  readonly overloaded: boolean
  readonly maxQueuedRequests: number
}

/**
 * What a router needs to know.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options extends Rules {
  readonly deployment: string
  readonly methods: ReadonlyArray<string>
  readonly replicas: ReadonlyArray<Replica>
  readonly maxQueuedRequests: number
  readonly queueDiscipline: Discipline
  readonly fairness: Fairness
  readonly gracefulShutdownTimeout: Duration.Duration
}

/** Starts a router over replicas that are ready. Closing the scope drains it. */
export const make = Effect.fnUntraced(function* (options: Options): Effect.fn.Return<Router, never, Scope.Scope> {
  const idPrefix = (yield* Random.nextIntBetween(36 ** 5, 36 ** 6)).toString(36)
  const router = new Router(options, idPrefix, yield* Effect.context())
  yield* router.places.open
  yield* router.tally.show
  yield* router.places.show(options.deployment)
  yield* Effect.addFinalizer(() => router.close)
  return router
})

export class Router {
  /** When the router started, in whole milliseconds on the clock: its own times count from here. */
  readonly origin: number
  readonly tally: Tally
  readonly places: Places
  private readonly options: Options
  private readonly clock: Clock.Clock
  private readonly queue: AdmissionQueue<Request>
  private readonly running = new Line<Request>()
  private readonly alarm: Alarm<Request>
  private readonly budget = new RetryBudget()
  private readonly refusals: Refusals
  private readonly spanNames: ReadonlyArray<string>
  private readonly idPrefix: string
  private readonly dispatcher: Scheduler.SchedulerDispatcher

  private status: State["status"] = "Ready"
  private handingOver = false
  private ids = 0
  private turns = 0
  private onIdle: (() => void) | undefined = undefined
  private cutOffBy: ServeError | undefined = undefined

  constructor(options: Options, idPrefix: string, context: Context.Context<never>) {
    this.options = options
    this.idPrefix = idPrefix
    this.clock = Context.get(context, Clock.Clock)
    this.origin = Math.floor(this.clock.currentTimeMillisUnsafe())
    this.dispatcher = Context.get(context, Scheduler.Scheduler).makeDispatcher()
    this.spanNames = options.methods.map((method) => `${options.deployment}.${method}`)
    const fork = Effect.runForkWith(context)
    const source = Context.get(context, Random.Random)
    const random = () => source.nextDoubleUnsafe()
    this.places = new Places({
      replicas: options.replicas,
      rules: options,
      random,
      fork,
      onRoom: () => this.handOver()
    })
    this.queue = new AdmissionQueue({
      maxSize: options.maxQueuedRequests,
      discipline: options.queueDiscipline,
      fairness: options.fairness,
      methods: options.methods.length,
      permits: () => this.places.permits
    })
    this.refusals = new Refusals(options.deployment, (request, now) => this.queue.drainTime(request, now), random)
    this.alarm = new Alarm({
      now: () => this.now,
      after: (delay, effect) => fork(Effect.andThen(this.clock.sleep(delay), effect)),
      strike: (request) => this.strike(request)
    })
    this.tally = new Tally(
      options.deployment,
      options.methods,
      options.replicas.map(({ id }) => id)
    )
  }

  /** Milliseconds since `origin`. */
  get now(): number {
    return this.clock.currentTimeMillisUnsafe() - this.origin
  }

  /** Starts a request, queues it, or answers it with the reason why not. Never waits. */
  submit(request: Request): void {
    const now = request.arrivedAt
    if (this.status !== "Ready") return this.refuse(request, this.refusals.unavailable(request, now, "draining"))
    if (this.cutOffBy !== undefined) return this.refuse(request, this.cutOffBy)
    if (this.places.size === 0) return this.refuse(request, this.refusals.unavailable(request, now, "noReplicas"))
    if (request.deadline <= now) return this.refuse(request, this.refusals.expired("admission"))
    request.turn = this.turns++
    this.budget.request(now)
    const place = this.queue.size === 0 ? this.places.choose(now) : -1
    if (place !== -1) {
      this.tally.accept(request.method)
      return this.start(request, place, now)
    }
    const shed = this.queue.offer(request, now)
    if (shed === "full") return this.refuse(request, this.refusals.full(request, now, this.load))
    if (shed === "late") return this.refuse(request, this.refusals.late(request, now, "admission"))
    this.tally.accept(request.method)
    this.tally.enqueue(request.method)
    this.alarm.watch(request)
    if (shed !== undefined) this.shed(shed.waiter, shed.why, now)
  }

  /** Ends a request whose caller left, and waits until its work has stopped. */
  cancel(request: Request): Effect.Effect<void> {
    return new Cancel(this, request)
  }

  /** What {@link Router.cancel} does when it runs. */
  cancelNow(request: Request): Effect.Effect<void> {
    if (request.state === "Settled" || request.isAnswered) return Effect.void
    if (request.state === "Queued") {
      this.leaveQueue(request)
      this.settle(request, "cancelled")
      return Effect.void
    }
    this.stop(request, "cancelled")
    return request.fiber === undefined
      ? // Its handler is starting further down this very stack.
        Effect.andThen(Effect.yieldNow, this.cancel(request))
      : Effect.asVoid(Fiber.await(request.fiber))
  }

  /** A stream gave its first element: from now on only its caller's own deadline counts, and its permit may be free. */
  streaming(request: Request): void {
    this.answered(request, this.now)
    if (request.relay?.releasesEarly === true) {
      request.relay.hasReleased = true
      this.places.release(request.place)
      this.handOver()
    }
    const deadline = request.relay?.deadline ?? request.deadline
    if (request.deadline === deadline) return
    this.alarm.unwatch(request)
    request.deadline = deadline
    request.due = deadline
    this.alarm.watch(request)
  }

  /** Changes the permits of every replica; a lower number takes effect as requests end. */
  resize(maxOngoingRequests: number): Effect.Effect<void> {
    return Effect.andThen(
      this.places.resize(maxOngoingRequests),
      Effect.sync(() => this.handOver())
    )
  }

  /** A replica has left: what it runs is lost, and what it hasn't started goes to another one. */
  leave(place: number): void {
    this.places.leave(place)
    for (const request of Array.from(this.running)) {
      if (request.place === place && request.state === "Running") this.lose(request)
    }
  }

  /** The same for a replica that sees itself to what it runs. */
  retire(place: number): void {
    this.places.leave(place)
  }

  /** Another replica takes the place of one that has left. */
  join(place: number, replica: Replica): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.cutOffBy = undefined
      return this.places.join(place, replica, this.now)
    })
  }

  /** No replica can be reached, which will not change soon: until one joins, nobody waits for it. */
  cutOff(error: ServeError): void {
    this.cutOffBy = error
    this.failQueued(() => error)
  }

  get state(): State {
    return {
      deployment: this.options.deployment,
      status: this.status,
      replicas: this.places.state,
      running: this.running.size,
      queued: this.queue.size,
      waiting: this.queue.sizes,
      overloaded: this.queue.isStanding(this.now),
      maxQueuedRequests: this.queue.maxSize,
      ...this.tally.counts
    }
  }

  /**
   * Admits nothing more, lets what was accepted finish within `gracefulShutdownTimeout`, and then fails what still
   * waits and interrupts what still runs. Ends when all work has stopped.
   */
  get close(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.status = "Draining"
      return Effect.timeoutOrElse(this.idle, {
        duration: this.options.gracefulShutdownTimeout,
        orElse: () =>
          Effect.andThen(
            Effect.sync(() => this.abandon()),
            Effect.all([this.idle, this.places.end], { concurrency: "unbounded", discard: true })
          )
      })
    }).pipe(
      Effect.andThen(
        Effect.sync(() => {
          this.status = "Stopped"
          this.alarm.close()
          this.places.close()
        })
      )
    )
  }

  private start(request: Request, place: number, now: number): void {
    const replica = this.reserve(request, place, now)
    const context = request.contextAs(request.outer.requestId || this.newId(), this.origin)
    const fiber = Work.start(request, replica, context, this.spanNames[request.method]!)
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return this.ended(request, exit)
    request.fiber = fiber
    Work.whenEnded(fiber, (exit) => this.ended(request, exit))
    if (request.stopping === undefined) this.alarm.watch(request)
    else fiber.interruptUnsafe()
  }

  private ended(request: Request, end: Work.End): void {
    const now = this.now
    const { place, stopping } = request
    if (stopping !== undefined) {
      this.release(request, now)
      this.settle(request, stopping === "lost" ? "failed" : stopping)
    } else if (Exit.isSuccess(end) && Option.isNone(end.value)) {
      this.takeBack(request, now)
      this.places.block(place)
    } else if (this.wasLost(request, end) && this.mayReroute(request, now)) {
      request.rerouted = true
      this.tally.reroute(request.method)
      this.takeBack(request, now)
    } else {
      const outcome = this.judge(request, end, now)
      this.release(request, now)
      this.settle(request, outcome)
      request.end(outcome === "expired" ? Exit.fail(this.refusals.expired(request.stage)) : Work.answerOf(end))
    }
    this.handOver()
  }

  private answered(request: Request, now: number): void {
    const time = now - request.startedAt
    this.queue.answered(request.method, time)
    this.places.answered(request.place, now, time)
  }

  /** How a request ended that was not told to stop, and what is to be learnt from it. */
  private judge(request: Request, end: Work.End, now: number): Outcome {
    if (Exit.isSuccess(end)) {
      const time = now - request.startedAt
      this.queue.completed(time)
      if (request.relay === undefined) this.answered(request, now)
      this.places.succeeded(request.place, now, time)
      return "completed"
    }
    const reason = Work.reasonOf(end)
    if (reason === undefined) this.places.failed(request.place, now)
    // A nested call has the same deadline, and may have heard of it first.
    return now >= request.deadline && reason === "DeadlineExceeded" ? "expired" : "failed"
  }

  /** Gives the free permits to the requests that wait, in turn. */
  private handOver(): void {
    if (this.handingOver || this.queue.size === 0) return
    this.handingOver = true
    try {
      const from = this.now
      for (let handovers = 0; this.queue.size > 0; handovers++) {
        const now = this.now
        const place = this.places.choose(now)
        if (place === -1) return
        if (handovers === HANDOVERS_PER_TURN || now - from > MILLIS_PER_TURN) {
          this.dispatcher.scheduleTask(() => this.handOver(), 0)
          return
        }
        const request = this.queue.next(now)!
        this.tally.dequeue(request.method)
        if (this.queue.isLate(request, now)) this.expireQueued(request, now)
        else this.start(request, place, now)
      }
    } finally {
      this.handingOver = false
    }
  }

  /** A replica did not start a request: it waits again, in its old turn. */
  private takeBack(request: Request, now: number): void {
    this.release(request, now)
    request.state = "Queued"
    request.place = -1
    request.fiber = undefined
    this.queue.restore(request, now)
    this.tally.enqueue(request.method)
    this.alarm.watch(request)
  }

  /** Whether a replica left before it started a request. Then it gets no more of them. */
  private wasLost(request: Request, end: Work.End): boolean {
    const reason = Work.reasonOf(end)
    if (reason !== "ReplicaLost" && reason !== "TransportError") return false
    if (this.places.replica(request.place).hasLeft()) this.places.leave(request.place)
    return request.state === "Reserved"
  }

  /** Whether a request may be sent to another replica: once, within the budget, and not while none can be reached. */
  private mayReroute(request: Request, now: number): boolean {
    return !request.rerouted && this.cutOffBy === undefined && this.budget.withdraw(now)
  }

  private reserve(request: Request, place: number, now: number): Replica {
    this.places.reserve(place)
    this.running.add(request)
    this.tally.reserve(request.method, place, now - request.arrivedAt)
    if (request.due !== request.deadline) {
      this.alarm.unwatch(request)
      request.due = request.deadline
    }
    request.state = "Reserved"
    request.place = place
    request.startedAt = now
    return this.places.replica(place)
  }

  private release(request: Request, now: number): void {
    const { place } = request
    if (request.relay?.hasReleased !== true) this.places.release(place)
    this.running.remove(request)
    this.tally.release(request.method, place, now - request.startedAt)
  }

  private settle(request: Request, outcome: Outcome): void {
    request.state = "Settled"
    this.alarm.unwatch(request)
    this.tally.settle(request.method, request.place, outcome)
    if (this.onIdle !== undefined && this.running.size === 0 && this.queue.size === 0) this.onIdle()
  }

  private leaveQueue(request: Request): void {
    this.queue.cancel(request, this.now)
    this.tally.dequeue(request.method)
  }

  private stop(request: Request, reason: StopReason): void {
    request.stopping ??= reason
    request.fiber?.interruptUnsafe()
  }

  /** A request has waited for too long, or its deadline has passed. */
  private strike(request: Request): void {
    const now = this.now
    if (request.state === "Queued") {
      this.queue.cancel(request, now)
      if (now < request.deadline) return this.shed(request, "queueTimeout", now)
      this.tally.dequeue(request.method)
      return this.expireQueued(request, now)
    }
    if (request.stopping !== undefined) return
    if (request.relay?.started !== true) this.places.failed(request.place, now)
    this.stop(request, "expired")
    request.end(Exit.fail(this.refusals.expired(request.stage)))
  }

  private expireQueued(request: Request, now: number): void {
    this.settle(request, "expired")
    request.end(Exit.fail(this.refusals.late(request, now, "queue")))
  }

  /** Drops a request that has left the queue for the sake of others. */
  private shed(request: Request, why: ShedReason, now: number): void {
    this.tally.dequeue(request.method)
    this.tally.shed(request.method, why)
    this.settle(request, "failed")
    request.end(Exit.fail(this.refusals.shed(request, now, why)))
  }

  private refuse(request: Request, error: ServeError): void {
    request.state = "Settled"
    this.tally.reject(request.method, error.reason._tag)
    request.end(Exit.fail(error))
  }

  private abandon(): void {
    this.failQueued((request) => this.refusals.unavailable(request, this.now, "draining"))
    for (const request of Array.from(this.running)) this.lose(request)
  }

  private failQueued(why: (request: Request) => ServeError): void {
    for (const request of Array.from(this.queue)) {
      this.leaveQueue(request)
      this.settle(request, "failed")
      request.end(Exit.fail(why(request)))
    }
  }

  private lose(request: Request): void {
    const started = request.state === "Running"
    this.stop(request, "lost")
    request.end(Exit.fail(this.refusals.lost(this.places.replica(request.place).id, started)))
  }

  private get idle(): Effect.Effect<void> {
    return Effect.callback((resume) => {
      if (this.running.size === 0 && this.queue.size === 0) return resume(Effect.void)
      this.onIdle = () => resume(Effect.void)
    })
  }

  private newId(): string {
    return `${this.idPrefix}-${(this.ids++).toString(36)}`
  }

  private get load() {
    return {
      ongoing: this.running.size,
      maxOngoingRequests: this.places.permits,
      queued: this.queue.size,
      maxQueuedRequests: this.queue.maxSize
    }
  }
}
