/**
 * What an event costs that goes to a client as it comes: streams of 1000 small events by SSE, 16 at once, from a stream method behind an
 * ingress, from Fastify with a `Readable`, and from `node:http` alone.
 *
 * Three kinds of streams: all elements are ready, and the method gives them one by one, or as many at once as its stream has; and each
 * element is ready a turn of the event loop after the one before it. Writes `docs/benchmarks/stream.md`.
 */
import { Console, Effect } from "effect"
import { mkdirSync, writeFileSync } from "node:fs"
import { percent } from "./overload.ts"
import { eventOf, EVENTS } from "./peers/web.ts"
import { busiest, method, race, type Runner, tableOf, timesAsFast } from "./race.ts"
import { atLeast, type Study } from "./report.ts"

const CONNECTIONS = 16
const ROUNDS = 7

const ours = "effect-serve"
const fastify = "Fastify"
const bare = "node:http"

const runners: ReadonlyArray<Runner> = [
  { name: ours, program: new URL("./webServer.ts", import.meta.url), args: ["node"] },
  { name: bare, program: new URL("./peers/bare.ts", import.meta.url), args: [] },
  { name: fastify, program: new URL("./peers/fastify.ts", import.meta.url), args: [] }
]

const texts = Array.from({ length: EVENTS }, (_, i) => `data: ${JSON.stringify(eventOf(i))}\n\n`)
const exchange = { request: JSON.stringify({ count: EVENTS }), answer: texts.join("") }

const kinds = {
  single: "Elements that are ready, one by one",
  natural: "Elements that are ready, in chunks of the stream's own",
  waiting: "Elements that are ready a turn of the event loop after each other"
}

const measure = Effect.fnUntraced(function* (name: keyof typeof kinds) {
  const rounds = yield* race(runners, ROUNDS, {
    path: `/events/${name}`,
    exchanges: Array.from({ length: CONNECTIONS }, () => exchange),
    contentType: "text/event-stream",
    units: EVENTS,
    head: texts[0]!.length
  })
  const text = `## ${kinds[name]}

${tableOf(rounds, "event", "time to the first event")}

The load generator had something to do for at most ${percent(busiest(rounds))} of the time.
`
  yield* Console.log(text)
  return { name, rounds, text }
})

export const stream: Study = {
  name: "stream",
  measure: Effect.gen(function* () {
    const measured = yield* Effect.forEach(["single", "natural", "waiting"] as const, measure)
    mkdirSync("docs/benchmarks", { recursive: true })
    writeFileSync("docs/benchmarks/stream.md", written(measured.map(({ text }) => text)))
    return measured.map(({ name, rounds }) =>
      atLeast(`${name}: events per CPU second, of Fastify's`, timesAsFast(rounds, ours, fastify), 1)
    )
  })
}

const written = (sections: ReadonlyArray<string>) => `# Streams over HTTP

Written by \`npm run bench -- stream\` ${method(ROUNDS)}

${CONNECTIONS} connections each ask for a stream of ${EVENTS} events (\`text/event-stream\`) of some ${Math.round(exchange.answer.length / EVENTS)} bytes, and for the next one when it has ended.
[effect-serve](../../test/bench/webServer.ts) encodes each element by the method's schema; [Fastify](../../test/bench/peers/fastify.ts) sends a \`Readable\` of an async generator, and
[node:http](../../test/bench/peers/bare.ts) writes each event and waits for \`drain\` where it has to.

${sections.join("\n")}`
