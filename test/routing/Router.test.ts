/**
 * Seen red ("conserves requests and permits") for each of these mutations: a second reason to stop replaces the first;
 * a request handed back is not settled although its caller left, or is not watched; a deadline that passed before the
 * hand-over is ignored, or isn't settled; an expiry stops what is already stopping; a caller that leaves doesn't wait for
 * its work; the alarm isn't set again; a resize wakes no one or doesn't reach the places; a
 * free permit wakes no one. Others are red in the examples: no order among those handed back, waiting twice for one
 * permit, hand-overs without a turn for others, the permit not taken, the place not given back, `whenFree` that never is.
 * A blocked replica that isn't closed makes the router spin. Interrupting a handler whose caller left while it started
 * stays green when removed from `start`: the caller's own cancellation does it again.
 *
 * Of replicas that leave and of shedding, red for the property too: late ones get a permit; what was struck stays in the
 * queue; what is displaced isn't told; what is shed isn't counted; a permit isn't given back; leaving keeps the place in service; a replica that
 * joins keeps its own permits; an ejection isn't forgotten with its replica. Red in the examples: what had begun is sent to
 * another replica, or what failed for any reason, or twice, or beyond the budget, or without being counted, or requests
 * don't pay into the budget; leaving loses what hadn't begun, what others run, or nothing; what is lost is told the wrong
 * `started`; a replica that has left runs on.
 *
 * Of replicas that can't be reached, red in the examples: what comes when it is cut off waits, or what waited does, or what comes back does; it
 * stays cut off when one joins; a lost connection is no lost replica, or sends what had begun, or without the budget, or more than once; one that has
 * left is chosen again; retiring sends on, or loses what runs; a limit that is infinite is none for `QueueFull`.
 */
import { assert, describe, it } from "@effect/vitest"
import { ServeError } from "effect-serve"
import { Cause, Deferred, Effect, Exit, Fiber, Schema } from "effect"
import { TestClock } from "effect/testing"
import type { Replica } from "../../src/replica/Replica.ts"
import type { Router } from "../../src/routing/Router.ts"
import { call, isDone, Job, jobLayer } from "../deployments.ts"
import { fake, halting, makeWorld, send, smooth, type Work } from "./routers.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Step = Schema.Struct({
  name: Schema.Literals([
    "start",
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
    "leave",
    "replace",
    "burst",
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
  queueDiscipline: Schema.Literals(["adaptive", "fifo", "edf"]),
  fairness: Schema.Literals(["none", "tenant"]),
  priorities: Schema.Literals([1, 3]),
  concurrencyLimit: Schema.Literals(["fixed", "adaptive"]),
  outlierEjection: Schema.Boolean,
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
  /** How often a replica began with it, and how often its handler ran. */
  begun: number
  entered: number
  running: boolean
  offered: boolean
  left: boolean
  answers: Array<{ readonly kind: Kind; readonly reason: ServeError.Reason | undefined }>
  fiber: Fiber.Fiber<unknown, unknown> | undefined
}

/** One replica of the model; another one takes its place when it has left. */
interface Life {
  readonly place: number
  readonly replica: Replica
  readonly leave: Effect.Effect<void>
  /** Lets another one take its place. */
  readonly next: Deferred.Deferred<void>
  leaving: boolean
  left: boolean
  active: number
}

const reasonOf = (exit: Exit.Exit<unknown, unknown>): ServeError.Reason | undefined => {
  if (Exit.isSuccess(exit)) return undefined
  const error = Cause.squash(exit.cause)
  return error instanceof ServeError.ServeError ? error.reason : undefined
}

const kindOf = (exit: Exit.Exit<unknown, unknown>): Kind => {
  if (Exit.isSuccess(exit)) return "completed"
  const reason = reasonOf(exit)
  if (reason === undefined || reason._tag === "Shed" || reason._tag === "ReplicaLost") return "failed"
  return reason._tag === "DeadlineExceeded" && reason.stage !== "admission" ? "expired" : "rejected"
}

/** Plays a plan against routers, and checks after every step what must hold at every instant. */
const play = (plan: typeof Plan.Type): void => {
  // Where fibers yield between a free permit and the call, two routers can take it from each other for ever.
  const pace = plan.routers === 1 ? plan : smooth
  const world = makeWorld(pace)
  const { turns } = world
  /** What went wrong where an assertion would only have failed a handler. */
  const wrong: Array<string> = []

  const birth = (place: number): Effect.Effect<Life> => {
    let life: Life | undefined = undefined
    const { leave, start } = world.mortal({
      id: `#${place}`,
      permits: plan.permits,
      run: (work) => {
        if (life!.left) wrong.push("a replica that has left starts nothing")
        return work(lives.indexOf(life!))
      },
      onLeft: () => (life!.left = true)
    })
    return Effect.map(start, (replica) => {
      life = { place, replica, leave, next: Deferred.makeUnsafe(), leaving: false, left: false, active: 0 }
      lives.push(life)
      return life
    })
  }
  const lives: Array<Life> = []
  const places = Array.from({ length: plan.replicas }, (_, place) => world.perform(birth(place)))
  const routers = Array.from({ length: plan.routers }, () =>
    world.router({
      ...plan,
      // An adaptive limit resizes the replica, which belongs to both.
      concurrencyLimit: plan.routers === 1 ? plan.concurrencyLimit : "fixed",
      replicas: places.map(({ replica }) => replica),
      maxOngoingRequests: plan.permits,
      maxQueuedRequests: plan.places
    })
  )
  const keepReplaced = (place: number): Effect.Effect<never> => {
    const { next, replica } = places[place]!
    return replica.left.pipe(
      Effect.andThen(Effect.sync(() => routers.forEach((router) => router.leave(place)))),
      Effect.andThen(Deferred.await(next)),
      Effect.andThen(birth(place)),
      Effect.tap((life) => {
        places[place] = life
        return Effect.forEach(routers, (router) => router.join(place, life.replica))
      }),
      Effect.flatMap(() => keepReplaced(place))
    )
  }
  places.forEach((_, place) => world.fork(keepReplaced(place)))
  turns.takeAll()

  const sent: Array<Sent> = []
  const entries: Array<Sent> = []
  let resizing = world.fork(Effect.void)
  let allowed = places.map(() => plan.permits as number)

  const handler =
    (request: Sent, body: (life: Life) => Effect.Effect<unknown, unknown>): Work =>
    (index) => {
      const life = lives[index]!
      if (++request.begun > 1) wrong.push("no request starts twice")
      if (request.answers.length > 0) wrong.push("nothing starts after its caller was answered")
      // Where a fiber yields before it begins, time can pass meanwhile.
      if (!pace.lateStart && pace.maxOpsBeforeYield === 2048 && world.now() >= request.deadline) {
        wrong.push("no handler starts after its deadline")
      }
      return Effect.acquireUseRelease(
        Effect.sync(() => {
          request.entered++
          entries.push(request)
          life.active++
          request.running = true
        }),
        () => body(life),
        () =>
          Effect.sync(() => {
            life.active--
            request.running = false
          })
      )
    }

  const submit = (
    at: number,
    timeout: number,
    bodyOf: (gate: Effect.Effect<unknown, unknown>) => (life: Life) => Effect.Effect<unknown, unknown>
  ) => {
    const gate = Deferred.makeUnsafe<unknown, unknown>()
    const request: Sent = {
      number: sent.length,
      router: at % routers.length,
      deadline: world.now() + timeout,
      gate,
      begun: 0,
      entered: 0,
      running: false,
      offered: false,
      left: false,
      answers: [],
      fiber: undefined
    }
    sent.push(request)
    request.fiber = world.fork(
      send(routers[request.router]!, handler(request, bodyOf(Deferred.await(gate))), {
        deadline: request.deadline,
        call: {
          ...(plan.priorities === 3 && { priority: (["critical", "default", "sheddable"] as const)[at % 3]! }),
          ...(at % 5 < 2 && { tenant: ["one", "other"][at % 5]! })
        },
        onOffer: () => (request.offered = true),
        onAnswer: (exit, { stopping }) => {
          const reason = reasonOf(exit)
          if (reason?._tag === "ReplicaLost") {
            // Whoever left, or was told of a deadline, isn't told that the replica has left as well.
            if (stopping === "cancelled" || request.answers.length > 0) return
            if (reason.started !== request.begun > 0)
              wrong.push("whoever loses a replica is told whether it had started")
          }
          request.answers.push({ kind: kindOf(exit), reason })
        }
      })
    )
  }

  const start = (at: number) =>
    submit(at, [Infinity, Infinity, 0, 3, 70, 900][at % 6]!, (wait) => {
      const bodies = [wait, wait, wait, Effect.uninterruptible(wait), Effect.yieldNow, Effect.void, Effect.interrupt]
      return () => bodies[Math.floor(at / 6) % bodies.length]!
    })

  /** One place fails what the others do. */
  const burst = (at: number) => {
    for (let i = 0; i < 24; i++) {
      submit(
        at + i,
        Infinity,
        () =>
          ({ place }) =>
            place === at % places.length ? Effect.fail("bad") : Effect.void
      )
    }
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
    check()
    allowed = allowed.map((old, i) => Math.max(old, routers[0]!.state.replicas[i]!.maxOngoingRequests))
    resizing = world.fork(routers[0]!.resize(to))
  }

  const leave = (at: number) => {
    const life = places[at % places.length]!
    if (life.leaving) return
    life.leaving = true
    world.fork(life.leave)
  }

  const replace = (at: number) => {
    const gone = places.filter((life) => life.leaving)
    if (gone.length > 0) Deferred.doneUnsafe(gone[at % gone.length]!.next, Exit.void)
  }

  const activeAt = (place: number) => sum(lives.filter((life) => life.place === place).map(({ active }) => active))

  const check = () => {
    assert.deepStrictEqual(wrong, [])
    routers.forEach((router, i) =>
      checkConservation(
        router,
        sent.filter((request) => request.router === i)
      )
    )
    places.forEach((life, i) => {
      const limit = routers[0]!.state.replicas[i]!.maxOngoingRequests
      const most = Math.max(limit, allowed[i]!)
      const taken = sum(routers.map(({ state }) => state.replicas[i]!.running))
      assert.isAtMost(life.active, most, "no replica runs more than it may")
      assert.isAtLeast(taken, activeAt(i), "what runs was given a place")
      if (routers.length > 1) return
      assert.isAtMost(taken, most, "no replica is given more than it may run")
      // After a resize down, what runs there only falls.
      if (resizing.pollUnsafe() !== undefined) allowed[i] = Math.max(limit, taken)
    })
  }

  /** Once every fiber has come as far as it can: nobody waits while there is a permit. */
  const checkSettled = () => {
    turns.takeAll()
    check()
    for (const router of routers) {
      const { queued, replicas, running } = router.state
      const count = (status: string) => replicas.filter((replica) => replica.status === status).length
      assert.deepStrictEqual(
        replicas.map(({ status }) => status === "Left"),
        places.map(({ left }) => left)
      )
      assert.isAtMost(count("Ejected"), Math.floor(replicas.length / 2))
      const mostAreOut = (count("Ejected") + count("Left")) * 2 > replicas.length
      const usable = replicas.filter(
        ({ maxOngoingRequests, status, ...replica }, i) =>
          (status === "Ready" || (status === "Ejected" && mostAreOut)) &&
          replica.running < maxOngoingRequests &&
          places[i]!.active < maxOngoingRequests
      )
      assert.isFalse(queued > 0 && usable.length > 0, `${queued} wait, and there is room on ${JSON.stringify(usable)}`)
      assert.strictEqual(running, sum(replicas.map((replica) => replica.running)))
    }
    assert.strictEqual(sum(lives.map(({ active }) => active)), sum(routers.map(({ state }) => state.running)))
  }

  const step = ({ at, name }: typeof Step.Type): void => {
    switch (name) {
      case "start":
        return start(at)
      case "burst":
        return burst(at)
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
      case "leave":
        return leave(at)
      case "replace":
        return replace(at)
      case "advance":
        return world.clock.advance([1, 2, 5, 64, 100, 1000, 7000][at % 7]!)
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
  const isSmooth = plan.maxOpsBeforeYield === 2048 && !plan.lateStart
  const inOrder = plan.queueDiscipline === "fifo" && plan.fairness === "none" && plan.priorities === 1
  if (isSmooth && inOrder && routers.length === 1) {
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

  // Everyone ends, on the replicas that are there by then; nothing is left.
  for (const { next } of places) Deferred.doneUnsafe(next, Exit.void)
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

  // And no permit is lost or doubled: once every ejection is over, the replicas fill up exactly.
  world.clock.advance(600_000)
  checkSettled()
  const limits = routers[0]!.state.replicas.map(({ maxOngoingRequests }) => maxOngoingRequests)
  const fill = Array.from({ length: sum(limits) + 1 }, () =>
    world.fork(
      send(routers[0]!, (index) =>
        Effect.acquireUseRelease(
          Effect.sync(() => lives[index]!.active++),
          () => Effect.never,
          () => Effect.sync(() => lives[index]!.active--)
        )
      )
    )
  )
  turns.takeAll()
  assert.deepStrictEqual(
    routers[0]!.state.replicas.map(({ running, status }) => ({ running, status })),
    limits.map((running) => ({ running, status: "Ready" as const }))
  )
  assert.deepStrictEqual(
    places.map(({ active }) => active),
    limits
  )
  assert.strictEqual(routers[0]!.state.queued, plan.places === 0 ? 0 : 1)
  for (const fiber of fill) fiber.interruptUnsafe()
  turns.takeAll()
  assert.strictEqual(sum(lives.map(({ active }) => active)), 0)
  assert.deepInclude(routers[0]!.state, { running: 0, queued: 0 })
}

const sum = (numbers: ReadonlyArray<number>) => numbers.reduce((total, n) => total + n, 0)

const checkConservation = ({ state }: Router, sent: ReadonlyArray<Sent>) => {
  const { accepted, cancelled, completed, expired, failed, queued, rejected, running, waiting } = state
  assert.strictEqual(
    accepted,
    completed + failed + cancelled + expired + queued + running,
    `accepted ${accepted} = ${completed} + ${failed} + ${cancelled} + ${expired} + ${queued} + ${running}`
  )
  assert.strictEqual(sent.filter(({ offered }) => offered).length, accepted + rejected)
  assert.strictEqual(sum(Object.values(waiting)), queued)
  assert.isTrue([accepted, rejected, queued, running].every((count) => count >= 0))
}

const checkEnd = ({ state }: Router, sent: ReadonlyArray<Sent>) => {
  const answers = sent.flatMap((request) => request.answers)
  const count = (kind: Kind) => answers.filter((answer) => answer.kind === kind).length
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
  assert.strictEqual(sum(Object.values(state.rejections)), rejected)
  assert.strictEqual(
    sum(Object.values(state.shed)),
    answers.filter(({ reason }) => reason?._tag === "Shed").length,
    "those that were shed were told so"
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

/** Replicas in the given number, each of which can leave, and callers that don't yield before they are in. */
const leaving = (count: number, { pace = halting, permits = 1, ...options } = {}) => {
  const world = makeWorld(pace)
  const lives = Array.from({ length: count }, (_, i) => {
    const { leave, start } = world.mortal({ id: `#${i}`, permits, run: (work) => work(i) })
    return { replica: world.perform(start), leave }
  })
  const router = world.router({
    replicas: lives.map(({ replica }) => replica),
    maxOngoingRequests: permits,
    maxQueuedRequests: Infinity,
    ...options
  })
  const leave = (place: number) => {
    world.turns.smoothly(() => Effect.runSync(lives[place]!.leave))
    router.leave(place)
  }
  const submit = (work: Work, options?: Parameters<typeof send>[2]) => Effect.runFork(send(router, work, options))
  return { ...world, router, leave, submit }
}

type Log = Array<readonly [request: number, place: number]>
const note = (log: Log, i: number) => (place: number) => Effect.sync(() => log.push([i, place]))

const lost = (started: boolean) =>
  Effect.fail(new ServeError.ServeError({ reason: new ServeError.ReplicaLost({ replica: "fake", started }) }))

const over = (...replicas: ReadonlyArray<Replica>) => {
  const world = makeWorld(smooth)
  return { ...world, router: world.router({ replicas, maxOngoingRequests: 5, maxQueuedRequests: Infinity }) }
}

const gone = (started: boolean) =>
  new ServeError.ServeError({
    reason: new ServeError.TransportError({ deployment: "Test", started, description: "it was lost" })
  })
/** A replica that ends what it runs when it is told to. */
const holding = (place: number) => {
  const gates: Array<Deferred.Deferred<unknown, unknown>> = []
  const replica = fake(place, (request) => {
    request.state = "Running"
    const gate = Deferred.makeUnsafe<unknown, unknown>()
    gates.push(gate)
    return Effect.asSome(Deferred.await(gate))
  })
  return { replica, gates }
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

  describe("over a replica that leaves", () => {
    it("runs what the replica had not begun on another one, before those that came later", () => {
      const { leave, router, submit, turns } = leaving(2)
      const log: Log = []
      const callers = [0, 1, 2, 3].map((i) => submit(note(log, i)))
      assert.deepInclude(router.state, { running: 2, queued: 2 })
      leave(0)
      turns.takeAll()
      assert.isTrue(log.every(([, place]) => place === 1))
      // The first two had a replica each, and whichever was left had its turn first.
      assert.deepStrictEqual(log.map(([i]) => i).slice(2), [2, 3])
      assert.isTrue(callers.every((caller) => Exit.isSuccess(caller.pollUnsafe()!)))
      assert.deepInclude(router.state, { rerouted: 1, completed: 4, failed: 0 })
    })

    it("fails what it runs at once, tells that it had begun, and never runs it again", () => {
      const { fork, leave, now, router, turns } = leaving(2, { pace: smooth })
      const gate = Deferred.makeUnsafe<unknown>()
      const log: Log = []
      const stubborn = (i: number) => (place: number) =>
        Effect.andThen(note(log, i)(place), Effect.uninterruptible(Deferred.await(gate)))
      const callers = [0, 1, 2].map((i) => fork(send(router, stubborn(i), { deadline: now() + 1000 })))
      const first = log[0]![1]
      leave(first)
      turns.takeAll()
      assert.deepInclude(reasonOf(callers[0]!.pollUnsafe()!), {
        _tag: "ReplicaLost",
        replica: `#${first}`,
        started: true
      })
      assert.isUndefined(callers[1]!.pollUnsafe())
      // The work can't stop, so it still counts.
      assert.deepInclude(router.state, { running: 2, queued: 1, failed: 0, rerouted: 0 })
      Deferred.doneUnsafe(gate, Exit.void)
      turns.takeAll()
      assert.deepInclude(router.state, { running: 0, queued: 0, failed: 1, completed: 2, rerouted: 0 })
      assert.deepStrictEqual(log, [
        [0, first],
        [1, 1 - first],
        [2, 1 - first]
      ])
    })

    it("keeps the deadline of what waits again", () => {
      const { clock, leave, now, router, submit, turns } = leaving(1)
      const caller = submit(() => Effect.void, { deadline: now() + 100 })
      leave(0)
      turns.takeAll()
      assert.deepInclude(router.state, { queued: 1, running: 0, rerouted: 1 })
      clock.advance(100)
      turns.takeAll()
      assert.deepInclude(reasonOf(caller.pollUnsafe()!), { _tag: "DeadlineExceeded", stage: "queue" })
    })

    it("forgets what waits again when its caller leaves", () => {
      const { leave, perform, router, submit, turns } = leaving(1)
      const caller = submit(() => Effect.die("ran"))
      leave(0)
      turns.takeAll()
      caller.interruptUnsafe()
      turns.takeAll()
      assert.deepInclude(router.state, { queued: 0, cancelled: 1 })
      perform(
        router.join(
          0,
          fake(0, () => Effect.succeedSome("done"))
        )
      )
      assert.deepInclude(router.state, { running: 0, completed: 0, failed: 0 })
    })

    it("runs what waits as soon as another replica joins", () => {
      const { fork, leave, perform, router, turns } = leaving(1, { pace: smooth, permits: 2 })
      leave(0)
      const callers = [0, 1, 2].map(() => fork(send(router, () => Effect.void)))
      turns.takeAll()
      assert.deepInclude(router.state, { queued: 3, rejected: 0 })
      perform(
        router.join(
          0,
          fake(0, ({ turn }) => Effect.succeedSome(turn))
        )
      )
      assert.deepStrictEqual(
        callers.map((caller) => caller.pollUnsafe()),
        [0, 1, 2].map((turn) => Exit.succeed(turn))
      )
    })

    it("sends a request to another replica only once", () => {
      let calls = 0
      const replica = (i: number) =>
        fake(i, () =>
          Effect.andThen(
            Effect.sync(() => calls++),
            lost(false)
          )
        )
      const { fork, router, turns } = over(replica(0), replica(1))
      const caller = fork(send(router, () => Effect.void))
      turns.takeAll()
      assert.deepInclude(reasonOf(caller.pollUnsafe()!), { _tag: "ReplicaLost", started: false })
      assert.strictEqual(calls, 2)
      assert.deepInclude(router.state, { rerouted: 1, failed: 1, running: 0, queued: 0 })
    })

    it("sends no more requests to another replica than the budget allows", () => {
      const seen = new Set<number>()
      const { clock, fork, router, turns } = over(
        fake(0, ({ turn }) =>
          seen.has(turn)
            ? Effect.succeedSome("done")
            : lost(false).pipe(Effect.tapError(() => Effect.sync(() => seen.add(turn))))
        )
      )
      const callers = Array.from({ length: 200 }, () => fork(send(router, () => Effect.void)))
      turns.takeAll()
      // 10 per second for 10 seconds, and 20 % of the requests.
      assert.deepInclude(router.state, { rerouted: 140, completed: 140, failed: 60 })
      const failures = callers.flatMap((caller) => reasonOf(caller.pollUnsafe()!) ?? [])
      assert.isTrue(failures.every((reason) => reason._tag === "ReplicaLost" && !reason.started))
      clock.advance(11_000)
      fork(send(router, () => Effect.void))
      turns.takeAll()
      assert.deepInclude(router.state, { rerouted: 141, completed: 141, failed: 60 })
    })

    it("never sends a request that had begun to another replica, whatever its replica says", () => {
      for (const started of [true, false]) {
        let calls = 0
        const replica = (i: number) =>
          fake(i, (request) => {
            calls++
            request.state = "Running"
            return lost(started)
          })
        const { fork, router, turns } = over(replica(0), replica(1))
        fork(send(router, () => Effect.void))
        turns.takeAll()
        assert.strictEqual(calls, 1)
        assert.deepInclude(router.state, { rerouted: 0, failed: 1 })
      }
    })

    it("doesn't run a handler again that fails because a replica of another deployment was lost", () => {
      const world = makeWorld(smooth)
      const router = world.router({ replicas: world.replicas(2, 1), maxOngoingRequests: 1, maxQueuedRequests: 1 })
      let runs = 0
      const caller = world.fork(
        send(router, () =>
          Effect.andThen(
            Effect.sync(() => runs++),
            lost(false)
          )
        )
      )
      world.turns.takeAll()
      assert.deepInclude(reasonOf(caller.pollUnsafe()!), { replica: "fake" })
      assert.strictEqual(runs, 1)
      assert.deepInclude(router.state, { rerouted: 0, failed: 1 })
    })

    it("fails at once for any other reason", () => {
      let calls = 0
      const unavailable = new ServeError.Unavailable({ deployment: "Other", why: "draining" })
      const { fork, router, turns } = over(
        fake(0, () => {
          calls++
          return Effect.fail(new ServeError.ServeError({ reason: unavailable }))
        })
      )
      fork(send(router, () => Effect.void))
      turns.takeAll()
      assert.strictEqual(calls, 1)
      assert.deepInclude(router.state, { rerouted: 0, failed: 1 })
    })
  })

  describe("over replicas that can't be reached at times", () => {
    it("lets a replica that retires finish what it runs, and sends it nothing more", () => {
      const [one, other] = [holding(0), holding(1)]
      const { fork, router, turns } = over(one.replica, other.replica)
      const callers = Array.from({ length: 6 }, () => fork(send(router, () => Effect.void)))
      const { length } = one.gates
      assert.isAbove(length, 0)
      router.retire(0)
      turns.takeAll()
      assert.deepInclude(router.state, { running: 6, queued: 0, failed: 0, rerouted: 0 })
      for (let i = 0; i < 20; i++) fork(send(router, () => Effect.void))
      turns.takeAll()
      assert.strictEqual(one.gates.length, length)
      assert.deepStrictEqual(
        router.state.replicas.map(({ status }) => status),
        ["Left", "Ready"]
      )
      for (const { gates } of [one, other]) {
        for (const gate of gates) Deferred.doneUnsafe(gate, Exit.succeed("done"))
      }
      turns.takeAll()
      assert.isTrue(callers.every((caller) => Exit.isSuccess(caller.pollUnsafe()!)))
      // Its permits don't come back to it.
      assert.strictEqual(one.gates.length, length)
    })

    it("lets requests wait when the last one has retired, until another one joins in its place", () => {
      const one = holding(0)
      const { fork, perform, router, turns } = over(one.replica)
      const running = fork(send(router, () => Effect.void))
      router.retire(0)
      const waiting = [0, 1, 2].map(() => fork(send(router, () => Effect.void)))
      turns.takeAll()
      assert.deepInclude(router.state, { running: 1, queued: 3, rejected: 0 })
      perform(
        router.join(
          0,
          fake(0, ({ turn }) => Effect.succeedSome(turn), { id: "#0 again" })
        )
      )
      turns.takeAll()
      assert.deepStrictEqual(
        waiting.map((caller) => caller.pollUnsafe()),
        [1, 2, 3].map((turn) => Exit.succeed(turn))
      )
      assert.deepInclude(router.state.replicas[0], { id: "#0 again", status: "Ready", running: 1 })
      // The one before still runs what it had.
      Deferred.doneUnsafe(one.gates[0]!, Exit.succeed("old"))
      turns.takeAll()
      assert.deepStrictEqual(running.pollUnsafe(), Exit.succeed("old"))
      assert.deepInclude(router.state, { running: 0, completed: 4, failed: 0 })
      assert.deepInclude(router.state.replicas[0], { running: 0 })
    })

    it("fails what waits when it is cut off, and what comes until one joins, and lets run what runs", () => {
      const one = holding(0)
      const { fork, perform, router, turns } = over(one.replica)
      const running = fork(send(router, () => Effect.void))
      router.retire(0)
      const waiting = [0, 1].map(() => fork(send(router, () => Effect.void)))
      turns.takeAll()
      const why = gone(false)
      router.cutOff(why)
      turns.takeAll()
      for (const caller of waiting) assert.deepStrictEqual(caller.pollUnsafe(), Exit.fail(why))
      assert.deepInclude(router.state, { running: 1, queued: 0, failed: 2, rejected: 0 })
      const late = fork(send(router, () => Effect.void))
      turns.takeAll()
      assert.deepStrictEqual(late.pollUnsafe(), Exit.fail(why))
      assert.deepInclude(router.state, { queued: 0, rejected: 1 })
      assert.deepInclude(router.state.rejections, { TransportError: 1 })
      assert.isUndefined(running.pollUnsafe())
      Deferred.doneUnsafe(one.gates[0]!, Exit.succeed("done"))
      turns.takeAll()
      assert.deepStrictEqual(running.pollUnsafe(), Exit.succeed("done"))

      perform(
        router.join(
          0,
          fake(0, () => Effect.succeedSome("again"))
        )
      )
      const after = fork(send(router, () => Effect.void))
      turns.takeAll()
      assert.deepStrictEqual(after.pollUnsafe(), Exit.succeed("again"))
    })

    it("lets nobody wait again when it is cut off", () => {
      const lose = Deferred.makeUnsafe<never, unknown>()
      const { fork, router, turns } = over(fake(0, () => Deferred.await(lose)))
      const caller = fork(send(router, () => Effect.void))
      router.retire(0)
      router.cutOff(gone(false))
      turns.takeAll()
      assert.isUndefined(caller.pollUnsafe())
      Deferred.doneUnsafe(lose, Exit.fail(gone(false)))
      turns.takeAll()
      assert.deepInclude(router.state, { queued: 0, running: 0 })
      assert.deepInclude(reasonOf(caller.pollUnsafe()!), { _tag: "TransportError", started: false })
    })

    it("sends what has not begun to another one, once", () => {
      let calls = 0
      const replica = (i: number) =>
        fake(i, () =>
          Effect.suspend(() => {
            calls++
            return Effect.fail(gone(false))
          })
        )
      const { fork, router, turns } = over(replica(0), replica(1), replica(2))
      const caller = fork(send(router, () => Effect.void))
      turns.takeAll()
      assert.strictEqual(calls, 2)
      assert.deepInclude(reasonOf(caller.pollUnsafe()!), { _tag: "TransportError", started: false })
      assert.deepInclude(router.state, { rerouted: 1, failed: 1, running: 0, queued: 0 })
    })

    it("sends no more of it to others than the budget allows", () => {
      const seen = new Set<number>()
      const { fork, router, turns } = over(
        fake(0, ({ turn }) =>
          Effect.suspend(() => {
            if (seen.has(turn)) return Effect.succeedSome("done")
            seen.add(turn)
            return Effect.fail(gone(false))
          })
        )
      )
      for (let i = 0; i < 200; i++) fork(send(router, () => Effect.void))
      turns.takeAll()
      assert.deepInclude(router.state, { rerouted: 140, completed: 140, failed: 60 })
    })

    it("never sends what has begun to another one, whatever is said of it", () => {
      for (const started of [true, false]) {
        let calls = 0
        const replica = (i: number) =>
          fake(i, (request) => {
            calls++
            request.state = "Running"
            return Effect.fail(gone(started))
          })
        const { fork, router, turns } = over(replica(0), replica(1))
        const caller = fork(send(router, () => Effect.void))
        turns.takeAll()
        assert.strictEqual(calls, 1)
        assert.deepInclude(reasonOf(caller.pollUnsafe()!), { _tag: "TransportError", started })
        assert.deepInclude(router.state, { rerouted: 0, failed: 1 })
      }
    })

    it("doesn't choose one again that says it has left", () => {
      const calls = [0, 0]
      const replicas = [0, 1].map((i) =>
        fake(
          i,
          () =>
            Effect.suspend(() => {
              calls[i]!++
              return i === 0 ? Effect.fail(gone(false)) : Effect.succeedSome("done")
            }),
          { hasLeft: () => i === 0 && calls[0]! > 0 }
        )
      )
      const { fork, router, turns } = over(...replicas)
      for (let i = 0; i < 50; i++) fork(send(router, () => Effect.void))
      turns.takeAll()
      assert.deepStrictEqual(calls, [1, 50])
      assert.deepInclude(router.state, { completed: 50, failed: 0 })
    })

    it("tells what is full of a router without a limit", () => {
      const world = makeWorld(smooth)
      const router = world.router({
        replicas: [fake(0, () => Effect.succeedNone)],
        maxOngoingRequests: Infinity,
        maxQueuedRequests: 1
      })
      const callers = [0, 1].map(() => world.fork(send(router, () => Effect.void)))
      world.turns.takeAll()
      assert.deepInclude(router.state, { queued: 1 })
      assert.deepInclude(reasonOf(callers[1]!.pollUnsafe()!), { _tag: "QueueFull", queued: 1, maxQueuedRequests: 1 })
    })
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
