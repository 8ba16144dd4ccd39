/**
 * The workloads of Ray Serve's own benchmarks, on Ray Serve as it comes, with its flags for throughput, and on effect-serve.
 *
 * W1: requests one after another to a deployment that does nothing, with a body of nothing, 1 MB and 10 MB. W2: volleys of 100 such
 * requests, with at most 5 or 100 of them running. W4: ten streams of 1000 tokens, from one deployment and through a second one, ready at once
 * or 10 ms apart. They are those of `python/ray/serve/_private/benchmarks` and `release/serve_tests/workloads/microbenchmarks.py` in Ray's
 * repository.
 */
import { Console, Effect } from "effect"
import { Failed } from "../harness/processTree.ts"
import { cpu, latency, of, race, rate, ratios, type Rounds, type Side, type Value } from "../harness/race.ts"
import { type Outcome, outcomeOf, serve, type Server, smokeTest } from "../harness/servers.ts"
import { atLeast, type Report, Skipped, type Study } from "../harness/Study.ts"
import { medianOf, table } from "../harness/table.ts"
import { isStream, type Kind, ours, type Question, rays, type System } from "../peers/systems.ts"
import { missingOf, versionsOf } from "./peers.ts"
import { streamed } from "./peersWork.ts"

const ROUNDS = 5

interface Work {
  readonly title: string
  readonly kind: Kind
  readonly maxOngoing: number
  readonly questions: ReadonlyArray<Question>
  readonly units: number
  readonly inVolleys: boolean
  readonly turn: number
}

const nothing = (bytes: number) => ({ request: JSON.stringify({ data: "x".repeat(bytes) }), answer: { ok: true } })

const sizes = { "an empty body": 0, "1 MB": 1e6, "10 MB": 1e7 }

const sequential = Object.entries(sizes).map(([size, bytes]): Work => ({
  title: `W1, one after another, ${size}`,
  kind: "noop",
  maxOngoing: 100,
  questions: [nothing(bytes)],
  units: 1,
  inVolleys: false,
  turn: 2000
}))

const volleys = [5, 100].map((maxOngoing): Work => ({
  title: `W2, volleys of 100, at most ${maxOngoing} running`,
  kind: "noop",
  maxOngoing,
  questions: Array.from({ length: 100 }, () => nothing(0)),
  units: 1,
  inVolleys: true,
  turn: 2000
}))

const TOKENS = 1000

const tokens = (["stream", "chainStream"] as const).flatMap((kind) =>
  [0, 10].map((delay): Work => ({
    title: `W4, 10 streams of ${TOKENS} tokens${kind === "stream" ? "" : " through two deployments"}, ${delay === 0 ? "ready at once" : `${delay} ms apart`}`,
    kind,
    maxOngoing: 100,
    questions: streamed(kind, TOKENS, delay, 10).questions(ours),
    units: TOKENS,
    inVolleys: false,
    turn: 2500
  }))
)

const works = [...sequential, ...volleys, ...tokens]

const start = (system: System, { kind, maxOngoing }: Work) =>
  serve(system, kind, isStream(kind) ? streamed(kind, 1, 0, 1).questions(system)[0]! : nothing(0), {
    core: 0,
    environment: { MAX_ONGOING: `${maxOngoing}` }
  })

const sideOf = Effect.fnUntraced(function* (system: System, { pid, port }: Server, work: Work) {
  const wrong = JSON.stringify(isStream(work.kind) ? { count: "1", delay: 0 } : { data: 1 })
  const [exchange] = yield* smokeTest(system, work.kind, port, work.questions.slice(0, 1), wrong)
  const end = isStream(work.kind) ? /\r?\n\r?\n/.exec(exchange!.answer)! : undefined
  return {
    name: system.name,
    pid,
    times: { warmUp: 400, turn: system === ours ? 700 : work.turn, pause: 400 },
    load: {
      port,
      path: system.path(work.kind),
      exchanges: work.questions.map(() => exchange!),
      contentType: isStream(work.kind) ? "text/event-stream" : "application/json",
      units: work.units,
      head: Buffer.byteLength(end === undefined ? exchange!.answer : exchange!.answer.slice(0, end.index + 2)),
      inVolleys: work.inVolleys
    }
  } satisfies Side
})

/** A work on a system of Ray and on effect-serve. */
const duel = Effect.fnUntraced(function* (system: System, work: Work) {
  const [own, theirs] = [yield* start(ours, work), yield* start(system, work)]
  return yield* race([yield* sideOf(ours, own, work), yield* sideOf(system, theirs, work)], ROUNDS)
})

interface Measured {
  readonly work: Work
  readonly system: System
  readonly rounds: Outcome<Rounds>
}

const row = ({ rounds, system, work: { title } }: Measured): ReadonlyArray<string> => {
  if (rounds instanceof Failed) return [title, system.name, `failed: ${rounds.why}`, "", "", "", "", ""]
  const both = (value: Value, digits: number) =>
    [system.name, ours.name]
      .map((name) => medianOf(of(rounds, name, value)))
      // No stream begins in a turn that is shorter than a stream.
      .map((number) => (Number.isNaN(number) ? "none" : number.toFixed(digits)))
      .join(" / ")
  return [
    title,
    system.name,
    both(rate, 0),
    medianOf(ratios(rounds, ours.name, system.name, rate)).toFixed(1),
    both(latency("p50"), 2),
    both(latency("p95"), 2),
    both(latency("p99"), 2),
    medianOf(ratios(rounds, system.name, ours.name, cpu)).toFixed(1)
  ]
}

const head = [
  "work",
  "peer",
  "requests or tokens/s, peer / effect-serve",
  "effect-serve : peer",
  "p50 ms (of the first token), peer / effect-serve",
  "p95 ms",
  "p99 ms",
  "CPU, peer : effect-serve"
]

const verdict = ({ rounds, system, work: { title } }: Measured) =>
  rounds instanceof Failed
    ? []
    : [
        atLeast(
          `${title}, of ${system.name}`,
          medianOf(ratios(rounds, ours.name, system.name, rate)),
          // The tokens come when they come.
          title.endsWith("apart") ? 0.98 : 1
        )
      ]

export const ray: Study = {
  name: "ray",
  measure: Effect.gen(function* () {
    const versions = versionsOf(rays.flatMap(({ packages }) => packages))
    const missing = missingOf(rays[0]!, versions)
    if (missing !== undefined) return yield* new Skipped({ why: missing })
    const measured: Array<Measured> = []
    for (const system of rays.filter((system) => missingOf(system, versions) === undefined)) {
      for (const work of works) {
        const rounds = yield* outcomeOf(duel(system, work))
        measured.push({ work, system, rounds })
        yield* Console.log(`  ${row(measured.at(-1)!).join(", ")}`)
      }
    }
    return {
      title: "Ray Serve's own workloads",
      versions,
      verdicts: measured.flatMap(verdict),
      data: measured.map(({ rounds, system, work }) => ({ work: work.title, system: system.name, rounds })),
      text: `${HOW}\n\n${table([head, ...measured.map(row)])}`
    } satisfies Report
  })
}

const HOW = `The workloads that Ray Serve's developers measure, by HTTP, with one replica. W1: requests one after another to a deployment that does nothing,
with a JSON body of so many bytes. W2: 100 such requests at once, the next 100 when all are answered, with at most 5 or 100 of them running at a
time. W4: ten streams of ${TOKENS} tokens, as events of some 36 bytes, from one deployment or through a second one that passes them on, ready at once or
10 ms apart, where 1000 tokens/s is all there can be.

All processes of a server are on the first core, the load on the second one; a system of Ray and effect-serve take turns of 2 s (2.5 s for streams) and
0.7 s in ${ROUNDS} rounds after one that does not count. Cells are medians of the rounds, ratios the medians of the ratios within each round, and CPU is
that of the whole process tree. Bodies and answers are checked, every byte of them.

Ray's figures are from larger machines, and what is on one core here would have several: its developers report for W1 3.6 ms at the median and 13.6 ms at
the 99th percentile, and 6 ms with 10 MB (ray-project/ray#47430), for W4 35,354 tokens/s (#47466), and for W2 by gRPC 513 requests/s (#55549).`
