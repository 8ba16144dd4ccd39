/**
 * Chooses the replica for the next request: the less loaded of two picked at random.
 *
 * Picking two is what keeps the load even without herding: with one probe, or with "the least loaded of all" on numbers
 * that lag, every caller runs to the same replica (Mitzenmacher, "The Power of Two Choices in Randomized Load
 * Balancing", 2001). Only replicas with a free permit are picked from. A replica that has just joined counts as more loaded
 * than it is, so that it can fill its caches before it has its share; it is still picked when no other has room. Where it is known
 * how long each takes, load is what it runs times that. Plain synchronous code, O(1) per operation.
 *
 * @since 0.1.0
 */
import type { PeakEwma } from "./PeakEwma.ts"

/** Milliseconds until a replica that joined has its full weight, and the weight it starts with (Envoy's slow start). */
const WARM_UP = 10_000
const COLD = 0.1

/**
 * A replica as the balancer sees it: how much it runs, how much it may, and since when.
 *
 * @category models
 * @since 0.1.0
 */
export interface Load {
  ongoing: number
  limit: number
  /** When it joined or came back, in milliseconds; `-Infinity` when it is warm from the start. */
  warmFrom: number
  /** How long it takes; `undefined` where that doesn't count. */
  latency?: PeakEwma | undefined
}

export class Balancer {
  private readonly loads: ReadonlyArray<Load>
  /** The replicas with room, in no order, and where each of them stands in that list (-1: not in it). */
  private readonly open: Array<number> = []
  private readonly position: Array<number> = []
  private readonly random: () => number
  /** When the last of the replicas is warm. */
  private allWarm = -Infinity

  /** `random` returns a number in [0, 1). */
  constructor(loads: ReadonlyArray<Load>, random: () => number) {
    this.loads = loads
    this.random = random
    for (let i = 0; i < loads.length; i++) {
      this.position.push(-1)
      this.update(i)
    }
  }

  /** Picks a replica with room, or -1 when there is none. `now` is in milliseconds. */
  choose(now: number): number {
    const open = this.open
    const count = open.length
    if (count === 0) return -1
    if (count === 1) return open[0]!
    const i = Math.floor(this.random() * count)
    const j = (i + 1 + Math.floor(this.random() * (count - 1))) % count
    const one = open[i]!
    const other = open[j]!
    const load = this.loads[one]!
    const otherLoad = this.loads[other]!
    const otherIsLess =
      now < this.allWarm || load.latency !== undefined
        ? weighted(otherLoad, now) < weighted(load, now)
        : otherLoad.ongoing < load.ongoing
    return otherIsLess ? other : one
  }

  /** Takes note that something about a replica changed. */
  update(replica: number): void {
    const load = this.loads[replica]!
    this.allWarm = Math.max(this.allWarm, load.warmFrom + WARM_UP)
    const at = this.position[replica]!
    const hasRoom = load.ongoing < load.limit
    if (hasRoom && at === -1) {
      this.position[replica] = this.open.push(replica) - 1
    } else if (!hasRoom && at !== -1) {
      const last = this.open.pop()!
      if (last !== replica) {
        this.open[at] = last
        this.position[last] = at
      }
      this.position[replica] = -1
    }
  }
}

/** What a replica would run with one more request, times how long each takes, for its weight. */
const weighted = ({ latency, ongoing, warmFrom }: Load, now: number): number =>
  ((ongoing + 1) * (latency === undefined ? 1 : latency.valueAt(now))) /
  Math.min(Math.max((now - warmFrom) / WARM_UP, COLD), 1)
