/**
 * Decides how many requests may be sent to another replica: in every 10 seconds at most 20 % of the requests seen in them,
 * plus 100.
 *
 * Without such a limit, retries multiply the load when it is already too much. With it, a service that has few requests
 * can still retry them all. As Finagle's and tower's retry budgets, but with a limit on every window of 10 whole slots,
 * also when the requests that paid for a retry are no longer in it. So at one moment there are no more retries than 20 %
 * of the requests of this second, plus 100. Plain synchronous code, O(1) per operation, and nothing is allocated.
 *
 * @since 0.1.0
 */

/** Milliseconds. */
const SLOT = 1000
const SLOTS = 10
/** Requests that pay for a retry. */
const PRICE = 5
/** What every window has from the start: 10 retries per second. */
const RESERVE = PRICE * 10 * SLOTS

export class RetryBudget {
  /** By slot: the requests seen in it, less the price of the retries made in it. */
  private readonly slots: Array<number> = Array.from({ length: SLOTS }, () => 0)
  /** The slot of this second. */
  private slot = 0
  private slotEnds = -Infinity

  /** Takes note of a request. `now` is in milliseconds. */
  request(now: number): void {
    if (now >= this.slotEnds) this.advance(now)
    this.slots[this.slot]!++
  }

  /** Whether a request may be sent to another replica; then this is taken from the budget. */
  withdraw(now: number): boolean {
    if (now >= this.slotEnds) this.advance(now)
    // A window that this second is in begins at one of the last ten slots, and there may be no requests in the rest of it.
    let sum = RESERVE
    for (let age = 0; age < SLOTS; age++) {
      sum += this.slots[(this.slot + SLOTS - age) % SLOTS]!
      if (sum < PRICE) return false
    }
    this.slots[this.slot]! -= PRICE
    return true
  }

  private advance(now: number): void {
    const ends = (Math.floor(now / SLOT) + 1) * SLOT
    const passed = Math.min((ends - this.slotEnds) / SLOT, SLOTS)
    for (let i = 0; i < passed; i++) {
      this.slot = (this.slot + 1) % SLOTS
      this.slots[this.slot] = 0
    }
    this.slotEnds = ends
  }
}
