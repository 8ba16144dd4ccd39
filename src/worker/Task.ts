/**
 * What a task can use while it runs in a thread of a worker pool: the package's `effect-serve/task`, which does not load Effect.
 *
 * Outside a pool, as in a unit test, a task is never cancelled, and nothing is moved.
 *
 * @since 0.1.0
 */
import type { Transferable } from "node:worker_threads"
import { here, Progress, progressHere, transferablesIn } from "./Wire.ts"

/**
 * The signal of the task that runs: it is aborted when the call is interrupted or late. Call it when the task starts.
 *
 * A signal reaches tasks that wait, because it comes in through the thread's event loop. One that computes asks
 * {@link isCancelled}.
 *
 * @category accessors
 * @since 0.1.0
 */
export const signal = (): AbortSignal => {
  const controller = (here.controller ??= new AbortController())
  if (here.isTold) controller.abort()
  return controller.signal
}

/**
 * Whether the call of the task that runs was interrupted or is late. Reads shared memory, so that a loop can ask in each step.
 *
 * @category accessors
 * @since 0.1.0
 */
export const isCancelled = (): boolean => progressHere() === Progress.Cancelled

/**
 * Marks an argument of a call, or a result or an element of a task, so that its buffers are moved and not copied: the one that
 * sends it has them no longer. What is moved is `transferList`, by default every buffer and port in the value. A typed array moves
 * the whole of its buffer.
 *
 * @example
 * ```ts
 * import { move } from "effect-serve/task"
 *
 * export const normalise = (vector: Float64Array) => {
 *   const length = Math.hypot(...vector)
 *   return move(vector.map((x) => x / length))
 * }
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const move = <A>(value: A, transferList?: ReadonlyArray<Transferable>): A => {
  const list = transferList ?? transferablesIn(value)
  if (typeof value === "object" && value !== null && list !== undefined) here.marked.set(value, list)
  return value
}
