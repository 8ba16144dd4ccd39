/**
 * `npm run bench -- <name>...` runs the named benchmarks, or all of them. Exits with 1 when a budget is missed.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Effect } from "effect"
import { batching } from "./batching.ts"
import { blocking } from "./blocking.ts"
import { handle } from "./handle.ts"
import { http } from "./http.ts"
import { overload } from "./overload.ts"
import { overloadHttp } from "./overloadHttp.ts"
import { peersPython } from "./peersPython.ts"
import { remote } from "./remote.ts"
import { type Bench, report, type Study } from "./report.ts"
import { stream } from "./stream.ts"
import { worker } from "./worker.ts"

const benches: ReadonlyArray<Bench | Study> = [
  handle,
  http,
  stream,
  batching,
  overload,
  overloadHttp,
  worker,
  blocking,
  remote,
  peersPython
]

const program = Effect.gen(function* () {
  const names = process.argv.slice(2)
  const unknown = names.find((name) => !benches.some((bench) => bench.name === name))
  if (unknown !== undefined) {
    return yield* Effect.die(
      new Error(`No benchmark "${unknown}"; there is: ${benches.map(({ name }) => name).join(", ")}`)
    )
  }
  const chosen = names.length === 0 ? benches : benches.filter(({ name }) => names.includes(name))
  const results = yield* Effect.forEach(chosen, report)
  if (results.includes(false)) process.exitCode = 1
})

NodeRuntime.runMain(program)
