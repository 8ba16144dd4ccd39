/**
 * Runs one of the programs, by its number or its name: `npm run example -- 04`. Lists them when there is none of that name.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, References } from "effect"
import * as echo from "./01-echo.ts"
import * as blockingEcho from "./02-blocking-echo.ts"
import * as httpApi from "./03-http-api.ts"
import * as blockingHttp from "./04-blocking-http.ts"
import * as asyncHttp from "./05-async-http.ts"
import * as threadedHttp from "./06-threaded-http.ts"
import * as numericThreads from "./07-numeric-threads.ts"
import * as maxOngoingRequests from "./08-max-ongoing-requests.ts"
import * as asyncIoBound from "./09-async-io-bound.ts"
import * as blockingCpu from "./10-blocking-cpu.ts"
import * as cpuWithThreadpool from "./11-cpu-with-threadpool.ts"
import * as runSyncInThreadpool from "./12-run-sync-in-threadpool.ts"
import * as runUserCodeInSeparateThread from "./13-run-user-code-in-separate-thread.ts"
import * as runRouterInSeparateLoop from "./14-run-router-in-separate-loop.ts"
import * as batchedModel from "./15-batched-model.ts"
import * as batchedModelOffload from "./16-batched-model-offload.ts"
import * as maxConcurrentBatches from "./17-max-concurrent-batches.ts"
import * as blockingStream from "./18-blocking-stream.ts"
import * as asyncStream from "./19-async-stream.ts"
import * as offloadIo from "./20-offload-io.ts"
import * as offloadCpu from "./21-offload-cpu.ts"
import * as parallelTasks from "./22-parallel-tasks.ts"

interface Example {
  readonly title: string
  readonly program: Effect.Effect<unknown, unknown>
}

const examples: Record<string, Example> = {
  "01-echo": echo,
  "02-blocking-echo": blockingEcho,
  "03-http-api": httpApi,
  "04-blocking-http": blockingHttp,
  "05-async-http": asyncHttp,
  "06-threaded-http": threadedHttp,
  "07-numeric-threads": numericThreads,
  "08-max-ongoing-requests": maxOngoingRequests,
  "09-async-io-bound": asyncIoBound,
  "10-blocking-cpu": blockingCpu,
  "11-cpu-with-threadpool": cpuWithThreadpool,
  "12-run-sync-in-threadpool": runSyncInThreadpool,
  "13-run-user-code-in-separate-thread": runUserCodeInSeparateThread,
  "14-run-router-in-separate-loop": runRouterInSeparateLoop,
  "15-batched-model": batchedModel,
  "16-batched-model-offload": batchedModelOffload,
  "17-max-concurrent-batches": maxConcurrentBatches,
  "18-blocking-stream": blockingStream,
  "19-async-stream": asyncStream,
  "20-offload-io": offloadIo,
  "21-offload-cpu": offloadCpu,
  "22-parallel-tasks": parallelTasks
}

const list = Object.entries(examples)
  .map(([name, { title }]) => `  ${name.padEnd(38)}${title}`)
  .join("\n")

/** Whether a program is called so: `04-blocking-http`, `blocking-http`, `04` or `4`. */
const isCalled = (name: string, wanted: string) =>
  name === wanted || name.slice(3) === wanted || name.slice(0, 2) === wanted.padStart(2, "0")

const main = Effect.suspend(() => {
  const [wanted] = process.argv.slice(2)
  if (wanted === undefined) return Console.log(`npm run example -- <number or name>\n\n${list}`)
  const name = Object.keys(examples).find((name) => isCalled(name, wanted))
  if (name !== undefined) return examples[name]!.program
  return Effect.andThen(
    Console.error(`There is no example "${wanted}". There are:\n\n${list}`),
    Effect.sync(() => (process.exitCode = 1))
  )
})

// Of the log there is what the runtime warns of.
NodeRuntime.runMain(Effect.provideService(main, References.MinimumLogLevel, "Warn"))
