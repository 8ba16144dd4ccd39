/**
 * Seen red for each of these mutations (in brackets the tests that tell): there is no veto, or it asks for a slope
 * above 0 only ("leaves a maximum"); it looks at windows in which the replica wasn't full ("never grows"), at all
 * windows instead of near ones, or at those near within a share only ("stays below", "moves both ways"); it needs no
 * evidence ("finds the knee within 100 windows"), or never forgets ("from the maximum"); a limit that stands still
 * counts as good, or as bad ("moves off", "leaves 1"); the rounded limit is kept, the step has no minimum, or is
 * always 1 ("leaves 1", "finds the knee"); nothing falls or holds on run times, or the replica needn't be half full
 * ("falls", "holds", "never grows"); the baseline is slow ("comes back"); the limit has no cap, or one that goes down
 * to 5 ("keeps no more"); a bound is dropped ("is an integer"); run times are the fastest tenth, or the largest of 5
 * windows ("takes the slowest", "takes no notice"), or have no last bucket ("falls"); a window keeps what the last one
 * had ("keeps no more", "falls"), takes fewer than 50 requests, or is judged across a gap ("doesn't change"), always
 * takes 50, or is shorter than two run times ("when requests take seconds"), or waits for a clock that was set back
 * ("goes on"); `record` always says yes ("is an integer"). Two stay green: a run time below the first bucket, which a
 * typed array ignores, and counting the request with which a window begins, which changes every throughput alike.
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { ConcurrencyLimit } from "../../src/routing/ConcurrencyLimit.ts"

const SECOND = 1000
const MINUTE = 60 * SECOND
/** How many requests the plant runs side by side: the knee that is to be found. */
const KNEE = 32
/** Mean milliseconds of a request that runs alone, unless a test says otherwise: windows near the knee last 1 s. */
const ALONE = 100

interface Limit {
  readonly current: number
  record(now: number, runTime: number, ongoing: number): boolean
}

const within = (low: number, value: number, high: number, message: string) => {
  assert.isAtLeast(value, low, message)
  assert.isAtMost(value, high, message)
}

const seeded = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let x = Math.imul(seed ^ (seed >>> 15), seed | 1)
  x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
  return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
}

const limitOf = (options?: { readonly min?: number; readonly max?: number; readonly seed?: number }) =>
  new ConcurrencyLimit({ min: options?.min ?? 1, max: options?.max ?? 200, random: seeded(options?.seed ?? 1) })

interface Running {
  readonly end: number
  readonly start: number
  readonly ongoing: number
}

/**
 * What runs in the plant, in the order in which it ends, by the plant's own time. All of it goes at the same speed, so
 * that order never changes.
 */
class Line {
  private readonly running: Array<Running> = []

  get size() {
    return this.running.length
  }

  get first(): Running | undefined {
    return this.running.at(-1)
  }

  add(one: Running): void {
    let low = 0
    let high = this.running.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.running[middle]!.end > one.end) low = middle + 1
      else high = middle
    }
    this.running.splice(low, 0, one)
  }

  removeFirst(): Running {
    return this.running.pop()!
  }
}

/**
 * A replica under a limit, with Poisson arrivals and a queue of 100 in front. It runs `knee` requests at full speed;
 * more of them share that speed, and lose some of it to contention (20 % at twice the knee). Requests are lognormal.
 */
const simulate = (
  limit: Limit,
  options: {
    readonly until: number
    readonly seed?: number
    /** Mean milliseconds of a request that runs alone. */
    readonly alone?: number
    /** Arrivals, as a multiple of what a replica with a knee of `KNEE` can take. */
    readonly load?: (now: number) => number
    readonly knee?: (now: number) => number
    readonly slowness?: (now: number) => number
  }
) => {
  const { alone = ALONE, knee = () => KNEE, load = () => 3, slowness = () => 1, seed = 1, until } = options
  const random = seeded(seed)
  const exponential = () => -Math.log(1 - random())
  const lognormal = () => {
    const normal = Math.sqrt(2 * exponential()) * Math.cos(2 * Math.PI * random())
    return Math.exp(0.5 * normal - 0.125)
  }
  const speed = () => {
    const share = Math.max(1, line.size / knee(now))
    return 1 / (share * (1 + 0.2 * (share - 1)) * slowness(now))
  }
  const start = () => line.add({ end: worked + alone * lognormal(), start: now, ongoing: line.size + 1 })

  const line = new Line()
  const limits: Array<number> = []
  let now = 0
  let worked = 0
  let queued = 0
  let completed = 0
  let arrival = exponential()
  for (;;) {
    const completion = line.first === undefined ? Infinity : now + (line.first.end - worked) / speed()
    const next = Math.min(arrival, completion)
    while (limits.length * SECOND <= next && limits.length * SECOND < until) limits.push(limit.current)
    if (next >= until) break
    worked += (next - now) * speed()
    now = next
    if (completion <= arrival) {
      const ended = line.removeFirst()
      completed++
      limit.record(now, now - ended.start, ended.ongoing)
    } else {
      arrival = now + (exponential() * alone) / (KNEE * load(now))
      if (queued < 100) queued++
    }
    for (; queued > 0 && line.size < limit.current; queued--) start()
  }
  const mean = (from: number, to: number) => {
    const part = limits.slice(from / SECOND, to / SECOND)
    return part.reduce((sum, current) => sum + current, 0) / part.length
  }
  return {
    /** The limit at each second. */
    limits,
    mean,
    most: (from: number) => Math.max(...limits.slice(from / SECOND)),
    least: (from: number) => Math.min(...limits.slice(from / SECOND)),
    goodput: (completed * alone) / (KNEE * until)
  }
}

/** A control: one more while the limit is in use, a tenth less when a request takes five times as long as alone. */
class Aimd implements Limit {
  current = 20

  record(_now: number, runTime: number, ongoing: number): boolean {
    if (runTime > 5 * ALONE) this.current = Math.max(1, Math.floor(this.current * 0.9))
    else if (2 * ongoing >= this.current) this.current = Math.min(200, this.current + 1)
    return true
  }
}

/** A control: the ratio of the mean run time of a second to a long moving average of it, with a tolerance of 1.5. */
class Gradient2 implements Limit {
  private limit = 20
  private start = 0
  private count = 0
  private sum = 0
  private windows = 0
  private long = 0

  get current() {
    return Math.floor(this.limit)
  }

  record(now: number, runTime: number): boolean {
    this.count++
    this.sum += runTime
    if (now - this.start < SECOND) return false
    const short = this.sum / this.count
    this.long += (short - this.long) * Math.max(1 / ++this.windows, 2 / 601)
    if (this.long / short > 2) this.long *= 0.95
    const gradient = Math.min(1, Math.max(0.5, (1.5 * this.long) / short))
    this.limit = Math.min(200, Math.max(20, 0.8 * this.limit + 0.2 * (this.limit * gradient + 4)))
    this.start = now
    this.count = this.sum = 0
    return true
  }
}

/** Requests at a constant rate that find `ongoing` of them ongoing. Returns the limits on the way. */
const feed = (
  limit: ConcurrencyLimit,
  options: {
    readonly from?: number
    readonly until: number
    readonly every: (now: number) => number
    readonly runTime: (now: number) => number
    readonly ongoing: () => number
  }
) => {
  const limits = [limit.current]
  let now = options.from ?? 0
  while (now < options.until) {
    now += options.every(now)
    if (limit.record(now, options.runTime(now), options.ongoing())) limits.push(limit.current)
  }
  return limits
}

const every10 = () => 10

/** 300 for one of `n`, 100 for the others. */
const slowOne = (n: number) => {
  let count = 0
  return () => (++count % n === 0 ? 300 : 100)
}

/** A replica of which half the places are taken, first with constant run times, and then others. */
const halfFull = (seconds: number, runTime: (second: number) => number) => {
  const limit = limitOf()
  const every = every10
  const ongoing = () => Math.ceil(limit.current / 2) + 1
  feed(limit, { until: 20 * SECOND, every, runTime: () => 100, ongoing })
  const settled = limit.current
  const from = 20 * SECOND
  const after = feed(limit, {
    from,
    until: from + seconds * SECOND,
    every,
    runTime: (now) => runTime((now - from) / SECOND),
    ongoing
  })
  return { settled, after }
}

const Request = Schema.Struct({
  wait: Schema.Union([
    Schema.Literals([0, 0, 10, 100, 1000, 29_999, 30_000, 1e12, -5, -1e6]),
    Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 200 }))
  ]),
  runTime: Schema.Union([
    Schema.Literals([0, 1, 100, 100, 1e-300, 1e300, Number.MAX_VALUE]),
    Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 10_000 }))
  ]),
  ongoing: Schema.Union([
    Schema.Literals(["full", "full", "full", "half"]),
    Schema.Literals([0, 1e300]),
    Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 500 }))
  ]),
  times: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 200 }))
})
const Bound = Schema.Union([
  Schema.Literals([1, 2, 20, 1e9, Number.MAX_SAFE_INTEGER]),
  Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 300 }))
])

describe("ConcurrencyLimit", () => {
  it("starts at 20, or at the bound next to it", () => {
    assert.strictEqual(limitOf({ min: 1, max: 200 }).current, 20)
    assert.strictEqual(limitOf({ min: 1, max: 5 }).current, 5)
    assert.strictEqual(limitOf({ min: 64, max: 200 }).current, 64)
  })

  it("finds the knee within 100 windows and stays there", () => {
    for (const knee of [4, 8, KNEE, 64]) {
      const { least, limits, mean, most } = simulate(limitOf(), { until: 5 * MINUTE, knee: () => knee })
      const found = limits.findIndex((current) => Math.abs(current - knee) <= 0.2 * knee)
      within(0, found, 100, `knee ${knee}: ${String(limits)}`)
      within(0.8 * knee, mean(100 * SECOND, 5 * MINUTE), 1.2 * knee, `knee ${knee}: ${String(limits)}`)
      within(0.5 * knee, least(100 * SECOND), knee, `knee ${knee}: ${String(limits)}`)
      within(knee, most(100 * SECOND), 2 * knee, `knee ${knee}: ${String(limits)}`)
    }
  })

  it("finds the knee within 100 windows from the maximum", () => {
    const limit = limitOf()
    const ongoing = () => limit.current
    // As wide as it likes, until the plant takes its place.
    feed(limit, { from: -3 * MINUTE, until: 0, every: () => 20 / limit.current, runTime: () => 20, ongoing })
    assert.isAtLeast(limit.current, 190)
    const { limits, mean } = simulate(limit, { until: 4 * MINUTE, alone: 20, load: () => 2 })
    within(
      0,
      limits.findIndex((current) => current <= 1.2 * KNEE),
      100,
      String(limits)
    )
    within(0.8 * KNEE, mean(100 * SECOND, 4 * MINUTE), 1.2 * KNEE, String(limits))
  })

  it("leaves a maximum that was too much all along", () => {
    const { limits, mean } = simulate(limitOf({ max: 20 }), { until: 5 * MINUTE, knee: () => 8 })
    within(0.8 * 8, mean(2 * MINUTE, 5 * MINUTE), 1.2 * 8, String(limits))
  })

  it("moves off a limit at which nothing changes", () => {
    for (const bound of [{ max: 20 }, { min: 20 }]) {
      const limit = limitOf(bound)
      const limits = feed(limit, { until: MINUTE, every: every10, runTime: () => 100, ongoing: () => limit.current })
      assert.isAbove(new Set(limits).size, 2, String(limits))
    }
  })

  it("finds the knee when requests take seconds", () => {
    const few = simulate(limitOf(), { until: 100 * MINUTE, alone: 10 * SECOND, knee: () => 8 })
    within(0.8 * 8, few.mean(50 * MINUTE, 100 * MINUTE), 1.3 * 8, String(few.limits))
    const many = simulate(limitOf({ max: 400 }), {
      until: 60 * MINUTE,
      alone: 5 * SECOND,
      load: () => 15,
      knee: () => 150
    })
    within(120, many.least(25 * MINUTE), 150, String(many.limits))
    within(150, many.most(25 * MINUTE), 180, String(many.limits))
  })

  it("stays below 1.5 times the knee in ten minutes of 3 times what the replica can take", () => {
    for (const seed of [1, 2, 3]) {
      const { goodput, least, limits, mean, most } = simulate(limitOf({ seed }), { until: 10 * MINUTE, seed })
      assert.isAtMost(most(100 * SECOND), 1.5 * KNEE, String(limits))
      assert.isAtLeast(least(100 * SECOND), 0.7 * KNEE, String(limits))
      within(0.9 * KNEE, mean(100 * SECOND, 10 * MINUTE), 1.1 * KNEE, String(limits))
      assert.isAtLeast(goodput, 0.9)
    }
  })

  it("would not with AIMD or Gradient2: the plant tells them apart", () => {
    assert.isAbove(simulate(new Aimd(), { until: 10 * MINUTE }).most(100 * SECOND), 1.5 * KNEE)
    assert.isAbove(simulate(new Gradient2(), { until: 10 * MINUTE }).most(100 * SECOND), 1.5 * KNEE)
  })

  it("comes back to the knee after the service was 3 times slower for a while", () => {
    const slow = [2 * MINUTE, 5 * MINUTE] as const
    for (const seed of [1, 2, 3]) {
      const { limits, mean } = simulate(limitOf({ seed }), {
        until: 9 * MINUTE,
        seed,
        slowness: (now) => (now >= slow[0] && now < slow[1] ? 3 : 1)
      })
      within(0.8 * KNEE, mean(4 * MINUTE, 5 * MINUTE), 1.2 * KNEE, String(limits))
      within(0.8 * KNEE, mean(6 * MINUTE, 9 * MINUTE), 1.2 * KNEE, String(limits))
    }
  })

  it("falls when run times rise above their baseline, though the replica isn't full", () => {
    for (const risen of [300, 1e12]) {
      const { after, settled } = halfFull(2 * 60, () => risen)
      assert.isBelow(Math.min(...after), settled, String(after))
    }
  })

  it("holds while run times are only somewhat above their baseline", () => {
    const { after, settled } = halfFull(30, (second) => 100 * 1.035 ** second)
    within(settled, after.at(-1)!, settled + 18, `${settled}: ${String(after)}`)
  })

  it("takes the slowest tenth of the requests for its run time", () => {
    const seventh = halfFull(10, slowOne(7))
    assert.isBelow(Math.min(...seventh.after), seventh.settled)
    const fifteenth = halfFull(10, slowOne(15))
    assert.strictEqual(Math.min(...fifteenth.after), fifteenth.settled)
  })

  it("takes no notice of a pause of two windows", () => {
    const { after, settled } = halfFull(10, (second) => (second > 3 && second < 5 ? 1000 : 100))
    assert.strictEqual(Math.min(...after), settled)
  })

  it("never grows while the replica is less than half full", () => {
    for (const runTime of [() => 100, (now: number) => 100 * Math.exp(-now / MINUTE)]) {
      const limit = limitOf()
      const limits = feed(limit, { until: 10 * MINUTE, every: () => 5, runTime, ongoing: () => limit.current / 2 - 1 })
      assert.deepStrictEqual(limits, [20])
    }
  })

  it("grows while the replica is half full", () => {
    const limit = limitOf()
    feed(limit, { until: MINUTE, every: () => 5, runTime: () => 100, ongoing: () => 16 })
    within(28, limit.current, 34, "up to twice what is ongoing")
  })

  it("keeps no more than 5 times what the replica runs, down to where it started", () => {
    const limit = limitOf()
    const ongoing = () => limit.current
    feed(limit, { until: 2 * MINUTE, every: () => 100 / limit.current, runTime: () => 100, ongoing })
    assert.isAbove(limit.current, 100)
    feed(limit, { from: 2 * MINUTE, until: 12 * MINUTE, every: () => 20, runTime: () => 100, ongoing: () => 10 })
    within(48, limit.current, 50, "5 times 10")
    feed(limit, { from: 12 * MINUTE, until: 22 * MINUTE, every: () => 20, runTime: () => 100, ongoing: () => 1 })
    within(18, limit.current, 20, "not 5 times 1")
  })

  it("doesn't climb when throughput doesn't follow, though run times are constant", () => {
    const random = seeded(1)
    for (const every of [every10, () => -10 * Math.log(1 - random())]) {
      const limit = limitOf()
      const limits = feed(limit, { until: 30 * MINUTE, every, runTime: () => 1000, ongoing: () => limit.current })
      assert.isAtMost(Math.max(...limits), 40, String(limits))
    }
  })

  it("doesn't change without requests, or with too few", () => {
    const limit = limitOf()
    const ongoing = () => limit.current
    feed(limit, { until: 900, every: every10, runTime: () => 100, ongoing })
    assert.isFalse(limit.record(24 * 60 * MINUTE, 100, 1), "judges nothing across a gap")
    const from = 24 * 60 * MINUTE
    const limits = feed(limit, { from, until: from + 60 * MINUTE, every: () => 3100, runTime: () => 100, ongoing })
    assert.deepStrictEqual(limits, [20])
  })

  it("goes on when the clock is set back", () => {
    const limit = limitOf()
    const ongoing = () => limit.current
    feed(limit, { from: 1e9, until: 1e9 + 500, every: every10, runTime: () => 100, ongoing })
    feed(limit, { until: 10 * SECOND, every: every10, runTime: () => 100, ongoing })
    assert.notStrictEqual(limit.current, 20)
  })

  it("moves both ways between 1 and 3", () => {
    const { limits } = simulate(limitOf(), { until: 10 * MINUTE, alone: 10, load: () => 0.1, knee: () => 1 })
    const late = new Set(limits.slice(100))
    assert.isTrue(late.has(1) && late.has(2), String(limits))
    assert.isAtMost(Math.max(...late), 3, String(limits))
  })

  it("leaves 1 when the service becomes wide", () => {
    const { limits, mean } = simulate(limitOf(), {
      until: 10 * MINUTE,
      alone: 20,
      load: (now) => (now < 5 * MINUTE ? 0.1 : 2),
      knee: (now) => (now < 5 * MINUTE ? 1 : KNEE)
    })
    assert.isAtMost(limits[299]!, 2, String(limits))
    within(0.8 * KNEE, mean(7 * MINUTE, 10 * MINUTE), 1.2 * KNEE, String(limits))
  })

  it.prop(
    "is an integer within its bounds whatever it is told, and says when it changes",
    [Bound, Bound, Schema.Array(Request).check(Schema.isMaxLength(100))],
    ([one, other, requests]) => {
      const min = Math.min(one, other)
      const max = Math.max(one, other)
      const limit = limitOf({ min, max })
      let now = 0
      for (const { ongoing, runTime, times, wait } of requests) {
        for (let i = 0; i < times; i++) {
          const before = limit.current
          now += wait
          const found = ongoing === "full" ? before : ongoing === "half" ? Math.ceil(before / 2) : ongoing
          const changed = limit.record(now, runTime, found)
          assert.strictEqual(changed, limit.current !== before)
          assert.isTrue(Number.isSafeInteger(limit.current), String(limit.current))
          within(min, limit.current, max, `${min} to ${max}`)
        }
      }
    },
    { arbitrary: { runs: 100, size: 30, seed: 1 } }
  )
})
