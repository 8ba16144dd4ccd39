/**
 * Logs and metrics of a replica's thread, as if they were the app's own.
 *
 * A thread has its own loggers and its own registry of metrics. It sends what it logs at once and its metrics once a second, and
 * the app hands the one to its loggers and shows the other in its registry.
 *
 * @since 0.1.0
 */
import { Cause, type Context, Effect, Formatter, Logger, type LogLevel, Metric, References, type Scope } from "effect"

/**
 * A log entry as it is sent.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogNote {
  readonly level: LogLevel.LogLevel
  readonly message: ReadonlyArray<unknown>
  /** What failed, in words, if anything did. */
  readonly cause: string | undefined
  readonly annotations: Readonly<Record<string, unknown>>
}

/** A logger that sends what it is given. */
export const logger = (tell: (note: LogNote) => void): Logger.Logger<unknown, void> =>
  Logger.make(({ cause, fiber, logLevel, message }) =>
    tell({
      level: logLevel,
      message: (Array.isArray(message) ? message : [message]).map(plain),
      cause: cause.reasons.length === 0 ? undefined : Cause.pretty(cause),
      annotations: Object.fromEntries(
        Object.entries(fiber.getRef(References.CurrentLogAnnotations)).map(([key, value]) => [key, plain(value)])
      )
    })
  )

const plain = (value: unknown): unknown =>
  value === null || ["string", "number", "boolean", "undefined"].includes(typeof value)
    ? value
    : Formatter.format(value)

/** Logs what a thread has sent. */
export const log = ({ annotations, cause, level, message }: LogNote): Effect.Effect<void> => {
  const failure = cause === undefined ? [] : [Cause.die(withoutOwnStack(cause))]
  const severity = level === "All" || level === "None" ? undefined : level
  return Effect.annotateLogs(Effect.logWithLevel(severity)(...message, ...failure), annotations)
}

// Where the entry was made anew says nothing: the text has the stack of the thread.
const withoutOwnStack = (text: string) => Object.assign(new Error(text), { stack: text })

/**
 * The metrics of a thread as they are sent.
 *
 * @category models
 * @since 0.1.0
 */
export type Metrics = ReadonlyArray<Metric.Metric.Snapshot>

/** The metrics of this thread. */
export const metrics: Effect.Effect<Metrics> = Metric.snapshot

/**
 * Shows the metrics of a thread in this registry, as they were when the thread last sent them, until the scope closes. They get
 * `origin` as attributes, unless they have them. A summary is not shown: its quantiles can't be set from outside.
 */
export const mirror = Effect.fnUntraced(function* (origin: Metric.Metric.AttributeSet) {
  const context = yield* Effect.context<Scope.Scope>()
  const shown = new Map<string, { snapshot: Metric.Metric.Snapshot }>()
  return (snapshots: Metrics): void => {
    for (const snapshot of snapshots) {
      const attributes = { ...origin, ...snapshot.attributes }
      const key = `${snapshot.id} ${JSON.stringify(attributes)}`
      const before = shown.get(key)
      if (before !== undefined) before.snapshot = snapshot
      else {
        const latest = { snapshot }
        shown.set(key, latest)
        show(metricOf(snapshot), attributes, () => latest.snapshot.state, context)
      }
    }
  }
})

const metricOf = ({
  description,
  id,
  state,
  type
}: Metric.Metric.Snapshot): Metric.Metric<never, unknown> | undefined => {
  switch (type) {
    case "Counter":
      return state.incremental
        ? Metric.counter(id, { description, incremental: true })
        : Metric.counter(id, { description })
    case "Gauge":
      return Metric.gauge(id, { description })
    case "Frequency":
      return Metric.frequency(id, { description })
    case "Histogram":
      return Metric.histogram(id, { description, boundaries: state.buckets.map(([boundary]) => boundary) })
    case "Summary":
      return undefined
  }
}

const show = (
  metric: Metric.Metric<never, unknown> | undefined,
  attributes: Metric.Metric.AttributeSet,
  get: () => unknown,
  context: Context.Context<Scope.Scope>
): void => {
  if (metric === undefined) return
  const hooks = { get, update: () => {}, modify: () => {} }
  const registration = Metric.registerUnsafe(Metric.withAttributes(metric, attributes), context, hooks)
  Effect.runSyncWith(context)(Effect.addFinalizer(() => Effect.sync(() => registration.remove())))
}
