/**
 * The echoes and the streams of the benchmarks `http` and `stream`, served by an ingress: by its own node server (argument `node`), or on
 * Effect's (`effect`).
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Deployment, HttpIngress } from "effect-serve"
import { Effect, Layer, Schema, Stream } from "effect"
import { HttpServer } from "effect/http"
import { Rpc } from "effect/rpc"
import { createServer } from "node:http"
import { eventOf, report } from "../peers/web.ts"

const Row = Schema.Struct({ id: Schema.Int, name: Schema.String, score: Schema.Finite, isOpen: Schema.Boolean })
const Text = Schema.Struct({ ...Row.fields, text: Schema.String })
const Rows = Schema.Struct({ rows: Schema.Array(Row) })

class Echo extends Deployment.Service<Echo>()("Echo", [
  Rpc.make("small", { payload: Text, success: Text }),
  Rpc.make("text", { payload: Text, success: Text }),
  Rpc.make("rows", { payload: Rows, success: Rows })
]) {}

const EchoLive = Echo.toLayer(
  {
    small: (body) => Effect.succeed(body),
    text: (body) => Effect.succeed(body),
    rows: (body) => Effect.succeed(body)
  },
  { maxOngoingRequests: 128 }
)

const payload = { count: Schema.Int }
const success = Schema.Struct({ index: Schema.Int, text: Schema.String })

class Events extends Deployment.Service<Events>()("Events", [
  Rpc.make("single", { payload, success, stream: true }),
  Rpc.make("natural", { payload, success, stream: true }),
  Rpc.make("waiting", { payload, success, stream: true })
]) {}

const events = (count: number) => Stream.map(Stream.range(0, count - 1), eventOf)

const EventsLive = Events.toLayer(
  {
    single: ({ count }) => Stream.rechunk(events(count), 1),
    natural: ({ count }) => events(count),
    waiting: ({ count }) => Stream.mapEffect(events(count), (event) => Effect.as(nextTurn, event))
  },
  { maxOngoingRequests: 64 }
)

const nextTurn = Effect.callback<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

const routes = { "/echo": Echo, "/events": Events }
// Else it would refuse requests because of what other programs do.
const options = { processGate: false }

const onNode = Layer.effectDiscard(Effect.map(HttpIngress.Address, ({ port }) => report(port))).pipe(
  Layer.provide(HttpIngress.layerNode(routes, { ...options, port: 0 }))
)

const reportAddress = Effect.map(HttpServer.HttpServer, ({ address }) => report("port" in address ? address.port : 0))

const onEffect = Layer.merge(HttpIngress.layer(routes, options), Layer.effectDiscard(reportAddress)).pipe(
  Layer.provide(NodeHttpServer.layer(() => createServer({ keepAliveTimeout: 60_000 }), { host: "127.0.0.1", port: 0 }))
)

const Http: Layer.Layer<never, unknown, Echo | Events> = process.argv[2] === "effect" ? onEffect : onNode

NodeRuntime.runMain(Layer.launch(Layer.provide(Http, Layer.merge(EchoLive, EventsLive))))
