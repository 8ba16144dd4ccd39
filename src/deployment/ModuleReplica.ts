/**
 * What a replica of a module deployment is made of: its handlers on a thread or on this event loop, and threads for the methods
 * that block.
 *
 * @since 0.1.0
 */
import { Effect, type Scope } from "effect"
import type * as Rpc from "effect/rpc/Rpc"
import { Host } from "../batching/Host.ts"
import { takesStream } from "../core/HttpSchema.ts"
import { isBlocking } from "../replica/Blocking.ts"
import * as BlockingMethods from "../replica/BlockingMethods.ts"
import type { Handlers } from "../replica/LoopReplica.ts"
import * as Module from "../replica/Module.ts"
import type { ModuleOptions } from "../replica/ModuleThreads.ts"
import * as ThreadReplica from "../replica/ThreadReplica.ts"
import * as MethodCodec from "../wire/MethodCodec.ts"
import type { Served } from "../wire/Serving.ts"
import type { ModuleFailed } from "../core/ModuleFile.ts"
import type { ModuleOptions as Options } from "./DeploymentOptions.ts"
import * as Flags from "./Flags.ts"
import * as Handle from "./Handle.ts"

/**
 * Where the code of a module deployment runs.
 *
 * @category models
 * @since 0.1.0
 */
export interface Placement {
  readonly isolation: "thread" | "loop"
  /** Threads of each replica for its blocking methods; 0 when they run where the others do. */
  readonly blockingThreads: number
  readonly ownRouter: boolean
}

/** Decides where the code runs, by the options and the flags. */
export const place = Effect.fnUntraced(function* (
  deployment: string,
  options: typeof Options.Type,
  methods: ReadonlyArray<Rpc.AnyWithProps>,
  cores: number
) {
  const onThreads = options.runSyncInThreadpool ?? (yield* Flags.runSyncInThreadpool)
  const size = options.poolSize ?? Math.min(options.maxOngoingRequests, cores)
  const placement: Placement = {
    isolation: options.isolation ?? ((yield* Flags.runUserCodeInSeparateThread) ? "thread" : "loop"),
    blockingThreads: onThreads && methods.some(isBlocking) ? size : 0,
    ownRouter: options.runRouterInSeparateLoop ?? (yield* Flags.runRouterInSeparateLoop)
  }
  yield* assertCrossing(deployment, methods, placement)
  return placement
})

/** Dies when a method runs on a thread, and takes what can't be sent there. */
const assertCrossing = (deployment: string, methods: ReadonlyArray<Rpc.AnyWithProps>, placement: Placement) => {
  const crosses = (rpc: Rpc.AnyWithProps) =>
    isBlocking(rpc) ? placement.blockingThreads > 0 : placement.isolation === "thread"
  const stuck = methods.find((rpc) => crosses(rpc) && takesStream(rpc.payloadSchema.ast))
  return stuck === undefined
    ? Effect.void
    : Effect.die(
        new Error(
          `Deployment "${deployment}": method "${stuck._tag}" takes an upload, which is read on the app's event loop and can't be sent ` +
            `to a thread. Use isolation: "loop", or send pieces of it to a method of their own.`
        )
      )
}

/** Builds the handlers of a replica. */
export const build = Effect.fnUntraced(function* (
  module: URL,
  deployment: { readonly deployment: string; readonly methods: ReadonlyArray<Rpc.AnyWithProps> },
  options: typeof Options.Type,
  placement: Placement
): Effect.fn.Return<Handlers, ModuleFailed, Scope.Scope> {
  const { methods } = deployment
  const host = (yield* Host)!
  const source: ModuleOptions = {
    module,
    deployment: deployment.deployment,
    replica: host.replica,
    maxOngoingRequests: host.maxOngoingRequests,
    uses: yield* usesOf
  }
  const { blockingThreads: size } = placement
  const { cancelGrace, resourceLimits, unresponsiveTimeout } = options
  const blocking =
    size === 0 ? undefined : yield* BlockingMethods.handlers({ ...source, methods, size, cancelGrace, resourceLimits })
  if (blocking !== undefined && methods.every(isBlocking)) return blocking
  const others =
    placement.isolation === "thread"
      ? yield* ThreadReplica.handlers({ ...source, methods, resourceLimits, unresponsiveTimeout })
      : yield* onLoop(source)
  return blocking === undefined
    ? others
    : others.map((handler, i) => (isBlocking(methods[i]!) ? blocking[i]! : handler))
})

const onLoop = Effect.fnUntraced(function* ({ deployment, module }: ModuleOptions) {
  const loaded = yield* Module.load(module, deployment)
  // Its type says that the layer has what the module uses.
  const written = yield* loaded.build as Effect.Effect<Module.WrittenHandlers>
  return Module.inOrder(loaded, written).onLoop
})

/** The methods of the deployments in the context, for those that call them from another thread. */
const usesOf = Effect.map(
  Effect.context(),
  (context) =>
    (deployment: string): ReadonlyMap<string, Served> | undefined => {
      const handle = context.mapUnsafe.get(`effect-serve/${deployment}`) as Record<string, Served["run"]> | undefined
      if (handle === undefined) return undefined
      return new Map(
        Handle.methodsOf(handle).map((rpc) => [
          `${deployment}.${rpc._tag}`,
          { codec: MethodCodec.make(rpc), run: handle[rpc._tag]!, context }
        ])
      )
    }
)
