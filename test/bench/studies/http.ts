/**
 * What a small request costs over HTTP: `POST` of JSON, which is echoed, by a deployment behind an ingress, by Fastify with schemas, and
 * by `node:http` alone; 64 connections, each of which sends its next request when it has its answer.
 *
 * Three bodies: one of about 100 bytes, one with a text of 10 kB, and one with 10 kB of rows, in which every field of each row is
 * checked.
 */
import { Console, Effect } from "effect"
import { busiest, method, race, type Rounds, startNode, tableOf, times, timesAsFast } from "../harness/race.ts"
import { atLeast, promised, type Study } from "../harness/Study.ts"
import { percent } from "../harness/table.ts"

const CONNECTIONS = 64
const ROUNDS = 7

const ours = "effect-serve, layerNode"
const onEffect = "effect-serve, layer"
const fastify = "Fastify"
const bare = "node:http"

const webServer = new URL("../servers/webServer.ts", import.meta.url)

const programs = [
  [ours, webServer, ["node"]],
  [bare, new URL("../peers/bare.ts", import.meta.url), []],
  [fastify, new URL("../peers/fastify.ts", import.meta.url), []],
  [onEffect, webServer, ["effect"]]
] as const

const rowOf = (id: number) => ({ id, name: `item ${id}`, score: id / 4, isOpen: id % 2 === 0 })

/** What the connection with this number sends and gets back. */
const bodies = {
  small: (i: number) => ({ ...rowOf(i), text: "the quick brown fox jumps over" }),
  text: (i: number) => ({ ...rowOf(i), text: "the quick brown fox jumps over ".repeat(325) }),
  rows: (i: number) => ({ rows: Array.from({ length: 170 }, (_, row) => rowOf(1000 * i + row)) })
}

type Body = keyof typeof bodies

const titles: Record<Body, string> = { small: "A small body", text: "A text", rows: "Rows" }

type Servers = ReadonlyArray<Effect.Success<ReturnType<typeof startNode>>>

const measure = Effect.fnUntraced(function* (servers: Servers, name: Body) {
  const exchanges = Array.from({ length: CONNECTIONS }, (_, i) => {
    const body = JSON.stringify(bodies[name](i))
    return { request: body, answer: body }
  })
  const head = Math.min(...exchanges.map(({ answer }) => answer.length))
  const load = { path: `/echo/${name}`, exchanges, contentType: "application/json", units: 1, head }
  const sides = servers.map(({ name, pid, port }) => ({ name, pid, load: { ...load, port }, times }))
  const rounds: Rounds = yield* race(sides, ROUNDS)
  const text = `## ${titles[name]}: ${head} bytes

${tableOf(rounds, "request", "latency")}

The load generator had something to do for at most ${percent(busiest(rounds))} of the time.
`
  yield* Console.log(text)
  return { name, rounds, text }
})

export const http: Study = {
  name: "http",
  measure: Effect.gen(function* () {
    const servers = yield* Effect.forEach(programs, ([name, program, args]) => startNode(name, program, args, 0))
    const measured = yield* Effect.forEach(["small", "text", "rows"] as const, (name) => measure(servers, name))
    return {
      title: "An echo over HTTP",
      text: `${method(ROUNDS)}

${CONNECTIONS} connections send \`POST\` requests with a JSON body, each the next one when it has its answer, which is the same JSON. effect-serve
[decodes and encodes it by its schema](../../test/bench/servers/webServer.ts), runs the handler in a request with an id, a deadline and a permit, and counts what
happens; [Fastify](../../test/bench/peers/fastify.ts) checks it by a JSON schema and writes it by another one; [node:http](../../test/bench/peers/bare.ts)
parses it and checks nothing.

${measured.map(({ text }) => text).join("\n")}`,
      verdicts: measured.flatMap(({ name, rounds }) => {
        const against = name === "small" ? promised.atLeast : atLeast
        return [
          against(`${name}: requests per CPU second, of Fastify's`, timesAsFast(rounds, ours, fastify), 1),
          against(`${name}: requests per CPU second, of node:http's`, timesAsFast(rounds, ours, bare), 0.7)
        ]
      }),
      data: measured.map(({ name, rounds }) => ({ name, rounds }))
    }
  }).pipe(Effect.scoped)
}
