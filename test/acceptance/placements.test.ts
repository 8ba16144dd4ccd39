/**
 * What a deployment does is the same wherever its replicas run: every statement here holds for the app's event loop, for threads, and
 * for another process. What only threads can do is in `test/deployment/Modules.test.ts`; what a network can, in `test/remote`.
 *
 * Seen red for each of these mutations. Telemetry: annotations or levels are lost; a metric stays as it was first. ThreadEnd: all is
 * logged. ModuleHost: the options of a nested call are ignored. ThreadReplica: a replica can't leave; batchers aren't shown.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { type Deployment, RequestContext, ServeError } from "effect-serve"
import { Cause, Context, Effect, Exit, Fiber, Layer, Metric, Option, References, Scope, Stream, Tracer } from "effect"
import { answered, call, reason } from "../deployments.ts"
import { logged, Logs, request, until, whenLogged } from "../modules/app.ts"
import { appAt, type Placement, placements, Site } from "../modules/placements.ts"
import { Broken, Part, Point, Probe } from "../modules/Probe.ts"

/** Elements that may be under way to a reader which doesn't take them, from nearby and from another process. */
const WINDOW = 16
const FAR_WINDOW = 4096

/** What the deployment does where it runs. */
const state = Effect.flatMap(Site, (site) => site.state)

const running = Effect.map(state, ({ running }) => running)

/** Waits until no request holds a permit. */
const idle = until(Effect.map(running, (running) => running === 0))

/** How often an effect of the handlers happens while `body` runs; waits until it has. */
const happens = <A, E, R>(count: Effect.Effect<number, ServeError.ServeError>, body: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const before = yield* count
    const result = yield* body
    yield* until(Effect.map(count, (now) => now > before))
    return [result, (yield* count) - before] as const
  })

/** The defect with which a call fails. */
const defect = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.exit(effect), (exit) => {
    assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), "it dies")
    const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
    assert.instanceOf(error, Error)
    return error
  })

/** A tracer that keeps its spans. */
const collect = () => {
  const spans: Array<Tracer.Span> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return { spans, tracer }
}

/** An app that logs what is at least of that level. */
const logging = (placement: Placement, minimum: "Debug" | "Error") =>
  appAt(placement, options, Layer.provideMerge(Layer.succeed(References.MinimumLogLevel, minimum), Logs.layer))

/** Opens an app that the test closes by hand. */
const open = Effect.fnUntraced(function* (placement: Placement, options: Deployment.DeploymentOptions) {
  const scope = yield* Scope.make()
  const context = yield* Layer.buildWithScope(appAt(placement, options), scope)
  return { context, probe: Context.get(context, Probe), close: Scope.close(scope, Exit.void) }
})

const options = { maxOngoingRequests: 4, maxQueuedRequests: 8 }

for (const placement of placements) {
  const isRemote = placement === "toLayerRemote"
  const replicaMetrics = Effect.map(Metric.snapshot, (metrics) => metrics.filter(({ id }) => id === "test_measured"))

  describe(`a deployment, by ${placement}`, { timeout: 20_000 }, () => {
    layer(appAt(placement, options), { excludeTestServices: true })("with one replica", (it) => {
      describe("answers", () => {
        it.effect("with the value, in its class", () =>
          Effect.gen(function* () {
            const { move } = yield* Probe
            const moved = yield* move({ point: new Point({ x: 1, y: 2 }), at: new Date("2020-02-03") })
            assert.instanceOf(moved, Point)
            assert.deepStrictEqual(moved, new Point({ x: 2021, y: 2 }))
          })
        )

        it.effect("with bytes, and leaves the caller its own", () =>
          Effect.gen(function* () {
            const { reverse } = yield* Probe
            const bytes = Uint8Array.from({ length: 100_000 }, (_, i) => i % 251)
            const reversed = yield* reverse({ bytes: bytes.subarray(1) })
            assert.instanceOf(reversed, Uint8Array)
            assert.deepStrictEqual(reversed, bytes.slice(1).toReversed())
            assert.strictEqual(bytes.length, 100_000)
            assert.strictEqual(bytes[1], 1)
          })
        )

        it.effect("with the error that the method declares, in its class", () =>
          Effect.gen(function* () {
            const { fail } = yield* Probe
            const error = yield* Effect.flip(fail({ part: "lens" }))
            assert.instanceOf(error, Broken)
            assert.strictEqual(error.part, "lens")
          })
        )

        it.effect(
          "with a defect, which has the name and the message of what was thrown unless it comes from another process",
          () =>
            Effect.gen(function* () {
              const { die, move } = yield* Probe
              const error = yield* defect(die({ message: "no such key" }))
              if (isRemote) {
                // Which may be anybody's. The log where it runs has all of it.
                assert.notInclude(`${error.name} ${error.message} ${error.stack}`, "no such key")
                assert.include((yield* whenLogged("Defect in Probe.die")).cause, "TypeError: no such key")
              } else {
                assert.deepStrictEqual([error.name, error.message], ["TypeError", "no such key"])
                assert.include(error.stack, "probe.module.ts")
              }
              // And goes on.
              yield* move({ point: new Point({ x: 1, y: 2 }), at: new Date(0) })
            })
        )

        // What stays in one loop is handed over as it is.
        it.effect.runIf(placement === "toLayerModule on a thread")(
          "with a defect when the result is not of the method's type",
          () =>
            Effect.gen(function* () {
              const { wrong } = yield* Probe
              const { message } = yield* defect(wrong())
              assert.include(message, "wrong")
              assert.include(message, "Expected number")
            })
        )

        it.effect("many callers at once, each with its own", () =>
          Effect.gen(function* () {
            const { double } = yield* Probe
            const numbers = Array.from({ length: 500 }, (_, i) => i)
            const doubles = yield* Effect.forEach(numbers, (x) => double({ x }), { concurrency: 10 })
            assert.deepStrictEqual(
              doubles,
              numbers.map((x) => 2 * x)
            )
          })
        )
      })

      describe("streams", () => {
        it.effect("all elements in order, and then ends", () =>
          Effect.gen(function* () {
            const { chunk, count } = yield* Probe
            const elements = Array.from({ length: 1000 }, (_, i) => i)
            assert.deepStrictEqual(yield* Stream.runCollect(chunk({ size: 1000 })), elements)
            assert.deepStrictEqual(yield* Stream.runCollect(chunk({ size: 0 })), [])
            assert.deepStrictEqual(yield* Stream.runCollect(count({ to: 999, failAt: 0 })), elements.slice(1))
            yield* idle
          })
        )

        it.effect("the elements before it fails with the error that the method declares", () =>
          Effect.gen(function* () {
            const { count } = yield* Probe
            for (const failAt of [1, 2, WINDOW, WINDOW + 1, 50]) {
              const elements: Array<number> = []
              const error = yield* count({ to: 1000, failAt }).pipe(
                // Slower than the producer, which has failed by then.
                Stream.runForEach((n) =>
                  Effect.andThen(
                    Effect.sync(() => elements.push(n)),
                    Effect.yieldNow
                  )
                ),
                Effect.flip
              )
              assert.instanceOf(error, Broken)
              assert.deepStrictEqual(
                elements,
                Array.from({ length: failAt - 1 }, (_, i) => i + 1)
              )
            }
          })
        )

        it.effect("to a reader that takes only some, and then stops the producer", () =>
          Effect.gen(function* () {
            const { count, stopped } = yield* Probe
            const first = Stream.runCollect(Stream.take(count({ to: 1e9, failAt: 0 }), 3))
            assert.deepStrictEqual(yield* happens(stopped(), first), [[1, 2, 3], 1])
            yield* idle
          })
        )

        it.effect("no further than a window ahead of a reader that stops", () =>
          Effect.gen(function* () {
            const { count, produced, stopped } = yield* Probe
            const reading = Effect.gen(function* () {
              const pull = yield* Stream.toPull(count({ to: 1e9, failAt: 0 }))
              let taken = 0
              while (taken < 100) taken = (yield* pull).at(-1)!
              // It comes to rest, and stays there.
              let before = -1
              yield* until(
                Effect.map(Effect.delay(produced(), "30 millis"), (now) => now === before || ((before = now), false))
              )
              assert.isAtLeast(before, taken)
              assert.isAtMost(before, taken + (isRemote ? FAR_WINDOW : WINDOW))
              const next = (yield* pull)[0]
              assert.strictEqual(next, taken + 1)
            })
            const [, stops] = yield* happens(stopped(), Effect.scoped(reading))
            assert.strictEqual(stops, 1)
            yield* idle
          })
        )
      })

      describe("stops", () => {
        it.effect("a call whose caller leaves, before that goes on", () =>
          Effect.gen(function* () {
            const { linger, stopped } = yield* Probe
            const before = yield* stopped()
            const caller = yield* call(linger({ millis: 60 }))
            yield* Effect.sleep("20 millis")
            yield* Fiber.interrupt(caller)
            assert.strictEqual((yield* stopped()) - before, 1)
            assert.strictEqual(yield* running, 0)
          })
        )

        it.effect("a call whose caller leaves at once", () =>
          Effect.gen(function* () {
            const { begun, never, stopped } = yield* Probe
            const counts = Effect.all([begun(), stopped()])
            const [begunBefore, stoppedBefore] = yield* counts
            for (let i = 0; i < 40; i++) {
              const caller = yield* call(never())
              for (let turns = i % 8; turns > 0; turns--) yield* Effect.yieldNow
              yield* Fiber.interrupt(caller)
            }
            assert.strictEqual(yield* running, 0)
            const [begunNow, stoppedNow] = yield* counts
            assert.strictEqual(begunNow - begunBefore, stoppedNow - stoppedBefore)
          })
        )

        it.effect("nothing for a caller that leaves while it waits, because that has not begun", () =>
          Effect.gen(function* () {
            const { begun, never } = yield* Probe
            const before = yield* begun()
            const holders = yield* Effect.forEach([1, 2, 3, 4], () => call(never()))
            const waiting = yield* call(never())
            yield* until(Effect.map(state, ({ queued, running }) => running === 4 && queued === 1))
            yield* Fiber.interrupt(waiting)
            assert.deepInclude(yield* state, { running: 4, queued: 0 })
            yield* Fiber.interruptAll(holders)
            assert.deepInclude(yield* state, { running: 0, queued: 0 })
            assert.strictEqual((yield* begun()) - before, 4)
          })
        )

        it.effect("a stream whose reader leaves, before that goes on", () =>
          Effect.gen(function* () {
            const { hang, stopped } = yield* Probe
            const before = yield* stopped()
            let taken = 0
            const reader = yield* call(Stream.runForEach(hang({ after: 5 }), () => Effect.sync(() => taken++)))
            yield* until(Effect.sync(() => taken === 5))
            yield* Fiber.interrupt(reader)
            assert.strictEqual((yield* stopped()) - before, 1)
            assert.strictEqual(yield* running, 0)
          })
        )

        it.effect("a call whose deadline passes", () =>
          Effect.gen(function* () {
            const { never, stopped } = yield* Probe
            const late = reason(never(undefined, { timeout: "50 millis" }))
            const [expired, stops] = yield* happens(stopped(), late)
            assert.deepStrictEqual(expired, new ServeError.DeadlineExceeded({ deployment: "Probe", stage: "handler" }))
            assert.strictEqual(stops, 1)
            yield* idle
          })
        )

        it.effect("a stream whose deadline passes", () =>
          Effect.gen(function* () {
            const { hang, stopped } = yield* Probe
            let taken = 0
            const late = hang({ after: 3 }, { timeout: "100 millis" }).pipe(
              Stream.runForEach(() => Effect.sync(() => taken++)),
              reason
            )
            const [expired, stops] = yield* happens(stopped(), late)
            assert.deepStrictEqual(expired, new ServeError.DeadlineExceeded({ deployment: "Probe", stage: "stream" }))
            assert.deepStrictEqual([taken, stops], [3, 1])
            yield* idle
          })
        )
      })

      describe("tells handlers", () => {
        it.effect("what the caller says of its call", () =>
          Effect.gen(function* () {
            const { seen } = yield* Probe
            const said = { priority: "critical", tenant: "t", modelId: "m", sessionId: "s" } as const
            const { millisLeft, requestId, ...rest } = yield* seen(undefined, { ...said, timeout: "3 seconds" })
            assert.deepStrictEqual(rest, { ...said, route: undefined, principal: undefined, lastEventId: undefined })
            assert.isAtMost(millisLeft, 3000)
            assert.isAtLeast(millisLeft, 1500)
            assert.isNotEmpty(requestId)
            assert.notStrictEqual((yield* seen()).requestId, requestId)
          })
        )

        it.effect("what the request is that the caller serves", () =>
          Effect.gen(function* () {
            const { seen } = yield* Probe
            const outer: RequestContext.RequestContext = {
              requestId: "r-1",
              deadline: Date.now() + 2000,
              priority: "sheddable",
              tenant: "t",
              modelId: "m",
              sessionId: "s",
              route: "/probe",
              principal: { id: "p", claims: { admin: true } },
              lastEventId: "7"
            }
            const served = Effect.provideService(seen(), RequestContext.RequestContext, outer)
            const { millisLeft, ...rest } = yield* served
            const { deadline: _, ...expected } = outer
            assert.deepStrictEqual(rest, expected)
            assert.isAtMost(millisLeft, 2000)
            assert.isAtLeast(millisLeft, 500)
          })
        )

        it.effect("the deadline of the deployment when the caller has none", () =>
          Effect.gen(function* () {
            const { seen } = yield* Probe
            const { millisLeft } = yield* seen()
            assert.isAtMost(millisLeft, 60_000)
            assert.isAtLeast(millisLeft, 50_000)
          })
        )
      })

      describe("lets handlers call other deployments", () => {
        it.effect("and get their answers and errors", () =>
          Effect.gen(function* () {
            const { double } = yield* Probe
            assert.strictEqual(yield* double({ x: 21 }), 42)
            const error = yield* Effect.flip(double({ x: -1 }))
            assert.instanceOf(error, Broken)
            assert.strictEqual(error.part, "-1")
          })
        )

        it.effect("and pass their ServeErrors on", () =>
          Effect.gen(function* () {
            const { partLate } = yield* Probe
            assert.deepStrictEqual(
              yield* reason(partLate()),
              new ServeError.DeadlineExceeded({ deployment: "Part", stage: "handler" })
            )
          })
        )

        it.effect("on behalf of their own request, with options of their own", () =>
          Effect.gen(function* () {
            const { partSeen } = yield* Probe
            const outer = request({ requestId: "r-2", route: "/probe" })
            const options = { tenant: "outer", modelId: "m", sessionId: "s", priority: "critical" } as const
            const nested = (timeout: number) =>
              Effect.provideService(partSeen(undefined, { ...options, timeout }), RequestContext.RequestContext, outer)
            const { millisLeft, ...rest } = yield* nested(20_000)
            assert.deepStrictEqual(rest, {
              requestId: "r-2",
              priority: "sheddable",
              tenant: "inner",
              modelId: "m",
              sessionId: "s",
              route: "/probe",
              principal: undefined,
              lastEventId: undefined
            })
            assert.isAtMost(millisLeft, 5000)
            assert.isAtLeast(millisLeft, 3000)
            // The deadline can only come nearer.
            const sooner = (yield* nested(1000)).millisLeft
            assert.isAtMost(sooner, 1000)
            assert.isAtLeast(sooner, 100)
          })
        )

        it.effect("and read their streams", () =>
          Effect.gen(function* () {
            const { partCount } = yield* Probe
            const numbers = Array.from({ length: 100 }, (_, i) => i + 1)
            assert.deepStrictEqual(yield* Stream.runCollect(partCount({ to: 100 })), numbers)
            assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(partCount({ to: 1e9 }), 2)), [1, 2])
            yield* until(Effect.map(Part.state, (part) => part.running === 0))
          })
        )

        it.effect("and stops these calls with their own", () =>
          Effect.gen(function* () {
            const { partNever } = yield* Probe
            const before = (yield* Part.state).cancelled
            const caller = yield* call(partNever())
            yield* until(Effect.map(Part.state, (part) => part.running === 1))
            yield* Fiber.interrupt(caller)
            const part = yield* Part.state
            assert.deepStrictEqual([part.running, part.cancelled - before], [0, 1])
          })
        )
      })

      describe("is bounded", () => {
        it.effect("by maxOngoingRequests", () =>
          Effect.gen(function* () {
            const { pause } = yield* Probe
            const most = yield* Effect.forEach(Array.from({ length: 10 }), () => pause({ millis: 30 }), {
              concurrency: "unbounded"
            })
            assert.strictEqual(Math.max(...most), 4)
            yield* idle
          })
        )

        it.effect("by maxQueuedRequests", () =>
          Effect.gen(function* () {
            const { never } = yield* Probe
            const callers = yield* Effect.forEach(Array.from({ length: 12 }), () => call(never()))
            const refused = yield* reason(never())
            assert.deepInclude(refused, { _tag: "QueueFull", ongoing: 4, queued: 8 })
            yield* Fiber.interruptAll(callers)
            assert.deepInclude(yield* state, { running: 0, queued: 0 })
          })
        )
      })

      describe("shows", () => {
        it.effect("its logs, to the app's logger", () =>
          Effect.gen(function* () {
            const { log } = yield* Probe
            yield* log({ message: "careful" })
            const { annotations, cause, level, message } = yield* whenLogged("careful")
            assert.strictEqual(level, "Warn")
            assert.strictEqual(message[0], "careful")
            assert.include(typeof message[1] === "string" ? message[1] : JSON.stringify(message[1]), `"n":1`)
            assert.deepInclude(annotations, { from: "probe" })
            assert.isUndefined(cause)
            assert.lengthOf(yield* logged("quiet"), 0)
          })
        )

        // Each process has a tracer of its own: see `test/remote`.
        it.effect.skipIf(isRemote)(
          "its spans, to the tracer of the caller, in one trace with those of the calls it makes",
          () =>
            Effect.gen(function* () {
              const { span } = yield* Probe
              const { spans, tracer } = collect()
              yield* Effect.withSpan(span(), "caller").pipe(Effect.provideService(Tracer.Tracer, tracer))
              const isEnded = () => spans.every(({ status }) => status._tag === "Ended")
              yield* until(Effect.sync(() => spans.length >= 4 && isEnded()))
              assert.deepStrictEqual(
                spans.map(({ name }) => name),
                ["caller", "Probe.span", "inner", "Part.double"]
              )
              assert.deepStrictEqual(
                spans.map(({ parent }) => Option.getOrUndefined(parent)?.spanId),
                [undefined, ...spans.slice(0, 3).map(({ spanId }) => spanId)]
              )
              assert.lengthOf(new Set(spans.map(({ traceId }) => traceId)), 1)
              assert.strictEqual(spans[2]!.attributes.get("a"), 1)
              for (const { status } of spans) assert.isTrue(status._tag === "Ended" && Exit.isSuccess(status.exit))
              const times = spans.map(({ status }) =>
                status._tag === "Ended" ? ([status.startTime, status.endTime] as const) : assert.fail("not ended")
              )
              for (const [start, end] of times) assert.isTrue(end >= start)
              // Both are told by the wall clock, and one thread's may be a little ahead of the other's.
              assert.isTrue(times[2]![0] >= times[0]![0] - 5_000_000n)
            })
        )

        it.effect("its metrics, in the app's registry", () =>
          Effect.gen(function* () {
            const { measure } = yield* Probe
            for (let i = 0; i < 3; i++) yield* measure()
            const count = Effect.map(replicaMetrics, ([metric]) => (metric?.state as { count?: number })?.count)
            yield* until(Effect.map(count, (count) => count === 3))
            yield* measure()
            yield* until(Effect.map(count, (count) => count === 4))
            assert.lengthOf(yield* replicaMetrics, 1)
          })
        )

        it.effect("its batchers, in its state", () =>
          Effect.gen(function* () {
            const { batch } = yield* Probe
            assert.deepStrictEqual(yield* Effect.forEach([1, 2, 3], (n) => batch({ n })), [10, 20, 30])
            const batchers = Effect.map(state, ({ replicas }) => replicas[0]!.batchers as ReadonlyArray<object>)
            yield* until(Effect.map(batchers, ([batcher]) => (batcher as { items?: number })?.items === 3))
            assert.deepInclude((yield* batchers)[0], { name: "Probe.batch", status: "Ready", maxBatchSize: 10 })
            assert.lengthOf(yield* batchers, 1)
          })
        )
      })
    })

    layer(appAt(placement, { ...options, maxOngoingRequests: 1, replicas: 2 }), { excludeTestServices: true })(
      "with two replicas",
      (it) => {
        it.effect("uses all of its replicas", () =>
          Effect.gen(function* () {
            const { replica } = yield* Probe
            const replicas = yield* Effect.forEach(Array.from({ length: 8 }), () => replica(), { concurrency: 2 })
            assert.sameMembers(Array.from(new Set(replicas)), ["Probe#0", "Probe#1"])
          })
        )

        it.effect("runs as much on each of its replicas as it may", () =>
          Effect.gen(function* () {
            const { never } = yield* Probe
            const callers = yield* Effect.forEach([1, 2, 3], () => call(never()))
            yield* until(Effect.map(state, ({ queued }) => queued === 1))
            const { replicas } = yield* state
            assert.deepStrictEqual(
              replicas.map(({ running }) => running),
              [1, 1]
            )
            yield* Fiber.interruptAll(callers)
          })
        )

        it.effect("replaces a replica that leaves, whose calls are lost", () =>
          Effect.gen(function* () {
            const { leave, never, pause } = yield* Probe
            const holder = yield* call(never())
            // On the other one, because each runs one request at once.
            const leaving = yield* call(Effect.exit(leave()))
            yield* whenLogged("has left")
            yield* Fiber.join(leaving)
            // What runs elsewhere goes on, so the next ones wait for the new one.
            assert.isUndefined(holder.pollUnsafe())
            assert.deepStrictEqual(yield* Effect.forEach([1, 2], () => pause({ millis: 1 })), [1, 1])
            const { replicas } = yield* state
            assert.notInclude(
              replicas.map(({ status }) => status),
              "Left"
            )
            yield* Fiber.interrupt(holder)
          })
        )
      }
    )

    describe("as part of an app", () => {
      it.live("finishes what it runs before it ends, and then closes what it opened", () =>
        Effect.gen(function* () {
          const { close, context, probe } = yield* open(placement, options)
          const running = yield* call(probe.pause({ millis: 150 }))
          const streaming = yield* call(
            Stream.runCollect(probe.chunk({ size: 100 }).pipe(Stream.tap(() => Effect.sleep("1 millis"))))
          )
          yield* Effect.sleep("20 millis")
          const closing = yield* call(close)
          assert.deepInclude(yield* reason(probe.thread()), { _tag: "Unavailable", why: "draining" })
          assert.strictEqual(yield* Fiber.join(running), 1)
          assert.lengthOf(yield* Fiber.join(streaming), 100)
          yield* Fiber.join(closing)
          yield* Effect.provideContext(whenLogged("closed"), context)
        })
      )

      it.live("gives up on what is not done by gracefulShutdownTimeout, and waits until it has stopped", () =>
        Effect.gen(function* () {
          const { close, context, probe } = yield* open(placement, { ...options, gracefulShutdownTimeout: "50 millis" })
          const lingering = yield* call(probe.linger({ millis: 100 }))
          yield* Effect.sleep("30 millis")
          const closing = yield* call(close)
          assert.deepStrictEqual(
            yield* answered(lingering),
            new ServeError.ReplicaLost({ replica: "Probe#0", started: true })
          )
          yield* Fiber.join(closing)
          yield* Effect.provideContext(whenLogged("stopped"), context)
          yield* Effect.provideContext(whenLogged("closed"), context)
        })
      )

      it.live("logs as much as the app wants", () =>
        Effect.gen(function* () {
          const messages = Effect.gen(function* () {
            const { log } = yield* Probe
            yield* log({ message: "careful" })
            yield* Effect.sleep("50 millis")
            return [...(yield* logged("careful")), ...(yield* logged("quiet"))].map(({ level }) => level)
          })
          const [debug, error] = yield* Effect.all(
            [
              Effect.provide(messages, logging(placement, "Debug")),
              Effect.provide(messages, logging(placement, "Error"))
            ],
            { concurrency: 2 }
          )
          assert.deepStrictEqual(debug, ["Warn", "Debug"])
          assert.deepStrictEqual(error, [])
        })
      )
    })
  })
}
