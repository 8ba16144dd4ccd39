/**
 * Batching over HTTP on loopback, against what one writes by hand: Fastify and DataLoader before the same model.
 *
 * Two loads. Full: each client sends its next request when it has its answer, and the model is the bound. Light: an open loop at 30 % of
 * that bound. Last, in this process, what a batcher costs whose `run` does nothing.
 */
import { Batching } from "effect-serve"
import { Effect, Record } from "effect"
import { Agent, request } from "node:http"
import { meanOf, seeded } from "../../acceptance/load.ts"
import { isPinned } from "../harness/machine.ts"
import { openLoop } from "../harness/openLoop.ts"
import { startNode } from "../harness/race.ts"
import { atLeast, atMost, promised, type Study, type Verdict } from "../harness/Study.ts"
import { medianOf, percent, quantile, spread, table } from "../harness/table.ts"
import { durationOf, MAX_BATCH_SIZE, type Usage } from "../peers/device.ts"

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

const byHand = new URL("../peers/dataloader.ts", import.meta.url)
const ours = new URL("../servers/batchingServer.ts", import.meta.url)

const kinds = [
  { name: "Fastify + DataLoader, 10 ms", program: byHand, options: ["timer", "10"] },
  { name: "Fastify + DataLoader, when the model is free", program: byHand, options: ["slot", "1"] },
  { name: "effect-serve, 10 ms", program: ours, options: ["10 millis"] },
  { name: "effect-serve, adaptive", program: ours, options: ["adaptive"] }
] as const

const [peer, , fixed, adaptive] = kinds

interface Server {
  readonly name: string
  readonly port: number
  /** What it has done and used so far. */
  readonly usage: Effect.Effect<Usage, unknown>
}

const serve = Effect.fnUntraced(function* ({ name, options, program }: (typeof kinds)[number]) {
  const { ask, port } = yield* startNode(name, program, options, 0)
  return { name, port, usage: ask<Usage>("usage") } satisfies Server
})

const path = "/model/double"
const bodyOf = (x: number) => JSON.stringify({ x })

/** Dies when an answer is not what a request for `x` has to get. */
const check = (name: string, x: number, { body, status }: { readonly status: number; readonly body: string }) =>
  status === 200 && JSON.parse(body).y === 2 * x
    ? Effect.void
    : Effect.die(new Error(`${name}, asked for ${x}: ${status} ${body}`))

const connections = Effect.acquireRelease(
  Effect.sync(() => new Agent({ keepAlive: true })),
  (agent) => Effect.sync(() => agent.destroy())
)

/** Sends a request, and checks its answer. */
const send = (agent: Agent, { name, port }: Server, x: number) =>
  Effect.callback<void>((resume) => {
    const body = bodyOf(x)
    const headers = { "content-type": "application/json", "content-length": body.length }
    const sent = request({ host: "127.0.0.1", port, path, agent, method: "POST", headers }, (response) => {
      let body = ""
      response.setEncoding("utf8").on("data", (chunk) => (body += chunk))
      response.on("end", () => resume(check(name, x, { status: response.statusCode!, body })))
    })
    sent.on("error", ({ message }) => resume(check(name, x, { status: 0, body: message }))).end(body)
  })

/** One round of a server under full load. Times are in milliseconds. */
interface Full {
  readonly server: string
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
    server: server.name,
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
  readonly server: string
  readonly mean: number
  readonly p99: number
  readonly batchSize: number
}

/** The requests of the light load. */
function* calls(seed: number) {
  const random = seeded(seed, "gap")
  let at = 0
  for (let x = 0; at < WARM_UP + LIGHT; x++) {
    yield { at, x, path, body: bodyOf(x) }
    at -= (1000 * Math.log(1 - random())) / (LIGHT_LOAD * BOUND)
  }
}

const light = Effect.fnUntraced(function* ({ name, port, usage }: Server, seed: number) {
  const before = yield* usage
  const answers = yield* openLoop(port, calls(seed))
  const { batches, items } = difference(yield* usage, before)
  for (const answer of answers) yield* check(name, answer.call.x, answer)
  const latencies = answers.filter(({ call }) => call.at >= WARM_UP).map(({ latency }) => latency)
  return {
    server: name,
    mean: meanOf(latencies),
    p99: quantile(0.99, latencies),
    batchSize: items / batches
  } satisfies Light
})

/** Lets the servers take turns, in the opposite order in every second round. */
const inTurn = <A, E>(servers: ReadonlyArray<Server>, load: (server: Server, round: number) => Effect.Effect<A, E>) =>
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
  const rounds: Array<Overhead> = []
  for (let i = -2; i < OVERHEAD_ROUNDS; i++) {
    const whole = yield* perItem(batched)
    const plain = yield* perItem((item) => Effect.as(Effect.yieldNow, item))
    if (i >= 0) rounds.push({ whole, added: whole - plain })
  }
  return rounds
}).pipe(Effect.scoped)

export const batching: Study = {
  name: "batching",
  measure: Effect.gen(function* () {
    const servers = yield* Effect.forEach(kinds, serve)
    // One more round comes first, in which the servers get compiled.
    yield* Effect.forEach(servers, full)
    const fulls = yield* inTurn(servers, full)
    const lights = yield* inTurn(servers, light)
    const costs = yield* overhead
    const cost = {
      whole: medianOf(costs.map(({ whole }) => whole)),
      added: medianOf(costs.map(({ added }) => added))
    }
    return {
      title: "Batching over HTTP",
      text: written(fulls, lights, cost),
      verdicts: verdicts(fulls, lights, cost),
      data: { full: fulls, light: lights, inProcess: costs }
    }
  }).pipe(Effect.scoped)
}

interface Round {
  readonly server: string
}

type Kind = (typeof kinds)[number]

/** What a server had in each round. */
const of = <A extends Round>(rounds: ReadonlyArray<A>, { name }: Kind, value: (round: A) => number) =>
  rounds.filter(({ server }) => server === name).map(value)

/** What a server had, as a part of what the first one had in the same round: the median. */
const ofPeer = <A extends Round>(rounds: ReadonlyArray<A>, kind: Kind, value: (round: A) => number) => {
  const peers = of(rounds, peer, value)
  return medianOf(of(rounds, kind, value).map((value, i) => value / peers[i]!))
}

const rate = (round: Full) => round.rate
const mean = (round: Light) => round.mean

const verdicts = (
  fulls: ReadonlyArray<Full>,
  lights: ReadonlyArray<Light>,
  { whole }: Overhead
): ReadonlyArray<Verdict> => [
  ...[fixed, adaptive].flatMap((kind) => {
    const ofBound = kind === adaptive ? promised.atLeast : atLeast
    return [
      ofBound(`${kind.name}, full load, requests/s of the bound`, medianOf(of(fulls, kind, rate)) / BOUND, 0.9),
      atLeast(`${kind.name}, full load, requests/s of the peer's`, ofPeer(fulls, kind, rate), 1)
    ]
  }),
  atMost(`${adaptive.name}, light load, mean latency of the peer's`, ofPeer(lights, adaptive, mean), 1),
  atMost("what a batcher costs whose run does nothing, per item", whole, OVERHEAD, "ns")
]

const written = (fulls: ReadonlyArray<Full>, lights: ReadonlyArray<Light>, { added, whole }: Overhead) => {
  const late = medianOf(fulls.map((round) => round.late))
  const size = (round: Full | Light) => round.batchSize
  return `Each server is a process of its own, ${isPinned ? "all on the first core" : "on any core"}; the clients are the process of the benchmark, over
keep-alive connections on loopback, and they check each answer. The servers took turns in ${ROUNDS} rounds after one that does not count,
${FULL / 1000} s of full and ${LIGHT / 1000} s of light load; a cell is the median of the rounds (lowest to highest), a ratio the median of the ratios
within each round. Other programs may have run at the same time, so compare rows, and not with other machines.

The [model](../../test/bench/peers/device.ts) takes 5 ms and 0.2 ms for each item, at most ${MAX_BATCH_SIZE} items, one batch at a time, and no CPU: at most
${BOUND.toFixed(0)} requests/s. In this run it woke ${late.toFixed(2)} ms late in the median, which leaves ${boundWith(late).toFixed(0)}.

[effect-serve](../../test/bench/servers/batchingServer.ts) is a deployment with \`Batching\` behind an ingress, once with a fixed wait and once with an adaptive one. The
[peer](../../test/bench/peers/dataloader.ts) is Fastify with JSON schemas, and DataLoader with a lock around the model and a bound on what waits. It
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
