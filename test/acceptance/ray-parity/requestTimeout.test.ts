/**
 * What Ray's tests of request timeouts check, as far as no other test here does: see `docs/ray-serve.md`.
 *
 * Seen red for each of these mutations. Router: nothing is late in the queue; what is late in its handler runs on. Reception: a time
 * that is up is one without end.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { range } from "../../batching/batches.ts"
import { answered, call, isDone, Job, jobLayer, Part, partLayer, settle } from "../../deployments.ts"
import { post } from "../../ingress/http.ts"
import { family, held } from "./family.ts"

describe("a request timeout", () => {
  it.effect("a request that is done in time is answered", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      const caller = yield* call(run(Effect.as(Effect.sleep("1999 millis"), "done")))
      yield* TestClock.adjust("1999 millis")
      assert.strictEqual(yield* Fiber.join(caller), "done")
    }).pipe(Effect.provide(jobLayer({ requestTimeout: "2 seconds" })))
  )

  it.effect("the one that runs and the one that waits are both late, each at its own deadline", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      const log: Array<string> = []
      const running = yield* call(run(held("running", log).work))
      const waiting = yield* call(run(held("waiting", log).work, { timeout: "1 second" }))
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* answered(waiting), { _tag: "DeadlineExceeded", stage: "queue" })
      assert.isFalse(isDone(running))
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* answered(running), { _tag: "DeadlineExceeded", stage: "handler" })
      assert.deepStrictEqual(log, ["start running", "interrupt running"])
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, requestTimeout: "2 seconds", queueDiscipline: "fifo" })))
  )

  it.effect("ten late requests leave nothing behind", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      const part = yield* Part
      const log: Array<string> = []
      const callers = yield* Effect.forEach(range(10), () => call(run(part.run(held("it", log).work))))
      yield* TestClock.adjust("2 seconds")
      yield* settle
      for (const caller of callers) assert.strictEqual((yield* answered(caller))._tag, "DeadlineExceeded")
      assert.lengthOf(
        log.filter((line) => line === "interrupt it"),
        10
      )
      for (const state of [yield* Job.state, yield* Part.state]) {
        assert.deepInclude(state, { running: 0, queued: 0, expired: 10 })
      }
    }).pipe(
      Effect.provide([
        jobLayer({ maxOngoingRequests: 10, requestTimeout: "2 seconds" }),
        partLayer({ maxOngoingRequests: 10 })
      ])
    )
  )

  it.live("a child that is late makes its parent answer 504", () =>
    Effect.gen(function* () {
      const { body, status } = yield* post("/parent/wait", "")
      assert.strictEqual(status, 504)
      assert.deepInclude(body.reason, { _tag: "DeadlineExceeded", deployment: "Child", stage: "handler" })
      assert.strictEqual((yield* post("/parent/ping", "")).body, "pong")
    }).pipe(Effect.provide(family({ requestTimeout: "200 millis" })))
  )

  it.live("zero is a time that is up, and not one without end", () =>
    Effect.gen(function* () {
      for (const seconds of ["0", "-1"]) {
        const { body, status } = yield* post("/child/ping", "", { "x-request-timeout-seconds": seconds })
        assert.strictEqual(status, 504)
        assert.deepInclude(body.reason, { _tag: "DeadlineExceeded", stage: "admission" })
      }
    }).pipe(Effect.provide(family()))
  )
})
