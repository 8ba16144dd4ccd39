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
import type { CallOptions, RequestContext } from "../core/RequestContext.ts"
import type { ServeError } from "../core/ServeError.ts"
import { resolve } from "../core/Options.ts"
import * as Blocks from "../replica/Blocking.ts"
import * as LoopReplica from "../replica/LoopReplica.ts"
import * as Module from "../replica/Module.ts"
import type { Replica } from "../replica/Replica.ts"
import * as Router from "../routing/Router.ts"
import { Refused as ConnectionRefused } from "../wire/Connection.ts"
import * as BlockingDetector from "../watch/BlockingDetector.ts"
import * as Oversubscription from "../worker/Oversubscription.ts"
import type { ModuleFailed } from "../core/ModuleFile.ts"
import {
  type DeploymentModuleOptions,
  type DeploymentOptions,
  type DeploymentRemoteOptions,
  ModuleOptions,
  Options,
  RemoteOptions
} from "./DeploymentOptions.ts"
import * as Handle from "./Handle.ts"
import * as ModuleReplica from "./ModuleReplica.ts"
import * as Remote from "./Remote.ts"

/**
 * What an implementation gives: one function per method, which may need `R`. A handler may also fail with the `ServeError` of a call that it
 * makes to another deployment.
 *
 * @category models
 * @since 0.1.0
 */
export type Handlers<Rpcs extends Rpc.Any, R = unknown> = {
  readonly [Current in Rpcs as Current["_tag"]]: Current extends Blocking
    ? PlainHandler<Current>
    : EffectHandler<Current, R>
}

type PlainHandler<Current extends Rpc.Any> =
  Rpc.SuccessSchema<Current> extends RpcSchema.Stream<infer A, infer _E>
    ? (payload: Rpc.Payload<Current>, request: RequestContext) => Iterable<A["Type"]>
    : (payload: Rpc.Payload<Current>, request: RequestContext) => Rpc.Success<Current>

type EffectHandler<Current extends Rpc.Any, R> =
  Rpc.SuccessSchema<Current> extends RpcSchema.Stream<infer A, infer E>
    ? (payload: Rpc.Payload<Current>) => Stream.Stream<A["Type"], E["Type"] | ServeError, R>
    : (payload: Rpc.Payload<Current>) => Effect.Effect<Rpc.Success<Current>, Rpc.Error<Current> | ServeError, R>

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

  /**
   * Implements the deployment in a file of its own, which exports the result as its default, so that {@link toLayerModule} can
   * build it in any thread. `build` is as for `toLayer`. What it needs must be deployments that `uses` names, whose handles then
   * call through the app; anything else is provided in the file.
   */
  module<
    const H extends Handlers<Rpcs, Context.Service.Identifier<Uses[number]>>,
    E = never,
    R extends Scope.Scope | Context.Service.Identifier<Uses[number]> = never,
    const Uses extends ReadonlyArray<Any> = readonly []
  >(
    this: void,
    build: H | Effect.Effect<H, E, R>,
    options?: { readonly uses: Uses }
  ): DeploymentModule<Self, Context.Service.Identifier<Uses[number]>>

  /**
   * Implements the deployment by the file at `url`, made by {@link module}. Each replica has a thread of its own (`isolation`), and
   * blocking methods have further ones. Where the file ends in `.ts` and is not there, as after a build, `.js` is taken.
   *
   * The type parameter is the type of the file, and gives the layer the deployments that it uses as requirements. The layer fails
   * with `ModuleFailed` when no replica could be built. To and from a thread, payloads
   * and results go through the method's schemas.
   */
  toLayerModule<
    File extends { readonly default: DeploymentModule<Self, any> } = { readonly default: DeploymentModule<Self, never> }
  >(
    this: void,
    url: URL,
    options?: DeploymentModuleOptions
  ): Layer.Layer<Self, ModuleFailed, File["default"] extends DeploymentModule<Self, infer Used> ? Used : never>

  /**
   * Calls the deployment where it runs in another process, behind the ingress at `url`, or behind several of them. The handle is the
   * same, with the same types and errors: streams wait for their readers, calls end with their callers, and deadline, priority, tenant,
   * request id and trace go along. A principal does so only where the ingress trusts this process (`rpc.trustPrincipals`).
   *
   * Connections are kept up: while there is none, requests wait (`unreachableTimeout`). A call that is lost with its connection fails with
   * `TransportError`; one that can't have begun is made again, once, where another connection is. The layer waits until one connection is
   * there, but no longer than `connectTimeout`. It fails with `ConnectionRefused` when the servers will not have this client: its credentials are wrong, or
   * they don't serve the deployment. Methods that take an upload can't be called so, and the layer dies.
   *
   * `auth` is a bearer token, or an effect that gives headers and runs for each connection.
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
   * // In one process:
   * const EchoLive = Echo.toLayer({ shout: ({ text }) => Effect.succeed(text.toUpperCase()) })
   * const Server = HttpIngress.layerNode({ "/echo": Echo }, { port: 8765 }).pipe(Layer.provide(EchoLive))
   *
   * // In another one, which would be told the URL:
   * const EchoRemote = Layer.unwrap(Effect.map(HttpIngress.Address, ({ url }) => Echo.toLayerRemote({ url })))
   * const program = Effect.flatMap(Echo, (echo) => Effect.tap(echo.shout({ text: "hello" }), Effect.log))
   *
   * NodeRuntime.runMain(Effect.provide(Effect.provide(program, EchoRemote), Server)) // logs "HELLO"
   * ```
   */
  toLayerRemote(
    this: void,
    options?: DeploymentRemoteOptions & { readonly auth?: Remote.Credentials }
  ): Layer.Layer<Self, ConnectionRefused>

  /** What the deployment does at the moment: its replicas, and its requests by state and outcome. */
  readonly state: Effect.Effect<Handle.DeploymentState, never, Self>
}

/**
 * What the file of a deployment exports by default: `Used` are the deployments that it calls.
 *
 * @category models
 * @since 0.1.0
 */
export interface DeploymentModule<in out Self, out Used> {
  readonly "~effect-serve/DeploymentModule": { readonly self: (_: Self) => Self; readonly used: Used }
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
export type { Credentials } from "./Remote.ts"
export type { CallOptions, DeploymentModuleOptions, DeploymentOptions, DeploymentRemoteOptions }
export { ConnectionRefused, ModuleOptions, Options, RemoteOptions }

/**
 * The mark of a method whose handler blocks.
 *
 * @category models
 * @since 0.1.0
 */
export interface Blocking {
  readonly "~effect-serve/Blocking": true
}

/**
 * Says of a method that its handler blocks. The handler is then a plain function, which returns the result or throws; for a stream
 * method it returns something to iterate over, as a `function*` does. It gets the request's `RequestContext` after the payload.
 *
 * In a deployment that is built from a module it runs on a thread of its own, never on an event loop: as many at once as
 * `poolSize` says. What it throws is the method's error if it matches its schema. A cancelled call is ended with its thread after
 * `cancelGrace`, unless it looks at `WorkerPool.isCancelled()` and stops. With `toLayer`, or when
 * `SERVE_RUN_SYNC_IN_THREADPOOL` is 0, it holds the event loop while it runs, and a warning says so.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Rpc } from "effect/rpc"
 * import { pbkdf2Sync } from "node:crypto"
 * import { Deployment } from "effect-serve"
 *
 * class Passwords extends Deployment.Service<Passwords>()("Passwords", [
 *   Deployment.Blocking(Rpc.make("hash", { payload: { password: Schema.String }, success: Schema.String }))
 * ]) {}
 *
 * // In a file of its own, and not exported by default only so that this example is one file:
 * const module = Passwords.module({
 *   hash: ({ password }) => pbkdf2Sync(password, "salt", 100_000, 32, "sha256").toString("hex")
 * })
 * ```
 *
 * @category annotations
 * @since 0.1.0
 */
export const Blocking = <R extends Rpc.Any>(rpc: R): R & Blocking =>
  (
    rpc as unknown as Rpc.AnyWithProps & { annotate: (key: typeof Blocks.Blocking, value: boolean) => unknown }
  ).annotate(Blocks.Blocking, true) as R & Blocking

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
      toLayer: (build: Module.WrittenHandlers | Module.Module["build"], options?: DeploymentOptions) =>
        Layer.effect(key, start({ deployment: name, methods }, asEffect(build), options ?? {})),
      module: (
        build: Module.WrittenHandlers | Module.Module["build"],
        options?: { readonly uses: Module.Module["uses"] }
      ) => Module.make({ deployment: name, methods, build: asEffect(build), uses: options?.uses ?? [] }),
      toLayerModule: (url: URL, options?: DeploymentModuleOptions) =>
        Layer.effect(key, startModule({ deployment: name, methods }, url, options ?? {})),
      toLayerRemote: ({ auth, ...options }: DeploymentRemoteOptions & { readonly auth?: Remote.Credentials } = {}) =>
        Layer.effect(key, startRemote({ deployment: name, methods }, options, auth)),
      state: Effect.flatMap(key, Handle.stateOf)
    }) as unknown as Deployment<Self, Name, Rpcs[number]>
  }

const asEffect = (build: Module.WrittenHandlers | Module.Module["build"]): Module.Module["build"] =>
  Effect.isEffect(build) ? build : Effect.succeed(build)

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

interface Contract {
  readonly deployment: string
  readonly methods: ReadonlyArray<Rpc.AnyWithProps>
}

const start = Effect.fnUntraced(function* (
  contract: Contract,
  build: Module.Module["build"],
  written: DeploymentOptions
) {
  const options = yield* resolve(Options, "deployment", contract.deployment, written)
  const handlers = Effect.map(build, (written) => Module.inOrder(contract, written).onLoop)
  return Handle.make(contract.methods, yield* run(contract, handlers, options), options)
})

const startModule = Effect.fnUntraced(function* (contract: Contract, url: URL, written: DeploymentModuleOptions) {
  const options = yield* resolve(ModuleOptions, "deployment", contract.deployment, written)
  const placement = yield* ModuleReplica.place(
    contract.deployment,
    options,
    contract.methods,
    yield* Oversubscription.Cores
  )
  if (placement.isolation === "thread") {
    yield* Oversubscription.register({ kind: "replicas", name: contract.deployment, threads: options.replicas })
  }
  const handlers = ModuleReplica.build(url, contract, options, placement)
  const router = yield* run(contract, handlers, options)
  return Handle.make(contract.methods, router, options, placement.isolation === "loop" && placement.ownRouter)
})

const startRemote = Effect.fnUntraced(function* (
  contract: Contract,
  written: DeploymentRemoteOptions,
  auth: Remote.Credentials | undefined
) {
  const options = yield* resolve(RemoteOptions, "deployment", contract.deployment, written, ["url", "urls"])
  const remote = yield* Remote.start(contract, options, auth)
  return Handle.make(contract.methods, remote.router, remote.options)
})

/** Starts the replicas, sees to it that they are replaced, and starts their router. */
const run = Effect.fnUntraced(function* <E, R>(
  { deployment, methods }: Contract,
  build: Effect.Effect<LoopReplica.Handlers, E, R>,
  options: typeof Options.Type
) {
  const names = methods.map(({ _tag }) => _tag)
  yield* BlockingDetector.watch(deployment, names)
  // Scopes close in reverse order: the router drains, nobody is replaced any more, and then the replicas stop.
  const scope = yield* Effect.scope
  const home = yield* Scope.fork(scope)
  const replacing = yield* Scope.fork(scope)
  const startOne = (id: string) =>
    LoopReplica.make({ id, methods: names, permits: options.maxOngoingRequests, build }).pipe(
      Scope.provide(home),
      Effect.tapCause((cause) => Effect.logWarning(`Replica "${id}" did not start`, cause))
    )
  const replicas = yield* startReplicas(deployment, options.replicas, startOne)
  const router = yield* Router.make({ ...options, deployment, methods: names, replicas })
  yield* Effect.forEach(replicas, (replica, place) =>
    Effect.forkIn(replace(router, place, replica, startOne), replacing)
  )
  return router
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
