/**
 * Endpoints of your own, some of which block: `npm run example -- 03`.
 *
 * The page's `FastAPIDeployment`. FastAPI runs an endpoint that is a `def` in a pool of threads by itself. An endpoint of an `HttpApi` is
 * always an Effect, on the loop; what blocks is called in a `WorkerPool`, and `/mistake` shows what happens otherwise.
 */
import { NodeHttpServer } from "@effect/platform-node"
import { Effect, Layer } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { createServer } from "node:http"
import { HttpIngress, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, named, Ran, ran, slowest, threadsOf, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"
import { hash } from "./modules/work.ts"

export const title = "endpoints of an HttpApi: one that waits, one that blocks"

const Api = HttpApi.make("api").add(
  HttpApiGroup.make("echo")
    .add(HttpApiEndpoint.get("sync", "/sync", { success: Ran }))
    .add(HttpApiEndpoint.get("async", "/async", { success: Ran }))
    .add(HttpApiEndpoint.get("mistake", "/mistake", { success: Ran }))
)

class Work extends WorkerPool.Service<Work, typeof import("./modules/work.ts")>()("Work", {
  module: new URL("./modules/work.ts", import.meta.url)
}) {}

class Client extends WorkerPool.Service<Client, typeof import("./modules/client.ts")>()("Client", {
  module: new URL("./modules/client.ts", import.meta.url)
}) {}

const Echo = HttpApiBuilder.group(Api, "echo", (handlers) =>
  Effect.map(Work, (work) =>
    handlers
      .handle("sync", () => Effect.orDie(work.hash()))
      .handle("async", () => ran(Effect.sleep("130 millis")))
      .handle("mistake", () => Effect.sync(() => hash()))
  )
)

const Http = HttpRouter.serve(
  HttpApiBuilder.layer(Api).pipe(Layer.provide(Echo), Layer.provide(HttpIngress.middleware())),
  { disableLogger: true, disableListenLog: true }
).pipe(Layer.provideMerge(NodeHttpServer.layer(createServer, { port: 0 })), Layer.provide(Work.layer({ size: 1 })))

export const program = Effect.gen(function* () {
  const { address } = yield* HttpServer.HttpServer
  const url = `http://127.0.0.1:${"port" in address ? address.port : 0}`
  const client = yield* Client
  const requests = (path: string) => [
    ...[1, 2, 3].map((i) => ({ name: `GET /${path} ${i}`, url: `${url}/${path}`, after: 0 })),
    { name: "GET nothing", url, after: 60 }
  ]
  const [waits] = yield* TestServe.blocked(client.send(requests("async")))
  const [onThread] = yield* TestServe.blocked(client.send(requests("sync")))
  const [onLoop, reports] = yield* TestServe.blocked(client.send(requests("mistake")))

  yield* printChart([
    { title: "/async waits, all requests at once", calls: waits },
    { title: "/sync computes on the one thread of a pool", calls: onThread },
    { title: "/mistake computes in the handler", calls: onLoop }
  ])
  yield* printEnd(
    culprits(reports),
    "Nobody moves an endpoint of your own to a thread: let it wait, and call what blocks in a WorkerPool. " +
      "The detector sees a mistake there too, but it has names only for methods of deployments."
  )
  const result = (calls: typeof waits) => ({
    took: took(named(calls, "GET /")),
    light: slowest(named(calls, "GET nothing")),
    threads: threadsOf(calls)
  })
  return { waits: result(waits), onThread: result(onThread), onLoop: result(onLoop), culprits: culprits(reports) }
}).pipe(Effect.provide(Layer.merge(Http, Client.layer({ size: 1 }))))
