/**
 * How many requests a replica runs: `npm run example -- 08`.
 *
 * The page's `MyService` with `max_ongoing_requests`. Requests beyond `maxOngoingRequests` wait in line, and beyond `maxQueuedRequests`
 * they fail at once with `QueueFull`, which says when to come again.
 */
import { Effect, Result } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, peak, Ran, ran, runsOf, times, together, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"

export const title = "maxOngoingRequests bounds what runs, and maxQueuedRequests what waits"

class MyService extends Deployment.Service<MyService>()("MyService", [Rpc.make("call", { success: Ran })]) {}

const MyServiceLive = MyService.toLayer(
  { call: () => ran(Effect.sleep("150 millis")) },
  { maxOngoingRequests: 4, maxQueuedRequests: 8 }
)

export const program = Effect.gen(function* () {
  const service = yield* MyService
  const [calls, reports] = yield* TestServe.blocked(together(times(12, "call", service.call())))

  const results = yield* Effect.forEach(Array.from({ length: 15 }), () => Effect.result(service.call()), {
    concurrency: "unbounded"
  })
  const refusals = results.filter(Result.isFailure).map(({ failure }) => failure.reason)
  const [first] = refusals
  const answer = first === undefined ? "nobody is refused" : first._tag

  yield* printChart([{ title: "Twelve calls at once: four run, eight wait", calls }])
  yield* printEnd(
    culprits(reports),
    `Never more than ${peak(runsOf(calls))} ran at once, so twelve calls took three turns: ${took(calls).toFixed(0)} ms. ` +
      `Of fifteen at once, ${refusals.length} were one too many and got ${answer} in place of a long wait.`
  )
  return {
    took: took(calls),
    peak: peak(runsOf(calls)),
    refused: refusals.map(({ _tag }) => _tag),
    culprits: culprits(reports)
  }
}).pipe(Effect.provide(MyServiceLive))
