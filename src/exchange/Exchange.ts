/**
 * One HTTP request and its answer, apart from any server: from headers and a body to a status and a body.
 *
 * Both servers of the ingress go through here, so every rule holds in both.
 *
 * @since 0.1.0
 */
import { Clock, Context, Duration, Effect, Option, Random, Tracer } from "effect"
import * as Headers from "effect/http/Headers"
import * as HttpTraceContext from "effect/http/HttpTraceContext"
import { type Priority, RequestContext } from "../core/RequestContext.ts"
import { because, Shed, Unavailable } from "../core/ServeError.ts"
import { json, ofServeError, problem, type Reply, text } from "./Answer.ts"
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
type Opening<R> =
  | { readonly _tag: "Answer"; readonly route: string; readonly reply: Reply }
  | { readonly _tag: "Call"; readonly endpoint: R; readonly context: RequestContext }

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
  readonly call: (endpoint: R, context: RequestContext, body: string) => Effect.Effect<Reply>
  /** The services for one call: those of the layer, what is known of the request, and its trace if a tracer listens. */
  readonly contextFor: (context: RequestContext, headers: Incoming) => Context.Context<never>
  readonly tooLarge: (requestId: string) => Reply
  readonly unreadable: (requestId: string) => Reply
  /** The answer to a request that comes, or is still running, when the ingress stops. */
  readonly unavailable: (endpoint: Route, requestId: string) => Reply
  /** Tells the log that a client left before its answer. */
  readonly clientLeft: (endpoint: Route, requestId: string) => Effect.Effect<void>
  /** From now on nothing is admitted. */
  readonly drain: () => void
}

/**
 * Makes the exchange of an ingress that serves `table` and takes bodies of at most `maxBodySize` bytes. `answer` makes the answer to
 * what a body holds.
 */
export const make = Effect.fnUntraced(function* <R extends Route>(
  table: RouteTable<R>,
  maxBodySize: number,
  answer: (endpoint: R, context: RequestContext, payload: unknown) => Effect.Effect<Reply>
) {
  const services = yield* Effect.context()
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
    if (verb !== "POST") return wrongVerb(requestId, "POST")
    if (draining) return unavailable(endpoint, requestId)
    if (endpoint.stream) {
      return problem(501, "NotImplemented", `"${endpoint.method}" is a stream; call it through its handle`, requestId)
    }
    if (!isJson(headers) && (Number(headers["content-length"]) > 0 || "transfer-encoding" in headers)) {
      return problem(415, "UnsupportedMediaType", "Send the body as content-type: application/json", requestId)
    }
    return Number(headers["content-length"]) > maxBodySize ? tooLarge(requestId) : undefined
  }

  const tooLarge = (requestId: string): Reply => ({
    ...problem(413, "PayloadTooLarge", `The body may have at most ${maxBodySize} bytes`, requestId),
    close: true
  })

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
      return gate.isOverloaded && gate.sheds(context.priority)
        ? { _tag: "Answer", route: path, reply: shed(endpoint, gate, requestId) }
        : { _tag: "Call", endpoint, context }
    },
    call: (endpoint, context, body) => {
      const parsed = parse(body)
      if (parsed === unparsable) {
        return Effect.succeed(problem(400, "BadRequest", "The body is not JSON", context.requestId))
      }
      return answer(endpoint, context, parsed)
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
    sessionId: undefined
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

const isJson = (headers: Incoming): boolean => {
  const type = headers["content-type"]
  return type === "application/json" || (typeof type === "string" && JSON_TYPE.test(type))
}

const JSON_TYPE = /^application\/json\s*(;\s*charset="?utf-?8"?\s*)?$/i

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
  allow
})
