/**
 * Seen red ("agrees with a list") for each of these mutations: `offer` admits one too many; `restore` puts a waiter at
 * the end, or always in front, or steps over gaps wrongly; `cancel` leaves the first spot empty; `makeRoom` keeps old
 * spots or never lengthens the ring; `clear` keeps the span.
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { AdmissionQueue, type Waiter } from "../../src/routing/AdmissionQueue.ts"

let guests = 0

class Guest implements Waiter {
  /** The order in which they came. */
  turn = guests++
  spot = 0
}

const Operation = Schema.Struct({
  name: Schema.Literals(["offer", "offer", "next", "next", "cancel", "restore"]),
  at: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 999 }))
})
const Operations = Schema.Array(Operation).check(Schema.isMaxLength(60))
const Bound = Schema.Literals([0, 1, 2, 5, 20, 1000, 5000])

describe("AdmissionQueue", () => {
  it.prop(
    "agrees with a list that is sorted by turn",
    [Bound, Operations],
    ([maxSize, operations]) => {
      const queue = new AdmissionQueue<Guest>(maxSize)
      const line: Array<Guest> = []
      const served: Array<Guest> = []
      for (const { at, name } of operations) {
        switch (name) {
          case "offer": {
            for (let i = 0; i <= at % 100; i++) {
              const guest = new Guest()
              const fits = line.length < maxSize
              assert.strictEqual(queue.offer(guest), fits)
              if (fits) line.push(guest)
            }
            break
          }
          case "next": {
            for (let i = 0; i <= at % 4; i++) {
              const guest = line.shift()
              assert.strictEqual(queue.next(), guest)
              if (guest !== undefined) served.push(guest)
            }
            break
          }
          case "cancel": {
            // One of the first, one of all, everyone, or every third.
            const one = at % (at < 250 ? Math.min(line.length, 5) : line.length)
            const leaving = line.filter((_, i) => (at < 500 ? i === one : at < 550 || i % 3 === 0))
            for (const guest of leaving) {
              queue.cancel(guest)
              line.splice(line.indexOf(guest), 1)
            }
            break
          }
          case "restore": {
            // Several may be given back, in any order, while others are still served.
            for (let i = 0; i <= at % 4; i++) {
              const [guest] = served.splice(at % Math.max(served.length, 1), 1)
              if (guest === undefined) break
              queue.restore(guest)
              line.push(guest)
            }
            line.sort((one, other) => one.turn - other.turn)
          }
        }
        assert.strictEqual(queue.size, line.length)
        const standing = Array.from(queue)
        assert.isTrue(standing.length === line.length && standing.every((guest, i) => guest === line[i]))
      }
    },
    { arbitrary: { runs: 500, size: 60, seed: 1 } }
  )

  it("says how long the line may get", () => {
    assert.strictEqual(new AdmissionQueue<Guest>(7).maxSize, 7)
  })
})
