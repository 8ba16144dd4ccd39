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
import {
  Cause,
  Clock,
  Context,
  Duration,
  Effect,
  Effectable,
  Exit,
  Fiber,
  Option,
  Random,
  Scheduler,
  type Scope,
  Tracer
} from "effect"
import { RequestContext } from "../core/RequestContext.ts"
import * as ServeError from "../core/ServeError.ts"
import type { Replica } from "../replica/Replica.ts"
import type { Request, StopReason } from "../replica/Request.ts"
import { AdmissionQueue } from "./AdmissionQueue.ts"
import { Alarm } from "./Alarm.ts"
import { Places } from "./Places.ts"
import { type Counts, type Outcome, Tally } from "./Tally.ts"

/** Requests handed over in one go, and milliseconds that this may take, before other fibers get a turn. */
const HANDOVERS_PER_TURN = 1024
const MILLIS_PER_TURN = 2

/** Weight of the newest run time in the running mean, and the mean before there is one, in milliseconds. */
const NEWEST_WEIGHT = 0.1
const FIRST_MEAN = 1000

/**
 * What a deployment does at the moment.
 *
 * @category models
 * @since 0.1.0
 */
export interface DeploymentState extends Counts {
  readonly deployment: string
  readonly status: "Ready" | "Draining" | "Stopped"
  readonly replicas: ReadonlyArray<{
    readonly id: string
    readonly running: number
    readonly maxOngoingRequests: number
  }>
  /** Requests that hold a permit, on all replicas. */
  readonly running: number
  /** Requests that wait for a permit. */
  readonly queued: number
  readonly maxQueuedRequests: number
}

/**
 * What a router needs to know.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  readonly deployment: string
  readonly methods: ReadonlyArray<string>
  readonly replicas: ReadonlyArray<Replica>
  readonly maxOngoingRequests: number
  readonly maxQueuedRequests: number
  readonly gracefulShutdownTimeout: Duration.Duration
}

/** Starts a router over replicas that are ready. Closing the scope drains it. */
export const make = Effect.fnUntraced(function* (options: Options): Effect.fn.Return<Router, never, Scope.Scope> {
  const idPrefix = (yield* Random.nextIntBetween(36 ** 5, 36 ** 6)).toString(36)
  const router = new Router(options, idPrefix, yield* Effect.context())
  yield* router.tally.show
  yield* Effect.addFinalizer(() => router.close)
  return router
})

export class Router {
  /** When the router started, in whole milliseconds on the clock: its own times count from here. */
  readonly origin: number
  readonly tally: Tally
  private readonly options: Options
  private readonly clock: Clock.Clock
  private readonly places: Places
  private readonly queue: AdmissionQueue<Request>
  private readonly running = new AdmissionQueue<Request>(Infinity)
  private readonly alarm: Alarm<Request>
  private readonly random: Random.Random
  private readonly idPrefix: string
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  private readonly fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>

  private status: DeploymentState["status"] = "Ready"
  private handingOver = false
  private meanRunTime = FIRST_MEAN
  private ids = 0
  private turns = 0
  private onIdle: (() => void) | undefined = undefined

  constructor(options: Options, idPrefix: string, context: Context.Context<never>) {
    this.options = options
    this.idPrefix = idPrefix
    this.clock = Context.get(context, Clock.Clock)
    this.origin = Math.floor(this.clock.currentTimeMillisUnsafe())
    this.random = Context.get(context, Random.Random)
    this.dispatcher = Context.get(context, Scheduler.Scheduler).makeDispatcher()
    this.fork = Effect.runForkWith(context)
    this.places = new Places(options.replicas, options.maxOngoingRequests, () => this.random.nextDoubleUnsafe())
    this.queue = new AdmissionQueue(options.maxQueuedRequests)
    this.alarm = new Alarm({
      now: () => this.now,
      after: (delay, effect) => this.fork(Effect.andThen(this.clock.sleep(delay), effect)),
      strike: (request) => this.expire(request)
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
    if (this.status !== "Ready") return this.refuse(request, this.unavailable("draining"))
    if (this.places.size === 0) return this.refuse(request, this.unavailable("noReplicas"))
    if (request.deadline <= request.arrivedAt) return this.refuse(request, this.deadlineExceeded("admission"))
    request.turn = this.turns++
    const place = this.queue.size === 0 ? this.places.choose() : -1
    if (place !== -1) {
      this.tally.accept(request.method)
      return this.start(request, place, request.arrivedAt)
    }
    if (!this.queue.offer(request)) return this.refuse(request, this.queueFull())
    this.tally.accept(request.method)
    this.tally.enqueue(request.method)
    this.alarm.watch(request)
  }

  /** Ends a request whose caller left, and waits until its work has stopped. */
  cancel(request: Request): Effect.Effect<void> {
    return new Cancel(this, request)
  }

  /** What {@link Router.cancel} does when it runs. */
  cancelNow(request: Request): Effect.Effect<void> {
    if (request.state === "Settled" || isAnswered(request)) return Effect.void
    if (request.state === "Queued") {
      this.leaveQueue(request, "cancelled")
      return Effect.void
    }
    this.stop(request, "cancelled")
    return request.fiber === undefined
      ? // Its handler is starting further down this very stack.
        Effect.andThen(Effect.yieldNow, this.cancel(request))
      : Effect.asVoid(Fiber.await(request.fiber))
  }

  /** A stream gave its first element: from now on only its caller's own deadline counts. */
  streaming(request: Request): void {
    const deadline = request.relay?.deadline ?? request.deadline
    if (request.deadline === deadline) return
    this.alarm.unwatch(request)
    request.deadline = deadline
    this.alarm.watch(request)
  }

  /** Changes the permits of every replica; a lower number takes effect as requests end. */
  resize(maxOngoingRequests: number): Effect.Effect<void> {
    return Effect.andThen(
      this.places.resize(maxOngoingRequests),
      Effect.sync(() => this.handOver())
    )
  }

  get state(): DeploymentState {
    return {
      deployment: this.options.deployment,
      status: this.status,
      replicas: this.places.state,
      running: this.running.size,
      queued: this.queue.size,
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
            this.idle
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
    const fiber = Effect.runForkWith(Context.add(replica.context, RequestContext, context))(
      request.trace === undefined ? replica.call(request) : this.traced(request, context.requestId, replica)
    )
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return this.ended(request, exit)
    request.fiber = fiber
    fiber.addObserver((exit) => this.ended(request, exit))
    if (request.stopping === undefined) this.alarm.watch(request)
    else fiber.interruptUnsafe()
  }

  private ended(request: Request, exit: Exit.Exit<Option.Option<unknown>, unknown>): void {
    const now = this.now
    const { stopping } = request
    const place = this.release(request, now)
    if (Exit.isSuccess(exit) && Option.isNone(exit.value) && stopping === undefined) {
      this.handBack(request, place)
    } else if (stopping !== undefined) {
      this.settle(request, stopping === "lost" ? "failed" : stopping)
    } else if (Exit.isSuccess(exit)) {
      this.meanRunTime += NEWEST_WEIGHT * (now - request.startedAt - this.meanRunTime)
      this.settle(request, "completed")
      request.answer(answerOf(exit))
    } else if (now >= request.deadline && isDeadlineExceeded(exit)) {
      // A nested call has the same deadline, and may have heard of it first.
      this.settle(request, "expired")
      request.answer(Exit.fail(this.runningTooLong(request)))
    } else {
      this.settle(request, "failed")
      request.answer(answerOf(exit))
    }
    this.handOver()
  }

  /** Gives the free permits to the requests that wait, in turn. */
  private handOver(): void {
    if (this.handingOver || this.queue.size === 0) return
    this.handingOver = true
    try {
      const from = this.now
      for (let handovers = 0; this.queue.size > 0; handovers++) {
        const place = this.places.choose()
        if (place === -1) return
        const now = this.now
        if (handovers === HANDOVERS_PER_TURN || now - from > MILLIS_PER_TURN) {
          this.dispatcher.scheduleTask(() => this.handOver(), 0)
          return
        }
        const request = this.queue.next()!
        this.tally.dequeue(request.method)
        if (request.deadline > now) this.start(request, place, now)
        else this.expireQueued(request)
      }
    } finally {
      this.handingOver = false
    }
  }

  private handBack(request: Request, place: number): void {
    request.state = "Queued"
    request.place = -1
    request.fiber = undefined
    this.queue.restore(request)
    this.tally.enqueue(request.method)
    this.alarm.watch(request)
    this.places.block(place, this.fork, () => this.handOver())
  }

  private reserve(request: Request, place: number, now: number): Replica {
    this.places.reserve(place)
    this.running.offer(request)
    this.tally.reserve(request.method, place, now - request.arrivedAt)
    request.state = "Reserved"
    request.place = place
    request.startedAt = now
    return this.places.replica(place)
  }

  private release(request: Request, now: number): number {
    const { place } = request
    this.places.release(place)
    this.running.cancel(request)
    this.tally.release(request.method, place, now - request.startedAt)
    return place
  }

  private settle(request: Request, outcome: Outcome): void {
    request.state = "Settled"
    this.alarm.unwatch(request)
    this.tally.settle(request.method, request.place, outcome)
    if (this.onIdle !== undefined && this.running.size === 0 && this.queue.size === 0) this.onIdle()
  }

  private leaveQueue(request: Request, outcome: Outcome): void {
    this.queue.cancel(request)
    this.tally.dequeue(request.method)
    this.settle(request, outcome)
  }

  private stop(request: Request, reason: StopReason): void {
    request.stopping ??= reason
    request.fiber?.interruptUnsafe()
  }

  private expire(request: Request): void {
    if (request.state === "Queued") {
      this.queue.cancel(request)
      this.tally.dequeue(request.method)
      return this.expireQueued(request)
    }
    if (request.stopping !== undefined) return
    this.stop(request, "expired")
    request.answer(Exit.fail(this.runningTooLong(request)))
  }

  private expireQueued(request: Request): void {
    this.settle(request, "expired")
    request.answer(Exit.fail(this.deadlineExceeded("queue")))
  }

  private refuse(request: Request, error: ServeError.ServeError): void {
    request.state = "Settled"
    this.tally.reject(request.method, error.reason._tag)
    request.answer(Exit.fail(error))
  }

  private abandon(): void {
    for (let request = this.queue.next(); request !== undefined; request = this.queue.next()) {
      this.tally.dequeue(request.method)
      this.settle(request, "failed")
      request.answer(Exit.fail(this.unavailable("draining")))
    }
    for (const request of Array.from(this.running)) {
      const started = request.state === "Running"
      this.stop(request, "lost")
      const replica = this.places.replica(request.place).id
      request.answer(Exit.fail(fail(new ServeError.ReplicaLost({ replica, started }))))
    }
  }

  private get idle(): Effect.Effect<void> {
    return Effect.callback((resume) => {
      if (this.running.size === 0 && this.queue.size === 0) return resume(Effect.void)
      this.onIdle = () => resume(Effect.void)
    })
  }

  private traced(request: Request, requestId: string, replica: Replica): ReturnType<Replica["call"]> {
    const { parent, tracer } = request.trace!
    const work = replica.call(request)
    if (parent?.sampled === false) return Effect.provideService(work, Tracer.ParentSpan, parent)
    const span = Effect.withSpan(work, `${this.options.deployment}.${this.options.methods[request.method]}`, {
      ...(parent === undefined ? { root: true } : { parent }),
      attributes: { replica: replica.id, requestId }
    })
    return tracer === undefined ? span : Effect.provideService(span, Tracer.Tracer, tracer)
  }

  private newId(): string {
    return `${this.idPrefix}-${(this.ids++).toString(36)}`
  }

  private unavailable(why: "draining" | "noReplicas"): ServeError.ServeError {
    return fail(new ServeError.Unavailable({ deployment: this.options.deployment, why }))
  }

  private deadlineExceeded(stage: typeof ServeError.Stage.Type): ServeError.ServeError {
    return fail(new ServeError.DeadlineExceeded({ deployment: this.options.deployment, stage }))
  }

  private runningTooLong({ relay }: Request): ServeError.ServeError {
    return this.deadlineExceeded(relay?.started === true ? "stream" : "handler")
  }

  private queueFull(): ServeError.ServeError {
    const { permits } = this.places
    // Jitter of up to as much again, so that callers refused together don't come back together.
    const drainTime = ((this.queue.size + 1) * this.meanRunTime) / permits
    return fail(
      new ServeError.QueueFull({
        deployment: this.options.deployment,
        ongoing: this.running.size,
        maxOngoingRequests: permits,
        queued: this.queue.size,
        maxQueuedRequests: this.queue.maxSize,
        retryAfter: Duration.millis(Math.ceil(drainTime * (1 + this.random.nextDoubleUnsafe())))
      })
    )
  }
}

// An object and not a closure, which would be three times as large: every request that waits has one.
class Cancel extends Effectable.Class<void> {
  private readonly router: Router
  private readonly request: Request

  constructor(router: Router, request: Request) {
    super()
    this.router = router
    this.request = request
  }

  override asEffect(): Effect.Effect<void> {
    return this.router.cancelNow(this.request)
  }
}

// Whoever was told of a deadline or of a lost replica doesn't wait until the work has stopped.
const isAnswered = ({ stopping }: Request) => stopping === "expired" || stopping === "lost"

const fail = (reason: ServeError.Reason) => new ServeError.ServeError({ reason })

const isDeadlineExceeded = ({ cause }: Exit.Failure<unknown, unknown>) =>
  Option.exists(
    Cause.findErrorOption(cause),
    (error) => error instanceof ServeError.ServeError && error.reason._tag === "DeadlineExceeded"
  )

// A handler that interrupts itself must not look like an interruption of its caller.
const answerOf = (exit: Exit.Exit<Option.Option<unknown>, unknown>): Exit.Exit<unknown, unknown> =>
  Exit.isSuccess(exit)
    ? Exit.succeed(Option.getOrUndefined(exit.value))
    : Cause.hasInterruptsOnly(exit.cause)
      ? Exit.die(new Error("The handler interrupted itself"))
      : exit
