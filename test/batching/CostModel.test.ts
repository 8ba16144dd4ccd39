/**
 * Seen red for each of these mutations: nothing is forgotten ("follows a change"); forgetting never stops ("the usual size");
 * predictions below zero; a wrong gain in the covariance.
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { CostModel } from "../../src/batching/CostModel.ts"

/** The same numbers each time (the generator of Park and Miller), 0 to 1. */
const sequence = (seed: number) => () => (seed = (seed * 48_271) % 2_147_483_647) / 2_147_483_647

/** Runs batches that take `fixed + perItem * n` milliseconds, give or take some part. */
const run = (
  model: CostModel,
  options: {
    readonly fixed: number
    readonly perItem: number
    readonly count: number
    readonly noise?: number
    readonly size?: (next: () => number) => number
    readonly seed?: number
  }
) => {
  const { count, fixed, noise = 0, perItem, seed = 1, size = (next) => 1 + Math.floor(next() * 32) } = options
  const next = sequence(seed)
  for (let i = 0; i < count; i++) {
    const n = size(next)
    model.record(n, (fixed + perItem * n) * (1 + noise * (2 * next() - 1)))
  }
  return model
}

const isNear = (actual: number, expected: number, part: number, what: string) =>
  assert.isTrue(Math.abs(actual - expected) <= part * expected, `${what}: ${actual}, not about ${expected}`)

describe("CostModel", () => {
  it("knows nothing at first", () => {
    const model = new CostModel()
    assert.isFalse(model.known)
    assert.deepStrictEqual([model.fixed, model.perItem, model.predict(10)], [0, 0, 0])
  })

  it("knows after three batches", () => {
    const model = new CostModel()
    assert.isFalse(run(model, { fixed: 5, perItem: 1, count: 2 }).known)
    assert.isTrue(run(model, { fixed: 5, perItem: 1, count: 1 }).known)
  })

  it("finds both numbers exactly where nothing is noisy", () => {
    const model = run(new CostModel(), { fixed: 5, perItem: 0.2, count: 10 })
    isNear(model.fixed, 5, 0.001, "fixed")
    isNear(model.perItem, 0.2, 0.001, "per item")
    isNear(model.predict(32), 11.4, 0.001, "32 items")
  })

  it.each(Array.from({ length: 50 }, (_, i) => i + 1))("finds both within 10 %% of noisy times (seed %i)", (seed) => {
    const model = run(new CostModel(), { fixed: 20, perItem: 3, count: 100, noise: 0.03, seed })
    isNear(model.fixed, 20, 0.1, "fixed")
    isNear(model.perItem, 3, 0.1, "per item")
  })

  it("follows a change", () => {
    const model = run(new CostModel(), { fixed: 20, perItem: 1, count: 1000, noise: 0.02 })
    run(model, { fixed: 5, perItem: 4, count: 200, noise: 0.02, seed: 2 })
    isNear(model.fixed, 5, 0.2, "fixed")
    isNear(model.perItem, 4, 0.1, "per item")
  })

  it.each([1, 8, 500])("is right about the usual size when there is no other: %i", (n) => {
    const model = run(new CostModel(), { fixed: 20, perItem: 0.5, count: 100_000, noise: 0.1, size: () => n })
    isNear(model.predict(n), 20 + 0.5 * n, 0.05, `${n} items`)
    for (const m of [1, 2, n + 1, 2 * n]) assert.isTrue(Number.isFinite(model.predict(m)) && model.predict(m) >= 0)
  })

  it.each([1, 8, 500])("learns other sizes soon after a long time with one: %i", (n) => {
    const model = run(new CostModel(), { fixed: 20, perItem: 0.5, count: 100_000, noise: 0.02, size: () => n })
    run(model, { fixed: 20, perItem: 0.5, count: 100, noise: 0.02 })
    isNear(model.fixed, 20, 0.1, "fixed")
    isNear(model.predict(32), 36, 0.05, "32 items")
  })

  const Batches = Schema.Array(
    Schema.Struct({
      n: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1000 })),
      millis: Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 100_000 }))
    })
  ).check(Schema.isMaxLength(200))

  it.prop(
    "never predicts less than nothing, whatever happened",
    [Batches],
    ([batches]) => {
      const model = new CostModel()
      for (const { millis, n } of batches) {
        model.record(n, millis)
        for (const m of [0, 1, n, 1000]) {
          assert.isTrue(model.predict(m) >= 0 && Number.isFinite(model.predict(m)), `${model.predict(m)}`)
        }
        assert.isAtLeast(model.fixed, 0)
        assert.isAtLeast(model.perItem, 0)
      }
    },
    { arbitrary: { runs: 300, size: 200, seed: 1 } }
  )
})
