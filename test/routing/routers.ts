import { RequestContext } from "effect-serve"
import { Clock, Context, Duration, Effect, Exit, type Fiber, Option, Random, Scheduler, Scope } from "effect"
import type { CallOptions } from "../../src/core/RequestContext.ts"
import * as LoopReplica from "../../src/replica/LoopReplica.ts"
import type { Replica } from "../../src/replica/Replica.ts"
import { Request } from "../../src/replica/Request.ts"
import * as Router from "../../src/routing/Router.ts"

/** What a request does on the replica that it is brought to. */
export type Work = (replica: number) => Effect.Effect<unknown, unknown>

/** How often fibers yield: before their first operation or not, and after how many operations. */
interface Pace {
  readonly lateStart: boolean
  readonly maxOpsBeforeYield: number
}

/**
 * A scheduler that runs nothing by itself: the test says which of the waiting tasks is next. With a late start and 3
 * operations before a yield (fewer get nowhere), every place where fibers can interleave is within reach.
 */
class Turns implements Scheduler.Scheduler {
  readonly executionMode = "async"
  private readonly tasks: Array<() => void> = []
  private readonly started = new WeakSet<object>()
  private pace: Pace

  constructor(pace: Pace) {
    this.pace = pace
  }

  shouldYield(fiber: Fiber.Fiber<unknown, unknown>) {
    if (this.pace.lateStart && !this.started.has(fiber)) {
      this.started.add(fiber)
      return true
    }
    return fiber.currentOpCount >= this.pace.maxOpsBeforeYield
  }
  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return { scheduleTask: (task) => this.tasks.push(task), flush: () => {} }
  }
  /** Does something in which fibers don't yield. */
  smoothly(body: () => void): void {
    const { pace } = this
    this.pace = smooth
    body()
    this.pace = pace
  }
  /** Runs one task, if there is any. */
  take(at: number): void {
    this.tasks.splice(at % Math.max(this.tasks.length, 1), 1)[0]?.()
  }
  /** Runs tasks until there are none. */
  takeAll(): void {
    let turns = 0
    for (let task = this.tasks.shift(); task !== undefined; task = this.tasks.shift()) {
      if (++turns > 100_000) throw new Error("The fibers never come to rest")
      task()
    }
  }
}

/** A clock that wakes sleepers at once when it is moved, and leaves the rest to the scheduler. */
class HandClock implements Clock.Clock {
  private now = 1_000_000_000_000
  private readonly sleepers = new Map<() => void, number>()

  currentTimeMillisUnsafe() {
    return this.now
  }
  currentTimeNanosUnsafe() {
    return BigInt(this.now) * 1_000_000n
  }
  monotonicTimeNanosUnsafe() {
    return this.currentTimeNanosUnsafe()
  }
  currentTimeMillis = Effect.sync(() => this.currentTimeMillisUnsafe())
  currentTimeNanos = Effect.sync(() => this.currentTimeNanosUnsafe())
  monotonicTimeNanos = this.currentTimeNanos
  sleep(duration: Duration.Duration) {
    return Effect.callback<void>((resume) => {
      const wake = () => resume(Effect.void)
      this.sleepers.set(wake, this.now + Duration.toMillis(duration))
      return Effect.sync(() => this.sleepers.delete(wake))
    })
  }
  advance(millis: number): void {
    this.now += millis
    for (const [wake, at] of Array.from(this.sleepers).toSorted(([, one], [, other]) => one - other)) {
      if (at <= this.now && this.sleepers.delete(wake)) wake()
    }
  }
}

/** The same numbers in each world (the generator of Park and Miller). */
const sequence = (): typeof Random.Random.Service => {
  let seed = 1
  const next = () => (seed = (seed * 48_271) % 2_147_483_647)
  return { nextIntUnsafe: next, nextDoubleUnsafe: () => next() / 2_147_483_647 }
}

/** Fibers that run until they wait for something, as in production, where a yield is rare. */
export const smooth: Pace = { lateStart: false, maxOpsBeforeYield: 2048 }
/** Fibers that yield wherever they can. */
export const halting: Pace = { lateStart: true, maxOpsBeforeYield: 3 }

/** A world of fibers that move only when the test gives them a turn, and whose time passes only when the test says so. */
export const makeWorld = (pace: Pace) => {
  const turns = new Turns(pace)
  const clock = new HandClock()
  const scope = Scope.makeUnsafe()
  const fork = Effect.runForkWith(
    Context.empty().pipe(
      Context.add(Scheduler.Scheduler, turns),
      Context.add(Clock.Clock, clock),
      Context.add(Random.Random, sequence())
    )
  )

  /** Runs an effect to its end. */
  const perform = <A>(effect: Effect.Effect<A, never, Scope.Scope>): A => {
    const fiber = fork(Scope.provide(effect, scope))
    turns.takeAll()
    return Exit.getSuccess(fiber.pollUnsafe() ?? Exit.die("not done")).pipe(Option.getOrThrow)
  }

  const replicas = (count: number, permits: number) =>
    Array.from({ length: count }, (_, i) =>
      perform(
        LoopReplica.make({
          id: `#${i}`,
          methods: ["run"],
          permits,
          build: Effect.succeed([(work) => (work as Work)(i)])
        })
      )
    )

  /** A replica that can leave: `run` makes the work of a request, and `onLeft` hears when nothing may start any more. */
  const mortal = (options: {
    readonly id: string
    readonly permits: number
    readonly run: (work: Work) => Effect.Effect<unknown, unknown>
    readonly onLeft?: () => void
  }) => {
    const { id, onLeft, permits, run } = options
    let own: Scope.Closeable | undefined
    const build = Effect.gen(function* () {
      own = (yield* Effect.scope) as Scope.Closeable
      yield* Effect.addFinalizer(() => Effect.sync(() => onLeft?.()))
      return [(work: unknown) => run(work as Work)]
    })
    const start: Effect.Effect<Replica> = Scope.provide(
      LoopReplica.make({ id, methods: ["run"], permits, build }),
      scope
    )
    return { start, leave: Effect.suspend(() => Scope.close(own!, Exit.void)) }
  }

  const router = (
    options: Pick<Router.Options, "replicas" | "maxOngoingRequests" | "maxQueuedRequests"> & Partial<Router.Options>
  ) =>
    perform(
      Router.make({
        deployment: "Test",
        methods: ["run"],
        queueDiscipline: "fifo",
        fairness: "none",
        concurrencyLimit: "fixed",
        minOngoingRequests: 1,
        outlierEjection: false,
        gracefulShutdownTimeout: Duration.zero,
        ...options
      })
    )

  return { turns, clock, fork, perform, replicas, mortal, router, now: () => clock.currentTimeMillisUnsafe() }
}

/** A replica that does what the test says. */
export const fake = (place: number, call: Replica["call"], options: Partial<Replica> = {}): Replica => ({
  id: `#${place}`,
  contexts: [Context.empty()],
  batchers: () => [],
  call,
  end: Effect.void,
  whenFree: Effect.never,
  hasLeft: () => false,
  left: Effect.never,
  resize: () => Effect.void,
  ...options
})

/** Sends work through a router, as the handle of a deployment does. */
export const send = (
  router: Router.Router,
  work: Work,
  options: {
    readonly deadline?: number
    readonly call?: CallOptions
    readonly onOffer?: () => void
    readonly onAnswer?: (exit: Exit.Exit<unknown, unknown>, request: Request) => void
  } = {}
): Effect.Effect<unknown, unknown> =>
  Effect.callback((resume) => {
    const request = new Request({
      method: 0,
      payload: work,
      options: options.call,
      outer: RequestContext.empty,
      arrivedAt: router.now,
      deadline: (options.deadline ?? Infinity) - router.origin,
      relay: undefined,
      trace: undefined,
      answer: (exit) => {
        options.onAnswer?.(exit, request)
        resume(exit)
      }
    })
    options.onOffer?.()
    router.submit(request)
    return request.state === "Settled" ? undefined : router.cancel(request)
  })
