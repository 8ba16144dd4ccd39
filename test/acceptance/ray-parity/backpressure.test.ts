/**
 * What Ray's tests of backpressure check, as far as no other test here does: see `docs/ray-serve.md`.
 *
 * Seen red for each of these mutations. Router: one more may wait; a permit that comes free wakes nobody. Balancer: one too many for a
 * replica. Status: a full deployment is 500; nobody is told when to come back.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { range } from "../../batching/batches.ts"
import { answered, call, isDone, Job, jobLayer, reason, settle } from "../../deployments.ts"
import { post, send } from "../../ingress/http.ts"
import { until } from "../../modules/app.ts"
import { Child, family, held } from "./family.ts"

describe("backpressure", () => {
  it.effect("one runs, one waits, ten more are refused at once, and then both are answered", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      const [one, two] = [held("one"), held("two")]
      const callers = [yield* call(run(one.work)), yield* call(run(two.work))]
      const refused = yield* Effect.forEach(range(10), () => call(run(Effect.void)))
      assert.isTrue(refused.every(isDone))
      for (const fiber of refused) assert.strictEqual((yield* answered(fiber))._tag, "QueueFull")
      assert.isFalse(callers.some(isDone))
      yield* one.end
      yield* two.end
      assert.deepStrictEqual(yield* Effect.forEach(callers, Fiber.join), ["one", "two"])
      const { completed, rejections } = yield* Job.state
      assert.deepStrictEqual({ completed, rejections }, { completed: 2, rejections: { QueueFull: 10 } })
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: 1 })))
  )

  it.effect("five run and the sixth is refused, where none may wait", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      for (let i = 0; i < 5; i++) assert.isFalse(isDone(yield* call(run(Effect.never))))
      assert.deepInclude(yield* reason(run(Effect.void)), { _tag: "QueueFull", ongoing: 5, maxOngoingRequests: 5 })
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 5, maxQueuedRequests: 0 })))
  )

  it.effect("a burst in one turn of the loop loses no more than what is beyond permits and queue", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      const callers = yield* Effect.forEach(range(20), () => call(run(Effect.sleep("100 millis"))))
      assert.deepStrictEqual(
        callers.map(isDone),
        range(20).map((i) => i >= 7)
      )
      yield* TestClock.adjust("300 millis")
      yield* settle
      const { completed, rejected } = yield* Job.state
      assert.deepStrictEqual({ completed, rejected }, { completed: 7, rejected: 13 })
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 3, maxQueuedRequests: 4 })))
  )

  it.live("a full child refuses through its parent, with its status and its Retry-After", () =>
    Effect.gen(function* () {
      yield* Effect.forkScoped(post("/parent/wait", ""))
      yield* until(Effect.map(Child.state, ({ running }) => running === 1))
      const { body, headers, status } = yield* post("/parent/wait", "")
      assert.strictEqual(status, 503)
      assert.deepInclude(body.reason, { _tag: "QueueFull", deployment: "Child" })
      assert.match(headers.get("retry-after")!, /^\d+$/)
    }).pipe(Effect.provide(family({ maxOngoingRequests: 1, maxQueuedRequests: 0 })))
  )

  it.live("health checks are answered while every permit is taken and the queue is full", () =>
    Effect.gen(function* () {
      yield* Effect.forEach([1, 2], () => Effect.forkScoped(post("/child/wait", "")))
      yield* until(Effect.map(Child.state, ({ queued, running }) => running === 1 && queued === 1))
      assert.strictEqual((yield* post("/child/wait", "")).status, 503)
      const { status, text } = yield* send("/-/healthz")
      assert.deepStrictEqual([status, text], [200, "success"])
    }).pipe(Effect.provide(family({ maxOngoingRequests: 1, maxQueuedRequests: 1 })))
  )
})
