/**
 * Seen red ("agrees with a list") for each of these mutations: of equal deadlines the last comes first; the one that
 * fills a gap doesn't rise, doesn't sink, or sinks to the left; spots aren't kept; the last is removed like any other.
 * Sorting at each addition: "looks at some". Only one leaf is looked at for the last: "has a last".
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { type Dated, EarliestFirst } from "../../src/admission/EarliestFirst.ts"
import { Guest } from "./guests.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Operations = Schema.Array(
  Schema.Struct({
    name: Schema.Literals(["add", "add", "first", "last", "remove", "restore"]),
    // Few, so that many are equal.
    deadline: Schema.Union([upTo(9), upTo(99), Schema.Literals([999])]),
    at: upTo(999)
  })
).check(Schema.isMaxLength(60))

const byDeadline = (one: Dated, other: Dated) =>
  one.deadline === other.deadline ? one.turn - other.turn : one.deadline - other.deadline

describe("EarliestFirst", () => {
  it.prop(
    "agrees with a list that is sorted by deadline, and by turn where deadlines are equal",
    [Operations],
    ([operations]) => {
      const heap = new EarliestFirst<Guest>()
      const list: Array<Guest> = []
      const taken: Array<Guest> = []
      const take = (guest: Guest | undefined) => {
        if (guest === undefined) return
        heap.remove(guest)
        list.splice(list.indexOf(guest), 1)
        taken.push(guest)
      }
      const put = (guest: Guest, how: "add" | "restore") => {
        heap[how](guest)
        list.push(guest)
        list.sort(byDeadline)
      }
      for (const { at, deadline, name } of operations) {
        switch (name) {
          case "add": {
            for (let i = 0; i <= at % 20; i++) {
              put(new Guest({ deadline: deadline === 999 ? Infinity : (deadline * (i + 1)) % 100 }), name)
            }
            break
          }
          case "first":
          case "last": {
            for (let i = 0; i <= at % 4; i++) {
              assert.strictEqual(heap.first, list[0])
              take(heap[name])
            }
            break
          }
          case "remove": {
            for (let i = 0; i <= at % 4; i++) take(list[at % Math.max(list.length, 1)])
            break
          }
          case "restore": {
            for (let i = 0; i <= at % 4; i++) {
              const [guest] = taken.splice(at % Math.max(taken.length, 1), 1)
              if (guest !== undefined) put(guest, name)
            }
          }
        }
        assert.strictEqual(heap.size, list.length)
        assert.strictEqual(heap.first, list[0])
        assert.deepStrictEqual(Array.from(heap).toSorted(byDeadline), list)
        if (list.length > 1) assert.isAbove(list.indexOf(heap.last!), 0, "the last is not the first")
        else assert.strictEqual(heap.last, list[0])
      }
      for (const guest of list) {
        assert.strictEqual(heap.first, guest)
        heap.remove(guest)
      }
    },
    { arbitrary: { runs: 200, size: 60, seed: 1 } }
  )

  it("has a last that is later than most", () => {
    for (const seed of [1, 7919, 104_729]) {
      const heap = new EarliestFirst<Guest>()
      for (let i = 0; i < 1000; i++) heap.add(new Guest({ deadline: (i * seed) % 1009 }))
      assert.isAbove(heap.last!.deadline, 750, String(seed))
    }
  })

  it("looks at some of those who wait and not at all of them", () => {
    let looks = 0
    class Seen extends Guest {
      readonly when: number
      constructor(deadline: number) {
        super()
        this.when = deadline
        Object.defineProperty(this, "deadline", { get: () => (looks++, deadline) })
      }
    }
    const waiting = 2000
    const heap = new EarliestFirst<Seen>()
    const guests = Array.from({ length: waiting }, (_, i) => new Seen((i * 7919) % waiting))
    const most = (act: (guest: Seen) => void) =>
      guests.reduce((most, guest) => {
        looks = 0
        act(guest)
        return Math.max(most, looks)
      }, 0)
    // Down all levels, with two to compare at each, each of which looks at no more than four deadlines.
    const levels = Math.ceil(Math.log2(waiting))
    assert.isAtMost(
      most((guest) => heap.add(guest)),
      4 * levels
    )
    assert.isAtMost(
      most((guest) => heap.remove(guest)),
      8 * levels
    )
  })
})
