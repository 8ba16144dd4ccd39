/**
 * Warns when there are many more threads that can compute than cores.
 *
 * Threads that share a core do not compute more together than one alone would, and each takes its memory and waits for its turn. What
 * counts is the process: the worker pools, the replicas that have threads, and the threads of libuv, which `fs`, `dns`, `zlib` and
 * parts of `crypto` use. Threads that native libraries start for themselves are not known.
 *
 * @since 0.1.0
 */
import { Config, Context, Effect, type Scope } from "effect"
import { availableParallelism } from "node:os"

/**
 * Threads that were started for something.
 *
 * @category models
 * @since 0.1.0
 */
export interface Threads {
  readonly kind: "pool" | "replicas"
  /** The pool, or the deployment. */
  readonly name: string
  readonly threads: number
}

/**
 * The cores that this process can use.
 *
 * @category references
 * @since 0.1.0
 */
export const Cores: Context.Reference<number> = Context.Reference("effect-serve/Oversubscription/Cores", {
  defaultValue: availableParallelism
})

/**
 * What is said of so many threads, if there are by far more than cores: more than twice as many, and more than 8 beyond them.
 *
 * @category decisions
 * @since 0.1.0
 */
export const warningOf = (registered: ReadonlyArray<Threads>, uvThreads: number, cores: number): string | undefined => {
  const sum = registered.reduce((sum, { threads }) => sum + threads, uvThreads)
  if (sum <= Math.max(2 * cores, cores + 8)) return undefined
  const own = registered.map(({ kind, name, threads }) =>
    kind === "pool" ? `worker pool "${name}" ${threads}` : `replicas of "${name}" ${threads}`
  )
  const parts = [...own, `UV_THREADPOOL_SIZE ${uvThreads}`].join(", ")
  return (
    `There are ${sum} threads for ${cores} ${cores === 1 ? "core" : "cores"} (${parts}). Threads beyond the cores compute nothing ` +
    `sooner, and take memory: lower the size of the pools, the replicas, or poolSize and maxOngoingRequests of deployments with ` +
    `blocking methods, unless the threads mostly wait.`
  )
}

/** All threads of the process. */
const registered = new Set<Threads>()
let isWarned = false

/**
 * Counts threads until the scope closes. Warns if there are then too many; once, until there have been few enough in between.
 *
 * @category constructors
 * @since 0.1.0
 */
export const register = Effect.fnUntraced(function* (started: Threads): Effect.fn.Return<void, never, Scope.Scope> {
  const threads = { ...started }
  const cores = yield* Cores
  const uvThreads = yield* uvThreadpoolSize
  const warning = () => warningOf(Array.from(registered), uvThreads, cores)
  yield* Effect.acquireRelease(
    Effect.sync(() => registered.add(threads)),
    () =>
      Effect.sync(() => {
        registered.delete(threads)
        isWarned &&= warning() !== undefined
      })
  )
  const text = warning()
  if (text === undefined || isWarned) return
  isWarned = true
  yield* Effect.logWarning(text)
})

const uvThreadpoolSize = Effect.orDie(Config.Int("UV_THREADPOOL_SIZE").pipe(Config.withDefault(4)))
