/**
 * Seen red for each of these mutations: spans that are not sampled leave; attributes are sent as they are; events, failures, or the
 * parent of a nested call are lost; a span is forgotten after the first of its calls; requests from outside are not told of.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, type Fiber, Option, Tracer } from "effect"
import * as Spans from "../../src/wire/Spans.ts"

/** A tracer that keeps its spans. */
const collect = (sampled = true) => {
  const spans: Array<Tracer.NativeSpan> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan({ ...options, sampled })
      spans.push(span)
      return span
    }
  })
  return { spans, tracer }
}

/** An app and a thread of it, whose notes come at once. */
const connect = (tracer?: Tracer.Tracer) => {
  const notes: Array<Spans.SpanNote> = []
  const app = Spans.ofApp(tracer)
  const thread = Spans.ofThread((note) => {
    notes.push(structuredClone(note))
    app.told(structuredClone(note))
  })
  return { app, thread, notes }
}

const leaving = (spans: Spans.Spans) =>
  Effect.withFiber((fiber: Fiber.Fiber<unknown, unknown>) => Effect.sync(() => spans.leave(fiber)))

/** Runs an effect as a call that leaves one side and arrives at the other. */
const across = <A, E>(from: Spans.Spans, to: Spans.Spans, effect: Effect.Effect<A, E>) =>
  Effect.flatMap(leaving(from), (sent) =>
    Effect.promise(() => Effect.runPromiseExit(Effect.provideContext(effect, to.under(Context.empty(), sent)))).pipe(
      Effect.tap(() => Effect.sync(() => from.back(sent)))
    )
  )

const parentOf = (span: Tracer.Span) => Option.getOrUndefined(span.parent)?.spanId

describe("Spans", () => {
  it.effect("of a thread are those of the app's tracer, below the caller's", () =>
    Effect.gen(function* () {
      const { spans, tracer } = collect()
      const { app, thread } = connect()
      const work = Effect.void.pipe(Effect.withSpan("leaf"), Effect.withSpan("branch", { kind: "client" }))
      yield* across(app, thread, work).pipe(Effect.withSpan("root"), Effect.provideService(Tracer.Tracer, tracer))
      const [root, branch, leaf] = spans
      assert.deepStrictEqual(
        spans.map(({ kind, name, status }) => [name, kind, status._tag]),
        [
          ["root", "internal", "Ended"],
          ["branch", "client", "Ended"],
          ["leaf", "internal", "Ended"]
        ]
      )
      assert.deepStrictEqual([parentOf(branch!), parentOf(leaf!)], [root!.spanId, branch!.spanId])
      assert.strictEqual(leaf!.traceId, root!.traceId)
    })
  )

  it.effect("keep their times, attributes and events, and how they ended", () =>
    Effect.gen(function* () {
      const { spans, tracer } = collect()
      const { app, notes, thread } = connect()
      const work = Effect.gen(function* () {
        yield* Effect.annotateCurrentSpan({ text: "a", number: 1, flag: true, object: new URL("a:b"), run: () => 1 })
        const span = yield* Effect.currentSpan
        span.event("halfway", 5n, { at: "half" })
        return yield* Effect.die(new RangeError("too far"))
      }).pipe(Effect.withSpan("work"))
      yield* across(app, thread, work).pipe(Effect.withSpan("root"), Effect.provideService(Tracer.Tracer, tracer))
      const { attributes, events, status } = spans[1]!
      assert.deepInclude(Object.fromEntries(attributes), {
        text: "a",
        number: 1,
        flag: true,
        object: "a:b",
        run: "() => 1"
      })
      assert.deepStrictEqual(events, [["halfway", 5n, { at: "half" }]])
      if (status._tag !== "Ended") return assert.fail("it has not ended")
      assert.isTrue(Exit.isFailure(status.exit))
      if (Exit.isFailure(status.exit)) assert.include(Cause.pretty(status.exit.cause), "RangeError: too far")
      const times = notes.map(([what, note]) => (what === "opened" ? note.startTime : note.endTime))
      assert.deepStrictEqual([status.startTime, status.endTime], times)
    })
  )

  it.effect("of calls that a thread makes are below its own", () =>
    Effect.gen(function* () {
      const { spans, tracer } = collect()
      const { app, thread } = connect()
      const back = Effect.withSpan(Effect.void, "below")
      const work = Effect.withSpan(across(thread, app, back), "inner")
      yield* across(app, thread, work).pipe(Effect.withSpan("root"), Effect.provideService(Tracer.Tracer, tracer))
      assert.deepStrictEqual(
        spans.map(({ name }) => name),
        ["root", "inner", "below"]
      )
      assert.strictEqual(parentOf(spans[2]!), spans[1]!.spanId)
    })
  )

  it.effect("are those of each call, when a span makes several at once", () =>
    Effect.gen(function* () {
      const { spans, tracer } = collect()
      const { app, thread } = connect()
      const calls = Effect.forEach(
        [1, 2, 3],
        (i) => across(app, thread, Effect.withSpan(Effect.yieldNow, `work ${i}`)),
        {
          concurrency: 3
        }
      )
      yield* Effect.andThen(calls, calls).pipe(Effect.withSpan("root"), Effect.provideService(Tracer.Tracer, tracer))
      assert.lengthOf(spans, 7)
      for (const span of spans.slice(1)) assert.strictEqual(parentOf(span), spans[0]!.spanId)
    })
  )

  it.effect("are below the caller's for as long as any of its calls goes on", () =>
    Effect.gen(function* () {
      const { spans, tracer } = collect()
      const { app, thread } = connect(tracer)
      const gate = yield* Deferred.make<void>()
      const long = across(app, thread, Effect.andThen(Deferred.await(gate), Effect.withSpan(Effect.void, "late")))
      const short = Effect.andThen(across(app, thread, Effect.void), Deferred.succeed(gate, undefined))
      yield* Effect.all([long, short], { concurrency: 2 }).pipe(
        Effect.withSpan("root"),
        Effect.provideService(Tracer.Tracer, tracer)
      )
      const [root, late] = spans
      assert.strictEqual(Option.getOrUndefined(late!.parent), root)
    })
  )

  it.effect("are not told of when nobody traces, or the trace is not sampled", () =>
    Effect.gen(function* () {
      const { app, notes, thread } = connect()
      const untraced = Effect.map(leaving(app), (sent) => assert.isUndefined(sent))
      const work = Effect.andThen(untraced, across(app, thread, Effect.withSpan(Effect.void, "work")))
      yield* work
      const { spans, tracer } = collect(false)
      yield* work.pipe(Effect.withSpan("root"), Effect.provideService(Tracer.Tracer, tracer))
      yield* work.pipe(
        Effect.withSpan("root"),
        Effect.provideService(Tracer.Tracer, collect().tracer),
        Effect.withTracerEnabled(false)
      )
      assert.lengthOf(notes, 0)
      assert.lengthOf(spans, 1)
    })
  )

  it.effect("of a request from outside go to the app's own tracer, if it has one", () =>
    Effect.gen(function* () {
      const outside = { traceId: "t".repeat(32), spanId: "s".repeat(16), sampled: true }
      for (const own of [collect(), undefined]) {
        const { notes, thread } = connect(own?.tracer)
        const served = thread.under(Context.empty(), outside)
        yield* Effect.provideContext(Effect.withSpan(Effect.void, "served"), served)
        assert.lengthOf(notes, 2)
        if (own === undefined) continue
        assert.deepStrictEqual(
          own.spans.map((span) => [span.name, span.traceId, parentOf(span), span.status._tag]),
          [["served", outside.traceId, outside.spanId, "Ended"]]
        )
      }
    })
  )
})
