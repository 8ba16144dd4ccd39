/**
 * Deployments: a contract, its implementation as a Layer, and its handle as a service.
 *
 * A deployment is written in three steps. The contract names typed methods, as effect's own `Rpc`s. `toLayer`
 * implements them: its builder runs once for each replica, in a scope of that replica's. And the class itself is the
 * service through which everyone calls: other deployments, tests, an HTTP ingress.
 *
 * @since 0.1.0
 */
import { Context, Effect, Exit, Layer, Schedule, Scope, type Stream } from "effect"
import type * as Rpc from "effect/rpc/Rpc"
import type * as RpcSchema from "effect/rpc/RpcSchema"
import { Host } from "../batching/Host.ts"
import type { CallOptions } from "../core/RequestContext.ts"
import type { ServeError } from "../core/ServeError.ts"
import * as LoopReplica from "../replica/LoopReplica.ts"
import type { Replica } from "../replica/Replica.ts"
import * as Router from "../routing/Router.ts"
import { type DeploymentOptions, Options, resolve } from "./DeploymentOptions.ts"
import * as Handle from "./Handle.ts"

/**
 * What an implementation gives: one function per method. A handler may also fail with the `ServeError` of a call that it
 * makes to another deployment.
 *
 * @category models
 * @since 0.1.0
 */
export type Handlers<Rpcs extends Rpc.Any> = {
  readonly [Current in Rpcs as Current["_tag"]]: Handler<Current>
}

type Handler<Current extends Rpc.Any> =
  Rpc.SuccessSchema<Current> extends RpcSchema.Stream<infer A, infer E>
    ? (payload: Rpc.Payload<Current>) => Stream.Stream<A["Type"], E["Type"] | ServeError, unknown>
    : (payload: Rpc.Payload<Current>) => Effect.Effect<Rpc.Success<Current>, Rpc.Error<Current> | ServeError, unknown>

type HandlersServices<H> = {
  [K in keyof H]: H[K] extends (payload: never) => infer Returned ? Services<Returned> : never
}[keyof H]

// Distributes, so that a handler that never returns needs nothing.
type Services<Returned> =
  Returned extends Effect.Effect<infer _A, infer _E, infer R>
    ? R
    : Returned extends Stream.Stream<infer _A, infer _E, infer R>
      ? R
      : never

/**
 * The class of a deployment: the key of its handle in the context, and the way to implement it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Deployment<in out Self, out Name extends string, in out Rpcs extends Rpc.Any> extends Context.Key<
  Self,
  Handle.Handle<Rpcs>
> {
  new (_: never): Context.ServiceClass.Shape<`effect-serve/${Name}`, Handle.Handle<Rpcs>>

  readonly deployment: Name
  readonly methods: ReadonlyArray<Rpcs>

  /** Checks handlers against the contract and returns them. */
  of<const H extends Handlers<Rpcs>>(this: void, handlers: H): H

  /**
   * Implements the deployment. `build` gives the handlers, or is an Effect that builds them: it runs once for each
   * replica, in that replica's own scope, so what it acquires is released when the replica stops.
   *
   * A build that fails is tried again twice. The deployment runs with the replicas that started; the layer fails with
   * the last cause when none did. It dies when an option is invalid.
   */
  toLayer<const H extends Handlers<Rpcs>, E = never, R = never>(
    this: void,
    build: H | Effect.Effect<H, E, R>,
    options?: DeploymentOptions
  ): Layer.Layer<Self, E, Exclude<R, Scope.Scope> | HandlersServices<H>>

  /** What the deployment does at the moment: its replicas, and its requests by state and outcome. */
  readonly state: Effect.Effect<Handle.DeploymentState, never, Self>
}

/**
 * Any deployment, whatever its methods.
 *
 * @category models
 * @since 0.1.0
 */
export interface Any<Self = any> extends Context.Key<Self, any> {
  readonly deployment: string
  readonly methods: ReadonlyArray<Rpc.Any>
  readonly state: Effect.Effect<Handle.DeploymentState, never, Self>
}

export type { DeploymentState, Handle } from "./Handle.ts"
export type { CallOptions, DeploymentOptions }
export { Options }

/**
 * The replica that is being built, for its builder: its id, and an Effect that takes it out of service for good. What it runs then
 * fails with `ReplicaLost`, what it holds is released, and another replica is started in its place. Dies outside a builder.
 *
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Rpc } from "effect/rpc"
 * import { Deployment } from "effect-serve"
 *
 * class Model extends Deployment.Service<Model>()("Model", [Rpc.make("answer", { success: Schema.Int })]) {}
 *
 * declare const isBroken: Effect.Effect<boolean>
 *
 * const ModelLive = Model.toLayer(
 *   Effect.gen(function*() {
 *     const { leave } = yield* Deployment.thisReplica
 *     const check = Effect.flatMap(isBroken, (broken) => broken ? leave : Effect.sleep("10 seconds"))
 *     yield* Effect.forkScoped(Effect.forever(check))
 *     return Model.of({ answer: () => Effect.succeed(42) })
 *   })
 * )
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const thisReplica: Effect.Effect<{ readonly id: string; readonly leave: Effect.Effect<void> }> = Effect.flatMap(
  Host,
  (host) =>
    host === undefined
      ? Effect.die(new Error("Deployment.thisReplica can only be used in the builder of a deployment"))
      : Effect.succeed({ id: host.replica, leave: host.leave })
)

/**
 * Makes the class of a deployment from its name and its methods.
 *
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Rpc } from "effect/rpc"
 * import { Deployment } from "effect-serve"
 *
 * class Echo extends Deployment.Service<Echo>()("Echo", [
 *   Rpc.make("shout", { payload: { text: Schema.String }, success: Schema.String })
 * ]) {}
 *
 * const EchoLive = Echo.toLayer(
 *   { shout: ({ text }) => Effect.succeed(text.toUpperCase()) },
 *   { maxOngoingRequests: 64 }
 * )
 *
 * const program = Effect.gen(function*() {
 *   const echo = yield* Echo
 *   return yield* echo.shout({ text: "hello" }, { timeout: "1 second" })
 * })
 *
 * console.log(await Effect.runPromise(Effect.provide(program, EchoLive))) // => "HELLO"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const Service =
  <Self>() =>
  <const Name extends string, const Rpcs extends ReadonlyArray<Rpc.Any>>(
    name: Name,
    rpcs: Rpcs
  ): Deployment<Self, Name, Rpcs[number]> => {
    const methods = rpcs as unknown as ReadonlyArray<Rpc.AnyWithProps>
    assertContract(name, methods)
    const key = Context.Service<Self, Handle.Handle<Rpcs[number]>>()(`effect-serve/${name}`)
    return Object.assign(key, {
      deployment: name,
      methods: rpcs,
      of: (handlers: unknown) => handlers,
      toLayer: (
        build: UntypedHandlers | Effect.Effect<UntypedHandlers, unknown, unknown>,
        options?: DeploymentOptions
      ) =>
        Layer.effect(key, start(name, methods, Effect.isEffect(build) ? build : Effect.succeed(build), options ?? {})),
      state: Effect.flatMap(key, Handle.stateOf)
    }) as unknown as Deployment<Self, Name, Rpcs[number]>
  }

type UntypedHandlers = Record<string, LoopReplica.Handlers[number]>

const assertContract = (name: string, methods: ReadonlyArray<Rpc.AnyWithProps>) => {
  const tags = methods.map(({ _tag }) => _tag)
  const twice = tags.find((tag, i) => tags.indexOf(tag) !== i)
  if (twice !== undefined) throw new Error(`Deployment "${name}" has two methods named "${twice}"`)
  const withMiddleware = methods.find(({ middlewares }) => middlewares.size > 0)
  if (withMiddleware !== undefined) {
    throw new Error(
      `Deployment "${name}": method "${withMiddleware._tag}" has middleware, which deployments do not run`
    )
  }
}

const start = Effect.fnUntraced(function* <E, R>(
  name: string,
  methods: ReadonlyArray<Rpc.AnyWithProps>,
  build: Effect.Effect<UntypedHandlers, E, R>,
  written: DeploymentOptions
) {
  const options = yield* resolve(name, written)
  const handlers = Effect.map(build, (handlers) => inOrder(name, methods, handlers))
  // Closed after the router, so that it can drain: also the replicas that replace others, and the fibers that see to it.
  const home = yield* Scope.fork(yield* Effect.scope)
  const startOne = (id: string) =>
    LoopReplica.make({ id, permits: options.maxOngoingRequests, build: handlers }).pipe(
      Scope.provide(home),
      Effect.tapCause((cause) => Effect.logWarning(`Replica "${id}" did not start`, cause))
    )
  const replicas = yield* startReplicas(name, options.replicas, startOne)
  const router = yield* Router.make({
    ...options,
    deployment: name,
    methods: methods.map(({ _tag }) => _tag),
    replicas
  })
  yield* Effect.forEach(replicas, (replica, place) => Effect.forkIn(replace(router, place, replica, startOne), home))
  return Handle.make(methods, router, options)
})

/** Replaces a replica whenever it has left, for as long as it takes. */
const replace = <E, R>(
  router: Router.Router,
  place: number,
  replica: Replica,
  startOne: (id: string) => Effect.Effect<Replica, E, R>
): Effect.Effect<never, never, R> =>
  replica.left.pipe(
    Effect.andThen(Effect.sync(() => router.leave(place))),
    Effect.andThen(Effect.logWarning(`Replica "${replica.id}" has left; another one is started in its place`)),
    Effect.andThen(Effect.retry(Effect.sandbox(startOne(replica.id)), untilItStarts)),
    Effect.orDie,
    Effect.tap((next) => router.join(place, next)),
    Effect.flatMap((next) => replace(router, place, next, startOne))
  )

const untilItStarts = Schedule.min([Schedule.exponential("1 second"), Schedule.spaced("30 seconds")])

const inOrder = (name: string, methods: ReadonlyArray<Rpc.AnyWithProps>, handlers: UntypedHandlers) => {
  const stray = Object.keys(handlers).find((key) => !methods.some(({ _tag }) => _tag === key))
  if (stray !== undefined) throw new Error(`Deployment "${name}" has a handler "${stray}" but no such method`)
  return methods.map(({ _tag }) => {
    const handler = handlers[_tag]
    if (typeof handler !== "function") throw new Error(`Deployment "${name}" has no handler for method "${_tag}"`)
    return handler
  })
}

const startReplicas = Effect.fnUntraced(function* <E, R>(
  name: string,
  count: number,
  startOne: (id: string) => Effect.Effect<Replica, E, R>
) {
  const exits = yield* Effect.forEach(
    Array.from({ length: count }, (_, i) => `${name}#${i}`),
    (id) => Effect.exit(startOne(id)),
    { concurrency: "unbounded" }
  )
  const replicas = exits.filter(Exit.isSuccess).map(({ value }) => value)
  const failure = exits.find(Exit.isFailure)
  if (replicas.length === 0 && failure !== undefined) return yield* Effect.failCause(failure.cause)
  return replicas
})
