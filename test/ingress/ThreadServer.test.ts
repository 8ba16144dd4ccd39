/**
 * What else the thread of an ingress does is tested with the other servers, in HttpIngress.test.ts.
 *
 * Seen red: no router before the app; one with more permits than the app; the flag ignored, or the ingress never moved; no metrics sent.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deployment, HttpIngress } from "effect-serve"
import { ConfigProvider, Effect, Layer, Logger, Metric, Schema, Tracer } from "effect"
import { Rpc } from "effect/rpc"
import { play } from "../modules/client.ts"
import { Part, Probe } from "../modules/Probe.ts"

class Slow extends Deployment.Service<Slow>()("Slow", [
  Rpc.make("spin", { payload: { millis: Schema.Number }, success: Schema.String })
]) {}

class Quick extends Deployment.Service<Quick>()("Quick", [Rpc.make("ping", { success: Schema.String })]) {}

const spin = (millis: number) => {
  const until = performance.now() + millis
  while (performance.now() < until);
}

const SlowLive = Slow.toLayer(
  { spin: ({ millis }) => Effect.sync(() => (spin(millis), "done")) },
  { maxOngoingRequests: 1, maxQueuedRequests: 1 }
)
const QuickLive = Quick.toLayer({ ping: () => Effect.succeed("pong") })

const Quiet = Layer.mergeAll(Logger.layer([]), Layer.succeed(Metric.MetricRegistry, new Map()))

const probe = (flags: Record<string, string>) =>
  Effect.gen(function* () {
    const [, health] = yield* play([
      { at: 0, path: "/probe/spin", body: { millis: 1000 } },
      { at: 300, path: "/-/healthz" }
    ])
    return health!.millis
  }).pipe(
    Effect.provide(
      Layer.provideMerge(
        HttpIngress.layerNode({ "/probe": Probe }, { port: 0 }).pipe(
          Layer.provide(
            Probe.toLayerModule<typeof import("../modules/probe.module.ts")>(
              new URL("../modules/probe.module.ts", import.meta.url)
            )
          ),
          Layer.provide(
            Part.toLayer({
              double: Effect.die,
              seen: () => Effect.die("no"),
              count: () => assert.fail(),
              never: () => Effect.never
            })
          ),
          Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env: flags })))
        ),
        Quiet
      )
    )
  )

describe("HttpIngress.layerNode, on a thread of its own", () => {
  it.live("answers health checks and refuses in time while a handler holds the app's event loop", () =>
    Effect.gen(function* () {
      const [spun, waited, refused, health, late] = yield* play([
        { at: 0, path: "/slow/spin", body: { millis: 1500 } },
        { at: 300, path: "/slow/spin", body: { millis: 1 } },
        { at: 400, path: "/slow/spin", body: { millis: 1 } },
        { at: 500, path: "/-/healthz" },
        { at: 500, path: "/quick/ping", timeout: 100 }
      ])
      assert.deepInclude(spun, { status: 200, body: `"done"` })
      assert.isAtLeast(spun!.millis, 1500)
      assert.deepInclude(waited, { status: 200, body: `"done"` })
      assert.isAtLeast(waited!.millis, 1000)

      assert.strictEqual(refused!.status, 503)
      assert.include(refused!.body, "QueueFull")
      assert.isNotNull(refused!.retryAfter)
      assert.isBelow(refused!.millis, 400)
      assert.deepInclude(health, { status: 200, body: "success" })
      assert.isBelow(health!.millis, 400)
      assert.strictEqual(late!.status, 504)
      assert.isBelow(late!.millis, 600)
    }).pipe(
      Effect.provide(
        Layer.provideMerge(
          HttpIngress.layerNode({ "/slow": Slow, "/quick": Quick }, { port: 0, ownThread: true }).pipe(
            Layer.provide([SlowLive, QuickLive])
          ),
          Quiet
        )
      )
    )
  )

  it.live("is where it goes when a module's replicas run on the app's loop, and the flag for the router is not 0", () =>
    Effect.gen(function* () {
      assert.isBelow(yield* probe({ SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0" }), 400)
      const blocked = yield* probe({
        SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0",
        SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "0"
      })
      assert.isAtLeast(blocked, 500)
      assert.isBelow(yield* probe({}), 400)
    })
  )

  it.live("shows what it counts in the app's registry", () =>
    Effect.gen(function* () {
      yield* play([{ at: 0, path: "/quick/ping" }])
      const counts = Effect.map(Metric.snapshot, (metrics) =>
        metrics.filter(
          ({ attributes, id }) => id === "serve_http_requests_total" && attributes?.["thread"] === "ingress"
        )
      )
      const [count] = yield* counts.pipe(
        Effect.delay("50 millis"),
        Effect.repeat({ until: (found) => found.some(({ attributes }) => attributes?.["route"] === "/quick/ping") })
      )
      assert.isDefined(count)
    }).pipe(
      Effect.provide(
        Layer.provideMerge(
          HttpIngress.layerNode({ "/quick": Quick }, { port: 0, ownThread: true }).pipe(Layer.provide(QuickLive)),
          Quiet
        )
      )
    )
  )

  it.live("hands on the trace of a client", () =>
    Effect.gen(function* () {
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      yield* Effect.gen(function* () {
        const { url } = yield* HttpIngress.Address
        const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        yield* Effect.promise(() => fetch(`${url}/quick/ping`, { method: "POST", headers: { traceparent } }))
      }).pipe(
        Effect.provide(
          HttpIngress.layerNode({ "/quick": Quick }, { port: 0, ownThread: true }).pipe(Layer.provide(QuickLive))
        ),
        Effect.provideService(Tracer.Tracer, tracer)
      )
      const ours = spans.filter(({ traceId }) => traceId === "0af7651916cd43dd8448eb211c80319c")
      assert.include(
        ours.map(({ name }) => name),
        "Quick.ping"
      )
    }).pipe(Effect.provide(Quiet))
  )
})
