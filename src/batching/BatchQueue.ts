/**
 * Cuts batches: which items go together, and when.
 *
 * Items wait in a group, one for each key. A group is ripe when it is full or has waited long enough, and a batch is cut
 * from it when there is also a slot to run it in: until then it keeps filling. (To seal a batch by the clock and let it wait for a
 * slot, as Ray Serve does, runs 50 batches of 2 where 13 full ones would do.) Ripe groups take turns, so a busy key can't keep
 * the others waiting. Plain synchronous code; a key without items costs nothing.
 *
 * @since 0.1.0
 */
import { MutableHashMap, Option } from "effect"
import type { Watched } from "../admission/Alarm.ts"
import { Line, type Standing } from "../admission/Line.ts"
import type { CostModel } from "./CostModel.ts"

/**
 * What waits.
 *
 * @category models
 * @since 0.1.0
 */
export interface Entry<A, Self extends Standing> extends Standing {
  readonly value: A
  readonly arrivedAt: number
  /** When it is too late, in milliseconds. */
  readonly deadline: number
  /** Where it waits. */
  group: Group<Self> | undefined
}

/**
 * What bounds a batch. Times are in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Limits {
  readonly maxBatchSize: number
  readonly batchWaitTimeout: number | "adaptive"
  /** The most that `"adaptive"` may wait. */
  readonly maxBatchWait: number
}

/**
 * How the size of a batch is found, item by item. Nothing of this may change what it is given.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sizing<A, S> {
  readonly empty: S
  readonly add: (state: S, item: A) => S
  readonly size: (state: S) => number
}

/**
 * Why a batch was cut: it was full; its first item had waited for long enough; that was so before, and a slot came free; one of
 * its items would have been too late; the batcher is closing.
 *
 * @category models
 * @since 0.1.0
 */
export type Release = "full" | "timeout" | "slot" | "deadline" | "drain"

/**
 * A batch that was cut, and the items that were left out of it for good.
 *
 * @category models
 * @since 0.1.0
 */
export interface Batch<E extends Standing> {
  readonly group: Group<E>
  readonly entries: ReadonlyArray<E>
  readonly release: Release
  /** Items whose deadlines have passed. */
  readonly expired: ReadonlyArray<E>
  /** Items that are too large by themselves. */
  readonly tooLarge: ReadonlyArray<{ readonly entry: E; readonly size: number }>
  /** Items whose size could not be found, and what was thrown. */
  readonly broken: ReadonlyArray<{ readonly entry: E; readonly error: unknown }>
}

/** Milliseconds, and a part of the predicted run time, that are kept for what a prediction doesn't know. */
const SAFETY_MILLIS = 1
const SAFETY = 1.1

/** Weight of the newest time between two arrivals in the mean. */
const NEWEST = 0.1

/**
 * Items with equal keys.
 *
 * @category models
 * @since 0.1.0
 */
export class Group<E extends Standing> implements Watched<Group<E>>, Standing {
  readonly key: unknown
  readonly line = new Line<E>()
  /** Those in force when the first item of the next batch came. */
  limits: Limits
  /** What is known of the next batch: how many items fit, what their size is found from, and whether no more fit. */
  fitting = 0
  state: unknown = undefined
  isFull = false
  earliestDeadline = Infinity
  lastArrival = 0
  ripe: { readonly since: number; readonly release: Release } | undefined = undefined

  due = Infinity
  timed = false
  laterDeadline: Group<E> | undefined = undefined
  earlierDeadline: Group<E> | undefined = undefined
  turn = 0
  spot = 0

  constructor(key: unknown, limits: Limits, state: unknown) {
    this.key = key
    this.limits = limits
    this.state = state
  }
}

export class BatchQueue<A, S, E extends Entry<A, E>> {
  /** For the batches that begin from now on. */
  limits: Limits
  private readonly sizing: Sizing<A, S>
  private readonly keyOf: ((item: A) => unknown) | undefined
  private readonly cost: CostModel
  private readonly groups = MutableHashMap.empty<unknown, Group<E>>()
  private readonly ripe = new Line<Group<E>>()
  private length = 0
  private gap = Infinity
  private lastArrival = -Infinity

  constructor(options: {
    readonly limits: Limits
    readonly sizing: Sizing<A, S>
    readonly key: ((item: A) => unknown) | undefined
    readonly cost: CostModel
  }) {
    this.limits = options.limits
    this.sizing = options.sizing
    this.keyOf = options.key
    this.cost = options.cost
  }

  get size(): number {
    return this.length
  }

  *[Symbol.iterator](): Iterator<E> {
    for (const [, group] of this.groups) yield* group.line
  }

  /** All groups that have items. */
  get all(): ReadonlyArray<Group<E>> {
    return Array.from(this.groups, ([, group]) => group)
  }

  /**
   * Puts an item at the end of its group, which is returned. Throws what the user's functions throw, and then nothing has
   * changed.
   */
  add(entry: E, now: number): Group<E> {
    const key = this.keyOf?.(entry.value)
    const known = Option.getOrUndefined(MutableHashMap.get(this.groups, key))
    const group = known ?? new Group<E>(key, this.limits, this.sizing.empty)
    this.fit(group, entry)
    if (known === undefined) MutableHashMap.set(this.groups, key, group)
    group.line.add(entry)
    group.lastArrival = now
    entry.group = group
    this.length++
    // A pause says that it doesn't pay to wait, and no more than that.
    const gap = Math.min(now - this.lastArrival, this.cost.known ? 2 * this.cost.fixed : Infinity)
    this.gap = this.gap === Infinity ? gap : this.gap + NEWEST * (gap - this.gap)
    this.lastArrival = now
    return group
  }

  /** The size of an item alone. Throws what the user's functions throw. */
  measure(item: A): number {
    return this.sizeOf(this.sizing.add(this.sizing.empty, item))
  }

  /** Takes an item out whose caller has left. A group that isn't ripe without it waits again. */
  remove(entry: E, now: number): void {
    const group = entry.group!
    this.take(group, entry)
    this.begin(group, group.limits)
    if (group.ripe === undefined || group.ripe.release === "drain" || this.ripens(group, now).at <= now) return
    this.ripe.remove(group)
    group.ripe = undefined
  }

  /** When a group is ripe, if nothing more comes: at once, at some time, or never when it has no items. */
  ripens(group: Group<E>, now: number): { readonly at: number; readonly release: Release } {
    const first = group.line.first
    if (first === undefined) return { at: Infinity, release: "timeout" }
    if (group.isFull) return { at: now, release: "full" }
    const { batchWaitTimeout, maxBatchWait } = group.limits
    if (batchWaitTimeout !== "adaptive") return { at: first.arrivedAt + batchWaitTimeout, release: "timeout" }
    const latest = first.arrivedAt + maxBatchWait
    const paysUntil = this.paysUntil(group, now)
    const deadline = group.earliestDeadline - SAFETY * this.cost.predict(group.fitting) - SAFETY_MILLIS
    return deadline < Math.min(latest, paysUntil)
      ? { at: deadline, release: "deadline" }
      : { at: Math.min(latest, paysUntil), release: "timeout" }
  }

  /** From now on a group waits for nothing but a slot. */
  ripen(group: Group<E>, now: number, release: Release): void {
    if (group.ripe !== undefined || group.line.size === 0) return
    group.ripe = { since: now, release }
    this.ripe.add(group)
  }

  /** Cuts the next batch, of the group whose turn it is. It may turn out empty; `undefined` when no group is ripe. */
  next(now: number): Batch<E> | undefined {
    const group = this.ripe.first
    if (group === undefined) return undefined
    this.ripe.remove(group)
    const { release, since } = group.ripe!
    group.ripe = undefined
    const { isFull, ...batch } = this.cut(group, now)
    this.begin(group, this.limits)
    return { ...batch, group, release: isFull ? "full" : since < now && release !== "drain" ? "slot" : release }
  }

  private cut(group: Group<E>, now: number) {
    const entries: Array<E> = []
    const expired: Array<E> = []
    const tooLarge: Array<Batch<E>["tooLarge"][number]> = []
    const broken: Array<Batch<E>["broken"][number]> = []
    let state = this.sizing.empty
    let isFull = false
    for (let entry = group.line.first; entry !== undefined && !isFull; entry = group.line.first) {
      if (entry.deadline <= now) {
        expired.push(entry)
      } else {
        try {
          const next = this.sizing.add(state, entry.value)
          const size = this.sizeOf(next)
          if (size > group.limits.maxBatchSize && entries.length > 0) {
            isFull = true
            break
          }
          if (size > group.limits.maxBatchSize) {
            tooLarge.push({ entry, size })
          } else {
            entries.push(entry)
            state = next
            isFull = size >= group.limits.maxBatchSize
          }
        } catch (error) {
          broken.push({ entry, error })
        }
      }
      this.take(group, entry)
    }
    return { entries, expired, tooLarge, broken, isFull }
  }

  private take(group: Group<E>, entry: E): void {
    group.line.remove(entry)
    entry.group = undefined
    this.length--
    if (group.line.size > 0) return
    MutableHashMap.remove(this.groups, group.key)
    if (group.ripe !== undefined) this.ripe.remove(group)
    group.ripe = undefined
  }

  /** Looks at the items of a group as the beginning of its next batch. */
  private begin(group: Group<E>, limits: Limits): void {
    group.limits = limits
    group.fitting = 0
    group.state = this.sizing.empty
    group.isFull = false
    group.earliestDeadline = Infinity
    for (const entry of group.line) {
      if (group.isFull) return
      try {
        this.fit(group, entry)
      } catch {
        // The item that can't be measured is found again when the batch is cut, and fails then.
      }
    }
  }

  private fit(group: Group<E>, { deadline, value }: E): void {
    if (group.isFull) return
    const { maxBatchSize } = group.limits
    const state = this.sizing.add(group.state as S, value)
    const size = this.sizeOf(state)
    // One that has become too large alone is found when the batch is cut.
    if (size > maxBatchSize && group.fitting === 0) return
    group.isFull = size >= maxBatchSize
    if (size > maxBatchSize) return
    group.state = state
    group.fitting++
    group.earliestDeadline = Math.min(group.earliestDeadline, deadline)
  }

  private sizeOf(state: S): number {
    const size = this.sizing.size(state)
    if (typeof size === "number" && !Number.isNaN(size)) return size
    throw new Error(`The size of a batch must be a number, and is ${String(size)}`)
  }

  // To wait for one more item costs each of the n that are there the time until it comes, and saves the fixed cost of a batch:
  // it pays as long as n * gap < fixed. When nothing has come for longer than the usual gap, that time counts instead.
  private paysUntil(group: Group<E>, now: number): number {
    const { fixed, known } = this.cost
    const gap = this.gap * MutableHashMap.size(this.groups)
    if (!known || group.fitting * gap >= fixed) return now
    return group.lastArrival + fixed / group.fitting
  }
}
