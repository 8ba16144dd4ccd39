/**
 * How long a small request takes while nobody is in a hurry: echoes in an open loop, so many a second at random, which don't wait for each
 * other and count from when they were due.
 */
import { Console, Effect } from "effect"
import { seeded } from "../../acceptance/load.ts"
import { openLoop } from "../harness/openLoop.ts"
import { Failed } from "../harness/processTree.ts"
import { type Outcome, outcomeOf, serve, type Server } from "../harness/servers.ts"
import { atMost, type Study } from "../harness/Study.ts"
import { medianOf, percent, quantile, spread, table } from "../harness/table.ts"
import { ours, peers, type System } from "../peers/systems.ts"
import { presentOf, versionsOf } from "./peers.ts"
import { workloads } from "./peersWork.ts"

const RATES = [80]
const ROUNDS = 5
const SECONDS = 2

const echo = workloads.find(({ kind }) => kind === "echo")!

/** Latencies in milliseconds, and the share of requests that were answered. */
interface Turn {
  readonly p50: number
  readonly p99: number
  readonly answered: number
}

const turn = Effect.fnUntraced(function* (system: System, { port }: Server, perSecond: number, seed: number) {
  const random = seeded(seed, "gap")
  const body = echo.questions(system)[0]!.request
  const path = system.path("echo")
  const calls: Array<{ readonly at: number; readonly path: string; readonly body: string }> = []
  for (let at = 0; at < 1000 * SECONDS; at -= (1000 * Math.log(1 - random())) / perSecond)
    calls.push({ at, path, body })
  const answers = yield* openLoop(port, calls)
  const right = answers.filter(({ status }) => status === 200).map(({ latency }) => latency)
  return {
    p50: quantile(0.5, right),
    p99: quantile(0.99, right),
    answered: right.length / answers.length
  } satisfies Turn
})

interface Duel {
  readonly theirs: ReadonlyArray<Turn>
  readonly ours: ReadonlyArray<Turn>
}

const duel = Effect.fnUntraced(function* (peer: System, theirs: Server, own: Server, perSecond: number) {
  const sides = [() => turn(ours, own, perSecond, seed), () => turn(peer, theirs, perSecond, seed)] as const
  const found = { theirs: new Array<Turn>(), ours: new Array<Turn>() }
  let seed = 0
  // The first round does not count.
  for (let round = 0; round <= ROUNDS; round++) {
    seed = round
    const [first, second] = round % 2 === 0 ? [0, 1] : [1, 0]
    const turns = [yield* sides[first]!(), yield* sides[second]!()]
    if (round === 0) continue
    found.ours.push(turns[first === 0 ? 0 : 1]!)
    found.theirs.push(turns[first === 0 ? 1 : 0]!)
  }
  return found satisfies Duel
})

interface Row {
  readonly system: System
  readonly duels: Outcome<ReadonlyArray<Duel>>
}

const both = ({ ours, theirs }: Duel, value: (turn: Turn) => number) =>
  [theirs, ours].map((turns) => medianOf(turns.map(value)).toFixed(2)).join(" / ")

const ratio = ({ ours, theirs }: Duel, value: (turn: Turn) => number) =>
  ours.map((turn, i) => value(turn) / value(theirs[i]!))

const section = (perSecond: number, i: number, rows: ReadonlyArray<Row>) => `## ${perSecond} requests a second

${table([
  [
    "peer",
    "p50 ms, peer / effect-serve",
    "effect-serve : peer",
    "p99 ms, peer / effect-serve",
    "effect-serve : peer",
    "answered, peer"
  ],
  ...rows.map(({ duels, system }) => {
    if (duels instanceof Failed) return [system.name, `failed: ${duels.why}`, "", "", "", ""]
    const duel = duels[i]!
    return [
      system.name,
      both(duel, ({ p50 }) => p50),
      spread(
        ratio(duel, ({ p50 }) => p50),
        2
      ),
      both(duel, ({ p99 }) => p99),
      spread(
        ratio(duel, ({ p99 }) => p99),
        2
      ),
      percent(medianOf(duel.theirs.map(({ answered }) => answered)))
    ]
  })
])}
`

const start = (system: System) => serve(system, "echo", echo.questions(system)[0]!, { core: 0 })

export const latency: Study = {
  name: "latency",
  measure: Effect.gen(function* () {
    const versions = versionsOf([...new Set(peers.flatMap(({ packages }) => packages))])
    const own = yield* start(ours)
    const here = yield* presentOf(peers, versions)
    const rows = yield* Effect.forEach(
      here,
      Effect.fnUntraced(function* (system) {
        yield* Console.log(`  ${system.name} ...`)
        const duels = yield* outcomeOf(
          Effect.flatMap(start(system), (server) =>
            Effect.forEach(RATES, (perSecond) => duel(system, server, own, perSecond))
          )
        )
        return { system, duels } satisfies Row
      })
    )
    return {
      title: "Latency at light load",
      versions,
      text: `Echoes of 100 bytes in an open loop: requests come at random, so many a second, whatever became of the ones before, and times count from when a request
was due and not from when it was sent. All processes of a server are on the first core. A peer and effect-serve take turns of ${SECONDS} s in ${ROUNDS} rounds after one that does
not count; cells are medians of the rounds, ratios the medians within each round (lowest to highest). A good part of each time is the client's, which is Node's own and
the same for all.

${RATES.map((perSecond, i) => section(perSecond, i, rows)).join("\n")}`,
      verdicts: rows.flatMap(({ duels, system }) =>
        duels instanceof Failed
          ? []
          : RATES.map((perSecond, i) =>
              atMost(
                `${perSecond}/s: p50, of that of ${system.name}`,
                medianOf(ratio(duels[i]!, ({ p50 }) => p50)),
                // Checks, limits and deadlines take time that a bare server does not need.
                system.name === "node:http" ? 1.25 : system.language === "node" ? 1.1 : 1
              )
            )
      ),
      data: rows.map(({ duels, system }) => ({ name: system.name, duels }))
    }
  }).pipe(Effect.scoped)
}
