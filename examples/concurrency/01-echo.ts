/**
 * A handler that waits: `npm run example -- 01`.
 *
 * The page's `Echo`, an `async def` that awaits a sleep. Here a handler returns an Effect, and while that waits, the event loop works
 * on other requests.
 */
import { Effect } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, oneByOne, peak, Ran, ran, runsOf, times, together, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"

export const title = "a handler that waits serves many requests at once"

class Echo extends Deployment.Service<Echo>()("Echo", [Rpc.make("call", { success: Ran })]) {}

const EchoLive = Echo.toLayer({ call: () => ran(Effect.sleep("100 millis")) }, { maxOngoingRequests: 8 })

export const program = Effect.gen(function* () {
  const echo = yield* Echo
  const calls = times(8, "call", echo.call())
  const alone = yield* oneByOne(calls)
  const [all, reports] = yield* TestServe.blocked(together(calls))

  yield* printChart([
    { title: "Eight calls, one after the other", calls: alone },
    { title: "Eight calls at once", calls: all }
  ])
  yield* printEnd(
    culprits(reports),
    `One after the other they took ${took(alone).toFixed(0)} ms, and together ${took(all).toFixed(0)} ms, on one thread. ` +
      "A request that waits costs the loop nothing."
  )
  return { alone: took(alone), together: took(all), peak: peak(runsOf(all)), culprits: culprits(reports) }
}).pipe(Effect.provide(EchoLive))
