import { assert, describe, it } from "@effect/vitest"
import { Deployment, RequestContext, ServeError } from "effect-serve"
import { Cause, Deferred, Duration, Effect, Exit, Fiber, Layer, Metric, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { answered, Broken, call, isDone, Job, jobLayer, open, Part, partLayer, reason, settle } from "../deployments.ts"

/** Work that lasts until the test says so, and notes when it starts and how it ends. */
const held = (name: string, log: Array<string> = []) => {
  const gate = Deferred.makeUnsafe<string, Broken>()
  const work = Effect.sync(() => log.push(`start ${name}`)).pipe(
    Effect.andThen(Deferred.await(gate)),
    Effect.onInterrupt(() => Effect.sync(() => log.push(`interrupt ${name}`)))
  )
  return { work, end: Effect.andThen(Deferred.succeed(gate, name), settle) }
}

/** Passes virtual time in uninterruptible work, so that nothing can stop it early. */
const stubborn = (millis: number) => Effect.uninterruptible(Effect.sleep(millis))

describe("Deployment", () => {
  describe("calls", () => {
    it.effect("answers with what the handler returns", () =>
      Effect.gen(function* () {
        const job = yield* Job
        assert.strictEqual(yield* job.run(Effect.succeed("done")), "done")
        assert.strictEqual(yield* job.run(Effect.as(Effect.yieldNow, "later")), "later")
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("starts nothing until its effect runs, and as often as it runs", () =>
      Effect.gen(function* () {
        const job = yield* Job
        let runs = 0
        const again = job.run(Effect.sync(() => ++runs))
        assert.strictEqual(runs, 0)
        assert.deepStrictEqual(yield* Effect.all([again, again]), [1, 2])
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("keeps declared errors declared", () =>
      Effect.gen(function* () {
        const job = yield* Job
        const error = yield* Effect.flip(job.run(Effect.fail(new Broken({ part: "wheel" }))))
        assert.deepStrictEqual(error, new Broken({ part: "wheel" }))
        const { completed, failed } = yield* Job.state
        assert.deepStrictEqual({ completed, failed }, { completed: 0, failed: 1 })
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("lets a handler fail with the ServeError of a call it makes", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const part = yield* Part
        const refused = yield* reason(run(part.run(Effect.void)))
        assert.deepStrictEqual(refused, new ServeError.Unavailable({ deployment: "Part", why: "noReplicas" }))
      }).pipe(Effect.provide([jobLayer(), partLayer({ replicas: 0 })]))
    )

    it.effect("fails only the request whose handler has a defect", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const other = held("other")
        const otherCaller = yield* call(run(other.work))
        const exit = yield* Effect.exit(run(Effect.die("boom")))
        assert.deepStrictEqual(exit, Exit.die("boom"))
        yield* other.end
        assert.strictEqual(yield* Fiber.join(otherCaller), "other")
        assert.strictEqual(yield* run(Effect.succeed("next")), "next")
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 2 })))
    )

    it.effect("takes a handler that throws for a defect", () =>
      Effect.gen(function* () {
        class Thrower extends Deployment.Service<Thrower>()("Thrower", [Rpc.make("run")]) {}
        const layer = Thrower.toLayer({
          run: (): Effect.Effect<void> => {
            throw new Error("thrown")
          }
        })
        const exit = yield* Effect.exit(
          Effect.provide(
            Effect.flatMap(Thrower, ({ run }) => run()),
            layer
          )
        )
        assert.deepStrictEqual(exit, Exit.die(new Error("thrown")))
      })
    )

    it.effect("shows a handler that interrupts itself as a defect, not as an interruption of the caller", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        for (const work of [Effect.interrupt, Effect.andThen(Effect.yieldNow, Effect.interrupt)]) {
          const exit = yield* Effect.exit(run(work))
          assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause) && !Cause.hasInterrupts(exit.cause))
        }
        assert.strictEqual(yield* run(Effect.succeed("next")), "next")
        assert.strictEqual((yield* Job.state).failed, 2)
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("takes a timeout that is no duration for a defect of the caller", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const exit = yield* Effect.exit(run(Effect.void, { timeout: "soon" as never }))
        assert.isTrue(Exit.hasDies(exit))
        assert.strictEqual((yield* Job.state).accepted, 0)
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("calls a double that is made by hand", () =>
      Effect.gen(function* () {
        const { flow, run } = yield* Job
        assert.strictEqual(yield* run(Effect.never), "double")
        assert.deepStrictEqual(yield* Stream.runCollect(flow(Stream.never)), ["double"])
        const exit = yield* Effect.exit(Job.state)
        assert.deepStrictEqual(exit, Exit.die(new Error("This handle was not made by toLayer, so it has no state")))
      }).pipe(
        Effect.provide(Layer.succeed(Job, { run: () => Effect.succeed("double"), flow: () => Stream.make("double") }))
      )
    )

    it("refuses a contract that names a method twice", () => {
      assert.throws(
        () => Deployment.Service()("Twin", [Rpc.make("run"), Rpc.make("run")]),
        'Deployment "Twin" has two methods named "run"'
      )
    })

    it.effect("refuses an implementation without a handler", () =>
      Effect.gen(function* () {
        const built = yield* call(Effect.exit(Layer.build(Job.toLayer({} as never))))
        yield* TestClock.adjust("10 seconds")
        const exit = yield* Fiber.join(built)
        assert.deepStrictEqual(exit, Exit.die(new Error('Deployment "Job" has no handler for method "run"')))
      })
    )
  })

  describe("queue", () => {
    it.effect("lets the request after the last permit wait, and starts it as soon as one is released", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const log: Array<string> = []
        const [one, two, three] = [held("one", log), held("two", log), held("three", log)]
        yield* call(run(one.work))
        yield* call(run(two.work))
        const last = yield* call(run(three.work))
        yield* settle
        assert.deepStrictEqual(log, ["start one", "start two"])
        const { queued, running } = yield* Job.state
        assert.deepStrictEqual({ running, queued }, { running: 2, queued: 1 })

        yield* two.end
        assert.deepStrictEqual(log, ["start one", "start two", "start three"])
        yield* three.end
        assert.strictEqual(yield* Fiber.join(last), "three")
        assert.strictEqual((yield* Job.state).queued, 0)
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 2 })))
    )

    it.effect("is first in, first out", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const order: Array<number> = []
        const first = held("first")
        yield* call(run(first.work))
        for (let i = 0; i < 20; i++)
          yield* call(
            run(
              Effect.andThen(
                Effect.yieldNow,
                Effect.sync(() => order.push(i))
              )
            )
          )
        yield* first.end
        yield* Effect.repeat(Effect.yieldNow, { times: 200 })
        assert.deepStrictEqual(
          order,
          Array.from({ length: 20 }, (_, i) => i)
        )
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("doesn't let a new request pass those that wait", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const log: Array<string> = []
        const [one, two, late] = [held("one", log), held("two", log), held("late", log)]
        // This caller comes back at the very moment its permit is free.
        yield* call(Effect.andThen(run(one.work), run(late.work)))
        yield* call(run(two.work))
        yield* one.end
        assert.deepStrictEqual(log, ["start one", "start two"])
        yield* two.end
        assert.deepStrictEqual(log, ["start one", "start two", "start late"])
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("refuses what it has no room for, and says when to come back", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        for (let i = 0; i < 7; i++) yield* call(run(Effect.never))
        const full = yield* reason(run(Effect.void))
        assert.strictEqual(full._tag, "QueueFull")
        if (full._tag !== "QueueFull") return
        const { deployment, maxOngoingRequests, maxQueuedRequests, ongoing, queued, retryAfter } = full
        assert.deepStrictEqual(
          { deployment, maxOngoingRequests, maxQueuedRequests, ongoing, queued },
          { deployment: "Job", maxOngoingRequests: 4, maxQueuedRequests: 3, ongoing: 4, queued: 3 }
        )
        assert.isAbove(Duration.toMillis(retryAfter), 0)
        const { accepted, rejected } = yield* Job.state
        assert.deepStrictEqual({ accepted, rejected }, { accepted: 7, rejected: 1 })
      }).pipe(Effect.provide(jobLayer({ replicas: 2, maxOngoingRequests: 2, maxQueuedRequests: 3 })))
    )

    it.effect("takes a request again once there is room", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const one = held("one")
        yield* call(run(one.work))
        const waiting = yield* call(run(Effect.never))
        assert.strictEqual((yield* reason(run(Effect.void)))._tag, "QueueFull")
        yield* Fiber.interrupt(waiting)
        const next = yield* call(run(Effect.succeed("next")))
        yield* one.end
        assert.strictEqual(yield* Fiber.join(next), "next")
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: 1 })))
    )

    it.effect("never queues when maxQueuedRequests is 0", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const one = held("one")
        yield* call(run(one.work))
        assert.strictEqual((yield* reason(run(Effect.void)))._tag, "QueueFull")
        yield* one.end
        assert.strictEqual(yield* run(Effect.succeed("next")), "next")
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: 0 })))
    )

    it.effect("spreads requests over the replicas and never overfills one", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        for (let i = 0; i < 10; i++) yield* call(run(Effect.never))
        const { queued, replicas } = yield* Job.state
        assert.deepStrictEqual(
          replicas,
          ["Job#0", "Job#1", "Job#2"].map((id) => ({
            id,
            status: "Ready" as const,
            running: 3,
            maxOngoingRequests: 3,
            batchers: []
          }))
        )
        assert.strictEqual(queued, 1)
      }).pipe(Effect.provide(jobLayer({ replicas: 3, maxOngoingRequests: 3 })))
    )
  })

  describe("deadline", () => {
    it.effect("refuses a request whose deadline has passed on arrival", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        let ran = false
        const passed = run(
          Effect.sync(() => (ran = true)),
          { timeout: 0 }
        )
        assert.deepStrictEqual(
          yield* reason(passed),
          new ServeError.DeadlineExceeded({ deployment: "Job", stage: "admission" })
        )
        assert.isFalse(ran)
        const { accepted, rejected } = yield* Job.state
        assert.deepStrictEqual({ accepted, rejected }, { accepted: 0, rejected: 1 })
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("strikes a request in the queue, which never runs", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const one = held("one")
        let ran = false
        yield* call(run(one.work))
        const waiting = yield* call(
          run(
            Effect.sync(() => (ran = true)),
            { timeout: "100 millis" }
          )
        )
        yield* TestClock.adjust("99 millis")
        assert.isFalse(isDone(waiting))
        yield* TestClock.adjust("1 millis")
        assert.isTrue(isDone(waiting))
        assert.deepStrictEqual(
          yield* answered(waiting),
          new ServeError.DeadlineExceeded({ deployment: "Job", stage: "queue" })
        )
        yield* one.end
        assert.isFalse(ran)
        const { completed, expired, queued } = yield* Job.state
        assert.deepStrictEqual({ completed, expired, queued }, { completed: 1, expired: 1, queued: 0 })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("strikes a request in its handler, which is interrupted, and its permit is free again", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const log: Array<string> = []
        const caller = yield* call(run(held("late", log).work, { timeout: "100 millis" }))
        yield* TestClock.adjust("99 millis")
        assert.isFalse(isDone(caller))
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(
          yield* answered(caller),
          new ServeError.DeadlineExceeded({ deployment: "Job", stage: "handler" })
        )
        assert.deepStrictEqual(log, ["start late", "interrupt late"])
        assert.strictEqual(yield* run(Effect.succeed("next")), "next")
        const { expired, running } = yield* Job.state
        assert.deepStrictEqual({ expired, running }, { expired: 1, running: 0 })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: 0 })))
    )

    it.effect("answers at the deadline even while the work can't stop, which keeps its permit until it has", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const caller = yield* call(run(stubborn(1000), { timeout: "100 millis" }))
        const waiting = yield* call(run(Effect.succeed("next")))
        yield* TestClock.adjust("100 millis")
        assert.strictEqual((yield* answered(caller))._tag, "DeadlineExceeded")
        assert.isFalse(isDone(waiting))
        assert.strictEqual((yield* Job.state).running, 1)
        yield* TestClock.adjust("900 millis")
        assert.strictEqual(yield* Fiber.join(waiting), "next")
        const { completed, expired } = yield* Job.state
        assert.deepStrictEqual({ completed, expired }, { completed: 1, expired: 1 })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("is the nearer of requestTimeout and the caller's timeout", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const patient = yield* call(run(Effect.never, { timeout: "1 hour" }))
        const hasty = yield* call(run(Effect.never, { timeout: "1 second" }))
        const plain = yield* call(run(Effect.never))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual([patient, hasty, plain].map(isDone), [false, true, false])
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual([patient, hasty, plain].map(isDone), [true, true, true])
      }).pipe(Effect.provide(jobLayer({ requestTimeout: "2 seconds" })))
    )

    it.effect("never comes when neither the deployment nor the caller has one", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const caller = yield* call(run(Effect.as(Effect.sleep("400 days"), "at last")))
        const waiting = yield* call(run(RequestContext.RequestContext))
        yield* TestClock.adjust("400 days")
        assert.strictEqual(yield* Fiber.join(caller), "at last")
        assert.include(yield* Fiber.join(waiting), { deadline: Infinity })
      }).pipe(Effect.provide(jobLayer({ requestTimeout: Infinity, maxOngoingRequests: 1 })))
    )

    it.effect("strikes many requests in the order of their deadlines", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const struck: Array<number> = []
        const timeouts = Array.from({ length: 50 }, (_, i) => 1 + ((i * 7919) % 5000))
        for (const timeout of timeouts) {
          yield* call(
            Effect.ensuring(
              Effect.exit(run(Effect.never, { timeout })),
              Effect.sync(() => struck.push(timeout))
            )
          )
        }
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(
          struck,
          timeouts.toSorted((a, b) => a - b)
        )
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 10 })))
    )
  })

  describe("request context", () => {
    const context = RequestContext.RequestContext

    it.effect("carries what the caller said", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* TestClock.adjust("7 millis")
        const seen = yield* run(context, {
          timeout: "1 second",
          priority: "critical",
          tenant: "acme",
          modelId: "small",
          sessionId: "s1"
        })
        assert.deepInclude(seen, {
          deadline: 1007,
          priority: "critical",
          tenant: "acme",
          modelId: "small",
          sessionId: "s1",
          route: undefined
        })
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("has an id of its own for each request from outside", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const ids = (yield* Effect.all(Array.from({ length: 100 }, () => run(context)))).map(
          (seen) => (seen as RequestContext.RequestContext).requestId
        )
        assert.strictEqual(new Set(ids).size, 100)
        assert.isFalse(ids.includes(""))
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("passes on to a nested call, which can override it", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const part = yield* Part
        const inherited = yield* run(Effect.all([context, part.run(context)]), {
          priority: "sheddable",
          tenant: "acme",
          modelId: "small",
          sessionId: "s1"
        })
        const [outer, inner] = inherited as ReadonlyArray<RequestContext.RequestContext>
        assert.deepStrictEqual(inner, outer)
        assert.strictEqual(outer!.tenant, "acme")

        const overridden = yield* run(
          part.run(context, { priority: "critical", tenant: "other", modelId: "big", sessionId: "s2" }),
          {
            priority: "sheddable",
            tenant: "acme",
            modelId: "small",
            sessionId: "s1"
          }
        )
        assert.deepInclude(overridden, { priority: "critical", tenant: "other", modelId: "big", sessionId: "s2" })
      }).pipe(Effect.provide([jobLayer(), partLayer()]))
    )

    it.effect("shrinks the deadline of a nested call and never grows it", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const part = yield* Part
        const deadlines = Effect.map(
          Effect.all([
            context,
            part.run(context),
            part.run(context, { timeout: "1 hour" }),
            part.run(context, { timeout: "100 millis" })
          ]),
          (all) => all.map((seen) => (seen as RequestContext.RequestContext).deadline)
        )
        const seen = yield* run(deadlines, { timeout: "10 seconds" })
        assert.deepStrictEqual(seen, [10_000, 5000, 5000, 100])
        const tight = yield* run(deadlines, { timeout: "2 seconds" })
        assert.deepStrictEqual(tight, [2000, 2000, 2000, 100])
      }).pipe(Effect.provide([jobLayer(), partLayer({ requestTimeout: "5 seconds" })]))
    )

    it.effect("has its deadline on the clock, whenever the deployments were started", () =>
      Effect.gen(function* () {
        yield* TestClock.adjust("5 seconds")
        const job = yield* open(Job, jobLayer())
        yield* TestClock.adjust("3 seconds")
        const part = yield* open(Part, partLayer())
        yield* TestClock.adjust("1 second")
        const both = Effect.all([context, part.handle.run(context)])
        const seen = (yield* job.handle.run(both, { timeout: "1 second" })) as ReadonlyArray<
          typeof RequestContext.empty
        >
        assert.deepStrictEqual(
          seen.map(({ deadline }) => deadline),
          [10_000, 10_000]
        )
        const caller = yield* call(job.handle.run(part.handle.run(Effect.never), { timeout: "1 second" }))
        yield* TestClock.adjust("999 millis")
        assert.isFalse(isDone(caller))
        yield* TestClock.adjust("1 millis")
        assert.isTrue(isDone(caller))
      })
    )

    it.effect("doesn't leak into the caller", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* run(Effect.void, { tenant: "acme" })
        assert.deepStrictEqual(yield* context, RequestContext.empty)
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("expires a request whose nested call hears of their deadline first", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const part = yield* Part
        for (const delay of ["0 millis", "1 millis"] as const) {
          const work = Effect.andThen(Effect.sleep(delay), part.run(Effect.never))
          const caller = yield* call(run(work, { timeout: "1 second" }))
          yield* TestClock.adjust("1 second")
          assert.deepInclude(yield* answered(caller), { deployment: "Job", stage: "handler" })
        }
        assert.deepInclude(yield* Job.state, { expired: 2, failed: 0 })
      }).pipe(Effect.provide([jobLayer(), partLayer()]))
    )

    it.effect("fails a request whose nested call had less time", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const part = yield* Part
        const caller = yield* call(run(part.run(Effect.never, { timeout: "1 second" }), { timeout: "2 seconds" }))
        yield* TestClock.adjust("1 second")
        assert.deepInclude(yield* answered(caller), { deployment: "Part", stage: "handler" })
        assert.deepInclude(yield* Job.state, { expired: 0, failed: 1 })
      }).pipe(Effect.provide([jobLayer(), partLayer()]))
    )

    it.effect("refuses a nested call when the time is up", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const part = yield* Part
        const late = Deferred.makeUnsafe<ServeError.Reason>()
        const tooLate = Effect.andThen(
          Effect.sleep("2 seconds"),
          Effect.flatMap(reason(part.run(Effect.void)), (why) => Deferred.succeed(late, why))
        )
        yield* call(run(Effect.uninterruptible(tooLate), { timeout: "1 second" }))
        yield* TestClock.adjust("2 seconds")
        assert.deepInclude(yield* Deferred.await(late), { deployment: "Part", stage: "admission" })
      }).pipe(Effect.provide([jobLayer(), partLayer()]))
    )
  })

  describe("cancellation", () => {
    it.effect("removes an interrupted caller from the queue", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const log: Array<string> = []
        const works = ["one", "two", "three", "four"].map((name) => held(name, log))
        const callers = yield* Effect.forEach(works, ({ work }) => call(run(work)))
        yield* Fiber.interrupt(callers[2]!)
        const { cancelled, queued } = yield* Job.state
        assert.deepStrictEqual({ cancelled, queued }, { cancelled: 1, queued: 2 })
        for (const { end } of works) yield* end
        assert.deepStrictEqual(log, ["start one", "start two", "start four"])
        assert.strictEqual((yield* Job.state).completed, 3)
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("interrupts the handler and every call it made, and waits until they have stopped", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const part = yield* Part
        const log: Array<string> = []
        const slow = Effect.never.pipe(
          Effect.onInterrupt(() =>
            Effect.andThen(
              Effect.sleep("1 second"),
              Effect.sync(() => log.push("inner stopped"))
            )
          )
        )
        const nested = Effect.all([part.run(slow), part.run(slow)], { concurrency: "unbounded" })
        const outer = Effect.onInterrupt(nested, () => Effect.sync(() => log.push("outer stopped")))
        const caller = yield* call(run(outer))
        yield* settle
        assert.strictEqual((yield* Part.state).running, 2)
        const interruption = yield* call(Fiber.interrupt(caller))
        yield* settle
        assert.isFalse(isDone(interruption))
        assert.strictEqual((yield* Job.state).running, 1)
        yield* TestClock.adjust("1 second")
        assert.isTrue(isDone(interruption))
        assert.deepStrictEqual(log, ["inner stopped", "inner stopped", "outer stopped"])
        for (const state of [yield* Job.state, yield* Part.state]) {
          assert.deepInclude(state, { running: 0, queued: 0, completed: 0, failed: 0 })
        }
        assert.strictEqual((yield* Part.state).cancelled, 2)
      }).pipe(Effect.provide([jobLayer(), partLayer()]))
    )

    it.effect("removes the nested calls of an expired request from their queue", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const part = yield* Part
        yield* call(part.run(Effect.never))
        const caller = yield* call(run(part.run(Effect.never), { timeout: "1 second" }))
        yield* settle
        assert.strictEqual((yield* Part.state).queued, 1)
        yield* TestClock.adjust("1 second")
        assert.isTrue(isDone(caller))
        assert.strictEqual((yield* Part.state).queued, 0)
        assert.strictEqual((yield* Job.state).running, 0)
      }).pipe(Effect.provide([jobLayer(), partLayer({ maxOngoingRequests: 1 })]))
    )

    it.effect("gives the permit of an interrupted request to the next one", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const running = yield* call(run(Effect.never))
        const waiting = yield* call(run(Effect.succeed("next")))
        yield* Fiber.interrupt(running)
        assert.strictEqual(yield* Fiber.join(waiting), "next")
        const { cancelled, completed } = yield* Job.state
        assert.deepStrictEqual({ cancelled, completed }, { cancelled: 1, completed: 1 })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("survives a handler that interrupts its own caller as it starts", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const log: Array<string> = []
        const suicidal = (name: string): Fiber.Fiber<unknown, unknown> => {
          const caller: Fiber.Fiber<unknown, unknown> = Effect.runForkWith(services)(
            run(
              Effect.suspend(() => {
                callers.get(name)?.interruptUnsafe()
                return held(name, log).work
              })
            )
          )
          callers.set(name, caller)
          return caller
        }
        const services = yield* Effect.context()
        const callers = new Map<string, Fiber.Fiber<unknown, unknown>>()
        const first = held("first", log)
        yield* call(run(first.work))
        const waiting = [suicidal("second"), suicidal("third")]
        yield* first.end
        yield* settle
        for (const caller of waiting) assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(caller)))
        assert.deepInclude(yield* Job.state, { running: 0, queued: 0, completed: 1, cancelled: 2 })

        let direct: Fiber.Fiber<unknown, unknown> | undefined
        direct = yield* Effect.forkChild(run(Effect.suspend(() => (direct!.interruptUnsafe(), Effect.never))))
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(direct)))
        assert.deepInclude(yield* Job.state, { running: 0, queued: 0, completed: 1, cancelled: 3 })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("lets a race between two calls end with nothing left running", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const winner = yield* Effect.race(run(Effect.never), run(Effect.as(Effect.yieldNow, "won")))
        assert.strictEqual(winner, "won")
        assert.deepInclude(yield* Job.state, { running: 0, completed: 1, cancelled: 1 })
      }).pipe(Effect.provide(jobLayer()))
    )
  })

  describe("metrics", () => {
    const numbers = Effect.map(Metric.snapshot, (snapshot) =>
      Object.fromEntries(
        snapshot
          .filter(({ attributes }) => attributes?.["deployment"] === "Job")
          .map(({ attributes, id, state }) => {
            const { deployment: _, ...tags } = attributes!
            const value = "value" in state ? state.value : "count" in state ? state.count : undefined
            return [`${id} ${Object.values(tags).join(" ")}`, value]
          })
          .filter(([, value]) => value !== 0)
      )
    )

    it.effect("agree with the state and with what happened", () =>
      Effect.gen(function* () {
        const { flow, run } = yield* Job
        yield* run(Effect.void)
        yield* Stream.runDrain(flow(Stream.make(1, 2)))
        yield* Effect.exit(run(Effect.fail(new Broken({ part: "wheel" }))))
        yield* Effect.exit(run(Effect.die("boom")))
        yield* Effect.exit(run(Effect.void, { timeout: 0 }))
        const late = yield* call(run(Effect.never, { timeout: "30 millis" }))
        yield* TestClock.adjust("30 millis")
        yield* Fiber.await(late)
        const running = yield* call(run(Effect.never))
        // Those that aren't critical are shed before their deadlines pass.
        yield* call(run(Effect.never, { priority: "critical" }))
        yield* call(run(Effect.never, { priority: "critical" }))
        const lateInLine = yield* call(run(Effect.never, { timeout: "30 millis", priority: "critical" }))
        yield* Effect.exit(run(Effect.void))
        yield* Fiber.interrupt(running)
        yield* TestClock.adjust("30 millis")
        yield* Fiber.await(lateInLine)
        yield* call(run(Effect.never))

        assert.deepInclude(yield* Job.state, {
          accepted: 10,
          rejected: 2,
          completed: 2,
          failed: 2,
          cancelled: 1,
          expired: 2,
          running: 1,
          queued: 2
        })
        assert.deepStrictEqual(yield* numbers, {
          "serve_requests_accepted_total run": 9,
          "serve_requests_accepted_total flow": 1,
          "serve_requests_rejected_total run DeadlineExceeded": 1,
          "serve_requests_rejected_total run QueueFull": 1,
          "serve_requests_queued run": 2,
          "serve_replica_max_ongoing_requests Job#0": 1,
          "serve_replica_in_service Job#0": 1,
          "serve_requests_running run Job#0": 1,
          "serve_requests_completed_total run Job#0": 1,
          "serve_requests_completed_total flow Job#0": 1,
          "serve_requests_failed_total run Job#0": 2,
          "serve_requests_cancelled_total run Job#0": 1,
          "serve_requests_expired_total run Job#0": 1,
          "serve_requests_expired_total run none": 1,
          "serve_request_queue_wait_ms run": 6,
          "serve_request_queue_wait_ms flow": 1,
          "serve_request_run_time_ms run Job#0": 5,
          "serve_request_run_time_ms flow Job#0": 1
        })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: 3 })))
    )

    it.effect("tell how long requests waited and ran", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        yield* call(run(Effect.sleep("30 millis")))
        yield* call(run(Effect.sleep("400 millis")))
        yield* TestClock.adjust("1 second")
        const histogram = Effect.fnUntraced(function* (name: string) {
          const found = (yield* Metric.snapshot).find(
            ({ attributes, id }) =>
              id === name &&
              attributes?.["deployment"] === "Job" &&
              attributes["method"] === "run" &&
              attributes["replica"] !== "none"
          )
          return found?.state
        })
        assert.deepInclude(yield* histogram("serve_request_queue_wait_ms"), { count: 2, min: 0, max: 30, sum: 30 })
        assert.deepInclude(yield* histogram("serve_request_run_time_ms"), { count: 2, min: 30, max: 400, sum: 430 })
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("disappear when the layer closes", () =>
      Effect.gen(function* () {
        const { close, handle } = yield* open(Job, jobLayer())
        yield* handle.run(Effect.void)
        assert.isNotEmpty(yield* numbers)
        yield* close
        assert.isEmpty(yield* numbers)
      })
    )
  })

  it.effect("gives handlers the services of its layer", () =>
    Effect.gen(function* () {
      class Greeting extends Schema.Class<Greeting>("Greeting")({ text: Schema.String }) {}
      class Greeter extends Deployment.Service<Greeter>()("Greeter", [Rpc.make("greet", { success: Greeting })]) {}
      const layer = Greeter.toLayer({ greet: () => Effect.map(Job, () => new Greeting({ text: "hi" })) })
      const greeted = Effect.flatMap(Greeter, ({ greet }) => greet())
      assert.deepStrictEqual(
        yield* Effect.provide(greeted, Layer.provide(layer, jobLayer())),
        new Greeting({ text: "hi" })
      )
    })
  )
})
