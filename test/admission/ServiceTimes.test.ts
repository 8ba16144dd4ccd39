/**
 * Seen red for each of these mutations: the newest value weighs 0.5 in the mean ("finds"), 0.001 ("follows") or 0.02
 * from the first on ("is the plain mean"); the step is 0.01 ("forgets"), 0.3 ("finds"), or small from the first on
 * ("forgets"); the ninth decile is moved like the median, or as the eighth ("finds"); equal values move the quantiles
 * ("knows nothing"); zero can't be left ("stuck at zero"); the first value isn't taken for all.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import { ServiceTimes } from "../../src/admission/ServiceTimes.ts"

const nextDouble = Effect.map(Random.Random, (random) => () => random.nextDoubleUnsafe())

const normal = (random: () => number) => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())

interface Law {
  readonly draw: (random: () => number) => number
  readonly mean: number
  readonly p50: number
  readonly p90: number
}

const laws: Readonly<Record<string, Law>> = {
  constant: { draw: () => 100, mean: 100, p50: 100, p90: 100 },
  lognormal: {
    draw: (random) => 100 * Math.exp(normal(random)),
    mean: 100 * Math.exp(0.5),
    p50: 100,
    p90: 100 * Math.exp(1.2816)
  },
  "80 % short and 20 % long": {
    draw: (random) => (random() < 0.8 ? 50 : 300) * (0.95 + 0.1 * random()),
    mean: 100,
    p50: 50,
    p90: 300
  },
  "95 % short and 5 % very long": {
    draw: (random) => (random() < 0.95 ? 50 : 2500) * (0.95 + 0.1 * random()),
    mean: 172.5,
    p50: 50,
    p90: 52
  }
}

const timesOf = (values: Iterable<number>) => {
  const times = new ServiceTimes()
  for (const value of values) times.record(value)
  return times
}

describe("ServiceTimes", () => {
  it("knows nothing until the first value, and then takes it for all of them", () => {
    const times = new ServiceTimes()
    assert.isFalse(times.known)
    assert.deepStrictEqual([times.mean, times.p50, times.p90], [0, 0, 0])
    times.record(70)
    assert.isTrue(times.known)
    assert.deepStrictEqual([times.mean, times.p50, times.p90], [70, 70, 70])
    for (let i = 0; i < 100; i++) times.record(70)
    assert.deepStrictEqual([times.p50, times.p90], [70, 70])
  })

  for (const [name, law] of Object.entries(laws)) {
    it.effect(`finds mean, median and ninth decile of times that are ${name}`, () =>
      Effect.gen(function* () {
        const random = yield* nextDouble
        const times = new ServiceTimes()
        for (let i = 0; i < 400; i++) times.record(law.draw(random))
        const sums = { mean: 0, p50: 0, p90: 0 }
        const count = 4000
        for (let i = 0; i < count; i++) {
          times.record(law.draw(random))
          for (const key of ["mean", "p50", "p90"] as const) {
            sums[key] += times[key] / count
            // A single reading may be off, but not by much.
            if (key !== "p90" && name !== "95 % short and 5 % very long") {
              assert.isBelow(Math.abs(Math.log(times[key] / law[key])), 0.9, `${key}: ${times[key]}`)
            }
          }
        }
        for (const key of ["mean", "p50", "p90"] as const) {
          assert.isBelow(Math.abs(sums[key] / law[key] - 1), 0.15, `${key}: ${sums[key]} instead of ${law[key]}`)
        }
      }).pipe(Random.withSeed(name))
    )
  }

  it("is the plain mean of the first 50", () => {
    const values = Array.from({ length: 50 }, (_, i) => (i * 37) % 50)
    assert.approximately(timesOf(values).mean, 24.5, 1e-9)
  })

  it("forgets a first value that was 1000 times too much", () => {
    const times = timesOf([100_000])
    for (let i = 0; i < 700; i++) {
      if (i === 125) assert.isBelow(times.p50, 115)
      if (i === 300) assert.isBelow(times.mean, 115)
      times.record(100)
    }
    assert.isBelow(times.p90, 115)
    assert.isAtLeast(Math.min(times.mean, times.p50, times.p90), 90)
  })

  it("forgets a first value that was 1000 times too little", () => {
    const times = timesOf([0.1])
    for (let i = 0; i < 125; i++) times.record(100)
    for (const key of ["mean", "p50", "p90"] as const) {
      assert.isAbove(times[key], 85, key)
      assert.isBelow(times[key], 115, key)
    }
  })

  it("follows a service that becomes ten times slower", () => {
    const times = timesOf(Array.from({ length: 2000 }, () => 20))
    for (let i = 0; i < 150; i++) times.record(200)
    for (const key of ["mean", "p50", "p90"] as const) assert.isAbove(times[key], 180, key)
  })

  it("is not stuck at zero", () => {
    const times = timesOf(Array.from({ length: 100 }, () => 0))
    assert.deepStrictEqual([times.mean, times.p50, times.p90], [0, 0, 0])
    for (let i = 0; i < 300; i++) times.record(20)
    for (const key of ["mean", "p50", "p90"] as const) {
      assert.isAbove(times[key], 17, key)
      assert.isBelow(times[key], 23, key)
    }
  })

  it("comes back down to zero", () => {
    const times = timesOf([...Array.from({ length: 100 }, () => 20), ...Array.from({ length: 1500 }, () => 0)])
    for (const key of ["mean", "p50", "p90"] as const) assert.isBelow(times[key], 0.01, key)
  })
})
