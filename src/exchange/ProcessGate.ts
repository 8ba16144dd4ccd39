/**
 * Refuses the less important requests while the whole process is overloaded, before their bodies are read.
 *
 * Overload is an event loop that is busy and late at once: a busy loop that keeps up is well used, and a late one that
 * has spare time met one long task. Both are taken from the last second, so that an idle hour before doesn't hide an
 * overload and a past overload refuses nobody. `Gate` decides and is plain synchronous code; `layer` feeds it.
 *
 * @since 0.1.0
 */
import { Context, Duration, Effect, Layer, Random, type Scope } from "effect"
import { monitorEventLoopDelay, performance } from "node:perf_hooks"
import * as Metrics from "../core/Metrics.ts"
import type { Priority } from "../core/RequestContext.ts"

/**
 * How the event loop did lately.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reading {
  /** The share of the time since the reading before in which the loop worked, 0 to 1. */
  readonly utilization: number
  /** How late the loop was in the last two such times, in milliseconds: the 99th percentile. */
  readonly delay: number
}

const interval = Duration.millis(500)
/** Milliseconds between two measurements of the delay. */
const resolution = 10

/** Above both, "sheddable" requests are refused: none at first, all at `hard.delay`. */
const soft = { utilization: 0.9, delay: 50 }
/** Above both, "sheddable" requests are refused, and "default" ones: none at first, most of them at `worst.delay`. */
const hard = { utilization: 0.98, delay: 250 }
/** A few "default" requests always pass: they show when the overload is over. */
const worst = { delay: 1000, chance: 0.95 }

/** Decides which requests pass, from the last two readings. */
export class Gate {
  /** Whether any requests are refused now; ask {@link sheds} only then. */
  isOverloaded = false
  /** In the last two intervals, 0 to 1. Each counts the same: a long task makes its interval long, not more important. */
  utilization = 0
  /** In the last two intervals, in milliseconds. */
  delay = 0
  /** Requests refused so far. */
  readonly shed: Record<Priority, number> = { critical: 0, default: 0, sheddable: 0 }
  private readonly chances: Record<Priority, number> = { critical: 0, default: 0, sheddable: 0 }
  private lastUtilization = 0
  private readonly random: () => number

  /** `random` draws from 0 to 1, without 1. */
  constructor(random: () => number) {
    this.random = random
  }

  /** Takes the reading of the interval that has just ended. */
  observe({ delay, utilization }: Reading): void {
    this.utilization = (utilization + this.lastUtilization) / 2
    this.lastUtilization = utilization
    this.delay = delay
    this.chances.sheddable = this.utilization > soft.utilization ? share(this.delay, soft.delay, hard.delay) : 0
    this.chances.default =
      this.utilization > hard.utilization ? Math.min(share(this.delay, hard.delay, worst.delay), worst.chance) : 0
    this.isOverloaded = this.chances.sheddable > 0
  }

  /** Decides about one request, and counts it when it is refused. */
  sheds(priority: Priority): boolean {
    const isShed = this.random() < this.chances[priority]
    if (isShed) this.shed[priority]++
    return isShed
  }

  /** When a refused request may come back: 1 to 2 seconds, drawn for each, so that they don't all come back at once. */
  retryAfter(): Duration.Duration {
    return Duration.millis(Math.ceil(1000 * (1 + this.random())))
  }
}

/** How far `value` is on the way from `start` to `end`, 0 to 1. */
const share = (value: number, start: number, end: number) => Math.min(Math.max((value - start) / (end - start), 0), 1)

/**
 * The gate of the process, shared by all of its ingresses.
 *
 * @category services
 * @since 0.1.0
 */
export class ProcessGate extends Context.Service<ProcessGate, Gate>()("effect-serve/ProcessGate") {}

/** Measures this thread's event loop. */
export const eventLoop: Effect.Effect<() => Reading, never, Scope.Scope> = Effect.gen(function* () {
  // A histogram that is reset misses the delay that it is in. The two are reset in turn, so that one misses nothing.
  let older = yield* delayHistogram
  let newer = yield* delayHistogram
  let before = performance.eventLoopUtilization()
  return () => {
    const now = performance.eventLoopUtilization()
    const { utilization } = performance.eventLoopUtilization(now, before)
    before = now
    const delay = Math.max(older.percentile(99) / 1e6 - resolution, 0)
    older.reset()
    ;[older, newer] = [newer, older]
    return { utilization, delay }
  }
})

const delayHistogram = Effect.acquireRelease(
  Effect.sync(() => {
    const histogram = monitorEventLoopDelay({ resolution })
    histogram.enable()
    return histogram
  }),
  (histogram) => Effect.sync(() => histogram.disable())
)

/**
 * Where the readings come from; {@link eventLoop} unless a test says otherwise.
 *
 * @category references
 * @since 0.1.0
 */
export const Source: Context.Reference<typeof eventLoop> = Context.Reference("effect-serve/ProcessGate/Source", {
  defaultValue: () => eventLoop
})

const make = Effect.gen(function* () {
  const random = yield* Random.Random
  const read = yield* yield* Source
  const gate = new Gate(() => random.nextDoubleUnsafe())
  // After a long task its timers all fire at once, in any order: yield, or the reading comes before the measurement.
  yield* Effect.sleep(interval).pipe(
    Effect.andThen(Effect.yieldNow),
    Effect.andThen(Effect.sync(() => gate.observe(read()))),
    Effect.forever,
    Effect.forkScoped({ startImmediately: true })
  )
  yield* Metrics.showGauge(Metrics.eventLoopUtilization, {}, () => gate.utilization)
  yield* Metrics.showGauge(Metrics.eventLoopDelay, {}, () => gate.delay)
  for (const priority of ["default", "sheddable"] as const) {
    yield* Metrics.showCounter(Metrics.processShed, { priority }, () => gate.shed[priority])
  }
  return gate
})

/** Watches the event loop until the scope closes. */
export const layer: Layer.Layer<ProcessGate> = Layer.effect(ProcessGate, make)

/** Watches nothing and refuses nothing. */
export const layerNoop: Layer.Layer<ProcessGate> = Layer.sync(ProcessGate, () => new Gate(() => 0))
