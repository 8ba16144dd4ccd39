/**
 * Seen red for each of these mutations: the more loaded of two is taken, or both probes can be the same ("picks the
 * less loaded", "gives each replica the share"); the first probe isn't random ("is roughly uniform"); a full replica
 * stays open, or the one that fills a hole loses its position, or a cold one has no room ("never picks a full replica").
 * Of the weights: they aren't looked at, or only until the first replica is warm, or not for one that comes back
 * ("weighs"); the weight starts at 0 or 0.2, grows over 5 seconds or beyond 1, or an idle replica has none ("weighs a
 * replica by its age"); the greater one is taken ("sends no herd"). By latency: it counts only while one is cold, or not at all; an idle
 * replica weighs nothing, or what it runs doesn't count.
 */
import { assert, describe, it } from "@effect/vitest"
import { Array, Effect, Random, Schema } from "effect"
import { Balancer, type Load } from "../../src/routing/Balancer.ts"
import { PeakEwma } from "../../src/routing/PeakEwma.ts"

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

/**
 * Requests that come at random, one a millisecond on average, to replicas that take so long for each. Gives the share of each replica in
 * the last 20 of 60 seconds, the most that it ran at once, and how many it ran on average.
 */
const openLoop = (millis: ReadonlyArray<(now: number) => number>, random: () => number, byLatency = true) => {
  const loads = millis.map(() => ({
    ongoing: 0,
    limit: Infinity,
    warmFrom: -Infinity,
    latency: byLatency ? new PeakEwma() : undefined
  }))
  const balancer = new Balancer(loads, random)
  const ends = new Map<number, Array<readonly [replica: number, took: number]>>()
  const taken = millis.map(() => 0)
  const most = millis.map(() => 0)
  const running = millis.map(() => 0)
  for (let now = 0; now < 60_000; now++) {
    loads.forEach(({ ongoing }, i) => (running[i]! += ongoing / 60_000))
    for (const [replica, took] of ends.get(now) ?? []) {
      loads[replica]!.ongoing--
      loads[replica]!.latency?.record(took, now)
    }
    ends.delete(now)
    for (let wait = random(); wait < 0.75; wait += 0.25 + random()) {
      const replica = balancer.choose(now)
      const load = loads[replica]!
      load.ongoing++
      most[replica] = Math.max(most[replica]!, load.ongoing)
      if (now >= 40_000) taken[replica]!++
      const took = Math.max(Math.round(millis[replica]!(now) * (0.8 + 0.4 * random())), 1)
      ends.set(now + took, [...(ends.get(now + took) ?? []), [replica, took]])
    }
  }
  const all = taken.reduce((sum, count) => sum + count, 0)
  return { shares: taken.map((count) => count / all), most, running }
}

const fast = () => 20
const slow = () => 200

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

  describe("by latency", () => {
    it.effect("gives a replica that takes ten times as long a tenth to run, which is a hundredth of the requests", () =>
      Effect.gen(function* () {
        const random = yield* nextDouble
        const two = openLoop([fast, slow], random)
        assert.isAbove(two.running[1]! / two.running[0]!, 0.03, String(two.running))
        assert.isBelow(two.running[1]! / two.running[0]!, 0.2, String(two.running))
        assert.isAbove(two.shares[1]!, 0.003, String(two.shares))
        assert.isBelow(two.shares[1]!, 0.03, String(two.shares))
        const ten = openLoop([slow, ...Array.makeBy(9, () => fast)], random).shares
        assert.isBelow(ten[0]!, 0.01, String(ten))
        for (const share of ten.slice(1)) assert.approximately(share, 0.11, 0.02, String(ten))
        const blind = openLoop([fast, slow], random, false).shares
        assert.isAbove(blind[1]!, 0.06, `how many it runs tells less: ${String(blind)}`)
      }).pipe(Random.withSeed("latency"))
    )

    it.effect("lets a replica that was slow have its share again when it isn't any more", () =>
      Effect.gen(function* () {
        const random = yield* nextDouble
        const { shares } = openLoop([fast, (now) => (now < 9000 ? 2000 : 20)], random)
        assert.isAbove(shares[1]!, 0.25, String(shares))
      }).pipe(Random.withSeed("recovers"))
    )

    it.effect("sends no herd to the fastest", () =>
      Effect.gen(function* () {
        const random = yield* nextDouble
        const { most } = openLoop([() => 5, ...Array.makeBy(4, () => () => 50)], random)
        assert.isAtMost(Math.max(...most), 25, String(most))
        // What comes all at once, before anything is heard of it, is shared out by how long each took.
        const loads = [10, 10, 100].map((millis) => {
          const latency = new PeakEwma()
          latency.record(millis, 0)
          return { ongoing: 0, limit: Infinity, warmFrom: -Infinity, latency }
        })
        const balancer = new Balancer(loads, random)
        for (let i = 0; i < 630; i++) loads[balancer.choose(0)]!.ongoing++
        const [one, other, third] = loads.map(({ ongoing }) => ongoing)
        assert.approximately(one!, 300, 10)
        assert.approximately(other!, 300, 10)
        assert.approximately(third!, 30, 5)
      }).pipe(Random.withSeed("herd"))
    )

    it("spares a replica from its first bad answer on, and tries it again after a while", () => {
      const loads = Array.makeBy(2, () => ({
        ongoing: 0,
        limit: 99,
        warmFrom: -Infinity,
        latency: new PeakEwma()
      }))
      const balancer = new Balancer(loads, () => 0)
      assert.strictEqual(balancer.choose(0), 0)
      loads[0].latency.record(1000, 0)
      loads[1]!.ongoing = 30
      assert.strictEqual(balancer.choose(0), 1)
      assert.strictEqual(balancer.choose(30_000), 1)
      assert.strictEqual(balancer.choose(40_000), 0)
    })

    it("counts how long each takes together with its age", () => {
      const loads = [0, -Infinity].map((warmFrom) => ({ ongoing: 0, limit: 99, warmFrom, latency: new PeakEwma() }))
      const balancer = new Balancer(loads, () => 0)
      loads[1]!.latency.record(8, 0)
      // A cold one that takes 1 ms counts as 10 at first.
      assert.strictEqual(balancer.choose(0), 1)
      loads[1]!.latency.record(12, 0)
      assert.strictEqual(balancer.choose(0), 0)
    })

    it("takes it into account without an age, and doesn't without a latency", () => {
      const loads: Array<Load> = [0, 1].map((ongoing) => ({ ongoing, limit: 99, warmFrom: -Infinity }))
      const balancer = new Balancer(loads, () => 0)
      assert.strictEqual(balancer.choose(0), 0)
      for (const [i, load] of loads.entries()) {
        load.latency = new PeakEwma()
        load.latency.record(i === 0 ? 30 : 10, 0)
      }
      assert.strictEqual(balancer.choose(0), 1)
    })
  })
})
