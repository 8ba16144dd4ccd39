/**
 * One request on many threads: `npm run example -- 22`.
 *
 * The page's `RayParallel`, which starts a Ray task for each value and gathers the results. Here `Effect.forEach` calls a `WorkerPool`, and the
 * tasks are part of their request: they end with it, and at its deadline.
 */
import { Duration, Effect, Layer, Result, Schedule, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { availableParallelism } from "node:os"
import { type Call, culprits, peak, Ran, runsOf, threadsOf, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"

export const title = "one request that fans out over threads, and ends them with it"

class Work extends WorkerPool.Service<Work, typeof import("./modules/work.ts")>()("Work", {
  module: new URL("./modules/work.ts", import.meta.url)
}) {}

class Parallel extends Deployment.Service<Parallel>()("Parallel", [
  Rpc.make("squares", {
    payload: { values: Schema.Array(Schema.Int), atOnce: Schema.Int },
    success: Schema.Array(Schema.Struct({ ...Ran.fields, square: Schema.Int }))
  })
]) {}

const threads = Math.max(2, availableParallelism())
const often = Schedule.spaced("5 millis")

const ParallelLive = Parallel.toLayer(
  Effect.map(Work, (work) =>
    Parallel.of({
      squares: ({ atOnce, values }) =>
        Effect.orDie(Effect.forEach(values, (value) => work.heavySquare(value), { concurrency: atOnce }))
    })
  )
).pipe(Layer.provideMerge(Work.layer({ size: threads, minSize: threads })))

export const program = Effect.gen(function* () {
  const { squares } = yield* Parallel
  const values = [1, 2, 3, 4]
  const measure = (atOnce: number) =>
    Effect.gen(function* () {
      const [results, reports] = yield* TestServe.blocked(squares({ values, atOnce }))
      const start = Math.min(...results.map(({ from }) => from))
      const calls = results.map(({ from, square, thread, to }, i): Call => {
        const run = { thread, from: from - start, to: to - start }
        return { name: `${values[i]}² = ${square}`, sent: 0, answered: run.to, run }
      })
      return { calls, squares: results.map(({ square }) => square), culprits: culprits(reports) }
    })
  const alone = yield* measure(1)
  const parallel = yield* measure(values.length)

  // Tasks that can't be asked to stop end with their threads: after cancelGrace, and when the native code they are in returns.
  const late = yield* Effect.result(squares({ values, atOnce: values.length }, { timeout: "20 millis" }))
  const isIdle = Effect.map(Work.state, ({ queued, running }) => running + queued === 0)
  const [untilIdle] = yield* Effect.timed(Effect.repeat(isIdle, { until: (isIdle) => isIdle, schedule: often }))

  yield* printChart([
    { title: "Four tasks of one request, one after the other", calls: alone.calls },
    { title: `All of them at once, on ${threads} threads`, calls: parallel.calls }
  ])
  yield* printEnd(
    [...alone.culprits, ...parallel.culprits],
    `Four tasks took ${took(alone.calls).toFixed(0)} ms one after the other and ${took(parallel.calls).toFixed(0)} ms on ${threads} threads. ` +
      `A request that ran out of time takes its tasks along: they were gone ${Duration.toMillis(untilIdle).toFixed(0)} ms later.`
  )
  const result = ({ calls, culprits, squares }: typeof alone) => ({
    squares,
    took: took(calls),
    peak: peak(runsOf(calls)),
    threads: threadsOf(calls).length,
    culprits
  })
  return {
    threads,
    alone: result(alone),
    parallel: result(parallel),
    late: { error: Result.isFailure(late) ? late.failure.reason._tag : "", untilIdle: Duration.toMillis(untilIdle) }
  }
}).pipe(Effect.provide(ParallelLive))
