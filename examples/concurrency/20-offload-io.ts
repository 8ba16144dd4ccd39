/**
 * Blocking I/O on a thread, with a deadline: `npm run example -- 20`.
 *
 * The page's `OffloadIO`, with `asyncio.to_thread`. A thread of Python's pool can't be stopped, so a call that nobody waits for any more
 * keeps it. Here the deadline ends the call, the thread that still blocks is ended after `cancelGrace`, and a new one takes its place.
 */
import { Duration, Effect, Layer, Result, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, Ran, threadsOf, times, together, took } from "./calls.ts"
import { printEnd, printTable } from "./chart.ts"
import { upstream } from "./upstream.ts"

export const title = "blocking I/O on a thread, and what happens to it at a deadline"

class Work extends WorkerPool.Service<Work, typeof import("./modules/work.ts")>()("Work", {
  module: new URL("./modules/work.ts", import.meta.url)
}) {}

class OffloadIO extends Deployment.Service<OffloadIO>()("OffloadIO", [
  Rpc.make("fetch", { payload: { url: Schema.String }, success: Ran })
]) {}

const OffloadIOLive = OffloadIO.toLayer(
  Effect.map(Work, (work) => OffloadIO.of({ fetch: ({ url }) => Effect.orDie(work.fetchBlocking(url)) }))
).pipe(Layer.provide(Work.layer({ size: 1 })))

export const program = Effect.gen(function* () {
  const { fetch } = yield* OffloadIO
  const { slow } = yield* upstream
  const [first] = yield* together(times(1, "first", fetch({ url: slow(100) })))

  // The upstream would take a minute.
  const [[duration, late], reports] = yield* TestServe.blocked(
    Effect.timed(Effect.result(fetch({ url: slow(60_000) }, { timeout: "150 millis" })))
  )
  const answered = Duration.toMillis(duration)
  const error = Result.isFailure(late) ? late.failure.reason._tag : "an answer"
  const [next] = yield* together(times(1, "next", fetch({ url: slow(100) })))

  yield* printTable(
    ["call", "thread", "took, ms", "outcome"],
    [
      ["an upstream of 100 ms", threadsOf([first!])[0]!, took([first!]), "ok"],
      ["an upstream of a minute, timeout 150 ms", "ended", answered, error],
      ["an upstream of 100 ms", threadsOf([next!])[0]!, took([next!]), "ok"]
    ]
  )
  yield* printEnd(
    culprits(reports),
    "What blocks on a thread holds nobody but that thread, and a deadline reaches it even there. " +
      "The pool never runs out of threads because something does not come back."
  )
  return {
    first: took([first!]),
    late: { error, answered },
    next: took([next!]),
    isReplaced: threadsOf([first!])[0] !== threadsOf([next!])[0],
    culprits: culprits(reports)
  }
}).pipe(Effect.scoped, Effect.provide(OffloadIOLive))
