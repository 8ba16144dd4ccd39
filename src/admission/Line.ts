/**
 * A line of waiters that can be left from both ends and from the middle.
 *
 * Plain synchronous code. Every operation is O(1), whether 10 or 1,000,000 wait. (Waiting on a `Semaphore` instead costs a
 * scan of all waiters at each release: 0.6 ms per request at 10,000.) The line is a ring and not a linked list, along
 * which the garbage collector has to walk one waiter after the other.
 *
 * @since 0.1.0
 */

/**
 * What can stand in a line.
 *
 * @category models
 * @since 0.1.0
 */
export interface Standing {
  /** Grows from one to the next. */
  turn: number
  /** Where it stands, known to the line alone. */
  spot: number
}

/** A line that empties gives back a larger ring than this. */
const SMALL = 1024

export class Line<A extends Standing> {
  /** As long as a power of two. Who leaves from the middle leaves a gap; the first and the last spot are never gaps. */
  private ring: Array<A | undefined> = ringOf(16)
  private head = 0
  /** Spots from the first to the last, with the gaps. */
  private span = 0
  private length = 0

  get size(): number {
    return this.length
  }

  /** Who came first of those that stand here. */
  get first(): A | undefined {
    return this.ring[this.head]
  }

  /** Who came last. */
  get last(): A | undefined {
    return this.span === 0 ? undefined : this.ring[this.wrap(this.head + this.span - 1)]
  }

  *[Symbol.iterator](): Iterator<A> {
    for (let i = 0; i < this.span; i++) {
      const waiter = this.ring[this.wrap(this.head + i)]
      if (waiter !== undefined) yield waiter
    }
  }

  /** Puts a waiter at the end. */
  add(waiter: A): void {
    if (this.span === this.ring.length) this.makeRoom()
    this.place(waiter, this.head + this.span++)
    this.length++
  }

  /**
   * Gives a waiter its turn back: after all that came before, and before all that came later. O(1) but for those that were
   * given theirs back too, and the gaps that others left between them.
   */
  restore(waiter: A): void {
    const { first, last } = this
    if (first === undefined || last === undefined) return this.add(waiter)
    if (this.span === this.ring.length) this.makeRoom()
    const fromEnd = last.turn - waiter.turn < waiter.turn - first.turn
    if (!fromEnd) this.head = this.wrap(this.head - 1)
    this.span++
    this.length++
    // The free spot moves from its end past those that don't belong there.
    let spot = fromEnd ? this.head + this.span - 1 : this.head
    for (let i = 1; i < this.span; i++) {
      const at = this.wrap(fromEnd ? this.head + this.span - 1 - i : this.head + i)
      const other = this.ring[at]
      if (other === undefined) continue
      if (fromEnd ? other.turn < waiter.turn : other.turn > waiter.turn) break
      this.place(other, spot)
      this.ring[at] = undefined
      spot = at
    }
    this.place(waiter, spot)
  }

  /** Removes a waiter that stands here, wherever it stands. */
  remove(waiter: A): void {
    this.ring[waiter.spot] = undefined
    this.length--
    if (this.length === 0) this.clear()
    else this.closeUp()
  }

  private closeUp(): void {
    while (this.ring[this.head] === undefined) {
      this.head = this.wrap(this.head + 1)
      this.span--
    }
    while (this.ring[this.wrap(this.head + this.span - 1)] === undefined) this.span--
  }

  private clear(): void {
    this.span = 0
    if (this.ring.length > SMALL) this.ring = ringOf(SMALL)
    this.head = this.wrap(this.head)
  }

  /** Closes the gaps when they are half of the line, and lengthens the ring otherwise. */
  private makeRoom(): void {
    const waiters = Array.from(this)
    this.ring = ringOf(waiters.length * 2 > this.ring.length ? this.ring.length * 2 : this.ring.length)
    this.head = 0
    this.span = waiters.length
    waiters.forEach((waiter, spot) => this.place(waiter, spot))
  }

  private place(waiter: A, spot: number): void {
    waiter.spot = this.wrap(spot)
    this.ring[waiter.spot] = waiter
  }

  private wrap(spot: number): number {
    return spot & (this.ring.length - 1)
  }
}

const ringOf = (length: number): Array<undefined> => Array.from({ length }, () => undefined)
