/**
 * The model that both servers of the batching benchmark serve: a device that takes 5 ms and 0.2 ms for each item, one batch at a
 * time, and no CPU.
 *
 * A timer of Node fires at some whole millisecond, and would make 11.4 ms into 11 or 12. So the device is a thread that sleeps
 * until the moment at which the batch is done and then sends a message, as an accelerator does.
 *
 * A negative item makes its whole batch fail, after the time that the batch takes.
 */
import { parentPort, Worker, workerData } from "node:worker_threads"

export const MAX_BATCH_SIZE = 32

/** Milliseconds that a batch takes. */
export const durationOf = (items: number) => 5 + 0.2 * items

/** What a server has done and used since it started. Times are in milliseconds. */
export interface Usage {
  readonly cpu: number
  readonly batches: number
  readonly items: number
  /** Time in which the device ran a batch. */
  readonly busy: number
}

/** Milliseconds on a clock that all threads share. */
const now = () => Number(process.hrtime.bigint()) / 1e6

/** One cell for the number of batches so far, one for the time when the last one is done. */
const cellsOf = (memory: SharedArrayBuffer) => ({ batch: new Int32Array(memory), done: new Float64Array(memory, 8) })

/** Starts the device, and answers the benchmark when it asks for the {@link Usage} of this process. */
export const start = () => {
  const memory = new SharedArrayBuffer(16)
  const { batch, done } = cellsOf(memory)
  const thread = new Worker(new URL(import.meta.url), { workerData: memory })
  let onDone: (() => void) | undefined
  let items = 0
  let busy = 0
  let running = 0
  thread.on("message", (late: number) => {
    busy += durationOf(running) + late
    const resume = onDone!
    onDone = undefined
    resume()
  })
  process.on("message", () => {
    const { system, user } = process.cpuUsage()
    process.send!({ cpu: (system + user) / 1000, batches: batch[0]!, items, busy } satisfies Usage)
  })
  process.on("disconnect", () => process.exit())
  return {
    /** Runs a batch and gives the results of its items. Rejects when another one is running, or an item is negative. */
    double: (batched: ReadonlyArray<number>): Promise<ReadonlyArray<number>> =>
      new Promise((resolve, reject) => {
        if (onDone !== undefined || batched.length > MAX_BATCH_SIZE) return reject(new Error("The device is misused"))
        onDone = () =>
          batched.some((x) => x < 0)
            ? reject(new Error("The model fails: an item is negative"))
            : resolve(batched.map((x) => 2 * x))
        running = batched.length
        items += running
        done[0] = now() + durationOf(running)
        Atomics.add(batch, 0, 1)
        Atomics.notify(batch, 0)
      })
  }
}

/** The thread of the device. Tells by how much it woke too late. */
const run = (memory: SharedArrayBuffer) => {
  const { batch, done } = cellsOf(memory)
  for (let next = 0; ; next++) {
    Atomics.wait(batch, 0, next)
    for (let left = done[0]! - now(); left > 0; left = done[0]! - now()) Atomics.wait(batch, 0, next + 1, left)
    // oxlint-disable-next-line unicorn/require-post-message-target-origin
    parentPort!.postMessage(now() - done[0]!)
  }
}

if (workerData instanceof SharedArrayBuffer) run(workerData)
