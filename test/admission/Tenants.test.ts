/**
 * Seen red for each of these mutations: a turn isn't paid for, is paid for after it was given back ("charges nothing"),
 * or what is left of it is lost ("gives each tenant its share"); the quantum is the last cost, outlives an empty class, or never shrinks
 * ("forgets"); the first turn is three ("gives each tenant its turn") or none ("one who sends a request at a
 * time"); a turn is worth what the next request costs ("works no more"); an empty lane stays in the map or in the round
 * ("is none once", "is one of the tenant"); the longest never falls, or lanes are kept at their old sizes, or a tenant
 * makes room for one that is as long ("is one of the tenant"); each lane expects the whole rate ("expects each lane");
 * a newcomer waits for all of every tenant, or for none ("lies between"). A restored one that is added at the end:
 * AdmissionQueue.test.ts.
 */
import { assert, describe, it } from "@effect/vitest"
import { Array as Arr, Effect, Random, Schema } from "effect"
import type { Discipline } from "../../src/admission/Lane.ts"
import { Tenants } from "../../src/admission/Tenants.ts"
import { Guest } from "./guests.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

const service = { standsAfter: () => 100, rate: () => 0.01 }

/** The tenants of one class; a request takes as many milliseconds as its method says. */
const tenantsOf = (discipline: Discipline = "fifo") => new Tenants<Guest>(discipline, service, ({ method }) => method)

const guests = (count: number, tenant: string, method = 1) => Arr.makeBy(count, () => new Guest({ tenant, method }))

const add = (tenants: Tenants<Guest>, ...all: ReadonlyArray<Guest>) => {
  for (const guest of all) tenants.add(guest, 0)
}

const take = (tenants: Tenants<Guest>, count: number) => Arr.makeBy(count, () => tenants.take(0)!)

const namesOf = (all: ReadonlyArray<Guest>) => all.map(({ tenant }) => tenant).join("")

const waitingOf = (tenants: Tenants<Guest>, tenant: string) => tenants.laneOf(new Guest({ tenant }))?.size ?? 0

const jain = (values: ReadonlyArray<number>) =>
  values.reduce((sum, value) => sum + value, 0) ** 2 /
  (values.length * values.reduce((sum, value) => sum + value ** 2, 0))

/** At worst of all windows, how far a tenant is from its share of the work, in milliseconds. */
const worst = (served: ReadonlyArray<Guest>, names: ReadonlyArray<string>) => {
  const work = [names.map(() => 0)]
  for (const { method, tenant } of served) {
    work.push(work.at(-1)!.map((sum, i) => (names[i] === tenant ? sum + method : sum)))
  }
  /** Between two rounds, or at the very start. */
  const isBetween = (at: number) => served[at]?.tenant === names[0] && served[at - 1]?.tenant !== names[0]
  let inAny = 0
  let inRounds = 0
  for (let from = 0; from < work.length; from++) {
    for (let until = from + 1; until < work.length; until++) {
      const parts = names.map((_, i) => work[until]![i]! - work[from]![i]!)
      const share = parts.reduce((sum, part) => sum + part, 0) / parts.length
      const most = Math.max(...parts.map((part) => Math.abs(part - share)))
      inAny = Math.max(inAny, most)
      if (isBetween(from) && isBetween(until)) inRounds = Math.max(inRounds, most)
    }
  }
  return { inAny, inRounds }
}

const workOf = (served: ReadonlyArray<Guest>, name: string) =>
  served.reduce((sum, { method, tenant }) => (tenant === name ? sum + method : sum), 0)

describe("Tenants", () => {
  describe("take", () => {
    it("gives each tenant its turn, and keeps the order of its own requests", () => {
      const tenants = tenantsOf()
      const [a, b, c] = [guests(3, "a"), guests(1, "b"), guests(2, "c")]
      add(tenants, ...a, ...b, ...c)
      const served = take(tenants, 6)
      assert.strictEqual(namesOf(served), "abcaca")
      assert.deepStrictEqual(
        served.filter(({ tenant }) => tenant === "a"),
        a
      )
      assert.isUndefined(tenants.take(0))
    })

    it("counts those without a tenant as one tenant", () => {
      const tenants = tenantsOf()
      add(tenants, ...guests(3, "a"), ...Arr.makeBy(3, () => new Guest({ method: 1 })))
      assert.deepStrictEqual(
        take(tenants, 4).map(({ tenant }) => tenant),
        ["a", undefined, "a", undefined]
      )
    })

    it.effect.prop(
      "gives each tenant its share of the work within the dearest request over any rounds, within two over any window",
      [
        Schema.Array(Schema.Struct({ dearest: Schema.Literals([1, 7, 10, 30, 100]), differ: Schema.Boolean })).check(
          Schema.isMinLength(2),
          Schema.isMaxLength(5)
        )
      ],
      Effect.fnUntraced(function* ([lots]) {
        const tenants = tenantsOf()
        const names = lots.map((_, i) => String(i))
        for (let i = 0; i < 100; i++) {
          for (const [name, { dearest, differ }] of lots.entries()) {
            const cost = differ && i > 0 ? yield* Random.nextIntBetween(1, dearest + 1) : dearest
            add(tenants, ...guests(1, String(name), cost))
          }
        }
        const quantum = Math.max(...lots.map(({ dearest }) => dearest))
        const served: Array<Guest> = []
        while (served.length < 250 && names.every((name) => waitingOf(tenants, name) > 0)) {
          served.push(...take(tenants, 1))
        }
        // In the first round, what the dearest request takes is not known yet.
        const { inAny, inRounds } = worst(served.slice(50), names)
        assert.isAtMost(inRounds, quantum)
        assert.isAtMost(inAny, 2 * quantum)
        const work = names.map((name) => workOf(served, name))
        if (Math.min(...work) > 10 * quantum) assert.isAtLeast(jain(work), 0.99, String(work))
      }, Random.withSeed("work")),
      { arbitrary: { runs: 20, size: 20, seed: 1 } }
    )

    it("gives equal tenants equal work, to one request, over any window", () => {
      const tenants = tenantsOf()
      const names = ["a", "b", "c", "d", "e"]
      for (const [i, name] of names.entries()) add(tenants, ...guests(60 + 20 * i, name, 30))
      const { inAny } = worst(take(tenants, 250), names)
      assert.isAtMost(inAny, 30)
    })

    it("shares out work and not requests", () => {
      const tenants = tenantsOf()
      add(tenants, ...guests(100, "a", 300), ...guests(100, "b", 100))
      const served = namesOf(take(tenants, 80))
      assert.strictEqual(served.replaceAll("b", "").length, 20)
      assert.isFalse(served.includes("aa"))
    })

    it("gives one who sends a request at a time as many turns as one who has many waiting", () => {
      const tenants = tenantsOf()
      add(tenants, ...guests(100, "a"), ...guests(1, "b"))
      const served: Array<Guest> = []
      for (let i = 0; i < 100; i++) {
        const [guest] = take(tenants, 1)
        served.push(guest)
        if (guest.tenant === "b") add(tenants, ...guests(1, "b"))
      }
      assert.strictEqual(namesOf(served), "ab".repeat(50))
    })

    it("forgets what a dear request cost once nobody waits", () => {
      const tenants = tenantsOf()
      add(tenants, ...guests(1, "c", 300))
      take(tenants, 1)
      add(tenants, ...guests(20, "a"), ...guests(20, "b"))
      assert.strictEqual(namesOf(take(tenants, 40)), "ab".repeat(20))
    })

    it("forgets what a dear request cost after some rounds, also while others wait", () => {
      const tenants = tenantsOf()
      add(tenants, ...guests(1, "a", 300), ...guests(1, "b", 300))
      add(tenants, ...guests(8000, "a"), ...guests(8000, "b"))
      take(tenants, 15_000)
      assert.include(["ab".repeat(10), "ba".repeat(10)], namesOf(take(tenants, 20)))
    })

    it("gives one who was away no more than its share from then on", () => {
      const tenants = tenantsOf()
      add(tenants, ...guests(300, "a"), ...guests(10, "b"))
      take(tenants, 220)
      add(tenants, ...guests(50, "b"))
      assert.strictEqual(namesOf(take(tenants, 60)).replaceAll("a", "").length, 30)
    })

    it("doesn't let a dear request wait for longer than one turn of the others", () => {
      const tenants = tenantsOf()
      add(tenants, ...guests(50, "a", 1), ...guests(50, "b", 1))
      take(tenants, 4)
      add(tenants, ...guests(5, "c", 20))
      const served = namesOf(take(tenants, 60))
      assert.isAtMost(served.indexOf("c"), 2)
      assert.isAtLeast(served.replaceAll(/[^c]/g, "").length, 2)
    })

    it("charges nothing for a turn that was given back", () => {
      const tenants = tenantsOf()
      add(tenants, ...guests(60, "a", 10), ...guests(60, "b", 10))
      const served: Array<Guest> = []
      let back = 0
      while (served.length < 60) {
        const [guest] = take(tenants, 1)
        if (guest.tenant === "b" && back++ % 3 < 2) tenants.restore(guest, 0)
        else served.push(guest)
      }
      assert.isAtMost(Math.abs(namesOf(served).replaceAll("a", "").length - 30), 1)
      assert.deepStrictEqual(
        served,
        served.toSorted((one, other) => (one.tenant === other.tenant ? one.turn - other.turn : 0))
      )
    })

    it("works no more for many tenants than for few", () => {
      for (const count of [3, 3000]) {
        let looks = 0
        const tenants = new Tenants<Guest>("fifo", service, ({ method }) => (looks++, method))
        for (let round = 0; round < 4; round++) {
          for (let i = 0; i < count; i++) add(tenants, ...guests(1, String(i), 1 + ((i + round) % 5)))
        }
        while (tenants.take(0) !== undefined);
        // One to add it, one to take it, and one for each turn of its tenant.
        assert.isAtMost(looks, 3 * 4 * count, String(count))
      }
    })
  })

  describe("victim", () => {
    it.prop(
      "is one of the tenant with the most waiting, and the lanes are those with someone waiting",
      [
        Schema.Array(
          Schema.Struct({
            name: Schema.Literals(["add", "add", "add", "take", "remove", "restore"]),
            tenant: upTo(5),
            at: upTo(999)
          })
        ).check(Schema.isMaxLength(80))
      ],
      ([operations]) => {
        const tenants = tenantsOf()
        const waiting: Array<Guest> = []
        const taken: Array<Guest> = []
        const takeOut = (guest: Guest) => waiting.splice(waiting.indexOf(guest), 1)
        for (const { at, name, tenant } of operations) {
          switch (name) {
            case "add": {
              const some = guests(1 + (at % 3), String(tenant), 1 + (at % 7))
              add(tenants, ...some)
              waiting.push(...some)
              break
            }
            case "take": {
              const guest = tenants.take(0)
              assert.strictEqual(guest === undefined, waiting.length === 0)
              if (guest === undefined) break
              taken.push(guest)
              takeOut(guest)
              break
            }
            case "remove": {
              const guest = waiting[at % Math.max(waiting.length, 1)]
              if (guest === undefined) break
              tenants.remove(guest, 0)
              takeOut(guest)
              break
            }
            case "restore": {
              const [guest] = taken.splice(at % Math.max(taken.length, 1), 1)
              if (guest === undefined) break
              tenants.restore(guest, 0)
              waiting.push(guest)
            }
          }
          const counts = new Map<string, number>()
          for (const { tenant } of waiting) counts.set(tenant!, (counts.get(tenant!) ?? 0) + 1)
          const most = Math.max(0, ...counts.values())
          const victim = tenants.victim(0)
          assert.strictEqual(tenants.size, waiting.length)
          waiting.sort((one, other) => one.turn - other.turn)
          const standing = Array.from(tenants).toSorted((one, other) => one.turn - other.turn)
          assert.isTrue(standing.length === waiting.length && standing.every((guest, i) => guest === waiting[i]))
          assert.strictEqual(victim === undefined ? 0 : counts.get(victim.tenant!), most)
          for (let i = 0; i <= 6; i++) {
            const own = counts.get(String(i)) ?? 0
            const newcomer = new Guest({ tenant: String(i) })
            assert.strictEqual(tenants.laneOf(newcomer)?.size ?? 0, own)
            assert.strictEqual(tenants.laneOf(newcomer) === undefined, own === 0, "no lane without requests")
            assert.strictEqual(tenants.victimFor(newcomer, 0), own + 1 < most ? victim : undefined)
          }
        }
      },
      { arbitrary: { runs: 150, size: 80, seed: 1 } }
    )

    it("is the newest of its tenant while the queue is healthy, and the oldest while it stands", () => {
      const tenants = tenantsOf("adaptive")
      const [a, b] = [guests(20, "a"), guests(3, "b")]
      for (const guest of [...a, ...b]) tenants.laneOf(guest)?.come()
      add(tenants, ...a, ...b)
      assert.strictEqual(tenants.victim(0), a.at(-1))
      for (const guest of a) tenants.laneOf(guest)!.come()
      assert.strictEqual(tenants.victim(100), a.at(-1))
      assert.isFalse(tenants.isStanding(100))
      assert.strictEqual(tenants.victim(101), a[0])
      assert.isTrue(tenants.isStanding(101))
    })
  })

  describe("laneOf", () => {
    it("expects each lane to be served at its share of the rate", () => {
      const tenants = tenantsOf()
      for (const [i, name] of ["a", "b", "c", "d"].entries()) {
        add(tenants, ...guests(2, name))
        assert.approximately(tenants.laneOf(new Guest({ tenant: "a" }))!.rate(0), 0.01 / (i + 1), 1e-9)
      }
    })

    it("is none once all of a tenant's requests have left, however they leave", () => {
      const tenants = tenantsOf()
      for (let i = 0; i < 100; i++) {
        const [one, other] = [...guests(1, `one ${i}`), ...guests(1, `other ${i}`)] as [Guest, Guest]
        add(tenants, one, other)
        tenants.remove(other, 0)
        assert.strictEqual(tenants.take(0), one)
        tenants.restore(one, 0)
        assert.strictEqual(tenants.take(0), one)
        for (const guest of [one, other]) assert.isUndefined(tenants.laneOf(guest))
      }
      assert.strictEqual(tenants.size, 0)
      assert.deepStrictEqual(Array.from(tenants), [])
      assert.isUndefined(tenants.victim(0))
    })
  })

  describe("ahead", () => {
    it("lies between the tenant's own requests and as many of every tenant", () => {
      const tenants = tenantsOf()
      add(tenants, ...guests(10, "a"), ...guests(500, "b"), ...guests(1, "c"))
      assert.strictEqual(tenants.ahead(new Guest({ tenant: "a" }), 0), 20)
      assert.isAtMost(tenants.ahead(new Guest({ tenant: "d" }), 0), 3)
    })
  })
})
