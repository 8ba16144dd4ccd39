/**
 * When and where something ran. Threads load this file, so it does not load Effect.
 */
import { threadId } from "node:worker_threads"

/** A piece of work as the one saw it who did it: its thread, which is 0 for the main one, and its begin and end in milliseconds. */
export interface Run {
  readonly thread: number
  readonly from: number
  readonly to: number
}

/** Milliseconds on a clock that all threads of a process share. */
export const now = (): number => Number(process.hrtime.bigint()) / 1e6

/** Does work and says when and where it ran. */
export const timed = (work: () => unknown): Run => {
  const from = now()
  work()
  return { thread: threadId, from, to: now() }
}
