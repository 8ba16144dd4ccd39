/**
 * How long a kind of request takes, learnt from those that succeeded.
 *
 * A mean by exponential smoothing, and two quantiles that are moved by a fraction of themselves with each value: up when
 * the value lies above, down when it lies below, in the proportion that leaves the quantile at rest (Ma, Muthukrishnan and
 * Sandler, "Frugal Streaming for Estimating Quantiles", 2013). The first values move them in big steps, so that a first
 * one that is far off is forgotten soon. Nothing but three numbers is kept, and a value costs a few nanoseconds.
 *
 * @since 0.1.0
 */

/** Weight of the newest value in the mean, and step of the quantiles, once there have been many. */
const MEAN_WEIGHT = 0.02
const STEP = 0.05

export class ServiceTimes {
  private count = 0
  private average = 0
  private half = 0
  private ninth = 0

  /** Whether there has been a value. */
  get known(): boolean {
    return this.count > 0
  }

  /** Milliseconds on average; 0 when nothing is known. */
  get mean(): number {
    return this.average
  }

  /** Milliseconds that half of all values stay below. */
  get p50(): number {
    return this.half
  }

  /** Milliseconds that nine of ten values stay below. */
  get p90(): number {
    return this.ninth
  }

  record(millis: number): void {
    this.count++
    if (this.count === 1) {
      this.average = millis
      this.half = millis
      this.ninth = millis
      return
    }
    this.average += Math.max(MEAN_WEIGHT, 1 / this.count) * (millis - this.average)
    const step = Math.max(STEP, 1 / this.count)
    this.half = moved(this.half, millis, step, step)
    this.ninth = moved(this.ninth, millis, 1.8 * step, 0.2 * step)
  }
}

// Never quite 0, from where no fraction of itself would lead away.
const moved = (quantile: number, value: number, up: number, down: number): number =>
  value > quantile ? Math.max(quantile, 0.01) * (1 + up) : value < quantile ? quantile / (1 + down) : quantile
