/**
 * A plain function as handler: `npm run example -- 02`.
 *
 * The page's `BlockingEcho`, a `def` that does not give way. `Deployment.Blocking` says so of a method, and its handler runs on a thread of
 * the replica's pool. With `SERVE_RUN_SYNC_IN_THREADPOOL=0`, which is Ray's default and not ours, it runs on the loop of its replica, and
 * `ping`, which shares that loop, has to wait.
 *
 * The threads load this file too, for what it exports by default. So it does nothing by being loaded.
 */
import { ConfigProvider, Effect } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, named, paced, Ran, ran, slowest, threadsOf, times, together, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"
import { hash } from "./modules/work.ts"

export const title = "a handler that blocks, on the loop and on a thread of its own"

class BlockingEcho extends Deployment.Service<BlockingEcho>()("BlockingEcho", [
  Deployment.Blocking(Rpc.make("call", { success: Ran })),
  Rpc.make("ping", { success: Ran })
]) {}

export default BlockingEcho.module({
  call: () => hash(),
  ping: () => ran(Effect.void)
})

const measure = (env: Record<string, string>) =>
  Effect.gen(function* () {
    const echo = yield* BlockingEcho
    yield* echo.ping()
    return yield* TestServe.blocked(together([...times(3, "call", echo.call()), ...paced(3, 60, "ping", echo.ping())]))
  }).pipe(
    Effect.provide(BlockingEcho.toLayerModule(new URL(import.meta.url), { maxOngoingRequests: 8, poolSize: 1 })),
    Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
  )

export const program = Effect.gen(function* () {
  const [onLoop, reports] = yield* measure({ SERVE_RUN_SYNC_IN_THREADPOOL: "0" })
  const [onThread, none] = yield* measure({})

  yield* printChart([
    { title: "SERVE_RUN_SYNC_IN_THREADPOOL=0: three calls on the loop that pings need", calls: onLoop },
    { title: "The default: the same calls on a thread beside that loop", calls: onThread }
  ])
  yield* printEnd(
    culprits([...reports, ...none]),
    "A plain function holds whatever thread it runs on, so mark it with Deployment.Blocking, and it gets one of its own. " +
      "The calls are not faster there; but everybody else is served meanwhile."
  )
  return {
    onLoop: { ping: slowest(named(onLoop, "ping")), call: took(named(onLoop, "call")), threads: threadsOf(onLoop) },
    onThread: { ping: slowest(named(onThread, "ping")), threads: threadsOf(onThread) },
    culprits: culprits(reports),
    culpritsOnThread: culprits(none)
  }
})
