/**
 * `npm run bench:guard`: whether a request has become clearly dearer, in less than a minute, on any machine.
 *
 * effect-serve and node:http take turns with small echoes and with streams. How much more CPU time effect-serve needs is compared with what
 * `docs/benchmarks/` says that it needed. CPU time and a ratio within each round, because the machine may be slow and busy; and it fails only when
 * more than 30 % are lost in the median of the rounds.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect } from "effect"
import { readFileSync } from "node:fs"
import { cpu, of, race, ratios, type Rounds, startNode } from "./harness/race.ts"
import { medianOf } from "./harness/table.ts"
import { eventOf } from "./peers/web.ts"

const ROUNDS = 7
const LOSS = 0.3

const ours = "effect-serve"
const bare = "node:http"

const times = { warmUp: 200, turn: 700, pause: 50 }

const row = JSON.stringify({ id: 1, name: "one", score: 1.5, isOpen: true, text: "the quick brown fox jumps over" })
const EVENTS = 1000
const events = Array.from({ length: EVENTS }, (_, i) => `data: ${JSON.stringify(eventOf(i))}\n\n`)

/** What is measured, and where `docs/benchmarks/` has it. */
const cases = [
  {
    name: "a small echo",
    path: "/echo/small",
    connections: 64,
    exchange: { request: row, answer: row },
    contentType: "application/json",
    study: "http",
    part: "small",
    recorded: "effect-serve, layerNode"
  },
  {
    name: "streams of 1000 events",
    path: "/events/single",
    connections: 16,
    exchange: { request: JSON.stringify({ count: EVENTS }), answer: events.join("") },
    contentType: "text/event-stream",
    study: "stream",
    part: "single",
    recorded: "effect-serve"
  }
]

type Case = (typeof cases)[number]

const recordedOf = ({ part, recorded, study }: Case) => {
  const { data } = JSON.parse(readFileSync(`docs/benchmarks/${study}.json`, "utf8")) as {
    readonly data: ReadonlyArray<{ readonly name: string; readonly rounds: Rounds }>
  }
  return medianOf(ratios(data.find(({ name }) => name === part)!.rounds, recorded, bare, cpu))
}

const program = Effect.gen(function* () {
  const servers = [
    yield* startNode(ours, new URL("./servers/webServer.ts", import.meta.url), ["node"], 0),
    yield* startNode(bare, new URL("./peers/bare.ts", import.meta.url), [], 0)
  ]
  for (const one of cases) {
    const { connections, contentType, exchange, name, path } = one
    const exchanges = Array.from({ length: connections }, () => exchange)
    const load = { path, exchanges, contentType, units: 1, head: 1 }
    const sides = servers.map(({ name, pid, port }) => ({ name, pid, load: { ...load, port }, times }))
    const rounds = yield* race(sides, ROUNDS)
    const [now, then] = [medianOf(ratios(rounds, ours, bare, cpu)), recordedOf(one)]
    const micros = [ours, bare].map((name) => medianOf(of(rounds, name, cpu)).toFixed(1))
    const isLost = now > then / (1 - LOSS)
    if (isLost) process.exitCode = 1
    yield* Console.log(
      `${isLost ? "LOST " : "holds"}  ${name}: ${micros.join(" us of CPU, node:http ")}; ${now.toFixed(2)} times as much, recorded ${then.toFixed(2)}`
    )
  }
}).pipe(Effect.scoped)

// The times of processes are read from /proc.
NodeRuntime.runMain(process.platform === "linux" ? program : Console.log("The guard runs on Linux alone"))
