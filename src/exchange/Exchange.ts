/**
 * One HTTP request and its answer, apart from any server: from headers and a body to a status and a body.
 *
 * Both servers of the ingress go through here, so every rule holds in both.
 *
 * @since 0.1.0
 */
import { Clock, Context, Duration, Effect, Option, Random, Scope, Stream, Tracer } from "effect"
import * as Headers from "effect/http/Headers"
import * as HttpTraceContext from "effect/http/HttpTraceContext"
import { type Priority, RequestContext } from "../core/RequestContext.ts"
import { because, Shed, Unavailable } from "../core/ServeError.ts"
import type { Body } from "../core/HttpSchema.ts"
import { json, ofServeError, problem, type Reply, text } from "./Answer.ts"
import * as Frames from "./Frames.ts"
import * as Outlet from "./Outlet.ts"
import * as Payload from "./Payload.ts"
import { type Gate, ProcessGate } from "./ProcessGate.ts"
import type { Route, RouteTable } from "./RouteTable.ts"
import * as Status from "./Status.ts"

/**
 * Header names are in lower case; a header that came twice has its values joined.
 *
 * @category models
 * @since 0.1.0
 */
export type Incoming = Readonly<Record<string, string | ReadonlyArray<string> | undefined>>

/**
 * What to do with a request once its first line and its headers are there: answer, or read the body and go on.
 *
 * @category models
 * @since 0.1.0
 */
type Opening<R> = { readonly _tag: "Answer"; readonly route: string; readonly reply: Reply } | Call<R>

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
  readonly contentType: string
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
  /** The same for a stream method: the answer is there with the first element, and its rest while the scope is open. */
  readonly stream: (call: Call<R>, body: Received) => Effect.Effect<Reply, never, Scope.Scope>
  /** The services for one call: those of the layer, what is known of the request, and its trace if a tracer listens. */
  readonly contextFor: (context: RequestContext, headers: Incoming) => Context.Context<never>
  readonly tooLarge: (endpoint: Route, requestId: string) => Reply
  /** The answer to a body that takes too long. */
  readonly tooSlow: (requestId: string) => Reply
  readonly unreadable: (requestId: string) => Reply
  /** The answer to a request that comes, or is still running, when the ingress stops. */
  readonly unavailable: (endpoint: Route, requestId: string) => Reply
  /** Tells the log that a client left before its answer. */
  readonly clientLeft: (endpoint: Route, requestId: string) => Effect.Effect<void>
  /** From now on nothing is admitted. */
  readonly drain: () => void
}

/** A body: whole, as text or as bytes, or while it comes. */
export type Received = string | Uint8Array | Stream.Stream<Uint8Array, unknown>

/**
 * Makes the answer to what a body holds. For a stream method it is the pieces to send, which fail with the answer that tells of a failure.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answering<R> {
  readonly call: (endpoint: R, context: RequestContext, payload: unknown) => Effect.Effect<Reply>
  readonly stream: (
    endpoint: R,
    context: RequestContext,
    payload: unknown,
    frames: Frames.Frames
  ) => Stream.Stream<Outlet.Piece, Reply>
}

/** Makes the exchange of an ingress that serves `table`. */
export const make = Effect.fnUntraced(function* <R extends Route>(
  table: RouteTable<R>,
  bounds: Bounds,
  answering: Answering<R>
) {
  const { maxBodySize } = bounds
  const receiveTimeout = Duration.fromInputUnsafe(bounds.receiveTimeout)
  const patience: Outlet.Patience = {
    heartbeat: Duration.toMillis(bounds.heartbeatInterval),
    stall: Duration.toMillis(bounds.stallTimeout),
    idle: Duration.toMillis(bounds.streamIdleTimeout)
  }
  // A request has a scope of its own: in this one, what its stream opens would pile up.
  const services = Context.omit(Scope.Scope)(yield* Effect.context())
  const clock = yield* Clock.Clock
  const gate = yield* ProcessGate
  const hasTracer = Option.isSome(Context.getOption(services as Context.Context<Tracer.Tracer>, Tracer.Tracer))
  const prefix = (yield* Random.nextIntBetween(36 ** 5, 36 ** 6)).toString(36)
  const routes = JSON.stringify(
    table.endpoints.map(({ deployment, method, path, stream }) => ({
      path,
      deployment,
      method,
      stream
    }))
  )
  let count = 0
  let draining = false

  const requestIdOf = (headers: Incoming): string => {
    const given = headers["x-request-id"]
    return typeof given === "string" && REQUEST_ID.test(given) ? given : `${prefix}-${(count++).toString(36)}`
  }

  const ownPath = (path: string, verb: string, requestId: string): Reply | undefined => {
    if (path !== "/-/healthz" && path !== "/-/routes") return undefined
    if (verb !== "GET" && verb !== "HEAD") return wrongVerb(requestId, "GET, HEAD")
    if (path === "/-/routes") return json(200, routes, requestId)
    if (draining) return { ...text(503, "draining", requestId), close: true }
    return table.isReady()
      ? text(200, "success", requestId)
      : text(503, "starting: a deployment has no replica", requestId)
  }

  const refusal = (endpoint: Route, verb: string, headers: Incoming, requestId: string): Reply | undefined => {
    if (verb !== "POST" && !(verb === "GET" && isEventSource(endpoint, headers))) {
      return wrongVerb(requestId, takesGet(endpoint) ? "GET, POST" : "POST")
    }
    if (draining) return unavailable(endpoint, requestId)
    const size = Number(headers["content-length"])
    if ((size > 0 || "transfer-encoding" in headers) && !mayBe(endpoint, headers["content-type"])) {
      const expected = endpoint.takes.contentTypes.join(" or ")
      return problem(415, "UnsupportedMediaType", `Send the body as content-type: ${expected}`, requestId)
    }
    return size > maxSizeOf(endpoint) ? tooLarge(endpoint, requestId) : undefined
  }

  const maxSizeOf = ({ takes }: Route) => (isWhole(takes) ? maxBodySize : bounds.maxUploadSize)

  const tooLarge = (endpoint: Route, requestId: string): Reply => ({
    ...problem(413, "PayloadTooLarge", `The body may have at most ${maxSizeOf(endpoint)} bytes`, requestId),
    close: true
  })

  // What the method takes, or what is wrong with the body.
  const payloadOf = ({ contentType, endpoint, query }: Call<R>, body: Received): unknown => {
    switch (endpoint.takes.form) {
      case "json":
        return parse(query ?? (body as string))
      case "upload":
        return Payload.upload(body as Body, bounds)
      case "multipart":
        return { body: Payload.upload(body as Body, bounds), contentType } satisfies Payload.Form
      default:
        return body
    }
  }

  const notJson = (requestId: string) => problem(400, "BadRequest", "The body is not JSON", requestId)

  const exchange: Exchange<R> = {
    open: (verb, url, headers) => {
      const query = url.indexOf("?")
      const path = query === -1 ? url : url.slice(0, query)
      const requestId = requestIdOf(headers)
      const endpoint = table.find(path)
      if (endpoint === undefined) {
        const reply = ownPath(path, verb, requestId) ?? problem(404, "NotFound", table.explain(path), requestId)
        return { _tag: "Answer", route: reply.status === 404 ? "" : path, reply }
      }
      const reply = refusal(endpoint, verb, headers, requestId)
      if (reply !== undefined) return { _tag: "Answer", route: path, reply }
      const context = contextOf(headers, requestId, path, clock.currentTimeMillisUnsafe())
      if (typeof context === "string") {
        return { _tag: "Answer", route: path, reply: problem(400, "BadRequest", context, requestId) }
      }
      if (gate.isOverloaded && gate.sheds(context.priority)) {
        return { _tag: "Answer", route: path, reply: shed(endpoint, gate, requestId) }
      }
      const frames = endpoint.stream ? Frames.choose(endpoint.gives, headers["accept"] as string) : undefined
      if (endpoint.stream && frames === undefined) {
        return { _tag: "Answer", route: path, reply: notAcceptable(requestId) }
      }
      return {
        _tag: "Call",
        endpoint,
        context,
        frames,
        contentType: headers["content-type"] as string,
        query: verb === "GET" ? queryOf(url, query) : undefined,
        outlivesClient: headers["x-request-disconnect-disabled"] === "?1"
      }
    },
    call: (call, body) => {
      const payload = payloadOf(call, body)
      return payload === unparsable
        ? Effect.succeed(notJson(call.context.requestId))
        : answering.call(call.endpoint, call.context, payload)
    },
    stream: (call, body) => {
      const { context, endpoint } = call
      const { requestId } = context
      const payload = payloadOf(call, body)
      if (payload === unparsable) return Effect.succeed(notJson(requestId))
      const frames = call.frames!
      const flow = Outlet.open(answering.stream(endpoint, context, payload, frames), {
        deployment: endpoint.deployment,
        heartbeat: frames.heartbeat,
        patience,
        fail: (reason) =>
          ofServeError(
            endpoint,
            because(() => reason),
            requestId
          )
      })
      return Effect.match(flow, {
        onFailure: (reply) => reply,
        onSuccess: (body): Reply => ({
          status: 200,
          body,
          contentType: frames.contentType,
          requestId,
          headers: streaming
        })
      })
    },
    contextFor: (context, headers) => {
      const withRequest = Context.add(services, RequestContext, context)
      if (!hasTracer || headers["traceparent"] === undefined) return withRequest
      return Option.match(HttpTraceContext.fromHeaders(Headers.fromInput(headers as Record<string, string>)), {
        onNone: () => withRequest,
        onSome: (span) => Context.add(withRequest, Tracer.ParentSpan, span) as Context.Context<never>
      })
    },
    tooLarge,
    tooSlow: (requestId) => ({
      ...problem(408, "RequestTimeout", `The body must be there within ${Duration.format(receiveTimeout)}`, requestId),
      close: true
    }),
    unreadable,
    unavailable,
    clientLeft,
    drain: () => {
      draining = true
    }
  }
  return exchange
})

const REQUEST_ID = /^[\x21-\x7e]{1,128}$/
const TENANT_LENGTH = 256
const priorities: ReadonlyArray<string> = ["critical", "default", "sheddable"] satisfies ReadonlyArray<Priority>

// The context of a request, or what is wrong with its headers.
const contextOf = (headers: Incoming, requestId: string, route: string, now: number): RequestContext | string => {
  let deadline = Infinity
  for (const [name, unit] of [
    ["x-request-timeout-ms", 1],
    ["x-request-timeout-seconds", 1000]
  ] as const) {
    const value = headers[name]
    if (value === undefined) continue
    const timeout = Number(value)
    if (value === "" || !Number.isFinite(timeout)) return `Header ${name} must be a number`
    deadline = Math.min(deadline, Math.ceil(now + timeout * unit))
  }
  const priority = headers["x-request-priority"] ?? "default"
  if (typeof priority !== "string" || !priorities.includes(priority)) {
    return `Header x-request-priority must be one of: ${priorities.join(", ")}`
  }
  const tenant = headers["x-request-tenant"]
  if (tenant !== undefined && (typeof tenant !== "string" || tenant.length > TENANT_LENGTH)) {
    return `Header x-request-tenant must have at most ${TENANT_LENGTH} characters`
  }
  return RequestContext.of({
    requestId,
    deadline,
    priority: priority as Priority,
    tenant,
    route,
    modelId: undefined,
    sessionId: undefined,
    principal: undefined,
    lastEventId: typeof headers["last-event-id"] === "string" ? headers["last-event-id"] : undefined
  })
}

const unparsable = Symbol()

// No body at all is the payload of a method that takes none.
const parse = (body: string): unknown => {
  if (body === "") return null
  try {
    return JSON.parse(body)
  } catch {
    return unparsable
  }
}

/** Whether a body is read before the method is called, and not by it. */
export const isWhole = ({ form }: Route["takes"]): boolean => form !== "upload" && form !== "multipart"

const mayBe = ({ takes }: Route, type: Incoming[string]): boolean => {
  if (takes.form === "json") return type === "application/json" || (typeof type === "string" && JSON_TYPE.test(type))
  if (takes.contentTypes.length === 0) return true
  if (typeof type !== "string") return false
  const semicolon = type.indexOf(";")
  const name = (semicolon === -1 ? type : type.slice(0, semicolon)).trim().toLowerCase()
  return takes.contentTypes.some((taken) =>
    taken.endsWith("/*") ? name.startsWith(taken.slice(0, -1)) : name === taken.toLowerCase()
  )
}

const JSON_TYPE = /^application\/json\s*(;\s*charset="?utf-?8"?\s*)?$/i

// A browser's EventSource can send nothing but a GET, so a method whose stream it can read takes its payload from the URL too. The
// header keeps other elements of a foreign page from calling it.
const takesGet = ({ gives, stream, takes }: Route) =>
  stream && takes.form === "json" && (gives.form === "json" || gives.form === "event")

const isEventSource = (endpoint: Route, { accept }: Incoming) =>
  takesGet(endpoint) && typeof accept === "string" && accept.includes("text/event-stream")

const queryOf = (url: string, question: number): string =>
  question === -1 ? "" : (new URLSearchParams(url.slice(question)).get("payload") ?? "")

const notAcceptable = (requestId: string): Reply =>
  problem(406, "NotAcceptable", "Accept text/event-stream or application/x-ndjson", requestId)

// Between us and the client nobody is to keep, change or hold back what has been sent.
const streaming = { "cache-control": "no-cache, no-transform", "x-accel-buffering": "no" }

const clientLeft = (endpoint: Route, requestId: string): Effect.Effect<void> =>
  Effect.annotateLogs(Effect.logInfo(`The client of ${endpoint.deployment}.${endpoint.method} left`), {
    requestId,
    status: Status.CLIENT_CLOSED_REQUEST
  })

const unavailable = (endpoint: Route, requestId: string): Reply => {
  const error = because(
    () => new Unavailable({ deployment: endpoint.deployment, why: "draining", retryAfter: Duration.seconds(1) })
  )
  return { ...ofServeError(endpoint, error, requestId), close: true }
}

const shed = (endpoint: Route, gate: Gate, requestId: string): Reply => {
  const { deployment } = endpoint
  const why = "the process is overloaded"
  const error = because(() => new Shed({ deployment, why, retryAfter: gate.retryAfter() }))
  return ofServeError(endpoint, error, requestId)
}

const unreadable = (requestId: string): Reply => ({
  ...problem(400, "BadRequest", "The body could not be read", requestId),
  close: true
})

const wrongVerb = (requestId: string, allow: string): Reply => ({
  ...problem(405, "MethodNotAllowed", `Use ${allow}`, requestId),
  headers: { allow }
})
