/**
 * Finds how many requests one replica should run at once: as many as still bring more throughput.
 *
 * Vegas with a throughput veto (TCP Vegas, Brakmo and Peterson, 1995; the veto: Uber's Cinnamon, and failsafe-go's
 * adaptive limiter). At the end of each window of requests the limit takes a step of its own logarithm: down when run
 * times are well above their baseline, down when the replica was kept full and throughput doesn't follow the ongoing
 * requests, else up when run times are about at their baseline and the replica was at least half full.
 *
 * The veto is what matters. The baseline follows a lasting overload, so a limiter that only compares run times with it
 * climbs for ever. failsafe-go's own veto asks for correlations over the last 50 windows, and that memory is longer
 * than the climb: in the plant of the tests (a replica of 32, at 3 times what it can take) its limit went round
 * between 9 and 68. Here the veto asks for a slope (how much throughput a rise in ongoing requests brought), only of
 * windows with about as many ongoing requests as now, and forgets them when the service changes: the limit stays
 * between 25 and 41. Run times need no slope of their own: while the replica is full, Little's law makes it 1 minus
 * that of throughput.
 *
 * Plain synchronous code. Taking note of a request is O(1) and allocates nothing.
 *
 * @since 0.1.0
 */

/** A window ends after this many milliseconds and requests, or at its longest; one that is too long had a gap. */
const SHORTEST = 1000
const LONGEST = 30_000
const ENOUGH = 50
const TOO_LONG = 2 * LONGEST
/** What a window of 30 s needs: a replica of 8 that takes 10 s per request never has 50, and would stay at 20. */
const FEW = 10
/** A window shorter than this many run times measures the limits before it: for 150 at 5 s each, up to 189, not 175. */
const RUN_TIMES = 2

/** Where the limit starts, unless the bounds say otherwise. */
const START = 20
/** log10(1) = 0 would end the search at 1. With steps of 1 a replica of 2 lost 40 % of its throughput, now 15 %. */
const SMALLEST_STEP = 0.5
/** In steps: how much of the limit may be queued inside the replica before the limit holds, and before it falls. */
const HOLD = 3
const FALL = 6
/** The replica is full if its requests found on average this share of the limit ongoing, themselves included. */
const FULL = 0.8
/** The limit comes down to this many times the most ongoing requests of a window. */
const ROOM = 5

/** Throughput follows when a rise of 10 % in ongoing requests brings more than 5 %: halfway between all and nothing. */
const FOLLOWS = 0.5
/** Windows that the veto looks back on, and how few of them are no evidence. */
const MEMORY = 50
const EVIDENCE = 4
/** Windows with about as many ongoing requests: within this share, or this many steps. With all, it was 12 to 60. */
const NEAR = 0.3
const NEAR_STEPS = 5
/** The service has changed when throughput is this many times more, or less, than it was with as many ongoing. */
const CHANGED = 1.7
/** Standard deviation, as a share, below which the ongoing requests didn't change. */
const STILL = 0.01

export class ConcurrencyLimit {
  private readonly min: number
  private readonly max: number
  private readonly random: () => number
  /** Not rounded, or steps of less than 1 would be lost. */
  private limit: number
  private rounded: number

  private start = 0
  private count = 0
  private ongoing = 0
  private most = 0
  private readonly runTimes = new RunTimes()

  private readonly median = new Median()
  private readonly recent = new Average(5)
  private readonly baseline = new Average(10)
  private readonly history = new History()

  /**
   * `min` and `max` bound the limit (integers, 1 <= min <= max); `random` returns a number in [0, 1). The limit starts
   * at 20, or at the bound next to it.
   */
  constructor(options: { readonly min: number; readonly max: number; readonly random: () => number }) {
    this.min = options.min
    this.max = options.max
    this.random = options.random
    this.limit = this.rounded = Math.min(options.max, Math.max(options.min, START))
  }

  /** The limit: an integer between min and max. */
  get current(): number {
    return this.rounded
  }

  /**
   * Takes note of a request that succeeded and was not cancelled. Returns whether `current` changed.
   *
   * `now` and `runTime` are milliseconds; `ongoing` is how many requests the replica ran when this one started, itself
   * included.
   */
  record(now: number, runTime: number, ongoing: number): boolean {
    const elapsed = now - this.start
    // The first request only says when the window begins: an idle time before it is no lack of throughput, and neither
    // is one within it, after which it has to begin again.
    if (this.count === 0 || elapsed < 0 || elapsed > TOO_LONG || (elapsed >= LONGEST && this.count <= FEW))
      return this.begin(now)
    this.count++
    this.ongoing += ongoing
    if (ongoing > this.most) this.most = ongoing
    this.runTimes.add(runTime)
    if (elapsed < SHORTEST || (elapsed < LONGEST && (this.count <= ENOUGH || elapsed < RUN_TIMES * this.recent.value)))
      return false
    return this.end(now)
  }

  private begin(now: number): false {
    this.start = now
    this.count = 1
    this.ongoing = 0
    this.most = 0
    this.runTimes.clear()
    return false
  }

  private end(now: number): boolean {
    const before = this.rounded
    this.limit = Math.min(this.max, Math.max(this.min, this.limit + this.step(now)))
    this.rounded = Math.round(this.limit)
    this.begin(now)
    return this.rounded !== before
  }

  private step(now: number): number {
    const step = Math.max(SMALLEST_STEP, Math.log10(this.limit))
    const recent = this.recent.add(this.median.add(this.runTimes.percentile90))
    const queued = this.limit * (1 - this.baseline.add(recent) / recent)
    const follows = this.follows(now, step)

    if (queued > FALL * step || !follows || this.limit > Math.max(START, ROOM * this.most)) return -step
    return queued < HOLD * step && this.most >= this.limit / 2 ? step : 0
  }

  /** Whether throughput follows the ongoing requests. Only a replica that is kept full can show that it doesn't. */
  private follows(now: number, step: number): boolean {
    const requests = this.count - 1
    const ongoing = this.ongoing / requests
    if (ongoing < FULL * this.rounded) return true
    const slope = this.history.slope(
      ongoing,
      requests / (now - this.start),
      Math.max(NEAR * ongoing, NEAR_STEPS * step)
    )
    // A limit that stands still, as at its bounds, shows nothing, so it moves: either way, for it may be right.
    return slope === undefined ? this.random() < 0.5 : slope > FOLLOWS
  }
}

/** The ongoing requests and the throughput of the last windows in which the replica was full, as logarithms. */
class History {
  private readonly ongoing = new Float64Array(MEMORY).fill(NaN)
  private readonly throughput = new Float64Array(MEMORY)
  private last = 0

  /**
   * Takes note of a window, and returns by how much throughput rises with the ongoing requests that are at most `near`
   * away: 1 is in proportion, 0 not at all. That is 1 as well while there is no evidence, and undefined when the
   * ongoing requests are always the same.
   */
  slope(ongoing: number, throughput: number, near: number): number | undefined {
    this.last = (this.last + 1) % MEMORY
    this.ongoing[this.last] = NaN
    const low = Math.log(Math.max(ongoing - near, 0))
    const high = Math.log(ongoing + near)
    const y = Math.log(throughput)
    if (Math.abs(y - this.sums(low, high).meanY) > Math.log(CHANGED)) this.ongoing.fill(NaN)
    this.ongoing[this.last] = Math.log(ongoing)
    this.throughput[this.last] = y
    const { count, xx, xy } = this.sums(low, high)
    if (count < EVIDENCE) return 1
    return xx < count * STILL ** 2 ? undefined : xy / xx
  }

  private sums(low: number, high: number) {
    const windows: Array<number> = []
    let meanX = 0
    let meanY = 0
    for (let i = 0; i < MEMORY; i++) {
      const x = this.ongoing[i]!
      if (!(x >= low && x <= high)) continue
      const count = windows.push(i)
      meanX += (x - meanX) / count
      meanY += (this.throughput[i]! - meanY) / count
    }
    let xx = 0
    let xy = 0
    for (const i of windows) {
      const x = this.ongoing[i]! - meanX
      xx += x * x
      xy += x * (this.throughput[i]! - meanY)
    }
    return { count: windows.length, meanY: windows.length === 0 ? NaN : meanY, xx, xy }
  }
}

/** Width of the buckets, as a share, and the end of the first one, in milliseconds. The last one is at 28 hours. */
const WIDTH = 0.02
const FIRST = 0.01
const BUCKETS = Math.ceil(Math.log(1e8 / FIRST) / WIDTH)

class RunTimes {
  private readonly buckets = new Uint32Array(BUCKETS)
  private count = 0

  clear(): void {
    this.buckets.fill(0)
    this.count = 0
  }

  add(runTime: number): void {
    const bucket = runTime <= FIRST ? 0 : Math.min(BUCKETS - 1, Math.ceil(Math.log(runTime / FIRST) / WIDTH))
    this.buckets[bucket]!++
    this.count++
  }

  get percentile90(): number {
    let above = this.count / 10
    let bucket = BUCKETS - 1
    while (bucket > 0 && (above -= this.buckets[bucket]!) >= 0) bucket--
    return FIRST * Math.exp(WIDTH * (bucket - 0.5))
  }
}

/** The median of the last 5 values: two windows with a pause in them don't count. */
class Median {
  private readonly last: Array<number> = []

  add(value: number): number {
    if (this.last.push(value) > 5) this.last.shift()
    return this.last.toSorted((a, b) => a - b)[this.last.length >> 1]!
  }
}

/** An exponential moving average, and the plain average of the first values. */
class Average {
  value = 0
  private readonly weight: number
  private count = 0

  constructor(age: number) {
    this.weight = 2 / (age + 1)
  }

  add(value: number): number {
    this.value += (value - this.value) * Math.max(this.weight, 1 / ++this.count)
    return this.value
  }
}
