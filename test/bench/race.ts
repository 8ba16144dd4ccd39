/**
 * Lets HTTP servers, each in a process of its own, take turns under the same load from another process.
 *
 * What counts is the ratio of the CPU times that two servers used for a request within a round: for a server that has a core to itself
 * and always something to do it is that of their throughputs, and other than that it hardly depends on what else the machine does.
 */
import { Effect } from "effect"
import { spawn, spawnSync } from "node:child_process"
import { availableParallelism } from "node:os"
import type { Count, Load } from "./generator.ts"
import { table } from "./overload.ts"
import { medianOf } from "./report.ts"

/** Milliseconds of a turn before it is measured, and while it is. */
const WARM_UP = 400
const TURN = 1200

/** A program that sends its port when it listens, and its CPU time in milliseconds whenever it is sent something. */
export interface Runner {
  readonly name: string
  readonly program: URL
  readonly args: ReadonlyArray<string>
}

/** A turn of a server. */
interface Turn extends Omit<Count, "units" | "millis"> {
  readonly name: string
  /** Units per second. */
  readonly rate: number
  /** Microseconds of CPU for each unit. */
  readonly cpu: number
}

const [taskset, ...onCores] = ["taskset", "-c", "0,1"] as const
/** Whether a process can be told its core. */
export const isPinned = availableParallelism() > 1 && spawnSync(taskset, [...onCores, "true"]).status === 0

/** Starts a program on a core, where it can be told so; it is ended with the scope. Dies when the program ends before an answer. */
export const start = Effect.fnUntraced(function* ({ args, name, program }: Runner, core: number) {
  const command = [process.execPath, "--conditions=effect-serve-source", program.pathname, ...args]
  const [file, ...rest] = isPinned ? [taskset, "-c", `${core}`, ...command] : command
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => spawn(file!, rest, { stdio: ["ignore", "ignore", "inherit", "ipc"] })),
    (child) => Effect.sync(() => child.removeAllListeners("exit").kill())
  )
  const ended = Effect.callback<never>((resume) => {
    const onExit = (code: number | null) => resume(Effect.die(new Error(`${name} ended with ${code}`)))
    if (child.exitCode !== null) return onExit(child.exitCode)
    child.once("exit", onExit)
    return Effect.sync(() => child.off("exit", onExit))
  })
  const answer = <A>(ask: () => void) =>
    Effect.raceFirst(
      Effect.callback<A>((resume) => {
        child.once("message", (message) => resume(Effect.succeed(message as A)))
        if (child.connected) ask()
      }),
      ended
    )
  return {
    ready: answer<number>(() => {}),
    ask: <A>(message: object | string) => answer<A>(() => child.send(message))
  }
})

/**
 * Measures the servers in so many rounds, after one that does not count. The server is on the first core, and the load on the second
 * one, where they can be told so.
 */
export const race = Effect.fnUntraced(function* (
  runners: ReadonlyArray<Runner>,
  rounds: number,
  load: Omit<Load, "port">
) {
  const program = new URL("./generator.ts", import.meta.url)
  const generator = yield* start({ name: "The load generator", program, args: [] }, 1)
  const servers = yield* Effect.forEach(
    runners,
    Effect.fnUntraced(function* (runner) {
      const { ask, ready } = yield* start(runner, 0)
      return { name: runner.name, port: yield* ready, cpu: ask<number>("cpu") }
    })
  )
  const turn = Effect.fnUntraced(function* ({ cpu, name, port }: (typeof servers)[number]) {
    const measure = Effect.all([cpu, generator.ask<Count>("count")], { concurrency: 2 })
    yield* generator.ask({ ...load, port })
    yield* Effect.sleep(WARM_UP)
    const [before] = yield* measure
    yield* Effect.sleep(TURN)
    const [after, { busy, millis, p50, p99, units }] = yield* measure
    yield* generator.ask("stop")
    return {
      name,
      rate: (1000 * units) / millis,
      cpu: ((after - before) * 1000) / units,
      busy,
      p50,
      p99
    } satisfies Turn
  })
  const turns: Array<ReadonlyArray<Turn>> = []
  for (let round = 0; round <= rounds; round++) {
    const isReversed = round % 2 === 0
    const measured = yield* Effect.forEach(isReversed ? servers.toReversed() : servers, turn)
    if (round > 0) turns.push(isReversed ? measured.toReversed() : measured)
  }
  return turns
}, Effect.scoped)

type Rounds = ReadonlyArray<ReadonlyArray<Turn>>
type Value = (turn: Turn) => number

const rate: Value = (turn) => turn.rate
const cpu: Value = (turn) => turn.cpu

/** What a server had in each round. */
const of = (rounds: Rounds, name: string, value: Value) =>
  rounds.map((round) => value(round.find((turn) => turn.name === name)!))

/** What one server had, as a part of what another one had in the same round. */
const ratios = (rounds: Rounds, one: string, other: string, value: Value) => {
  const others = of(rounds, other, value)
  return of(rounds, one, value).map((value, i) => value / others[i]!)
}

/** How much less CPU time one server used than another one in the median round. */
export const timesAsFast = (rounds: Rounds, one: string, other: string) => medianOf(ratios(rounds, other, one, cpu))

/** The median, and the lowest and the highest value. */
export const spread = (values: ReadonlyArray<number>, digits: number) => {
  const [median, low, high] = [medianOf(values), Math.min(...values), Math.max(...values)].map((n) => n.toFixed(digits))
  return `${median!} (${low!} to ${high!})`
}

/** A table of what was measured; its last columns are what the first server had, as a part of what each one had. */
export const tableOf = (rounds: Rounds, unit: string, latency: string) => {
  const names = rounds[0]!.map(({ name }) => name)
  const ours = names[0]!
  return table([
    [
      "server",
      `${unit}s/s`,
      `CPU per ${unit}, us`,
      `${latency}, p50 ms`,
      "p99 ms",
      `${unit}s/s of the first row / of this one`,
      "CPU of the first row / of this one"
    ],
    ...names.map((name) => [
      name,
      spread(of(rounds, name, rate), 0),
      spread(of(rounds, name, cpu), 1),
      ...([({ p50 }) => p50, ({ p99 }) => p99] satisfies Array<Value>).map((value) =>
        medianOf(of(rounds, name, value)).toFixed(1)
      ),
      spread(ratios(rounds, ours, name, rate), 2),
      spread(ratios(rounds, ours, name, cpu), 2)
    ])
  ])
}

/** The largest share of the time in which the load generator had something to do: near 1 it would be what is measured. */
export const busiest = (rounds: Rounds) => Math.max(...rounds.flat().map(({ busy }) => busy))

/** How the numbers came about, for a report. */
export const method = (rounds: number) =>
  `on ${availableParallelism()} cores with Node ${process.versions.node}. Each server is a process of its own${isPinned ? ", all on the first core" : ""}, and so is the
load${isPinned ? ", on the second one" : ""}, over keep-alive connections on loopback; it checks every byte of each answer. The servers took turns, ${TURN / 1000} s each, in
${rounds} rounds after one that does not count. A cell is the median of the rounds (lowest to highest), a ratio the median of the ratios
within each round. Other programs may have run at the same time, so compare rows, and not with other machines; the CPU time of a
server's process suffers least from them.`
