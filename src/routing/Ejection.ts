/**
 * Decides which replicas are ejected because they fail while the others don't.
 *
 * A replica that fails in a millisecond always looks idle, so it would attract the load. But an error that comes from the
 * input, or from a database that all replicas use, fails everywhere alike and must not take capacity away. So a replica
 * is compared with what the others did in the same time: since its run of failures began, and since its window began.
 * The limits and times are those of Envoy's outlier detection and of Finagle's failure accrual. Plain synchronous code,
 * O(1) per operation, and nothing is allocated.
 *
 * @since 0.1.0
 */

/** Failures in a row that can eject a replica. */
const RUN = 5
/** A run ejects if it would be seen less than this often in a window of replicas that all fail like the others. */
const UNLIKELY = 0.001

/** Outcomes in the window that can eject a replica, and which part of them must have failed. */
const OUTCOMES = 20
const RATE = 0.5
/** How far the failure rate must be above that of the others: so much, and so many standard deviations. */
const EXCESS = 0.3
const DEVIATIONS = 5

/** Milliseconds. The window is one to two halves long. */
const HALF = 5000
const SHORTEST = 5000
const LONGEST = 300_000
/** Ejections after which the next one takes the longest time. */
const DOUBLINGS = Math.ceil(Math.log2(LONGEST / SHORTEST))
const JITTER = 0.2

/** What was counted up to some moment. */
class Mark {
  outcomes = 0
  failures = 0
  othersOutcomes = 0
  othersFailures = 0
}

class History {
  /** Since the start, except while ejected. */
  outcomes = 0
  failures = 0
  /** Failures since the last success. */
  run = 0
  readonly runStart = new Mark()
  /** The starts of this half window and of the one before, which is the same when there was none. */
  half = new Mark()
  window = new Mark()
  halfEnds = -Infinity
  ejected = false
  /** Ejections that aren't made up for, how long the last one takes, and when it was over. */
  ejections = 0
  lastTime = 0
  readmitted = 0
}

export class Ejection {
  private readonly histories: ReadonlyArray<History>
  private readonly random: () => number
  private outcomes = 0
  private failures = 0
  private count = 0

  /** `random` returns a number in [0, 1). */
  constructor(replicas: number, random: () => number) {
    this.histories = Array.from({ length: replicas }, () => new History())
    this.random = random
  }

  /** How many replicas are ejected: at most half of them. */
  get size(): number {
    return this.count
  }

  has(replica: number): boolean {
    return this.histories[replica]!.ejected
  }

  /**
   * Takes note of how a request ended. Returns for how many milliseconds its replica is to be ejected, or 0. Requests
   * that end while their replica is ejected don't count.
   */
  record(replica: number, failed: boolean, now: number): number {
    const one = this.histories[replica]!
    if (one.ejected) return 0
    if (now >= one.halfEnds) this.turn(one, now)
    if (failed) return this.fail(one, now)
    one.run = 0
    one.outcomes++
    this.outcomes++
    return 0
  }

  /** Ends an ejection: the replica starts with an empty window, but its next ejection takes longer. */
  readmit(replica: number, now: number): void {
    const one = this.histories[replica]!
    if (!one.ejected) return
    one.readmitted = now
    this.restart(one)
  }

  /** Forgets all about a replica because another one takes its place. */
  renew(replica: number): void {
    const one = this.histories[replica]!
    one.ejections = 0
    this.restart(one)
  }

  private fail(one: History, now: number): number {
    if (one.run === 0) this.mark(one.runStart, one)
    one.run++
    one.outcomes++
    one.failures++
    this.outcomes++
    this.failures++
    if (this.count >= Math.floor(this.histories.length / 2)) return 0
    return this.standsOutByRun(one) || this.standsOutByRate(one) ? this.eject(one, now) : 0
  }

  // The rate of the others in the window is the better known one. But when all begin to fail at once it is still that of
  // the time before, and then the others, too, have done little but fail since the run began. Two failures are added to
  // those because a few outcomes of the others say little, and none says nothing.
  private standsOutByRun(one: History): boolean {
    const { run, runStart, window } = one
    if (run < RUN) return false
    const sinceRun = (this.othersFailures(one, runStart) + 2) / (this.othersOutcomes(one, runStart) + 2)
    const others = this.othersOutcomes(one, window)
    const sinceWindow = this.othersFailures(one, window) / Math.max(others, 1)
    // A run can begin at each outcome, so among many one that is rare by itself is sure to be seen.
    const chances = others + one.outcomes - window.outcomes
    return Math.max(sinceRun, sinceWindow) ** run * chances < UNLIKELY
  }

  private standsOutByRate(one: History): boolean {
    const outcomes = one.outcomes - one.window.outcomes
    const failures = one.failures - one.window.failures
    if (outcomes < OUTCOMES || failures < RATE * outcomes) return false
    const othersOutcomes = this.othersOutcomes(one, one.window) + 1
    const othersFailures = this.othersFailures(one, one.window) + 1
    const excess = failures / outcomes - othersFailures / othersOutcomes
    if (excess < EXCESS) return false
    // Two proportions: were it the same rate, their difference would have this variance.
    const rate = (failures + othersFailures) / (outcomes + othersOutcomes)
    const variance = rate * (1 - rate) * (1 / outcomes + 1 / othersOutcomes)
    return excess ** 2 >= DEVIATIONS ** 2 * variance
  }

  private eject(one: History, now: number): number {
    if (one.ejections > 0) {
      const madeUpFor = Math.floor((now - one.readmitted) / one.lastTime)
      one.ejections = Math.max(one.ejections - madeUpFor, 0)
    }
    const time = Math.min(SHORTEST * 2 ** one.ejections, LONGEST) * (1 + JITTER * this.random())
    one.ejections = Math.min(one.ejections + 1, DOUBLINGS)
    one.lastTime = time
    one.ejected = true
    this.count++
    return time
  }

  private restart(one: History): void {
    if (one.ejected) this.count--
    one.ejected = false
    one.run = 0
    one.halfEnds = -Infinity
  }

  /** Begins the next half window, or both when the last one is long over. */
  private turn(one: History, now: number): void {
    const { half, halfEnds, window } = one
    const isNext = now < halfEnds + HALF
    one.window = half
    one.half = window
    this.mark(one.half, one)
    if (!isNext) this.mark(one.window, one)
    one.halfEnds = (isNext ? halfEnds : now) + HALF
  }

  private mark(mark: Mark, one: History): void {
    mark.outcomes = one.outcomes
    mark.failures = one.failures
    mark.othersOutcomes = this.outcomes - one.outcomes
    mark.othersFailures = this.failures - one.failures
  }

  private othersOutcomes(one: History, since: Mark): number {
    return this.outcomes - one.outcomes - since.othersOutcomes
  }

  private othersFailures(one: History, since: Mark): number {
    return this.failures - one.failures - since.othersFailures
  }
}
