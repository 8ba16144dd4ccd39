/**
 * Seen red for each of these mutations ("agrees with a list"): keys are ignored; a batch of the exact size isn't full; a full
 * group waits; the wait counts from the last item; what is late at the very millisecond goes along; the item that doesn't fit
 * is lost; an idle group stays; new limits count for the batch that accumulates, or not for what is left over. In the
 * examples: the group that was ripe last is first; who leaves makes its key lose its turn; releases are never "slot"; adaptive:
 * no longest wait, no deadlines, a wait that never pays, the number of keys forgotten. Taking an emptied group out of the ripe
 * ones stays green when removed from `take`: `remove` does it again, and an empty batch is skipped.
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { BatchQueue, type Entry, type Group, type Limits } from "../../src/batching/BatchQueue.ts"
import { CostModel } from "../../src/batching/CostModel.ts"
import { range } from "./batches.ts"

let turns = 0

class Item implements Entry<Item, Item> {
  turn = turns++
  spot = 0
  group: Group<Item> | undefined = undefined
  readonly value = this
  readonly key: string
  readonly cost: number
  readonly arrivedAt: number
  readonly deadline: number

  constructor(key: string, cost = 1, arrivedAt = 0, deadline = Infinity) {
    this.key = key
    this.cost = cost
    this.arrivedAt = arrivedAt
    this.deadline = deadline
  }
}

const defaults: Limits = { maxBatchSize: 3, batchWaitTimeout: 10, maxBatchWait: 50 }

const queueOf = (limits: Partial<Limits> = {}, cost = new CostModel()) =>
  new BatchQueue<Item, number, Item>({
    limits: { ...defaults, ...limits },
    sizing: { empty: 0, add: (sum, { cost }) => sum + cost, size: (sum) => sum },
    key: ({ key }) => key,
    cost
  })

/** Puts items in line, and makes their groups ripe when they are. */
const put = (queue: BatchQueue<Item, number, Item>, now: number, ...items: ReadonlyArray<Item>) => {
  for (const item of items) {
    const group = queue.add(item, now)
    const { at, release } = queue.ripens(group, now)
    if (at <= now) queue.ripen(group, now, release)
  }
}

const adaptive = (cost: CostModel, limits: Partial<Limits> = {}) =>
  queueOf({ maxBatchSize: 32, batchWaitTimeout: "adaptive", ...limits }, cost)
/** Lets items come every few milliseconds, and takes them out. */
const arrive = (queue: BatchQueue<Item, number, Item>, gap: number, until: number) => {
  for (let now = until - 100 * gap; now < until; now += gap) {
    const item = new Item("a", 1, now)
    queue.add(item, now)
    queue.remove(item, now)
  }
}

const keys = (batch: { readonly entries: ReadonlyArray<Item> } | undefined) =>
  batch?.entries.map(({ key }) => key).join("")

/** A model that has learnt `fixed + perItem * n`. */
const taught = (fixed: number, perItem: number) => {
  const cost = new CostModel()
  for (const n of [1, 4, 2, 8, 3]) cost.record(n, fixed + perItem * n)
  return cost
}

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Operation = Schema.Struct({
  name: Schema.Literals(["add", "add", "add", "add", "remove", "next", "next", "pass", "limits", "look"]),
  at: upTo(999)
})
const Operations = Schema.Array(Operation).check(Schema.isMaxLength(80))

describe("BatchQueue", () => {
  it.prop(
    "agrees with a list of waiting items",
    [Operations],
    ([operations]) => {
      const queue = queueOf()
      let now = 0
      let limits = { ...defaults, batchWaitTimeout: 10 }
      /** Which limits the next batch of a key has. */
      const kept = new Map<string, typeof limits>()
      let list: Array<Item> = []
      const line = (key: string) => list.filter((item) => item.key === key)
      /** How many of the first items of a line fit, and whether no more do. */
      const fit = (items: ReadonlyArray<Item>, maxBatchSize: number) => {
        let sum = 0
        let count = 0
        for (const { cost } of items) {
          if (sum + cost > maxBatchSize) return { count, isFull: count > 0 }
          sum += cost
          count++
          if (sum >= maxBatchSize) return { count, isFull: true }
        }
        return { count, isFull: false }
      }
      const drop = (items: ReadonlyArray<Item>) => {
        list = list.filter((item) => !items.includes(item))
        for (const key of kept.keys()) if (line(key).length === 0) kept.delete(key)
      }
      const look = () => {
        for (const group of queue.all) {
          const { at, release } = queue.ripens(group, now)
          const { batchWaitTimeout, maxBatchSize } = kept.get(group.key as string)!
          const own = line(group.key as string)
          const { isFull } = fit(own, maxBatchSize)
          assert.deepStrictEqual(
            { at, release },
            isFull ? { at: now, release: "full" } : { at: own[0]!.arrivedAt + batchWaitTimeout, release: "timeout" }
          )
          if (at <= now) queue.ripen(group, now, release)
        }
      }
      for (const { at, name } of operations) {
        switch (name) {
          case "add": {
            const item = new Item("abc"[at % 3]!, 1 + (Math.floor(at / 3) % 2), now, at % 10 === 0 ? now + 5 : Infinity)
            if (!kept.has(item.key)) kept.set(item.key, limits)
            list.push(item)
            queue.add(item, now)
            break
          }
          case "remove": {
            const item = list[at % list.length]
            if (item === undefined) break
            queue.remove(item, now)
            drop([item])
            break
          }
          case "next": {
            look()
            const before = new Set(queue.all.filter(({ ripe }) => ripe !== undefined).map(({ key }) => key))
            const batch = queue.next(now)
            assert.strictEqual(batch !== undefined, before.size > 0)
            if (batch === undefined) break
            const key = batch.group.key as string
            assert.isTrue(before.has(key))
            const own = line(key).filter(({ deadline }) => deadline > now)
            const { count } = fit(own, kept.get(key)!.maxBatchSize)
            assert.isTrue(own.slice(0, count).every((item, i) => item === batch.entries[i]))
            assert.strictEqual(batch.entries.length, count)
            assert.isTrue(batch.expired.every(({ deadline }) => deadline <= now))
            assert.isEmpty([...batch.tooLarge, ...batch.broken])
            drop([...batch.entries, ...batch.expired])
            if (line(key).length > 0) kept.set(key, limits)
            break
          }
          case "pass":
            now += at % 7
            break
          case "limits":
            limits = { maxBatchSize: 2 + (at % 3), batchWaitTimeout: at % 15, maxBatchWait: 50 }
            queue.limits = limits
            break
          case "look":
            look()
        }
        assert.strictEqual(queue.size, list.length)
        assert.strictEqual(queue.all.length, new Set(list.map(({ key }) => key)).size)
        assert.isTrue(Array.from(queue).every((item) => list.includes(item)))
      }
    },
    { arbitrary: { runs: 2000, size: 80, seed: 1 } }
  )

  describe("with keys", () => {
    it("gives each ripe one its turn, however many of the others wait", () => {
      const queue = queueOf({ maxBatchSize: 2 })
      put(queue, 0, ...range(100).map(() => new Item("a")))
      put(queue, 0, ...range(100).map(() => new Item("b")), ...range(2).map(() => new Item("c")))
      const served: Array<string> = []
      for (let batch = queue.next(0); batch !== undefined; batch = queue.next(0)) {
        served.push(keys(batch)!.slice(0, 1))
        const { at, release } = queue.ripens(batch.group, 0)
        if (at <= 0) queue.ripen(batch.group, 0, release)
      }
      assert.strictEqual(served.join("").slice(0, 8), "abcababa")
      assert.strictEqual(served.length, 101)
    })

    it("bounds how long a rare one waits by the number of the others", () => {
      const queue = queueOf({ maxBatchSize: 2 })
      const busy = range(9).map((i) => String(i))
      put(queue, 0, ...busy.flatMap((key) => range(50).map(() => new Item(key))))
      for (let i = 0; i < 30; i++) {
        const { group } = queue.next(0)!
        const { at, release } = queue.ripens(group, 0)
        if (at <= 0) queue.ripen(group, 0, release)
      }
      put(queue, 0, new Item("rare"), new Item("rare"))
      const turns = range(20).map(() => {
        const batch = queue.next(0)!
        const { at, release } = queue.ripens(batch.group, 0)
        if (at <= 0) queue.ripen(batch.group, 0, release)
        return batch.group.key
      })
      assert.isAtMost(turns.indexOf("rare"), busy.length)
    })

    it("keeps the turn of one whose callers leave, as long as it is ripe", () => {
      const queue = queueOf({ maxBatchSize: 2, batchWaitTimeout: 0 })
      const [first, second] = [new Item("a"), new Item("a")]
      put(queue, 0, first, second, new Item("b"), new Item("b"))
      queue.remove(first, 0)
      assert.strictEqual(keys(queue.next(0)), "a")
    })

    it("leaves nothing behind of those that are idle", () => {
      const queue = queueOf()
      for (let i = 0; i < 10_000; i++) {
        const item = new Item(String(i))
        put(queue, 0, item)
        if (i % 2 === 0) queue.remove(item, 0)
        else {
          queue.ripen(item.group!, 0, "timeout")
          assert.strictEqual(queue.next(0)!.entries[0], item)
        }
      }
      assert.deepStrictEqual([queue.size, queue.all.length, Array.from(queue)], [0, 0, []])
      assert.isUndefined(queue.next(0))
    })
  })

  describe("tells why a batch was cut", () => {
    it("because it was full, or had waited", () => {
      const queue = queueOf()
      put(queue, 0, new Item("a"), new Item("a"), new Item("a"), new Item("b"))
      assert.strictEqual(queue.next(0)!.release, "full")
      assert.isUndefined(queue.next(9))
      const [group] = queue.all
      queue.ripen(group!, 10, queue.ripens(group!, 10).release)
      assert.strictEqual(queue.next(10)!.release, "timeout")
    })

    it("because a slot came free after that, unless it was full by then", () => {
      const queue = queueOf()
      put(queue, 0, new Item("a"), new Item("b"))
      for (const group of queue.all) queue.ripen(group, 10, "timeout")
      put(queue, 12, new Item("b"), new Item("b"))
      assert.deepStrictEqual([queue.next(15)!.release, queue.next(15)!.release], ["slot", "full"])
    })

    it("because it drains", () => {
      const queue = queueOf()
      put(queue, 0, new Item("a"))
      queue.ripen(queue.all[0]!, 5, "drain")
      assert.strictEqual(queue.next(5)!.release, "drain")
    })
  })

  it("cuts in time that grows with the items, not with their square", () => {
    let steps = 0
    const queue = new BatchQueue<Item, number, Item>({
      limits: { ...defaults, maxBatchSize: 100 },
      sizing: {
        empty: 0,
        add: (sum) => {
          steps++
          return sum + 1
        },
        size: (sum) => sum
      },
      key: undefined,
      cost: new CostModel()
    })
    put(queue, 0, ...range(10_000).map(() => new Item("a")))
    for (let batch = queue.next(0); batch !== undefined; batch = queue.next(0)) {
      const { at, release } = queue.ripens(batch.group, 0)
      if (at <= 0) queue.ripen(batch.group, 0, release)
    }
    assert.isAtMost(steps, 5 * 10_000)
  })

  describe("adaptive", () => {
    it("waits for nothing while it doesn't know what batches cost", () => {
      const queue = adaptive(new CostModel())
      assert.deepStrictEqual(queue.ripens(queue.add(new Item("a"), 7), 7).at, 7)
    })

    it("waits for nothing when another item isn't expected before a batch has run", () => {
      const queue = adaptive(taught(20, 1))
      arrive(queue, 25, 10_000)
      assert.strictEqual(queue.ripens(queue.add(new Item("a", 1, 10_000), 10_000), 10_000).at, 10_000)
    })

    it("waits while that costs the items less than the fixed cost that it saves", () => {
      const queue = adaptive(taught(20, 1))
      arrive(queue, 5, 10_000)
      const add = (now: number) => queue.ripens(queue.add(new Item("a", 1, now), now), now)
      // One item may wait for 20 ms, two for 10 ms each after the second came, three for 6.67, and a fourth isn't worth it.
      const ends = [10_000, 10_005, 10_010].map((now) => add(now).at - now)
      ends.forEach((end, i) => assert.approximately(end, 20 / (i + 1), 0.01))
      assert.deepStrictEqual(add(10_015), { at: 10_015, release: "timeout" })
    })

    it("never waits longer than maxBatchWait", () => {
      const queue = adaptive(taught(1000, 1), { maxBatchWait: 30 })
      arrive(queue, 5, 10_000)
      for (const now of [10_000, 10_010, 10_020, 10_029]) {
        assert.strictEqual(queue.ripens(queue.add(new Item("a", 1, now), now), now).at, 10_030)
      }
    })

    it("releases a batch in time for the tightest deadline, with some to spare", () => {
      const queue = adaptive(taught(100, 1), { maxBatchWait: 1000 })
      arrive(queue, 5, 10_000)
      queue.add(new Item("a", 1, 10_000), 10_000)
      const { at, release } = queue.ripens(queue.add(new Item("a", 1, 10_000, 10_140), 10_000), 10_000)
      assert.strictEqual(release, "deadline")
      assert.approximately(at, 10_140 - 1.1 * 102 - 1, 0.01)
    })

    it("expects less of each key when items are spread over many", () => {
      const queue = adaptive(taught(20, 1))
      arrive(queue, 5, 10_000)
      const add = (key: string, now: number) => queue.ripens(queue.add(new Item(key, 1, now), now), now).at - now
      const ends = ["a", "b", "c", "d", "e"].map((key, i) => add(key, 10_000 + 5 * i))
      // One of four keys gets another item in 20 ms.
      ends.slice(0, 3).forEach((end) => assert.approximately(end, 20, 0.01))
      assert.deepStrictEqual(ends.slice(3), [0, 0])
    })
  })
})
