/**
 * Seen red ("strikes each deadline once") for each of these mutations: an element strikes when its slot should be spread
 * over finer wheels; a slot that begins now waits; `remove` takes the wrong slot. Two make it run for ever: time doesn't
 * move while slots are spread, and a neighbour keeps its link. Not moving time when nothing strikes stays green: it
 * costs steps and breaks nothing.
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Deadlines, type Timed } from "../../src/admission/Deadlines.ts"

class Bomb implements Timed<Bomb> {
  laterDeadline: Bomb | undefined = undefined
  earlierDeadline: Bomb | undefined = undefined
  due: number
  constructor(due: number) {
    this.due = due
  }
}

const HOUR = 3_600_000
const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Span = Schema.Union([
  upTo(3),
  upTo(70),
  upTo(5000),
  upTo(10 * HOUR),
  upTo(100 * 24 * HOUR),
  upTo(200 * 365 * 24 * HOUR)
])
const Operations = Schema.Array(
  Schema.Struct({
    name: Schema.Literals(["add", "add", "add", "twin", "remove", "walk", "jump"]),
    span: Span,
    at: upTo(999)
  })
).check(Schema.isMaxLength(50))
const Start = Schema.Union([Schema.Literals([0, 1, 63, 64, 4095, 1_700_000_000_000]), upTo(2 ** 41)])

/** The wheel beside a plain list, which says what must strike and when. */
const bothAt = (start: number) => {
  const deadlines = new Deadlines<Bomb>(start)
  const pending = new Set<Bomb>()
  let now = start

  const first = () => Array.from(pending).reduce((least, { due }) => Math.min(least, due), Infinity)

  const add = (deadline: number) => {
    const bomb = new Bomb(deadline)
    pending.add(bomb)
    deadlines.add(bomb)
  }
  const remove = (at: number) => {
    const bomb = Array.from(pending)[at % pending.size]
    if (bomb === undefined) return
    pending.delete(bomb)
    deadlines.remove(bomb)
  }
  const jump = (to: number) => {
    const struck: Array<number> = []
    now = to
    deadlines.advance(now, (bomb) => {
      assert.isTrue(pending.delete(bomb), "strikes only what was added, and once")
      struck.push(bomb.due)
    })
    assert.deepStrictEqual(
      struck,
      struck.toSorted((a, b) => a - b),
      "strikes in order"
    )
    assert.isTrue(
      struck.every((deadline) => deadline <= now),
      "strikes nothing early"
    )
    assert.isAbove(first(), now, "leaves nothing that is due")
    return struck
  }
  /** As the router does: sleeps until `next`, again and again. */
  const walk = (to: number) => {
    for (let wakes = 0; deadlines.next <= to; wakes++) {
      assert.isBelow(wakes, 9 * (pending.size + 1) + 100, "wakes a few times per deadline")
      const at = Math.max(deadlines.next, now)
      for (const deadline of jump(at)) assert.strictEqual(deadline, at, "strikes at its own millisecond")
    }
    jump(to)
  }
  const check = () => {
    assert.strictEqual(deadlines.size, pending.size)
    if (pending.size === 0) assert.strictEqual(deadlines.next, Infinity)
    assert.isAtMost(deadlines.next, first())
  }
  const twin = () => add(first() === Infinity ? now + 1 : first())
  return { add, twin, remove, jump, walk, check, now: () => now }
}

describe("Deadlines", () => {
  it("strikes those of one deadline in the order in which they were added, but for those that were removed", () => {
    for (const due of [5, 100, 5000, 10 * HOUR]) {
      const deadlines = new Deadlines<Bomb>(0)
      const bombs = Array.from({ length: 6 }, () => new Bomb(due))
      for (const bomb of bombs) deadlines.add(bomb)
      for (const i of [0, 3, 5]) deadlines.remove(bombs[i]!)
      const struck: Array<number> = []
      for (let now = 0; deadlines.size > 0; now = deadlines.next)
        deadlines.advance(now, (bomb) => struck.push(bombs.indexOf(bomb)))
      assert.deepStrictEqual(struck, [1, 2, 4])
    }
  })

  it.prop(
    "strikes each deadline once, in order and at its own millisecond, unless it was removed",
    [Start, Operations],
    ([start, operations]) => {
      const both = bothAt(start)
      for (const { at, name, span } of operations) {
        if (name === "add") both.add(both.now() + 1 + span)
        else if (name === "twin") both.twin()
        else if (name === "remove") both.remove(at)
        else both[name](both.now() + span)
        both.check()
      }
      both.walk(both.now() + 400 * 365 * 24 * HOUR)
      both.check()
    },
    { arbitrary: { runs: 1000, size: 50, seed: 1 } }
  )

  it("removes an element that has moved to a finer wheel", () => {
    const both = bothAt(0)
    both.add(64 * 64 + 70)
    both.add(64 * 64 + 70)
    both.add(64 * 64 + 71)
    both.jump(64 * 64 + 65)
    both.remove(1)
    both.check()
    both.remove(0)
    both.check()
    both.walk(10_000)
    both.check()
  })

  it("strikes a deadline that has passed at the next advance", () => {
    const deadlines = new Deadlines<Bomb>(1000)
    const struck: Array<number> = []
    deadlines.add(new Bomb(10))
    assert.isAtMost(deadlines.next, 1000)
    deadlines.advance(1000, ({ due }) => struck.push(due))
    assert.deepStrictEqual(struck, [10])
  })

  it("takes elements that are added or removed while others strike", () => {
    const deadlines = new Deadlines<Bomb>(0)
    const struck: Array<number> = []
    const removed = new Bomb(200)
    deadlines.add(new Bomb(100))
    deadlines.add(removed)
    deadlines.add(new Bomb(5000))
    deadlines.advance(10_000, ({ due }) => {
      struck.push(due)
      if (struck.length > 1) return
      deadlines.remove(removed)
      for (const deadline of [100, 50, 300, 20_000]) deadlines.add(new Bomb(deadline))
    })
    assert.sameMembers(struck, [100, 100, 50, 300, 5000])
    assert.strictEqual(deadlines.size, 1)
  })
})
