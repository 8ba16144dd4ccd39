/**
 * Seen red for each of these mutations: what is worse counts little by little ("jumps"); the weights are exchanged, go by the number of answers,
 * or by another time ("comes down"); the time of an answer isn't kept; nothing is forgotten ("forgets"); less than a millisecond is told apart; a
 * clock that goes back makes it worse ("is never below a millisecond").
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { PeakEwma } from "../../src/routing/PeakEwma.ts"

const within = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
/** Answers, with the milliseconds since the one before. */
const Answers = Schema.Array(Schema.Struct({ millis: within(0, 60_000), after: within(0, 30_000) })).check(
  Schema.isMinLength(1),
  Schema.isMaxLength(40)
)

/** Records the same answer so many times, each as long after the other. */
const steady = (ewma: PeakEwma, millis: number, times: number, every: number, from = 0) => {
  for (let i = 0; i < times; i++) ewma.record(millis, from + i * every)
  return from + (times - 1) * every
}

describe("PeakEwma", () => {
  it("takes a replica of which nothing is known for a fast one", () => {
    assert.strictEqual(new PeakEwma().valueAt(0), 1)
    assert.strictEqual(new PeakEwma().valueAt(1e9), 1)
  })

  it("jumps to what is worse at once", () => {
    const ewma = new PeakEwma()
    const now = steady(ewma, 10, 1000, 100)
    assert.closeTo(ewma.valueAt(now), 10, 0.01)
    ewma.record(500, now + 1)
    assert.strictEqual(ewma.valueAt(now + 1), 500)
  })

  it("comes down to what is better little by little: to 37 % of the difference in 10 seconds", () => {
    const ewma = new PeakEwma()
    ewma.record(1000, 0)
    const values = [1, 2, 3].map((i) => {
      for (let now = (i - 1) * 10_000 + 10; now <= i * 10_000; now += 10) ewma.record(100, now)
      return ewma.valueAt(i * 10_000)
    })
    ;[1, 2, 3].forEach((i) => assert.closeTo(values[i - 1]!, 100 + 900 * Math.exp(-i), 1))
  })

  it("weighs an answer by the time since the one before, and not by how many there are", () => {
    const [few, many] = [new PeakEwma(), new PeakEwma()]
    for (const ewma of [few, many]) ewma.record(1000, 0)
    for (let now = 1000; now <= 20_000; now += 1000) few.record(100, now)
    for (let now = 10; now <= 20_000; now += 10) many.record(100, now)
    assert.closeTo(few.valueAt(20_000), many.valueAt(20_000), 1)
  })

  it("learns nothing good from many answers at one time", () => {
    const ewma = new PeakEwma()
    ewma.record(1000, 50)
    for (let i = 0; i < 1000; i++) ewma.record(1, 50)
    assert.strictEqual(ewma.valueAt(50), 1000)
  })

  it("forgets what was bad while nothing is sent there, so that it is tried again", () => {
    const ewma = new PeakEwma()
    ewma.record(5000, 0)
    assert.closeTo(ewma.valueAt(10_000), 5000 / Math.E, 1)
    assert.isBelow(ewma.valueAt(60_000), 15)
    assert.strictEqual(ewma.valueAt(120_000), 1)
  })

  it("is told apart no finer than by a millisecond", () => {
    const ewma = new PeakEwma()
    steady(ewma, 0.02, 50, 1000)
    assert.strictEqual(ewma.valueAt(50_000), 1)
  })

  it.prop(
    "is never below a millisecond, and never above the largest answer so far",
    [Answers, within(0, 100_000)],
    ([answers, later]) => {
      const ewma = new PeakEwma()
      let now = 0
      let largest = 1
      for (const { after, millis } of answers) {
        now += after
        largest = Math.max(largest, millis)
        ewma.record(millis, now)
        assert.isAtLeast(ewma.valueAt(now), Math.max(millis, 1))
        for (const at of [now, now + later, now - 1]) {
          assert.isAtLeast(ewma.valueAt(at), 1)
          assert.isAtMost(ewma.valueAt(at), largest)
        }
      }
    },
    { arbitrary: { runs: 200, size: 40, seed: 1 } }
  )

  it.prop(
    "only comes down while nothing is measured, and not below what a better answer then leaves",
    [Answers, within(1, 30_000), within(1, 30_000)],
    ([answers, soon, later]) => {
      const ewma = new PeakEwma()
      let now = 0
      for (const { after, millis } of answers) ewma.record(millis, (now += after))
      assert.isAtLeast(ewma.valueAt(now), ewma.valueAt(now + soon))
      assert.isAtLeast(ewma.valueAt(now + soon), ewma.valueAt(now + soon + later))
      const forgotten = ewma.valueAt(now + soon)
      ewma.record(0, now + soon)
      assert.isAtLeast(ewma.valueAt(now + soon) + 1e-9, forgotten)
    },
    { arbitrary: { runs: 200, size: 40, seed: 1 } }
  )
})
