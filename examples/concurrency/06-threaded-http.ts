/**
 * A client that blocks, on threads: `npm run example -- 06`.
 *
 * The page's `ThreadedHTTP`, with `asyncio.to_thread`. Here the function is in a module, and a `WorkerPool` calls it by name: as many calls
 * block at once as the pool has threads, and the rest wait in its line.
 */
import { Effect, Layer, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, named, paced, Ran, ran, slowest, threadsOf, times, together, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"
import { upstream } from "./upstream.ts"

export const title = "an HTTP client that blocks, on the threads of a WorkerPool"

class Work extends WorkerPool.Service<Work, typeof import("./modules/work.ts")>()("Work", {
  module: new URL("./modules/work.ts", import.meta.url)
}) {}

class ThreadedHTTP extends Deployment.Service<ThreadedHTTP>()("ThreadedHTTP", [
  Rpc.make("fetch", { payload: { url: Schema.String }, success: Ran }),
  Rpc.make("ping", { success: Ran })
]) {}

const ThreadedHTTPLive = ThreadedHTTP.toLayer(
  Effect.map(Work, (work) =>
    ThreadedHTTP.of({
      fetch: ({ url }) => Effect.orDie(work.fetchBlocking(url)),
      ping: () => ran(Effect.void)
    })
  ),
  { maxOngoingRequests: 16 }
)

const measure = (size: number) =>
  Effect.gen(function* () {
    const http = yield* ThreadedHTTP
    const { peak, slow } = yield* upstream
    // Each thread connects with its first request.
    yield* together(times(size, "first", http.fetch({ url: slow(100) })))
    yield* peak
    const [calls, reports] = yield* TestServe.blocked(
      together([...times(6, "fetch", http.fetch({ url: slow(150) })), ...paced(2, 60, "ping", http.ping())])
    )
    return { calls, peak: yield* peak, culprits: culprits(reports) }
  }).pipe(Effect.scoped, Effect.provide(Layer.provide(ThreadedHTTPLive, Work.layer({ size, minSize: size }))))

export const program = Effect.gen(function* () {
  const two = yield* measure(2)
  const six = yield* measure(6)

  yield* printChart([
    { title: `Two threads: the upstream has ${two.peak} requests at once`, calls: two.calls },
    { title: `Six threads: it has ${six.peak}`, calls: six.calls }
  ])
  yield* printEnd(
    [...two.culprits, ...six.culprits],
    "A call that blocks costs a thread for as long as it waits, and threads are what bounds it. " +
      "The loop stays free; but a client that waits (05) does the same with none."
  )
  const result = ({ calls, culprits, peak }: typeof two) => ({
    took: took(named(calls, "fetch")),
    peak,
    threads: threadsOf(named(calls, "fetch")).length,
    ping: slowest(named(calls, "ping")),
    culprits
  })
  return { two: result(two), six: result(six) }
})
