/**
 * A client that blocks, in a handler on the loop: `npm run example -- 04`.
 *
 * The page's `BlockingHTTP`, which is a mistake: an `async def` that calls `requests.get`. An Effect moves nothing anywhere either. What
 * `Effect.sync` runs holds the loop, and nothing else runs there until the answer has come. The right form is in 05, and here beside it.
 */
import { Effect, Layer, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, named, paced, Ran, ran, slowest, times, together, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"
import { fetchBlocking } from "./modules/work.ts"
import { upstream } from "./upstream.ts"

export const title = "a mistake: an HTTP client that blocks, in a handler on the loop"

const methods = [Rpc.make("fetch", { payload: { url: Schema.String }, success: Ran })] as const

class BlockingHTTP extends Deployment.Service<BlockingHTTP>()("BlockingHTTP", methods) {}
class RightHTTP extends Deployment.Service<RightHTTP>()("RightHTTP", methods) {}
class Light extends Deployment.Service<Light>()("Light", [Rpc.make("ping", { success: Ran })]) {}

const Live = Layer.mergeAll(
  // The mistake: one request at a time, whatever maxOngoingRequests says.
  BlockingHTTP.toLayer({ fetch: ({ url }) => Effect.sync(() => fetchBlocking(url)) }, { maxOngoingRequests: 8 }),
  RightHTTP.toLayer({ fetch: ({ url }) => ran(Effect.promise(() => fetch(url))) }, { maxOngoingRequests: 8 }),
  Light.toLayer({ ping: () => ran(Effect.void) })
)

export const program = Effect.gen(function* () {
  const blockingHttp = yield* BlockingHTTP
  const rightHttp = yield* RightHTTP
  const light = yield* Light
  const { peak, slow } = yield* upstream
  const url = slow(150)
  const pings = paced(2, 60, "ping", light.ping())

  const [blocked, reports] = yield* TestServe.blocked(
    together([...times(4, "fetch", blockingHttp.fetch({ url })), ...pings])
  )
  const peakBlocked = yield* peak
  const [right] = yield* TestServe.blocked(together([...times(4, "fetch", rightHttp.fetch({ url })), ...pings]))
  const peakRight = yield* peak

  yield* printChart([
    { title: `The mistake: the upstream has ${peakBlocked} request at a time`, calls: blocked },
    { title: `With a client that waits: it has ${peakRight} at once`, calls: right }
  ])
  yield* printEnd(
    culprits(reports),
    "Blocking in an Effect is still blocking: four requests take four times as long, and pings wait for all of them. " +
      "Use a client that waits, and where there is none, a WorkerPool (06)."
  )
  return {
    blocked: { took: took(named(blocked, "fetch")), peak: peakBlocked, ping: slowest(named(blocked, "ping")) },
    right: { took: took(named(right, "fetch")), peak: peakRight, ping: slowest(named(right, "ping")) },
    culprits: culprits(reports)
  }
}).pipe(Effect.scoped, Effect.provide(Live))
