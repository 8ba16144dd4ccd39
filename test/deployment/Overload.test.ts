/**
 * Seen red for each of these mutations. Router: late ones get a permit, or aren't told when to come back, or the wrong stage;
 * a timeout in the queue doesn't shed, leaves the request in the queue, or goes on while it runs;
 * what is shed isn't counted, or stays in the count of those that wait; service times are learnt from failures or
 * from what was stopped, or not at all; the queue doesn't know the permits, the discipline or the fairness; the state shows
 * no priorities, no overload, other options. Refusals: no jitter, jitter from 0, a drain time that is always the same. Tally:
 * the wrong reason. Places: an adaptive limit that starts at the maximum, ignores the minimum, isn't told of successes,
 * doesn't reach the replica, or wakes no one.
 */
import { assert, describe, it } from "@effect/vitest"
import { ServeError } from "effect-serve"
import { Deferred, Duration, Effect, Fiber, Metric, Random } from "effect"
import { TestClock } from "effect/testing"
import { answered, Broken, call, isDone, Job, jobLayer, reason, settle } from "../deployments.ts"

const hundred = Effect.sleep("100 millis")

/** Lets the deployment learn that its requests take 100 ms. */
const learn = Effect.gen(function* () {
  const { run } = yield* Job
  const caller = yield* call(run(hundred))
  yield* TestClock.adjust("100 millis")
  yield* Fiber.join(caller)
})

/** Takes a permit until it is told to give it back. */
const occupy = Effect.gen(function* () {
  const { run } = yield* Job
  const gate = yield* Deferred.make<void>()
  yield* call(run(Deferred.await(gate)))
  return { release: Effect.andThen(Deferred.succeed(gate, undefined), settle) }
})

/** Lets so many callers wait, who have no deadline that matters. */
const wait = (count: number, options: Parameters<Job["Service"]["run"]>[1] = {}) =>
  Effect.gen(function* () {
    const { run } = yield* Job
    return yield* Effect.forEach(Array.from({ length: count }), () => call(run(hundred, options)))
  })

const retryAfterOf = (reason: ServeError.Reason): number => {
  assert.isTrue("retryAfter" in reason && reason.retryAfter !== undefined, `${reason._tag} says when to come back`)
  return Duration.toMillis((reason as ServeError.QueueFull).retryAfter)
}

const assertJittered = (retryAfters: ReadonlyArray<number>, drainTime: number) => {
  for (const retryAfter of retryAfters) {
    assert.isAtLeast(retryAfter, drainTime)
    assert.isAtMost(retryAfter, 2 * drainTime)
  }
  assert.isAbove(new Set(retryAfters).size, retryAfters.length / 2, "not all come back together")
  assert.isAbove(Math.max(...retryAfters) - Math.min(...retryAfters), drainTime / 4)
}

const counter = (name: string, why?: string) =>
  Effect.map(
    Metric.snapshot,
    (metrics) =>
      metrics.find(
        ({ attributes, id }) =>
          id === name &&
          attributes?.["deployment"] === "Job" &&
          attributes["method"] === "run" &&
          (attributes["why"] ?? attributes["reason"]) === why
      )?.state
  )

const many = <E, R>(one: Effect.Effect<ServeError.Reason, E, R>) =>
  Effect.map(Effect.all(Array.from({ length: 20 }, () => one)), (reasons) => reasons.map(retryAfterOf))

const ranked = (options: Parameters<typeof jobLayer>[0], calls: ReadonlyArray<Parameters<Job["Service"]["run"]>[1]>) =>
  Effect.gen(function* () {
    const { run } = yield* Job
    yield* learn
    const { release } = yield* occupy
    const order: Array<number> = []
    for (const [i, options] of calls.entries()) {
      yield* call(
        run(
          Effect.andThen(
            hundred,
            Effect.sync(() => order.push(i))
          ),
          options
        )
      )
    }
    yield* TestClock.adjust("100 millis")
    yield* release
    yield* TestClock.adjust("2 seconds")
    return order
  }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, ...options })))

const limit = Effect.map(Job.state, ({ replicas }) => replicas[0]!.maxOngoingRequests)

/** So many callers, each of whom comes again at once; returns how many run at the moment. */
const crowd = (callers: number, timeOf: (running: number) => number) =>
  Effect.gen(function* () {
    const { run } = yield* Job
    let running = 0
    const work = Effect.suspend(() => {
      running++
      return Effect.ensuring(
        Effect.sleep(timeOf(running)),
        Effect.sync(() => running--)
      )
    })
    yield* Effect.forEach(Array.from({ length: callers }), () => call(Effect.forever(run(work))))
    return () => running
  })

/** The limits of so many seconds, each of which must be what really runs. */
const watch = (seconds: number, running: () => number) =>
  Effect.gen(function* () {
    const limits: Array<number> = []
    for (let second = 0; second < seconds; second++) {
      yield* TestClock.adjust("1 second")
      const now = yield* limit
      limits.push(now)
      assert.strictEqual((yield* Job.state).running, running())
      // A limit that has come down waits for requests to end.
      if (limits.at(-2)! <= now) assert.strictEqual(running(), now, "those who wait get a raised limit at once")
    }
    return limits
  })

describe("Deployment", () => {
  describe("a deadline", () => {
    const oneAtATime = jobLayer({ maxOngoingRequests: 1, requestTimeout: Infinity })

    it.effect("that the queue ahead leaves no time for is refused at once", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* learn
        yield* occupy
        yield* wait(4)
        // Twice 400 ms of waiting, and a little more than 100 ms of work.
        const late = yield* reason(run(Effect.die("ran"), { timeout: "900 millis" }))
        assert.deepInclude(late, { _tag: "DeadlineExceeded", deployment: "Job", stage: "admission" })
        yield* call(run(hundred, { timeout: "910 millis" }))
        assert.deepInclude(yield* Job.state, { queued: 5, rejected: 1, expired: 0 })
        assert.deepStrictEqual((yield* Job.state).rejections, { DeadlineExceeded: 1 })
        assert.deepInclude(yield* counter("serve_requests_rejected_total", "DeadlineExceeded"), { count: 1 })
      }).pipe(Effect.provide(oneAtATime))
    )

    it.effect("counts only the work that goes first", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* learn
        yield* occupy
        yield* wait(10, { priority: "sheddable" })
        yield* wait(1, { priority: "critical" })
        assert.strictEqual(
          (yield* reason(run(hundred, { timeout: "300 millis", priority: "critical" })))._tag,
          "DeadlineExceeded"
        )
        assert.isFalse(isDone(yield* call(run(hundred, { timeout: "310 millis", priority: "critical" }))))
      }).pipe(Effect.provide(oneAtATime))
    )

    it.effect("is nobody's concern while service times are not known", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* occupy
        yield* wait(50)
        assert.isFalse(isDone(yield* call(run(hundred, { timeout: "1 millis" }))))
      }).pipe(Effect.provide(oneAtATime))
    )

    it.effect("is judged by the time of those that succeeded, and of no others", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* learn
        for (let i = 0; i < 50; i++) {
          yield* Effect.exit(run(Effect.fail(new Broken({ part: "wheel" }))))
          yield* Effect.exit(run(Effect.die("boom")))
          const leaving = yield* call(run(Effect.never))
          yield* TestClock.adjust("1 millis")
          yield* Fiber.interrupt(leaving)
          const expiring = yield* call(run(Effect.never, { timeout: "7 seconds" }))
          yield* TestClock.adjust("7 seconds")
          yield* Fiber.await(expiring)
        }
        assert.deepInclude(yield* Job.state, { completed: 1, failed: 100, cancelled: 50, expired: 50 })
        yield* occupy
        yield* wait(4)
        assert.strictEqual((yield* reason(run(hundred, { timeout: "900 millis" })))._tag, "DeadlineExceeded")
        assert.isFalse(isDone(yield* call(run(hundred, { timeout: "910 millis" }))))
      }).pipe(Effect.provide(oneAtATime))
    )

    it.effect("is judged by what the replicas can do together", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* learn
        for (let i = 0; i < 4; i++) yield* occupy
        yield* wait(4)
        assert.strictEqual((yield* reason(run(hundred, { timeout: "300 millis" })))._tag, "DeadlineExceeded")
        assert.isFalse(isDone(yield* call(run(hundred, { timeout: "310 millis" }))))
      }).pipe(Effect.provide(jobLayer({ replicas: 2, maxOngoingRequests: 2, requestTimeout: Infinity })))
    )

    it.effect("that can't be met any more when its turn comes costs no permit", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* learn
        const { release } = yield* occupy
        let ran = 0
        const late = yield* call(
          run(
            Effect.sync(() => ran++),
            { timeout: "1 second" }
          )
        )
        const next = yield* call(run(Effect.succeed("next")))
        yield* TestClock.adjust("950 millis")
        assert.isFalse(isDone(late))
        yield* release
        const given = yield* answered(late)
        assert.deepInclude(given, { _tag: "DeadlineExceeded", stage: "queue" })
        retryAfterOf(given)
        assert.strictEqual(yield* Fiber.join(next), "next")
        assert.strictEqual(ran, 0)
        assert.deepInclude(yield* Job.state, { expired: 1, completed: 3, running: 0, queued: 0, rejected: 0 })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, requestTimeout: Infinity, queueDiscipline: "fifo" })))
    )

    it.effect("says when to come back only where it was the load that left no time", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        assert.notProperty(yield* reason(run(Effect.void, { timeout: 0 })), "retryAfter")
        const slow = yield* call(run(Effect.never, { timeout: "1 second" }))
        yield* TestClock.adjust("1 second")
        const given = yield* answered(slow)
        assert.deepInclude(given, { stage: "handler" })
        assert.notProperty(given, "retryAfter")
      }).pipe(Effect.provide(oneAtATime))
    )
  })

  describe("a request that is shed", () => {
    it.effect("has waited for most of its time, and is told so", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* learn
        yield* occupy
        const caller = yield* call(run(Effect.die("ran"), { timeout: "1 second" }))
        const critical = yield* call(run(Effect.die("ran"), { timeout: "1 second", priority: "critical" }))
        yield* TestClock.adjust("649 millis")
        assert.isFalse(isDone(caller))
        yield* TestClock.adjust("1 millis")
        const shed = yield* answered(caller)
        assert.deepInclude(shed, { _tag: "Shed", deployment: "Job" })
        assert.include((shed as ServeError.Shed).why, "waited for too long")
        assert.isFalse(isDone(critical))
        const state = yield* Job.state
        assert.deepStrictEqual(state.shed, { queueTimeout: 1, displaced: 0 })
        assert.deepInclude(state, { failed: 1, rejected: 0, expired: 0, queued: 1 })
        assert.deepInclude(yield* counter("serve_requests_shed_total", "queueTimeout"), { count: 1 })
        assert.deepInclude(yield* counter("serve_requests_shed_total", "displaced"), { count: 0 })
        assert.deepInclude(yield* counter("serve_requests_queued"), { value: 1 })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("is never one that had its turn in time, however long it then runs", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* learn
        const { release } = yield* occupy
        const caller = yield* call(run(Effect.as(Effect.sleep("800 millis"), "done"), { timeout: "1 second" }))
        yield* TestClock.adjust("100 millis")
        yield* release
        yield* TestClock.adjust("799 millis")
        assert.isFalse(isDone(caller))
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(yield* Fiber.join(caller), "done")
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("gives its place in a full queue to a more important one", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const { release } = yield* occupy
        const sheddable = yield* wait(2, { priority: "sheddable" })
        const critical = yield* call(run(Effect.succeed("critical"), { priority: "critical" }))
        assert.deepStrictEqual(sheddable.map(isDone), [false, true])
        const shed = yield* answered(sheddable[1]!)
        assert.deepInclude(shed, { _tag: "Shed", deployment: "Job" })
        assert.include((shed as ServeError.Shed).why, "full")
        assert.deepStrictEqual((yield* Job.state).waiting, { critical: 1, default: 0, sheddable: 1 })
        // One that is no more important than the others has no right to a place.
        assert.strictEqual((yield* reason(run(Effect.void, { priority: "sheddable" })))._tag, "QueueFull")
        const state = yield* Job.state
        assert.deepStrictEqual(state.shed, { queueTimeout: 0, displaced: 1 })
        assert.deepStrictEqual(state.rejections, { QueueFull: 1 })
        assert.deepInclude(state, { accepted: 4, rejected: 1, failed: 1, queued: 2, running: 1 })
        assert.deepInclude(yield* counter("serve_requests_shed_total", "displaced"), { count: 1 })
        yield* release
        assert.strictEqual(yield* Fiber.join(critical), "critical")
        yield* TestClock.adjust("100 millis")
        assert.isTrue(isDone(sheddable[0]!))
        assert.deepInclude(yield* Job.state, { running: 0, queued: 0, completed: 3 })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: 2 })))
    )
  })

  describe("retryAfter", () => {
    it.effect("is the time in which a full queue drains, and up to twice that", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* learn
        yield* occupy
        yield* occupy
        yield* wait(5)
        // Six of them at 100 ms each, two at a time.
        const full = reason(run(Effect.void))
        assert.strictEqual((yield* full)._tag, "QueueFull")
        assertJittered(yield* many(full), 300)
      }).pipe(Random.withSeed("full"), Effect.provide(jobLayer({ maxOngoingRequests: 2, maxQueuedRequests: 5 })))
    )

    it.effect("goes by one second per request while service times are not known", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* occupy
        yield* wait(3)
        assertJittered(yield* many(reason(run(Effect.void))), 4000)
      }).pipe(Random.withSeed("unknown"), Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: 3 })))
    )

    it.effect("is the same for a deadline that can't be met", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* learn
        yield* occupy
        yield* wait(9)
        assertJittered(yield* many(reason(run(hundred, { timeout: "1 second" }))), 1000)
      }).pipe(Random.withSeed("late"), Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("is that of its own line for a request that gave its place away", () =>
      Effect.gen(function* () {
        yield* learn
        yield* occupy
        const sheddable = yield* wait(20, { priority: "sheddable" })
        yield* wait(20, { priority: "critical" })
        // The first one of them leaves last.
        for (const [before, caller] of sheddable.entries()) {
          assert.isTrue(isDone(caller))
          const retryAfter = retryAfterOf(yield* answered(caller))
          assert.isAtLeast(retryAfter, 100 * (before + 1))
          assert.isAtMost(retryAfter, 200 * (before + 1))
        }
      }).pipe(Random.withSeed("displaced"), Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: 20 })))
    )

    it.effect("is there while there are no replicas", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const refused = reason(run(Effect.void))
        assertJittered(yield* many(refused), 1000)
        assert.deepStrictEqual((yield* Job.state).rejections, { Unavailable: 20 })
        assert.deepInclude(yield* refused, { _tag: "Unavailable", why: "noReplicas" })
      }).pipe(Random.withSeed("none"), Effect.provide(jobLayer({ replicas: 0 })))
    )
  })

  describe("state", () => {
    it.effect("shows who waits by priority, and whether more comes than is served", () =>
      Effect.gen(function* () {
        yield* learn
        const { release } = yield* occupy
        yield* wait(3, { priority: "critical" })
        yield* wait(20)
        yield* wait(2, { priority: "sheddable" })
        assert.deepInclude(yield* Job.state, { queued: 25, overloaded: false })
        assert.deepStrictEqual((yield* Job.state).waiting, { critical: 3, default: 20, sheddable: 2 })
        yield* TestClock.adjust("501 millis")
        assert.isTrue((yield* Job.state).overloaded)
        yield* release
        yield* TestClock.adjust("10 seconds")
        assert.deepInclude(yield* Job.state, { queued: 0, overloaded: false })
        assert.deepStrictEqual((yield* Job.state).waiting, { critical: 0, default: 0, sheddable: 0 })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("shows every option", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual((yield* Job.state).options, {
          replicas: 2,
          maxOngoingRequests: 7,
          maxQueuedRequests: 11,
          queueDiscipline: "edf",
          fairness: "tenant",
          concurrencyLimit: "adaptive",
          minOngoingRequests: 3,
          outlierEjection: false,
          releasePermit: "end",
          requestTimeout: Duration.seconds(9),
          gracefulShutdownTimeout: Duration.seconds(0)
        })
      }).pipe(
        Effect.provide(
          jobLayer({
            replicas: 2,
            maxOngoingRequests: 7,
            maxQueuedRequests: 11,
            queueDiscipline: "edf",
            fairness: "tenant",
            concurrencyLimit: "adaptive",
            minOngoingRequests: 3,
            outlierEjection: false,
            requestTimeout: "9 seconds"
          })
        )
      )
    )
  })

  describe("options", () => {
    it.effect("queueDiscipline says who is next", () =>
      Effect.gen(function* () {
        const calls = [{ timeout: "9 seconds" }, { timeout: "3 seconds" }, { timeout: "6 seconds" }] as const
        assert.deepStrictEqual(yield* ranked({ queueDiscipline: "fifo" }, calls), [0, 1, 2])
        assert.deepStrictEqual(yield* ranked({ queueDiscipline: "edf" }, calls), [1, 2, 0])
      })
    )

    it.effect("fairness shares the turns among tenants", () =>
      Effect.gen(function* () {
        const calls = [{ tenant: "hog" }, { tenant: "hog" }, { tenant: "hog" }, { tenant: "mouse" }] as const
        assert.deepStrictEqual(yield* ranked({ fairness: "none" }, calls), [0, 1, 2, 3])
        assert.deepStrictEqual((yield* ranked({ fairness: "tenant" }, calls)).slice(0, 2), [0, 3])
      })
    )
  })

  describe("concurrencyLimit", () => {
    for (const [min, max, start] of [
      [1, 64, 20],
      [1, 8, 8],
      [30, 64, 30]
    ] as const) {
      it.effect(`"adaptive" starts at ${start} between ${min} and ${max}`, () =>
        Effect.gen(function* () {
          const running = yield* crowd(100, () => 100)
          assert.strictEqual(yield* limit, start)
          assert.strictEqual(running(), start)
        }).pipe(
          Effect.provide(jobLayer({ concurrencyLimit: "adaptive", minOngoingRequests: min, maxOngoingRequests: max }))
        )
      )
    }

    it.effect('"adaptive" rises while more requests bring more throughput, to maxOngoingRequests', () =>
      Effect.gen(function* () {
        const running = yield* crowd(100, () => 100)
        const limits = yield* watch(60, running)
        assert.isAtMost(Math.max(...limits), 40)
        assert.strictEqual(Math.max(...limits), 40)
      }).pipe(
        Random.withSeed("rise"),
        Effect.provide(jobLayer({ concurrencyLimit: "adaptive", maxOngoingRequests: 40 }))
      )
    )

    it.effect('"adaptive" falls while they bring none, to minOngoingRequests', () =>
      Effect.gen(function* () {
        // No more than ten at a time get anywhere.
        const running = yield* crowd(100, (ongoing) => 10 * Math.max(ongoing, 10))
        const limits = yield* watch(120, running)
        assert.isBelow(limits.at(-1)!, 20)
        assert.isAtLeast(Math.min(...limits), 14)
        assert.isAtMost(Math.max(...limits), 40)
        assert.include(limits, 14)
      }).pipe(
        Random.withSeed("fall"),
        Effect.provide(jobLayer({ concurrencyLimit: "adaptive", minOngoingRequests: 14, maxOngoingRequests: 40 }))
      )
    )

    it.effect('"fixed" stays where it is', () =>
      Effect.gen(function* () {
        const running = yield* crowd(100, (ongoing) => 10 * ongoing)
        assert.deepStrictEqual(new Set(yield* watch(30, running)), new Set([30]))
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 30 })))
    )
  })
})
