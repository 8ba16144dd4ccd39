/**
 * A client that waits: `npm run example -- 05`.
 *
 * The page's `AsyncHTTP`, with `httpx`. Here it is Effect's `HttpClient`: the request is ended with its caller, and so is the upstream's
 * work, if it looks.
 */
import { Effect, Layer, Schema } from "effect"
import { FetchHttpClient, HttpClient } from "effect/http"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, oneByOne, Ran, ran, slowest, times, together, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"
import { upstream } from "./upstream.ts"

export const title = "an HTTP client that waits"

class AsyncHTTP extends Deployment.Service<AsyncHTTP>()("AsyncHTTP", [
  Rpc.make("fetch", { payload: { url: Schema.String }, success: Ran })
]) {}

const AsyncHTTPLive = AsyncHTTP.toLayer(
  Effect.map(HttpClient.HttpClient, (client) =>
    AsyncHTTP.of({ fetch: ({ url }) => ran(Effect.orDie(Effect.flatMap(client.get(url), ({ text }) => text))) })
  ),
  { maxOngoingRequests: 32 }
).pipe(Layer.provide(FetchHttpClient.layer))

export const program = Effect.gen(function* () {
  const { fetch } = yield* AsyncHTTP
  const { peak, slow } = yield* upstream
  yield* fetch({ url: slow(0) })
  const url = slow(200)

  const alone = yield* oneByOne(times(3, "fetch", fetch({ url })))
  yield* peak
  const [all, reports] = yield* TestServe.blocked(together(times(32, "fetch", fetch({ url }))))
  const peakOfAll = yield* peak

  yield* printChart([
    { title: "Three calls, one after the other", calls: alone },
    { title: `Thirty-two at once; the upstream has ${peakOfAll} of them at once`, calls: all }
  ])
  yield* printEnd(
    culprits(reports),
    `Thirty-two calls took ${took(all).toFixed(0)} ms on one thread, where three one after the other took ${took(alone).toFixed(0)} ms. ` +
      "As many requests can wait as maxOngoingRequests allows."
  )
  return {
    alone: took(alone),
    together: took(all),
    slowest: slowest(all),
    peak: peakOfAll,
    culprits: culprits(reports)
  }
}).pipe(Effect.scoped, Effect.provide(AsyncHTTPLive))
