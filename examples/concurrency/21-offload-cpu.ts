/**
 * A loop of millions of steps: `npm run example -- 21`.
 *
 * The page's `OffloadCPU`, with `run_in_executor`. The function is the page's, a sum over ten million numbers, ten times because JavaScript is
 * faster. On the loop it is a mistake; beside it is the same in a `WorkerPool`.
 */
import { Effect, Layer, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, named, paced, Ran, ran, slowest, times, together, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"
import { compute } from "./modules/work.ts"

export const title = "CPU-heavy code, on the loop and offloaded"

class Work extends WorkerPool.Service<Work, typeof import("./modules/work.ts")>()("Work", {
  module: new URL("./modules/work.ts", import.meta.url)
}) {}

const Sum = Schema.Struct({ ...Ran.fields, total: Schema.Int })

class OffloadCPU extends Deployment.Service<OffloadCPU>()("OffloadCPU", [
  Rpc.make("computeHere", { payload: { x: Schema.Int }, success: Sum }),
  Rpc.make("compute", { payload: { x: Schema.Int }, success: Sum }),
  Rpc.make("ping", { success: Ran })
]) {}

const OffloadCPULive = OffloadCPU.toLayer(
  Effect.map(Work, (work) =>
    OffloadCPU.of({
      // The mistake.
      computeHere: ({ x }) => Effect.sync(() => compute(x)),
      compute: ({ x }) => Effect.orDie(work.compute(x)),
      ping: () => ran(Effect.void)
    })
  ),
  { maxOngoingRequests: 8 }
).pipe(Layer.provide(Work.layer({ size: 1 })))

export const program = Effect.gen(function* () {
  const cpu = yield* OffloadCPU
  const pings = paced(3, 50, "ping", cpu.ping())
  const totals = [(yield* cpu.computeHere({ x: 123 })).total, (yield* cpu.compute({ x: 123 })).total]

  const [onLoop, reports] = yield* TestServe.blocked(
    together([...times(3, "compute", cpu.computeHere({ x: 123 })), ...pings])
  )
  const [offloaded, none] = yield* TestServe.blocked(
    together([...times(3, "compute", cpu.compute({ x: 123 })), ...pings])
  )
  yield* printChart([
    { title: "The mistake: on the loop", calls: onLoop },
    { title: "In a WorkerPool of one thread", calls: offloaded }
  ])
  yield* printEnd(
    culprits([...reports, ...none]),
    "An Effect that computes is not faster than a function that does, and holds the loop as long. " +
      "One thread takes the same time for it, and pings don't notice."
  )
  const result = (calls: typeof onLoop) => ({
    took: took(named(calls, "compute")),
    ping: slowest(named(calls, "ping"))
  })
  return {
    totals,
    onLoop: result(onLoop),
    offloaded: result(offloaded),
    culprits: culprits(reports),
    culpritsOffloaded: culprits(none)
  }
}).pipe(Effect.provide(OffloadCPULive))
