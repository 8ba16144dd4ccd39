/**
 * Overload over real HTTP on loopback: a deployment behind `HttpIngress.layerNode` in a process of its own, and more clients than
 * it can serve.
 *
 * The same load as in virtual time, in real time. Work is a wait and takes no CPU.
 */
import { Console, Effect } from "effect"
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
} from "../../acceptance/load.ts"
import { type Answer, type Call, openLoop } from "../harness/openLoop.ts"
import { isPinned } from "../harness/machine.ts"
import { startNode } from "../harness/race.ts"
import { atLeast, atMost, type Study, type Verdict } from "../harness/Study.ts"
import { percent, quantile, table } from "../harness/table.ts"

const loads = [0.8, 1, 2, 4]
const plant = { law: laws.lognormal, interruptible: false, permits: 20, duration: 10_000 } as const

const program = new URL("../servers/httpPlant.ts", import.meta.url)
const options = JSON.stringify({ maxOngoingRequests: plant.permits, gracefulShutdownTimeout: 0 })

interface Request extends Call {
  readonly arrival: Arrival
}

type Answers = ReadonlyArray<Answer<Request>>

/** The requests of a trial. */
const requests = (trial: Trial & { readonly duration: number }): ReadonlyArray<Request> =>
  Array.from(arrivals(trial, WARM_UP + trial.duration + DEADLINE), (arrival) => ({
    arrival,
    at: arrival.at,
    path: "/plant/run",
    body: JSON.stringify({ serviceTime: arrival.serviceTime }),
    headers: { "x-request-timeout-ms": arrival.options.timeout }
  }))

/** Runs a trial, and gives the answers to what was due while it is measured. */
const drive = (port: number, trial: Trial & { readonly duration: number }) =>
  Effect.map(openLoop(port, requests(trial)), (answers) =>
    answers.filter(({ call: { at } }) => at >= WARM_UP && at < WARM_UP + trial.duration)
  )

/** What came of a load. */
interface Result {
  readonly load: number
  /** Useful answers, as a part of what is offered, and of capacity. */
  readonly ofOffered: number
  readonly ofCapacity: number
  /** Milliseconds until a useful answer. */
  readonly p50: number
  readonly p99: number
  /** Milliseconds until another answer, in the median. */
  readonly refusal: number
  /** How many answers there were of each status, and with each `Retry-After` in seconds. */
  readonly statuses: Readonly<Record<string, number>>
  readonly retryAfter: Readonly<Record<string, number>>
  /** Quantiles of `retryAfter` in the bodies, in milliseconds. */
  readonly retryAfterMillis: ReadonlyArray<number>
}

const isGood = ({ latency, status }: Answer<Request>) => status === 200 && latency <= DEADLINE

const resultOf = (trial: Trial & { readonly load: number; readonly duration: number }, answers: Answers): Result => {
  const good = answers.filter(isGood).map(({ latency }) => latency)
  const offered = answers.filter(({ call }) => canBeMet(call.arrival.serviceTime)).length
  const others = answers.filter(({ status }) => status !== 200).map(({ latency }) => latency)
  const waits = answers.flatMap(({ body, status }) => (status === 503 ? [retryAfterIn(body)] : []))
  return {
    load: trial.load,
    ofOffered: good.length / offered,
    ofCapacity: good.length / ((capacityOf(trial) * trial.duration) / 1000),
    p50: quantile(0.5, good),
    p99: quantile(0.99, good),
    refusal: quantile(0.5, others),
    statuses: counted(answers.map(({ status }) => status)),
    retryAfter: counted(answers.flatMap(({ retryAfter }) => (retryAfter === undefined ? [] : [Number(retryAfter)]))),
    retryAfterMillis: waits.length === 0 ? [] : [0.05, 0.5, 0.95].map((share) => quantile(share, waits))
  }
}

const retryAfterIn = (body: string): number => JSON.parse(body).reason.retryAfter

const counted = (values: ReadonlyArray<number>) =>
  Object.fromEntries(
    Array.from(
      Map.groupBy(values, (value) => value),
      ([value, { length }]) => [value, length]
    )
  )

export const overloadHttp: Study = {
  name: "overload-http",
  measure: Effect.gen(function* () {
    const { port } = yield* startNode("The server", program, [options], 0)
    const results: Array<Result> = []
    for (const load of loads) {
      const trial = { ...plant, load }
      const result = resultOf(trial, yield* drive(port, trial))
      yield* Console.log(`  ${cells(result).join(", ")}`)
      results.push(result)
    }
    return {
      title: "Overload, over real HTTP",
      text: written(results),
      verdicts: results.flatMap(verdicts),
      data: results
    }
  }).pipe(Effect.scoped)
}

const shown = (counts: Readonly<Record<string, number>>, unit: string) =>
  Object.entries(counts)
    .map(([value, count]) => `${value}${unit}: ${count}`)
    .join(", ") || "none"

const cells = ({ load, ofCapacity, p50, p99, refusal, retryAfter, retryAfterMillis, statuses }: Result) => [
  `${load}x`,
  percent(ofCapacity),
  ...[p50, p99, refusal].map((time) => (Number.isNaN(time) ? "none" : `${time.toFixed(0)} ms`)),
  shown(statuses, ""),
  shown(retryAfter, " s"),
  retryAfterMillis.map((millis) => `${millis} ms`).join(" / ") || "none"
]

const head = [
  "load",
  "useful answers, of capacity",
  "p50 of these",
  "p99",
  "p50 of the other answers",
  "status: answers",
  "Retry-After: answers",
  "retryAfter in the body, p5 / p50 / p95"
]

const written = (
  results: ReadonlyArray<Result>
) => `\`HttpIngress.layerNode\` in [a process of its own](../../test/bench/servers/httpPlant.ts)${isPinned ? ", on the first core" : ""}, on loopback, ${plant.permits} permits,
service times of 100 ms in the mean (${called(plant)}; a wait, no CPU), \`x-request-timeout-ms: ${DEADLINE}\`, ${plant.duration / 1000} seconds
for each load. Requests arrive at random and do not wait for each other; times count from when a request was due, not from when it was
sent, so a server that is slow to accept can't hide it. Capacity is ${capacityOf({ ...plant, load: 1 }).toFixed(0)} useful answers per second.

${table([head, ...results.map(cells)])}
`

const verdicts = ({ load, ofCapacity, ofOffered, p99 }: Result): ReadonlyArray<Verdict> => {
  const name = `${load}x: useful answers`
  if (load < 1) return [atLeast(name, ofOffered, 0.98, "of what is offered")]
  if (load < 2) return [atLeast(name, ofCapacity, 0.92, "of capacity")]
  return [
    atLeast(name, ofCapacity, 0.95, "of capacity"),
    atMost(`${load}x: 99th percentile of the times to a useful answer`, p99, 0.7 * DEADLINE, "ms")
  ]
}
