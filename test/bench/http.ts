/**
 * What a small request costs over HTTP: `POST` of JSON, which is echoed, by a deployment behind an ingress, by Fastify with schemas, and
 * by `node:http` alone; 64 connections, each of which sends its next request when it has its answer.
 *
 * Three bodies: one of about 100 bytes, one with a text of 10 kB, and one with 10 kB of rows, in which every field of each row is
 * checked. Writes `docs/benchmarks/http.md`.
 */
import { Console, Effect } from "effect"
import { mkdirSync, writeFileSync } from "node:fs"
import { percent } from "./overload.ts"
import { busiest, method, race, type Runner, tableOf, timesAsFast } from "./race.ts"
import { atLeast, type Study } from "./report.ts"

const CONNECTIONS = 64
const ROUNDS = 7

const ours = "effect-serve, layerNode"
const onEffect = "effect-serve, layer"
const fastify = "Fastify"
const bare = "node:http"

const runners: ReadonlyArray<Runner> = [
  { name: ours, program: new URL("./webServer.ts", import.meta.url), args: ["node"] },
  { name: bare, program: new URL("./peers/bare.ts", import.meta.url), args: [] },
  { name: fastify, program: new URL("./peers/fastify.ts", import.meta.url), args: [] },
  { name: onEffect, program: new URL("./webServer.ts", import.meta.url), args: ["effect"] }
]

const rowOf = (id: number) => ({ id, name: `item ${id}`, score: id / 4, isOpen: id % 2 === 0 })

/** What the connection with this number sends and gets back. */
const bodies = {
  small: (i: number) => ({ ...rowOf(i), text: "the quick brown fox jumps over" }),
  text: (i: number) => ({ ...rowOf(i), text: "the quick brown fox jumps over ".repeat(325) }),
  rows: (i: number) => ({ rows: Array.from({ length: 170 }, (_, row) => rowOf(1000 * i + row)) })
}

type Body = keyof typeof bodies

const titles: Record<Body, string> = { small: "A small body", text: "A text", rows: "Rows" }

const measure = Effect.fnUntraced(function* (name: Body) {
  const exchanges = Array.from({ length: CONNECTIONS }, (_, i) => {
    const body = JSON.stringify(bodies[name](i))
    return { request: body, answer: body }
  })
  const head = Math.min(...exchanges.map(({ answer }) => answer.length))
  const rounds = yield* race(runners, ROUNDS, {
    path: `/echo/${name}`,
    exchanges,
    contentType: "application/json",
    units: 1,
    head
  })
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
    const measured = yield* Effect.forEach(["small", "text", "rows"] as const, measure)
    mkdirSync("docs/benchmarks", { recursive: true })
    writeFileSync("docs/benchmarks/http.md", written(measured.map(({ text }) => text)))
    return measured.flatMap(({ name, rounds }) => [
      atLeast(`${name}: requests per CPU second, of Fastify's`, timesAsFast(rounds, ours, fastify), 1),
      atLeast(`${name}: requests per CPU second, of node:http's`, timesAsFast(rounds, ours, bare), 0.7)
    ])
  })
}

const written = (sections: ReadonlyArray<string>) => `# An echo over HTTP

Written by \`npm run bench -- http\` ${method(ROUNDS)}

${CONNECTIONS} connections send \`POST\` requests with a JSON body, each the next one when it has its answer, which is the same JSON. effect-serve
[decodes and encodes it by its schema](../../test/bench/webServer.ts), runs the handler in a request with an id, a deadline and a permit, and counts what
happens; [Fastify](../../test/bench/peers/fastify.ts) checks it by a JSON schema and writes it by another one; [node:http](../../test/bench/peers/bare.ts)
parses it and checks nothing.

${sections.join("\n")}`
