/**
 * How the cost of a request grows: with the number of replicas among which a router chooses, and with the number of connections from which
 * requests come.
 */
import { Deployment } from "effect-serve"
import { Console, Effect, type Layer } from "effect"
import { Rpc } from "effect/rpc"
import { lines } from "../harness/chart.ts"
import { cpu, of, race, ratios, startNode } from "../harness/race.ts"
import { atMost, type Study } from "../harness/Study.ts"
import { medianOf, spread, table } from "../harness/table.ts"

const ROUNDS = 5

const REPLICAS = [1, 2, 4, 16, 64, 256]
const CALLERS = 64
const CALLS = 200_000

class Noop extends Deployment.Service<Noop>()("Noop", [Rpc.make("run")]) {}

const layerOf = (replicas: number): Layer.Layer<Noop, unknown> =>
  Noop.toLayer({ run: () => Effect.yieldNow }, { replicas, maxOngoingRequests: CALLERS })

/** Nanoseconds for each call of callers that all call at once, a handler that lets the others run. */
const perCall = Effect.gen(function* () {
  const { run } = yield* Noop
  const caller = Effect.gen(function* () {
    for (let i = 0; i < CALLS / CALLERS; i++) yield* run()
  })
  const all = Effect.all(
    Array.from({ length: CALLERS }, () => caller),
    { concurrency: "unbounded", discard: true }
  )
  yield* all
  const before = process.cpuUsage()
  yield* all
  const { system, user } = process.cpuUsage(before)
  return ((system + user) * 1000) / CALLS
})

const CONNECTIONS = [1, 16, 64, 256, 1024]

const [ours, bare] = ["effect-serve", "node:http"]

const row = JSON.stringify({ id: 1, name: "one", score: 1.5, isOpen: true, text: "the quick brown fox jumps over" })

const times = { warmUp: 300, turn: 900, pause: 100 }

export const scale: Study = {
  name: "scale",
  measure: Effect.gen(function* () {
    const calls: Array<ReadonlyArray<number>> = []
    for (let round = 0; round < ROUNDS; round++) {
      calls.push(
        yield* Effect.forEach(REPLICAS, (replicas) => Effect.provide(perCall, layerOf(replicas), { local: true }))
      )
    }
    const callsOf = (i: number) => calls.map((round) => round[i]!)

    const servers = [
      yield* startNode(ours, new URL("../servers/webServer.ts", import.meta.url), ["node"], 0),
      yield* startNode(bare, new URL("../peers/bare.ts", import.meta.url), [], 0)
    ]
    const requests = yield* Effect.forEach(CONNECTIONS, (connections) => {
      const exchanges = Array.from({ length: connections }, () => ({ request: row, answer: row }))
      const load = { path: "/echo/small", exchanges, contentType: "application/json", units: 1, head: row.length }
      const sides = servers.map(({ name, pid, port }) => ({ name, pid, load: { ...load, port }, times }))
      return Effect.map(race(sides, ROUNDS), (rounds) => ({ connections, rounds }))
    })
    const text = `## Replicas

${CALLERS} callers call a handler that only lets the others run, in one process; a router chooses among so many replicas.

${table([["replicas", "CPU per call, ns"], ...REPLICAS.map((replicas, i) => [`${replicas}`, spread(callsOf(i), 0)])])}

## Connections

Small echoes over HTTP, beside node:http, which checks nothing.

${table([
  ["connections", "CPU per request, us", "node:http, us", "of node:http"],
  ...requests.map(({ connections, rounds }) => [
    `${connections}`,
    spread(of(rounds, ours, cpu), 1),
    spread(of(rounds, bare, cpu), 1),
    spread(ratios(rounds, ours, bare, cpu), 2)
  ])
])}`
    yield* Console.log(text)
    const micros = (connections: number, name: string) =>
      medianOf(of(requests.find((one) => one.connections === connections)!.rounds, name, cpu))
    const nanos = (replicas: number) => medianOf(callsOf(REPLICAS.indexOf(replicas)))
    const highest = Math.ceil(Math.max(...CONNECTIONS.map((connections) => micros(connections, ours))) / 10) * 10
    return {
      title: "Replicas and connections",
      text,
      data: { calls, requests },
      verdicts: [
        atMost("a call among 256 replicas, of one among 2", nanos(256) / nanos(2), 1.5),
        atMost("a request at 1024 connections, of one at 64", micros(1024, ours) / micros(64, ours), 1.5)
      ],
      charts: {
        "scale.svg": lines("Cost, by replicas and by connections", [
          {
            title: "nanoseconds per call",
            x: { label: "replicas", from: 1, to: 256, marks: REPLICAS, isLogarithmic: true, write: String },
            y: { label: "", from: 0, to: 4000, marks: [0, 1000, 2000, 3000, 4000], write: String },
            lines: [{ name: ours, points: REPLICAS.map((replicas) => [replicas, nanos(replicas)] as const) }]
          },
          {
            title: "microseconds per request",
            x: { label: "connections", from: 1, to: 1024, marks: CONNECTIONS, isLogarithmic: true, write: String },
            y: { label: "", from: 0, to: highest, marks: [0, highest / 2, highest], write: String },
            lines: [ours, bare].map((name) => ({
              name,
              points: CONNECTIONS.map((connections) => [connections, micros(connections, name)] as const)
            }))
          }
        ])
      }
    }
  }).pipe(Effect.scoped)
}
