/**
 * Node and Effect, with what effect-serve needs of them and nothing of it: an HTTP server that answers. It is what idle memory is compared with.
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Effect, Layer, Schema, Stream } from "effect"
import { HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { Rpc } from "effect/rpc"
import { createServer } from "node:http"
import { report } from "../peers/web.ts"

const Row = Schema.Struct({ id: Schema.Int, name: Schema.String })

/** What the routes of an app are made of. */
export const used = [Rpc.make("echo", { payload: Row, success: Row }), Stream.range(0, 1)] as const

const Routes = HttpRouter.add("POST", "/echo/small", HttpServerResponse.text(`${used.length}`))

const Ready = Layer.effectDiscard(
  Effect.map(HttpServer.HttpServer, ({ address }) => report("port" in address ? address.port : 0))
)

const Http = Layer.merge(HttpRouter.serve(Routes), Ready).pipe(
  Layer.provide(NodeHttpServer.layer(() => createServer(), { host: "127.0.0.1", port: 0 }))
)

NodeRuntime.runMain(Layer.launch(Http))
