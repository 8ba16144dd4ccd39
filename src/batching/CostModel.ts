/**
 * How long a batch of `n` items takes, learnt from the batches that ran: `fixed + perItem * n` milliseconds.
 *
 * Recursive least squares with forgetting (Ljung, "System Identification", 1999, section 11.2): each batch corrects both
 * numbers, old ones count less and less. When all batches are alike nothing can be told apart, and forgetting stops so that the
 * uncertainty doesn't grow without end. Plain synchronous code, a handful of multiplications per batch.
 *
 * @since 0.1.0
 */

/** What a batch counts after one more has run; after 50 it is about a third. */
const FORGETTING = 0.98

/** Uncertainty at the start, and the most there may be. */
const UNCERTAINTY = 1e6

export class CostModel {
  private a = 0
  private b = 0
  /** The covariance matrix of both, which is symmetric. */
  private paa = UNCERTAINTY
  private pab = 0
  private pbb = UNCERTAINTY
  private count = 0

  /** Whether two batches of different sizes, or some of the same, have run. */
  get known(): boolean {
    return this.count > 2
  }

  /** Milliseconds that a batch takes, however few items it has. */
  get fixed(): number {
    return Math.max(this.a, 0)
  }

  /** Milliseconds that each item adds. */
  get perItem(): number {
    return Math.max(this.b, 0)
  }

  /** Milliseconds that a batch of `n` items is expected to take. */
  predict(n: number): number {
    return Math.max(this.a + this.b * n, 0)
  }

  /** Takes note that a batch of `n` items took some milliseconds. */
  record(n: number, millis: number): void {
    this.count++
    const pxa = this.paa + this.pab * n
    const pxb = this.pab + this.pbb * n
    const scale = FORGETTING + pxa + pxb * n
    const gainA = pxa / scale
    const gainB = pxb / scale
    const error = millis - this.a - this.b * n
    this.a += gainA * error
    this.b += gainB * error
    const forget = this.paa + this.pbb < UNCERTAINTY ? FORGETTING : 1
    this.paa = (this.paa - gainA * pxa) / forget
    this.pab = (this.pab - gainA * pxb) / forget
    this.pbb = (this.pbb - gainB * pxb) / forget
  }
}
