/**
 * Plain functions of a module, called by name on threads of their own.
 *
 * For work that computes, or that blocks: it would hold the event loop, and with it everyone else. A pool is a service whose handle
 * has the functions that the module exports, with their own types; what they take and give is copied between threads, or moved.
 *
 * @since 0.1.0
 */
import { Context, Duration, Effect, Layer, Schema, type Scope, type Stream } from "effect"
import { availableParallelism } from "node:os"
import { count, CountOrInfinity, orElse, resolve, ResourceLimits, Time } from "../core/Options.ts"
import type { ServeError } from "../core/ServeError.ts"
import type { TaskError } from "./Call.ts"
import { ModuleFailed, resolveModule } from "../core/ModuleFile.ts"
import * as ThreadPool from "./ThreadPool.ts"

export { isCancelled, move, signal } from "./Task.ts"
export { TaskError } from "./Call.ts"
export { ModuleFailed } from "../core/ModuleFile.ts"
export type { PoolState } from "./ThreadPool.ts"

/**
 * The options of a pool: types, bounds and defaults.
 *
 * @category options
 * @since 0.1.0
 */
export const Options = Schema.Struct({
  /** Threads, at least 1. Default: the cores that there are, less one for the main thread. */
  size: count(1).pipe(Schema.withDecodingDefaultTypeKey(Effect.sync(() => Math.max(1, availableParallelism() - 1)))),
  /** Threads that are kept when there is nothing to do, at most `size`. Default `1`. */
  minSize: count(0).pipe(Schema.withDecodingDefaultTypeKey(orElse(1))),
  /** Time after which a thread that has nothing to do ends. Default `"30 seconds"`. */
  idleTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(30)))),
  /** Calls that wait for a thread; more fail with `QueueFull`. `0` never queues, `Infinity` always. Default `1000`. */
  maxQueuedTasks: CountOrInfinity.pipe(Schema.withDecodingDefaultTypeKey(orElse(1000))),
  /**
   * Time that a task may run, or that a generator may take to its first element. Then the task is told to stop, and the call fails
   * with `DeadlineExceeded`: at once, or where a request is served, when the task has stopped, because until then the request
   * holds its permit. Default `Infinity`.
   */
  taskTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.infinity))),
  /** Time that a task gets to stop when it is told to, before its thread is ended. Default `"100 millis"`. */
  cancelGrace: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.millis(100)))),
  /**
   * Which buffers are moved to a thread or from it, and not copied: those in values that `move` has marked, or `"all"`. Default
   * `"marked"`.
   */
  transfer: Schema.Literals(["marked", "all"]).pipe(Schema.withDecodingDefaultTypeKey(orElse("marked" as const))),
  /** Bounds of the memory of each thread, in MiB; one that needs more ends. Default: Node's. */
  resourceLimits: ResourceLimits.pipe(Schema.withDecodingDefaultTypeKey(orElse({})))
}).check(
  Schema.makeFilter(({ minSize, size }) =>
    minSize <= size
      ? undefined
      : { path: ["minSize"], issue: `Expected at most size, which is ${size}, got ${minSize}` }
  )
)

/**
 * The options of a pool as they are written in code; what is left out has its default. Each can be overridden, without a change of
 * code, by the `ConfigProvider` under `serve.<Pool>.<option>`; in the environment that is `SERVE_TASKS_SIZE` for a pool named
 * `Tasks`.
 *
 * @category options
 * @since 0.1.0
 */
export type WorkerPoolOptions = typeof Options.Encoded

/**
 * What a caller has: one function for each that the module exports. Of a generator it gives a `Stream`, of any other function,
 * sync or async, an `Effect`.
 *
 * @category models
 * @since 0.1.0
 */
export type Handle<Module> = {
  readonly [Name in keyof Module as Module[Name] extends AnyFunction ? Name : never]: Module[Name] extends (
    ...args: infer Args extends ReadonlyArray<unknown>
  ) => infer Returned
    ? (...args: Args) => Given<Returned>
    : never
}

type AnyFunction = (...args: never) => unknown

type Given<Returned> =
  IsStream<Returned> extends true
    ? Stream.Stream<ElementOf<Returned>, ServeError | TaskError>
    : Effect.Effect<Awaited<Returned>, ServeError | TaskError>

type IsStream<Returned> = 0 extends 1 & Returned ? false : [Returned] extends [never] ? false : IsGenerator<Returned>

// Not distributive, so that a union of results is one result.
type IsGenerator<Returned> = [Returned] extends [Generator | AsyncGenerator] ? true : false

type ElementOf<Returned> = Returned extends Generator<infer A> | AsyncGenerator<infer A> ? A : never

/**
 * The class of a pool: the key of its handle in the context, and the way to start it.
 *
 * @category models
 * @since 0.1.0
 */
export interface WorkerPool<in out Self, out Name extends string, in out Module> extends Context.Key<
  Self,
  Handle<Module>
> {
  new (_: never): Context.ServiceClass.Shape<`effect-serve/${Name}`, Handle<Module>>

  readonly pool: Name

  /**
   * Starts the threads, and is ready when they have loaded the module. Fails when one of them can't, and dies when an option is
   * invalid. When it is closed, calls that wait fail with `Unavailable`, and tasks that run are told to stop and ended after
   * `cancelGrace`.
   */
  layer(this: void, options?: WorkerPoolOptions): Layer.Layer<Self, ModuleFailed>

  /** What the pool does at the moment: its threads, and its calls by state and outcome. */
  readonly state: Effect.Effect<ThreadPool.PoolState, never, Self>
}

/**
 * Makes the class of a pool from its name and its module. A function that is a generator must be declared as one.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { WorkerPool } from "effect-serve"
 *
 * // tasks.ts has: export const hash = (password: string): string => ...
 * class Tasks extends WorkerPool.Service<Tasks, typeof import("../examples/offload/tasks.ts")>()("Tasks", {
 *   module: new URL("../examples/offload/tasks.ts", import.meta.url)
 * }) {}
 *
 * const program = Effect.gen(function*() {
 *   const tasks = yield* Tasks
 *   return yield* tasks.hash("correct horse battery staple")
 * })
 *
 * console.log(await Effect.runPromise(Effect.provide(program, Tasks.layer({ size: 1 }))))
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const Service =
  <Self, Module>() =>
  <const Name extends string>(
    name: Name,
    options: {
      /** Where the functions are; `.ts` stands for the `.js` that it is built to. */
      readonly module: URL
    }
  ): WorkerPool<Self, Name, Module> => {
    const key = Context.Service<Self, Handle<Module>>()(`effect-serve/${name}`)
    return Object.assign(key, {
      pool: name,
      layer: (written: WorkerPoolOptions = {}) => Layer.effect(key, start<Module>(name, options.module, written)),
      state: Effect.flatMap(key, stateOf)
    }) as WorkerPool<Self, Name, Module>
  }

const entry = resolveModule(new URL("./taskEntry.ts", import.meta.url))

const start = Effect.fnUntraced(function* <Module>(
  name: string,
  url: URL,
  written: WorkerPoolOptions
): Effect.fn.Return<Handle<Module>, ModuleFailed, Scope.Scope> {
  const module = resolveModule(url).href
  const options = yield* resolve(Options, "pool", name, written)
  const pool = yield* Effect.mapError(
    ThreadPool.make({ ...options, name, entry, data: { module } }),
    ({ description }) => new ModuleFailed({ module, description })
  )
  return handleOf(pool)
})

const states = new WeakMap<object, () => ThreadPool.PoolState>()

const stateOf = (handle: object): Effect.Effect<ThreadPool.PoolState> => {
  const state = states.get(handle)
  return state === undefined
    ? Effect.die(new Error("This handle was not made by a layer of its pool, so it has no state"))
    : Effect.sync(state)
}

const handleOf = <Module>(pool: ThreadPool.ThreadPool): Handle<Module> => {
  const methods = Array.from(pool.functions, ([name, kind]) => [
    name,
    (...args: ReadonlyArray<unknown>) => (kind === "generator" ? pool.stream(name, args) : pool.call(name, args))
  ])
  const handle = Object.setPrototypeOf(Object.fromEntries(methods), missingOf(pool))
  states.set(handle, () => pool.state)
  return handle
}

/** What the types promise and the module doesn't have: functions whose calls fail with a `TaskError`. */
const missingOf = (pool: ThreadPool.ThreadPool) =>
  new Proxy(Object.prototype, {
    get: (target, name) =>
      typeof name === "symbol" || name in target || name === "then"
        ? Reflect.get(target, name)
        : (...args: ReadonlyArray<unknown>) => pool.call(name, args)
  })
