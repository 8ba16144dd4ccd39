/**
 * The report of the benchmark `peers`.
 */
import { availableParallelism, cpus, release, totalmem } from "node:os"
import { percent, table } from "./overload.ts"
import { durationOf, MAX_BATCH_SIZE } from "./peers/device.ts"
import {
  FIRST_LOAD,
  type Footprint,
  ourTimes,
  type Outcome,
  ROUNDS,
  type Rounds,
  slowTimes,
  type Turn,
  usualTimes
} from "./peersRace.ts"
import { batches, echoes, type Kind, type Peer } from "./peersWork.ts"
import { Failed } from "./processTree.ts"
import { isPinned, spread } from "./race.ts"
import { medianOf } from "./report.ts"

/** Requests per second when every batch is full and the model never waits. */
const BOUND = (1000 * MAX_BATCH_SIZE) / durationOf(MAX_BATCH_SIZE)

/** All that was measured with a peer. */
export interface Result {
  readonly peer: Peer
  readonly footprint: Outcome<Footprint>
  readonly echoes: ReadonlyArray<Outcome<Rounds>>
  readonly batches: Outcome<Rounds> | undefined
}

type Value = (turn: Turn) => number

export const rate: Value = (turn) => turn.rate
const cpu: Value = (turn) => turn.cpu
const p50: Value = (turn) => turn.p50
const p99: Value = (turn) => turn.p99

/** What effect-serve had, as a part of what the peer had in the same round. */
export const ratios = ({ ours, theirs }: Rounds, value: Value) => ours.map((turn, i) => value(turn) / value(theirs[i]!))

const middle = (turns: ReadonlyArray<Turn>, value: Value, digits: number) => medianOf(turns.map(value)).toFixed(digits)

const beside = (rounds: Rounds, value: Value, digits: number) =>
  [rounds.theirs, rounds.ours].map((turns) => middle(turns, value, digits)).join(" / ")

/** A table of a workload, a row for each peer. */
const section = (title: string, rows: ReadonlyArray<readonly [string, Outcome<Rounds>]>, isBatch: boolean) => {
  const head = [
    "peer",
    "requests/s, peer / effect-serve",
    "effect-serve : peer",
    "CPU per request, us, peer / effect-serve",
    "peer : effect-serve",
    "p50 ms, peer / effect-serve",
    "p99 ms, peer / effect-serve",
    ...(isBatch ? ["of the bound, peer / effect-serve"] : [])
  ]
  const cells = rows.map(([name, rounds]) =>
    rounds instanceof Failed
      ? [name, `failed: ${rounds.why.replaceAll("|", "\\|")}`, ...head.slice(2).map(() => "")]
      : [
          name,
          beside(rounds, rate, 0),
          spread(ratios(rounds, rate), isBatch ? 2 : 1),
          beside(rounds, cpu, 0),
          spread(
            ratios(rounds, cpu).map((ratio) => 1 / ratio),
            1
          ),
          beside(rounds, p50, 2),
          beside(rounds, p99, 2),
          ...(isBatch
            ? [[rounds.theirs, rounds.ours].map((turns) => percent(medianOf(turns.map(rate)) / BOUND)).join(" / ")]
            : [])
        ]
  )
  return `## ${title}\n\n${table([head, ...cells])}\n`
}

const megabytes = (bytes: number) => (bytes / 1024 / 1024).toFixed(0)

const footprints = (rows: ReadonlyArray<readonly [string, Outcome<Footprint>]>) => {
  const head = [
    "server",
    "first answer after, s",
    "processes",
    "idle, MB",
    "idle, shared pages once, MB",
    "peak, MB",
    "CPU while idle, % of a core"
  ]
  return table([
    head,
    ...rows.map(([name, footprint]) =>
      footprint instanceof Failed
        ? [name, `failed: ${footprint.why.replaceAll("|", "\\|")}`, ...head.slice(2).map(() => "")]
        : [
            name,
            (footprint.startUp / 1000).toFixed(1),
            `${footprint.processes}`,
            megabytes(footprint.idleRss),
            megabytes(footprint.idlePss),
            megabytes(footprint.peakRss),
            (100 * footprint.idleCpu).toFixed(1)
          ]
    )
  ])
}

/** How a peer was started, with names for what differs each time. */
const commandOf = (peer: Peer, kind: Kind) => {
  const environment = Object.entries(peer.environment?.(kind, "FOLDER") ?? {}).map(
    ([name, value]) => `${name}=${value}`
  )
  const command = peer.command(kind, 0, "FOLDER").map((part) => (part === "0" ? "PORT" : part))
  return [...environment, "python", ...command].join(" ")
}

export const written = (results: ReadonlyArray<Result>, ours: Footprint, versions: Record<string, string>) => {
  const busiest = Math.max(
    ...results
      .flatMap(({ batches, echoes }) => [...echoes, batches])
      .flatMap((rounds) => (rounds === undefined || rounds instanceof Failed ? [] : [...rounds.ours, ...rounds.theirs]))
      .map(({ busy }) => busy)
  )
  const failures = results.flatMap(({ batches, echoes: rounds, footprint, peer }) =>
    [
      ["start", footprint] as const,
      ...rounds.map((round, i) => [echoes[i]!.title, round] as const),
      ["Batches", batches] as const
    ].flatMap(([what, outcome]) => (outcome instanceof Failed ? [`- ${peer.name}, ${what}: ${outcome.why}`] : []))
  )
  return `# Beside the serving systems of Python

Written by \`npm run bench -- peers\` on ${availableParallelism()} cores (${cpus()[0]!.model}, ${(totalmem() / 2 ** 30).toFixed(0)} GB, Linux ${release()}) with Node ${process.versions.node} and
Python ${versions["Python"]}; \`npm run bench:peers\` installs [what is compared](../../test/bench/peers/python/requirements.txt):
${Object.entries(versions)
  .filter(([name]) => name !== "Python")
  .map(([name, version]) => `${name} ${version}`)
  .join(", ")}.

Each server has one worker. All processes of a server are ${isPinned ? "on the first core" : "on any core"}, and the load is a process of its own${isPinned ? " on the second one" : ""}, over
keep-alive connections on loopback, each of which sends its next request when it has its answer. A smoke test compares the JSON of each
answer with what it has to be, and sends a wrong body, which has to be refused with 4xx; then the load generator compares every byte of
each answer with those. It had something to do for at most ${percent(busiest)} of the time.

One peer at a time was started, and took turns with effect-serve in ${ROUNDS} rounds of each workload: ${usualTimes.turn / 1000} s for a peer (${slowTimes.turn / 1000} s for Ray
Serve by its defaults, which gives few answers) and ${ourTimes.turn / 1000} s for effect-serve, after ${FIRST_LOAD / 1000} s of load that does not count (4 s for the
batches of BentoML). "a / b" are the medians of the peer and of effect-serve beside it; a ratio is the median of the ratios within each
round (lowest to highest), and above 1 effect-serve was faster or needed less. CPU is that of the whole process tree, counted in ticks of
10 ms. Other programs may have run at the same time, so compare within a row, and not with other machines.

## Read this before the numbers

- One core and one worker each. Ray Serve and LitServe are built of several processes to use several cores, and here these share one;
  Ray's own figures are of machines with 8 cores and more. What this shows is what a request costs, not how far a cluster goes.
- Ray Serve has a router, a controller and replicas in processes of their own, and effect-serve has its routing, its queues and its
  deadlines in the process of the handler. FastAPI has none of these.
- An echo has no model in it. Beside a model that takes 50 ms for a request most of these differences are small; those of batches are not.
- Not measured here: overload, 10 kB at one connection, several workers, more than one machine.
- While effect-serve had its turn the peer was idle on the same core; what it used for that is in the last column of the last table, and it
  makes effect-serve a little slower in its rows.
- What was set the same: one worker, 128 requests at a time and 1000 waiting (where there are such limits), 60 s for a request, no access
  logs, no tracing, strict types in the JSON.
- effect-serve runs from its TypeScript, which is part of its start and of its memory. It decodes and encodes by its schema, counts its
  metrics, and in the echoes runs without its process gate, which would refuse requests because of what other programs do to the core.
- FastAPI, LitServe and BentoML check by pydantic. mosec checks no JSON, so msgspec does it, as in mosec's own typed messages. Ray Serve gets
  the plain request, and pydantic by hand, which is less work than its FastAPI ingress.
- Ray Serve has its dashboard off and its metrics on, and where the user has a token of Ray, its parts ask each other for it. With the
  throughput flags HAProxy is in front. BentoML's metrics are off, because they can be; mosec and LitServe are as they come.

${echoes
  .map(({ title }, i) =>
    section(
      title,
      rowsOf(results, (result) => result.echoes[i]),
      false
    )
  )
  .join("\n")}
${section(
  batches.title,
  rowsOf(results, (result) => result.batches),
  true
)}
The model takes 5 ms and 0.2 ms for each item, without CPU, at most ${MAX_BATCH_SIZE} items and one batch at a time: at most ${BOUND.toFixed(0)} requests/s. It fails
when it is given two batches at once. It sleeps [in a thread](../../test/bench/peers/python/device.py) for Ray Serve and BentoML, in the worker itself for LitServe and
mosec, and [in a thread](../../test/bench/peers/device.ts) for effect-serve. A batch waits at most 10 ms for its items in Ray Serve, LitServe and mosec; in BentoML and in
effect-serve (\`"adaptive"\`) as long as they think best. FastAPI has no batches.

## What they need

${footprints([["effect-serve", ours], ...results.map(({ footprint, peer }) => [peer.name, footprint] as const)])}

Of the echo, for the whole process tree. Memory is the sum of the resident sets, in which a page that processes share counts for each of them,
and once with such pages divided among them. The peak is the highest sum at the end of a turn. For effect-serve it is that of all the races together.

## What failed

${failures.length === 0 ? "Nothing." : failures.join("\n")}

## The commands

In [test/bench/peers/python](../../test/bench/peers/python), with \`batch\` for \`echo\` for the batches:

\`\`\`sh
${results.map(({ peer }) => `# ${peer.name}\n${commandOf(peer, "echo")}`).join("\n")}
\`\`\`
`
}

const rowsOf = (results: ReadonlyArray<Result>, value: (result: Result) => Outcome<Rounds> | undefined) =>
  results.flatMap((result) => {
    const rounds = value(result)
    return rounds === undefined ? [] : [[result.peer.name, rounds] as const]
  })
