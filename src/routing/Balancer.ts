/**
 * Chooses the replica for the next request: the less loaded of two picked at random.
 *
 * Picking two is what keeps the load even without herding: with one probe, or with "the least loaded of all" on numbers
 * that lag, every caller runs to the same replica (Mitzenmacher, "The Power of Two Choices in Randomized Load
 * Balancing", 2001). Only replicas with a free permit are picked from. Plain synchronous code, O(1) per operation.
 *
 * @since 0.1.0
 */

/**
 * A replica as the balancer sees it: how much it runs, and how much it may.
 *
 * @category models
 * @since 0.1.0
 */
export interface Load {
  ongoing: number
  limit: number
}

export class Balancer {
  private readonly loads: ReadonlyArray<Load>
  /** The replicas with room, in no order, and where each of them stands in that list (-1: not in it). */
  private readonly open: Array<number> = []
  private readonly position: Array<number> = []
  private readonly random: () => number

  /** `random` returns a number in [0, 1). */
  constructor(loads: ReadonlyArray<Load>, random: () => number) {
    this.loads = loads
    this.random = random
    for (let i = 0; i < loads.length; i++) {
      this.position.push(-1)
      this.update(i)
    }
  }

  /** Picks a replica with room, or -1 when there is none. */
  choose(): number {
    const open = this.open
    const count = open.length
    if (count === 0) return -1
    if (count === 1) return open[0]!
    const i = Math.floor(this.random() * count)
    const j = (i + 1 + Math.floor(this.random() * (count - 1))) % count
    const one = open[i]!
    const other = open[j]!
    return this.loads[other]!.ongoing < this.loads[one]!.ongoing ? other : one
  }

  /** Takes note that the load or the limit of a replica changed. */
  update(replica: number): void {
    const load = this.loads[replica]!
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
