/**
 * Seen red ("grants what no window forbids") for each of these mutations: only the last ten slots as a whole are looked
 * at, as Finagle does; only nine are; old slots aren't cleared, one too few is, or only one; `withdraw` doesn't move to the
 * present slot; a retry costs 4 requests, or one request too many is asked for. Two make it run for ever: a retry costs
 * nothing, and every second of a gap is a step.
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { RetryBudget } from "../../src/routing/RetryBudget.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Operations = Schema.Array(
  Schema.Struct({
    gap: Schema.Union([upTo(3), upTo(1500), upTo(1500), upTo(12_000), upTo(10 ** 12)]),
    requests: Schema.Union([upTo(6), upTo(900)]),
    withdrawals: Schema.Union([upTo(6), upTo(250)])
  })
).check(Schema.isMaxLength(40))
const Start = Schema.Union([Schema.Literals([0, 999, 1000, 1_700_000_000_000]), upTo(2 ** 41)])

/** Everything that happened, by second. */
class Ledger {
  private readonly seconds = new Map<number, { requests: number; withdrawals: number }>()

  at(now: number) {
    const second = Math.floor(now / 1000)
    const sums = this.seconds.get(second) ?? { requests: 0, withdrawals: 0 }
    this.seconds.set(second, sums)
    return sums
  }

  /** Withdrawals that the seconds from `first` to `last` still allow. */
  left(first: number, last: number) {
    let left = 100
    for (let second = first; second <= last; second++) {
      const sums = this.seconds.get(second)
      if (sums !== undefined) left += sums.requests / 5 - sums.withdrawals
    }
    return left
  }

  /** The least that a window which `now` lies in allows, if no more requests come. */
  leastLeft(now: number) {
    const last = Math.floor(now / 1000)
    return Math.min(...Array.from({ length: 10 }, (_, age) => this.left(last - age, last)))
  }

  get windows() {
    return Array.from(this.seconds.keys()).flatMap((second) =>
      Array.from({ length: 10 }, (_, age) => this.left(second - age, second - age + 9))
    )
  }
}

const withdrawAll = (budget: RetryBudget, now: number) => {
  let granted = 0
  while (budget.withdraw(now)) granted++
  return granted
}

describe("RetryBudget", () => {
  it.prop(
    "grants what no window of ten whole seconds forbids, and nothing more",
    [Start, Operations],
    ([start, operations]) => {
      const budget = new RetryBudget()
      const ledger = new Ledger()
      let now = start
      for (const { gap, requests, withdrawals } of operations) {
        now += gap
        const sums = ledger.at(now)
        for (let i = 0; i < requests; i++) budget.request(now)
        sums.requests += requests
        const left = Math.max(Math.floor(ledger.leastLeft(now) + 1e-6), 0)
        let granted = 0
        for (let i = 0; i < withdrawals; i++) if (budget.withdraw(now)) granted++
        sums.withdrawals += granted
        assert.strictEqual(granted, Math.min(withdrawals, left))
      }
      for (const left of ledger.windows) assert.isAtLeast(left, -1e-6)
    },
    { arbitrary: { runs: 1000, size: 40, seed: 1 } }
  )

  it("grants a hundred without any request, and again when ten seconds have passed", () => {
    const budget = new RetryBudget()
    assert.strictEqual(withdrawAll(budget, 500), 100)
    assert.strictEqual(withdrawAll(budget, 9999), 0)
    assert.strictEqual(withdrawAll(budget, 10_000), 100)
  })

  it("grants a fifth of the requests more", () => {
    const budget = new RetryBudget()
    for (let i = 0; i < 50; i++) budget.request(0)
    assert.strictEqual(withdrawAll(budget, 999), 110)
    for (let i = 0; i < 4; i++) budget.request(999)
    assert.isFalse(budget.withdraw(999))
    budget.request(999)
    assert.isTrue(budget.withdraw(999))
    assert.isFalse(budget.withdraw(999))
  })

  it("keeps retries at a fifth of a steady stream of requests, besides the reserve", () => {
    const budget = new RetryBudget()
    const granted = [0, 0, 0, 0, 0, 0]
    for (let now = 0; now < 60_000; now++) {
      budget.request(now)
      if (budget.withdraw(now)) granted[Math.floor(now / 10_000)]!++
    }
    for (const count of granted) assert.isAtMost(Math.abs(count - 2100), 5, String(granted))
  })

  it("takes the same time after an idle gap of any length", () => {
    const budget = new RetryBudget()
    for (const now of [0, 2 ** 40, 2 ** 52]) {
      for (let i = 0; i < 1000; i++) budget.request(now)
      assert.strictEqual(withdrawAll(budget, now), 300)
    }
  })

  it("counts what is timed before the present second in it", () => {
    const budget = new RetryBudget()
    assert.strictEqual(withdrawAll(budget, 20_000), 100)
    assert.isFalse(budget.withdraw(3000))
    for (let i = 0; i < 5; i++) budget.request(3000)
    assert.isTrue(budget.withdraw(20_000))
  })
})
