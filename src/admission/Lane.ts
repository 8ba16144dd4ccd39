/**
 * Those who wait in one class, in the order in which they are served.
 *
 * First come, first served is right as long as the queue empties now and then. When more come than are served and the queue
 * stands, whoever is first has waited longest and is the least likely to be done in time; from then on the lane is newest
 * first, until it has been empty once. `docs/overload.md` has the measurements.
 *
 * @since 0.1.0
 */
import { type Dated, EarliestFirst } from "./EarliestFirst.ts"
import { Flow } from "./Flow.ts"
import { Line } from "./Line.ts"

/**
 * Those who wait in one class, as the queue sees them: one lane, or one for each tenant.
 *
 * @category models
 * @since 0.1.0
 */
export interface Lanes<A extends Dated> {
  readonly size: number
  /** Whether it has not been empty for long, and more come than are served. */
  isStanding(now: number): boolean
  /** The lane in which someone waits or would wait, if there is one yet. */
  laneOf(waiter: A): Lane<A> | undefined
  /** How many go before a newcomer. */
  ahead(newcomer: A, now: number): number
  /** Whoever has to leave a full queue for a newcomer to this class, if anyone has. */
  victimFor(newcomer: A, now: number): A | undefined
  /** The least likely to be served in time. */
  victim(now: number): A | undefined
  add(waiter: A, now: number): void
  /** Gives a waiter that was taken its turn back. */
  restore(waiter: A, now: number): void
  remove(waiter: A, now: number): void
  /** Removes the one whose turn it is. */
  take(now: number): A | undefined
  [Symbol.iterator](): Iterator<A>
}

/**
 * `"adaptive"`: first come, first served, and newest first while there is a standing queue. `"fifo"`: first come, first
 * served. `"edf"`: earliest deadline first.
 *
 * @category options
 * @since 0.1.0
 */
export type Discipline = "adaptive" | "fifo" | "edf"

/**
 * What a lane has to know of the service.
 *
 * @category models
 * @since 0.1.0
 */
export interface Service {
  /** For how many milliseconds a lane may go without being empty until it stands, if more come than are served. */
  readonly standsAfter: () => number
  /** How many of the lane are expected to be served in a millisecond. */
  readonly rate: () => number
}

export class Lane<A extends Dated> implements Lanes<A> {
  private readonly discipline: Discipline
  private readonly service: Service
  private readonly line: Line<A> | EarliestFirst<A>
  private readonly flow = new Flow()
  private busySince = 0
  private stands = false

  constructor(discipline: Discipline, service: Service) {
    this.discipline = discipline
    this.service = service
    this.line = discipline === "edf" ? new EarliestFirst() : new Line()
  }

  get size(): number {
    return this.line.size
  }

  isStanding(now: number): boolean {
    if (!this.stands && this.line.size > 0 && now - this.busySince > this.service.standsAfter()) {
      this.stands = this.flow.isOverloaded(now, this.service.rate())
    }
    return this.stands
  }

  laneOf(): this {
    return this
  }

  /** Someone came, whether to wait or to be turned away. */
  come(): void {
    this.flow.come()
  }

  /** Someone who was taken was served. */
  serve(): void {
    this.flow.serve()
  }

  /** How many are served in a millisecond while someone waits. */
  rate(now: number): number {
    return this.flow.rate(now, this.service.rate())
  }

  ahead(_: A, now: number): number {
    return this.discipline === "edf" || this.isNewestFirst(now) ? 0 : this.line.size
  }

  victimFor(): undefined {
    return undefined
  }

  victim(now: number): A | undefined {
    return this.isNewestFirst(now) ? this.line.first : this.line.last
  }

  /** Whose turn it is. */
  next(now: number): A | undefined {
    return this.isNewestFirst(now) ? this.line.last : this.line.first
  }

  add(waiter: A, now: number): void {
    this.begin(now)
    this.line.add(waiter)
  }

  restore(waiter: A, now: number): void {
    this.begin(now)
    this.flow.takeBack()
    this.line.restore(waiter)
  }

  remove(waiter: A, now: number): void {
    this.line.remove(waiter)
    if (this.line.size > 0) return
    this.stands = false
    this.flow.wait(now, false)
  }

  take(now: number): A | undefined {
    const waiter = this.next(now)
    if (waiter !== undefined) this.remove(waiter, now)
    return waiter
  }

  [Symbol.iterator](): Iterator<A> {
    return this.line[Symbol.iterator]()
  }

  private begin(now: number): void {
    if (this.line.size > 0) return
    this.busySince = now
    this.flow.wait(now, true)
  }

  private isNewestFirst(now: number): boolean {
    return this.discipline === "adaptive" && this.isStanding(now)
  }
}
