/**
 * What a handler that blocks does to everything else, and what keeps it away: `npm run example:offload`, about 15 seconds.
 *
 * Does the same work in each of the ways in `patterns.ts`, and meanwhile calls a light deployment every 5 ms, which has nothing to do
 * but shares the app's loop. `npm run example:offload -- 4` does a quarter of the work.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Fiber, Layer } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import { availableParallelism } from "node:os"
import { patterns, PatternsLive } from "./patterns.ts"

class Light extends Deployment.Service<Light>()("Light", [Rpc.make("call")]) {}

const LightLive = Light.toLayer({ call: () => Effect.void })

const program = Effect.gen(function* () {
  const count = Number(process.argv[2] ?? 16)
  // Starts the threads and warms up.
  for (const { work } of yield* patterns(1)) yield* work

  yield* Console.log(row(["", `${count} times`, "light call, p50", "p99"]))
  yield* Console.log(row(["---", "---:", "---:", "---:"]))
  yield* report("nothing", Effect.sleep(80 * count))
  for (const { name, work } of yield* patterns(count)) yield* report(name, work)
  yield* Console.log(
    `\nMilliseconds, on ${availableParallelism()} cores. A light call every 5 ms; its time counts from when it was due.`
  )
})

const report = Effect.fnUntraced(function* <E, R>(name: string, work: Effect.Effect<void, E, R>) {
  const { latencies, took } = yield* measure(work)
  const at = (share: number) => latencies[Math.floor(share * (latencies.length - 1))]!.toFixed(1)
  yield* Console.log(row([name, took.toFixed(0), at(0.5), at(0.99)]))
})

/** Calls the light deployment while something works. */
const measure = Effect.fnUntraced(function* <E, R>(work: Effect.Effect<void, E, R>) {
  const light = yield* Light
  const latencies: Array<number> = []
  let took = Infinity
  const from = performance.now()
  const working = yield* Effect.forkChild(
    Effect.ensuring(
      work,
      Effect.sync(() => (took = performance.now() - from))
    )
  )
  // A call that is due while the loop is held is made late, and counts as late.
  for (let due = from; due < from + took; due += 5) {
    const early = due - performance.now()
    if (early > 0) yield* Effect.sleep(early)
    // A timer may be a little early.
    const counted = Math.min(due, performance.now())
    yield* light.call()
    latencies.push(performance.now() - counted)
  }
  yield* Fiber.join(working)
  return { took, latencies: latencies.toSorted((a, b) => a - b) }
})

const widths = [26, 8, 15, 6]

const row = (cells: ReadonlyArray<string>) =>
  `| ${cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join(" | ")} |`

NodeRuntime.runMain(Effect.provide(program, Layer.mergeAll(LightLive, PatternsLive)))
