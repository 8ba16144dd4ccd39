/**
 * What travels with a request: who asked, until when, and how important it is.
 *
 * Any handler can read it (`yield* RequestContext.RequestContext`), and a call that a handler makes inherits it. The
 * one thing that changes on the way is the deadline, and it can only come nearer.
 *
 * @since 0.1.0
 */
import { Context, Duration } from "effect"

/**
 * The importance of a request, handed to the handler and to every call that it makes. Where more wants to be served than can
 * be, `"critical"` ones come first, then `"default"` ones, then `"sheddable"` ones, and a full queue or an overloaded process
 * drops the sheddable ones first.
 *
 * @category models
 * @since 0.1.0
 */
export type Priority = "critical" | "default" | "sheddable"

/**
 * What a caller can say about one call. Whatever is left out comes from the request the caller is serving itself, if
 * there is one.
 *
 * @category options
 * @since 0.1.0
 */
export interface CallOptions {
  /** Time until the caller gives up. It can shorten the deadline of the request being served, never lengthen it. Default: that deadline. */
  readonly timeout?: Duration.Input
  /** How important it is. Default: as the request being served, and `"default"` outside of one. */
  readonly priority?: Priority
  /** On whose behalf it is; a deployment with `fairness: "tenant"` shares its time out among tenants. Default: that of the request being served. */
  readonly tenant?: string
  /** The model that is meant, for handlers that have several. Default: that of the request being served. */
  readonly modelId?: string
  /** The session that it belongs to, for handlers that keep some. Default: that of the request being served. */
  readonly sessionId?: string
}

/**
 * Who makes a request, as the ingress has found out (`HttpIngress`'s option `authorize`).
 *
 * @category models
 * @since 0.1.0
 */
export interface Principal {
  readonly id: string
  /** Becomes the tenant of its requests, whatever they say. */
  readonly tenant?: string
  /** What else is known. It must be plain data: it may cross to threads. */
  readonly claims?: Readonly<Record<string, unknown>>
}

/**
 * What is known of a request.
 *
 * @category models
 * @since 0.1.0
 */
export interface RequestContext {
  /** The id that ties logs, errors and answers together; empty outside a request. */
  readonly requestId: string
  /** When the request expires: milliseconds on the Effect `Clock`, `Infinity` for never. */
  readonly deadline: number
  readonly priority: Priority
  readonly tenant: string | undefined
  readonly modelId: string | undefined
  readonly sessionId: string | undefined
  /** The HTTP path that the request came in by. */
  readonly route: string | undefined
  /** Who makes it, where the ingress asks. */
  readonly principal: Principal | undefined
  /** The id of the last event that the client got before it lost its stream (header `last-event-id`). */
  readonly lastEventId: string | undefined
}

/**
 * The values of {@link RequestContext} outside any request.
 *
 * @category models
 * @since 0.1.0
 */
export const empty: RequestContext = {
  requestId: "",
  deadline: Infinity,
  priority: "default",
  tenant: undefined,
  modelId: undefined,
  sessionId: undefined,
  route: undefined,
  principal: undefined,
  lastEventId: undefined
}

/**
 * The request that the current fiber serves, or, outside any request, the values that a request starts from.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { RequestContext } from "effect-serve"
 *
 * const greet = Effect.gen(function*() {
 *   const request = yield* RequestContext.RequestContext
 *   return request.tenant === undefined ? "hello" : `hello ${request.tenant}`
 * })
 * console.log(Effect.runSync(greet)) // => "hello"
 * ```
 *
 * @category references
 * @since 0.1.0
 */
export const RequestContext: Context.Reference<RequestContext> = Context.Reference<RequestContext>(
  "effect-serve/RequestContext",
  { defaultValue: () => empty }
)

/**
 * The request of a call that is made with `options` by what serves `outer`, at the time `now`.
 *
 * @internal
 */
export const derive = (outer: RequestContext, options: CallOptions, now: number): RequestContext => ({
  requestId: outer.requestId,
  route: outer.route,
  principal: outer.principal,
  lastEventId: outer.lastEventId,
  deadline: Math.min(outer.deadline, now + millisOf(options.timeout)),
  priority: options.priority ?? outer.priority,
  tenant: options.tenant ?? outer.tenant,
  modelId: options.modelId ?? outer.modelId,
  sessionId: options.sessionId ?? outer.sessionId
})

/**
 * The time that a caller gives a call, in milliseconds.
 *
 * @internal
 */
export const millisOf = (timeout: Duration.Input | undefined): number =>
  timeout === undefined ? Infinity : Duration.toMillis(Duration.fromInputUnsafe(timeout))
