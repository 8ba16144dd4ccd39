import { isCancelled, move, signal } from "effect-serve/task"

/** Cells that a test shares with its tasks. */
export type Cells = Int32Array<SharedArrayBuffer>

export const double = (n: number): number => 2 * n
export const same = (value: unknown): unknown => value
export const later = async (n: number): Promise<number> => {
  await new Promise((resolve) => setTimeout(resolve, 5))
  return 2 * n
}

/** Computes for so many milliseconds, without a look at anything. */
export const spin = (millis: number): number => {
  const end = performance.now() + millis
  while (performance.now() < end);
  return millis
}

/** Holds its thread for so many milliseconds, and no core. */
export const block = (millis: number): number => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, millis)
  return millis
}

/** Counts up a cell, when it starts, and never ends. */
export const runaway = (cells: Cells): never => {
  Atomics.add(cells, 0, 1)
  for (;;);
}

/** Counts up a cell when it starts, and another one when it was told to stop and does. */
export const cooperative = (cells: Cells): string => {
  Atomics.add(cells, 0, 1)
  while (!isCancelled());
  Atomics.add(cells, 1, 1)
  return "stopped"
}

/** The same, but it waits meanwhile. */
export const waiting = async (cells: Cells): Promise<string> => {
  const aborted = signal()
  Atomics.add(cells, 0, 1)
  await new Promise((resolve) => aborted.addEventListener("abort", resolve))
  Atomics.add(cells, 1, 1)
  return "stopped"
}

/** The same, but it asks for its signal when it has been cancelled already. */
export const waitingLate = (cells: Cells): Promise<string> => {
  Atomics.add(cells, 0, 1)
  while (!isCancelled());
  return waiting(cells)
}

/** Waits for another thread or the test to set a cell. */
export const until = (cells: Cells, cell: number): number => {
  Atomics.add(cells, 0, 1)
  while (Atomics.load(cells, cell) === 0) Atomics.wait(cells, cell, 0, 10)
  return cell
}

/** Counts the runs of a task in its own cell. */
export const count = (cells: Cells, cell: number, millis = 0): number => {
  Atomics.add(cells, cell, 1)
  spin(millis)
  return cell
}

export const countLater = async (cells: Cells, cell: number): Promise<number> => {
  await new Promise((resolve) => setImmediate(resolve))
  return count(cells, cell)
}

export class Refused extends RangeError {
  override readonly name = "Refused"
}

export const refuse = (): never => {
  throw new Refused("too much", { cause: new TypeError("of that", { cause: "greed" }) })
}
export const refuseLater = async (): Promise<never> => {
  await Promise.resolve()
  return refuse()
}
export const raise = (value: unknown): never => {
  throw value
}
export const cycle = (): never => {
  const error = new Error("again")
  error.cause = error
  throw error
}
export const oddError = (): never => {
  throw Object.assign(new Error("odd"), { name: { toString: () => raise("no name") } })
}
export const functionOf = (): unknown => () => 1
export const generatorOf = (): unknown => words("a b")
export const thenable = () => ({
  // oxlint-disable-next-line unicorn/no-thenable -- what comes of such an object is what is tested
  then: (resolve: (n: number) => void) => {
    resolve(1)
    resolve(2)
  }
})

export const exit = (code: number): never => process.exit(code)
export const rejectBehind = (): Promise<never> => {
  void Promise.reject(new Error("left behind"))
  return new Promise(() => {})
}
export const throwLater = (): void => {
  setTimeout(() => {
    throw new Error("later")
  }, 5)
}
export const eat = (): number => {
  const all: Array<Array<number>> = []
  for (;;) all.push(Array.from({ length: 10_000 }, Math.random))
}

export const sum = (numbers: Float64Array): number => numbers.reduce((a, b) => a + b, 0)
/** Gives back the bytes, and tells in a cell how many are left of them here. */
export const bounce = (bytes: Uint8Array, cells: Cells): Uint8Array => {
  setImmediate(() => Atomics.store(cells, 0, bytes.byteLength + 1))
  return move(bytes)
}
export const bounceUnmarked = (bytes: Uint8Array, cells: Cells): { readonly nested: Uint8Array } => {
  setImmediate(() => Atomics.store(cells, 0, bytes.byteLength + 1))
  return { nested: bytes }
}

export function* words(text: string): Generator<string> {
  yield* text.split(" ")
}
/** Counts up a cell with each element, and another one when it was left. */
export function* numbers(cells: Cells, to = Infinity): Generator<number> {
  try {
    for (let i = 0; i < to; i++) {
      Atomics.add(cells, 0, 1)
      yield i
    }
  } finally {
    Atomics.add(cells, 1, 1)
  }
}
export async function* asyncNumbers(cells: Cells, to = Infinity): AsyncGenerator<number> {
  try {
    for (let i = 0; i < to; i++) {
      if (i % 3 === 0) await new Promise((resolve) => setImmediate(resolve))
      Atomics.add(cells, 0, 1)
      yield i
    }
  } finally {
    Atomics.add(cells, 1, 1)
  }
}
/** Fills the same buffer for each element. */
export function* reusing(to: number): Generator<Uint8Array> {
  const bytes = new Uint8Array(1)
  for (let i = 0; i < to; i++) {
    bytes[0] = i
    yield bytes
  }
}
export function* failing(after: number): Generator<number> {
  for (let i = 0; i < after; i++) yield i
  refuse()
}
export function* unsendable(cells: Cells): Generator {
  try {
    yield 1
    yield () => 2
  } finally {
    Atomics.add(cells, 1, 1)
  }
}
/** Gives an element, and then computes for ever. */
export function* stuck(cells: Cells): Generator<number> {
  yield 1
  runaway(cells)
}

let ticked = 0
/** Counts every few milliseconds. */
export const tick = (millis: number): void => {
  setInterval(() => ticked++, millis).unref()
}
export const ticks = (): number => ticked

/** How often the event loop of this thread has had its turn. */
export const turns = (): number => performance.nodeTiming.uvMetricsInfo.loopCount

export const notAFunction = 42
