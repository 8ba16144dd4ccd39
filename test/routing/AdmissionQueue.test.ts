/**
 * Seen red ("agrees with a list") for each of these mutations: `offer` admits one too many; `restore` puts a waiter at
 * the end, or always in front; `cancel` doesn't mend `last` or a neighbour, or keeps the waiter's own links.
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { AdmissionQueue, type Waiter } from "../../src/routing/AdmissionQueue.ts"

let guests = 0

class Guest implements Waiter<Guest> {
  /** The order in which they came. */
  turn = guests++
  ahead: Guest | undefined = undefined
  behind: Guest | undefined = undefined
}

const Operation = Schema.Struct({
  name: Schema.Literals(["offer", "offer", "offer", "next", "cancel", "restore"]),
  at: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 999 }))
})
const Operations = Schema.Array(Operation).check(Schema.isMaxLength(60))
const Bound = Schema.Literals([0, 1, 2, 5, 20, 1000])

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
            const guest = new Guest()
            const fits = line.length < maxSize
            assert.strictEqual(queue.offer(guest), fits)
            if (fits) line.push(guest)
            break
          }
          case "next": {
            const guest = line.shift()
            assert.strictEqual(queue.next(), guest)
            if (guest !== undefined) served.push(guest)
            break
          }
          case "cancel": {
            if (line.length === 0) break
            const [guest] = line.splice(at % line.length, 1)
            queue.cancel(guest!)
            assert.isTrue(guest!.ahead === undefined && guest!.behind === undefined)
            break
          }
          case "restore": {
            // Several may be given back, in any order, while others are still served.
            const [guest] = served.splice(at % Math.max(served.length, 1), 1)
            if (guest === undefined) break
            queue.restore(guest)
            line.push(guest)
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
