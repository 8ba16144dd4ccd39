/**
 * The echoes and the streams of the benchmarks `http` and `stream`, as one writes them with Fastify: with schemas of the requests and
 * the responses, and with a `Readable` of the events.
 */
import Fastify from "fastify"
import type { AddressInfo } from "node:net"
import { Readable } from "node:stream"
import { setImmediate as nextTurn } from "node:timers/promises"
import { eventOf, report } from "./web.ts"

const app = Fastify({ keepAliveTimeout: 60_000, ajv: { customOptions: { coerceTypes: false } } })

const object = (properties: Record<string, unknown>) => ({
  type: "object",
  properties,
  required: Object.keys(properties)
})

const row = object({
  id: { type: "integer" },
  name: { type: "string" },
  score: { type: "number" },
  isOpen: { type: "boolean" }
})

const echoes = {
  small: object({ ...row.properties, text: { type: "string" } }),
  text: object({ ...row.properties, text: { type: "string" } }),
  rows: object({ rows: { type: "array", items: row } })
}

for (const [name, body] of Object.entries(echoes)) {
  app.post(`/echo/${name}`, { schema: { body, response: { 200: body } } }, async (request) => request.body)
}

// oxlint-disable-next-line typescript/require-await
async function* events(count: number) {
  for (let i = 0; i < count; i++) yield `data: ${JSON.stringify(eventOf(i))}\n\n`
}

async function* waiting(count: number) {
  for (let i = 0; i < count; i++) {
    await nextTurn()
    yield `data: ${JSON.stringify(eventOf(i))}\n\n`
  }
}

const schema = { body: object({ count: { type: "integer" } }) }

for (const [name, texts] of Object.entries({ single: events, natural: events, waiting })) {
  app.post<{ Body: { readonly count: number } }>(`/events/${name}`, { schema }, ({ body }, reply) =>
    reply.type("text/event-stream").send(Readable.from(texts(body.count)))
  )
}

await app.listen({ host: "127.0.0.1", port: 0 })
report((app.server.address() as AddressInfo).port)
