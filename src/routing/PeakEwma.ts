/**
 * How long a replica takes to answer, as a balancer should see it: bad news counts at once, good news little by little.
 *
 * The mean is moved towards what was measured the more the longer the last measurement is ago, and jumps to what is above it, so that a
 * replica which becomes slow is spared before its average says so. What is not used gets better with time, or it would never be tried
 * again. (Peak EWMA of Finagle's load balancers: "Beyond Round Robin: Load Balancing for Latency", Buoyant 2016.)
 *
 * @since 0.1.0
 */

/** Milliseconds in which what was measured loses all but 37 % of its weight (Finagle's default). */
const DECAY = 10_000
/** Below it nothing is told apart, in milliseconds: one that looks twice as fast by 20 microseconds shouldn't get all. */
const LEAST = 1

export class PeakEwma {
  private mean = LEAST
  private at = 0

  /** Takes note of an answer after `millis`. `now` is in milliseconds. */
  record(millis: number, now: number): void {
    const weight = Math.exp(-Math.max(now - this.at, 0) / DECAY)
    this.mean = Math.max(millis, this.mean * weight + millis * (1 - weight), LEAST)
    this.at = now
  }

  /** Milliseconds that an answer takes, as far as is known, at least 1. */
  valueAt(now: number): number {
    return Math.max(this.mean * Math.exp(-Math.max(now - this.at, 0) / DECAY), LEAST)
  }
}
