/**
 * What an event costs that goes to a client as it comes: streams of 1000 small events by SSE, 16 at once, from a stream method behind an
 * ingress, from Fastify with a `Readable`, and from `node:http` alone.
 *
 * Three kinds of streams: all elements are ready, and the method gives them one by one, or as many at once as its stream has; and each
 * element is ready a turn of the event loop after the one before it.
 */
import { Console, Effect } from "effect"
import { busiest, method, race, startNode, tableOf, times, timesAsFast } from "../harness/race.ts"
import { promised, type Study } from "../harness/Study.ts"
import { percent } from "../harness/table.ts"
import { eventOf, EVENTS } from "../peers/web.ts"

const CONNECTIONS = 16
const ROUNDS = 7

const ours = "effect-serve"
const fastify = "Fastify"
const bare = "node:http"

const programs = [
  [ours, new URL("../servers/webServer.ts", import.meta.url), ["node"]],
  [bare, new URL("../peers/bare.ts", import.meta.url), []],
  [fastify, new URL("../peers/fastify.ts", import.meta.url), []]
] as const

const texts = Array.from({ length: EVENTS }, (_, i) => `data: ${JSON.stringify(eventOf(i))}\n\n`)
const exchange = { request: JSON.stringify({ count: EVENTS }), answer: texts.join("") }

const kinds = {
  single: "Elements that are ready, one by one",
  natural: "Elements that are ready, in chunks of the stream's own",
  waiting: "Elements that are ready a turn of the event loop after each other"
}

type Servers = ReadonlyArray<Effect.Success<ReturnType<typeof startNode>>>

const measure = Effect.fnUntraced(function* (servers: Servers, name: keyof typeof kinds) {
  const load = {
    path: `/events/${name}`,
    exchanges: Array.from({ length: CONNECTIONS }, () => exchange),
    contentType: "text/event-stream",
    units: EVENTS,
    head: texts[0]!.length
  }
  const sides = servers.map(({ name, pid, port }) => ({ name, pid, load: { ...load, port }, times }))
  const rounds = yield* race(sides, ROUNDS)
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
    const servers = yield* Effect.forEach(programs, ([name, program, args]) => startNode(name, program, args, 0))
    const measured = yield* Effect.forEach(["single", "natural", "waiting"] as const, (name) => measure(servers, name))
    return {
      title: "Streams over HTTP",
      text: `${method(ROUNDS)}

${CONNECTIONS} connections each ask for a stream of ${EVENTS} events (\`text/event-stream\`) of some ${Math.round(exchange.answer.length / EVENTS)} bytes, and for the next one when it has ended.
[effect-serve](../../test/bench/servers/webServer.ts) encodes each element by the method's schema; [Fastify](../../test/bench/peers/fastify.ts) sends a \`Readable\` of an async generator, and
[node:http](../../test/bench/peers/bare.ts) writes each event and waits for \`drain\` where it has to.

${measured.map(({ text }) => text).join("\n")}`,
      verdicts: measured.map(({ name, rounds }) =>
        promised.atLeast(`${name}: events per CPU second, of Fastify's`, timesAsFast(rounds, ours, fastify), 1)
      ),
      data: measured.map(({ name, rounds }) => ({ name, rounds }))
    }
  }).pipe(Effect.scoped)
}
