/**
 * Numeric work on threads: `npm run example -- 07`.
 *
 * The page's `NumpyDeployment`, whose threads help as long as NumPy lets go of the GIL. JavaScript has no such lock: each thread is on its
 * own, so a matrix product in plain JavaScript gets faster with every core. And the native functions of Node that take a callback, such
 * as `crypto.pbkdf2`, compute on threads of libuv already.
 */
import { Effect, Layer, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { pbkdf2 } from "node:crypto"
import { availableParallelism } from "node:os"
import { promisify } from "node:util"
import { culprits, named, paced, peak, Ran, ran, runsOf, slowest, times, together, took } from "./calls.ts"
import { printEnd, printTable } from "./chart.ts"
import { hash, multiply } from "./modules/work.ts"

export const title = "numeric work on threads: matrix products, and native code"

class Work extends WorkerPool.Service<Work, typeof import("./modules/work.ts")>()("Work", {
  module: new URL("./modules/work.ts", import.meta.url)
}) {}

class Numeric extends Deployment.Service<Numeric>()("Numeric", [
  Rpc.make("multiplyHere", { payload: { size: Schema.Int }, success: Ran }),
  Rpc.make("multiply", { payload: { size: Schema.Int }, success: Ran }),
  Rpc.make("hashHere", { success: Ran }),
  Rpc.make("hash", { success: Ran }),
  Rpc.make("ping", { success: Ran })
]) {}

const threads = Math.max(2, availableParallelism())

const random = (size: number) => new Float64Array(size * size).map(() => Math.random())
const hashNatively = promisify(pbkdf2)

const NumericLive = Numeric.toLayer(
  Effect.map(Work, (work) =>
    Numeric.of({
      multiplyHere: ({ size }) => Effect.sync(() => multiply(random(size), random(size))),
      multiply: ({ size }) => Effect.orDie(work.multiply(WorkerPool.move(random(size)), WorkerPool.move(random(size)))),
      hashHere: () => Effect.sync(() => hash(500_000)),
      hash: () => ran(Effect.promise(() => hashNatively("hunter2", "salt", 500_000, 32, "sha256"))),
      ping: () => ran(Effect.void)
    })
  ),
  { maxOngoingRequests: 8 }
).pipe(Layer.provide(Work.layer({ size: threads, minSize: threads })))

export const program = Effect.gen(function* () {
  const numeric = yield* Numeric
  const size = 320
  const ways = [
    { name: "matrix products on the loop", call: numeric.multiplyHere({ size }) },
    { name: "matrix products in a WorkerPool", call: numeric.multiply({ size }) },
    { name: "pbkdf2Sync on the loop", call: numeric.hashHere() },
    { name: "pbkdf2, which has threads of its own", call: numeric.hash() }
  ]
  // Once without a look at the clock: functions are compiled when they have run for a while.
  yield* together([...times(threads, "warm", ways[0]!.call), ...times(threads, "warm", ways[1]!.call)])

  const rows = yield* Effect.forEach(ways, ({ call, name }) =>
    Effect.map(
      TestServe.blocked(together([...times(6, "work", call), ...paced(3, 20, "ping", numeric.ping())])),
      ([calls, reports]) => ({
        name,
        took: took(named(calls, "work")),
        peak: peak(runsOf(named(calls, "work"))),
        ping: slowest(named(calls, "ping")),
        culprits: culprits(reports)
      })
    )
  )

  yield* printTable(
    ["six calls, ms", "took", "slowest ping"],
    rows.map(({ name, ping, took }) => [name, took, ping])
  )
  yield* printEnd(
    rows.flatMap(({ culprits }) => culprits),
    `${threads} threads compute side by side, on as many cores as are free, and the loop has nothing to do with it. ` +
      "Look for what has threads already before you add some."
  )
  return { threads, rows }
}).pipe(Effect.provide(NumericLive))
