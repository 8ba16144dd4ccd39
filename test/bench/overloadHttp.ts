/**
 * Overload over real HTTP on loopback: a deployment behind `HttpIngress.layerNode` in a process of its own, and more clients than
 * it can serve.
 *
 * The same load as in virtual time, in real time: an open loop that sends each request when it is due, whatever became of the
 * ones before it, and takes its latency from when it was due and not from when it was sent. So a server that is slow to
 * accept cannot hide it (no coordinated omission). Work is a wait and takes no CPU. Writes `docs/overload/http.md`.
 */
import { Console, Effect, Fiber } from "effect"
import { spawn } from "node:child_process"
import { Agent, request } from "node:http"
import { createInterface } from "node:readline"
import {
  type Arrival,
  arrivals,
  called,
  canBeMet,
  capacityOf,
  DEADLINE,
  laws,
  type Trial,
  WARM_UP
} from "../acceptance/load.ts"
import { percent, table, write } from "./overload.ts"
import type { Study, Verdict } from "./report.ts"

const loads = [0.8, 1, 2, 4]
const plant = { law: laws.lognormal, interruptible: false, permits: 20, duration: 10_000 } as const

/** An answer, and when it came: milliseconds since its request was due. */
interface Answer {
  readonly arrival: Arrival
  readonly status: number
  /** Seconds in the header, and milliseconds in the body. */
  readonly retryAfter: number | undefined
  readonly retryAfterMillis: number | undefined
  readonly latency: number
}

const serve = Effect.acquireRelease(
  Effect.sync(() => {
    const options = JSON.stringify({ maxOngoingRequests: plant.permits, gracefulShutdownTimeout: 0 })
    const program = ["--conditions=effect-serve-source", new URL("./httpPlant.ts", import.meta.url).pathname, options]
    return spawn(process.execPath, program, { stdio: ["ignore", "pipe", "inherit"] })
  }),
  (server) => Effect.sync(() => server.kill())
).pipe(
  Effect.flatMap((server) =>
    Effect.callback<URL>((resume) => {
      createInterface(server.stdout).on("line", (line) => {
        const [, url] = /Listening on (\S+)/.exec(line) ?? []
        if (url !== undefined) resume(Effect.succeed(new URL("/plant/run", url)))
      })
      server.on("exit", (code) => resume(Effect.die(new Error(`The server ended with ${code}`))))
    })
  )
)

const agent = Effect.acquireRelease(
  Effect.sync(() => new Agent({ keepAlive: true, maxSockets: Infinity })),
  (agent) => Effect.sync(() => agent.destroy())
)

const send = (url: URL, agent: Agent, arrival: Arrival, due: number) =>
  Effect.callback<Answer>((resume) => {
    const answer = (status: number, retryAfter?: string, body = "") =>
      resume(
        Effect.sync(() => ({
          arrival,
          status,
          retryAfter: retryAfter === undefined ? undefined : Number(retryAfter),
          retryAfterMillis: status === 503 ? JSON.parse(body).reason.retryAfter : undefined,
          latency: performance.now() - due
        }))
      )
    const body = JSON.stringify({ serviceTime: arrival.serviceTime })
    const headers = {
      "content-type": "application/json",
      "content-length": body.length,
      "x-request-timeout-ms": arrival.options.timeout
    }
    const sent = request(url, { agent, method: "POST", headers }, (response) => {
      let body = ""
      response.setEncoding("utf8").on("data", (chunk) => (body += chunk))
      response.on("end", () => answer(response.statusCode!, response.headers["retry-after"], body))
    })
    sent.on("error", () => answer(0)).end(body)
  })

/** Sends all requests of a trial when they are due, and waits for the answers. */
const drive = Effect.fnUntraced(function* (url: URL, trial: Trial & { readonly duration: number }) {
  const connections = yield* agent
  const answers: Array<Fiber.Fiber<Answer>> = []
  const start = performance.now()
  for (const arrival of arrivals(trial, WARM_UP + trial.duration + DEADLINE)) {
    const due = start + arrival.at
    const wait = due - performance.now()
    if (wait > 0) yield* Effect.sleep(wait)
    answers.push(yield* Effect.forkChild(send(url, connections, arrival, due), { startImmediately: true }))
  }
  const all = yield* Effect.forEach(answers, Fiber.join)
  return all.filter(({ arrival: { at } }) => at >= WARM_UP && at < WARM_UP + trial.duration)
}, Effect.scoped)

const isGood = ({ latency, status }: Answer) => status === 200 && latency <= DEADLINE

const goodputOf = (trial: Trial & { readonly duration: number }, answers: ReadonlyArray<Answer>) =>
  answers.filter(isGood).length / ((capacityOf(trial) * trial.duration) / 1000)

export const overloadHttp: Study = {
  name: "overload-http",
  measure: Effect.gen(function* () {
    const url = yield* serve
    const rows: Array<ReadonlyArray<string>> = []
    const verdicts: Array<Verdict> = []
    for (const load of loads) {
      const trial = { ...plant, load }
      const answers = yield* drive(url, trial)
      rows.push(summary(load, goodputOf(trial, answers), answers))
      verdicts.push(...judged(load, goodputOf(trial, answers), answers))
      yield* Console.log(`  ${rows.at(-1)!.join(", ")}`)
    }
    yield* write("http.md", written(rows))
    return verdicts
  }).pipe(Effect.scoped)
}

const at = (p: number, numbers: ReadonlyArray<number>) =>
  numbers.toSorted((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor(p * numbers.length))] ?? Number.NaN

const latencies = (answers: ReadonlyArray<Answer>) => answers.filter(isGood).map(({ latency }) => latency)

const counts = (values: ReadonlyArray<number>, unit: string) =>
  Array.from(
    Map.groupBy(
      values.toSorted((a, b) => a - b),
      (value) => value
    )
  )
    .map(([value, { length }]) => `${value}${unit}: ${length}`)
    .join(", ") || "none"

const spread = (millis: ReadonlyArray<number>) =>
  millis.length === 0 ? "none" : [0.05, 0.5, 0.95].map((p) => `${at(p, millis)} ms`).join(" / ")

const summary = (load: number, goodput: number, answers: ReadonlyArray<Answer>) => {
  const refusals = answers.filter(({ status }) => status !== 200).map(({ latency }) => latency)
  return [
    `${load}x`,
    percent(goodput),
    ...[at(0.5, latencies(answers)), at(0.99, latencies(answers)), at(0.5, refusals)].map((time) =>
      Number.isNaN(time) ? "none" : `${time.toFixed(0)} ms`
    ),
    counts(
      answers.map(({ status }) => status),
      ""
    ),
    counts(
      answers.flatMap(({ retryAfter }) => retryAfter ?? []),
      " s"
    ),
    spread(answers.flatMap(({ retryAfterMillis }) => retryAfterMillis ?? []))
  ]
}

const written = (rows: ReadonlyArray<ReadonlyArray<string>>) => `# Overload, over real HTTP

Written by \`npm run bench -- overload-http\`: \`HttpIngress.layerNode\` in a process of its own, on loopback, ${plant.permits} permits,
service times of 100 ms in the mean (${called(plant)}; a wait, no CPU), \`x-request-timeout-ms: ${DEADLINE}\`, ${plant.duration / 1000} seconds
for each load. Requests arrive at random and do not wait for each other; times count from when a request was due, not from when it was
sent. Capacity is ${capacityOf({ ...plant, load: 1 }).toFixed(0)} useful answers per second.

${table([["load", "useful answers, of capacity", "p50 of these", "p99", "p50 of the other answers", "status: answers", "Retry-After: answers", "retryAfter in the body, p5 / p50 / p95"], ...rows])}
`

const judged = (load: number, goodput: number, answers: ReadonlyArray<Answer>): ReadonlyArray<Verdict> => {
  const offered = answers.filter(({ arrival }) => canBeMet(arrival.serviceTime)).length
  const good = answers.filter(isGood).length
  const [value, of, budget] =
    load < 1 ? [good / offered, "what is offered", 0.98] : [goodput, "capacity", load < 2 ? 0.92 : 0.95]
  const p99 = at(0.99, latencies(answers))
  return [
    { text: `${load}x: ${percent(value)} of ${of}, budget ${percent(budget)}`, holds: value >= budget },
    ...(load < 2
      ? []
      : [{ text: `${load}x: p99 ${p99.toFixed(0)} ms, budget ${0.7 * DEADLINE} ms`, holds: p99 <= 0.7 * DEADLINE }])
  ]
}
