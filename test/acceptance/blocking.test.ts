/**
 * One blocked function stops nothing else: over HTTP, with a handler that computes for two seconds.
 *
 * Seen red: the module and its blocking methods run on the loop of the ingress; the warning does not name the method; the detector does
 * not know whose code runs.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deployment, HttpIngress } from "effect-serve"
import { ConfigProvider, Effect, Fiber, Layer, Metric } from "effect"
import { Rpc } from "effect/rpc"
import { Logs, PartLive } from "../modules/app.ts"
import { play } from "../modules/client.ts"
import { Work } from "../modules/Work.ts"

class Quick extends Deployment.Service<Quick>()("Quick", [Rpc.make("ping")]) {}

const QuickLive = Quick.toLayer({ ping: () => Effect.void })

const workLayer = Work.toLayerModule<typeof import("../modules/work.module.ts")>(
  new URL("../modules/work.module.ts", import.meta.url),
  { poolSize: 1 }
)

const app = (flags: Record<string, string>) =>
  HttpIngress.layerNode({ "/job": Work, "/quick": Quick }, { port: 0 }).pipe(
    Layer.provideMerge(Layer.merge(workLayer, QuickLive)),
    Layer.provide(PartLive),
    Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env: flags }))),
    Layer.provideMerge(Logs.layer)
  )

/** Milliseconds that requests take, one after the other, while a fiber runs. */
const timesWhile = Effect.fnUntraced(function* (
  running: Fiber.Fiber<unknown, unknown>,
  init: readonly [string, object]
) {
  const { url } = yield* HttpIngress.Address
  const [path, options] = init
  const times: Array<number> = []
  while (running.pollUnsafe() === undefined) {
    const from = performance.now()
    const { status } = yield* Effect.promise(async () => {
      const response = await fetch(url + path, options)
      await response.arrayBuffer()
      return response
    })
    assert.strictEqual(status, 200)
    times.push(performance.now() - from)
    yield* Effect.sleep("5 millis")
  }
  return times.toSorted((a, b) => a - b)
})

// Other programs may take the cores for longer than what is asserted here.
describe("a handler that computes for two seconds", { retry: 3, timeout: 20_000 }, () => {
  it.live("on a thread of its pool: others are answered in 20 ms", () =>
    Effect.gen(function* () {
      const { spin } = yield* Work
      const requests = [
        ["/quick/ping", { method: "POST" }],
        ["/-/healthz", {}]
      ] as const
      const spinning = yield* Effect.forkChild(spin({ millis: 2000 }))
      const all = yield* Effect.forEach(requests, (request) => timesWhile(spinning, request), { concurrency: 2 })
      for (const times of all) {
        assert.isAtLeast(times.length, 50)
        assert.isAtMost(times[Math.floor(0.99 * times.length)]!, 20)
      }
    }).pipe(Effect.provide(app({})))
  )

  it.live("on the loop of the ingress: others wait, and two warnings say who is to blame", () =>
    Effect.gen(function* () {
      const [spun, ping, health] = yield* play([
        { at: 0, path: "/job/spin", body: { millis: 2000 } },
        { at: 300, path: "/quick/ping" },
        { at: 300, path: "/-/healthz" }
      ])
      assert.strictEqual(spun!.status, 200)
      for (const answer of [ping!, health!]) assert.isAtLeast(answer.millis, 1000)

      const logged = Effect.map(Logs, (entries) => entries.map(({ message }) => String(message)))
      const messages = yield* logged.pipe(
        Effect.delay("20 millis"),
        Effect.repeat({ until: (found) => found.some((message) => message.includes(" held ")) })
      )
      assert.lengthOf(
        messages.filter((message) => message.includes('"Work.spin" runs on an event loop')),
        1
      )
      assert.match(
        messages.find((message) => message.includes(" held "))!,
        /"Work.spin" held the main event loop for 1\d\d\d|2\d\d\d ms/
      )
      const blocked = (yield* Metric.snapshot).find(
        ({ attributes, id }) => id === "serve_event_loop_blocked_total" && attributes?.["method"] === "spin"
      )
      assert.deepInclude(blocked!.state, { count: 1 })
    }).pipe(
      Effect.provide(
        app({
          SERVE_RUN_SYNC_IN_THREADPOOL: "0",
          SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0",
          SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "0"
        })
      )
    )
  )
})
