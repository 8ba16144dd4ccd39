/**
 * Deployments over HTTP: `POST {prefix}/{method}`, JSON in and JSON out, both checked by the method's schemas. A stream method
 * answers with server-sent events, or with lines of JSON; see `HttpSchema` for other bodies.
 *
 * `layerNode` owns its server and has the fast path; `layer` runs on any Effect `HttpServer`, and `layerRouter` adds the
 * routes to your own `HttpRouter`. All of them also answer `GET /-/healthz` and `GET /-/routes`.
 *
 * @since 0.1.0
 */
import { Context, Duration, Effect, Layer, Schema } from "effect"
import { HttpRouter, type HttpServer } from "effect/http"
import { count, decode, orElse, Time } from "../core/Options.ts"
import type { ServeError } from "../core/ServeError.ts"
import * as Handle from "../deployment/Handle.ts"
import * as Answer from "../exchange/Answer.ts"
import type * as Auth from "../exchange/Auth.ts"
import * as Compression from "../exchange/Compression.ts"
import * as Cors from "../exchange/Cors.ts"
import * as Exchange from "../exchange/Exchange.ts"
import * as EffectServer from "./EffectServer.ts"
import * as Middleware from "./Middleware.ts"
import * as NodeServer from "./NodeServer.ts"
import * as OwnPaths from "../exchange/OwnPaths.ts"
import * as ProcessGate from "../exchange/ProcessGate.ts"
import * as RemoteCalls from "../exchange/RemoteCalls.ts"
import * as RouteTable from "../exchange/RouteTable.ts"
import { ofPeer } from "../wire/Spans.ts"
import { Remotes, SHUTDOWN_TIMEOUT } from "./Remotes.ts"
import * as Tally from "../exchange/Tally.ts"
import * as ThreadServer from "./ThreadServer.ts"

export { ListenFailed } from "./NodeServer.ts"
export type { Routes, Services } from "../exchange/RouteTable.ts"

/**
 * The options of {@link layer} and {@link layerRouter}.
 *
 * @category options
 * @since 0.1.0
 */
export const Options = Schema.Struct({
  /** Bytes that the body of a request may have; more are answered with 413. Default `1048576` (1 MiB). */
  maxBodySize: count(0).pipe(Schema.withDecodingDefaultTypeKey(orElse(1024 * 1024))),
  /** Bytes that a body may have that a handler reads as it comes (`HttpSchema.Upload`). Default `1073741824` (1 GiB). */
  maxUploadSize: count(0).pipe(Schema.withDecodingDefaultTypeKey(orElse(1024 ** 3))),
  /** Time in which a body must be there, or the next piece of an upload. Default `"30 seconds"`. */
  receiveTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(30)))),
  /** Time for which a stream may be quiet before a server-sent comment says that it is alive. `Infinity` for none. Default `"15 seconds"`. */
  heartbeatInterval: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(15)))),
  /**
   * Time for which a client may take nothing of what waits for it, before its connection is closed and its stream ends (`SlowConsumer`).
   * Taken is what the system's buffers have room for, which may be megabytes in one go. Default `"10 seconds"`.
   */
  stallTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(10)))),
  /** Time in which a stream must give its next element, or else fails with `DeadlineExceeded`. Default `Infinity`. */
  streamIdleTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.infinity))),
  /** Status for a request that a deployment refuses (`QueueFull`, `Shed`, `Unavailable`), 503 or 429. Default `503`. */
  refusalStatus: Schema.Literals([503, 429]).pipe(Schema.withDecodingDefaultTypeKey(orElse(503 as const))),
  /** Status for a request whose deadline passed, 504 or 408. Default `504`. */
  timeoutStatus: Schema.Literals([504, 408]).pipe(Schema.withDecodingDefaultTypeKey(orElse(504 as const))),
  /**
   * Whether an overloaded event loop refuses requests before their bodies are read: "sheddable" ones first, then most
   * "default" ones, "critical" ones never. They get `refusalStatus`. Default `true`.
   */
  processGate: Schema.Boolean.pipe(Schema.withDecodingDefaultTypeKey(orElse(true))),
  /**
   * Whether `/-/routes`, `/-/openapi.json` and `/-/docs` are for those alone whom `authorize` knows. `/-/healthz` is for anybody. Default
   * `true`.
   */
  protectOwnPaths: Schema.Boolean.pipe(Schema.withDecodingDefaultTypeKey(orElse(true))),
  /** Pages of which other origins may call. Default none. */
  cors: Cors.Options.pipe(Schema.withDecodingDefaultKey(orElse({}))),
  /** For remote handles (`toLayerRemote`), which connect at `/-/rpc`. Default `{}`. */
  rpc: RemoteCalls.Options.pipe(Schema.withDecodingDefaultKey(orElse({}))),
  /** What is compressed, of answers that are sent whole; streams are not. Default nothing; `{}` for the defaults of its own. */
  compression: Schema.optionalKey(Compression.Options),
  /** What `/-/openapi.json` and `/-/docs` are headed with. Default: the names of the deployments, and `"1.0.0"`. */
  openApi: Schema.optionalKey(
    Schema.Struct({
      /** What the API is called. Default: the names of the deployments. */
      title: Schema.optionalKey(Schema.NonEmptyString),
      /** That of the API, not of OpenAPI. Default `"1.0.0"`. */
      version: Schema.optionalKey(Schema.NonEmptyString),
      /** What it is for, in Markdown. Default none. */
      description: Schema.optionalKey(Schema.String)
    })
  )
})

/**
 * Who may call.
 *
 * @category options
 * @since 0.1.0
 */
export interface Authorizing<A> {
  /** Finds out who makes a request, before its body is read. See `Auth`. Default: nobody is asked, and anybody may call. */
  readonly authorize?: Auth.Authorize<A>
}

/**
 * The options of {@link layerNode}.
 *
 * @category options
 * @since 0.1.0
 */
export const NodeOptions = Schema.Struct({
  ...Options.fields,
  /** Port to listen on; `0` takes a free one. Default `8000`. */
  port: count(0)
    .check(Schema.isLessThanOrEqualTo(65535))
    .pipe(Schema.withDecodingDefaultTypeKey(orElse(8000))),
  /** Address to listen on: `"0.0.0.0"` for all of the machine's. Default `"127.0.0.1"`. */
  host: Schema.NonEmptyString.pipe(Schema.withDecodingDefaultTypeKey(orElse("127.0.0.1"))),
  /**
   * Whether other processes may listen on the same port, which also set this and run as the same user: new connections are spread over them,
   * and one that stops leaves the port to the others first. For several cores, and for restarts. On Linux and some BSDs; elsewhere the layer
   * fails with `ListenFailed`. Default `false`.
   */
  reusePort: Schema.Boolean.pipe(Schema.withDecodingDefaultTypeKey(orElse(false))),
  /**
   * Whether the server, with a router before each deployment, runs on a thread of its own: then health checks are answered and
   * requests are refused in time while something holds the app's event loop, and each request takes some 0.25 ms longer. Default: only
   * when replicas of a module deployment run on the app's loop, and `SERVE_RUN_ROUTER_IN_SEPARATE_LOOP` is not 0.
   */
  ownThread: Schema.optionalKey(Schema.Boolean),
  /**
   * Serves HTTPS, with at least TLS 1.2: key and certificate in PEM. `clientCertificate` is what is asked of clients (mutual TLS): nothing,
   * to `"request"` one, or to `"require"` one of the `ca`, without which there is no connection. `authorize` reads it. Default: plain HTTP.
   */
  tls: Schema.optionalKey(NodeServer.Tls),
  /** Bytes that the headers of a request may have; more are answered with 431. Default `16384`. */
  maxHeaderSize: count(1).pipe(Schema.withDecodingDefaultTypeKey(orElse(16 * 1024))),
  /** Connections open at once; further ones are closed. Default `10000`. */
  maxConnections: count(1).pipe(Schema.withDecodingDefaultTypeKey(orElse(10_000))),
  /** Time in which the headers must be there. Default `"10 seconds"`. */
  headersTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(10)))),
  /** Time that a connection may be idle between two requests. Default `"90 seconds"`. */
  keepAliveTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(90)))),
  /** Time that open requests get to finish at shutdown. Default `"20 seconds"`. */
  gracefulShutdownTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(20))))
})

/**
 * Where {@link layerNode} listens.
 *
 * @category services
 * @since 0.1.0
 */
export class Address extends Context.Service<
  Address,
  {
    readonly host: string
    readonly port: number
    readonly url: string
  }
>()("effect-serve/HttpIngress/Address") {}

/**
 * Serves deployments on a `node:http` server of its own.
 *
 * Fails with `ListenFailed` when the port is taken or can't be shared, or the address is not the machine's, and dies when an option or a route
 * is invalid. When the scope closes, `/-/healthz` answers 503, new requests are refused, and open ones get `gracefulShutdownTimeout`.
 *
 * @example
 * ```ts
 * import { NodeRuntime } from "@effect/platform-node"
 * import { Effect, Layer, Schema } from "effect"
 * import { Rpc } from "effect/rpc"
 * import { Deployment, HttpIngress } from "effect-serve"
 *
 * class Echo extends Deployment.Service<Echo>()("Echo", [
 *   Rpc.make("shout", { payload: { text: Schema.String }, success: Schema.String })
 * ]) {}
 *
 * const EchoLive = Echo.toLayer({ shout: ({ text }) => Effect.succeed(text.toUpperCase()) })
 *
 * // curl localhost:8000/echo/shout -H 'content-type: application/json' -d '{"text":"hello"}'
 * const Http = HttpIngress.layerNode({ "/echo": Echo }, { port: 8000 })
 *
 * NodeRuntime.runMain(Layer.launch(Http.pipe(Layer.provide(EchoLive))))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNode = <const R extends RouteTable.Routes, A = never>(
  routes: R,
  options: typeof NodeOptions.Encoded & Authorizing<A> = {}
): Layer.Layer<Address, NodeServer.ListenFailed, RouteTable.Services<R> | A> =>
  Layer.effect(Address)(
    Effect.gen(function* () {
      const { authorize, ...written } = options
      const bounds = yield* decode(NodeOptions, written, "HttpIngress.layerNode")
      const table = yield* RouteTable.make(routes, bounds)
      const settings = yield* settingsOf(table, bounds, authorize)
      const handles = yield* RouteTable.handlesOf(routes)
      const ownThread = bounds.ownThread ?? Array.from(handles.values()).some(Handle.avoidsLoop)
      const listening = ownThread
        ? ThreadServer.serve(table, handles, settings, bounds)
        : NodeServer.serve(yield* Exchange.make(table, settings, answering), bounds, yield* Tally.make)
      const { address: host, family, port } = yield* listening
      const url = `${bounds.tls === undefined ? "http" : "https"}://${family === "IPv6" ? `[${host}]` : host}:${port}`
      yield* Effect.logInfo(`Listening on ${url}`)
      return { host, port, url }
    })
  ).pipe(Layer.provide(gateFor(options)))

const answering = {
  callable: RemoteCalls.ofEndpoint,
  call: Answer.ofCall,
  directly: Answer.directly,
  stream: Answer.elementsOf
}

const settingsOf = Effect.fnUntraced(function* <A>(
  table: RouteTable.RouteTable,
  bounds: typeof Options.Type,
  authorize: Auth.Authorize<A> | undefined
): Effect.fn.Return<Exchange.Settings, never, A> {
  const context = yield* Effect.context<A>()
  const { compression, maxBodySize, maxUploadSize, openApi, protectOwnPaths } = bounds
  const names = Array.from(new Set(table.endpoints.map(({ deployment }) => deployment)))
  const secured = authorize !== undefined
  const document = Effect.map(
    Effect.promise(() => import("../exchange/OpenApi.ts")),
    ({ make }) =>
      make({
        title: names.join(", "),
        version: "1.0.0",
        ...openApi,
        operations: table.endpoints,
        choices: bounds,
        maxBodySize,
        maxUploadSize,
        secured,
        adminClosed: secured && protectOwnPaths
      })
  )
  return {
    bounds,
    choices: bounds,
    protectOwnPaths,
    compression,
    document,
    cors: bounds.cors,
    rpc: bounds.rpc,
    under: ofPeer.under,
    authorize: secured ? (headers, peer) => Effect.provideContext(authorize(headers, peer), context) : undefined
  }
})

/**
 * Serves deployments on whatever `HttpServer` is provided. Nothing else is served there.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = <const R extends RouteTable.Routes, A = never>(
  routes: R,
  options: typeof Options.Encoded & Authorizing<A> = {}
): Layer.Layer<never, never, HttpServer.HttpServer | RouteTable.Services<R> | A> =>
  HttpRouter.serve(addTo(routes, options, ["/*"]), { disableLogger: true })

/**
 * Adds the routes of deployments to the `HttpRouter` of an application that has other routes too.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerRouter = <const R extends RouteTable.Routes, A = never>(
  routes: R,
  options: typeof Options.Encoded & Authorizing<A> = {}
): Layer.Layer<never, never, HttpRouter.HttpRouter | RouteTable.Services<R> | A> => {
  const below = Object.keys(routes).map((prefix) =>
    prefix === "/" ? ("/*" as const) : (`${prefix}/*` as `/${string}`)
  )
  return addTo(routes, options, [...OwnPaths.paths, ...below])
}

/**
 * Gives an application's own endpoints, of an `HttpRouter` or an `HttpApi`, what methods of deployments have: the request's id, which its
 * answer says too; `RequestContext` with deadline, priority, tenant and principal, for them and the deployments that they call; an end at
 * the deadline, and when the client leaves; refusals while the process is overloaded or stops; metrics; and for a `ServeError` its status.
 * An `HttpApi` has no place for errors that its endpoints don't declare: there, let it die (`Effect.orDie`). What else an endpoint fails with
 * is the application's, and its defects are answered as those of methods are.
 *
 * Provide it to the layer of the routes.
 *
 * @example
 * ```ts
 * import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
 * import { Effect, Layer, Schema } from "effect"
 * import { HttpRouter, HttpServerResponse } from "effect/http"
 * import { Rpc } from "effect/rpc"
 * import { createServer } from "node:http"
 * import { Deployment, HttpIngress } from "effect-serve"
 *
 * class Greeter extends Deployment.Service<Greeter>()("Greeter", [
 *   Rpc.make("greet", { payload: { name: Schema.String }, success: Schema.String })
 * ]) {}
 *
 * const GreeterLive = Greeter.toLayer({ greet: ({ name }) => Effect.succeed(`hello ${name}`) })
 *
 * // curl localhost:3000/hello/ada -H 'x-request-timeout-ms: 100'
 * const Hello = HttpRouter.add(
 *   "GET",
 *   "/hello/:name",
 *   Effect.gen(function*() {
 *     const greeter = yield* Greeter
 *     const { name = "" } = yield* HttpRouter.params
 *     return HttpServerResponse.text(yield* greeter.greet({ name }))
 *   })
 * ).pipe(Layer.provide(HttpIngress.middleware()))
 *
 * const Http = HttpRouter.serve(Hello).pipe(
 *   Layer.provide(NodeHttpServer.layer(createServer, { port: 3000 })),
 *   Layer.provide(GreeterLive)
 * )
 * NodeRuntime.runMain(Layer.launch(Http))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const middleware = <A = never>(
  options: typeof Middleware.Options.Encoded & Authorizing<A> = {}
): Layer.Layer<HttpRouter.Request<"Error", ServeError>, never, A> => {
  const { authorize, ...written } = options
  return Middleware.make(written, authorize).layer.pipe(Layer.provide(gateFor(options)))
}

const addTo = <R extends RouteTable.Routes, A>(
  routes: R,
  options: typeof Options.Encoded & Authorizing<A>,
  patterns: ReadonlyArray<`/${string}`>
) =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const { authorize, ...written } = options
      const chosen = yield* decode(Options, written, "HttpIngress")
      const table = yield* RouteTable.make(routes, chosen)
      const exchange = yield* Exchange.make(table, yield* settingsOf(table, chosen, authorize), answering)
      const remotes = yield* Remotes.make
      yield* Effect.addFinalizer(() => Effect.andThen(Effect.sync(exchange.drain), remotes.finish(SHUTDOWN_TIMEOUT)))
      const handler = EffectServer.handler(exchange, chosen, yield* Tally.make, remotes)
      const router = yield* HttpRouter.HttpRouter
      yield* Effect.forEach(patterns, (pattern) => router.add("*", pattern, handler), { discard: true })
    })
  ).pipe(Layer.provide(gateFor(options)))

// Given as a layer, one gate serves all the ingresses of an application: they share its event loop.
const gateFor = ({ processGate }: { readonly processGate?: boolean }) =>
  processGate === false ? ProcessGate.layerNoop : ProcessGate.layer
