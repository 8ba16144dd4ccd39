/**
 * Every metric of the runtime, in one list.
 *
 * The numbers are plain fields that change with the state of a request, and Effect's `Metric` registry reads them when
 * it takes a snapshot: a request pays one addition per transition, and a metric can't disagree with the state.
 *
 * @since 0.1.0
 */
import { Context, Effect, Metric, type Scope } from "effect"

/** Upper bounds of the time histograms, in milliseconds; Ray Serve's buckets. */
const boundaries = [
  1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 1000, 2000, 5000, 10_000, 60_000, 120_000, 300_000, 600_000
]

const counter = (name: string, description: string) => Metric.counter(name, { description, incremental: true })
const gauge = (name: string, description: string) => Metric.gauge(name, { description })
const histogram = (name: string, description: string) => Metric.histogram(name, { description, boundaries })

/** Tags: deployment, method. */
export const accepted = counter(
  "serve_requests_accepted_total",
  "Requests that were given a replica or a place in the queue"
)
/** Tags: deployment, method, reason. */
export const rejected = counter("serve_requests_rejected_total", "Requests refused on arrival, by reason")
/** Tags: deployment, method, why. Part of the failed ones. */
export const shed = counter(
  "serve_requests_shed_total",
  "Requests dropped while they waited, so that others could be served in time"
)
/** Tags: deployment, method. */
export const rerouted = counter(
  "serve_requests_rerouted_total",
  "Requests sent to a second replica because the first one left before it started them"
)
/** Tags: deployment, replica. */
export const limit = gauge(
  "serve_replica_max_ongoing_requests",
  "Requests that a replica may run at once at the moment"
)
/** Tags: deployment, replica. */
export const inService = gauge(
  "serve_replica_in_service",
  "1 while a replica gets requests, 0 while it is ejected or being replaced"
)
/** Tags: deployment, method. */
export const queued = gauge("serve_requests_queued", "Requests waiting for a replica")
/** Tags: deployment, method, replica. */
export const running = gauge("serve_requests_running", "Requests that hold a permit of a replica")
/** Tags: deployment, method, replica. */
export const completed = counter("serve_requests_completed_total", "Requests that succeeded")
/** Tags: deployment, method, replica (`none` when it never reached one). */
export const failed = counter("serve_requests_failed_total", "Requests that failed, by a declared error or a defect")
/** Tags: deployment, method, replica (`none` when it never reached one). */
export const cancelled = counter("serve_requests_cancelled_total", "Requests whose caller left")
/** Tags: deployment, method, replica (`none` when it never reached one). */
export const expired = counter(
  "serve_requests_expired_total",
  "Requests whose deadline passed after they were accepted"
)
/** Tags: deployment, method. */
export const queueWait = histogram("serve_request_queue_wait_ms", "Time from arrival to a replica, in milliseconds")
/** Tags: deployment, method, replica. */
export const runTime = histogram("serve_request_run_time_ms", "Time that a request held its permit, in milliseconds")
/** Tags: route, status. */
export const httpRequests = counter(
  "serve_http_requests_total",
  "HTTP requests by route and status; 499 when the client left"
)
/** Tags: priority. */
export const connections = gauge("serve_rpc_connections", "Connections of remote handles that are open at an ingress")

export const processShed = counter(
  "serve_process_shed_total",
  "HTTP requests refused because the event loop was overloaded, by priority"
)
export const eventLoopUtilization = gauge(
  "serve_event_loop_utilization",
  "Share of the last second in which the event loop worked, 0 to 1"
)
export const eventLoopDelay = gauge(
  "serve_event_loop_delay_ms",
  "How late the event loop was in the last second, 99th percentile in milliseconds"
)
/** Tags: deployment, method (`unknown` when it was the code of none), loop. */
export const loopBlocked = counter(
  "serve_event_loop_blocked_total",
  "How often a method held an event loop for longer than it may"
)
/** Tags: deployment, method (`unknown` when it was the code of none), loop. */
export const loopBlockedTime = histogram("serve_event_loop_blocked_ms", "For how long it did, in milliseconds")

/** Tags: deployment, replica, batcher. */
export const batchQueued = gauge("serve_batch_items_queued", "Items that wait for a batch")
/** Tags: deployment, replica, batcher, release. */
export const batches = counter("serve_batches_total", "Batches that ran, by the reason for which they were released")
/** Tags: deployment, replica, batcher. */
export const batchSize = histogram("serve_batch_size", "Items of a batch")
/** Tags: deployment, replica, batcher. */
export const batchWait = histogram(
  "serve_batch_wait_ms",
  "Time that the first item of a batch waited until it ran, in milliseconds"
)
/** Tags: deployment, replica, batcher. */
export const batchRunTime = histogram("serve_batch_run_time_ms", "Time that a batch ran, in milliseconds")
/** Tags: deployment, replica, batcher, why. */
export const batchDropped = counter(
  "serve_batch_items_dropped_total",
  "Items that never ran, because their caller left or their deadline passed"
)
/** Tags: deployment, replica, batcher. */
export const batchWasted = counter("serve_batch_items_wasted_total", "Items whose callers left while they ran")

/** Tags: pool. */
export const poolThreads = gauge("serve_pool_threads", "Threads of a worker pool")
/** Tags: pool. */
export const poolRunning = gauge("serve_pool_tasks_running", "Tasks that run in a thread")
/** Tags: pool. */
export const poolQueued = gauge("serve_pool_tasks_queued", "Calls that wait until a thread starts them")
/** Tags: pool. */
export const poolCompleted = counter("serve_pool_tasks_completed_total", "Calls of a worker pool that succeeded")
/** Tags: pool. */
export const poolFailed = counter(
  "serve_pool_tasks_failed_total",
  "Calls of a worker pool that failed after they were accepted"
)
/** Tags: pool. */
export const poolCancelled = counter("serve_pool_tasks_cancelled_total", "Calls of a worker pool whose caller left")
/** Tags: pool. */
export const poolCrashes = counter("serve_pool_crashes_total", "Threads of a worker pool that ended by themselves")
/** Tags: pool. */
export const poolRunTime = histogram("serve_pool_run_time_ms", "Time that a thread ran a task, in milliseconds")

/**
 * A histogram that costs one addition per value.
 *
 * @category models
 * @since 0.1.0
 */
export class Histogram {
  private readonly counts = new Float64Array(boundaries.length + 1)
  private count = 0
  private sum = 0
  private min = Infinity
  private max = -Infinity

  record(value: number): void {
    let bucket = 0
    while (bucket < boundaries.length && value > boundaries[bucket]!) bucket++
    this.counts[bucket]!++
    this.count++
    this.sum += value
    if (value < this.min) this.min = value
    if (value > this.max) this.max = value
  }

  get state(): Metric.HistogramState {
    let total = 0
    const buckets = boundaries.map((boundary, i): [number, number] => [boundary, (total += this.counts[i]!)])
    return { buckets, count: this.count, sum: this.sum, min: this.count ? this.min : 0, max: this.count ? this.max : 0 }
  }
}

const register = <Input, State>(
  metric: Metric.Metric<Input, State>,
  attributes: Metric.Metric.AttributeSet,
  get: () => State
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.contextWith((context: Context.Context<never>) =>
      Effect.succeed(
        Metric.registerUnsafe(Metric.withAttributes(metric, attributes), context, {
          get,
          update: () => {},
          modify: () => {}
        })
      )
    ),
    (registration) => Effect.sync(() => registration.remove())
  ).pipe(Effect.asVoid)

/** Shows `read` as a counter until the scope closes. */
export const showCounter = (
  metric: Metric.Counter<number>,
  attributes: Metric.Metric.AttributeSet,
  read: () => number
) => register(metric, attributes, () => ({ count: read(), incremental: true }))

/** Shows `read` as a gauge until the scope closes. */
export const showGauge = (metric: Metric.Gauge<number>, attributes: Metric.Metric.AttributeSet, read: () => number) =>
  register(metric, attributes, () => ({ value: read() }))

/** Shows a histogram until the scope closes. */
export const showHistogram = (
  metric: Metric.Histogram<number>,
  attributes: Metric.Metric.AttributeSet,
  histogram: Histogram
) => register(metric, attributes, () => histogram.state)
