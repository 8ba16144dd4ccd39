/**
 * Those who wait in one class, with a lane for each tenant that has anyone waiting, so that a tenant who sends a lot only
 * makes its own requests wait.
 *
 * Deficit round robin (Shreedhar and Varghese, 1996) by the time that requests take: the lanes have their turns one after
 * the other, each turn is worth as much work as the dearest request takes, and what a lane does not use of it, it keeps for
 * the next. When the queue is full, the tenant with the most waiting makes room. Every operation is O(1), however many
 * tenants there are; a tenant without requests costs nothing.
 *
 * @since 0.1.0
 */
import type { Dated } from "./EarliestFirst.ts"
import { type Discipline, Lane, type Lanes, type Service } from "./Lane.ts"
import { Line, type Standing } from "./Line.ts"

/**
 * What can be shared out among tenants.
 *
 * @category models
 * @since 0.1.0
 */
export interface Owned extends Dated {
  readonly tenant: string | undefined
}

/** What is left, after a round, of what a turn was worth, when no request was as dear. */
const FORGETTING = 0.9

class TenantLane<A extends Dated> extends Lane<A> implements Standing {
  turn = 0
  spot = 0
  /** Milliseconds of work that it may still have served. */
  credit = 0
  readonly tenant: string | undefined

  constructor(tenant: string | undefined, discipline: Discipline, service: Service) {
    super(discipline, service)
    this.tenant = tenant
  }
}

export class Tenants<A extends Owned> implements Lanes<A> {
  private readonly discipline: Discipline
  private readonly service: Service
  private readonly costOf: (waiter: A) => number
  private readonly lanes = new Map<string | undefined, TenantLane<A>>()
  /** The lanes in the order of their turns. */
  private readonly round = new Line<TenantLane<A>>()
  /** At each index the lanes in which so many wait; nobody waits in the lanes at 0. */
  private readonly bySize: Array<Set<TenantLane<A>>> = [new Set()]
  private longest = 0
  /** What a turn is worth, the dearest request that was looked at in this round, and the turns that are left of it. */
  private quantum = 0
  private dearest = 0
  private turnsLeft = 0
  private waiting = 0

  /** `costOf` says how many milliseconds of work a request is, more than 0. */
  constructor(discipline: Discipline, service: Service, costOf: (waiter: A) => number) {
    this.discipline = discipline
    this.service = {
      standsAfter: service.standsAfter,
      rate: () => service.rate() / Math.max(this.round.size, 1)
    }
    this.costOf = costOf
  }

  get size(): number {
    return this.waiting
  }

  isStanding(now: number): boolean {
    return this.longestLane?.isStanding(now) === true
  }

  laneOf(waiter: A): TenantLane<A> | undefined {
    return this.lanes.get(waiter.tenant)
  }

  ahead(newcomer: A, now: number): number {
    const own = this.laneOf(newcomer)
    // At best its own ones, and at worst as many of every tenant; half a round for the first of a tenant.
    return own === undefined ? this.round.size / 2 : (own.ahead(newcomer, now) * (1 + this.round.size)) / 2
  }

  victimFor(newcomer: A, now: number): A | undefined {
    const own = this.laneOf(newcomer)?.size ?? 0
    return own + 1 < this.longest ? this.victim(now) : undefined
  }

  victim(now: number): A | undefined {
    return this.longestLane?.victim(now)
  }

  add(waiter: A, now: number): void {
    const lane = this.laneFor(waiter)
    lane.add(waiter, now)
    this.resized(lane, lane.size - 1)
  }

  restore(waiter: A, now: number): void {
    const lane = this.laneFor(waiter)
    lane.restore(waiter, now)
    lane.credit += this.costOf(waiter)
    this.resized(lane, lane.size - 1)
  }

  remove(waiter: A, now: number): void {
    const lane = this.laneOf(waiter)!
    lane.remove(waiter, now)
    this.resized(lane, lane.size + 1)
  }

  take(now: number): A | undefined {
    for (let lane = this.round.first; lane !== undefined; lane = this.round.first) {
      const cost = this.costOf(lane.next(now)!)
      this.dearest = Math.max(this.dearest, cost)
      if (lane.credit < cost) {
        this.endTurn(lane)
        continue
      }
      lane.credit -= cost
      const waiter = lane.take(now)
      this.resized(lane, lane.size + 1)
      return waiter
    }
    return undefined
  }

  *[Symbol.iterator](): Iterator<A> {
    for (const lane of this.round) yield* lane
  }

  private get longestLane(): TenantLane<A> | undefined {
    const [lane] = this.bySize[this.longest]!
    return lane
  }

  private laneFor(waiter: A): TenantLane<A> {
    if (this.waiting === 0) this.quantum = this.costOf(waiter)
    const known = this.laneOf(waiter)
    if (known !== undefined) return known
    const lane = new TenantLane<A>(waiter.tenant, this.discipline, this.service)
    lane.credit = Math.max(this.quantum, this.costOf(waiter))
    this.lanes.set(waiter.tenant, lane)
    this.round.add(lane)
    this.turnsLeft++
    return lane
  }

  private endTurn(lane: TenantLane<A>): void {
    lane.credit += this.quantum
    this.round.remove(lane)
    this.round.add(lane)
    this.passTurn()
  }

  // What a turn is worth changes from one round to the next and not within one, so that it is the same for all.
  private passTurn(): void {
    if (--this.turnsLeft > 0) return
    this.turnsLeft = this.round.size
    this.quantum = Math.max(this.dearest, this.quantum * FORGETTING)
    this.dearest = 0
  }

  /** A lane has one more or one fewer than `before`. */
  private resized(lane: TenantLane<A>, before: number): void {
    const { size } = lane
    this.waiting += size - before
    this.bySize[before]?.delete(lane)
    if (size > 0) (this.bySize[size] ??= new Set()).add(lane)
    else {
      this.lanes.delete(lane.tenant)
      this.round.remove(lane)
      this.passTurn()
    }
    if (size > this.longest) this.longest = size
    while (this.longest > 0 && this.bySize[this.longest]!.size === 0) {
      this.bySize.pop()
      this.longest--
    }
  }
}
