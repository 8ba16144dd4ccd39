/**
 * One HTTP request and its answer, apart from any server: from headers and a body to a status and a body.
 *
 * Both servers of the ingress go through here, so every rule holds in both.
 *
 * @since 0.1.0
 */
import { type Context, Duration, Effect, Schema, type Scope, type Stream } from "effect"
import type { Body } from "../core/HttpSchema.ts"
import { empty, type RequestContext } from "../core/RequestContext.ts"
import { because } from "../core/ServeError.ts"
import { type Offer, PROTOCOL } from "../wire/Connection.ts"
import { runner } from "../wire/Serving.ts"
import type * as Spans from "../wire/Spans.ts"
import { NO_CONTENT, ofServeError, problem, type Reply, text } from "./Answer.ts"
import type { Authorize, Peer } from "./Auth.ts"
import type * as Compression from "./Compression.ts"
import * as Cors from "./Cors.ts"
import * as Frames from "./Frames.ts"
import type { Document } from "./OpenApi.ts"
import * as Outlet from "./Outlet.ts"
import * as OwnPaths from "./OwnPaths.ts"
import * as Payload from "./Payload.ts"
import * as Reception from "./Reception.ts"
import * as RemoteCalls from "./RemoteCalls.ts"
import type { Route, RouteTable } from "./RouteTable.ts"
import * as Seal from "./Seal.ts"
import * as Status from "./Status.ts"
import * as Terms from "./Terms.ts"

type Incoming = Reception.Incoming

/**
 * What to do with a request once its first line and its headers are there: answer, or read the body and go on.
 *
 * @category models
 * @since 0.1.0
 */
type Opening<R> = { readonly _tag: "Answer"; readonly route: string; readonly reply: Reply } | Own | Call<R>

/**
 * A request that the ingress answers itself, and not at once.
 *
 * @category models
 * @since 0.1.0
 */
interface Own {
  readonly _tag: "Own"
  readonly route: string
  readonly answer: (peer: () => Peer) => Effect.Effect<Reply>
}

/**
 * A request that goes to a method.
 *
 * @category models
 * @since 0.1.0
 */
export interface Call<R = Route> {
  readonly _tag: "Call"
  readonly endpoint: R
  readonly context: RequestContext
  readonly headers: Incoming
  /** The payload, where the URL has it, and no body is to be read. */
  readonly query: string | undefined
  /** How the elements of a stream method are sent. */
  readonly frames: Frames.Frames | undefined
  /** Whether the work goes on when the client is gone. */
  readonly outlivesClient: boolean
}

/**
 * What limits a request, beyond what the server itself does.
 *
 * @category options
 * @since 0.1.0
 */
export interface Bounds extends Payload.UploadBounds {
  readonly maxBodySize: number
  readonly heartbeatInterval: Duration.Duration
  readonly stallTimeout: Duration.Duration
  readonly streamIdleTimeout: Duration.Duration
}

/**
 * What an ingress does for all that it serves.
 *
 * @category options
 * @since 0.1.0
 */
export interface Settings {
  readonly bounds: Bounds
  readonly authorize: Authorize | undefined
  /** Whether only health checks are open to those who are not authorized. */
  readonly protectOwnPaths: boolean
  readonly cors: typeof Cors.Options.Type
  readonly compression: typeof Compression.Options.Type | undefined
  readonly choices: Status.Choices
  /** Makes a call part of the trace in which it comes. */
  readonly under: Spans.Spans["under"]
  /** What other processes may call. */
  readonly rpc: typeof RemoteCalls.Options.Type
  /** The methods as OpenAPI. */
  readonly document: Effect.Effect<Document>
}

/**
 * What the servers of the ingress share.
 *
 * @category models
 * @since 0.1.0
 */
export interface Exchange<R extends Route = Route> {
  /** Decides by the first line and the headers alone. */
  readonly open: (verb: string, url: string, headers: Incoming) => Opening<R>
  /** Calls the method with the body, and answers with its result or its failure. Never fails. */
  readonly call: (call: Call<R>, body: Received) => Effect.Effect<Reply>
  /**
   * The same without a fiber, which costs less: gives `done` the answer, or what makes it, and returns what ends the call as long as it has
   * not ended; `false`, with nothing done, when it needs a fiber. `undefined` where every call does.
   */
  readonly direct: ((call: Call<R>, body: Received, done: Done) => Effect.Effect<void> | undefined | false) | undefined
  /** The same for a stream method: the answer is there with the first element, and its rest while the scope is open. */
  readonly stream: (call: Call<R>, body: Received) => Effect.Effect<Reply, never, Scope.Scope>
  /** Adds who makes the call, or gives the answer to those who may not; `undefined` where nobody is asked. */
  readonly authorize: ((call: Call<R>, peer: Peer) => Effect.Effect<Call<R> | Reply>) | undefined
  /** Decides about a connection of a remote handle: what it may call, or the answer to those who may not connect. */
  readonly connect: (url: string, headers: Incoming, peer: () => Peer) => Effect.Effect<Reply | Offer>
  /** The services for one call. */
  readonly contextFor: (call: Call<R>) => Context.Context<never>
  readonly tooLarge: (call: Call<R>) => Reply
  /** The answer to a body that takes too long. */
  readonly tooSlow: (call: Call<R>) => Reply
  readonly unreadable: (call: Call<R>) => Reply
  /** The answer to a request that is still running when the ingress stops. */
  readonly unavailable: (call: Call<R>) => Reply
  /** Tells the log that a client left before its answer. */
  readonly clientLeft: (call: Call<R>) => Effect.Effect<void>
  /** From now on nothing is admitted. */
  readonly drain: () => void
}

/** Takes an answer, or what makes it. */
type Done = (answer: Reply | Effect.Effect<Reply>) => void

/** A body: whole, as text or as bytes, or while it comes. */
export type Received = string | Uint8Array | Stream.Stream<Uint8Array, unknown>

/**
 * Makes the answer to what a body holds; for a stream method, what is to be sent.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answering<R> {
  /** The method as a connection calls it. */
  readonly callable: (endpoint: R) => RemoteCalls.Callable | undefined
  /** The same as `call`, without a fiber; `false` when it needs one. */
  readonly directly?: (
    endpoint: R,
    context: RequestContext,
    payload: unknown,
    done: Done
  ) => Effect.Effect<void> | undefined | false
  readonly call: (endpoint: R, context: RequestContext, payload: unknown) => Effect.Effect<Reply>
  readonly stream: (
    endpoint: R,
    context: RequestContext,
    payload: unknown,
    frames: Frames.Frames
  ) => Effect.Effect<Outlet.Elements<Reply>, Reply>
}

/** Makes the exchange of an ingress that serves `table`. */
export const make = Effect.fnUntraced(function* <R extends Route>(
  table: RouteTable<R>,
  settings: Settings,
  answering: Answering<R>
) {
  const { bounds } = settings
  const reception = yield* Reception.make(settings.authorize, settings.under)
  const isClosed = settings.authorize !== undefined && settings.protectOwnPaths
  const statusOf = Status.ofFailure(Schema.Never, settings.choices)
  const own = OwnPaths.make({
    table,
    document: settings.document,
    isDraining: reception.isDraining,
    isClosed
  })
  const cors = Cors.make(settings.cors)
  const seal = Seal.make(cors, settings.compression)
  const patience: Outlet.Patience = {
    heartbeat: Duration.toMillis(bounds.heartbeatInterval),
    stall: Duration.toMillis(bounds.stallTimeout),
    idle: Duration.toMillis(bounds.streamIdleTimeout)
  }

  const exchange: Exchange<R> = {
    open: (verb, url, headers) => {
      const question = url.indexOf("?")
      const path = question === -1 ? url : url.slice(0, question)
      const requestId = reception.requestIdOf(headers)
      const answer = (route: string, reply: Reply): Opening<R> => ({
        _tag: "Answer",
        route,
        reply: seal.head(headers, reply)
      })
      const preflight = verb === "OPTIONS" ? cors.preflight(verb, headers) : undefined
      if (preflight !== undefined)
        return { _tag: "Answer", route: "", reply: { ...text(NO_CONTENT, "", requestId), headers: preflight } }
      const endpoint = table.find(path)
      if (endpoint === undefined) {
        const found = own.get(path)
        if (found === undefined) return answer("", notFound(path, requestId))
        if (verb !== "GET" && verb !== "HEAD") return answer(path, Terms.wrongVerb(requestId, "GET, HEAD"))
        const reply = found.isOpen ? found.answer(requestId) : undefined
        if (reply !== undefined && !Effect.isEffect(reply) && !seal.isWorthIt(reply)) return answer(path, reply)
        return { _tag: "Own", route: path, answer: (peer) => ownAnswer(path, found, headers, requestId, peer) }
      }
      const refused = Terms.refuse(endpoint, verb, headers, bounds, requestId)
      if (refused !== undefined) return answer(path, refused)
      // A browser sends it along with the user's cookies and certificate, whoever wrote the page, and asks nobody before.
      if (verb === "GET" && headers["origin"] !== undefined && !cors.allows(headers["origin"])) {
        return answer(path, problem(403, "Forbidden", "Pages of this origin may not call", requestId))
      }
      const context = reception.admit(endpoint, headers, requestId)
      if ("status" in context) return answer(path, context)
      const frames = endpoint.stream ? Frames.choose(endpoint.gives, headers["accept"] as string) : undefined
      if (endpoint.stream && frames === undefined) return answer(path, Terms.notAcceptable(requestId))
      return {
        _tag: "Call",
        endpoint,
        context,
        headers,
        frames,
        query: verb === "GET" ? Terms.queryOf(url, question) : undefined,
        outlivesClient: headers["x-request-disconnect-disabled"] === "?1"
      }
    },
    authorize:
      reception.authorize === undefined
        ? undefined
        : (call, peer) =>
            Effect.match(reception.authorize!(call.endpoint, call.context, call.headers, peer), {
              onFailure: (reply) => seal.head(call.headers, reply),
              onSuccess: (context) => ({ ...call, context })
            }),
    call: (call, body) => {
      const payload = payloadOf(call, body, bounds)
      const reply =
        payload instanceof Payload.Unfit
          ? Effect.succeed(unfit(payload, call.context.requestId))
          : answering.call(call.endpoint, call.context, payload)
      return seal.whole(call.headers, reply)
    },
    direct:
      answering.directly === undefined || reception.isTraced || settings.compression !== undefined
        ? undefined
        : (call, body, done) => {
            const { context, endpoint, headers } = call
            if (headers["traceparent"] !== undefined) return false
            const payload = payloadOf(call, body, bounds)
            if (payload instanceof Payload.Unfit) return false
            return answering.directly!(endpoint, context, payload, (answer) =>
              done(
                Effect.isEffect(answer)
                  ? Effect.map(answer, (reply) => seal.head(headers, reply))
                  : seal.head(headers, answer)
              )
            )
          },
    stream: (call, body) => {
      const { context, endpoint } = call
      const { requestId } = context
      const payload = payloadOf(call, body, bounds)
      if (payload instanceof Payload.Unfit) return Effect.succeed(seal.head(call.headers, unfit(payload, requestId)))
      const frames = call.frames!
      const flow = Effect.flatMap(answering.stream(endpoint, context, payload, frames), (elements) =>
        Outlet.open(elements, {
          deployment: endpoint.deployment,
          method: endpoint.method,
          heartbeat: frames.heartbeat,
          patience,
          fail: (reason) => {
            const error = because(() => reason)
            return ofServeError(endpoint, error, requestId)
          }
        })
      )
      return Effect.match(flow, {
        onFailure: (reply) => seal.head(call.headers, reply),
        onSuccess: (body): Reply =>
          seal.head(call.headers, {
            status: 200,
            body,
            contentType: frames.contentType,
            requestId,
            headers: streaming
          })
      })
    },
    connect: (url, headers, peer) => {
      const requestId = reception.requestIdOf(headers)
      const deployment = new URLSearchParams(url.slice(url.indexOf("?") + 1)).get("deployment") ?? ""
      const place = { path: RPC_PATH, deployment, method: "connect", statusOf }
      if (!settings.rpc.enabled) return Effect.succeed(notFound(RPC_PATH, requestId))
      const protocols = String(headers["sec-websocket-protocol"] ?? "").split(/, */)
      if (!protocols.includes(PROTOCOL)) {
        const message = `The WebSocket subprotocol must be ${PROTOCOL}; the client is of another version, or no remote handle`
        return Effect.succeed(problem(400, "BadRequest", message, requestId))
      }
      const context = reception.admit(place, headers, requestId)
      if ("status" in context) return Effect.succeed(context)
      const authorized =
        reception.authorize === undefined
          ? Effect.succeed(context)
          : Effect.suspend(() => reception.authorize!(place, context, headers, peer()))
      return Effect.match(authorized, {
        onFailure: (reply) => reply,
        onSuccess: ({ principal }): Reply | Offer => {
          const caller = { principal, mayNamePrincipals: settings.rpc.trustPrincipals }
          const endpoints = table.endpoints.filter((endpoint) => endpoint.deployment === deployment)
          const methods = RemoteCalls.make(endpoints, callableOf, reception, caller)
          if (methods.size === 0) {
            const names = Array.from(new Set(table.endpoints.map(({ deployment }) => deployment)))
            const message = `Deployment ${JSON.stringify(deployment)} is not served here, or can't be called so. There are: ${names.join(", ")}`
            return problem(404, "NotFound", message, requestId)
          }
          const { maxInFlightSize: window, trustPrincipals: trustsPrincipals } = settings.rpc
          const pingTimeout = Duration.fromInputUnsafe(settings.rpc.pingTimeout)
          return {
            methods,
            maxSize: bounds.maxBodySize,
            window,
            trustsPrincipals,
            pingTimeout,
            runner,
            under: settings.under
          }
        }
      }).pipe(Effect.provideContext(reception.contextFor(context, headers)))
    },
    contextFor: ({ context, headers }) => reception.contextFor(context, headers),
    tooLarge: (call) => seal.head(call.headers, Terms.tooLarge(call.endpoint, bounds, call.context.requestId)),
    tooSlow: ({ context, headers }) => {
      const time = Duration.format(Duration.fromInputUnsafe(bounds.receiveTimeout))
      const reply = problem(408, "RequestTimeout", `The body must be there within ${time}`, context.requestId)
      return seal.head(headers, { ...reply, close: true })
    },
    unreadable: ({ context, headers }) =>
      seal.head(headers, {
        ...problem(400, "BadRequest", "The body could not be read", context.requestId),
        close: true
      }),
    unavailable: ({ context, endpoint, headers }) =>
      seal.head(headers, reception.unavailable(endpoint, context.requestId)),
    clientLeft: ({ context, endpoint }) => reception.clientLeft(endpoint, context.requestId),
    drain: reception.drain
  }

  const callables = new Map<R, RemoteCalls.Callable | undefined>()
  const callableOf = (endpoint: R) => {
    if (!callables.has(endpoint)) callables.set(endpoint, answering.callable(endpoint))
    return callables.get(endpoint)
  }

  // What there is instead, only those may know who may read `/-/routes`.
  const notFound = (path: string, requestId: string) =>
    problem(404, "NotFound", isClosed ? "Nothing is served at this path" : table.explain(path), requestId)

  const ownAnswer = (path: string, found: OwnPaths.OwnPath, headers: Incoming, requestId: string, peer: () => Peer) => {
    const answered = Effect.suspend((): Effect.Effect<Reply> => {
      const reply = found.answer(requestId)
      return Effect.isEffect(reply) ? reply : Effect.succeed(reply)
    })
    const place = { path, deployment: "", method: path, statusOf }
    const services = reception.contextFor(Object.assign({}, empty, { requestId, route: path }), headers)
    if (found.isOpen) return Effect.provideContext(seal.whole(headers, answered), services)
    const context = reception.admit(place, headers, requestId)
    if ("status" in context) return Effect.succeed(seal.head(headers, context))
    const authorized = Effect.suspend(() => reception.authorize!(place, context, headers, peer()))
    const reply = Effect.matchEffect(authorized, {
      onFailure: (reply) => Effect.succeed(reply),
      onSuccess: () => answered
    })
    return Effect.provideContext(seal.whole(headers, reply), services)
  }

  return exchange
})

// What the method takes, or what is wrong with it.
const payloadOf = ({ endpoint, headers, query }: Call, body: Received, bounds: Bounds): unknown => {
  switch (endpoint.takes.form) {
    case "json":
      return Payload.json(query ?? (body as string))
    case "upload":
      return Payload.upload(body as Body, bounds)
    case "multipart": {
      const contentType = headers["content-type"] as string
      return { body: Payload.upload(body as Body, bounds), contentType } satisfies Payload.Form
    }
    default:
      return body
  }
}

const unfit = ({ message }: Payload.Unfit, requestId: string) => problem(400, "BadRequest", message, requestId)

/** Where remote handles connect. */
export const RPC_PATH = "/-/rpc"

// Between us and the client nobody is to keep, change or hold back what has been sent.
const streaming = { "cache-control": "no-cache, no-transform", "x-accel-buffering": "no" }
