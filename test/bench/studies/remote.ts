/**
 * What one hop to another process costs: by `toLayerRemote` and an ingress, by effect/rpc over a WebSocket, and by undici and Fastify, each
 * with the same handlers, a client and a server that are processes of their own.
 *
 * A workload has all its rounds before the next one begins: with other workloads in between, effect/rpc needed 1.8 times as long for the
 * vectors.
 */
import { Console, Effect } from "effect"
import { isPinned } from "../harness/machine.ts"
import { startNode } from "../harness/race.ts"
import { atMost, type Study } from "../harness/Study.ts"
import { medianOf, spread, table } from "../harness/table.ts"
import { type Done, type Turn, Work, type Workload, workloads } from "../servers/remoteWork.ts"

const ROUNDS = 7
/** Milliseconds of a turn in which calls are begun: in the first round, which does not count, and in the others. */
const WARM_UP = 600
const TURN = 300

interface Way {
  readonly name: string
  readonly server: URL
  readonly client: URL
  /** What both are told. */
  readonly args: ReadonlyArray<string>
}

const effectServer = new URL("../servers/remoteServer.ts", import.meta.url)
const effectClient = new URL("../servers/remoteClient.ts", import.meta.url)

const ours: Way = { name: "effect-serve", server: effectServer, client: effectClient, args: ["effect-serve"] }

const peers: ReadonlyArray<Way> = [
  { name: "effect/rpc", server: effectServer, client: effectClient, args: ["effect/rpc"] },
  {
    name: "Fastify + undici",
    server: new URL("../peers/remoteFastify.ts", import.meta.url),
    client: new URL("../peers/remoteUndici.ts", import.meta.url),
    args: []
  }
]

const ways = "toLayerRemote" in Work ? [ours, ...peers] : peers

/** What a way needed for a unit of a workload in one turn, in microseconds. */
interface Cost {
  readonly name: string
  readonly time: number
  /** CPU time of both processes. */
  readonly cpu: number
}

/** Starts both processes of a way, the server on the first core and the client on the second one, where they can be told so. */
const connect = Effect.fnUntraced(function* ({ args, client, name, server }: Way) {
  const serving = yield* startNode(`The server of ${name}`, server, args, 0)
  const calling = yield* startNode(`The client of ${name}`, client, [...args, `${serving.port}`], 1)
  const cpu = serving.ask<number>("cpu")
  return Effect.fnUntraced(function* (turn: Turn) {
    const before = yield* cpu
    const { cpu: ofClient, millis, units } = yield* calling.ask<Done>(turn)
    const ofServer = (yield* cpu) - before
    return { name, time: (1000 * millis) / units, cpu: (1000 * (ofClient + ofServer)) / units } satisfies Cost
  })
})

/** The costs of the ways in each round of a workload. */
type Rounds = ReadonlyArray<ReadonlyArray<Cost>>

const measure = Effect.fnUntraced(function* (
  workload: Workload,
  turns: ReadonlyArray<Effect.Success<ReturnType<typeof connect>>>
) {
  const rounds: Array<ReadonlyArray<Cost>> = []
  for (let round = 0; round <= ROUNDS; round++) {
    const turn = { workload: workloads.indexOf(workload), millis: round === 0 ? WARM_UP : TURN }
    const costs = yield* Effect.forEach(round % 2 === 0 ? turns.toReversed() : turns, (take) => take(turn))
    if (round > 0) rounds.push(costs)
  }
  const text = section(workload, rounds)
  yield* Console.log(text)
  return { workload, rounds, text }
})

/** What a way had in each round. */
const of = (rounds: Rounds, { name }: Way, value: (cost: Cost) => number) =>
  rounds.map((round) => value(round.find((cost) => cost.name === name)!))

/** What one way had, as a part of what another one had in the same round. */
const ratios = (rounds: Rounds, one: Way, other: Way, value: (cost: Cost) => number) => {
  const others = of(rounds, other, value)
  return of(rounds, one, value).map((value, i) => value / others[i]!)
}

const time = (cost: Cost) => cost.time
const cpu = (cost: Cost) => cost.cpu

const section = ({ scale, title, unit }: Workload, rounds: Rounds) => {
  const shown = (way: Way, value: (cost: Cost) => number) =>
    spread(
      of(rounds, way, (cost) => value(cost) / (scale === "ms" ? 1000 : 1)),
      unit === "call" ? 1 : 2
    )
  return `## ${title}

${table([
  [
    "client and server",
    `time per ${unit}, ${scale}`,
    `${unit}s/s`,
    `CPU per ${unit}, ${scale}`,
    "time of the first row / of this one",
    "CPU of the first row / of this one"
  ],
  ...ways.map((way) => [
    way.name,
    shown(way, time),
    medianOf(of(rounds, way, ({ time }) => 1e6 / time)).toFixed(0),
    shown(way, cpu),
    spread(ratios(rounds, ways[0]!, way, time), 2),
    spread(ratios(rounds, ways[0]!, way, cpu), 2)
  ])
])}
`
}

const verdicts = ({ title }: Workload, rounds: Rounds) =>
  peers.flatMap((peer) => [
    atMost(`${title}: time, of that of ${peer.name}`, medianOf(ratios(rounds, ours, peer, time)), 1),
    atMost(`${title}: CPU time, of that of ${peer.name}`, medianOf(ratios(rounds, ours, peer, cpu)), 1)
  ])

/** Microseconds for a unit, in each round. */
const dataOf = ({ title, unit }: Workload, rounds: Rounds) => ({
  workload: title,
  unit,
  ways: ways.map((way) => ({ name: way.name, time: of(rounds, way, time), cpu: of(rounds, way, cpu) }))
})

export const remote: Study = {
  name: "remote",
  measure: Effect.gen(function* () {
    const turns = yield* Effect.forEach(ways, connect)
    const measured = yield* Effect.forEach(workloads, (workload) => measure(workload, turns))
    return {
      title: "A hop to another process",
      text: written(measured.map(({ text }) => text)),
      verdicts: ways.includes(ours) ? measured.flatMap(({ rounds, workload }) => verdicts(workload, rounds)) : [],
      data: measured.map(({ rounds, workload }) => dataOf(workload, rounds))
    }
  }).pipe(Effect.scoped)
}

const written = (sections: ReadonlyArray<string>) => `Each client and each server is a process of its own, on
loopback${isPinned ? ", all servers on the first core and all clients on the second one" : ""}. The ways took turns, ${TURN / 1000} s each, in ${ROUNDS} rounds of each
workload after one that does not count, and each answer and each item was compared with what it had to be. A cell is the median of the
rounds (lowest to highest), a ratio the median of the ratios within each round; CPU is that of both processes together. Other programs
may have run at the same time, so compare rows, and not with other machines.

effect-serve is [an ingress](../../test/bench/servers/remoteServer.ts) and [a remote deployment](../../test/bench/servers/remoteClient.ts). effect/rpc, in the same two files, has [the same methods and handlers](../../test/bench/servers/remoteWork.ts)
over one WebSocket, with \`SchemaBinary\`, and without tracing and logs. The third way is [Fastify](../../test/bench/peers/remoteFastify.ts) with JSON schemas of requests and
responses, and [undici](../../test/bench/peers/remoteUndici.ts) with a connection for each caller, one request at a time on it, and a decoder of the answers; bytes are base64,
and streams are lines of JSON. The items of a stream come one by one. Only in the last workload the handler of the first two ways gives
them in chunks of the stream's own; the readers still take them one by one.

${sections.join("\n")}`
