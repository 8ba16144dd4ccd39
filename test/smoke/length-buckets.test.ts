import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { bucket, padded, run } from "../../examples/length-buckets/padding.ts"
import { texts } from "../../examples/length-buckets/texts.ts"

describe("length buckets", { timeout: 60_000 }, () => {
  it.live("texts of one bucket waste less than half of what texts of any length waste", () =>
    Effect.gen(function* () {
      const mixed = (yield* texts).slice(0, 300)
      const any = yield* run(mixed, { name: "any", maxBatchSize: 16 })
      const alike = yield* run(mixed, { name: "alike", maxBatchSize: 16, key: bucket })
      assert.strictEqual(alike.tokens, any.tokens)
      assert.isAbove(any.waste, 0.5)
      assert.isBelow(alike.waste, any.waste / 2)
    })
  )

  it.live("no batch is over a budget of tokens, padding included", () =>
    Effect.gen(function* () {
      const mixed = (yield* texts).slice(0, 300)
      const counted = yield* run(mixed, { name: "counted", maxBatchSize: 16 })
      const budgeted = yield* run(mixed, { name: "budgeted", maxBatchSize: 1024, size: padded })
      assert.isAbove(counted.largest, 1024)
      assert.isAtMost(budgeted.largest, 1024)
    })
  )
})
