/**
 * Counts what happens to the batches and the items of one batcher, and shows the counts as metrics.
 *
 * @since 0.1.0
 */
import { Effect, type Scope } from "effect"
import * as Metrics from "../core/Metrics.ts"
import type { Release } from "./BatchQueue.ts"

const releases: ReadonlyArray<Release> = ["full", "timeout", "slot", "deadline", "drain"]

/**
 * Why an item never ran: its caller left, or its deadline passed.
 *
 * @category models
 * @since 0.1.0
 */
export type DropReason = "left" | "expired"

/**
 * What has happened since the start.
 *
 * @category models
 * @since 0.1.0
 */
export interface Counts {
  /** Batches that ran, by the reason for which they were released. */
  readonly batches: Readonly<Record<Release, number>>
  /** Items that ran. */
  readonly items: number
  /** Items that never ran, by reason. */
  readonly dropped: Readonly<Record<DropReason, number>>
  /** Items whose callers left while they ran. */
  readonly wasted: number
}

export class Tally {
  private readonly queued: () => number
  private readonly batches: Record<Release, number> = { full: 0, timeout: 0, slot: 0, deadline: 0, drain: 0 }
  private readonly dropped: Record<DropReason, number> = { left: 0, expired: 0 }
  private items = 0
  private wasted = 0
  private readonly sizes = new Metrics.Histogram()
  private readonly waits = new Metrics.Histogram()
  private readonly runTimes = new Metrics.Histogram()

  /** `queued` is how many items wait. */
  constructor(queued: () => number) {
    this.queued = queued
  }

  /** A batch begins, whose first item has waited for `wait` milliseconds. */
  start(release: Release, size: number, wait: number): void {
    this.batches[release]++
    this.items += size
    this.sizes.record(size)
    this.waits.record(wait)
  }

  /** A batch has ended after some milliseconds. */
  end(millis: number): void {
    this.runTimes.record(millis)
  }

  /** A step with some sequences took some milliseconds. */
  step(size: number, millis: number): void {
    this.sizes.record(size)
    this.runTimes.record(millis)
  }

  drop(why: DropReason): void {
    this.dropped[why]++
  }

  waste(): void {
    this.wasted++
  }

  get counts(): Counts {
    return { batches: { ...this.batches }, items: this.items, dropped: { ...this.dropped }, wasted: this.wasted }
  }

  /** Shows all counts in the `Metric` registry until the scope closes. */
  show(tags: Readonly<Record<string, string>>): Effect.Effect<void, never, Scope.Scope> {
    return Effect.all(
      [
        Metrics.showGauge(Metrics.batchQueued, tags, this.queued),
        Metrics.showHistogram(Metrics.batchSize, tags, this.sizes),
        Metrics.showHistogram(Metrics.batchWait, tags, this.waits),
        Metrics.showHistogram(Metrics.batchRunTime, tags, this.runTimes),
        Metrics.showCounter(Metrics.batchWasted, tags, () => this.wasted),
        ...releases.map((release) =>
          Metrics.showCounter(Metrics.batches, { ...tags, release }, () => this.batches[release])
        ),
        ...(["left", "expired"] as const).map((why) =>
          Metrics.showCounter(Metrics.batchDropped, { ...tags, why }, () => this.dropped[why])
        )
      ],
      { discard: true }
    )
  }
}
