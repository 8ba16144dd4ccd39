/**
 * What flows through a queue while someone waits in it: how many come, and how many are served.
 *
 * While nobody waits, nothing is learnt: a queue that is empty drains as fast as requests come. What is long ago counts for
 * less and less, and an overload is forgotten once nobody has waited for some time. Until much has been seen, it is mixed with what is expected. Plain synchronous code.
 *
 * @since 0.1.0
 */

/** Milliseconds with someone waiting after which all that was seen counts half. */
const HALF_LIFE = 5000

/** For how many served ones the expectation counts. */
const EXPECTED = 10

/**
 * When so many times as many come as are served, it is more than the service can do; it may be chance until they are more
 * by what is expected to be served in some milliseconds.
 */
const OVERLOAD = 1.3
const CHANCE = 500

export class Flow {
  private came = 0
  private served = 0
  private busy = 0
  private since = 0
  private isBusy = false

  /** From now on someone waits, or nobody does. */
  wait(now: number, isBusy: boolean): void {
    if (!this.isBusy && now - this.since > HALF_LIFE) this.came = Math.min(this.came, this.served)
    this.pass(now)
    this.isBusy = isBusy
  }

  /** One came, whether it may wait or not. */
  come(): void {
    this.came++
  }

  /** One was served. */
  serve(): void {
    this.served++
  }

  /** One that was served is taken back. */
  takeBack(): void {
    this.served--
  }

  /** Whether more come than are served, where `expected` are expected to be served in a millisecond. */
  isOverloaded(now: number, expected: number): boolean {
    this.pass(now)
    return this.came > OVERLOAD * (this.served + Math.max(EXPECTED, CHANCE * expected))
  }

  /** How many are served in a millisecond, where `expected` are expected. */
  rate(now: number, expected: number): number {
    this.pass(now)
    return (Math.max(this.served, 0) + EXPECTED) / (this.busy + EXPECTED / expected)
  }

  private pass(now: number): void {
    if (this.isBusy) this.busy += now - this.since
    this.since = now
    while (this.busy >= HALF_LIFE) {
      this.busy /= 2
      this.came /= 2
      this.served /= 2
    }
  }
}
