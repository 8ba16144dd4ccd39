import { WorkerPool } from "effect-serve"
import { Effect, Logger } from "effect"
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import type { Cells } from "./tasks/tasks.ts"

export class Tasks extends WorkerPool.Service<Tasks, typeof import("./tasks/tasks.ts")>()("Tasks", {
  module: new URL("./tasks/tasks.ts", import.meta.url)
}) {}

/** Runs a test with a pool of two threads. */
export const withTasks =
  (options: WorkerPool.WorkerPoolOptions = {}) =>
  <A, E, R>(test: Effect.Effect<A, E, R>) =>
    Effect.provide(test, Tasks.layer({ size: 2, ...options }))

/** Memory that tasks and a test share. */
export const cells = (): Cells => new Int32Array(new SharedArrayBuffer(4 * 64))

/** Waits until something is so, for at most 5 seconds. */
export const when = (condition: () => boolean) =>
  Effect.gen(function* () {
    const end = performance.now() + 5000
    while (!condition()) {
      if (performance.now() > end) return yield* Effect.die(new Error(`never so: ${condition.toString()}`))
      yield* Effect.sleep(1)
    }
  })

/** Waits until the state of the pool is so. */
export const whenState = (condition: (state: WorkerPool.PoolState) => boolean) =>
  Effect.gen(function* () {
    let state = yield* Tasks.state
    const end = performance.now() + 5000
    while (!condition(state)) {
      if (performance.now() > end) return yield* Effect.die(new Error(`never so: ${JSON.stringify(state)}`))
      yield* Effect.sleep(1)
      state = yield* Tasks.state
    }
    return state
  })

/** An effect with the milliseconds that it takes. */
export const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const start = performance.now()
    return Effect.map(effect, (value) => ({ value, millis: performance.now() - start }))
  })

/** The `TaskError` with which an effect fails. */
export const taskError = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Effect.flip(effect), (error) =>
    error instanceof WorkerPool.TaskError ? Effect.succeed(error) : Effect.die(error)
  )

/** Threads of this process, as the operating system counts them. */
export const threadsOfProcess = () => readdirSync("/proc/self/task").length

/** A directory with modules, until the scope closes. */
export const modules = (files: Record<string, string>) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const path = mkdtempSync(join(tmpdir(), "effect-serve-tasks-"))
      for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text)
      return pathToFileURL(`${path}/`)
    }),
    (url) => Effect.sync(() => rmSync(url, { recursive: true }))
  )

/** Keeps what is logged. */
export const logged = () => {
  const messages: Array<string> = []
  return { messages, layer: Logger.layer([Logger.make(({ message }) => void messages.push(String(message)))]) }
}
