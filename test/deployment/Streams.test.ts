import { assert, describe, it } from "@effect/vitest"
import { RequestContext, ServeError } from "effect-serve"
import { Cause, Deferred, Effect, Exit, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import { answered, Broken, call, isDone, Job, jobLayer, Part, partLayer, reason, settle } from "../deployments.ts"

/** Elements that are made one by one, each noted when it is made. */
const noted = (log: Array<unknown>, count = Infinity) =>
  Stream.range(1, count).pipe(
    Stream.rechunk(1),
    Stream.mapEffect((i) =>
      Effect.as(
        Effect.sync(() => log.push(i)),
        i
      )
    )
  )

const every = (millis: number, count: number) =>
  Stream.range(1, count).pipe(
    Stream.rechunk(1),
    Stream.mapEffect((i) => Effect.as(Effect.sleep(millis), i))
  )

const deadlineExceeded = (stage: "admission" | "queue" | "handler" | "stream") =>
  new ServeError.DeadlineExceeded({ deployment: "Job", stage })

describe("Deployment", () => {
  describe("streams", () => {
    it.effect("give the handler's elements, in order", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const elements = Array.from({ length: 10_000 }, (_, i) => i)
        assert.deepStrictEqual(yield* Stream.runCollect(flow(Stream.fromIterable(elements))), elements)
        assert.deepStrictEqual(
          yield* Stream.runCollect(flow(Stream.rechunk(Stream.fromIterable(elements), 1))),
          elements
        )
        assert.deepStrictEqual(yield* Stream.runCollect(flow(Stream.empty)), [])
        assert.deepInclude(yield* Job.state, { accepted: 3, completed: 3, running: 0 })
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("start nothing until they are read, and as often as they are read", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const log: Array<number> = []
        const stream = flow(noted(log, 2))
        assert.strictEqual((yield* Job.state).accepted, 0)
        yield* Stream.runDrain(stream)
        yield* Stream.runDrain(stream)
        assert.deepStrictEqual(log, [1, 2, 1, 2])
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("don't run ahead of their reader", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const log: Array<string> = []
        const elements = Stream.range(1, 5).pipe(
          Stream.rechunk(1),
          Stream.tap((i) => Effect.sync(() => log.push(`made ${i}`)))
        )
        yield* flow(elements).pipe(
          Stream.runForEach((i) =>
            Effect.andThen(
              Effect.sync(() => log.push(`read ${String(i)}`)),
              settle
            )
          )
        )
        assert.deepStrictEqual(
          log,
          [1, 2, 3, 4, 5].flatMap((i) => [`made ${i}`, `read ${i}`])
        )
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("stop making elements while their reader doesn't read", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const log: Array<number> = []
        const reader = yield* call(Stream.runForEach(flow(noted(log)), (i) => (i === 3 ? Effect.never : Effect.void)))
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(log, [1, 2, 3])
        assert.strictEqual((yield* Job.state).running, 1)
        yield* Fiber.interrupt(reader)
        assert.deepInclude(yield* Job.state, { running: 0, cancelled: 1 })
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("keep the element that comes while a read was given up, until their deadline", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const pull = yield* Stream.toPull(flow(every(100, 3), { timeout: "1 second" }))
        const impatient = Effect.exit(Effect.timeoutOption(pull, "50 millis"))
        const givenUp = yield* call(impatient)
        yield* TestClock.adjust("150 millis")
        assert.isTrue(isDone(givenUp))
        assert.deepStrictEqual(yield* pull, [1])

        yield* call(impatient)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* reason(pull), deadlineExceeded("stream"))
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("hold their permit until they end", () =>
      Effect.gen(function* () {
        const { flow, run } = yield* Job
        const reader = yield* call(Stream.runDrain(flow(every(100, 3))))
        const waiting = yield* call(run(Effect.succeed("next")))
        yield* TestClock.adjust("299 millis")
        assert.isFalse(isDone(waiting))
        yield* TestClock.adjust("1 millis")
        assert.isTrue(isDone(reader) && isDone(waiting))
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("run the finalizers of the handler when the reader stops early, before it goes on", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const log: Array<unknown> = []
        const elements = noted(log).pipe(
          Stream.ensuring(
            Effect.andThen(
              Effect.yieldNow,
              Effect.sync(() => log.push("closed"))
            )
          )
        )
        const read = yield* Stream.runCollect(Stream.take(flow(elements), 2))
        assert.deepStrictEqual(read, [1, 2])
        assert.deepStrictEqual(log, [1, 2, "closed"])
        assert.deepInclude(yield* Job.state, { running: 0, cancelled: 1, completed: 0 })
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("run the finalizers of the handler once when they end by themselves", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const log: Array<string> = []
        const elements = Stream.ensuring(
          Stream.make(1, 2),
          Effect.sync(() => log.push("closed"))
        )
        yield* Stream.runDrain(flow(elements))
        assert.deepStrictEqual(log, ["closed"])
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("give the elements before a declared error, and then the error", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const read: Array<unknown> = []
        const broken = new Broken({ part: "wheel" })
        const elements = Stream.concat(Stream.make(1, 2), Stream.fail(broken))
        const error = yield* Effect.flip(Stream.runForEach(flow(elements), (i) => Effect.sync(() => read.push(i))))
        assert.deepStrictEqual(read, [1, 2])
        assert.deepStrictEqual(error, broken)
        assert.deepInclude(yield* Job.state, { failed: 1, running: 0 })
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("end with the handler's defect, and shows its self-interruption as one", () =>
      Effect.gen(function* () {
        const { flow, run } = yield* Job
        const died = yield* Effect.exit(Stream.runDrain(flow(Stream.concat(Stream.make(1), Stream.die("boom")))))
        assert.deepStrictEqual(died, Exit.die("boom"))
        const interrupted = yield* Effect.exit(Stream.runDrain(flow(Stream.fromEffect(Effect.interrupt))))
        assert.isTrue(
          Exit.isFailure(interrupted) && Cause.hasDies(interrupted.cause) && !Cause.hasInterrupts(interrupted.cause)
        )
        assert.strictEqual(yield* run(Effect.succeed("next")), "next")
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("wait in the same queue as other requests, and leave it when their reader does", () =>
      Effect.gen(function* () {
        const { flow, run } = yield* Job
        const gate = yield* Deferred.make<void>()
        yield* call(run(Deferred.await(gate)))
        const gone = yield* call(Stream.runDrain(flow(Stream.make(1))))
        const waiting = yield* call(Stream.runCollect(flow(Stream.make(1))))
        yield* Fiber.interrupt(gone)
        assert.deepInclude(yield* Job.state, { queued: 1, cancelled: 1 })
        yield* Deferred.succeed(gate, undefined)
        assert.deepStrictEqual(yield* Fiber.join(waiting), [1])
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
    )

    it.effect("are refused like other requests", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        yield* call(Stream.runDrain(flow(Stream.never)))
        assert.strictEqual((yield* reason(Stream.runDrain(flow(Stream.empty))))._tag, "QueueFull")
        assert.deepStrictEqual(
          yield* reason(Stream.runDrain(flow(Stream.empty, { timeout: 0 }))),
          deadlineExceeded("admission")
        )
      }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: 0 })))
    )

    it.effect("are interrupted with their reader, with every call that the handler made", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const part = yield* Part
        const reader = yield* call(Stream.runDrain(flow(Stream.concat(Stream.make(1), part.flow(Stream.never)))))
        yield* settle
        assert.strictEqual((yield* Part.state).running, 1)
        yield* Fiber.interrupt(reader)
        for (const state of [yield* Job.state, yield* Part.state])
          assert.deepInclude(state, { running: 0, cancelled: 1 })
      }).pipe(Effect.provide([jobLayer(), partLayer()]))
    )

    describe("that release their permit with their first element", () => {
      const early = { maxOngoingRequests: 1, releasePermit: "firstElement" } as const

      it.effect("let the next request run from then on", () =>
        Effect.gen(function* () {
          const { flow, run } = yield* Job
          const first = yield* Deferred.make<number>()
          const elements = Stream.concat(Stream.fromEffect(Deferred.await(first)), Stream.never)
          const log: Array<unknown> = []
          yield* call(Stream.runForEach(flow(elements), (element) => Effect.sync(() => log.push(element))))
          const next = yield* call(run(Effect.succeed("next")))
          yield* settle
          assert.isFalse(isDone(next))
          yield* Deferred.succeed(first, 1)
          assert.strictEqual(yield* Fiber.join(next), "next")
          assert.deepStrictEqual(log, [1])
          assert.deepInclude(yield* Job.state, { running: 1, queued: 0, completed: 1 })
          assert.strictEqual((yield* Job.state).replicas[0]!.running, 0)
        }).pipe(Effect.provide(jobLayer(early)))
      )

      it.effect("and others hold it to their end", () =>
        Effect.gen(function* () {
          const { flow, run } = yield* Job
          const stream = yield* call(Stream.runDrain(flow(Stream.concat(Stream.make(1), Stream.never))))
          const next = yield* call(run(Effect.succeed("next")))
          yield* settle
          assert.isFalse(isDone(next))
          yield* Fiber.interrupt(stream)
          assert.strictEqual(yield* Fiber.join(next), "next")
        }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1 })))
      )

      it.effect("lose none and give none twice, wherever they end", () =>
        Effect.gen(function* () {
          const { flow, run } = yield* Job
          const element = Stream.fromEffect(Effect.as(Effect.yieldNow, 1))
          for (const elements of [
            Stream.empty,
            element,
            Stream.concat(element, element),
            Stream.fail(new Broken({ part: "1" })),
            Stream.concat(element, Stream.fail(new Broken({ part: "1" })))
          ]) {
            for (let turns = 0; turns < 12; turns++) {
              const stream = yield* call(Effect.exit(Stream.runDrain(flow(elements))))
              for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
              yield* Fiber.interrupt(stream)
              assert.deepInclude(yield* Job.state, { running: 0, queued: 0 })
              assert.strictEqual((yield* Job.state).replicas[0]!.running, 0)
              const one = yield* call(run(Effect.never))
              const other = yield* call(run(Effect.never))
              yield* settle
              assert.deepInclude(yield* Job.state, { running: 1, queued: 1 })
              yield* Fiber.interruptAll([other, one])
            }
          }
        }).pipe(Effect.provide(jobLayer(early)))
      )
    })
  })

  describe("deadline of a stream", () => {
    it.effect("is requestTimeout for the first element", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const reader = yield* call(Stream.runDrain(flow(every(1001, 3))))
        yield* TestClock.adjust("999 millis")
        assert.isFalse(isDone(reader))
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(yield* answered(reader), deadlineExceeded("handler"))
        assert.deepInclude(yield* Job.state, { running: 0, expired: 1 })
      }).pipe(Effect.provide(jobLayer({ requestTimeout: "1 second" })))
    )

    it.effect("strikes even while the work can't stop, which keeps its permit until it has", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const stubborn = Stream.fromEffect(Effect.uninterruptible(Effect.sleep("10 seconds")))
        const reader = yield* call(Stream.runDrain(flow(stubborn, { timeout: "1 second" })))
        yield* TestClock.adjust("1 second")
        assert.isTrue(isDone(reader))
        assert.deepStrictEqual(yield* answered(reader), deadlineExceeded("handler"))
        assert.strictEqual((yield* Job.state).running, 1)
        yield* TestClock.adjust("9 seconds")
        assert.deepInclude(yield* Job.state, { running: 0, expired: 1 })
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect("isn't requestTimeout after the first element", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const reader = yield* call(Stream.runCollect(flow(every(900, 5))))
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* Fiber.join(reader), [1, 2, 3, 4, 5])
      }).pipe(Effect.provide(jobLayer({ requestTimeout: "1 second" })))
    )

    it.effect("is the caller's timeout for the whole stream", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const read: Array<unknown> = []
        const reader = yield* call(
          Stream.runForEach(flow(every(900, 5), { timeout: "2 seconds" }), (i) => Effect.sync(() => read.push(i)))
        )
        yield* TestClock.adjust("1999 millis")
        assert.isFalse(isDone(reader))
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(yield* answered(reader), deadlineExceeded("stream"))
        assert.deepStrictEqual(read, [1, 2])
        assert.deepInclude(yield* Job.state, { running: 0, expired: 1 })
      }).pipe(Effect.provide(jobLayer({ requestTimeout: "1 second" })))
    )

    it.effect("strikes in the queue by the nearer of the two", () =>
      Effect.gen(function* () {
        const { flow, run } = yield* Job
        yield* call(run(Effect.uninterruptible(Effect.sleep("1 hour"))))
        const patient = yield* call(Stream.runDrain(flow(Stream.empty, { timeout: "1 minute" })))
        const hasty = yield* call(Stream.runDrain(flow(Stream.empty, { timeout: "1 second" })))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual([patient, hasty].map(isDone), [false, true])
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* answered(patient), deadlineExceeded("queue"))
        assert.deepStrictEqual(yield* answered(hasty), deadlineExceeded("queue"))
        yield* TestClock.adjust("1 hour")
      }).pipe(Effect.provide(jobLayer({ requestTimeout: "2 seconds", maxOngoingRequests: 1 })))
    )

    it.effect("strikes while the reader is busy, and the reader sees it at its next read", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const reader = yield* call(
          Stream.runForEach(flow(noted([]), { timeout: "1 second" }), () => Effect.sleep("10 seconds"))
        )
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Job.state).running, 0)
        assert.isFalse(isDone(reader))
        yield* TestClock.adjust("9 seconds")
        assert.deepStrictEqual(yield* answered(reader), deadlineExceeded("stream"))
      }).pipe(Effect.provide(jobLayer()))
    )

    it.effect(
      "is the caller's own in the handler's context, so that the calls of a long stream don't run out of time",
      () =>
        Effect.gen(function* () {
          const { flow } = yield* Job
          const deadline = Effect.map(RequestContext.RequestContext, (context) => context.deadline)
          assert.deepStrictEqual(yield* Stream.runCollect(flow(Stream.fromEffect(deadline))), [Infinity])
          assert.deepStrictEqual(
            yield* Stream.runCollect(flow(Stream.fromEffect(deadline), { timeout: "1 minute" })),
            [60_000]
          )
        }).pipe(Effect.provide(jobLayer({ requestTimeout: "1 second" })))
    )
  })
})
