import { assert, describe, it } from "@effect/vitest"
import { ServeError } from "effect-serve"
import { Deferred, Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import { answered, call, isDone, Job, jobLayer, open, partLayer, Part, reason, settle } from "../deployments.ts"

const draining = new ServeError.Unavailable({ deployment: "Job", why: "draining" })
const lost = new ServeError.ReplicaLost({ replica: "Job#0", started: true })

/** Job with replicas that note when they open and close. */
const logged = (log: Array<string>, options: Parameters<typeof jobLayer>[0]) => {
  let opened = 0
  return Job.toLayer(
    Effect.acquireRelease(
      Effect.sync(() => opened++),
      (i) => Effect.sync(() => log.push(`close ${i}`))
    ).pipe(Effect.as(Job.of({ run: (work) => work, flow: (elements) => elements }))),
    options
  )
}

describe("Deployment", () => {
  describe("shutdown", () => {
    it.effect("takes no time when nothing runs", () =>
      Effect.gen(function* () {
        const { close, context, handle } = yield* open(Job, jobLayer({ gracefulShutdownTimeout: "20 seconds" }))
        yield* handle.run(Effect.void)
        yield* close
        assert.strictEqual((yield* Effect.provide(Job.state, context)).status, "Stopped")
      })
    )

    it.effect("refuses new requests from its first moment on", () =>
      Effect.gen(function* () {
        const { close, context, handle } = yield* open(Job, jobLayer({ gracefulShutdownTimeout: "20 seconds" }))
        const gate = yield* Deferred.make<string>()
        yield* call(handle.run(Deferred.await(gate)))
        const closing = yield* call(close)
        assert.strictEqual((yield* Effect.provide(Job.state, context)).status, "Draining")
        assert.deepStrictEqual(yield* reason(handle.run(Effect.void)), draining)
        assert.deepStrictEqual(yield* reason(Stream.runDrain(handle.flow(Stream.empty))), draining)
        yield* Deferred.succeed(gate, "done")
        yield* Fiber.join(closing)
        assert.deepStrictEqual(yield* reason(handle.run(Effect.void)), draining)
        const { accepted, rejected, status } = yield* Effect.provide(Job.state, context)
        assert.deepStrictEqual({ accepted, rejected, status }, { accepted: 1, rejected: 3, status: "Stopped" })
      })
    )

    it.effect("lets accepted requests finish, those that run and those that wait", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const { close, handle } = yield* open(
          Job,
          logged(log, { maxOngoingRequests: 1, gracefulShutdownTimeout: "20 seconds" })
        )
        const slow = (name: string) => handle.run(Effect.as(Effect.sleep("5 seconds"), name))
        const callers = [
          yield* call(slow("running")),
          yield* call(slow("queued")),
          yield* call(Stream.runHead(handle.flow(Stream.fromEffect(Effect.sleep("5 seconds")))))
        ]
        const closing = yield* call(close)
        yield* TestClock.adjust("14999 millis")
        assert.isFalse(isDone(closing))
        assert.deepStrictEqual(log, [])
        yield* TestClock.adjust("1 millis")
        assert.isTrue(isDone(closing))
        assert.deepStrictEqual(callers.map(isDone), [true, true, true])
        assert.strictEqual(yield* Fiber.join(callers[0]!), "running")
        assert.strictEqual(yield* Fiber.join(callers[1]!), "queued")
        assert.deepStrictEqual(log, ["close 0"])
      })
    )

    it.effect("fails what still waits and what still runs when the time is up, and interrupts the handlers", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const { close, context, handle } = yield* open(
          Job,
          logged(log, { maxOngoingRequests: 2, gracefulShutdownTimeout: "20 seconds" })
        )
        const work = Effect.onInterrupt(Effect.never, () => Effect.sync(() => log.push("interrupt")))
        const running = yield* call(handle.run(work))
        const stream = yield* call(Stream.runDrain(handle.flow(Stream.concat(Stream.make(1), Stream.fromEffect(work)))))
        const queued = [yield* call(handle.run(work)), yield* call(Stream.runDrain(handle.flow(Stream.never)))]
        const closing = yield* call(close)
        yield* TestClock.adjust("19999 millis")
        assert.isFalse([closing, running, stream, ...queued].some(isDone))
        yield* TestClock.adjust("1 millis")
        assert.isTrue([closing, running, stream, ...queued].every(isDone))
        for (const caller of queued) assert.deepStrictEqual(yield* answered(caller), draining)
        for (const caller of [running, stream]) assert.deepStrictEqual(yield* answered(caller), lost)
        assert.deepStrictEqual(log, ["interrupt", "interrupt", "close 0"])
        assert.deepInclude(yield* Effect.provide(Job.state, context), {
          status: "Stopped",
          accepted: 4,
          failed: 4,
          running: 0,
          queued: 0
        })
      })
    )

    it.effect("closes a replica only when its last handler has stopped", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const { close, handle } = yield* open(Job, logged(log, { gracefulShutdownTimeout: "1 second" }))
        const cleanUp = Effect.andThen(
          Effect.sleep("5 seconds"),
          Effect.sync(() => log.push("cleaned up"))
        )
        const caller = yield* call(handle.run(Effect.onInterrupt(Effect.never, () => cleanUp)))
        const closing = yield* call(close)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* answered(caller), lost)
        assert.isFalse(isDone(closing))
        yield* TestClock.adjust("5 seconds")
        assert.isTrue(isDone(closing))
        assert.deepStrictEqual(log, ["cleaned up", "close 0"])
      })
    )

    it.effect("closes the replicas once each, in reverse order of their start", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const { close } = yield* open(Job, logged(log, { replicas: 3 }))
        yield* close
        yield* close
        assert.deepStrictEqual(log, ["close 2", "close 1", "close 0"])
      })
    )

    it.effect("ends early when the callers leave", () =>
      Effect.gen(function* () {
        const { close, handle } = yield* open(
          Job,
          jobLayer({ maxOngoingRequests: 1, gracefulShutdownTimeout: "20 seconds" })
        )
        const callers = [yield* call(handle.run(Effect.never)), yield* call(handle.run(Effect.never))]
        const closing = yield* call(close)
        for (const caller of callers.toReversed()) yield* Fiber.interrupt(caller)
        yield* settle
        assert.isTrue(isDone(closing))
      })
    )

    it.effect("keeps deadlines while it drains", () =>
      Effect.gen(function* () {
        const { close, handle } = yield* open(
          Job,
          jobLayer({ maxOngoingRequests: 1, gracefulShutdownTimeout: "20 seconds", requestTimeout: "5 seconds" })
        )
        const running = yield* call(handle.run(Effect.never))
        const queued = yield* call(handle.run(Effect.never))
        const closing = yield* call(close)
        yield* TestClock.adjust("5 seconds")
        assert.isTrue(isDone(closing))
        assert.deepInclude(yield* answered(running), { stage: "handler" })
        assert.deepInclude(yield* answered(queued), { stage: "queue" })
      })
    )

    it.effect("waits for no one when gracefulShutdownTimeout is 0", () =>
      Effect.gen(function* () {
        const { close, handle } = yield* open(Job, jobLayer({ maxOngoingRequests: 1, gracefulShutdownTimeout: 0 }))
        const running = yield* call(handle.run(Effect.never))
        const queued = yield* call(handle.run(Effect.never))
        yield* close
        assert.deepStrictEqual(yield* answered(running), lost)
        assert.deepStrictEqual(yield* answered(queued), draining)
      })
    )

    it.effect("lets a handler finish the calls it makes to a deployment below", () =>
      Effect.gen(function* () {
        const below = yield* open(Part, partLayer({ gracefulShutdownTimeout: "20 seconds" }))
        const above = yield* open(Job, jobLayer({ gracefulShutdownTimeout: "20 seconds" }))
        const nested = Effect.andThen(Effect.sleep("1 second"), below.handle.run(Effect.succeed("from below")))
        const caller = yield* call(above.handle.run(nested))
        const closing = yield* call(Effect.andThen(above.close, below.close))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(caller), "from below")
        yield* Fiber.join(closing)
      })
    )
  })
})
