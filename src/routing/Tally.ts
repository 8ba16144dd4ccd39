/**
 * Counts what happens to the requests of one deployment, by method and by replica, and shows the counts as metrics.
 *
 * @since 0.1.0
 */
import { Effect, type Scope } from "effect"
import type { ShedReason } from "../admission/AdmissionQueue.ts"
import * as Metrics from "../core/Metrics.ts"
import type { Reason } from "../core/ServeError.ts"

/**
 * How an accepted request ended.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome = (typeof outcomes)[number]

const outcomes = ["completed", "failed", "cancelled", "expired"] as const

const shedReasons: ReadonlyArray<ShedReason> = ["queueTimeout", "displaced"]

/**
 * Requests since the start: those that arrived, and those that were accepted and have ended.
 *
 * @category models
 * @since 0.1.0
 */
export interface Counts extends Readonly<Record<Outcome, number>> {
  readonly accepted: number
  readonly rejected: number
  /** The rejected ones by reason, those that never occurred left out. */
  readonly rejections: Readonly<Partial<Record<Reason["_tag"], number>>>
  /** Of those that failed, the ones that were dropped while they waited, by reason. */
  readonly shed: Readonly<Record<ShedReason, number>>
  /** Requests that were sent to a second replica because their first one left before it started them. */
  readonly rerouted: number
}

/** What happened before a replica had the request. */
interface Arrivals {
  accepted: number
  queued: number
  readonly rejected: Map<Reason["_tag"], number>
  readonly shed: Record<ShedReason, number>
  rerouted: number
  readonly queueWait: Metrics.Histogram
}

/** What happened to the requests that one replica had, or to those that none had. */
interface Runs extends Record<Outcome, number> {
  running: number
  readonly runTime: Metrics.Histogram
}

export class Tally {
  private readonly deployment: string
  private readonly methods: ReadonlyArray<string>
  private readonly replicas: ReadonlyArray<string>
  private readonly arrivals: ReadonlyArray<Arrivals>
  /** By replica and method; the first row is for requests that never had a replica. */
  private readonly runs: ReadonlyArray<ReadonlyArray<Runs>>

  constructor(deployment: string, methods: ReadonlyArray<string>, replicas: ReadonlyArray<string>) {
    this.deployment = deployment
    this.methods = methods
    this.replicas = ["none", ...replicas]
    this.arrivals = methods.map(() => ({
      accepted: 0,
      queued: 0,
      rejected: new Map(),
      shed: { queueTimeout: 0, displaced: 0 },
      rerouted: 0,
      queueWait: new Metrics.Histogram()
    }))
    this.runs = this.replicas.map(() =>
      methods.map(() => ({
        running: 0,
        completed: 0,
        failed: 0,
        cancelled: 0,
        expired: 0,
        runTime: new Metrics.Histogram()
      }))
    )
  }

  accept(method: number): void {
    this.arrivals[method]!.accepted++
  }

  reject(method: number, reason: Reason["_tag"]): void {
    const { rejected } = this.arrivals[method]!
    rejected.set(reason, (rejected.get(reason) ?? 0) + 1)
  }

  shed(method: number, why: ShedReason): void {
    this.arrivals[method]!.shed[why]++
  }

  reroute(method: number): void {
    this.arrivals[method]!.rerouted++
  }

  enqueue(method: number): void {
    this.arrivals[method]!.queued++
  }

  dequeue(method: number): void {
    this.arrivals[method]!.queued--
  }

  /** A request that waited for `wait` milliseconds got a permit. */
  reserve(method: number, place: number, wait: number): void {
    this.arrivals[method]!.queueWait.record(wait)
    this.runs[place + 1]![method]!.running++
  }

  /** A request gave its permit back after `time` milliseconds. */
  release(method: number, place: number, time: number): void {
    const runs = this.runs[place + 1]![method]!
    runs.running--
    runs.runTime.record(time)
  }

  /** `place` is -1 for a request that never had a replica. */
  settle(method: number, place: number, outcome: Outcome): void {
    this.runs[place + 1]![method]![outcome]++
  }

  get counts(): Counts {
    const counts = { accepted: 0, rejected: 0, completed: 0, failed: 0, cancelled: 0, expired: 0, rerouted: 0 }
    const rejections: Partial<Record<Reason["_tag"], number>> = {}
    const shed = { queueTimeout: 0, displaced: 0 }
    for (const arrivals of this.arrivals) {
      counts.accepted += arrivals.accepted
      counts.rerouted += arrivals.rerouted
      for (const why of shedReasons) shed[why] += arrivals.shed[why]
      for (const [reason, count] of arrivals.rejected) {
        counts.rejected += count
        rejections[reason] = (rejections[reason] ?? 0) + count
      }
    }
    for (const runs of this.runs.flat()) for (const outcome of outcomes) counts[outcome] += runs[outcome]
    return { ...counts, rejections, shed }
  }

  /** Shows all counts in the `Metric` registry until the scope closes. */
  get show(): Effect.Effect<void, never, Scope.Scope> {
    const arrivals = this.methods.map((method, i) => {
      const tags = { deployment: this.deployment, method }
      const counts = this.arrivals[i]!
      return Effect.all(
        [
          Metrics.showCounter(Metrics.accepted, tags, () => counts.accepted),
          Metrics.showGauge(Metrics.queued, tags, () => counts.queued),
          Metrics.showHistogram(Metrics.queueWait, tags, counts.queueWait),
          Metrics.showCounter(Metrics.rerouted, tags, () => counts.rerouted),
          ...shedReasons.map((why) => Metrics.showCounter(Metrics.shed, { ...tags, why }, () => counts.shed[why])),
          ...refusals.map((reason) =>
            Metrics.showCounter(Metrics.rejected, { ...tags, reason }, () => counts.rejected.get(reason) ?? 0)
          )
        ],
        { discard: true }
      )
    })
    const runs = this.replicas.flatMap((replica, i) =>
      this.methods.map((method, j) => {
        const tags = { deployment: this.deployment, method, replica }
        const counts = this.runs[i]![j]!
        return Effect.all(
          [
            Metrics.showGauge(Metrics.running, tags, () => counts.running),
            Metrics.showCounter(Metrics.completed, tags, () => counts.completed),
            Metrics.showCounter(Metrics.failed, tags, () => counts.failed),
            Metrics.showCounter(Metrics.cancelled, tags, () => counts.cancelled),
            Metrics.showCounter(Metrics.expired, tags, () => counts.expired),
            Metrics.showHistogram(Metrics.runTime, tags, counts.runTime)
          ],
          { discard: true }
        )
      })
    )
    return Effect.all([...arrivals, ...runs], { discard: true })
  }
}

/** The reasons for which a request is refused on arrival. */
const refusals: ReadonlyArray<Reason["_tag"]> = ["QueueFull", "DeadlineExceeded", "Unavailable"]
