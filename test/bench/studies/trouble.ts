/**
 * What goes wrong in production, in each system: twice the load that it can serve with a deadline of 100 ms, clients that hang up, a client that
 * does not read, and an item that makes its batch fail.
 *
 * Servers tell how much work they did by a file, to which they write a byte for each step of 10 ms; so work that nobody waits for can be seen.
 */
import { Console, Effect } from "effect"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { seeded } from "../../acceptance/load.ts"
import { openLoop } from "../harness/openLoop.ts"
import { Failed, processesOf, rssOf } from "../harness/processTree.ts"
import { ask, type Outcome, outcomeOf, serve } from "../harness/servers.ts"
import { atLeast, atMost, type Study, type Verdict } from "../harness/Study.ts"
import { megabytes, percent, quantile, table } from "../harness/table.ts"
import { answersOf, type Kind, ours, peers, type Question, type System } from "../peers/systems.ts"
import { eventOf } from "../peers/web.ts"
import { presentOf, versionsOf } from "./peers.ts"

/** Milliseconds of a step, and how many requests a server runs at once. */
const STEP = 10
const AT_ONCE = 4

const DEADLINE = 100
const SECONDS = 5

const file = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "s"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
).pipe(Effect.map((folder) => join(folder, "steps")))

const stepsIn = (path: string) => readFileSync(path, "utf8").match(/s/g)?.length ?? 0

const question = (steps: number): Question => ({ request: JSON.stringify({ steps }), answer: { done: steps } })

const core = { core: 0 }

/** When requests come that do not wait for each other: so many a second, at random. */
const moments = (perSecond: number, seconds: number, seed: number) => {
  const random = seeded(seed, "gap")
  const times: Array<number> = []
  for (let at = 0; at < 1000 * seconds; at -= (1000 * Math.log(1 - random())) / perSecond) times.push(at)
  return times
}

interface Overloaded {
  /** Useful answers, as a part of what the server could give. */
  readonly goodput: number
  readonly p99: number
  /** Steps done for answers that were not useful, as a part of all steps. */
  readonly wasted: number
  readonly statuses: Record<string, number>
}

const OVERLOAD_STEPS = 2

/** Twice the load that can be served, for requests of 20 ms that are of use for 100 ms. */
const overloaded = Effect.fnUntraced(function* (system: System) {
  const steps = yield* file
  const server = yield* serve(system, "work", question(1), {
    ...core,
    deadline: DEADLINE,
    environment: { STEPS_FILE: steps }
  })
  const capacity = (1000 * AT_ONCE) / (OVERLOAD_STEPS * STEP)
  const path = system.path("work")
  const body = question(OVERLOAD_STEPS).request
  const headers = { "x-request-timeout-ms": DEADLINE }
  const callsOf = (load: number, seconds: number) =>
    moments(load * capacity, seconds, 1).map((at) => ({ at, path, body, headers }))
  // It learns what its requests cost.
  yield* openLoop(server.port, callsOf(0.5, 1))
  yield* Effect.sleep("500 millis")
  const before = stepsIn(steps)
  const answers = yield* openLoop(server.port, callsOf(2, SECONDS))
  yield* Effect.sleep("1 second")
  const useful = answers.filter(({ latency, status }) => status === 200 && latency <= DEADLINE)
  const done = stepsIn(steps) - before
  return {
    goodput: useful.length / (capacity * SECONDS),
    p99: quantile(
      0.99,
      answers.filter(({ status }) => status === 200).map(({ latency }) => latency)
    ),
    wasted: done === 0 ? 0 : 1 - (useful.length * OVERLOAD_STEPS) / done,
    statuses: Object.fromEntries(
      Array.from(
        Map.groupBy(answers, ({ status }) => status),
        ([status, { length }]) => [status, length]
      )
    )
  } satisfies Overloaded
})

interface Abandoned {
  /** Those that stayed and got an answer, and the median and the worst of their times. */
  readonly answered: number
  readonly p50: number
  readonly p99: number
  readonly wasted: number
  /** Milliseconds that a request takes half a second after the last of them came; 200 where nothing is left of them. */
  readonly after: number
}

const ABANDON_STEPS = 20
const PATIENCE = 20

/** Requests of 200 ms, twice as many as can be served, of which 80 % hang up after 20 ms. */
const abandoned = Effect.fnUntraced(function* (system: System) {
  const steps = yield* file
  const server = yield* serve(system, "work", question(1), { ...core, environment: { STEPS_FILE: steps } })
  const path = system.path("work")
  const body = question(ABANDON_STEPS).request
  const capacity = (1000 * AT_ONCE) / (ABANDON_STEPS * STEP)
  const before = stepsIn(steps)
  const calls = moments(2 * capacity, SECONDS, 2).map((at, i) => ({
    at,
    path,
    body,
    ...(i % 5 === 0 ? {} : { patience: PATIENCE })
  }))
  const answers = yield* openLoop(server.port, calls)
  const staying = answers.filter(({ call }) => !("patience" in call))
  const right = staying.filter(({ status }) => status === 200)
  yield* Effect.sleep("500 millis")
  const since = performance.now()
  yield* ask(server.port, path, body).pipe(Effect.timeout("30 seconds"), Effect.ignore)
  const after = performance.now() - since
  const done = stepsIn(steps) - before - ABANDON_STEPS
  const times = right.map(({ latency }) => latency)
  return {
    answered: right.length / staying.length,
    p50: quantile(0.5, times),
    p99: quantile(0.99, times),
    wasted: Math.max(0, 1 - (right.length * ABANDON_STEPS) / done),
    after
  } satisfies Abandoned
})

const READ_FOR = 5000
const EVENTS = 2_000_000

/** A client asks for 70 MB of events and reads nothing: by how many bytes the server grows. */
const stopped = Effect.fnUntraced(function* (system: System) {
  const first = { request: JSON.stringify({ count: 1, delay: 0 }), answer: [eventOf(0)] }
  const server = yield* serve(system, "stream", first, core)
  const request = JSON.stringify({ count: EVENTS, delay: 0 })
  // What a stream needs that is read is not what is kept for a reader.
  yield* ask(server.port, system.path("stream"), JSON.stringify({ count: 300_000, delay: 0 })).pipe(
    Effect.timeout("4 seconds"),
    Effect.ignore
  )
  yield* Effect.sleep("1 second")
  const before = rssOf(processesOf(server.pid))
  const socket = yield* Effect.acquireRelease(
    Effect.sync(() => connect({ host: "127.0.0.1", port: server.port })),
    (socket) => Effect.sync(() => socket.destroy())
  )
  socket.on("error", () => {}).pause()
  socket.write(
    `POST ${system.path("stream")} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: ${request.length}\r\n\r\n${request}`
  )
  let grown = 0
  for (let waited = 0; waited < READ_FOR; waited += 250) {
    yield* Effect.sleep(250)
    grown = Math.max(grown, rssOf(processesOf(server.pid)) - before)
  }
  return grown
})

const BATCHES = 20
const MATES = 31

/** Batches of 32 with one item that makes the model fail: the share of the others that get their answer. */
const poisoned = Effect.fnUntraced(function* (system: System) {
  const itemOf = (x: number) => system.batch?.(x) ?? { request: { x }, answer: { y: 2 * x } }
  const questionOf = (x: number) => ({ request: JSON.stringify(itemOf(x).request), answer: itemOf(x).answer })
  const server = yield* serve(system, "batch", questionOf(1), core)
  const path = system.path("batch")
  const send = (x: number) =>
    Effect.map(ask(server.port, path, questionOf(x).request).pipe(Effect.timeout("10 seconds")), ({ body, status }) => {
      const answer = answersOf("batch", body)
      return status === 200 && JSON.stringify(answer) === JSON.stringify(questionOf(x).answer)
    }).pipe(Effect.orElseSucceed(() => false))
  const volley = Effect.fnUntraced(function* (poison: number) {
    const items = Array.from({ length: MATES + 1 }, (_, i) => (i === 16 ? poison : i + 1))
    const right = yield* Effect.forEach(items, send, { concurrency: "unbounded" })
    return right.filter((isRight, i) => isRight && i !== 16).length
  })
  // It learns how long its batches take.
  for (let i = 0; i < BATCHES; i++) yield* volley(17)
  let others = 0
  for (let i = 0; i < BATCHES; i++) others += yield* volley(-1)
  return others / (BATCHES * MATES)
})

interface Row {
  readonly system: System
  readonly overloaded: Outcome<Overloaded> | undefined
  readonly abandoned: Outcome<Abandoned> | undefined
  readonly stopped: Outcome<number> | undefined
  readonly poisoned: Outcome<number> | undefined
}

const measure = Effect.fnUntraced(function* (system: System) {
  yield* Console.log(`  ${system.name} ...`)
  const where = <A>(kind: Kind, trial: (system: System) => Parameters<typeof outcomeOf<A>>[0]) =>
    system.kinds.includes(kind) ? outcomeOf(trial(system)) : Effect.succeed(undefined)
  return {
    system,
    overloaded: yield* where("work", overloaded),
    abandoned: yield* where("work", abandoned),
    stopped: yield* where("stream", stopped),
    poisoned: yield* where("batch", poisoned)
  } satisfies Row
})

const cells = <A>(outcome: Outcome<A> | undefined, columns: number, shown: (value: A) => ReadonlyArray<string>) =>
  outcome === undefined
    ? ["not in it", ...Array.from({ length: columns - 1 }, () => "")]
    : outcome instanceof Failed
      ? [`failed: ${outcome.why}`, ...Array.from({ length: columns - 1 }, () => "")]
      : shown(outcome)

const millis = (value: number) => (Number.isNaN(value) ? "none" : value.toFixed(0))

const textOf = (
  rows: ReadonlyArray<Row>
) => `Each system serves the same work: a request is some steps, each a wait of ${STEP} ms without CPU, at most ${AT_ONCE} requests run at once and 100 wait.
Servers write a byte into a file after each step, so what they do for nobody can be seen. What a system offers for deadlines and limits is used:
[their programs](../../test/bench/peers).

## Twice the load

Requests of ${OVERLOAD_STEPS * STEP} ms come at random, twice as many as can be served, for ${SECONDS} s; an answer is useful within ${DEADLINE} ms of when its request was due. The server
knows of the deadline where it can be told. Not above 100 %: what could be served at best is ${(1000 * AT_ONCE) / (OVERLOAD_STEPS * STEP)} requests/s.

${table([
  [
    "system",
    "useful answers, of what could be served",
    "p99 of all 200s, ms",
    "work for nothing",
    "status: answers (0: none)"
  ],
  ...rows.map(({ overloaded, system }) => [
    system.name,
    ...cells(overloaded, 4, ({ goodput, p99, statuses, wasted }) => [
      percent(goodput),
      millis(p99),
      percent(wasted),
      Object.entries(statuses)
        .map(([status, count]) => `${status}: ${count}`)
        .join(", ")
    ])
  ])
])}

## Clients that hang up

Requests of ${ABANDON_STEPS * STEP} ms, twice as many as can be served, for ${SECONDS} s. Four of five clients hang up after ${PATIENCE} ms; the others wait. Half a second after the last
one, one more request is sent.

${table([
  ["system", "of those that waited, answered", "p50 ms", "p99 ms", "work for nothing", "the request after it, ms"],
  ...rows.map(({ abandoned, system }) => [
    system.name,
    ...cells(abandoned, 5, ({ after, answered, p50, p99, wasted }) => [
      percent(answered),
      millis(p50),
      millis(p99),
      percent(wasted),
      millis(after)
    ])
  ])
])}

## A client that does not read

It asks for a stream of ${EVENTS.toLocaleString("en")} events, some 70 MB, and reads nothing for ${READ_FOR / 1000} s.

${table([
  ["system", "the server grew by, MB"],
  ...rows.map(({ stopped, system }) => [system.name, ...cells(stopped, 1, (bytes) => [megabytes(bytes)])])
])}

## An item that makes its batch fail

${BATCHES} volleys of ${MATES + 1} requests, one of which makes the model fail for its whole batch, as an exception in a model does.

${table([
  ["system", "of the others, answered rightly"],
  ...rows.map(({ poisoned, system }) => [system.name, ...cells(poisoned, 1, (share) => [percent(share)])])
])}`

const verdictsOf = ({ abandoned, overloaded, poisoned, stopped }: Row): ReadonlyArray<Verdict> => [
  ...(overloaded === undefined || overloaded instanceof Failed
    ? []
    : [
        atLeast("twice the load, real time: useful answers, of what could be served", overloaded.goodput, 0.9, ""),
        atMost("twice the load, real time: p99", overloaded.p99, DEADLINE, "ms")
      ]),
  ...(abandoned === undefined || abandoned instanceof Failed
    ? []
    : [
        atLeast("clients that hang up: those that waited and were answered", abandoned.answered, 1, ""),
        atMost("clients that hang up: work for nothing", abandoned.wasted, 0.4, ""),
        atMost("clients that hang up: the request after them", abandoned.after, 1.25 * ABANDON_STEPS * STEP, "ms")
      ]),
  ...(typeof stopped === "number" ? [atMost("a client that does not read: growth", stopped / 2 ** 20, 16, "MB")] : []),
  ...(typeof poisoned === "number" ? [atLeast("an item that fails: the others answered", poisoned, 1, "")] : [])
]

export const trouble: Study = {
  name: "trouble",
  measure: Effect.gen(function* () {
    const systems = [ours, ...peers.filter(({ kinds }) => kinds.includes("work") || kinds.includes("stream"))]
    const versions = versionsOf([...new Set(systems.flatMap(({ packages }) => packages))])
    const here = yield* presentOf(systems, versions)
    const rows = yield* Effect.forEach(here, measure)
    return {
      title: "When things go wrong",
      versions,
      verdicts: verdictsOf(rows[0]!),
      data: rows.map(({ system: { name }, ...row }) => ({ name, ...row })),
      text: textOf(rows)
    }
  })
}
