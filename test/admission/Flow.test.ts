/**
 * Seen red for each of these mutations: the half-life is 10 seconds or infinite, or only one of the counts is halved
 * ("for half", "is soon after"); the expectation counts for 12 ("lies between"); overload begins at 1.2, or what half a
 * second brings counts less or not at all ("is when 1.3 times"); time without anyone counts ("isn't changed"), or the
 * same time twice; one that is taken back stays counted, or makes the rate negative ("taken back").
 */
import { assert, describe, it } from "@effect/vitest"
import { Flow } from "../../src/admission/Flow.ts"

/** Someone waits for so many milliseconds, in which so many come and are served each second; ends at a whole second. */
const flowOf = (...spans: ReadonlyArray<{ seconds: number; come?: number; serve?: number; waits?: boolean }>) => {
  const flow = new Flow()
  let now = 0
  for (const { come = 0, seconds, serve = 0, waits = true } of spans) {
    flow.wait(now, waits)
    for (let second = 0; second < seconds; second++) {
      for (let i = 0; i < come; i++) flow.come()
      for (let i = 0; i < serve; i++) flow.serve()
      now += 1000
      flow.rate(now, 1)
    }
  }
  return { flow, now }
}

/** How many have to come until it is too much, when so many were served. */
const limitOf = (served: number, expected: number) => {
  const flow = new Flow()
  flow.wait(0, true)
  for (let i = 0; i < served; i++) flow.serve()
  let came = 0
  for (; !flow.isOverloaded(0, expected); came++) flow.come()
  return came
}

const healthy = (seconds: number) => ({ seconds, come: 100, serve: 100 })
const overload = (seconds: number) => ({ seconds, come: 200, serve: 100 })

describe("Flow", () => {
  describe("rate", () => {
    it("is what is expected as long as nothing was seen", () => {
      for (const expected of [0.001, 0.05, 2]) assert.approximately(new Flow().rate(1000, expected), expected, 1e-9)
    })

    it("is what was served while someone waited", () => {
      for (const perSecond of [5, 40, 1000]) {
        for (const expected of [0.1, 10]) {
          const { flow, now } = flowOf({ seconds: 60, serve: perSecond })
          // What was expected counts for ten that are served.
          const seen = (perSecond * 2.5 + 10) / (2500 + 10 / expected)
          assert.isAtLeast(flow.rate(now, expected), Math.min(seen, perSecond / 1000) * 0.9)
          assert.isAtMost(flow.rate(now, expected), Math.max(seen, perSecond / 1000) * 1.1)
        }
      }
    })

    it("lies between what was expected and what was seen", () => {
      const { flow, now } = flowOf({ seconds: 1, serve: 30 })
      assert.approximately(flow.rate(now, 0.01), (30 + 10) / (1000 + 1000), 1e-9)
    })

    it("isn't changed by the time in which nobody waits", () => {
      const { flow, now } = flowOf({ seconds: 4, serve: 10 })
      const before = flow.rate(now, 0.01)
      flow.wait(now, false)
      const later = now + 3_600_000
      assert.approximately(flow.rate(later, 0.01), before, 1e-9)
      flow.wait(later, true)
      assert.approximately(flow.rate(later, 0.01), before, 1e-9)
    })

    it("falls while someone waits and nobody is served", () => {
      const { flow, now } = flowOf({ seconds: 4, serve: 10 })
      const rates = [0, 400, 900].map((later) => flow.rate(now + later, 0.01))
      assert.isAbove(rates[0]!, rates[1]!)
      assert.isAbove(rates[1]!, rates[2]!)
    })

    it("counts what is more than some seconds ago for half", () => {
      const { flow, now } = flowOf({ seconds: 5, serve: 100 }, { seconds: 5, serve: 10 })
      // Halved after 5 seconds and after 2.5 more (at the full second): the 500 count for 125.
      const seen = flow.rate(now, 1e9) * 1000
      assert.isAbove(seen, 25)
      assert.isBelow(seen, 45)
      const { flow: later, now: end } = flowOf({ seconds: 5, serve: 100 }, { seconds: 30, serve: 10 })
      assert.approximately(later.rate(end, 0.01) * 1000, 10, 1)
    })

    it("doesn't count those that were taken back", () => {
      const { flow, now } = flowOf({ seconds: 4, serve: 10 })
      const before = flow.rate(now, 0.01)
      for (let i = 0; i < 20; i++) {
        flow.serve()
        flow.takeBack()
      }
      assert.approximately(flow.rate(now, 0.01), before, 1e-9)
    })

    it("stays above zero when more are taken back than were served", () => {
      const flow = new Flow()
      flow.wait(0, true)
      for (let i = 0; i < 50; i++) flow.takeBack()
      assert.isAbove(flow.rate(1000, 0.01), 0)
    })
  })

  describe("isOverloaded", () => {
    it("is when 1.3 times as many come as are served, and more than by chance", () => {
      for (const [served, expected, limit] of [
        [0, 0, 14], // more than 1.3 times ten
        [0, 0.01, 14],
        [0, 0.1, 66], // more than 1.3 times what half a second brings
        [100, 0.01, 144],
        [1000, 0.1, 1366]
      ] as const) {
        assert.strictEqual(limitOf(served, expected), limit, `${served} served`)
      }
    })

    it("is not when as many come as are served, for however long", () => {
      for (const more of [0, 25]) {
        const { flow, now } = flowOf({ seconds: 600, come: 100 + more, serve: 100 })
        assert.isFalse(flow.isOverloaded(now, 0.1))
      }
      const { flow, now } = flowOf(overload(60))
      assert.isTrue(flow.isOverloaded(now, 0.1))
    })

    it("is soon after a long time without, and not any more soon after it has ended", () => {
      const { flow: busy, now } = flowOf(healthy(600), overload(4))
      assert.isTrue(busy.isOverloaded(now, 0.1))
      const { flow: calm, now: end } = flowOf(overload(60), healthy(10))
      assert.isFalse(calm.isOverloaded(end, 0.1))
    })

    it("is seen also when nobody asked for a long time", () => {
      const flow = new Flow()
      flow.wait(0, true)
      for (let second = 0; second < 3600; second++) {
        flow.come()
        flow.serve()
      }
      assert.isFalse(flow.isOverloaded(3_600_000, 0.001))
      for (let i = 0; i < 40; i++) flow.come()
      assert.isTrue(flow.isOverloaded(3_600_000, 0.001))
    })

    it("is forgotten once nobody has waited for some seconds", () => {
      const { flow, now } = flowOf(overload(60))
      flow.wait(now, false)
      flow.wait(now + 1000, true)
      assert.isTrue(flow.isOverloaded(now + 1000, 0.1))
      flow.wait(now + 1000, false)
      flow.wait(now + 7000, true)
      assert.isFalse(flow.isOverloaded(now + 7000, 0.1))
    })
  })
})
