/**
 * Batching over HTTP on loopback, against what one writes by hand: Fastify and DataLoader before the same model, each server in a
 * process of its own on the same core.
 *
 * Two loads, under which the servers take turns. Full: 128 clients, each of which sends its next request when it has its answer;
 * the model is the bound, 32 items in 11.4 ms. Light: an open loop at 30 % of that bound, which sends each request when it is due,
 * whatever became of the ones before it, and takes its latency from when it was due. Last, in this process, what a batcher
 * costs whose `run` does nothing. Writes `docs/benchmarks/batching.md`.
 */
import { Batching } from "effect-serve"
import { Console, Effect, Fiber, Record } from "effect"
import { spawn, spawnSync } from "node:child_process"
import { mkdirSync, writeFileSync } from "node:fs"
import { Agent, request } from "node:http"
import { availableParallelism } from "node:os"
import { meanOf, seeded } from "../acceptance/load.ts"
import { percent, table } from "./overload.ts"
import { durationOf, MAX_BATCH_SIZE, type Usage } from "./peers/device.ts"
import { atLeast, medianOf, ratio, type Study, type Verdict } from "./report.ts"

const CLIENTS = 128
const ROUNDS = 5
/** Milliseconds of each load before it is measured, and while it is. */
const WARM_UP = 500
const FULL = 3000
const LIGHT = 2500
const LIGHT_LOAD = 0.3

/** Items of each of the callers that measure the overhead, and how often they do. */
const CALLS = 2000
const OVERHEAD_ROUNDS = 9
/** Nanoseconds that a batcher may add to each item. */
const OVERHEAD = 3000

/** Requests per second when every batch is full and the model never waits, but wakes some milliseconds late. */
const boundWith = (late: number) => (1000 * MAX_BATCH_SIZE) / (durationOf(MAX_BATCH_SIZE) + late)

const BOUND = boundWith(0)

const byHand = new URL("./peers/dataloader.ts", import.meta.url)
const ours = new URL("./batchingServer.ts", import.meta.url)

const kinds = [
  { name: "Fastify + DataLoader, 10 ms", program: byHand, options: ["timer", "10"] },
  { name: "Fastify + DataLoader, when the model is free", program: byHand, options: ["slot", "1"] },
  { name: "effect-serve, 10 ms", program: ours, options: ["10 millis"] },
  { name: "effect-serve, adaptive", program: ours, options: ["adaptive"] }
] as const

const [peer, , fixed, adaptive] = kinds

interface Server {
  readonly kind: (typeof kinds)[number]
  readonly url: URL
  /** What it has done and used so far. */
  readonly usage: Effect.Effect<Usage>
}

const [taskset, ...onFirstCore] = ["taskset", "-c", "0"] as const
const isPinned = availableParallelism() > 1 && spawnSync(taskset, [...onFirstCore, "true"]).status === 0

const serve = Effect.fnUntraced(function* (kind: Server["kind"]) {
  const command = [process.execPath, "--conditions=effect-serve-source", kind.program.pathname, ...kind.options]
  const [file, ...args] = isPinned ? [taskset, ...onFirstCore, ...command] : command
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => spawn(file!, args, { stdio: ["ignore", "ignore", "inherit", "ipc"] })),
    (child) => Effect.sync(() => child.removeAllListeners("exit").kill())
  )
  child.once("exit", (code) => child.emit("error", new Error(`${kind.name} ended with ${code}`)))
  const message = <A>(ask: () => void) =>
    Effect.callback<A>((resume) => {
      child.once("message", (message) => resume(Effect.succeed(message as A)))
      ask()
    })
  const url = yield* message<string>(() => {})
  const usage = message<Usage>(() => child.send("usage"))
  return { kind, url: new URL("/model/double", url), usage } satisfies Server
})

const connections = Effect.acquireRelease(
  Effect.sync(() => new Agent({ keepAlive: true })),
  (agent) => Effect.sync(() => agent.destroy())
)

/** Sends a request, and checks its answer. */
const send = (agent: Agent, { kind, url }: Server, x: number) =>
  Effect.callback<void>((resume) => {
    const fail = (why: string) => resume(Effect.die(new Error(`${kind.name}, asked for ${x}: ${why}`)))
    const body = JSON.stringify({ x })
    const headers = { "content-type": "application/json", "content-length": body.length }
    const sent = request(url, { agent, method: "POST", headers }, (response) => {
      let body = ""
      response.setEncoding("utf8").on("data", (chunk) => (body += chunk))
      response.on("end", () => {
        if (response.statusCode === 200 && JSON.parse(body).y === 2 * x) resume(Effect.void)
        else fail(`${response.statusCode} ${body}`)
      })
    })
    sent.on("error", ({ message }) => fail(message)).end(body)
  })

/** One round of a server under full load. Times are in milliseconds. */
interface Full {
  readonly kind: Server["kind"]
  /** Requests per second. */
  readonly rate: number
  /** By how much the model woke too late. */
  readonly late: number
  /** Time between two batches in which the model had nothing to do. */
  readonly idle: number
  readonly batchSize: number
  /** CPU for each request. */
  readonly cpu: number
}

const full = Effect.fnUntraced(function* (server: Server) {
  const agent = yield* connections
  let isOver = false
  let sent = 0
  let answers = 0
  const client = Effect.gen(function* () {
    for (;;) {
      yield* send(agent, server, sent++)
      answers++
      if (isOver) return
    }
  })
  const clients = Effect.all(
    Array.from({ length: CLIENTS }, () => client),
    { concurrency: "unbounded" }
  )
  const usage = Effect.map(server.usage, (usage) => ({ ...usage, answers, at: performance.now() }))
  const measure = Effect.gen(function* () {
    yield* Effect.sleep(WARM_UP)
    const before = yield* usage
    yield* Effect.sleep(FULL)
    const after = yield* usage
    isOver = true
    return difference(after, before)
  })
  const [spent] = yield* Effect.all([measure, clients], { concurrency: 2 })
  const { answers: requests, at: millis, batches, busy, cpu, items } = spent
  return {
    kind: server.kind,
    rate: (1000 * requests) / millis,
    late: busy / batches - durationOf(items / batches),
    idle: (millis - busy) / batches,
    batchSize: items / batches,
    cpu: cpu / requests
  } satisfies Full
}, Effect.scoped)

const difference = <K extends string>(after: Record<K, number>, before: Record<K, number>) =>
  Record.map(after, (value, key) => value - before[key])

/** One round of a server under light load. Latencies are in milliseconds. */
interface Light {
  readonly kind: Server["kind"]
  readonly mean: number
  readonly p99: number
  readonly batchSize: number
}

const light = Effect.fnUntraced(function* (server: Server, seed: number) {
  const agent = yield* connections
  const random = seeded(seed, "gap")
  const answers: Array<Fiber.Fiber<number>> = []
  const before = yield* server.usage
  const start = performance.now()
  for (let at = 0; at < WARM_UP + LIGHT; at -= (1000 * Math.log(1 - random())) / (LIGHT_LOAD * BOUND)) {
    const due = start + at
    const wait = due - performance.now()
    if (wait > 0) yield* Effect.sleep(wait)
    const latency = Effect.map(send(agent, server, answers.length), () => performance.now() - due)
    answers.push(yield* Effect.forkChild(latency, { startImmediately: true }))
  }
  const all = yield* Effect.forEach(answers, Fiber.join)
  const { batches, items } = difference(yield* server.usage, before)
  const measured = all.slice((all.length * WARM_UP) / (WARM_UP + LIGHT)).toSorted((a, b) => a - b)
  return {
    kind: server.kind,
    mean: meanOf(measured),
    p99: measured[Math.floor(0.99 * measured.length)]!,
    batchSize: items / batches
  } satisfies Light
}, Effect.scoped)

/** Lets the servers take turns, in the opposite order in every second round. */
const inTurn = <A>(servers: ReadonlyArray<Server>, load: (server: Server, round: number) => Effect.Effect<A>) =>
  Effect.map(
    Effect.forEach(Array.from({ length: ROUNDS }).keys(), (round) =>
      Effect.forEach(round % 2 === 0 ? servers : servers.toReversed(), (server) => load(server, round))
    ),
    (rounds) => rounds.flat()
  )

/** Nanoseconds for each item: in all, and without what a fiber costs that yields and returns. */
interface Overhead {
  readonly whole: number
  readonly added: number
}

/** What a batcher costs whose run does nothing, with as many callers as a batch has places. */
const overhead = Effect.gen(function* () {
  const batched = yield* Batching.make({
    maxBatchSize: MAX_BATCH_SIZE,
    run: (items: ReadonlyArray<number>) => Effect.succeed(items)
  })
  const perItem = Effect.fnUntraced(function* (call: (item: number) => Effect.Effect<number, unknown>) {
    const caller = Effect.gen(function* () {
      for (let i = 0; i < CALLS; i++) yield* call(i)
    })
    const start = performance.now()
    yield* Effect.all(
      Array.from({ length: MAX_BATCH_SIZE }, () => caller),
      { concurrency: "unbounded", discard: true }
    )
    return ((performance.now() - start) * 1e6) / CALLS / MAX_BATCH_SIZE
  })
  const rounds: Array<{ readonly whole: number; readonly added: number }> = []
  for (let i = -2; i < OVERHEAD_ROUNDS; i++) {
    const whole = yield* perItem(batched)
    const plain = yield* perItem((item) => Effect.as(Effect.yieldNow, item))
    if (i >= 0) rounds.push({ whole, added: whole - plain })
  }
  return {
    whole: medianOf(rounds.map(({ whole }) => whole)),
    added: medianOf(rounds.map(({ added }) => added))
  }
}).pipe(Effect.scoped)

export const batching: Study = {
  name: "batching",
  measure: Effect.gen(function* () {
    const servers = yield* Effect.forEach(kinds, serve)
    // One more round comes first, in which the servers get compiled.
    yield* Effect.forEach(servers, full)
    const fulls = yield* inTurn(servers, full)
    const lights = yield* inTurn(servers, light)
    const cost = yield* overhead
    const text = written(fulls, lights, cost)
    yield* Console.log(text)
    mkdirSync("docs/benchmarks", { recursive: true })
    writeFileSync("docs/benchmarks/batching.md", text)
    return verdicts(fulls, lights, cost)
  }).pipe(Effect.scoped)
}

interface Round {
  readonly kind: Server["kind"]
}

/** What a server had in each round. */
const of = <A extends Round>(rounds: ReadonlyArray<A>, kind: Server["kind"], value: (round: A) => number) =>
  rounds.filter((round) => round.kind === kind).map(value)

/** What a server had, as a part of what the first one had in the same round: the median. */
const ofPeer = <A extends Round>(rounds: ReadonlyArray<A>, kind: Server["kind"], value: (round: A) => number) => {
  const peers = of(rounds, peer, value)
  return medianOf(of(rounds, kind, value).map((value, i) => value / peers[i]!))
}

const rate = (round: Full) => round.rate
const mean = (round: Light) => round.mean

const verdicts = (fulls: ReadonlyArray<Full>, lights: ReadonlyArray<Light>, { whole }: Overhead) => [
  ...[fixed, adaptive].flatMap((kind): ReadonlyArray<Verdict> => [
    atLeast(`${kind.name}, full load, requests/s of the bound`, medianOf(of(fulls, kind, rate)) / BOUND, 0.9),
    atLeast(`${kind.name}, full load, requests/s of the peer's`, ofPeer(fulls, kind, rate), 1)
  ]),
  ratio(`${adaptive.name}, light load, mean latency of the peer's`, ofPeer(lights, adaptive, mean), 1),
  { text: `overhead: ${whole.toFixed(0)} ns per item, budget ${OVERHEAD} ns`, holds: whole <= OVERHEAD }
]

/** The median, and the lowest and the highest value. */
const spread = (values: ReadonlyArray<number>, digits: number) => {
  const [median, low, high] = [medianOf(values), Math.min(...values), Math.max(...values)].map((n) => n.toFixed(digits))
  return `${median!} (${low!} to ${high!})`
}

const written = (fulls: ReadonlyArray<Full>, lights: ReadonlyArray<Light>, { added, whole }: Overhead) => {
  const late = medianOf(fulls.map((round) => round.late))
  const size = (round: Full | Light) => round.batchSize
  return `# Batching over HTTP

Written by \`npm run bench -- batching\` on ${availableParallelism()} cores with Node ${process.versions.node}. Each server is a process of its own, ${isPinned ? "all on the first core" : "on any core"}; the
clients are the process of the benchmark, over keep-alive connections on loopback, and they check each answer. The servers took
turns in ${ROUNDS} rounds after one that does not count, ${FULL / 1000} s of full and ${LIGHT / 1000} s of light load; a cell is the median of the rounds (lowest to
highest), a ratio the median of the ratios within each round. Other programs may have run at the same time, so compare rows, and
not with other machines.

The [model](../../test/bench/peers/device.ts) takes 5 ms and 0.2 ms for each item, at most ${MAX_BATCH_SIZE} items, one batch at a time, and no CPU: at most
${BOUND.toFixed(0)} requests/s. In this run it woke ${late.toFixed(2)} ms late in the median, which leaves ${boundWith(late).toFixed(0)}.

The [peer](../../test/bench/peers/dataloader.ts) is Fastify with JSON schemas, and DataLoader with a lock around the model and a bound on what waits. It
seals a batch 10 ms after its first item came, which fills its batches; 2 to 5 ms did not, and 8 to 20 ms could not be told apart. Its second form, with
a lock inside \`batchScheduleFn\`, does not seal a batch before the model is free either.

## Full load: ${CLIENTS} clients, each of which waits for its answer

${table([
  [
    "server",
    "requests/s",
    "of the bound",
    "of the bound in this run",
    "of the first row",
    "items in a batch",
    "model idle between batches, ms",
    "CPU per request, us"
  ],
  ...kinds.map((kind) => [
    kind.name,
    spread(of(fulls, kind, rate), 0),
    percent(medianOf(of(fulls, kind, rate)) / BOUND),
    percent(medianOf(of(fulls, kind, (round) => round.rate / boundWith(round.late)))),
    ofPeer(fulls, kind, rate).toFixed(2),
    medianOf(of(fulls, kind, size)).toFixed(1),
    spread(
      of(fulls, kind, ({ idle }) => idle),
      2
    ),
    spread(
      of(fulls, kind, ({ cpu }) => 1000 * cpu),
      0
    )
  ])
])}

## Light load: ${percent(LIGHT_LOAD)} of the bound, at random

Requests do not wait for each other, and times count from when a request was due, not from when it was sent.

${table([
  ["server", "mean latency, ms", "99th percentile, ms", "mean, of the first row", "items in a batch"],
  ...kinds.map((kind) => [
    kind.name,
    spread(of(lights, kind, mean), 1),
    spread(
      of(lights, kind, ({ p99 }) => p99),
      1
    ),
    ofPeer(lights, kind, mean).toFixed(2),
    medianOf(of(lights, kind, size)).toFixed(1)
  ])
])}

## In process: ${MAX_BATCH_SIZE} callers, and a \`run\` that does nothing

${(whole / 1000).toFixed(2)} us per item in all, and ${(added / 1000).toFixed(2)} us more than a fiber that yields and returns.
`
}
