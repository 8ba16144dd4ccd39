/**
 * The reception of an ingress: who comes, under which id, until when, and whether they may come in now. It looks at headers alone, and is
 * the same for methods of deployments and for an application's own endpoints.
 *
 * @since 0.1.0
 */
import { Cause, Clock, Context, Duration, Effect, Option, Random, Scope, Tracer } from "effect"
import * as Headers from "effect/http/Headers"
import * as HttpTraceContext from "effect/http/HttpTraceContext"
import { type Principal, type Priority, RequestContext } from "../core/RequestContext.ts"
import { because, DeadlineExceeded, type ServeError, Shed, Unavailable } from "../core/ServeError.ts"
import { ofFailure, ofServeError, type Place, problem, type Reply } from "./Answer.ts"
import { type Authorize, Forbidden, type Peer, Unauthorized } from "./Auth.ts"
import { ProcessGate } from "./ProcessGate.ts"
import { ofPeer, type Spans } from "../wire/Spans.ts"
import * as Status from "./Status.ts"

/**
 * Header names are in lower case; a header that came twice has its values joined.
 *
 * @category models
 * @since 0.1.0
 */
export type Incoming = Readonly<Record<string, string | ReadonlyArray<string> | undefined>>

/**
 * What all that comes in goes through.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reception {
  /** The id that the client has given, or a new one. */
  readonly requestIdOf: (headers: Incoming) => string
  /** What is known of a request, or the answer that turns it away: its headers are wrong, or there is too much to do. */
  readonly admit: (place: Place, headers: Incoming, requestId: string) => RequestContext | Reply
  /** What turns away a call of this priority, when there is too much to do. */
  readonly overload: (deployment: string, priority: Priority) => ServeError | undefined
  /** The services of the layer. */
  readonly services: Context.Context<never>
  /** Adds who makes the request, where that is asked. Fails with the answer to those who may not. */
  readonly authorize:
    | ((place: Place, request: RequestContext, headers: Incoming, peer: Peer) => Effect.Effect<RequestContext, Reply>)
    | undefined
  /** Whether all calls are part of a trace, or are shown to another tracer than the default, which shows them to nobody. */
  readonly isTraced: boolean
  /** The services for one call: those of the layer, what is known of the request, and its trace if a tracer listens. */
  readonly contextFor: (request: RequestContext, headers: Incoming) => Context.Context<never>
  /** The answer to a request that comes, or is still running, when the ingress stops. */
  readonly unavailable: (place: Place, requestId: string) => Reply
  /** Tells the log that a client left before its answer. */
  readonly clientLeft: (place: Place, requestId: string) => Effect.Effect<void>
  readonly isDraining: () => boolean
  /** From now on nothing is admitted. */
  readonly drain: () => void
}

/** Opens a reception. `under` makes a request part of the trace in which it comes. */
export const make = Effect.fnUntraced(function* (
  authorize: Authorize | undefined,
  under: Spans["under"] = ofPeer.under
) {
  // A request has a scope of its own: in this one, what its stream opens would pile up.
  const services = Context.omit(Scope.Scope)(yield* Effect.context())
  const clock = yield* Clock.Clock
  const gate = yield* ProcessGate
  const isTraced = services.mapUnsafe.has(Tracer.Tracer.key) || services.mapUnsafe.has(Tracer.ParentSpan.key)
  const prefix = (yield* Random.nextIntBetween(36 ** 5, 36 ** 6)).toString(36)
  let count = 0
  let draining = false

  const reception: Reception = {
    requestIdOf: (headers) => {
      const given = headers["x-request-id"]
      return typeof given === "string" && REQUEST_ID.test(given) ? given : `${prefix}-${(count++).toString(36)}`
    },
    admit: (place, headers, requestId) => {
      if (draining) return unavailable(place, requestId)
      const context = contextOf(headers, requestId, place.path, clock.currentTimeMillisUnsafe())
      if (typeof context === "string") return problem(400, "BadRequest", context, requestId)
      const error = reception.overload(place.deployment, context.priority)
      return error === undefined ? context : ofServeError(place, error, requestId)
    },
    overload: (deployment, priority) => {
      if (!gate.isOverloaded || !gate.sheds(priority)) return undefined
      const why = "the process is overloaded"
      return because(() => new Shed({ deployment, why, retryAfter: gate.retryAfter() }))
    },
    services,
    authorize: authorize === undefined ? undefined : asking(authorize),
    isTraced,
    contextFor: (request, headers) => {
      const withRequest = Context.add(services, RequestContext, request)
      if (headers["traceparent"] === undefined) return withRequest
      return Option.match(HttpTraceContext.fromHeaders(Headers.fromInput(headers as Record<string, string>)), {
        onNone: () => withRequest,
        onSome: (span) => under(withRequest, span)
      })
    },
    unavailable,
    clientLeft: (place, requestId) =>
      Effect.annotateLogs(Effect.logInfo(`The client of ${place.deployment}.${place.method} left`), {
        requestId,
        status: Status.CLIENT_CLOSED_REQUEST
      }),
    isDraining: () => draining,
    drain: () => {
      draining = true
    }
  }
  return reception
})

const unavailable = ({ deployment, ...place }: Place, requestId: string): Reply => {
  const error = because(() => new Unavailable({ deployment, why: "draining", retryAfter: Duration.seconds(1) }))
  return { ...ofServeError({ deployment, ...place }, error, requestId), close: true }
}

const asking =
  (authorize: Authorize): NonNullable<Reception["authorize"]> =>
  (place, request, headers, peer) => {
    const late = because(() => new DeadlineExceeded({ deployment: place.deployment, stage: "admission" }))
    const asked = Effect.suspend(() => authorize(headers, peer))
    const inTime =
      request.deadline === Infinity
        ? asked
        : Effect.flatMap(Clock.currentTimeMillis, (now) =>
            Effect.timeoutOrElse(asked, {
              duration: Duration.millis(Math.max(request.deadline - now, 0)),
              orElse: () => Effect.fail(late)
            })
          )
    return Effect.matchCauseEffect(inTime, {
      onSuccess: (principal) => Effect.succeed(withPrincipal(request, principal)),
      onFailure: (cause) => Effect.flatMap(refusal(place, request, cause), Effect.fail)
    })
  }

const refusal = (place: Place, request: RequestContext, cause: Cause.Cause<unknown>): Effect.Effect<Reply> => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  const { requestId } = request
  if (error instanceof Forbidden) return Effect.succeed(problem(403, "Forbidden", error.message, requestId))
  if (!(error instanceof Unauthorized)) return ofFailure(place, request, cause)
  const reply = problem(401, "Unauthorized", error.message, requestId)
  return Effect.succeed({ ...reply, headers: { "www-authenticate": error.challenge } })
}

const withPrincipal = (request: RequestContext, principal: Principal): RequestContext =>
  Object.assign({}, request, { principal, tenant: principal.tenant ?? request.tenant })

/** What an id of a request looks like that is taken from outside. */
export const REQUEST_ID = /^[\x21-\x7e]{1,128}$/
/** Characters that a header may have which handlers read. */
const LENGTH = 256
const priorities: ReadonlyArray<string> = ["critical", "default", "sheddable"] satisfies ReadonlyArray<Priority>

// What is known of a request, or what is wrong with its headers.
const contextOf = (headers: Incoming, requestId: string, route: string, now: number): RequestContext | string => {
  const millis = timeoutOf(headers["x-request-timeout-ms"])
  if (millis === undefined) return "Header x-request-timeout-ms must be a number"
  const seconds = timeoutOf(headers["x-request-timeout-seconds"])
  if (seconds === undefined) return "Header x-request-timeout-seconds must be a number"
  const deadline = Math.ceil(now + Math.min(millis, 1000 * seconds))
  const priority = headers["x-request-priority"] ?? "default"
  if (typeof priority !== "string" || !priorities.includes(priority)) {
    return `Header x-request-priority must be one of: ${priorities.join(", ")}`
  }
  const tenant = headers["x-request-tenant"]
  const lastEventId = headers["last-event-id"]
  if (!isShort(tenant)) return `Header x-request-tenant must have at most ${LENGTH} characters`
  if (!isShort(lastEventId)) return `Header last-event-id must have at most ${LENGTH} characters`
  return RequestContext.of({
    requestId,
    deadline,
    priority: priority as Priority,
    tenant,
    route,
    modelId: undefined,
    sessionId: undefined,
    principal: undefined,
    lastEventId
  })
}

// `Infinity` without the header, and `undefined` for what is no number.
const timeoutOf = (value: Incoming[string]): number | undefined => {
  if (value === undefined) return Infinity
  const timeout = Number(value)
  return value === "" || !Number.isFinite(timeout) ? undefined : timeout
}

const isShort = (value: Incoming[string]): value is string | undefined =>
  value === undefined || (typeof value === "string" && value.length <= LENGTH)
