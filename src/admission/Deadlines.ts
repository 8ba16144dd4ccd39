/**
 * The deadlines of all requests of a deployment, under one timer.
 *
 * A hierarchical timing wheel (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987): 8 wheels of 64 slots,
 * of which the first has slots of 1 ms and each next one slots 64 times as wide. Adding and removing are O(1) and nothing is
 * allocated, so a deadline that never strikes, which is almost every one, costs next to nothing. Plain synchronous code.
 *
 * @since 0.1.0
 */

/**
 * What can have a deadline: the links to its neighbours in a slot are its own fields.
 *
 * @category models
 * @since 0.1.0
 */
export interface Timed<Self> {
  /** When it strikes, in whole milliseconds. */
  due: number
  laterDeadline: Self | undefined
  earlierDeadline: Self | undefined
}

const SLOTS = 64
const widths = Array.from({ length: 8 }, (_, level) => SLOTS ** level)
const HORIZON = SLOTS ** widths.length - 1

export class Deadlines<A extends Timed<A>> {
  private readonly slots: Array<A | undefined> = Array.from({ length: widths.length * SLOTS }, () => undefined)
  /** The last element of each slot: those of one deadline strike in the order in which they were added. */
  private readonly ends: Array<A | undefined> = Array.from({ length: widths.length * SLOTS }, () => undefined)
  /** Everything up to here has struck. */
  private elapsed: number
  private count = 0

  /** `now` is where time starts, in milliseconds. */
  constructor(now: number) {
    this.elapsed = now
  }

  get size(): number {
    return this.count
  }

  /** Adds an element; one whose deadline has passed strikes at the next `advance`. */
  add(element: A): void {
    const slot = this.slotOf(element.due)
    const end = this.ends[slot]
    element.earlierDeadline = end
    element.laterDeadline = undefined
    if (end === undefined) this.slots[slot] = element
    else end.laterDeadline = element
    this.ends[slot] = element
    this.count++
  }

  /** Removes an element that was added and has not struck. */
  remove(element: A): void {
    const isAtEnd = element.earlierDeadline === undefined || element.laterDeadline === undefined
    this.unlink(element, isAtEnd ? this.slotOf(element.due) : -1)
  }

  /** Strikes every element whose deadline is at or before `now`, in the order of their deadlines. */
  advance(now: number, strike: (element: A) => void): void {
    for (let slot = this.firstSlot(); slot !== -1; slot = this.firstSlot()) {
      const start = this.startOf(slot)
      if (start > now) break
      this.elapsed = start
      for (let element = this.slots[slot]; element !== undefined; element = this.slots[slot]) {
        this.unlink(element, slot)
        if (slot < SLOTS) strike(element)
        else this.add(element)
      }
    }
    this.elapsed = Math.max(this.elapsed, now)
  }

  /** When to call `advance` next: at the first deadline, or sooner. `Infinity` when there is none. */
  get next(): number {
    const slot = this.firstSlot()
    return slot === -1 ? Infinity : this.startOf(slot)
  }

  private unlink(element: A, slot: number): void {
    const { earlierDeadline, laterDeadline } = element
    if (earlierDeadline === undefined) this.slots[slot] = laterDeadline
    else earlierDeadline.laterDeadline = laterDeadline
    if (laterDeadline === undefined) this.ends[slot] = earlierDeadline
    else laterDeadline.earlierDeadline = earlierDeadline
    element.laterDeadline = undefined
    element.earlierDeadline = undefined
    this.count--
  }

  // The level is that of the highest base-64 digit in which the deadline differs from now, so the slots of a level lie
  // ahead of now and behind those of the levels above, and an element stays in its slot until the slot's own time.
  private slotOf(deadline: number): number {
    const at = Math.min(Math.max(deadline, this.elapsed), HORIZON)
    let level = 0
    while (Math.floor(at / (widths[level]! * SLOTS)) !== Math.floor(this.elapsed / (widths[level]! * SLOTS))) level++
    return level * SLOTS + (Math.floor(at / widths[level]!) % SLOTS)
  }

  private firstSlot(): number {
    return this.count === 0 ? -1 : this.slots.findIndex((head) => head !== undefined)
  }

  private startOf(slot: number): number {
    const width = widths[Math.floor(slot / SLOTS)]!
    const block = width * SLOTS
    return Math.floor(this.elapsed / block) * block + (slot % SLOTS) * width
  }
}
