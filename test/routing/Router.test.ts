/**
 * Seen red ("conserves requests and permits") for each of these mutations: a second reason to stop replaces the first;
 * a request handed back is not settled although its caller left, or is not watched; a deadline that passed before the
 * hand-over is ignored, or isn't settled; an expiry stops what is already stopping; a caller that leaves doesn't wait for
 * its work; the alarm isn't set again; a resize wakes no one or doesn't reach the places; a
 * free permit wakes no one. Others are red in the examples: no order among those handed back, waiting twice for one
 * permit, hand-overs without a turn for others, the permit not taken, the place not given back, `whenFree` that never is.
 * A blocked replica that isn't closed makes the router spin. Interrupting a handler whose caller left while it started
 * stays green when removed from `start`: the caller's own cancellation does it again.
 */
import { assert, describe, it } from "@effect/vitest"
import { ServeError } from "effect-serve"
import { Cause, Deferred, Effect, Exit, Fiber, Schema } from "effect"
import { TestClock } from "effect/testing"
import type { Router } from "../../src/routing/Router.ts"
import { call, isDone, Job, jobLayer } from "../deployments.ts"
import { halting, makeWorld, send, smooth, type Work } from "./routers.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Step = Schema.Struct({
  name: Schema.Literals([
    "start",
    "start",
    "start",
    "start",
    "succeed",
    "succeed",
    "fail",
    "die",
    "stop",
    "interrupt",
    "interrupt",
    "resize",
    "advance",
    "turn",
    "turn",
    "turns"
  ]),
  at: upTo(9999)
})
const Plan = Schema.Struct({
  routers: Schema.Literals([1, 1, 1, 2]),
  replicas: Schema.Literals([1, 2, 3]),
  permits: Schema.Literals([1, 2, 3]),
  places: Schema.Literals([0, 2, 1000]),
  lateStart: Schema.Boolean,
  maxOpsBeforeYield: Schema.Literals([3, 4, 5, 6, 7, 8, 9, 2048, 2048, 2048]),
  steps: Schema.Array(Step).check(Schema.isMinLength(10), Schema.isMaxLength(60))
})

type Kind = "completed" | "failed" | "expired" | "rejected"

/** A request of the model: what its caller and its handler have seen. */
interface Sent {
  readonly number: number
  readonly router: number
  readonly deadline: number
  readonly gate: Deferred.Deferred<unknown, unknown>
  entered: number
  running: boolean
  offered: boolean
  left: boolean
  answers: Array<Kind>
  fiber: Fiber.Fiber<unknown, unknown> | undefined
}

const kindOf = (exit: Exit.Exit<unknown, unknown>): Kind => {
  if (Exit.isSuccess(exit)) return "completed"
  const error = Cause.squash(exit.cause)
  if (!(error instanceof ServeError.ServeError)) return "failed"
  const { reason } = error
  return reason._tag === "DeadlineExceeded" && reason.stage !== "admission" ? "expired" : "rejected"
}

/** Plays a plan against routers, and checks after every step what must hold at every instant. */
const play = (plan: typeof Plan.Type): void => {
  // Where fibers yield between a free permit and the call, two routers can take it from each other for ever.
  const world = makeWorld(plan.routers === 1 ? plan : smooth)
  const { turns } = world
  const replicas = world.replicas(plan.replicas, plan.permits)
  const routers = Array.from({ length: plan.routers }, () =>
    world.router({ replicas, maxOngoingRequests: plan.permits, maxQueuedRequests: plan.places })
  )
  const sent: Array<Sent> = []
  const entries: Array<Sent> = []
  const active = replicas.map(() => 0)
  let permits: number = plan.permits
  let resizing = world.fork(Effect.void)
  let allowed = replicas.map(() => permits)

  const handler =
    (request: Sent, body: Effect.Effect<unknown, unknown>): Work =>
    (replica) =>
      Effect.acquireUseRelease(
        Effect.sync(() => {
          assert.isBelow(world.now(), request.deadline, "no handler starts after its deadline")
          assert.strictEqual(++request.entered, 1, "no handler starts twice")
          entries.push(request)
          active[replica]!++
          request.running = true
        }),
        () => body,
        () =>
          Effect.sync(() => {
            active[replica]!--
            request.running = false
          })
      )

  const start = (at: number) => {
    const gate = Deferred.makeUnsafe<unknown, unknown>()
    const timeout = [Infinity, Infinity, 0, 3, 70, 900][at % 6]!
    const request: Sent = {
      number: sent.length,
      router: at % routers.length,
      deadline: world.now() + timeout,
      gate,
      entered: 0,
      running: false,
      offered: false,
      left: false,
      answers: [],
      fiber: undefined
    }
    sent.push(request)
    const wait = Deferred.await(gate)
    const bodies = [wait, wait, wait, Effect.uninterruptible(wait), Effect.yieldNow, Effect.void, Effect.interrupt]
    const body = bodies[Math.floor(at / 6) % bodies.length]!
    request.fiber = world.fork(
      send(routers[request.router]!, handler(request, body), {
        deadline: request.deadline,
        onOffer: () => (request.offered = true),
        onAnswer: (exit) => request.answers.push(kindOf(exit))
      })
    )
  }

  const end = (at: number, exit: Exit.Exit<unknown, unknown>) => {
    const running = sent.filter((request) => request.running)
    const request = running[at % running.length]
    if (request !== undefined) Deferred.doneUnsafe(request.gate, exit)
  }

  const interrupt = (at: number) => {
    const waiting = sent.filter(({ fiber }) => fiber?.pollUnsafe() === undefined)
    const request = waiting[at % waiting.length]
    if (request === undefined) return
    request.left = true
    request.fiber?.interruptUnsafe()
  }

  const resize = (to: number) => {
    turns.takeAll() // resizing is one at a time
    if (routers.length > 1) return
    allowed = allowed.map((old) => Math.max(old, permits))
    permits = to
    resizing = world.fork(routers[0]!.resize(to))
  }

  const check = () => {
    routers.forEach((router, i) =>
      checkConservation(
        router,
        sent.filter((request) => request.router === i)
      )
    )
    replicas.forEach((_, i) => {
      const most = Math.max(permits, allowed[i]!)
      const taken = routers.length === 1 ? routers[0]!.state.replicas[i]!.running : active[i]!
      assert.isAtMost(active[i]!, most, "no replica runs more than it may")
      assert.isAtLeast(taken, active[i]!, "what runs was given a place")
      assert.isAtMost(taken, most, "no replica is given more than it may run")
      // After a resize down, what runs there only falls.
      if (resizing.pollUnsafe() !== undefined) allowed[i] = Math.min(most, taken)
    })
  }

  /** Once every fiber has come as far as it can: nobody waits while there is a permit. */
  const checkSettled = () => {
    turns.takeAll()
    check()
    const queued = routers.reduce((sum, { state }) => sum + state.queued, 0)
    const free = active.some((count) => count < permits)
    assert.isFalse(queued > 0 && free, `${queued} wait and ${String(active)} of ${permits} run`)
    for (const router of routers) {
      assert.strictEqual(router.state.running, sum(router.state.replicas.map(({ running }) => running)))
    }
    assert.strictEqual(sum(active), sum(routers.map(({ state }) => state.running)))
  }

  const step = ({ at, name }: typeof Step.Type): void => {
    switch (name) {
      case "start":
        return start(at)
      case "succeed":
        return end(at, Exit.succeed("done"))
      case "fail":
        return end(at, Exit.fail("failed"))
      case "die":
        return end(at, Exit.die("died"))
      case "stop":
        return end(at, Exit.interrupt())
      case "interrupt":
        return interrupt(at)
      case "resize":
        return resize(1 + (at % 4))
      case "advance":
        return world.clock.advance([1, 2, 5, 64, 100, 1000][at % 6]!)
      case "turn":
        return turns.take(at)
      case "turns":
        return checkSettled()
    }
  }

  for (const each of plan.steps) {
    step(each)
    check()
  }

  // First in, first out, where no handler can begin later than it was given its place.
  checkSettled()
  if (plan.maxOpsBeforeYield === 2048 && !plan.lateStart && routers.length === 1) {
    const numbers = entries.map(({ number }) => number)
    assert.deepStrictEqual(
      numbers,
      numbers.toSorted((a, b) => a - b)
    )
  }

  // Deadlines strike by themselves, without any other event.
  for (const millis of [1, 10, 100, 1000]) {
    world.clock.advance(millis)
    checkSettled()
  }
  for (const { deadline, fiber, left } of sent) {
    // A caller that leaves waits for its work, which may not be able to stop.
    if (deadline < Infinity && !left) assert.isDefined(fiber?.pollUnsafe(), "no caller waits longer than its deadline")
  }

  // Everyone ends; nothing is left.
  for (const { gate } of sent) Deferred.doneUnsafe(gate, Exit.succeed("done"))
  checkSettled()
  for (const request of sent) {
    assert.isDefined(request.fiber?.pollUnsafe(), "every caller is answered")
    assert.isAtMost(request.answers.length, 1, "every caller is answered once")
    assert.isFalse(request.running)
  }
  routers.forEach((router, i) =>
    checkEnd(
      router,
      sent.filter((request) => request.router === i && request.offered)
    )
  )

  // And no permit is lost or doubled: the replicas fill up exactly.
  const total = permits * replicas.length
  const fill = Array.from({ length: total + 1 }, () =>
    world.fork(
      send(routers[0]!, (replica) =>
        Effect.acquireUseRelease(
          Effect.sync(() => active[replica]!++),
          () => Effect.never,
          () => Effect.sync(() => active[replica]!--)
        )
      )
    )
  )
  turns.takeAll()
  assert.deepStrictEqual(
    active,
    replicas.map(() => permits)
  )
  assert.strictEqual(routers[0]!.state.queued, plan.places === 0 ? 0 : 1)
  for (const fiber of fill) fiber.interruptUnsafe()
  turns.takeAll()
  assert.strictEqual(sum(active), 0)
  assert.deepInclude(routers[0]!.state, { running: 0, queued: 0 })
}

const sum = (numbers: ReadonlyArray<number>) => numbers.reduce((total, n) => total + n, 0)

const checkConservation = ({ state }: Router, sent: ReadonlyArray<Sent>) => {
  const { accepted, cancelled, completed, expired, failed, queued, rejected, running } = state
  assert.strictEqual(
    accepted,
    completed + failed + cancelled + expired + queued + running,
    `accepted ${accepted} = ${completed} + ${failed} + ${cancelled} + ${expired} + ${queued} + ${running}`
  )
  assert.strictEqual(sent.filter(({ offered }) => offered).length, accepted + rejected)
  assert.isTrue([accepted, rejected, queued, running].every((count) => count >= 0))
}

const checkEnd = ({ state }: Router, sent: ReadonlyArray<Sent>) => {
  const answers = sent.flatMap((request) => request.answers)
  const count = (kind: Kind) => answers.filter((answer) => answer === kind).length
  const { cancelled, completed, expired, failed, queued, rejected, running } = state
  assert.deepStrictEqual(
    { completed, failed, expired, rejected, cancelled, queued, running },
    {
      completed: count("completed"),
      failed: count("failed"),
      expired: count("expired"),
      rejected: count("rejected"),
      cancelled: sent.length - answers.length,
      queued: 0,
      running: 0
    }
  )
}

/** Two routers in front of one replica, as two processes would have. The first holds all permits until `release`. */
const shared = (permits: number, { pace = smooth, places = Infinity } = {}) => {
  const world = makeWorld(pace)
  const { fork, turns } = world
  const replicas = world.replicas(1, permits)
  const make = () => world.router({ replicas, maxOngoingRequests: permits, maxQueuedRequests: places })
  const [first, second] = [make(), make()]
  const gate = Deferred.makeUnsafe<unknown>()
  for (let i = 0; i < permits; i++) fork(send(first, () => Deferred.await(gate)))
  turns.takeAll()
  assert.strictEqual(first.state.running, permits)
  const release = () => {
    Deferred.doneUnsafe(gate, Exit.void)
    turns.takeAll()
  }
  return { ...world, first, second, release }
}

describe("Router", () => {
  describe("over a replica that it shares", () => {
    it("lets a request that finds no permit wait, and runs it as soon as the other router's ends", () => {
      const { fork, release, second, turns } = shared(1, { places: 0 })
      const caller = fork(send(second, () => Effect.succeed("mine")))
      turns.takeAll()
      assert.deepInclude(second.state, { accepted: 1, queued: 1, running: 0 })
      release()
      assert.deepStrictEqual(caller.pollUnsafe(), Exit.succeed("mine"))
      assert.deepInclude(second.state, { completed: 1, queued: 0, running: 0 })
    })

    it.each(Object.entries({ smooth, halting }))(
      "keeps the order of requests that were handed back (%s)",
      (_, pace) => {
        const { fork, release, second, turns } = shared(3, { pace })
        const order: Array<number> = []
        for (let i = 0; i < 6; i++) fork(send(second, () => Effect.sync(() => order.push(i))))
        turns.takeAll()
        assert.deepInclude(second.state, { queued: 6, running: 0 })
        release()
        assert.deepStrictEqual(order, [0, 1, 2, 3, 4, 5])
      }
    )

    it("keeps the deadline of a request that was handed back", () => {
      const { clock, fork, now, second, turns } = shared(1)
      const caller = fork(Effect.exit(send(second, () => Effect.void, { deadline: now() + 100 })))
      turns.takeAll()
      clock.advance(99)
      turns.takeAll()
      assert.deepInclude(second.state, { queued: 1, expired: 0 })
      clock.advance(1)
      turns.takeAll()
      assert.isDefined(caller.pollUnsafe())
      assert.deepInclude(second.state, { queued: 0, expired: 1 })
    })

    it("forgets a request that was handed back when its caller leaves", () => {
      const { fork, release, second, turns } = shared(1)
      const caller = fork(send(second, () => Effect.die("ran")))
      turns.takeAll()
      caller.interruptUnsafe()
      turns.takeAll()
      assert.deepInclude(second.state, { queued: 0, cancelled: 1 })
      release()
      assert.deepInclude(second.state, { failed: 0, running: 0 })
    })
  })

  it("hands back what finds no permit after a resize down, and runs it in its turn", () => {
    const world = makeWorld(halting)
    const [replica] = world.replicas(1, 4)
    const router = world.router({ replicas: [replica!], maxOngoingRequests: 4, maxQueuedRequests: Infinity })
    const order: Array<number> = []
    const gate = Deferred.makeUnsafe<unknown>()
    // These callers don't yield, and their handlers do before they begin: four have a place, and none has its permit.
    for (let i = 0; i < 6; i++) {
      Effect.runFork(
        send(router, () =>
          Effect.andThen(
            Effect.sync(() => order.push(i)),
            Deferred.await(gate)
          )
        )
      )
    }
    assert.deepInclude(router.state, { running: 4, queued: 2 })
    Effect.runFork(router.resize(2))
    world.turns.takeAll()
    assert.deepInclude(router.state, { running: 2, queued: 4 })
    Deferred.doneUnsafe(gate, Exit.void)
    world.turns.takeAll()
    assert.deepInclude(router.state, { running: 0, queued: 0, completed: 6 })
    assert.deepStrictEqual(order, [0, 1, 2, 3, 4, 5])
  })

  describe("with 10,000 callers waiting", () => {
    const handlers = { "at once": Effect.void, "in turns": Effect.yieldNow }
    for (const [how, work] of Object.entries(handlers)) {
      it.effect(`drains them when their handlers end ${how}, and other fibers get turns`, () =>
        Effect.gen(function* () {
          const { run } = yield* Job
          const gate = yield* Deferred.make<void>()
          let ticks = 0
          let most = 0
          let done = 0
          let before = 0
          yield* call(run(Deferred.await(gate)))
          const callers = yield* Effect.forEach(Array.from({ length: 10_000 }), () =>
            call(
              Effect.andThen(
                run(work),
                Effect.sync(() => done++)
              )
            )
          )
          assert.strictEqual((yield* Job.state).queued, 10_000)
          const tick = Effect.sync(() => {
            ticks++
            most = Math.max(most, done - before)
            before = done
          })
          yield* call(Effect.forever(Effect.andThen(tick, Effect.yieldNow)))
          yield* Deferred.succeed(gate, undefined)
          for (const caller of callers) yield* Fiber.join(caller)
          assert.deepInclude(yield* Job.state, { queued: 0, running: 0, completed: 10_001 })
          assert.isAtLeast(ticks, 4)
          // Two rounds of 1,024: on this clock, which stands still, a turn is bounded by their number alone.
          assert.isAtMost(most, 2100, "callers answered between two turns of another fiber")
        }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: Infinity })))
      )
    }

    it.live("gives other fibers a turn every few milliseconds when their handlers keep the loop busy", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const gate = yield* Deferred.make<void>()
        const busy = Effect.sync(() => {
          const until = performance.now() + 1
          while (performance.now() < until);
        })
        yield* call(run(Deferred.await(gate)))
        const callers = yield* Effect.forEach(Array.from({ length: 200 }), () => call(run(busy)))
        let ticks = 0
        yield* call(
          Effect.forever(
            Effect.andThen(
              Effect.sync(() => ticks++),
              Effect.yieldNow
            )
          )
        )
        yield* Deferred.succeed(gate, undefined)
        for (const caller of callers) yield* Fiber.join(caller)
        assert.isAtLeast(ticks, 20)
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: Infinity })))
    )

    it.effect("drops them all when they leave or expire at once", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const gate = yield* Deferred.make<void>()
        yield* call(run(Deferred.await(gate)))
        const leaving = yield* Effect.forEach(Array.from({ length: 5000 }), () => call(run(Effect.void)))
        const late = yield* Effect.forEach(Array.from({ length: 5000 }), () =>
          call(run(Effect.void, { timeout: "1 second" }))
        )
        yield* Fiber.interruptAll(leaving)
        assert.deepInclude(yield* Job.state, { queued: 5000, cancelled: 5000 })
        yield* TestClock.adjust("1 second")
        assert.isTrue(late.every(isDone))
        assert.deepInclude(yield* Job.state, { queued: 0, running: 1, expired: 5000 })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: Infinity })))
    )
  })

  it.prop("conserves requests and permits at every step of any schedule", [Plan], ([plan]) => play(plan), {
    arbitrary: { runs: 1000, size: 60, seed: 1 },
    timeout: 60_000
  })
})
