/**
 * Seen red for each of these mutations: the more loaded of two is taken, or both probes can be the same ("picks the
 * less loaded", "gives each replica the share"); the first probe isn't random ("is roughly uniform"); a full replica
 * stays open, or the one that fills a hole loses its position ("never picks a full replica").
 */
import { assert, describe, it } from "@effect/vitest"
import { Array, Effect, Random, Schema } from "effect"
import { Balancer, type Load } from "../../src/routing/Balancer.ts"

const small = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 4 }))
const Changes = Schema.Array(
  Schema.Struct({
    replica: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 99 })),
    ongoing: small,
    limit: small
  })
).check(Schema.isMaxLength(60))

const nextDouble = Effect.map(Random.Random, (random) => () => random.nextDoubleUnsafe())

const picks = (balancer: Balancer, replicas: number, draws: number) => {
  const counts = Array.makeBy(replicas, () => 0)
  for (let i = 0; i < draws; i++) counts[balancer.choose()]!++
  return counts
}

/** Pearson's distance between the counts and the shares they should have. */
const chiSquare = (counts: ReadonlyArray<number>, shares: ReadonlyArray<number>) => {
  const total = counts.reduce((sum, count) => sum + count, 0)
  return counts.reduce((sum, count, i) => sum + (count - total * shares[i]!) ** 2 / (total * shares[i]!), 0)
}

describe("Balancer", () => {
  it.effect.prop(
    "never picks a full replica, and always picks one when one has room",
    [Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 7 })), Changes],
    Effect.fnUntraced(function* ([replicas, changes]) {
      const loads: Array<Load> = Array.makeBy(replicas, () => ({ ongoing: 0, limit: 1 }))
      const balancer = new Balancer(loads, yield* nextDouble)
      for (const { limit, ongoing, replica } of changes) {
        Object.assign(loads[replica % replicas]!, { ongoing, limit })
        balancer.update(replica % replicas)
        const open = loads.flatMap((load, i) => (load.ongoing < load.limit ? [i] : []))
        for (let i = 0; i < 4; i++) {
          const chosen = balancer.choose()
          if (open.length === 0) assert.strictEqual(chosen, -1)
          else assert.include(open, chosen)
        }
      }
    }),
    { arbitrary: { runs: 500, size: 60, seed: 1 } }
  )

  it("picks none when there is none", () => {
    assert.strictEqual(new Balancer([], () => 0).choose(), -1)
  })

  it.effect("picks the less loaded of two", () =>
    Effect.gen(function* () {
      const random = yield* nextDouble
      for (const [one, other] of [
        [0, 1],
        [3, 2],
        [9, 0]
      ] as const) {
        const balancer = new Balancer(
          [
            { ongoing: one, limit: 10 },
            { ongoing: other, limit: 10 }
          ],
          random
        )
        for (let i = 0; i < 50; i++) assert.strictEqual(balancer.choose(), one < other ? 0 : 1)
      }
    })
  )

  it.effect("gives each replica the share that the power of two choices gives its rank", () =>
    Effect.gen(function* () {
      const loads = [4, 0, 3, 1, 2].map((ongoing) => ({ ongoing, limit: 10 }))
      const counts = picks(new Balancer(loads, yield* nextDouble), loads.length, 20_000)
      // Of n replicas, the one with r less loaded than it wins against the n - 1 - r others: 2(n - 1 - r) of n(n - 1).
      const shares = loads.map(({ ongoing }) => (2 * (4 - ongoing)) / 20)
      assert.strictEqual(counts[0], 0)
      assert.isBelow(chiSquare(counts.slice(1), shares.slice(1)), 16.3, String(counts)) // 1 in 1000, 3 degrees of freedom
    }).pipe(Random.withSeed("ranks"))
  )

  it.effect("is roughly uniform under equal load", () =>
    Effect.gen(function* () {
      const loads = Array.makeBy(8, () => ({ ongoing: 3, limit: 5 }))
      const counts = picks(new Balancer(loads, yield* nextDouble), 8, 20_000)
      const shares = loads.map(() => 1 / 8)
      assert.isBelow(chiSquare(counts, shares), 24.3, String(counts)) // 1 in 1000, 7 degrees of freedom
    }).pipe(Random.withSeed("uniform"))
  )

  it.effect("keeps the loads of its replicas close together", () =>
    Effect.gen(function* () {
      const loads = Array.makeBy(10, () => ({ ongoing: 0, limit: Infinity }))
      const balancer = new Balancer(loads, yield* nextDouble)
      for (let i = 0; i < 10_000; i++) {
        const chosen = balancer.choose()
        loads[chosen]!.ongoing++
        balancer.update(chosen)
      }
      const ongoing = loads.map((load) => load.ongoing)
      assert.isAtMost(Math.max(...ongoing) - Math.min(...ongoing), 8, String(ongoing))
    }).pipe(Random.withSeed("spread"))
  )
})
