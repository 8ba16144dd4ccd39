/**
 * The first of three switches: `npm run example -- 12`.
 *
 * The page's `RAY_SERVE_RUN_SYNC_IN_THREADPOOL` and its warning. Here it is `SERVE_RUN_SYNC_IN_THREADPOOL`, which is 1 unless it is set to 0.
 * It can be set for one deployment, in the environment or in its options. This program sets it in a `ConfigProvider`, which reads
 * the environment elsewhere.
 */
import { ConfigProvider, Console, Effect, Layer, Logger } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, oneByOne, Ran, threadsOf, times } from "./calls.ts"
import { printEnd, printTable } from "./chart.ts"
import { hash } from "./modules/work.ts"

export const title = "SERVE_RUN_SYNC_IN_THREADPOOL on and off, and its warning"

class Sync extends Deployment.Service<Sync>()("Sync", [Deployment.Blocking(Rpc.make("call", { success: Ran }))]) {}

export default Sync.module({ call: () => hash() })

const ways = [
  { name: "not set", env: {} },
  { name: "SERVE_RUN_SYNC_IN_THREADPOOL=0", env: { SERVE_RUN_SYNC_IN_THREADPOOL: "0" } },
  { name: "SERVE_SYNC_RUN_SYNC_IN_THREADPOOL=0", env: { SERVE_SYNC_RUN_SYNC_IN_THREADPOOL: "0" } }
]

const measure = ({ env, name }: { readonly name: string; readonly env: Record<string, string> }) =>
  Effect.suspend(() => {
    const warnings: Array<string> = []
    const Warnings = Logger.layer([Logger.make(({ message }) => void warnings.push(String(message)))])
    return Effect.gen(function* () {
      const { call } = yield* Sync
      const [calls, reports] = yield* TestServe.blocked(oneByOne(times(2, "call", call())))
      return {
        name,
        // 0 is the app's own loop.
        isOnAppLoop: threadsOf(calls).includes(0),
        culprits: culprits(reports),
        warnings: warnings.filter((warning) => warning.startsWith("Blocking method"))
      }
    }).pipe(
      Effect.provide(
        // On the app's loop, so that it is seen whether a call runs there.
        Sync.toLayerModule(new URL(import.meta.url), { isolation: "loop", poolSize: 1 }).pipe(Layer.provide(Warnings))
      ),
      Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
    )
  })

export const program = Effect.gen(function* () {
  const rows = yield* Effect.forEach(ways, measure)
  yield* printTable(
    ["environment", "two calls ran on", "warnings"],
    rows.map(({ isOnAppLoop, name, warnings }) => [
      name,
      isOnAppLoop ? "the loop" : "a thread of the pool",
      warnings.length
    ])
  )
  yield* Console.log(`\nThe warning:\n${rows[1]!.warnings[0]}`)
  yield* printEnd(
    rows.flatMap(({ culprits }) => culprits),
    "Leave it at 1: then nothing that is marked as blocking can hold a loop. " +
      "With 0 a method says once that it does, however often it is called; set it only for functions that are over at once."
  )
  return { rows }
})
