/**
 * The third switch: `npm run example -- 14`.
 *
 * The page's `RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP`. Here it is `SERVE_RUN_ROUTER_IN_SEPARATE_LOOP`: with 1, the default, ingress and router move to a
 * thread of their own where user code is on the app's loop. Then health checks are answered and requests refused in time, while a handler
 * holds that loop.
 */
import { ConfigProvider, Effect, Layer } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment, HttpIngress, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, named, Ran, slowest } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"
import { hash } from "./modules/work.ts"

export const title = "SERVE_RUN_ROUTER_IN_SEPARATE_LOOP on and off, while user code holds the app's loop"

class HeldLoop extends Deployment.Service<HeldLoop>()("HeldLoop", [Rpc.make("call", { success: Ran })]) {}

export default HeldLoop.module({ call: () => Effect.sync(() => hash()) })

class Client extends WorkerPool.Service<Client, typeof import("./modules/client.ts")>()("Client", {
  module: new URL("./modules/client.ts", import.meta.url)
}) {}

const Http = HttpIngress.layerNode({ "/held": HeldLoop }, { port: 0 }).pipe(
  Layer.provide(HeldLoop.toLayerModule(new URL(import.meta.url), { maxOngoingRequests: 1, maxQueuedRequests: 2 }))
)

const measure = (env: Record<string, string>) =>
  Effect.gen(function* () {
    const { url } = yield* HttpIngress.Address
    const client = yield* Client
    const [calls, reports] = yield* TestServe.blocked(
      client.send([
        ...[1, 2, 3].map((i) => ({ name: `call ${i}`, url: `${url}/held/call`, payload: null })),
        ...[1, 2].map((i) => ({ name: `too many ${i}`, url: `${url}/held/call`, payload: null, after: 50 })),
        ...[1, 2, 3].map((i) => ({ name: `health ${i}`, url: `${url}/-/healthz`, after: 60 * i }))
      ])
    )
    return { calls, culprits: culprits(reports) }
  }).pipe(
    Effect.provide(Http),
    Effect.provideService(
      ConfigProvider.ConfigProvider,
      ConfigProvider.fromEnv({ env: { SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0", ...env } })
    )
  )

export const program = Effect.gen(function* () {
  const on = yield* measure({})
  const off = yield* measure({ SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "0" })
  yield* printChart([
    { title: "On: ingress and router have a thread", calls: on.calls },
    { title: "Off: they share the app's loop with the handler", calls: off.calls }
  ])
  yield* printEnd(
    [...on.culprits, ...off.culprits],
    "Where user code must stay on the app's loop, let ingress and router leave it. " +
      "Each request costs a little more, and everybody gets an answer in time, be it a refusal."
  )
  const result = ({ calls, culprits }: typeof on) => ({
    health: slowest(named(calls, "health")),
    refusal: slowest(named(calls, "too many")),
    refused: calls.filter(({ status }) => status === 503).length,
    culprits
  })
  return { on: result(on), off: result(off) }
}).pipe(Effect.provide(Client.layer({ size: 1 })))
