/**
 * The work of the benchmark `remote` in a process of its own: behind an ingress (argument `effect-serve`), or served by effect/rpc over a
 * WebSocket (`effect/rpc`), without tracing and logs.
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { HttpIngress } from "effect-serve"
import { Effect, Layer } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { RpcGroup, RpcSerialization, RpcServer } from "effect/rpc"
import { createServer } from "node:http"
import { report } from "../peers/web.ts"
import { handlers, methods, Work } from "./remoteWork.ts"

const ours = Layer.effectDiscard(Effect.map(HttpIngress.Address, ({ port }) => report(port))).pipe(
  // The gate would refuse requests because of what other programs do.
  Layer.provide(
    HttpIngress.layerNode({ "/work": Work }, { port: 0, maxBodySize: 2 * 1024 * 1024, processGate: false })
  ),
  Layer.provide(Work.toLayer(handlers, { maxOngoingRequests: 1024 }))
)

const group = RpcGroup.make(...methods)

const Routes = RpcServer.layerHttp({ group, path: "/rpc", protocol: "websocket", disableTracing: true }).pipe(
  Layer.provide(group.toLayer(handlers)),
  Layer.provide(RpcSerialization.layerSchemaBinary())
)

const reportAddress = Effect.map(HttpServer.HttpServer, ({ address }) => report("port" in address ? address.port : 0))

const rpc = Layer.effectDiscard(reportAddress).pipe(
  Layer.provideMerge(HttpRouter.serve(Routes, { disableLogger: true, disableListenLog: true })),
  Layer.provide(NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 0 }))
)

const Server: Layer.Layer<never, unknown> = process.argv[2] === "effect/rpc" ? rpc : ours

NodeRuntime.runMain(Layer.launch(Server))
