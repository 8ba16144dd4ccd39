/**
 * Seen red for each of these mutations. Of the run: it ejects at 4 or 6 failures ("at its fifth"), or goes on after a
 * success ("ends the run"); it is compared with the others' window only ("when a database fails") or never with it ("two
 * busy replicas"), with no failures added or not for the number of outcomes ("takes next to no capacity away"). Of the
 * rate: 18 outcomes do or old ones stay in the window ("half of the last twenty", "forgets outcomes"), 0.4 does or the
 * others' rate doesn't count ("lets a replica be"), nor does chance ("needs more outcomes"); the window has one half
 * ("not within five"). Of the ejection: one too many ("at most half"), not longer each time, longer than 5 minutes, never
 * made up for, for a part of the time, or for more than it counts ("twice as long", "takes one doubling back", "made up
 * for"), no jitter ("a fifth longer"); outcomes count while it lasts ("ignores requests"); the run stays or the window does
 * ("starts a readmitted replica", "readmitted while the database fails"), or the count of a replaced one ("forgets a
 * replica"). A half window that ends a millisecond late stays green: the next outcome ends it.
 */
import { assert, describe, it } from "@effect/vitest"
import { Array, Effect, Random, Schema } from "effect"
import { Balancer } from "../../src/routing/Balancer.ts"
import { Ejection } from "../../src/routing/Ejection.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Replicas = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 9 }))
const Operations = Schema.Array(
  Schema.Struct({
    name: Schema.Literals(["fail", "fail", "fail", "succeed", "readmit", "renew"]),
    replica: upTo(99),
    times: upTo(9),
    gap: Schema.Union([upTo(9), upTo(9), upTo(3000), upTo(1_000_000)])
  })
).check(Schema.isMaxLength(80))

const nextDouble = Effect.map(Random.Random, (random) => () => random.nextDoubleUnsafe())
const never = () => 0

const succeed = (ejection: Ejection, replica: number, times: number, now = 0) => {
  for (let i = 0; i < times; i++) assert.strictEqual(ejection.record(replica, false, now), 0)
}
/** What each failure in a row led to. */
const fail = (ejection: Ejection, replica: number, times: number, now = 0) =>
  Array.makeBy(times, () => ejection.record(replica, true, now))

/** Replica 0 fails five times in a row while the others succeed. Returns the time of its ejection. */
const failAlone = (ejection: Ejection, now: number) => {
  assert.deepStrictEqual(fail(ejection, 0, 4, now), [0, 0, 0, 0])
  succeed(ejection, 1, 20, now)
  return ejection.record(0, true, now)
}

/** Independent requests to random replicas, which fail with a probability of their own. */
const simulate = (options: {
  readonly replicas: number
  readonly perSecond: number
  readonly seconds: number
  readonly random: () => number
  readonly rate: (replica: number, now: number) => number
}) => {
  const { perSecond, random, rate, replicas, seconds } = options
  const ejection = new Ejection(replicas, random)
  const readmitAt = Array.makeBy(replicas, () => Infinity)
  const outcomes = Array.makeBy(replicas, () => 0)
  const firstEjectedAfter = Array.makeBy(replicas, () => Infinity)
  let lost = 0
  for (let i = 0; i < seconds * perSecond; i++) {
    const now = (i * 1000) / perSecond
    const replica = Math.floor(random() * replicas)
    if (now >= readmitAt[replica]!) {
      ejection.readmit(replica, now)
      readmitAt[replica] = Infinity
    }
    if (ejection.has(replica)) continue
    outcomes[replica]!++
    const time = ejection.record(replica, random() < rate(replica, now), now)
    if (time === 0) continue
    readmitAt[replica] = now + time
    firstEjectedAfter[replica] = Math.min(firstEjectedAfter[replica]!, outcomes[replica]!)
    lost += time
  }
  return { firstEjectedAfter, lost: lost / (replicas * seconds * 1000) }
}

/** After how many outcomes a replica is ejected of which so many tenths fail, beside two others. */
const ejectedAfter = (failing: number, othersFailing: number) => {
  const ejection = new Ejection(3, never)
  for (let i = 0; i < 1000; i++) {
    if (ejection.record(0, (i * 7) % 10 < failing, 0) > 0) return i + 1
    for (const other of [1, 2]) ejection.record(other, (i * 7) % 10 < othersFailing, 0)
  }
  return Infinity
}

const outliers = [
  { bad: 1, good: 0, after: 20 },
  { bad: 1, good: 0.2, after: 40 },
  { bad: 0.9, good: 0.1, after: 60 }
]

/** After three ejections and so many times the last of them in service: how long the fourth takes. */
const fourthAfter = (times: number) => {
  const ejection = new Ejection(2, never)
  let now = 0
  for (const time of [5000, 10_000, 20_000]) {
    assert.strictEqual(failAlone(ejection, now), time)
    now += time
    ejection.readmit(0, now)
  }
  return failAlone(ejection, now + 20_000 * times)
}

describe("Ejection", () => {
  it.prop(
    "ejects at most half of the replicas, whatever happens, and for 5 to 360 seconds",
    [Replicas, Operations],
    ([replicas, operations]) => {
      const ejection = new Ejection(replicas, never)
      const ejected = new Set<number>()
      let now = 0
      for (const { gap, name, replica: at, times } of operations) {
        const replica = at % replicas
        now += gap
        if (name === "readmit") ejection.readmit(replica, now)
        else if (name === "renew") ejection.renew(replica)
        if (name === "readmit" || name === "renew") {
          ejected.delete(replica)
        } else {
          for (let i = 0; i < times; i++) {
            const time = ejection.record(replica, name === "fail", now)
            if (time === 0) continue
            assert.strictEqual(name, "fail")
            assert.isFalse(ejected.has(replica), "an ejected replica isn't ejected again")
            assert.isTrue(time >= 5000 && time <= 360_000)
            ejected.add(replica)
          }
        }
        assert.isAtMost(ejection.size, Math.floor(replicas / 2))
        assert.strictEqual(ejection.size, ejected.size)
        for (let i = 0; i < replicas; i++) assert.strictEqual(ejection.has(i), ejected.has(i))
      }
    },
    { arbitrary: { runs: 500, size: 80, seed: 1 } }
  )

  it("ejects a replica at its fifth failure in a row when the others succeed", () => {
    const ejection = new Ejection(6, never)
    for (let i = 0; i < 5; i++) {
      assert.strictEqual(ejection.size, 0)
      for (const other of [1, 2, 3, 4, 5]) succeed(ejection, other, 10, i)
      assert.strictEqual(ejection.record(0, true, i), i < 4 ? 0 : 5000)
    }
    assert.strictEqual(ejection.size, 1)
    assert.isTrue(ejection.has(0))
    assert.isFalse(ejection.has(1))
  })

  it("ends the run at a success", () => {
    const ejection = new Ejection(2, never)
    for (let i = 0; i < 3; i++) {
      succeed(ejection, 1, 10)
      assert.deepStrictEqual(fail(ejection, 0, 4), [0, 0, 0, 0])
      succeed(ejection, 0, 1)
    }
  })

  it("ejects a replica of which half of the last twenty failed when the others succeed", () => {
    const ejection = new Ejection(2, never)
    for (let i = 0; i < 20; i++) {
      const time = ejection.record(0, i % 2 === 1, 0)
      assert.strictEqual(time, i < 19 ? 0 : 5000)
      succeed(ejection, 1, 5)
    }
  })

  it("lets a replica be that fails less than half the time, or not 0.3 more often than the others", () => {
    assert.deepStrictEqual(
      [4, 5].map((failing) => ejectedAfter(failing, 0) < Infinity),
      [false, true]
    )
    assert.deepStrictEqual(
      [2, 3, 4].map((othersFailing) => ejectedAfter(6, othersFailing) < Infinity),
      [true, true, false]
    )
  })

  it("needs more outcomes when the rates are nearer", () => {
    assert.isAtMost(ejectedAfter(6, 0), 25)
    assert.isAtLeast(ejectedAfter(6, 2), 45)
  })

  it("forgets outcomes after ten seconds, but not within five", () => {
    for (const [first, second, ejected] of [
      [0, 4999, true],
      [4999, 9999, true],
      [0, 10_000, false],
      [0, 1_000_000, false]
    ] as const) {
      const ejection = new Ejection(2, never)
      const times: Array<number> = []
      for (const replica of [0, 1]) ejection.record(replica, false, 0)
      for (const now of [first, second]) {
        succeed(ejection, 1, 50, now)
        for (let i = 0; i < 16; i++) times.push(ejection.record(0, i % 4 !== 0, now))
      }
      assert.strictEqual(
        times.some((time) => time > 0),
        ejected,
        `${first} ${second}`
      )
    }
  })

  it("never ejects the only replica, nor one of which the others have done nothing", () => {
    const alone = new Ejection(1, never)
    assert.deepStrictEqual(new Set(fail(alone, 0, 1000)), new Set([0]))
    const idle = new Ejection(5, never)
    assert.deepStrictEqual(new Set(fail(idle, 0, 1000)), new Set([0]))
    succeed(idle, 1, 1)
    assert.strictEqual(idle.record(0, true, 0), 5000)
  })

  it("ejects for twice as long each time, up to 5 minutes", () => {
    const ejection = new Ejection(2, never)
    let now = 0
    for (const time of [5, 10, 20, 40, 80, 160, 300, 300, 300]) {
      assert.strictEqual(failAlone(ejection, now), time * 1000)
      now += time * 1000
      ejection.readmit(0, now)
    }
  })

  it("takes one doubling back for each time that a replica stayed in service as long as it was ejected", () => {
    assert.deepStrictEqual(
      [0, 0.99, 1, 1.99, 2, 3, 1000].map(fourthAfter),
      [40_000, 40_000, 20_000, 20_000, 10_000, 5000, 5000]
    )
  })

  it("has it made up for after half an hour, however often it was ejected", () => {
    const ejection = new Ejection(2, never)
    let now = 0
    for (let i = 0; i < 50; i++) {
      now += failAlone(ejection, now)
      ejection.readmit(0, now)
    }
    assert.strictEqual(failAlone(ejection, now + 6 * 300_000), 5000)
  })

  it("ejects for up to a fifth longer, so that replicas don't come back together", () => {
    assert.strictEqual(failAlone(new Ejection(2, () => 0.5), 0), 5500)
    assert.strictEqual(failAlone(new Ejection(2, () => 0.999), 0), 5999)
  })

  it("ignores requests that end while their replica is ejected", () => {
    const ejection = new Ejection(4, never)
    failAlone(ejection, 0)
    assert.deepStrictEqual(new Set(fail(ejection, 0, 1000, 1)), new Set([0]))
    assert.strictEqual(ejection.size, 1)
    // Nor do they make the failures of another one look common.
    fail(ejection, 2, 4, 1)
    fail(ejection, 0, 1000, 1)
    succeed(ejection, 1, 20, 1)
    assert.isAbove(ejection.record(2, true, 1), 0)
  })

  it("starts a readmitted replica with no run and an empty window", () => {
    const ejection = new Ejection(2, never)
    failAlone(ejection, 0)
    ejection.readmit(0, 5000)
    assert.strictEqual(ejection.size, 0)
    assert.strictEqual(failAlone(ejection, 5000), 10_000)
    ejection.readmit(0, 15_000)
    for (let i = 0; i < 20; i++) {
      assert.strictEqual(ejection.record(0, i % 2 === 1, 15_000), i < 19 ? 0 : 20_000)
      succeed(ejection, 1, 5, 15_000)
    }
  })

  it("forgets a replica that is replaced", () => {
    const ejection = new Ejection(4, never)
    failAlone(ejection, 0)
    ejection.renew(0)
    assert.strictEqual(ejection.size, 0)
    assert.isFalse(ejection.has(0))
    assert.strictEqual(failAlone(ejection, 1), 5000, "the first ejection of the new one")
    ejection.renew(0)
    fail(ejection, 0, 4, 2)
    ejection.renew(0)
    assert.strictEqual(failAlone(ejection, 2), 5000, "the run of the new one")
    ejection.renew(3)
    assert.strictEqual(ejection.size, 1)
  })

  it("takes no capacity away when a database fails that all replicas use", () => {
    for (const replicas of [2, 3, 10]) {
      const ejection = new Ejection(replicas, never)
      for (let i = 0; i < 10_000; i++) assert.strictEqual(ejection.record(i % replicas, i > 5000, i), 0)
    }
  })

  it("takes no capacity away from a replica that is readmitted while the database fails", () => {
    const ejection = new Ejection(2, never)
    failAlone(ejection, 0)
    succeed(ejection, 1, 1000, 4000)
    fail(ejection, 1, 200, 4500)
    ejection.readmit(0, 5000)
    for (let i = 0; i < 100; i++) {
      assert.strictEqual(ejection.record(i % 2, true, 5000 + i), 0)
    }
  })

  it.effect.prop(
    "takes next to no capacity away when requests fail everywhere alike, at whatever rate",
    [
      Schema.Literals([2, 3, 10]),
      Schema.Literals([3, 30, 300]),
      Schema.Literals([0.05, 0.2, 0.5, 0.8, 0.95]),
      Schema.Literals([1e9, 20_000])
    ],
    Effect.fnUntraced(function* ([replicas, perSecond, failing, period]) {
      const { lost } = simulate({
        replicas,
        perSecond,
        seconds: 30_000 / perSecond,
        random: yield* nextDouble,
        rate: (_, now) => (now % (2 * period) < period ? failing : 0.01)
      })
      assert.isBelow(lost, 0.02)
    }, Random.withSeed("alike")),
    { arbitrary: { runs: 60, size: 20, seed: 1 } }
  )

  it.effect("takes no capacity away from two busy replicas of which most requests fail", () =>
    Effect.gen(function* () {
      const random = yield* nextDouble
      const { lost } = simulate({ replicas: 2, perSecond: 1000, seconds: 600, random, rate: () => 0.8 })
      assert.strictEqual(lost, 0)
    }).pipe(Random.withSeed("busy"))
  )

  it.effect.prop(
    "soon ejects a replica that fails more than the others, and not the others",
    [Schema.Literals([2, 4, 10]), Schema.Literals([3, 30, 300]), upTo(2)],
    Effect.fnUntraced(function* ([replicas, perSecond, at]) {
      const { after, bad, good } = outliers[at]!
      const { firstEjectedAfter } = simulate({
        replicas,
        perSecond,
        seconds: (after * replicas * 2) / perSecond,
        random: yield* nextDouble,
        rate: (replica) => (replica === 0 ? bad : good)
      })
      assert.isAtMost(firstEjectedAfter[0], after)
      for (const other of firstEjectedAfter.slice(1)) assert.strictEqual(other, Infinity)
    }, Random.withSeed("outlier")),
    { arbitrary: { runs: 60, size: 20, seed: 1 } }
  )

  it.effect("keeps a replica that fails in a millisecond from attracting the load", () =>
    Effect.gen(function* () {
      const random = yield* nextDouble
      const shareOf = (ejects: boolean) => {
        const loads = Array.makeBy(10, () => ({ ongoing: 0, limit: 5, warmFrom: -Infinity }))
        const balancer = new Balancer(loads, random)
        const ejection = new Ejection(10, random)
        const limit = (replica: number, limit: number) => {
          loads[replica]!.limit = limit
          balancer.update(replica)
        }
        const clients = Array.makeBy(40, () => ({ replica: -1, endsAt: 0 }))
        let readmitAt = Infinity
        let sent = 0
        let wasted = 0
        for (let now = 0; now < 60_000; now++) {
          if (now >= readmitAt) {
            readmitAt = Infinity
            ejection.readmit(0, now)
            limit(0, 5)
          }
          for (const client of clients) {
            const { replica } = client
            if (replica !== -1 && now < client.endsAt) continue
            if (replica !== -1) {
              loads[replica]!.ongoing--
              balancer.update(replica)
              const time = ejects ? ejection.record(replica, replica === 0, now) : 0
              if (time > 0) {
                assert.strictEqual(replica, 0)
                readmitAt = now + time
                limit(0, 0)
              }
            }
            client.replica = balancer.choose(now)
            client.endsAt = now + (client.replica === 0 ? 1 : 50 + 100 * random())
            if (client.replica === -1) continue
            loads[client.replica]!.ongoing++
            balancer.update(client.replica)
            sent++
            if (client.replica === 0) wasted++
          }
        }
        return wasted / sent
      }
      assert.isAbove(shareOf(false), 0.3)
      assert.isBelow(shareOf(true), 0.02)
    }).pipe(Random.withSeed("sinkhole"))
  )
})
