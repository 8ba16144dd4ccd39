/**
 * The queue in front of a deployment's replicas: who may wait, who is next, and who is told at once that it is no use.
 *
 * There is a lane for each priority, and the most important one is served first; inside a lane the order is the
 * discipline's. The queue is bounded by count, and by time: a request is refused on arrival when it can't be done by its
 * deadline after all the work ahead of it, and one whose turn comes too late is not worth a permit. Both go by the service
 * times of requests that succeeded, and do nothing while none has.
 *
 * Plain synchronous code: time is passed in, nothing is waited for. Every operation is O(1) (with `"edf"` O(log n)).
 *
 * @since 0.1.0
 */
import type { Priority } from "../core/RequestContext.ts"
import { type Discipline, Lane, type Lanes } from "./Lane.ts"
import { ServiceTimes } from "./ServiceTimes.ts"
import { type Owned, Tenants } from "./Tenants.ts"

export type { Discipline } from "./Lane.ts"

/**
 * Who gets the next turn inside a priority: the next request, or the next tenant's.
 *
 * @category options
 * @since 0.1.0
 */
export type Fairness = "none" | "tenant"

/**
 * What can wait.
 *
 * @category models
 * @since 0.1.0
 */
export interface Waiter extends Owned {
  readonly priority: Priority
  /** The index of its method. */
  readonly method: number
  /** When it has to be looked after, in milliseconds: its deadline, or when it has waited for too long. */
  due: number
}

/**
 * Why someone may not wait: the queue is full, or the deadline can't be met.
 *
 * @category models
 * @since 0.1.0
 */
export type Refusal = "full" | "late"

/**
 * Why one that waited is dropped for the sake of others: it has waited for too long in a queue that stands, or will have
 * before its turn; or the queue is full, and a more important request or one of a tenant with fewer needs the place.
 *
 * @category models
 * @since 0.1.0
 */
export type ShedReason = "queueTimeout" | "displaced"

const priorities: ReadonlyArray<Priority> = ["critical", "default", "sheddable"]
const rankOf = ({ priority }: { readonly priority: Priority }): number =>
  priority === "default" ? 1 : priority === "critical" ? 0 : 2

/** Of so many requests served while a less important one waits, the last is the less important one. */
const SHARE = 20

/**
 * An expected wait counts twice: half of those who are admitted with a wait of all their time come too late, and a line
 * as long as the deadline makes everyone late.
 */
const WAIT_SAFETY = 2
/** How much more than its mean the work counts. Earliest deadline first has its domino effect below 2. */
const WORK_SAFETY = { adaptive: 1.05, fifo: 1.05, edf: 2 }

/** In a healthy queue, requests that are not critical wait for this part of their time and no longer. */
const PATIENCE = 0.65
/** In a standing one, nobody waits for longer than this part of their time, a median service time, or these milliseconds. */
const STANDING_PATIENCE = 0.25
const STANDING_PATIENCE_MILLIS = 5

/** An overloaded queue stands when it has not been empty for so many median service times, or milliseconds. */
const STANDING_TIMES = 5
const STANDING_MILLIS = 100

/** Milliseconds per request as long as nothing is known. */
const UNKNOWN = 1000

export class AdmissionQueue<A extends Waiter> {
  readonly maxSize: number
  readonly discipline: Discipline
  private readonly permits: () => number
  private readonly classes: ReadonlyArray<Lanes<A>>
  private readonly passedOver = [0, 0, 0]
  /** How long a method takes to answer, and how long any request holds its permit. */
  private readonly answerTimes: ReadonlyArray<ServiceTimes>
  private readonly permitTimes = new ServiceTimes()
  private length = 0

  /**
   * `maxSize` bounds the queue, `Infinity` doesn't; `methods` is how many there are; `permits` is how many requests may run
   * at once.
   */
  constructor(options: {
    readonly maxSize: number
    readonly discipline: Discipline
    readonly fairness: Fairness
    readonly methods: number
    readonly permits: () => number
  }) {
    this.maxSize = options.maxSize
    this.discipline = options.discipline
    this.permits = options.permits
    this.answerTimes = Array.from({ length: options.methods }, () => new ServiceTimes())
    const service = { standsAfter: () => this.standsAfter, rate: () => this.expectedRate }
    const costOf = ({ method }: A) => Math.max(this.answerTimes[method]!.mean, 1)
    this.classes = priorities.map(() =>
      options.fairness === "tenant"
        ? new Tenants<A>(options.discipline, service, costOf)
        : new Lane<A>(options.discipline, service)
    )
  }

  get size(): number {
    return this.length
  }

  *[Symbol.iterator](): Iterator<A> {
    for (const lanes of this.classes) yield* lanes
  }

  /** How many wait, by priority. */
  get sizes(): Readonly<Record<Priority, number>> {
    const [critical, normal, sheddable] = this.classes
    return { critical: critical!.size, default: normal!.size, sheddable: sheddable!.size }
  }

  /** Whether more arrives than is served. */
  isStanding(now: number): boolean {
    return this.classes.some((lanes) => lanes.isStanding(now))
  }

  /**
   * Puts a waiter in its place, or says why not. Another one may have to leave for it: that one is returned. In a full queue
   * it is one of the less important ones, or of the tenant who has the most waiting.
   */
  offer(waiter: A, now: number): Refusal | { readonly waiter: A; readonly why: ShedReason } | undefined {
    const lanes = this.classOf(waiter)
    lanes.laneOf(waiter)?.come()
    if (this.willBeLate(waiter, now)) return "late"
    const isFull = this.length >= this.maxSize
    const displaced = isFull
      ? (this.lessImportant(waiter, now) ?? lanes.victimFor(waiter, now))
      : this.hopeless(waiter, now)
    if (isFull && displaced === undefined) return "full"
    if (displaced !== undefined) this.cancel(displaced, now)
    waiter.due = this.waitsUntil(waiter, now)
    lanes.add(waiter, now)
    this.length++
    return displaced && { waiter: displaced, why: isFull ? "displaced" : "queueTimeout" }
  }

  /** Takes the waiter whose turn it is. It may be too late for it: see {@link AdmissionQueue.isLate}. */
  next(now: number): A | undefined {
    const waiter = this.nextClass(now)?.take(now)
    if (waiter === undefined) return undefined
    this.length--
    if (!this.isLate(waiter, now)) this.classOf(waiter).laneOf(waiter)?.serve()
    return waiter
  }

  /** Whether a waiter can't be done by its deadline any more. */
  isLate(waiter: A, now: number): boolean {
    return waiter.deadline <= now || waiter.deadline - now < this.workOf(waiter)
  }

  /** Gives a waiter its turn back; the bound doesn't apply to one that was already admitted. */
  restore(waiter: A, now: number): void {
    this.classOf(waiter).restore(waiter, now)
    this.length++
  }

  /** Removes a waiter that is in this queue, wherever it stands. */
  cancel(waiter: A, now: number): void {
    this.classOf(waiter).remove(waiter, now)
    this.length--
  }

  /** Takes note of the time that a request needed to answer, or a stream to its first element. */
  answered(method: number, millis: number): void {
    this.answerTimes[method]!.record(millis)
  }

  /** Takes note of the time for which a request held its permit. */
  completed(millis: number): void {
    this.permitTimes.record(millis)
  }

  /** Milliseconds until one more like this would have its turn, at the rate at which its lane drains. */
  drainTime(waiter: A, now: number): number {
    const lanes = this.classOf(waiter)
    const lane = lanes.laneOf(waiter)
    return lane === undefined ? (lanes.ahead(waiter, now) + 1) / this.expectedRate : (lane.size + 1) / lane.rate(now)
  }

  private classOf(waiter: A): Lanes<A> {
    return this.classes[rankOf(waiter)]!
  }

  private willBeLate(waiter: A, now: number): boolean {
    const left = waiter.deadline - now
    if (left === Infinity) return false
    return left < WAIT_SAFETY * this.waitOf(waiter, now) + this.workOf(waiter)
  }

  private waitOf(waiter: A, now: number): number {
    const own = rankOf(waiter)
    let ahead = this.classes[own]!.ahead(waiter, now)
    for (let rank = own - 1; rank >= 0; rank--) ahead += this.classes[rank]!.size
    return (ahead * this.permitTimes.mean) / Math.max(this.permits(), 1)
  }

  private get expectedRate(): number {
    const time = this.permitTimes.known ? Math.max(this.permitTimes.mean, 0.001) : UNKNOWN
    return Math.max(this.permits(), 1) / time
  }

  /** In a standing queue, the oldest one, when it can't be served before it has waited for too long. */
  private hopeless(waiter: A, now: number): A | undefined {
    const lane = this.classOf(waiter).laneOf(waiter)
    if (this.discipline !== "adaptive" || lane === undefined || !lane.isStanding(now)) return undefined
    return lane.size > lane.rate(now) * (this.waitsUntil(waiter, now) - now) ? lane.victim(now) : undefined
  }

  private workOf({ method }: A): number {
    const times = this.answerTimes[method]!
    const mean = WORK_SAFETY[this.discipline] * times.mean
    return Math.max(mean, this.discipline === "edf" ? times.p90 : times.p50)
  }

  // What waits for longer is served too late, if at all, and its caller had better know. Critical requests are what others
  // make room for, and wait as long as they can. As long as nothing is known of service times, so does everyone.
  private waitsUntil(waiter: A, now: number): number {
    const { deadline, priority } = waiter
    if (this.discipline !== "adaptive" || !this.permitTimes.known || deadline === Infinity) return deadline
    const left = deadline - now
    const stands = this.classOf(waiter).laneOf(waiter)?.isStanding(now) === true
    if (!stands) return priority === "critical" ? deadline : Math.min(deadline, Math.ceil(now + PATIENCE * left))
    const wait = Math.max(STANDING_PATIENCE * left, this.permitTimes.p50, STANDING_PATIENCE_MILLIS)
    return Math.min(deadline, Math.ceil(now + wait))
  }

  private get standsAfter(): number {
    return this.permitTimes.known ? Math.max(STANDING_MILLIS, STANDING_TIMES * this.permitTimes.p50) : Infinity
  }

  private lessImportant(waiter: A, now: number): A | undefined {
    for (let rank = priorities.length - 1; rank > rankOf(waiter); rank--) {
      const victim = this.classes[rank]!.victim(now)
      if (victim !== undefined) return victim
    }
    return undefined
  }

  // Strictly by importance while there is more work than capacity. Otherwise the others have a small share of the turns,
  // or a steady stream of important requests could make them wait for ever.
  private nextClass(now: number): Lanes<A> | undefined {
    let first = 0
    while (first < priorities.length && this.classes[first]!.size === 0) first++
    for (let rank = priorities.length - 1; rank > first; rank--) {
      if (this.classes[rank]!.size === 0 || this.isStanding(now)) continue
      if (++this.passedOver[rank]! < SHARE) continue
      this.passedOver[rank] = 0
      return this.classes[rank]
    }
    return this.classes[first]
  }
}
