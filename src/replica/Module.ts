/**
 * A deployment that is written in a file of its own, so that it can be built in any thread.
 *
 * @since 0.1.0
 */
import { Cause, type Context, Effect } from "effect"
import type * as Rpc from "effect/rpc/Rpc"
import { ModuleFailed, resolveModule } from "../core/ModuleFile.ts"
import { type BlockingHandler, isBlocking, onLoop } from "./Blocking.ts"
import type { Handlers } from "./LoopReplica.ts"

/**
 * Handlers as they are written: functions that return an Effect or a Stream or, for a blocking method, what the method gives.
 *
 * @category models
 * @since 0.1.0
 */
export type WrittenHandlers = Readonly<Record<string, (payload: any, request?: any) => unknown>>

const TypeId = "~effect-serve/Module"

/**
 * What the file of a deployment exports.
 *
 * @category models
 * @since 0.1.0
 */
export interface Module extends Named {
  readonly [TypeId]: typeof TypeId
  /** The deployments that its handlers call. */
  readonly uses: ReadonlyArray<Used>
  readonly build: Effect.Effect<WrittenHandlers, unknown, unknown>
}

/** A deployment's name and methods. */
interface Named {
  readonly deployment: string
  readonly methods: ReadonlyArray<Rpc.AnyWithProps>
}

/**
 * A deployment that another one calls: its class.
 *
 * @category models
 * @since 0.1.0
 */
export interface Used extends Named, Context.Key<any, any> {}

/** Makes the module of a deployment. */
export const make = (fields: Omit<Module, typeof TypeId>): Module => ({ [TypeId]: TypeId, ...fields })

const isModule = (value: unknown): value is Module => typeof value === "object" && value !== null && TypeId in value

/** Loads the file of a deployment. Fails when there is no such file, or it can't be loaded, or it exports something else. */
export const load = Effect.fnUntraced(function* (url: URL, deployment: string): Effect.fn.Return<Module, ModuleFailed> {
  const module = resolveModule(url).href
  const fail = (description: string) => Effect.fail(new ModuleFailed({ module, description }))
  const { default: found } = yield* Effect.tryPromise({
    try: () => import(module) as Promise<{ readonly default?: unknown }>,
    catch: (error) => new ModuleFailed({ module, description: Cause.pretty(Cause.fail(error)) })
  })
  if (!isModule(found)) return yield* fail(`It must export a deployment: export default ${deployment}.module(...)`)
  return found.deployment === deployment ? found : yield* fail(`It exports deployment "${found.deployment}"`)
})

type Handler = (payload: unknown) => ReturnType<Handlers[number]>

/** Checks handlers against the methods, and makes each one that is asked for what a replica runs. */
export const inOrder = (
  { deployment, methods }: Named,
  written: WrittenHandlers
): { readonly onLoop: ReadonlyArray<Handler>; readonly blocking: ReadonlyArray<BlockingHandler> } => {
  const stray = Object.keys(written).find((key) => !methods.some(({ _tag }) => _tag === key))
  if (stray !== undefined) throw new Error(`Deployment "${deployment}" has a handler "${stray}" but no such method`)
  const handlers = methods.map(({ _tag }) => {
    const handler = written[_tag]
    if (typeof handler === "function") return handler
    throw new Error(`Deployment "${deployment}" has no handler for method "${_tag}"`)
  })
  return {
    blocking: handlers,
    onLoop: handlers.map((handler, i) =>
      isBlocking(methods[i]!)
        ? onLoop(deployment, methods[i]!, handler)
        : (payload) => handler(payload) as ReturnType<Handler>
    )
  }
}
