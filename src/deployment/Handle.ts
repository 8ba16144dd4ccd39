/**
 * The handle of a deployment: the functions through which it is called.
 *
 * A handle turns a call into a request, which takes what it inherits from the fiber that calls, gives it to the router, and
 * parks the caller until the router answers.
 *
 * @since 0.1.0
 */
import { Duration, Effect, type Exit, type Fiber, type Scope, Stream } from "effect"
import type * as Rpc from "effect/rpc/Rpc"
import * as RpcSchema from "effect/rpc/RpcSchema"
import { type CallOptions, millisOf, RequestContext } from "../core/RequestContext.ts"
import type { ServeError } from "../core/ServeError.ts"
import { Relay } from "../replica/Relay.ts"
import { Request, type Trace } from "../replica/Request.ts"
import type * as Router from "../routing/Router.ts"
import type { Options } from "./DeploymentOptions.ts"

/**
 * What a caller has: one function per method, an `Effect` for a method with one answer and a `Stream` for a
 * streaming one.
 *
 * @category models
 * @since 0.1.0
 */
export type Handle<Rpcs extends Rpc.Any> = {
  readonly [Current in Rpcs as Current["_tag"]]: Method<Current>
}

type Method<Current extends Rpc.Any> =
  Rpc.SuccessSchema<Current> extends RpcSchema.Stream<infer A, infer E>
    ? (payload: Rpc.Payload<Current>, options?: CallOptions) => Stream.Stream<A["Type"], E["Type"] | ServeError>
    : (
        payload: Rpc.Payload<Current>,
        options?: CallOptions
      ) => Effect.Effect<Rpc.Success<Current>, Rpc.Error<Current> | ServeError>

/**
 * What a deployment does at the moment, and the options it goes by.
 *
 * @category models
 * @since 0.1.0
 */
export interface DeploymentState extends Router.State {
  readonly options: typeof Options.Type
}

/**
 * Calls a method without a fiber: for whom `outer` says, outside of any trace. `answer` is called once, perhaps at once, and is told whether
 * the handler may have begun; a call that has not ended returns what ends it, and waits until its work has stopped, and then nobody is answered.
 *
 * @category models
 * @since 0.1.0
 */
export type Direct = (
  payload: unknown,
  outer: RequestContext,
  answer: (exit: Exit.Exit<unknown, unknown>, begun: boolean) => void
) => Effect.Effect<void> | undefined

/**
 * Calls a stream method, until the scope closes. Its elements come by the relay.
 *
 * @category models
 * @since 0.1.0
 */
export type Open = (payload: unknown, options?: CallOptions) => Effect.Effect<Relay, never, Scope.Scope>

interface Made {
  readonly methods: ReadonlyArray<Rpc.AnyWithProps>
  /** Those that answer once, by name. */
  readonly direct: ReadonlyMap<string, Direct>
  /** Those that stream, by name. */
  readonly streams: ReadonlyMap<string, Open>
  readonly state: () => DeploymentState
  /** Whether its replicas may hold this event loop, so that an ingress has to keep out of their way. */
  readonly avoidsLoop: boolean
}

const made = new WeakMap<object, Made>()

/** The state of a deployment, from its handle. Dies for a handle that `toLayer` did not make, such as a test double. */
export const stateOf = (handle: object): Effect.Effect<DeploymentState> => {
  const state = made.get(handle)?.state
  return state === undefined
    ? Effect.die(new Error("This handle was not made by toLayer, so it has no state"))
    : Effect.sync(state)
}

/** The methods of a handle that a layer made. */
export const methodsOf = (handle: object): Made["methods"] => made.get(handle)?.methods ?? []

/** A method that answers once, of a handle that a layer made. */
export const directOf = (handle: object, method: string): Direct | undefined => made.get(handle)?.direct.get(method)

/** A stream method of a handle that a layer made. */
export const openOf = (handle: object, method: string): Open | undefined => made.get(handle)?.streams.get(method)

/** Whether an ingress that serves the handle is to run on a thread of its own. */
export const avoidsLoop = (handle: object): boolean => made.get(handle)?.avoidsLoop === true

/** Whether a handle can take requests; one that was not made by `toLayer` always can. */
export const isReady = (handle: object): boolean => {
  const state = made.get(handle)?.state()
  return (
    state === undefined || (state.status === "Ready" && state.replicas.some((replica) => replica.status !== "Left"))
  )
}

/** Makes the handle of a deployment: its methods, which submit requests to the router. */
export const make = (
  methods: ReadonlyArray<Rpc.AnyWithProps>,
  router: Router.Router,
  options: typeof Options.Type,
  avoidsLoop = false
): any => {
  const releasesEarly = options.releasePermit === "firstElement"
  const newRequest = requestFactory(router, Duration.toMillis(options.requestTimeout))
  const handle: Record<string, unknown> = {}
  const direct = new Map<string, Direct>()
  const streams = new Map<string, Open>()
  methods.forEach(({ _tag, successSchema }, method) => {
    if (RpcSchema.isStreamSchema(successSchema)) {
      const open = openMethod(router, newRequest, method, releasesEarly)
      streams.set(_tag, open)
      handle[_tag] = streamMethod(open)
    } else {
      direct.set(_tag, directMethod(router, newRequest, method))
      handle[_tag] = unaryMethod(router, newRequest, method)
    }
  })
  made.set(handle, { methods, avoidsLoop, direct, streams, state: () => ({ ...router.state, options }) })
  return handle
}

const unaryMethod =
  (router: Router.Router, newRequest: NewRequest, method: number) => (payload: unknown, options?: CallOptions) =>
    Effect.withFiber((caller) =>
      Effect.callback<unknown, unknown>((resume) => {
        const request = newRequest(caller.getRef(RequestContext), traceOf(caller), method, payload, options, resume)
        router.submit(request)
        return request.state === "Settled" ? undefined : router.cancel(request)
      })
    )

const directMethod =
  (router: Router.Router, newRequest: NewRequest, method: number): Direct =>
  (payload, outer, answer) => {
    const request = newRequest(outer, undefined, method, payload, undefined, answer)
    router.submit(request)
    return request.state === "Settled" ? undefined : router.cancel(request)
  }

const openMethod =
  (router: Router.Router, newRequest: NewRequest, method: number, releasesEarly: boolean): Open =>
  (payload, options) =>
    Effect.map(
      Effect.acquireRelease(
        Effect.withFiber((caller) =>
          Effect.sync(() => {
            const relay: Relay = new Relay(releasesEarly, () => router.streaming(request))
            const outer = caller.getRef(RequestContext)
            const answer = relay.end.bind(relay)
            const request = newRequest(outer, traceOf(caller), method, payload, options, answer, relay)
            router.submit(request)
            return { relay, request }
          })
        ),
        ({ request }) => router.cancel(request)
      ),
      ({ relay }) => relay
    )

const streamMethod = (open: Open) => (payload: unknown, options?: CallOptions) =>
  Stream.unwrap(Effect.map(open(payload, options), ({ pull }) => Stream.fromPull(Effect.succeed(pull))))

type NewRequest = ReturnType<typeof requestFactory>

const requestFactory =
  (router: Router.Router, requestTimeout: number) =>
  (
    outer: RequestContext,
    trace: Trace | undefined,
    method: number,
    payload: unknown,
    options: CallOptions | undefined,
    answer: (exit: Exit.Exit<unknown, unknown>, begun: boolean) => void,
    relay?: Relay
  ): Request => {
    const now = router.now
    const callersDeadline = Math.min(outer.deadline - router.origin, Math.ceil(now + millisOf(options?.timeout)))
    if (relay !== undefined) relay.deadline = callersDeadline
    return new Request({
      method,
      payload,
      options,
      outer,
      deadline: Math.min(callersDeadline, Math.ceil(now + requestTimeout)),
      arrivedAt: now,
      relay,
      trace,
      answer
    })
  }

const traceOf = ({ cache: { span, tracer, tracerEnabled } }: Fiber.Fiber<unknown, unknown>): Trace | undefined =>
  tracerEnabled && (span !== undefined || tracer !== undefined) ? { tracer, parent: span } : undefined
