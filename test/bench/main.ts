/**
 * `npm run bench -- <study>...` measures the named studies, or all of them, and writes what they gave into `docs/benchmarks/`.
 *
 * With `--check` it ends with 1 when a budget of the project's design is missed by more than a tenth.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect } from "effect"
import { write } from "./harness/pages.ts"
import { holds, inWords, Skipped, type Study } from "./harness/Study.ts"
import { batching } from "./studies/batching.ts"
import { blocking } from "./studies/blocking.ts"
import { breakdown } from "./studies/breakdown.ts"
import { handle } from "./studies/handle.ts"
import { http } from "./studies/http.ts"
import { latency } from "./studies/latency.ts"
import { memory } from "./studies/memory.ts"
import { model } from "./studies/model.ts"
import { overload } from "./studies/overload.ts"
import { overloadHttp } from "./studies/overloadHttp.ts"
import { peers } from "./studies/peers.ts"
import { ray } from "./studies/ray.ts"
import { remote } from "./studies/remote.ts"
import { scale } from "./studies/scale.ts"
import { stream } from "./studies/stream.ts"
import { trouble } from "./studies/trouble.ts"
import { worker } from "./studies/worker.ts"

const studies: ReadonlyArray<Study> = [
  handle,
  scale,
  http,
  breakdown,
  stream,
  batching,
  model,
  overload,
  overloadHttp,
  worker,
  blocking,
  remote,
  memory,
  peers,
  latency,
  trouble,
  ray
]

/** By how much a budget may be missed: the machine is shared. */
const SLACK = 0.1

const run = Effect.fnUntraced(function* (study: Study) {
  yield* Console.log(`${study.name} ...`)
  const report = yield* Effect.catchIf(study.measure, (error) => error instanceof Skipped, Effect.succeed)
  if (report instanceof Skipped) {
    yield* Console.log(`${study.name}: skipped, because ${report.why}`)
    return []
  }
  write(study, report)
  for (const verdict of report.verdicts) {
    yield* Console.log(`  ${holds(verdict) ? "holds " : "MISSED"}  ${inWords(verdict)}`)
  }
  return report.verdicts
})

const program = Effect.gen(function* () {
  const isCheck = process.argv.includes("--check")
  const names = process.argv.slice(2).filter((name) => name !== "--check")
  const unknown = names.find((name) => !studies.some((study) => study.name === name))
  if (unknown !== undefined) {
    const known = studies.map(({ name }) => name).join(", ")
    return yield* Effect.die(new Error(`No study "${unknown}"; there is: ${known}`))
  }
  const chosen = names.length === 0 ? studies : studies.filter(({ name }) => names.includes(name))
  const verdicts = (yield* Effect.forEach(chosen, run)).flat()
  if (!isCheck) return
  const missed = verdicts.filter((verdict) => verdict.isPromise && !holds(verdict, SLACK))
  for (const verdict of missed) yield* Console.log(`missed by more than ${SLACK * 100} %: ${inWords(verdict)}`)
  if (missed.length > 0) process.exitCode = 1
})

NodeRuntime.runMain(program)
