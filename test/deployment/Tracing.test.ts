import { assert, describe, it } from "@effect/vitest"
import { Deployment } from "effect-serve"
import { Context, Effect, Layer, Option, Tracer } from "effect"
import { Rpc } from "effect/rpc"

class Inner extends Deployment.Service<Inner>()("Inner", [Rpc.make("run")]) {}
class Outer extends Deployment.Service<Outer>()("Outer", [Rpc.make("run")]) {}

const InnerLive = Inner.toLayer({ run: () => Effect.void })
const OuterLive = Outer.toLayer(Effect.map(Inner, (inner) => Outer.of({ run: () => inner.run() })))
const Deployments = OuterLive.pipe(Layer.provide(InnerLive))

/** A tracer that keeps its spans, and samples them or not. */
const collect = (sampled: boolean) => {
  const spans: Array<Tracer.Span> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan({ ...options, sampled })
      spans.push(span)
      return span
    }
  })
  return { spans, tracer }
}

const parentOf = (span: Tracer.Span) => Option.getOrUndefined(span.parent)?.spanId

describe("a trace", () => {
  it.effect("has a span for each request, below the caller's and with its replica", () =>
    Effect.gen(function* () {
      const { spans, tracer } = collect(true)
      const call = Effect.flatMap(Outer, (outer) => outer.run())
      yield* call.pipe(
        Effect.withSpan("caller"),
        Effect.provideService(Tracer.Tracer, tracer),
        Effect.provide(Deployments, { local: true })
      )
      const [caller, outer, inner] = spans
      assert.deepStrictEqual(
        spans.map(({ name }) => name),
        ["caller", "Outer.run", "Inner.run"]
      )
      assert.strictEqual(parentOf(outer!), caller!.spanId)
      assert.strictEqual(parentOf(inner!), outer!.spanId)
      assert.strictEqual(outer!.attributes.get("replica"), "Outer#0")
      assert.isString(inner!.attributes.get("requestId"))
      assert.deepStrictEqual(
        spans.map(({ status }) => status._tag),
        ["Ended", "Ended", "Ended"]
      )
    })
  )

  it.effect("has a root span for a request whose caller has none", () =>
    Effect.gen(function* () {
      const { spans, tracer } = collect(true)
      const inner = Context.get(yield* Layer.build(InnerLive), Inner)
      yield* Effect.provideService(inner.run(), Tracer.Tracer, tracer)
      assert.deepStrictEqual(
        spans.map((span) => [span.name, parentOf(span)]),
        [["Inner.run", undefined]]
      )
    }).pipe(Effect.scoped)
  )

  it.effect("has no span of a request when it is not sampled", () =>
    Effect.gen(function* () {
      const { spans, tracer } = collect(false)
      const outer = Context.get(yield* Layer.build(Deployments), Outer)
      yield* outer.run().pipe(Effect.withSpan("caller"), Effect.provideService(Tracer.Tracer, tracer))
      assert.deepStrictEqual(
        spans.map(({ name }) => name),
        ["caller"]
      )
    }).pipe(Effect.scoped)
  )

  it.effect("does not begin where nobody traces", () =>
    Effect.gen(function* () {
      class Look extends Deployment.Service<Look>()("Look", [Rpc.make("run")]) {}
      let span: Tracer.AnySpan | undefined
      const LookLive = Look.toLayer({
        run: () =>
          Effect.withFiber((fiber) => {
            span = fiber.cache.span
            return Effect.void
          })
      })
      const start = Layer.build(LookLive).pipe(Effect.withSpan("start"))
      yield* Context.get(yield* start, Look).run()
      assert.isUndefined(span)
    }).pipe(Effect.scoped)
  )
})
