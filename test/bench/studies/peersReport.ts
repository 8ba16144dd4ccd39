/**
 * The report of the study `peers`.
 */
import { bars } from "../harness/chart.ts"
import { isPinned } from "../harness/machine.ts"
import { Failed } from "../harness/processTree.ts"
import { busiest, cpu, latency, of, rate, ratios, type Rounds, type Value } from "../harness/race.ts"
import type { Footprint, Outcome } from "../harness/servers.ts"
import { atLeast, type Report, type Verdict } from "../harness/Study.ts"
import { medianOf, megabytes, percent, quantile, spread, table } from "../harness/table.ts"
import { durationOf, MAX_BATCH_SIZE } from "../peers/device.ts"
import { type Kind, ours, type System } from "../peers/systems.ts"
import { type Workload, workloads } from "./peersWork.ts"

/** Requests per second when every batch is full and the model never waits. */
const BOUND = (1000 * MAX_BATCH_SIZE) / durationOf(MAX_BATCH_SIZE)

/** All that was measured with a peer: the rounds of each workload, by its title. */
export interface Result {
  readonly system: System
  readonly footprint: Outcome<Footprint> | undefined
  readonly rounds: Record<string, Outcome<Rounds>>
}

/** What effect-serve had, as a part of what the peer had in the same round. */
const ofPeer = (rounds: Rounds, { name }: System, value: Value) => ratios(rounds, ours.name, name, value)

/** The medians of the peer and of effect-serve. */
const beside = (rounds: Rounds, { name }: System, value: Value, digits: number) =>
  [name, ours.name].map((name) => medianOf(of(rounds, name, value)).toFixed(digits)).join(" / ")

/** A table of a workload, a row for each peer that has it. */
const section = ({ kind, title, unit }: Workload, results: ReadonlyArray<Result>) => {
  const isBatch = kind === "batch"
  const head = [
    "peer",
    `${unit}s/s, peer / effect-serve`,
    "effect-serve : peer",
    `CPU per ${unit}, us, peer / effect-serve`,
    "peer : effect-serve",
    `${unit === "event" ? "first event, " : ""}p50 ms, peer / effect-serve`,
    "p99 ms, peer / effect-serve",
    ...(isBatch ? ["of the bound, peer / effect-serve"] : [])
  ]
  const rows = results.flatMap(({ rounds: { [title]: rounds }, system }) => {
    if (rounds === undefined) return []
    if (rounds instanceof Failed) return [[system.name, `failed: ${rounds.why}`, ...head.slice(2).map(() => "")]]
    const inverse = ofPeer(rounds, system, cpu).map((ratio) => 1 / ratio)
    return [
      [
        system.name,
        beside(rounds, system, rate, 0),
        spread(ofPeer(rounds, system, rate), 2),
        beside(rounds, system, cpu, unit === "event" ? 1 : 0),
        spread(inverse, 2),
        beside(rounds, system, latency("p50"), 2),
        beside(rounds, system, latency("p99"), 2),
        ...(isBatch
          ? [[system.name, ours.name].map((name) => percent(medianOf(of(rounds, name, rate)) / BOUND)).join(" / ")]
          : [])
      ]
    ]
  })
  return `## ${title}\n\n${rows.length === 0 ? "No peer that has it was measured." : table([head, ...rows])}\n`
}

/** The most memory that a server had at the end of a turn. */
const peakOf = (name: string, results: ReadonlyArray<Result>) =>
  Math.max(
    0,
    ...results
      .flatMap(({ rounds }) => Object.values(rounds))
      .flatMap((rounds) => (rounds instanceof Failed ? [] : rounds.flat()))
      .filter((turn) => turn.name === name)
      .map(({ rss }) => rss)
  )

const footprints = (own: Footprint, results: ReadonlyArray<Result>) => {
  const head = [
    "server",
    "first answer after, s",
    "processes",
    "idle, MB",
    "idle, shared pages once, MB",
    "peak, MB",
    "CPU while idle, % of a core"
  ]
  const rows = [
    { name: ours.name, footprint: own },
    ...results.flatMap(({ footprint, system: { name } }) => (footprint === undefined ? [] : [{ name, footprint }]))
  ]
  return table([
    head,
    ...rows.map(({ footprint, name }) =>
      footprint instanceof Failed
        ? [name, `failed: ${footprint.why}`, ...head.slice(2).map(() => "")]
        : [
            name,
            (footprint.startUp / 1000).toFixed(1),
            `${footprint.processes}`,
            megabytes(footprint.rss),
            megabytes(footprint.pss),
            megabytes(peakOf(name, results)),
            (100 * footprint.cpu).toFixed(1)
          ]
    )
  ])
}

/** How a peer was started, with names for what differs each time. */
const commandOf = (system: System, kind: Kind) => {
  const environment = Object.entries(system.environment?.(kind, "FOLDER") ?? {}).map(
    ([name, value]) => `${name}=${value}`
  )
  const parts = system
    .command(kind, 0, "FOLDER", 60_000)
    .map((part) => (part === "0" ? "PORT" : part.replace(/^.*\//, "")))
  return [...environment, system.language, ...parts].join(" ")
}

const charted: ReadonlyArray<readonly [file: string, title: string, kinds: ReadonlyArray<Kind>]> = [
  ["peers-echo.svg", "Echoes: how many times the requests per second of a peer", ["echo", "chain"]],
  ["peers-work.svg", "Work: how many times the answers per second of a peer", ["batch", "cpu", "stream"]]
]

const chart = (title: string, kinds: ReadonlyArray<Kind>, results: ReadonlyArray<Result>) =>
  bars(
    title,
    "effect-serve : peer, on the same cores; right of the line effect-serve gave more. Logarithmic.",
    workloads
      .filter(({ kind }) => kinds.includes(kind))
      .map((workload) => ({
        title: workload.title,
        bars: results.flatMap(({ rounds: { [workload.title]: rounds }, system }) =>
          rounds === undefined || rounds instanceof Failed
            ? []
            : [{ name: system.name, value: medianOf(ofPeer(rounds, system, rate)) }]
        )
      }))
      .filter(({ bars }) => bars.length > 0),
    (ratio) => `${ratio >= 10 ? ratio.toFixed(0) : ratio.toFixed(2)}x`
  )

/** What effect-serve is to reach of a peer's throughput: where the model or the hash is the bound, all may reach it. */
const budgetOf = ({ kind }: Workload, { name }: System) =>
  kind === "batch" || kind === "cpu" ? 0.95 : name === "node:http" ? 0.7 : 1

const verdictsOf = (results: ReadonlyArray<Result>): ReadonlyArray<Verdict> =>
  workloads.flatMap((workload) =>
    results.flatMap(({ rounds: { [workload.title]: rounds }, system }) =>
      rounds === undefined || rounds instanceof Failed
        ? []
        : [
            atLeast(
              `${workload.title}: ${workload.unit}s/s, of those of ${system.name}`,
              medianOf(ofPeer(rounds, system, rate)),
              budgetOf(workload, system)
            )
          ]
    )
  )

export const reportOf = (results: ReadonlyArray<Result>, own: Footprint, versions: Record<string, string>): Report => {
  const measured = results.flatMap(({ rounds }) => Object.values(rounds))
  const busy = quantile(
    1,
    measured.map((rounds) => (rounds instanceof Failed ? 0 : busiest(rounds)))
  )
  const failures = results.flatMap(({ footprint, rounds, system: { name } }) =>
    [["start", footprint] as const, ...Object.entries(rounds)].flatMap(([what, outcome]) =>
      outcome instanceof Failed ? [`- ${name}, ${what}: ${outcome.why}`] : []
    )
  )
  const notes = results.flatMap(({ system: { name, notes } }) => (notes === undefined ? [] : [`- ${name}: ${notes}.`]))
  const commands = results.flatMap(({ rounds, system }) =>
    Object.keys(rounds).length === 0 ? [] : [`# ${system.name}\n${commandOf(system, "echo")}`]
  )
  return {
    title: "Beside the peers",
    versions,
    data: results.map(({ footprint, rounds, system }) => ({ name: system.name, footprint, rounds })),
    verdicts: verdictsOf(results),
    charts: Object.fromEntries(charted.map(([file, title, kinds]) => [file, chart(title, kinds, results)])),
    text: `Each server has one worker, and for hashes two. All processes of a server are ${isPinned ? "on the first core, and the load, a process of its own, is on the second one" : "on any core, and the load is a process of its own"};
for hashes all have both cores. The load is a closed loop over keep-alive connections on loopback: each sends its next request when it has its answer. A
smoke test compares the JSON of each answer with what it has to be, and sends a wrong body, which has to be refused with 4xx; then the load
generator compares every byte of each answer with those. It had something to do for at most ${percent(busy)} of the time.

One peer at a time was started, and took turns with effect-serve in 5 rounds of each workload, half a second each (1.2 s for Ray Serve by
its defaults, which gives few answers) after 0.3 s that do not count, and after a second of load before all rounds (4 s for the batches of
BentoML, which learns from them). "a / b" are the medians of the peer and of effect-serve beside it; a ratio is the median of the ratios within each
round (lowest to highest), and above 1 effect-serve was faster or needed less. CPU is that of the whole process tree, counted in
ticks of 10 ms. Other programs may have run at the same time, so compare within a row, and not with other machines.

## Read this before the numbers

- One core and one worker each. Ray Serve and LitServe are built of several processes to use several cores, and here these share one;
  Ray's own figures are of machines with 8 cores and more. What this shows is what a request costs, not how far a cluster goes.
- Ray Serve has a router, a controller and replicas in processes of their own, and effect-serve has its routing, its queues and its
  deadlines in the process of the handler. node:http, Fastify and FastAPI have none of these.
- An echo has no model in it. Beside a model that takes 50 ms for a request most of these differences are small; those of batches are not.
- While effect-serve had its turn the peer was idle on the same core; what it used for that is in the last column of the last table.
- What was set the same: one worker, 128 requests at a time and 1000 waiting (where there are such limits), 60 s for a request, no access
  logs, no tracing, strict types in the JSON.
- effect-serve runs from its TypeScript, which is part of its start and of its memory. It decodes and encodes by its schema, counts its
  metrics, and in the echoes runs without its process gate, which would refuse requests because of what other programs do to the core.
- FastAPI, LitServe and BentoML check by pydantic. mosec checks no JSON, so msgspec does it, as in mosec's own typed messages. Ray Serve gets
  the plain request, and pydantic by hand, which is less work than its FastAPI ingress.
- Ray Serve has its dashboard and its access logs off and its metrics on, and where the user has a token of Ray, its parts ask each other for
  it. With the throughput flags HAProxy is in front. BentoML's metrics are off, because they can be; mosec and LitServe are as they come.
${notes.join("\n")}

${workloads.map((workload) => section(workload, results)).join("\n")}
The model of the batches takes 5 ms and 0.2 ms for each item, without CPU, at most ${MAX_BATCH_SIZE} items and one batch at a time: at most ${BOUND.toFixed(0)} requests/s. It fails
when it is given two batches at once. It sleeps [in a thread](../../test/bench/peers/python/device.py) for Ray Serve, BentoML and FastAPI, in the worker itself for LitServe and
mosec, and [in a thread](../../test/bench/peers/device.ts) for the programs of Node. A batch waits at most 10 ms for its items in Ray Serve, LitServe and mosec; in BentoML and
in effect-serve (\`"adaptive"\`) as long as they think best; and by hand until the model is free. A hash is PBKDF2-HMAC-SHA256 with 20,000
iterations, in the OpenSSL of Node or of Python.

## What they need

${footprints(own, results)}

Of the echo, for the whole process tree, after half a second without requests; the peak is that of all kinds of work, each in a server of its own. Memory is the sum of the resident sets, in which a page that
processes share counts for each of them, and once with such pages divided among them.

## What failed

${failures.length === 0 ? "Nothing." : failures.join("\n")}

## The commands

In [test/bench/peers](../../test/bench/peers), with the other kinds of work for \`echo\`; all processes of a server with \`taskset -c 0\`, except for hashes:

\`\`\`sh
${commands.join("\n")}
\`\`\``
  }
}
