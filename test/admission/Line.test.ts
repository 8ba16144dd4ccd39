/**
 * Seen red ("agrees with a list") for each of these mutations: `restore` puts a waiter at the end, or always in front, or
 * steps over gaps wrongly; `remove` leaves the first or the last spot empty; `makeRoom` keeps old spots or never lengthens
 * the ring; `clear` keeps the span.
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Line, type Standing } from "../../src/admission/Line.ts"

let guests = 0

class Guest implements Standing {
  /** The order in which they came. */
  turn = guests++
  spot = 0
}

const Operation = Schema.Struct({
  name: Schema.Literals(["add", "add", "first", "last", "remove", "restore"]),
  at: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 999 }))
})
const Operations = Schema.Array(Operation).check(Schema.isMaxLength(60))

describe("Line", () => {
  it.prop(
    "agrees with a list that is sorted by turn",
    [Operations],
    ([operations]) => {
      const line = new Line<Guest>()
      const list: Array<Guest> = []
      const taken: Array<Guest> = []
      const take = (guest: Guest | undefined) => {
        if (guest === undefined) return
        line.remove(guest)
        list.splice(list.indexOf(guest), 1)
        taken.push(guest)
      }
      for (const { at, name } of operations) {
        switch (name) {
          case "add": {
            for (let i = 0; i <= at % 100; i++) {
              const guest = new Guest()
              line.add(guest)
              list.push(guest)
            }
            break
          }
          case "first":
          case "last": {
            for (let i = 0; i <= at % 4; i++) {
              assert.strictEqual(line.first, list[0])
              assert.strictEqual(line.last, list.at(-1))
              take(line[name])
            }
            break
          }
          case "remove": {
            // One of the first or of the last, one of all, everyone, or every third.
            const some = Math.min(list.length, 5)
            const one = at < 125 ? at % some : at < 250 ? list.length - 1 - (at % some) : at % list.length
            const leaving = list.filter((_, i) => (at < 500 ? i === one : at < 550 || i % 3 === 0))
            for (const guest of leaving) {
              line.remove(guest)
              list.splice(list.indexOf(guest), 1)
            }
            break
          }
          case "restore": {
            // Several may be given back, in any order, while others are still taken.
            for (let i = 0; i <= at % 4; i++) {
              const [guest] = taken.splice(at % Math.max(taken.length, 1), 1)
              if (guest === undefined) break
              line.restore(guest)
              list.push(guest)
            }
            list.sort((one, other) => one.turn - other.turn)
          }
        }
        assert.strictEqual(line.size, list.length)
        assert.strictEqual(line.first, list[0])
        assert.strictEqual(line.last, list.at(-1))
        const standing = Array.from(line)
        assert.isTrue(standing.length === list.length && standing.every((guest, i) => guest === list[i]))
      }
    },
    { arbitrary: { runs: 500, size: 60, seed: 1 } }
  )
})
