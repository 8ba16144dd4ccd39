/**
 * Seen red for each of these mutations: the more loaded of two is taken, or both probes can be the same ("picks the
 * less loaded", "gives each replica the share"); the first probe isn't random ("is roughly uniform"); a full replica
 * stays open, or the one that fills a hole loses its position, or a cold one has no room ("never picks a full replica").
 * Of the weights: they aren't looked at, or only until the first replica is warm, or not for one that comes back
 * ("weighs"); the weight starts at 0 or 0.2, grows over 5 seconds or beyond 1, or an idle replica has none ("weighs a
 * replica by its age"); the greater one is taken ("sends no herd").
 */
import { assert, describe, it } from "@effect/vitest"
import { Array, Effect, Random, Schema } from "effect"
import { Balancer, type Load } from "../../src/routing/Balancer.ts"

const small = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 4 }))
const Changes = Schema.Array(
  Schema.Struct({
    replica: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 99 })),
    ongoing: small,
    limit: small,
    age: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 20_000 }))
  })
).check(Schema.isMaxLength(60))

const nextDouble = Effect.map(Random.Random, (random) => () => random.nextDoubleUnsafe())

const picks = (balancer: Balancer, replicas: number, draws: number) => {
  const counts = Array.makeBy(replicas, () => 0)
  for (let i = 0; i < draws; i++) counts[balancer.choose(0)]!++
  return counts
}

/** Pearson's distance between the counts and the shares they should have. */
const chiSquare = (counts: ReadonlyArray<number>, shares: ReadonlyArray<number>) => {
  const total = counts.reduce((sum, count) => sum + count, 0)
  return counts.reduce((sum, count, i) => sum + (count - total * shares[i]!) ** 2 / (total * shares[i]!), 0)
}

/**
 * Clients that each send their next request when the last one ends, which takes 20 ms on average. Once the loads have
 * settled, a replica joins. Its share, as a part of the mean one: in four parts of its first second, from 5 to 6 seconds,
 * and from 10 to 14.
 */
const closedLoop = (replicas: number, clients: number, random: () => number) => {
  const loads = Array.makeBy(replicas, (i) => ({ ongoing: 0, limit: i === 0 ? 0 : Infinity, warmFrom: -Infinity }))
  const balancer = new Balancer(loads, random)
  const spans = [0, 250, 500, 750, 5000, 10_000].map((from) => ({
    from,
    until: from + (from < 1000 ? 250 : from < 10_000 ? 1000 : 4000),
    taken: 0,
    all: 0
  }))
  const places = Array.makeBy(clients, () => -1)
  for (let now = -500; now < 14_000; now++) {
    if (now === 0) {
      Object.assign(loads[0], { limit: Infinity, warmFrom: 0 })
      balancer.update(0)
    }
    for (let client = 0; client < clients; client++) {
      const place = places[client]!
      if (place !== -1 && random() >= 1 / 20) continue
      if (place !== -1) loads[place]!.ongoing--
      const chosen = balancer.choose(now)
      loads[chosen]!.ongoing++
      places[client] = chosen
      for (const span of spans) {
        if (now < span.from || now >= span.until) continue
        span.all++
        if (chosen === 0) span.taken++
      }
    }
  }
  return spans.map(({ all, taken }) => (taken * replicas) / all)
}

describe("Balancer", () => {
  it.effect.prop(
    "never picks a full replica, and always picks one when one has room",
    [Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 7 })), Changes],
    Effect.fnUntraced(function* ([replicas, changes]) {
      const loads: Array<Load> = Array.makeBy(replicas, () => ({ ongoing: 0, limit: 1, warmFrom: -Infinity }))
      const balancer = new Balancer(loads, yield* nextDouble)
      for (const { age, limit, ongoing, replica } of changes) {
        Object.assign(loads[replica % replicas]!, { ongoing, limit, warmFrom: -age })
        balancer.update(replica % replicas)
        const open = loads.flatMap((load, i) => (load.ongoing < load.limit ? [i] : []))
        for (let i = 0; i < 4; i++) {
          const chosen = balancer.choose(0)
          if (open.length === 0) assert.strictEqual(chosen, -1)
          else assert.include(open, chosen)
        }
      }
    }),
    { arbitrary: { runs: 500, size: 60, seed: 1 } }
  )

  it("picks none when there is none", () => {
    assert.strictEqual(new Balancer([], () => 0).choose(0), -1)
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
            { ongoing: one, limit: 10, warmFrom: -Infinity },
            { ongoing: other, limit: 10, warmFrom: -Infinity }
          ],
          random
        )
        for (let i = 0; i < 50; i++) assert.strictEqual(balancer.choose(0), one < other ? 0 : 1)
      }
    })
  )

  it.effect("gives each replica the share that the power of two choices gives its rank", () =>
    Effect.gen(function* () {
      const loads = [4, 0, 3, 1, 2].map((ongoing) => ({ ongoing, limit: 10, warmFrom: -Infinity }))
      const counts = picks(new Balancer(loads, yield* nextDouble), loads.length, 20_000)
      // Of n replicas, the one with r less loaded than it wins against the n - 1 - r others: 2(n - 1 - r) of n(n - 1).
      const shares = loads.map(({ ongoing }) => (2 * (4 - ongoing)) / 20)
      assert.strictEqual(counts[0], 0)
      assert.isBelow(chiSquare(counts.slice(1), shares.slice(1)), 16.3, String(counts)) // 1 in 1000, 3 degrees of freedom
    }).pipe(Random.withSeed("ranks"))
  )

  it.effect("is roughly uniform under equal load", () =>
    Effect.gen(function* () {
      const loads = Array.makeBy(8, () => ({ ongoing: 3, limit: 5, warmFrom: -Infinity }))
      const counts = picks(new Balancer(loads, yield* nextDouble), 8, 20_000)
      const shares = loads.map(() => 1 / 8)
      assert.isBelow(chiSquare(counts, shares), 24.3, String(counts)) // 1 in 1000, 7 degrees of freedom
    }).pipe(Random.withSeed("uniform"))
  )

  it.effect("keeps the loads of its replicas close together", () =>
    Effect.gen(function* () {
      const loads = Array.makeBy(10, () => ({ ongoing: 0, limit: Infinity, warmFrom: -Infinity }))
      const balancer = new Balancer(loads, yield* nextDouble)
      for (let i = 0; i < 10_000; i++) {
        const chosen = balancer.choose(0)
        loads[chosen]!.ongoing++
        balancer.update(chosen)
      }
      const ongoing = loads.map((load) => load.ongoing)
      assert.isAtMost(Math.max(...ongoing) - Math.min(...ongoing), 8, String(ongoing))
    }).pipe(Random.withSeed("spread"))
  )

  it("weighs a replica by its age: a tenth at first, half after 5 seconds, all after 10", () => {
    const loads = [
      { ongoing: 0, limit: 99, warmFrom: 1000 },
      { ongoing: 0, limit: 99, warmFrom: -Infinity }
    ]
    const balancer = new Balancer(loads, () => 0)
    // The most that the warm one may run and still be picked rather than the idle new one.
    for (const [now, most] of [
      [0, 8],
      [1000, 8],
      [1999, 8],
      [3500, 2],
      [6001, 0],
      [10_999, 0]
    ] as const) {
      loads[1]!.ongoing = most
      assert.strictEqual(balancer.choose(now), 1, String(now))
      loads[1]!.ongoing = most + 2
      assert.strictEqual(balancer.choose(now), 0, String(now))
    }
    loads[1]!.ongoing = 0
    for (const now of [10_999, 11_000]) {
      const balancer = new Balancer(loads.toReversed(), () => 0.6)
      assert.strictEqual(balancer.choose(now), now === 11_000 ? 1 : 0, "of equals it is the first that was picked")
    }
  })

  it("weighs a replica that comes back", () => {
    const loads = Array.makeBy(2, () => ({ ongoing: 0, limit: 9, warmFrom: -Infinity }))
    const balancer = new Balancer(loads, () => 0)
    assert.strictEqual(balancer.choose(50_000), 0)
    loads[0].warmFrom = 50_000
    balancer.update(0)
    balancer.update(1)
    assert.strictEqual(balancer.choose(50_000), 1)
  })

  it("picks a cold replica when the others are full", () => {
    const loads = Array.makeBy(5, (i) => ({ ongoing: 4, limit: 5, warmFrom: i === 0 ? 0 : -Infinity }))
    const balancer = new Balancer(loads, () => 0)
    assert.notStrictEqual(balancer.choose(0), 0)
    for (let i = 1; i < loads.length; i++) {
      loads[i]!.ongoing = 5
      balancer.update(i)
    }
    assert.strictEqual(balancer.choose(0), 0)
  })

  it.effect.prop(
    "sends no herd to a new replica, and a fair share after 10 seconds",
    [Schema.Int.check(Schema.isBetween({ minimum: 4, maximum: 12 })), Schema.Literals([1, 2, 10, 25])],
    Effect.fnUntraced(function* ([replicas, clientsEach]) {
      const shares = closedLoop(replicas, replicas * clientsEach, yield* nextDouble)
      assert.isAtMost(Math.max(...shares.slice(0, 4)), clientsEach < 10 ? 0.1 : 0.3, `first second: ${String(shares)}`)
      assert.isBelow(shares[4]!, 0.9, `5 seconds: ${String(shares)}`)
      assert.isAbove(shares[5]!, 0.85, `after 10 seconds: ${String(shares)}`)
      assert.isBelow(shares[5]!, 1.15, `after 10 seconds: ${String(shares)}`)
    }, Random.withSeed("joins")),
    { arbitrary: { runs: 8, size: 20, seed: 1 } }
  )
})
