/**
 * What a server needs before it is asked anything, beside Node alone, Fastify, and Node with Effect: memory, and the time until its first answer.
 * And what a request needs that waits.
 */
import { Console, Effect } from "effect"
import { fileURLToPath } from "node:url"
import { launch, processesOf, rssOf } from "../harness/processTree.ts"
import { startNode } from "../harness/race.ts"
import { ask } from "../harness/servers.ts"
import { atLeast, promised, type Study } from "../harness/Study.ts"
import { medianOf, spread, table } from "../harness/table.ts"

const ROUNDS = 7
const CALLERS = 100_000

const [node, fastify, onlyEffect, ours] = ["node:http", "Fastify", "Node and Effect", "effect-serve"]

const programs = [
  [node, new URL("../peers/bare.ts", import.meta.url), []],
  [fastify, new URL("../peers/fastify.ts", import.meta.url), []],
  [onlyEffect, new URL("../servers/effectOnly.ts", import.meta.url), []],
  [ours, new URL("../servers/webServer.ts", import.meta.url), ["node"]]
] as const

const body = JSON.stringify({ id: 1, name: "one", score: 1.5, isOpen: true, text: "text" })

const started = Effect.fnUntraced(function* ([name, program, args]: (typeof programs)[number]) {
  const since = performance.now()
  const { pid, port } = yield* startNode(name, program, args, 0)
  yield* ask(port, "/echo/small", body)
  const startUp = performance.now() - since
  yield* Effect.sleep("1 second")
  return { name, startUp, rss: rssOf(processesOf(pid)) }
}, Effect.scoped)

const queued = Effect.gen(function* () {
  const program = fileURLToPath(new URL("../servers/queued.ts", import.meta.url))
  const command = [process.execPath, "--conditions=effect-serve-source", program, `${CALLERS}`]
  const { ready } = yield* launch({ name: "queued", command, core: 0, hasMessages: true })
  return (yield* ready) as unknown as { readonly queued: number; readonly parked: number }
}).pipe(Effect.scoped)

export const memory: Study = {
  name: "memory",
  measure: Effect.gen(function* () {
    const rounds: Array<ReadonlyArray<Effect.Success<ReturnType<typeof started>>>> = []
    for (let round = 0; round < ROUNDS; round++) {
      rounds.push(yield* Effect.forEach(round % 2 === 0 ? programs : programs.toReversed(), started))
    }
    const of = (name: string, unit: "startUp" | "rss") =>
      rounds.map((round) => round.find((one) => one.name === name)![unit] / (unit === "rss" ? 2 ** 20 : 1))
    const waiting = yield* queued
    const text = table([
      ["server", "memory when idle, MB", "first answer after, ms"],
      ...programs.map(([name]) => [name, spread(of(name, "rss"), 0), spread(of(name, "startUp"), 0)])
    ])
    yield* Console.log(text)
    const over = medianOf(of(ours, "rss").map((rss, i) => rss - of(onlyEffect, "rss")[i]!))
    return {
      title: "Memory and start",
      text: `Each server was started ${ROUNDS} times, in turns, on one core. Its memory is the resident set of its process a second after its first answer; it runs from
its TypeScript, as all of them. *Node and Effect* is [a server of Effect](../../test/bench/servers/effectOnly.ts) with one route. The compile cache of Node was as it is for a user: on
where \`NODE_COMPILE_CACHE\` is set, which here it was ${process.env["NODE_COMPILE_CACHE"] === undefined ? "not" : ""}.

${text}

## A request that waits

${CALLERS.toLocaleString("en")} callers, each of them a fiber, join the queue of a deployment whose only permit is taken. After a full collection of garbage each of them holds
${waiting.queued.toFixed(0)} bytes; a fiber that waits for nothing in particular holds ${waiting.parked.toFixed(0)} of them. So ${(waiting.queued - waiting.parked).toFixed(0)} bytes are those of the queue, and of the request.`,
      verdicts: [
        promised.atMost("idle memory over Node and Effect", over, 80, "MB"),
        promised.atMost("bytes of a request that waits, with its fiber", waiting.queued, 1024, "bytes"),
        atLeast(
          "start until the first answer: time of Node and Effect, of ours",
          medianOf(of(ours, "startUp").map((time, i) => of(onlyEffect, "startUp")[i]! / time)),
          0.5
        )
      ],
      data: { rounds, waiting }
    }
  })
}
