/**
 * What a pool and its threads say to each other: messages over a port of their own, and cells of shared memory.
 *
 * Threads load this file, so it does not load Effect. Every task that is sent takes a slot, in a ring, and is answered once,
 * in the order in which it was sent. The cell of its slot says how far it has come, and both sides change it atomically: the
 * thread claims a task before it starts it, and until then the pool can take it back.
 *
 * @since 0.1.0
 */
import { isMarkedAsUntransferable, MessagePort, type Transferable } from "node:worker_threads"

/** Tasks that a thread can have been sent and not answered. */
export const SLOTS = 32

/** Elements that a generator may be ahead of its reader. */
export const WINDOW = 16

/** The cell that changes with every message to the thread, and on which it waits; those of the slots come after it. */
export const BELL = 0
export const cellOf = (slot: number): number => slot + 1
export const CELLS = cellOf(SLOTS)

/** What the cell of a slot says. */
export const Progress = { Ended: 0, Offered: 1, Running: 2, TakenBack: 3, Cancelled: 4 } as const

/** To a thread: run the function with this number. Flat, because that is quicker to copy. */
export type Order = readonly [slot: number, task: number, ...args: ReadonlyArray<unknown>]

/**
 * To a thread: give so many more elements, or, when none are wanted, stop. One number, `elements * SLOTS + slot`.
 */
export type Wish = number

/** What an answer is about; all but `Element` are the last that is said of a task. */
export const About = { Element: 0, Result: 1, Failure: 2, TakenBack: 3 } as const

/** From a thread: about a task, with the milliseconds that it has run, or about the thread itself. */
export type Answer =
  | readonly [slot: number, about: (typeof About)["Element"], value: unknown]
  | readonly [slot: number, about: (typeof About)["Result"], value: unknown, millis: number]
  | readonly [slot: number, about: (typeof About)["Failure"], failure: Failure, millis: number]
  | readonly [slot: number, about: (typeof About)["TakenBack"]]

export type Announcement =
  | { readonly functions: ReadonlyArray<readonly [name: string, kind: Kind]> }
  | { readonly failed: Thrown }

/** Whether a function has one result, or is a generator. */
export type Kind = "function" | "generator"

/** What a thread is started with. */
export interface Start {
  readonly port: MessagePort
  readonly cells: Int32Array
  readonly transfer: "marked" | "all"
  readonly data: unknown
  readonly attached: unknown
}

export interface Failure extends Thrown {
  readonly kind: "threw" | "argument" | "result"
}

/** What is kept of something that was thrown. */
export interface Thrown {
  readonly name: string
  readonly description: string
  readonly stack?: string
  readonly cause?: Thrown
}

/** Describes what was thrown, with its causes down to a depth of 8. Never throws. */
export const describe = (thrown: unknown, depth = 8): Thrown => {
  try {
    if (!(thrown instanceof Error)) return { name: nameOf(thrown), description: String(thrown) }
    const { cause, stack } = thrown
    return {
      name: textOf(thrown.name),
      description: textOf(thrown.message),
      ...(stack === undefined ? {} : { stack: textOf(stack) }),
      ...(cause === undefined || depth === 0 ? {} : { cause: describe(cause, depth - 1) })
    }
  } catch {
    return { name: nameOf(thrown), description: "something that can't be described" }
  }
}

/** Whatever its type says, the name or the message of an error may be anything. */
const textOf = String as (value: unknown) => string

const nameOf = (thrown: unknown): string => (thrown === null ? "null" : typeof thrown)

/** The task that this thread runs, and what is marked to be moved. */
interface Here {
  cells: Int32Array | undefined
  slot: number
  controller: AbortController | undefined
  /** Whether it was told to stop by a message, as those are told that wait. */
  isTold: boolean
  readonly marked: WeakMap<object, ReadonlyArray<Transferable>>
}

const key = Symbol.for("effect-serve/worker")
const globals = globalThis as { [key]?: Here }

/** One for each thread, however often this file is loaded: the bundle of a module of tasks has a copy of its own. */
export const here: Here = (globals[key] ??= {
  cells: undefined,
  slot: 0,
  controller: undefined,
  isTold: false,
  marked: new WeakMap()
})

export const progressHere = (): number => (here.cells === undefined ? 0 : Atomics.load(here.cells, cellOf(here.slot)))

/** What of some values goes along without being copied. */
export const transferOf = (
  values: ReadonlyArray<unknown>,
  transfer: Start["transfer"]
): Array<Transferable> | undefined => {
  if (transfer === "all") return transferablesIn(values)
  let found: Array<Transferable> | undefined
  for (const value of values) {
    const marked = typeof value === "object" && value !== null ? here.marked.get(value) : undefined
    if (marked !== undefined) found = found === undefined ? Array.from(marked) : found.concat(marked)
  }
  return found
}

/** Every buffer and port in a value, but for buffers that others share, such as Node's own pool. */
export const transferablesIn = (value: unknown): Array<Transferable> | undefined => {
  const seen = new Set<object>()
  const found: Array<Transferable> = []
  const visit = (value: unknown) => {
    if (typeof value !== "object" || value === null || seen.has(value)) return
    seen.add(value)
    if (ArrayBuffer.isView(value)) visit(value.buffer)
    else if (value instanceof ArrayBuffer) {
      if (!isMarkedAsUntransferable(value)) found.push(value)
    } else if (value instanceof MessagePort) found.push(value)
    else if (value instanceof Map) for (const entry of value) entry.forEach(visit)
    else if (Array.isArray(value) || value instanceof Set) value.forEach(visit)
    else Object.values(value).forEach(visit)
  }
  visit(value)
  return found.length === 0 ? undefined : found
}
