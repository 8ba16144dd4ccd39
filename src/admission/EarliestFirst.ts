/**
 * A line in which the waiter with the earliest deadline is first: a binary heap.
 *
 * Plain synchronous code. Adding and removing, also from the middle, are O(log n).
 *
 * @since 0.1.0
 */
import type { Standing } from "./Line.ts"

/**
 * What can stand in it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Dated extends Standing {
  /** When it is too late, in milliseconds. */
  deadline: number
}

const LEAVES = 16

export class EarliestFirst<A extends Dated> {
  private readonly heap: Array<A> = []

  get size(): number {
    return this.heap.length
  }

  /** Whose deadline is earliest; of equal ones, who came first. */
  get first(): A | undefined {
    return this.heap[0]
  }

  /** Whose deadline is latest of the last few leaves, which is later than most. */
  get last(): A | undefined {
    const { length } = this.heap
    let latest = this.heap.at(-1)
    for (let spot = Math.max(length - LEAVES, length >> 1); spot < length; spot++) {
      if (isBefore(latest!, this.heap[spot]!)) latest = this.heap[spot]
    }
    return latest
  }

  [Symbol.iterator](): Iterator<A> {
    return this.heap.values()
  }

  add(waiter: A): void {
    this.heap.push(waiter)
    this.rise(waiter, this.heap.length - 1)
  }

  /** Puts back a waiter that was taken. */
  restore(waiter: A): void {
    this.add(waiter)
  }

  /** Removes a waiter that stands here. */
  remove(waiter: A): void {
    const spot = waiter.spot
    const last = this.heap.pop()!
    if (last === waiter) return
    this.sink(last, spot)
    if (last.spot === spot) this.rise(last, spot)
  }

  private rise(waiter: A, from: number): void {
    let spot = from
    while (spot > 0) {
      const parent = (spot - 1) >> 1
      if (!isBefore(waiter, this.heap[parent]!)) break
      this.place(this.heap[parent]!, spot)
      spot = parent
    }
    this.place(waiter, spot)
  }

  private sink(waiter: A, from: number): void {
    let spot = from
    for (let child = 2 * spot + 1; child < this.heap.length; child = 2 * spot + 1) {
      const other = child + 1
      if (other < this.heap.length && isBefore(this.heap[other]!, this.heap[child]!)) child = other
      if (!isBefore(this.heap[child]!, waiter)) break
      this.place(this.heap[child]!, spot)
      spot = child
    }
    this.place(waiter, spot)
  }

  private place(waiter: A, spot: number): void {
    waiter.spot = spot
    this.heap[spot] = waiter
  }
}

const isBefore = (one: Dated, other: Dated): boolean =>
  one.deadline < other.deadline || (one.deadline === other.deadline && one.turn < other.turn)
