/**
 * What an event loop shows of itself in shared memory: when it was last alive, and whose code it runs.
 *
 * The thread that watches loads this file, so it does not load Effect.
 *
 * @since 0.1.0
 */

/**
 * A method of a deployment.
 *
 * @category models
 * @since 0.1.0
 */
export interface Method {
  readonly deployment: string
  readonly method: string
}

/**
 * An event loop as other threads see it. It can be sent to them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Pulse {
  readonly cells: Int32Array
  /** The methods whose code runs there; the first one has the id 1. */
  readonly methods: ReadonlyArray<Method>
}

/** Milliseconds between two heartbeats, and between two looks at them. */
export const PERIOD = 25

/** The cell that has the time of the last heartbeat. */
export const BEAT = 0
/** The cell that has the id of the method whose code runs; 0 when it is the code of none. */
export const CURRENT = 1
/** The cell that has the number of a method's requests that wait for something. */
export const waitingCell = (id: number): number => id + 2

/** Methods of one loop that can be told apart. Code of others is that of none. */
const MAX_METHODS = 1023

const methods: Array<Method> = []

/** The loop of this thread. */
export const here: Pulse = {
  cells: new Int32Array(new SharedArrayBuffer(4 * (waitingCell(MAX_METHODS) + 1))),
  methods
}

/** Milliseconds on a clock that all threads share. They start again after 2^32: only differences, taken `| 0`, mean something. */
export const now = (): number => Number(BigInt.asIntN(32, process.hrtime.bigint() / 1_000_000n))

/** The id of a method of this thread, which is given to it when it is asked for first. */
export const idOf = ({ deployment, method }: Method): number => {
  const known = methods.findIndex((other) => other.deployment === deployment && other.method === method)
  if (known !== -1) return known + 1
  return methods.length === MAX_METHODS ? 0 : methods.push({ deployment, method })
}

let beating = 0
let timer: NodeJS.Timeout | undefined

/** Makes the loop of this thread beat until {@link rest} has been called as often as this. */
export const beat = (): void => {
  if (beating++ > 0) return
  mark()
  // A fiber that sleeps would follow the clock of a test, and keep the process alive.
  // @effect-diagnostics-next-line globalTimers:off
  timer = setInterval(mark, PERIOD).unref()
}

export const rest = (): void => {
  if (--beating === 0) clearInterval(timer)
}

const mark = (): void => {
  Atomics.store(here.cells, BEAT, now())
}

/** The words for a method. */
export const nameOf = ({ deployment, method }: Method): string => `"${deployment}.${method}"`

/** What is to be done about a method that holds its loop. */
export const ADVICE =
  "Make it a Deployment.Blocking method of a module deployment, or call a WorkerPool for what takes long."
