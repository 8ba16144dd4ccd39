/**
 * Lets HTTP servers, each in processes of its own, take turns under the same load from another process.
 *
 * What counts is the ratio of what two servers needed within a round. For a server that has a core to itself and always something to do the
 * ratio of CPU times is that of the throughputs, and it hardly depends on what else the machine does.
 */
import { Effect } from "effect"
import { fileURLToPath } from "node:url"
import type { Count, Load } from "./generator.ts"
import { isPinned } from "./machine.ts"
import { cpuBetween, Failed, launch, processesOf, rssOf } from "./processTree.ts"
import { medianOf, megabytes, quantile, spread, table } from "./table.ts"

/** Milliseconds of a turn: before it is measured, while it is, and after it, for what is still on its way. */
export interface Times {
  readonly warmUp: number
  readonly turn: number
  readonly pause: number
}

export const times: Times = { warmUp: 400, turn: 1200, pause: 50 }

/** A server that takes part. */
export interface Side {
  readonly name: string
  /** The root of its processes. */
  readonly pid: number
  readonly load: Load
  readonly times: Times
}

/** A turn of a server. */
interface Turn extends Omit<Count, "units" | "millis"> {
  readonly name: string
  /** Units per second. */
  readonly rate: number
  /** Microseconds of CPU for each unit, of all its processes. */
  readonly cpu: number
  /** Bytes of memory of all its processes at the end of the turn. */
  readonly rss: number
}

export type Rounds = ReadonlyArray<ReadonlyArray<Turn>>

/** Starts a program for Node, on a core or on any; it sends where it listens, and answers messages. */
export const startNode = Effect.fnUntraced(function* (
  name: string,
  program: URL,
  args: ReadonlyArray<string>,
  core: number | undefined,
  environment: Record<string, string> = {}
) {
  const command = [process.execPath, "--conditions=effect-serve-source", fileURLToPath(program), ...args]
  const on = core === undefined ? {} : { core }
  const { ask, pid, ready } = yield* launch({ name, command, environment, hasMessages: true, ...on })
  const address = yield* ready
  return { name, pid, ask, port: typeof address === "number" ? address : Number(new URL(address).port) }
})

const generatorProgram = fileURLToPath(new URL("./generator.ts", import.meta.url))

const startGenerator = Effect.map(
  launch({ name: "The load generator", command: [process.execPath, generatorProgram], core: 1, hasMessages: true }),
  ({ ask }) => ask
)

type Generator = Effect.Success<typeof startGenerator>

const turnOf = Effect.fnUntraced(function* (generator: Generator, { load, name, pid, times }: Side) {
  const usage = Effect.sync(() => processesOf(pid))
  const measure = Effect.all([usage, generator<Count>("count")], { concurrency: 2 })
  yield* generator(load)
  yield* Effect.sleep(times.warmUp)
  const [before] = yield* measure
  yield* Effect.sleep(times.turn)
  const [after, { millis, units, ...count }] = yield* measure
  yield* generator("stop")
  yield* Effect.sleep(times.pause)
  if (units === 0) return yield* new Failed({ why: `no answer in ${times.turn / 1000} s` })
  const cpu = (1000 * cpuBetween(before, after)) / units
  return { name, rate: (1000 * units) / millis, cpu, rss: rssOf(after), ...count } satisfies Turn
})

/**
 * Measures the servers in so many rounds, after one that does not count and has the times that each server is given for it. The load is on
 * the second core, where it can be told so.
 */
export const race = Effect.fnUntraced(function* (
  sides: ReadonlyArray<Side>,
  rounds: number,
  firstTurn: (side: Side) => number = ({ times }) => times.turn
) {
  const generator = yield* startGenerator
  for (const side of sides) yield* turnOf(generator, { ...side, times: { ...side.times, turn: firstTurn(side) } })
  const turns: Array<ReadonlyArray<Turn>> = []
  for (let round = 0; round < rounds; round++) {
    const isReversed = round % 2 === 0
    const measured = yield* Effect.forEach(isReversed ? sides.toReversed() : sides, (side) => turnOf(generator, side))
    turns.push(isReversed ? measured.toReversed() : measured)
  }
  return turns
}, Effect.scoped)

export type Value = (turn: Turn) => number

export const rate: Value = (turn) => turn.rate
export const cpu: Value = (turn) => turn.cpu
export const latency =
  (share: keyof Count["latency"]): Value =>
  (turn) =>
    turn.latency[share]

/** What a server had in each round. */
export const of = (rounds: Rounds, name: string, value: Value) =>
  rounds.map((round) => value(round.find((turn) => turn.name === name)!))

/** What one server had, as a part of what another one had in the same round. */
export const ratios = (rounds: Rounds, one: string, other: string, value: Value) => {
  const others = of(rounds, other, value)
  return of(rounds, one, value).map((value, i) => value / others[i]!)
}

/** How much less CPU time one server used than another one in the median round. */
export const timesAsFast = (rounds: Rounds, one: string, other: string) => medianOf(ratios(rounds, other, one, cpu))

/** A table of what was measured; its last columns are what the first server had, as a part of what each one had. */
export const tableOf = (rounds: Rounds, unit: string, firstAnswer: string) => {
  const names = rounds[0]!.map(({ name }) => name)
  const ours = names[0]!
  return table([
    [
      "server",
      `${unit}s/s`,
      `CPU per ${unit}, us`,
      `${firstAnswer}, p50 ms`,
      "p99 ms",
      "peak memory, MB",
      `${unit}s/s of the first row / of this one`,
      "CPU of the first row / of this one"
    ],
    ...names.map((name) => [
      name,
      spread(of(rounds, name, rate), 0),
      spread(of(rounds, name, cpu), 1),
      medianOf(of(rounds, name, latency("p50"))).toFixed(1),
      medianOf(of(rounds, name, latency("p99"))).toFixed(1),
      megabytes(Math.max(...of(rounds, name, ({ rss }) => rss))),
      spread(ratios(rounds, ours, name, rate), 2),
      spread(ratios(rounds, ours, name, cpu), 2)
    ])
  ])
}

/** The largest share of the time in which the load generator had something to do: near 1 it would be what is measured. */
export const busiest = (rounds: Rounds) =>
  quantile(
    1,
    rounds.flat().map(({ busy }) => busy)
  )

/** How the numbers came about, for a report. */
export const method = (
  rounds: number
) => `Each server is a process of its own${isPinned ? ", all on the first core" : ""}, and so is the load${isPinned ? ", on the second one" : ""}, over keep-alive
connections on loopback; it checks every byte of each answer. The servers took turns, ${times.turn / 1000} s each, in ${rounds} rounds after one that does not
count. A cell is the median of the rounds (lowest to highest), a ratio the median of the ratios within each round. CPU is that of all
threads and processes of a server. Other programs may have run at the same time, so compare rows, and not with other machines; the CPU time
suffers least from them.`
