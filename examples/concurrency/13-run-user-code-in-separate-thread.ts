/**
 * The second switch: `npm run example -- 13`.
 *
 * The page's `RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD`. Here it is `SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD`: with 1, the default, each replica of
 * a module deployment has a thread with a loop of its own, and with 0 it shares the app's. Asked is what a health check sees of a handler
 * that computes, by a client on another thread.
 */
import { ConfigProvider, Effect, Layer } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment, HttpIngress, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, named, Ran, slowest, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"
import { hash } from "./modules/work.ts"

export const title = "SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD on and off, seen by health checks"

class UserCode extends Deployment.Service<UserCode>()("UserCode", [Rpc.make("call", { success: Ran })]) {}

// A handler that computes, in an Effect: what is on trial is what this does to others.
export default UserCode.module({ call: () => Effect.sync(() => hash()) })

class Client extends WorkerPool.Service<Client, typeof import("./modules/client.ts")>()("Client", {
  module: new URL("./modules/client.ts", import.meta.url)
}) {}

const Http = HttpIngress.layerNode({ "/user-code": UserCode }, { port: 0 }).pipe(
  Layer.provide(UserCode.toLayerModule(new URL(import.meta.url)))
)

const measure = (env: Record<string, string>) =>
  Effect.gen(function* () {
    const { url } = yield* HttpIngress.Address
    const client = yield* Client
    const [calls, reports] = yield* TestServe.blocked(
      client.send([
        ...[1, 2, 3].map((i) => ({ name: `call ${i}`, url: `${url}/user-code/call`, payload: null })),
        ...[1, 2, 3].map((i) => ({ name: `health ${i}`, url: `${url}/-/healthz`, after: 60 * i }))
      ])
    )
    return { calls, culprits: culprits(reports) }
  }).pipe(Effect.provide(Http), Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env })))

export const program = Effect.gen(function* () {
  const on = yield* measure({})
  // Without the third switch the ingress would get out of the way: that is 14.
  const off = yield* measure({ SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0", SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "0" })
  yield* printChart([
    { title: "On: the replica has a thread", calls: on.calls },
    { title: "Off: the replica is on the app's loop, as the ingress is", calls: off.calls }
  ])
  yield* printEnd(
    [...on.culprits, ...off.culprits],
    "A replica that computes holds its own loop either way, and its own requests wait for each other. " +
      "On a thread of its own it holds up nothing else: health checks, routing and other deployments go on."
  )
  const result = ({ calls, culprits }: typeof on) => ({
    took: took(named(calls, "call")),
    health: slowest(named(calls, "health")),
    statuses: Array.from(new Set(calls.map(({ status }) => status))),
    culprits
  })
  return { on: result(on), off: result(off) }
}).pipe(Effect.provide(Client.layer({ size: 1 })))
