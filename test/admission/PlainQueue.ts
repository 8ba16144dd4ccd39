/** What an admission queue has to do, said by plain lists. */
import { assert } from "@effect/vitest"
import type { AdmissionQueue, Discipline, Fairness, Refusal, ShedReason } from "../../src/admission/AdmissionQueue.ts"
import { ServiceTimes } from "../../src/admission/ServiceTimes.ts"
import { Guest, priorities, queueOf } from "./guests.ts"

/** The queue beside a plain list, which says what it must do. */
export class PlainQueue {
  readonly discipline: Discipline
  readonly fairness: Fairness
  readonly maxSize: number
  readonly permits: number
  readonly queue: AdmissionQueue<Guest>
  readonly waiting: Array<Guest> = []
  readonly taken: Array<Guest> = []
  readonly gone = new Set<Guest>()
  admitted = 0
  now = 0
  private readonly answerTimes = [new ServiceTimes(), new ServiceTimes()]
  private readonly permitTimes = new ServiceTimes()
  private readonly passedOver = [0, 0, 0]
  /** The lanes with someone waiting: since when, and whether that is so long that they may stand. */
  private readonly lanes = new Map<string, { since: number; mayStand: boolean }>()

  constructor(discipline: Discipline, fairness: Fairness, maxSize: number, permits: number) {
    this.discipline = discipline
    this.fairness = fairness
    this.maxSize = maxSize
    this.permits = permits
    this.queue = queueOf({ discipline, fairness, maxSize, permits })
  }

  offer(guest: Guest): void {
    const before = this.stands(guest)
    const size = this.queue.size
    const room = this.roomFor(guest)
    const outcome = this.queue.offer(guest, this.now)
    const after = this.stands(guest)
    const stood =
      before === true || after === true ? [true] : before === false && after === false ? [false] : [true, false]
    const late = stood.map((stands) => this.willBeLate(guest, stands))
    this.check(guest, outcome, late, room)
    if (typeof outcome === "string") {
      assert.strictEqual(this.queue.size, size, "a refused one changes nothing")
      return
    }
    if (outcome !== undefined) {
      assert.include(this.waiting, outcome.waiter)
      this.leave(outcome.waiter)
      this.gone.add(outcome.waiter)
    }
    if (!this.lanes.has(keyOf(guest, this.fairness)) && outcome?.why === "queueTimeout") stood.push(false)
    this.enter(guest)
    this.admitted++
    assert.include(
      stood.map((stands) => this.dueOf(guest, stands)),
      guest.due
    )
    assert.isAtMost(this.queue.size, Math.max(this.maxSize, size), "only those given back exceed the bound")
  }

  private check(
    guest: Guest,
    outcome: Refusal | { waiter: Guest; why: ShedReason } | undefined,
    late: ReadonlyArray<boolean>,
    room: ReadonlyArray<Guest> | "free" | "none"
  ): void {
    if (outcome === "late") return assert.include(late, true)
    assert.include(late, false)
    if (room === "none") return assert.strictEqual(outcome, "full")
    if (room === "free") {
      if (outcome === undefined) return
      assert.isObject(outcome)
      const { waiter, why } = outcome as Exclude<typeof outcome, Refusal>
      assert.strictEqual(why, "queueTimeout")
      assert.isTrue(this.lanes.get(keyOf(guest, this.fairness))!.mayStand)
      assert.strictEqual(waiter, this.peersOf(guest)[0])
      return
    }
    assert.isObject(outcome)
    const { waiter, why } = outcome as Exclude<typeof outcome, Refusal | undefined>
    assert.strictEqual(why, "displaced")
    assert.include(room, waiter)
  }

  next(): Guest | undefined {
    const before = Array.from(this.waiting)
    const rank = this.nextRank()
    const guest = this.queue.next(this.now)
    assert.strictEqual(guest === undefined, before.length === 0)
    if (guest === undefined) return undefined
    assert.include(before, guest)
    assert.strictEqual(guest.priority, priorities[rank])
    const peers = this.peersOf(guest)
    const stood = this.discipline === "adaptive" ? this.stands(guest) : false
    if (this.discipline === "edf") assert.strictEqual(guest, earliest(peers))
    else
      assert.include([...(stood === true ? [] : peers.slice(0, 1)), ...(stood === false ? [] : peers.slice(-1))], guest)
    const left = guest.deadline - this.now
    assert.strictEqual(this.queue.isLate(guest, this.now), left <= 0 || left < this.workOf(guest))
    this.leave(guest)
    this.taken.push(guest)
    return guest
  }

  cancel(guest: Guest): void {
    this.queue.cancel(guest, this.now)
    this.leave(guest)
    this.gone.add(guest)
  }

  restore(guest: Guest): void {
    this.taken.splice(this.taken.indexOf(guest), 1)
    this.queue.restore(guest, this.now)
    this.enter(guest)
  }

  answered(method: number, millis: number): void {
    this.queue.answered(method, millis)
    this.answerTimes[method]!.record(millis)
  }

  completed(millis: number): void {
    this.queue.completed(millis)
    this.permitTimes.record(millis)
  }

  /** Compares what the queue says of itself. */
  compare(): void {
    const { queue, waiting } = this
    assert.strictEqual(queue.size, waiting.length)
    const byPriority = priorities.map((priority) => waiting.filter((guest) => guest.priority === priority))
    assert.deepStrictEqual(
      priorities.map((priority) => queue.sizes[priority]),
      byPriority.map(({ length }) => length)
    )
    const all = Array.from(queue)
    const inLine = this.discipline !== "edf" && this.fairness === "none"
    const standing = inLine
      ? all
      : priorities.flatMap((priority) => all.filter((guest) => guest.priority === priority).toSorted(byTurn))
    assert.isTrue(standing.length === waiting.length && standing.every((guest, i) => guest === byPriority.flat()[i]))
    const drainTime = queue.drainTime(new Guest({ tenant: "a" }), this.now)
    assert.isTrue(Number.isFinite(drainTime) && drainTime > 0, String(drainTime))
    for (const lane of this.lanes.values()) lane.mayStand ||= this.now - lane.since > this.standsAfter
    if (queue.isStanding(this.now)) assert.isTrue(Array.from(this.lanes.values()).some(({ mayStand }) => mayStand))
  }

  private enter(guest: Guest): void {
    const key = keyOf(guest, this.fairness)
    if (!this.lanes.has(key)) this.lanes.set(key, { since: this.now, mayStand: false })
    this.waiting.push(guest)
    this.waiting.sort(byTurn)
  }

  private leave(guest: Guest): void {
    this.waiting.splice(this.waiting.indexOf(guest), 1)
    if (this.peersOf(guest).length === 0) this.lanes.delete(keyOf(guest, this.fairness))
  }

  private peersOf(guest: Guest): ReadonlyArray<Guest> {
    return this.waiting.filter((other) => keyOf(other, this.fairness) === keyOf(guest, this.fairness))
  }

  private get standsAfter(): number {
    return this.permitTimes.known ? Math.max(100, 5 * this.permitTimes.p50) : Infinity
  }

  /** Whether someone's lane stands, where that can be known. */
  private stands(guest: Guest): boolean | undefined {
    if (this.lanes.get(keyOf(guest, this.fairness))?.mayStand !== true) return false
    const others = Array.from(this.lanes.values()).filter(({ mayStand }) => mayStand)
    const stands = this.queue.isStanding(this.now)
    return this.fairness === "none" && (!stands || others.length === 1) ? stands : undefined
  }

  private get isFull(): boolean {
    return this.waiting.length >= this.maxSize
  }

  /** Those of whom one has to leave for a newcomer, unless there is room, or none for it. */
  private roomFor(guest: Guest): ReadonlyArray<Guest> | "free" | "none" {
    if (!this.isFull) return "free"
    const rank = priorities.indexOf(guest.priority)
    const lesser = priorities.findLast(
      (other, i) => i > rank && this.waiting.some(({ priority }) => priority === other)
    )
    const candidates = this.waiting.filter(({ priority }) => priority === (lesser ?? guest.priority))
    const lanes = Array.from(Map.groupBy(candidates, (other) => keyOf(other, this.fairness)).values())
    const most = Math.max(0, ...lanes.map(({ length }) => length))
    if (lesser === undefined && (this.fairness === "none" || this.peersOf(guest).length + 1 >= most)) return "none"
    return lanes.flatMap((lane) => (lane.length === most ? this.leastPromising(lane) : []))
  }

  private leastPromising(lane: ReadonlyArray<Guest>): ReadonlyArray<Guest> {
    if (this.discipline === "edf") return lane.length === 1 ? lane : lane.filter((guest) => guest !== earliest(lane))
    const stands = this.discipline === "adaptive" ? this.stands(lane[0]!) : false
    return [...(stands === true ? [] : lane.slice(-1)), ...(stands === false ? [] : lane.slice(0, 1))]
  }

  private willBeLate(guest: Guest, stands: boolean): boolean {
    const rank = priorities.indexOf(guest.priority)
    const peers = this.peersOf(guest)
    const tenants = Array.from(this.lanes.keys()).filter((key) => key.startsWith(guest.priority))
    const rounds = this.fairness === "none" ? 1 : (1 + tenants.length) / 2
    const isFirst = this.fairness === "tenant" && peers.length === 0
    const jumps = this.discipline === "edf" || (this.discipline === "adaptive" && stands)
    const own = isFirst ? tenants.length / 2 : jumps ? 0 : peers.length * rounds
    const ahead = own + this.waiting.filter(({ priority }) => priorities.indexOf(priority) < rank).length
    const wait = (ahead * this.permitTimes.mean) / Math.max(this.permits, 1)
    return guest.deadline !== Infinity && guest.deadline - this.now < 2 * wait + this.workOf(guest)
  }

  private workOf({ method }: Guest): number {
    const { mean, p50, p90 } = this.answerTimes[method]!
    return this.discipline === "edf" ? Math.max(p90, 2 * mean) : Math.max(p50, 1.05 * mean)
  }

  private dueOf({ deadline, priority }: Guest, stands: boolean): number {
    if (this.discipline !== "adaptive" || !this.permitTimes.known || deadline === Infinity) return deadline
    const left = deadline - this.now
    if (stands) return Math.ceil(Math.min(deadline, this.now + Math.max(left / 4, this.permitTimes.p50, 5)))
    return priority === "critical" ? deadline : Math.ceil(this.now + 0.65 * left)
  }

  /** The most important priority, or one that is less so and was passed over 19 times while nothing stood. */
  private nextRank(): number {
    const counts = priorities.map((name) => this.waiting.filter(({ priority }) => priority === name).length)
    const first = counts.findIndex((count) => count > 0)
    if (first === -1 || this.queue.isStanding(this.now)) return first
    for (let rank = 2; rank > first; rank--) {
      if (counts[rank] === 0 || ++this.passedOver[rank]! < 20) continue
      this.passedOver[rank] = 0
      return rank
    }
    return first
  }
}

const keyOf = ({ priority, tenant }: Guest, fairness: Fairness) =>
  fairness === "none" ? priority : `${priority} ${tenant}`

const byTurn = (one: Guest, other: Guest) => one.turn - other.turn

const earliest = (guests: ReadonlyArray<Guest>) =>
  guests.toSorted((one, other) =>
    one.deadline < other.deadline ? -1 : one.deadline > other.deadline ? 1 : byTurn(one, other)
  )[0]
