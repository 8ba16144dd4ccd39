/**
 * Seen red for each of these mutations of AdmissionQueue. "agrees with a plain list" and the test that is named after
 * it: the share is every 19th turn, is kept in overload, or isn't counted anew ("one less important request in 20"); a
 * wait counts once, or the more important ones aren't ahead ("expects twice"), or no permit divides ("expects a
 * permit"); nobody is late ("expects"); the work is 1.0 of the mean, with edf 1.05, or without its median, or the
 * median instead of the ninth decile ("is when less time is left"); one more may wait ("refuses once as many"); nobody
 * is displaced by importance ("makes room"), or by the tenant's length ("makes the tenant"), or someone more important
 * is, or the more important of the lesser ones; a displaced one stays, or `next` keeps it in the size; the healthy
 * patience is 75 %, also for critical ones ("is after 65 %"); the standing one 30 %, without a median time or 5 ms, or
 * beyond the deadline ("is after a quarter"); it applies to fifo, or while nothing is known ("is the deadline"); a
 * queue stands after four median times, 50 ms, or while nothing is known ("stands no sooner"); the oldest is shed from
 * a queue that is fifo or healthy; a restored one is added at the end; someone is shed as "displaced" from a queue with
 * room.
 *
 * By its own test alone: nobody is shed as hopeless, or by the deadline instead of the patience ("sheds the oldest");
 * those who come or are served aren't counted ("is newest first", "is first come"); late ones count as served, the
 * drain time is that of the expected rate, or zero permits make it infinite ("drainTime"); a second is 100 ms while
 * nothing is known; a deadline that has passed is not late ("if nothing is known"); each request costs the same
 * ("shares the work"); `cancel` looks through the queue ("works no more for 20,000").
 *
 * Of Lane: it stands at once, or without overload, or for ever, or not after the overload, or time starts anew with
 * each that comes ("stands", "is newest first"); it is never newest first, or with fifo too; edf expects a wait, or a
 * standing lane does; the victim is always the newest or the oldest ("takes the newest"); time without anyone counts
 * ("hours without"); a restored one counts as served ("given back"). Without its first line, that Infinity is never
 * late, all stays green: it follows from the rest.
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import type { AdmissionQueue } from "../../src/admission/AdmissionQueue.ts"
import { ServiceTimes } from "../../src/admission/ServiceTimes.ts"
import { disciplines, fairnesses, Guest, type GuestOptions, priorities, queueOf } from "./guests.ts"
import { PlainQueue } from "./PlainQueue.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Step = Schema.Struct({
  name: Schema.Literals([
    "offer",
    "offer",
    "crowd",
    "next",
    "next",
    "serve",
    "cancel",
    "restore",
    "pass",
    "pass",
    "strike",
    "answered",
    "completed"
  ]),
  at: upTo(999),
  span: Schema.Literals([0, 3, 40, 100, 700, 3000])
})
const Scenario = Schema.Struct({
  maxSize: Schema.Literals([0, 2, 30, 1000, 1000]),
  permits: Schema.Literals([0, 1, 4]),
  /** How many of the priorities there are. */
  priorities: Schema.Literals([1, 3]),
  steps: Schema.Array(Step).check(Schema.isMinLength(40), Schema.isMaxLength(120))
})

/** As many as that, which may be none. */
const times = <A>(count: number, make: (i: number) => A) => Array.from({ length: count }, (_, i) => make(i))

const offer = (queue: AdmissionQueue<Guest>, now: number, ...guests: ReadonlyArray<Guest>) => {
  for (const guest of guests) queue.offer(guest, now)
}

const crowd = (count: number, options?: GuestOptions) => times(count, () => new Guest(options))

const nextOnes = (queue: AdmissionQueue<Guest>, count: number, now: number) => times(count, () => queue.next(now))

/** Until `until`, one is served each 100 ms, and so many come. */
const run = (queue: AdmissionQueue<Guest>, from: number, until: number, come: () => ReadonlyArray<Guest>) => {
  const served: Array<Guest> = []
  for (let now = from; now < until; now += 100) {
    for (const guest of Array.from(queue)) if (guest.due <= now) queue.cancel(guest, now)
    const guest = queue.next(now)
    if (guest !== undefined) served.push(guest)
    offer(queue, now, ...come())
  }
  return served
}

/** A queue that stands since long, in which no less than 20 wait. */
const standing = (options: Parameters<typeof queueOf>[0], guest?: GuestOptions) => {
  const queue = queueOf({ takes: [100], ...options })
  run(queue, 0, 4000, () => crowd(2, guest))
  assert.isTrue(queue.isStanding(4000))
  return queue
}

/** The shortest time, in whole milliseconds, with which someone is let in. */
const least = (queue: AdmissionQueue<Guest>, options: GuestOptions, now: number) => {
  for (let left = 1; left < 10_000; left++) {
    const guest = new Guest({ ...options, deadline: now + left })
    if (queue.offer(guest, now) === "late") continue
    queue.cancel(guest, now)
    return left
  }
  return Infinity
}

const dueOf = (queue: AdmissionQueue<Guest>, now: number, options: GuestOptions) => {
  const guest = new Guest(options)
  queue.offer(guest, now)
  return guest.due
}

/** Each request that was let in left once. */
const play = (model: PlainQueue, scenario: typeof Scenario.Type) => {
  const newcomer = (at: number, span: number) =>
    new Guest({
      deadline: at % 5 === 0 ? Infinity : model.now + 1 + span + (at % 7) ** 2 * 100,
      method: at % 2,
      priority: scenario.priorities === 1 ? "default" : priorities[at % 3]!,
      tenant: [undefined, "a", "a", "a", "b", "c"][at % 6]
    })
  for (const { at, name, span } of scenario.steps) {
    switch (name) {
      case "offer":
        model.offer(newcomer(at, span))
        break
      case "crowd":
        for (let i = 0; i < at % 30; i++) model.offer(newcomer(at + i * (at % 4), span))
        break
      case "next":
        model.next()
        break
      case "serve":
        for (let i = 0; i < at % 30; i++) model.next()
        break
      case "cancel":
        if (model.waiting.length > 0) model.cancel(model.waiting[at % model.waiting.length]!)
        break
      case "restore":
        if (model.taken.length > 0) model.restore(model.taken.at(-1 - (at % Math.min(model.taken.length, 3)))!)
        break
      case "strike":
        for (const guest of model.waiting.filter(({ due }) => due <= model.now)) model.cancel(guest)
        break
      case "pass":
        model.now += span
        break
      case "answered":
        model.answered(at % 2, span)
        break
      case "completed":
        model.completed(span)
    }
    model.compare()
  }
  while (model.next() !== undefined) model.compare()
  const { admitted, gone, taken } = model
  assert.strictEqual(new Set([...taken, ...gone]).size, admitted)
  assert.strictEqual(taken.length + gone.size, admitted)
}

describe("AdmissionQueue", () => {
  for (const discipline of disciplines) {
    for (const fairness of fairnesses) {
      const name = `agrees with a plain list, and loses or doubles nobody: ${discipline}, fairness ${fairness}`
      it.prop(
        name,
        [Scenario],
        ([scenario]) => {
          const maxSize = scenario.maxSize === 1000 ? Infinity : scenario.maxSize
          play(new PlainQueue(discipline, fairness, maxSize, scenario.permits), scenario)
        },
        { arbitrary: { runs: 60, size: 120, seed: 1 } }
      )
    }
  }

  describe("order", () => {
    for (const fairness of fairnesses) {
      it(`is first come, first served while more come for a moment, fairness ${fairness}`, () => {
        const queue = queueOf({ takes: [100], fairness })
        const all = crowd(300)
        // 100 wait at first, and then as many come as are served.
        offer(queue, 0, ...all.slice(0, 12))
        for (let i = 0; i < 288; i++) {
          assert.strictEqual(queue.next(i * 100), all[i])
          offer(queue, i * 100, all[i + 12]!)
        }
        assert.deepStrictEqual(nextOnes(queue, 12, 28_800), all.slice(288))
      })
    }

    it("is newest first in a standing queue, and first come, first served again once it has been empty", () => {
      const queue = standing({})
      const waiting = Array.from(queue)
      assert.isAbove(waiting.length, 20)
      const newest = new Guest()
      offer(queue, 4000, newest)
      assert.strictEqual(queue.next(4000), newest)
      for (const guest of waiting.slice(1).toReversed()) assert.strictEqual(queue.next(4000), guest)
      assert.isTrue(queue.isStanding(4000))
      queue.cancel(waiting[0]!, 4000)
      assert.isFalse(queue.isStanding(4000))
      const later = crowd(5)
      offer(queue, 4100, ...later)
      assert.deepStrictEqual(nextOnes(queue, 5, 4200), later)
    })

    it("stays newest first until the queue has been empty, though no more come", () => {
      const queue = standing({})
      run(queue, 4000, 5000, () => [])
      assert.isTrue(queue.isStanding(5000))
      const waiting = Array.from(queue)
      assert.deepStrictEqual(nextOnes(queue, waiting.length, 5000), waiting.toReversed())
    })

    it("stands no sooner than after 100 ms, or five median times without being empty", () => {
      for (const [takes, since] of [
        [10, 100],
        [100, 500],
        [1000, 5000]
      ] as const) {
        const queue = queueOf({ takes: [takes] })
        offer(queue, 7, new Guest())
        queue.next(8)
        offer(queue, 10, ...crowd(100))
        assert.isFalse(queue.isStanding(10 + since), String(takes))
        assert.isTrue(queue.isStanding(10 + since + 1), String(takes))
      }
    })

    it("doesn't stand while service times are unknown, or no more come than are served", () => {
      const unknown = queueOf({})
      offer(unknown, 0, ...crowd(1000))
      assert.isFalse(unknown.isStanding(1e6))
      const busy = queueOf({ takes: [100] })
      offer(busy, 0, ...crowd(10))
      run(busy, 0, 600_000, () => crowd(1))
      assert.isFalse(busy.isStanding(600_000))
    })

    for (const discipline of ["fifo", "edf"] as const) {
      it(`is the same in a standing queue and in another: ${discipline}`, () => {
        const queue = standing({ discipline })
        const waiting = Array.from(queue).toSorted((one, other) => one.turn - other.turn)
        assert.deepStrictEqual(nextOnes(queue, waiting.length, 4000), waiting)
      })
    }

    it("is earliest deadline first, and of equal ones the first that came: edf", () => {
      const queue = queueOf({ discipline: "edf" })
      const [a, b, c, d, e] = [70, Infinity, 30, 70, Infinity].map((deadline) => new Guest({ deadline }))
      offer(queue, 0, a!, b!, c!, d!, e!)
      assert.strictEqual(queue.next(0), c)
      assert.strictEqual(queue.next(0), a)
      queue.restore(a!, 0)
      assert.deepStrictEqual(nextOnes(queue, 4, 0), [a, d, b, e])
    })

    for (const discipline of disciplines) {
      it(`serves one less important request in 20 while nothing stands: ${discipline}`, () => {
        const queue = queueOf({ takes: [100], discipline })
        offer(queue, 0, ...priorities.flatMap((priority) => crowd(500, { priority })))
        const served = nextOnes(queue, 400, 0)
        const places = (priority: string) => served.flatMap((guest, i) => (guest!.priority === priority ? [i] : []))
        assert.deepStrictEqual(
          places("sheddable"),
          times(20, (i) => 20 * i + 19)
        )
        // It is not passed over while the least important one has its turn.
        assert.deepStrictEqual(
          places("default"),
          times(19, (i) => 20 * (i + 1) + i)
        )
      })

      it(`serves no less important request in overload: ${discipline}`, () => {
        const queue = queueOf({ takes: [100], discipline })
        offer(queue, 0, ...priorities.flatMap((priority) => crowd(500, { priority })))
        assert.isTrue(queue.isStanding(501))
        const served = nextOnes(queue, 1000, 501).map((guest) => guest!.priority)
        assert.isTrue(served.slice(0, 500).every((priority) => priority === "critical"))
        assert.isTrue(served.slice(500).every((priority) => priority === "default"))
      })
    }

    it("serves what is more important first though only the less important stands", () => {
      const queue = standing({}, { priority: "sheddable" })
      const critical = crowd(60, { priority: "critical" })
      offer(queue, 4000, ...critical)
      assert.deepStrictEqual(nextOnes(queue, 60, 4000), critical)
      assert.strictEqual(queue.next(4000)!.priority, "sheddable")
    })

    it("shares the work among the tenants of a priority: as many milliseconds for each", () => {
      const queue = queueOf({ takes: [300, 100, 50], fairness: "tenant" })
      const names = ["a", "b", "c"]
      for (const [method, tenant] of names.entries()) offer(queue, 0, ...crowd(300, { tenant, method }))
      const served = nextOnes(queue, 200, 0)
      const counts = names.map((name) => served.filter((guest) => guest!.tenant === name).length)
      assert.deepStrictEqual(counts, [20, 60, 120])
    })

    it("doesn't let one tenant's hundreds delay the few of the others", () => {
      for (const discipline of disciplines) {
        const queue = queueOf({ takes: [100], fairness: "tenant", discipline })
        offer(queue, 0, ...crowd(300, { tenant: "hog", deadline: 1e6 }))
        const few = ["a", "b", "c"].flatMap((tenant) => crowd(3, { tenant, deadline: 2e6 }))
        offer(queue, 0, ...few)
        const served = nextOnes(queue, 13, 0)
        assert.isTrue(
          few.every((guest) => served.includes(guest)),
          discipline
        )
      }
    })
  })

  describe("offer", () => {
    it("refuses once as many wait as may", () => {
      for (const maxSize of [0, 1, 7]) {
        const queue = queueOf({ maxSize })
        assert.isTrue(crowd(maxSize).every((guest) => queue.offer(guest, 0) === undefined))
        assert.strictEqual(queue.offer(new Guest(), 0), "full")
        assert.strictEqual(queue.size, maxSize)
        if (maxSize === 0) continue
        queue.next(0)
        assert.isUndefined(queue.offer(new Guest(), 0))
      }
    })

    it("lets those that are given back exceed the bound, and nobody else", () => {
      const queue = queueOf({ maxSize: 3 })
      const all = crowd(3)
      offer(queue, 0, ...all)
      const taken = nextOnes(queue, 2, 0)
      offer(queue, 0, ...crowd(2))
      for (const guest of taken) queue.restore(guest!, 0)
      assert.strictEqual(queue.size, 5)
      assert.strictEqual(queue.offer(new Guest(), 0), "full")
      assert.isObject(queue.offer(new Guest({ priority: "critical" }), 0))
      assert.strictEqual(queue.size, 5)
      assert.deepStrictEqual(nextOnes(queue, 4, 0).slice(1), all)
    })

    it("makes room in a full queue for what is more important, and never the other way round", () => {
      for (const fairness of fairnesses) {
        const queue = queueOf({ maxSize: 4, fairness })
        const [first, other] = crowd(2)
        const [low, lower] = crowd(2, { priority: "sheddable" })
        offer(queue, 0, first!, low!, lower!, other!)
        for (const priority of ["sheddable", "default", "critical", "critical", "critical"] as const) {
          const outcome = queue.offer(new Guest({ priority }), 0)
          const victims = { sheddable: "full", default: lower, critical: low }
          if (priority === "critical" && queue.sizes.sheddable === 0) break
          assert.deepStrictEqual(
            outcome,
            priority === "sheddable" ? "full" : { waiter: victims[priority], why: "displaced" }
          )
        }
        assert.strictEqual(queue.size, 4)
        assert.strictEqual(queue.offer(new Guest({ priority: "sheddable" }), 0), "full")
      }
    })

    it("takes the newest of the less important ones, and the oldest where they stand", () => {
      const healthy = queueOf({ maxSize: 5, takes: [100] })
      const all = crowd(5, { priority: "sheddable" })
      offer(healthy, 0, ...all)
      const critical = new Guest({ priority: "critical" })
      assert.deepStrictEqual(healthy.offer(critical, 0), { waiter: all[4]!, why: "displaced" })
      const stands = standing({ maxSize: 21 }, { priority: "sheddable" })
      const [oldest] = stands
      while (stands.size < 21) offer(stands, 4000, new Guest({ priority: "sheddable" }))
      assert.deepStrictEqual(stands.offer(new Guest(), 4000), { waiter: oldest!, why: "displaced" })
    })

    it("makes the tenant with the most waiting give room to one with fewer", () => {
      const queue = queueOf({ maxSize: 8, fairness: "tenant" })
      const [a, b] = [crowd(6, { tenant: "a" }), crowd(2, { tenant: "b" })]
      offer(queue, 0, ...a, ...b)
      assert.strictEqual(queue.offer(new Guest({ tenant: "a" }), 0), "full")
      assert.deepStrictEqual(queue.offer(new Guest({ tenant: "b" }), 0), { waiter: a[5]!, why: "displaced" })
      assert.deepStrictEqual(queue.offer(new Guest({ tenant: "c" }), 0), { waiter: a[4]!, why: "displaced" })
      // a 4, b 3, c 1
      assert.strictEqual(queue.offer(new Guest({ tenant: "b" }), 0), "full")
      assert.deepStrictEqual(queue.offer(new Guest({ tenant: "c" }), 0), { waiter: a[3]!, why: "displaced" })
      assert.strictEqual(queue.size, 8)
    })

    it("doesn't take room from the longest tenant of a more important priority", () => {
      const queue = queueOf({ maxSize: 6, fairness: "tenant" })
      offer(queue, 0, ...crowd(6, { tenant: "a", priority: "critical" }))
      assert.strictEqual(queue.offer(new Guest({ tenant: "b" }), 0), "full")
    })

    it("refuses nobody as late before anyone has succeeded", () => {
      for (const discipline of disciplines) {
        const queue = queueOf({ discipline })
        offer(queue, 0, ...crowd(1000))
        assert.isUndefined(queue.offer(new Guest({ deadline: 1 }), 0))
      }
    })

    it("expects twice the wait of those ahead, and the mean time of the work: adaptive and fifo", () => {
      for (const discipline of ["adaptive", "fifo"] as const) {
        const queue = queueOf({ takes: [100, 40], permits: 4, discipline })
        assert.strictEqual(least(queue, {}, 10), 105)
        assert.strictEqual(least(queue, { method: 1 }, 10), 42)
        offer(queue, 10, ...crowd(6))
        // 6 at 4 in 100 ms
        assert.strictEqual(least(queue, {}, 10), 2 * 150 + 105)
        assert.strictEqual(least(queue, { method: 1 }, 10), 2 * 150 + 42)
        assert.strictEqual(least(queue, { priority: "sheddable" }, 10), 2 * 150 + 105)
        assert.strictEqual(least(queue, { priority: "critical" }, 10), 105)
      }
    })

    it("expects no wait but for the more important ones: edf, and a lane that stands", () => {
      const earliest = queueOf({ takes: [100, 40], permits: 4, discipline: "edf" })
      const stands = standing({ permits: 1 }, { deadline: 1e9 })
      const now = 4000
      offer(earliest, now, ...crowd(6))
      assert.strictEqual(least(earliest, {}, now), 200)
      assert.strictEqual(least(earliest, { method: 1 }, now), 80)
      assert.strictEqual(least(stands, {}, now), 105)
      for (const queue of [earliest, stands]) offer(queue, now, ...crowd(8, { priority: "critical" }))
      assert.strictEqual(least(earliest, {}, now), 2 * 200 + 200)
      assert.strictEqual(least(stands, {}, now), 2 * 800 + 105)
    })

    it("expects a permit when there is none", () => {
      const queue = queueOf({ takes: [100], permits: 0, discipline: "fifo" })
      offer(queue, 0, ...crowd(3))
      assert.strictEqual(least(queue, {}, 0), 2 * 300 + 105)
    })

    it("expects a tenant's wait to be that of its own requests, and half of as many of each other tenant", () => {
      const queue = queueOf({ takes: [100], fairness: "tenant" })
      offer(queue, 0, ...crowd(2, { tenant: "a" }), ...crowd(50, { tenant: "b" }), ...crowd(1, { tenant: "c" }))
      assert.strictEqual(least(queue, { tenant: "a" }, 0), 2 * 400 + 105)
    })

    it("never finds someone without a deadline late", () => {
      for (const discipline of disciplines) {
        const queue = queueOf({ takes: [1e12], discipline })
        offer(queue, 0, ...crowd(100, { priority: "critical" }))
        assert.isUndefined(queue.offer(new Guest(), 1e15))
        assert.isFalse(queue.isLate(new Guest(), 1e15))
      }
    })

    it("sheds the oldest of a standing queue when it can't be served in time", () => {
      const queue = standing({})
      const [oldest] = queue
      assert.isAbove(queue.size, 20)
      assert.isBelow(queue.size, 45)
      // At ten a second, a quarter of 20 seconds is enough for all that wait, and a quarter of 8 is not.
      assert.isUndefined(queue.offer(new Guest({ deadline: 24_000 }), 4000))
      assert.isUndefined(queue.offer(new Guest(), 4000))
      const size = queue.size
      assert.deepStrictEqual(queue.offer(new Guest({ deadline: 12_000 }), 4000), {
        waiter: oldest!,
        why: "queueTimeout"
      })
      assert.strictEqual(queue.size, size)
    })

    it("sheds nobody from a queue that doesn't stand, or is fifo or edf", () => {
      for (const discipline of disciplines) {
        const queue = discipline === "adaptive" ? queueOf({ takes: [100] }) : standing({ discipline })
        while (queue.size < 100) offer(queue, 4000, new Guest({ deadline: 1e9 }))
        const left = discipline === "adaptive" ? 25_000 : 50_000
        assert.isUndefined(queue.offer(new Guest({ deadline: 4000 + left }), 4000), discipline)
      }
    })
  })

  describe("due", () => {
    it("is the deadline as long as service times are unknown", () => {
      const queue = queueOf({})
      for (const deadline of [1000, Infinity]) {
        for (const priority of priorities) assert.strictEqual(dueOf(queue, 100, { deadline, priority }), deadline)
      }
    })

    it("is after 65 % of the time that is left, and the deadline if it is critical", () => {
      const queue = queueOf({ takes: [10], permits: 4 })
      assert.strictEqual(dueOf(queue, 100, { deadline: 1100 }), 750)
      assert.strictEqual(dueOf(queue, 100, { deadline: 1100, priority: "sheddable" }), 750)
      assert.strictEqual(dueOf(queue, 100, { deadline: 1100, priority: "critical" }), 1100)
      assert.strictEqual(dueOf(queue, 100, { deadline: Infinity }), Infinity)
    })

    it("is after a quarter of the time in a standing queue, a median time or 5 ms if that is longer", () => {
      const queue = standing({}, { deadline: 1e9 })
      assert.strictEqual(dueOf(queue, 4000, { deadline: 8000 }), 5000)
      assert.strictEqual(dueOf(queue, 4000, { deadline: 4200 }), 4100)
      assert.strictEqual(dueOf(queue, 4000, { deadline: 4105 }), 4100)
      assert.strictEqual(dueOf(queue, 4000, { deadline: Infinity }), Infinity)
      for (let i = 0; i < 1000; i++) queue.completed(i % 3 === 0 ? 4000 : 200)
      assert.isAbove(dueOf(queue, 4000, { deadline: 4150 }), 4149, "no later than the deadline")
      assert.isAtMost(dueOf(queue, 4000, { deadline: 4150 }), 4150)
      const fast = queueOf({ takes: [1] })
      offer(fast, 0, ...crowd(1000))
      assert.isTrue(fast.isStanding(101))
      assert.strictEqual(dueOf(fast, 101, { deadline: 109 }), 106)
      assert.strictEqual(dueOf(fast, 101, { deadline: 105 }), 105)
    })

    it("is 65 % again once a standing queue has been empty", () => {
      const queue = standing({})
      while (queue.next(4000) !== undefined);
      assert.strictEqual(dueOf(queue, 5000, { deadline: 6000 }), 5650)
    })

    it("is the deadline in a queue that is fifo or edf", () => {
      for (const discipline of ["fifo", "edf"] as const) {
        for (const queue of [queueOf({ takes: [10], discipline }), standing({ discipline }, { deadline: 1e9 })]) {
          assert.strictEqual(dueOf(queue, 4000, { deadline: 16_000 }), 16_000)
        }
      }
    })
  })

  describe("isLate", () => {
    it("is when less time is left than the work takes, as its method has taken it", () => {
      const laws = [
        times(60, () => 80),
        times(600, (i) => (i % 10 < 3 ? 1 : 80)), // the median is above the mean
        times(600, (i) => (i % 10 < 2 ? 400 : 20)) // the ninth decile is above twice the mean
      ]
      for (const discipline of disciplines) {
        for (const law of laws) {
          const queue = queueOf({ discipline })
          const service = new ServiceTimes()
          for (const millis of law) {
            queue.answered(1, millis)
            service.record(millis)
            queue.answered(0, 7)
          }
          const work =
            discipline === "edf" ? Math.max(service.p90, 2 * service.mean) : Math.max(service.p50, 1.05 * service.mean)
          assert.isFalse(queue.isLate(new Guest({ method: 1, deadline: 1001 + work }), 1000))
          assert.isTrue(queue.isLate(new Guest({ method: 1, deadline: 999 + work }), 1000))
          assert.isFalse(queue.isLate(new Guest({ method: 0, deadline: 1020 }), 1000))
        }
      }
    })

    it("is when the deadline has passed, if nothing is known", () => {
      const queue = queueOf({})
      assert.isFalse(queue.isLate(new Guest({ deadline: 1001 }), 1000))
      assert.isTrue(queue.isLate(new Guest({ deadline: 1000 }), 1000))
    })
  })

  describe("drainTime", () => {
    for (const discipline of disciplines) {
      it(`follows the rate at which requests are served: ${discipline}`, () => {
        // It is expected to serve twice as many as it does.
        const queue = queueOf({ takes: [100], permits: 2, discipline })
        offer(queue, 0, ...crowd(20))
        for (let second = 0; second < 30; second++) {
          run(queue, second * 1000, (second + 1) * 1000, () => crowd(1))
          // 20 of its kind wait, ten are served in a second.
          if (second > 2) assert.approximately(queue.drainTime(new Guest(), (second + 1) * 1000), 2100, 450)
        }
        assert.strictEqual(queue.size, 20)
      })
    }

    it("is reckoned from the mean time and the permits as long as nothing was seen", () => {
      for (const permits of [0, 1, 8]) {
        const queue = queueOf({ takes: [100], permits })
        offer(queue, 0, ...crowd(19))
        assert.approximately(queue.drainTime(new Guest(), 0), (20 * 100) / Math.max(permits, 1), 1e-6)
      }
    })

    it("expects a second for each as long as nothing is known", () => {
      const queue = queueOf({ permits: 4 })
      offer(queue, 0, ...crowd(3))
      assert.approximately(queue.drainTime(new Guest(), 0), 1000, 1e-6)
      assert.isAbove(queueOf({ takes: [0], permits: 4 }).drainTime(new Guest(), 0), 0)
    })

    it("isn't changed by hours without a request", () => {
      const queue = queueOf({ takes: [100], permits: 4 })
      offer(queue, 0, ...crowd(5))
      run(queue, 0, 4000, () => crowd(1))
      run(queue, 4000, 4500, () => [])
      assert.strictEqual(queue.size, 0)
      offer(queue, 1e8, ...crowd(20))
      assert.approximately(queue.drainTime(new Guest(), 1e8), 2100, 400)
    })

    it("grows while nobody is served", () => {
      const queue = queueOf({ takes: [100] })
      offer(queue, 0, ...crowd(20))
      assert.isAbove(queue.drainTime(new Guest(), 30_000), 10 * queue.drainTime(new Guest(), 0))
    })

    it("doesn't count those whose turn came too late as served", () => {
      const queue = queueOf({ takes: [100], discipline: "fifo" })
      offer(queue, 0, ...crowd(400, { deadline: 1e6 }))
      const before = queue.drainTime(new Guest(), 2000)
      nextOnes(queue, 200, 2e6)
      assert.isAbove(queue.drainTime(new Guest(), 2000), before * 0.49)
    })

    it("doesn't count those that were given back as served", () => {
      const queue = queueOf({ takes: [100], permits: 4 })
      offer(queue, 0, ...crowd(20))
      const before = queue.drainTime(new Guest(), 1000)
      for (let i = 0; i < 10; i++) queue.restore(queue.next(1000)!, 1000)
      assert.strictEqual(queue.drainTime(new Guest(), 1000), before)
    })

    it("is that of the tenant, who has a share of the rate", () => {
      const queue = queueOf({ takes: [100], fairness: "tenant" })
      offer(queue, 0, ...crowd(4, { tenant: "a" }), ...crowd(9, { tenant: "b" }))
      assert.approximately(queue.drainTime(new Guest({ tenant: "a" }), 0), 1000, 1e-6)
      assert.approximately(queue.drainTime(new Guest({ tenant: "b" }), 0), 2000, 1e-6)
      assert.isAbove(queue.drainTime(new Guest({ tenant: "c" }), 0), 0)
    })
  })

  describe("sizes", () => {
    it("says how many wait, by priority, and lists the most important ones first", () => {
      const queue = queueOf({})
      const [sheddable, normal, critical] = ["sheddable", "default", "critical"].map((priority, i) =>
        crowd(i + 1, { priority: priority as "critical" })
      )
      offer(queue, 0, ...sheddable!, ...normal!, ...critical!)
      assert.deepStrictEqual(queue.sizes, { critical: 3, default: 2, sheddable: 1 })
      assert.deepStrictEqual(Array.from(queue), [...critical!, ...normal!, ...sheddable!])
    })
  })

  for (const discipline of disciplines) {
    for (const fairness of fairnesses) {
      it(`works no more for 20,000 that wait than for 200: ${discipline}, fairness ${fairness}`, () => {
        let looks = 0
        /** Counts how often anything of it is looked at. */
        const seen = (guest: Guest) =>
          new Proxy(guest, { get: (target, name) => (looks++, target[name as keyof Guest]) })
        const perStep = [200, 20_000].map((waiting) => {
          const queue = queueOf({ takes: [100], discipline, fairness })
          let at = 0
          const newcomer = () =>
            seen(
              new Guest({
                deadline: 1e9 + ((at * 7919) % waiting),
                priority: priorities[at % 3]!,
                tenant: String((at++ * 31) % 100)
              })
            )
          offer(queue, 0, ...times(waiting, newcomer))
          const every = waiting / 100
          const leaving = new Set(Array.from(queue).filter((_, i) => i % every === Math.floor(every / 2)))
          const take = (now: number) => {
            const guest = queue.next(now)!
            leaving.delete(guest)
            return guest
          }
          looks = 0
          for (const guest of leaving) {
            queue.cancel(guest, 400)
            queue.restore(take(400), 400)
            queue.drainTime(guest, 400)
            queue.offer(newcomer(), 400)
          }
          for (let i = 0; i < 50; i++) {
            take(600)
            queue.offer(newcomer(), 600)
          }
          return looks
        })
        // 100 times as many, but a heap that is not even 5 times as high.
        assert.isAtMost(perStep[1]!, perStep[0]! * (discipline === "edf" ? 5 : 1.5), String(perStep))
      })
    }
  }
})
