/**
 * The work of the benchmark `remote`, as one writes it with Fastify: with schemas of the requests and the responses, bytes as base64, and
 * streams as lines of JSON.
 */
import Fastify from "fastify"
import type { AddressInfo } from "node:net"
import { Readable } from "node:stream"
import { eventOf, report } from "./web.ts"

const app = Fastify({
  keepAliveTimeout: 60_000,
  bodyLimit: 2 * 1024 * 1024,
  ajv: { customOptions: { coerceTypes: false } }
})

const object = (properties: Record<string, unknown>) => ({
  type: "object",
  properties,
  required: Object.keys(properties)
})

const echo = object({ text: { type: "string" }, n: { type: "integer" } })
const vector = object({ vector: { type: "array", items: { type: "number" } } })

for (const [name, body] of Object.entries({ echo, vector })) {
  app.post(`/${name}`, { schema: { body, response: { 200: body } } }, async (request) => request.body)
}

const bytes = {
  body: object({ bytes: { type: "string" } }),
  // Base64 has nothing to escape.
  response: { 200: object({ bytes: { type: "string", format: "unsafe" } }) }
}

app.post<{ Body: { readonly bytes: string } }>("/bytes", { schema: bytes }, async ({ body }) => {
  // A handler gets bytes.
  const decoded = Buffer.from(body.bytes, "base64")
  return { bytes: decoded.toString("base64") }
})

// oxlint-disable-next-line typescript/require-await
async function* lines(count: number) {
  for (let i = 0; i < count; i++) yield `${JSON.stringify(eventOf(i))}\n`
}

const schema = { body: object({ count: { type: "integer" } }) }

app.post<{ Body: { readonly count: number } }>("/items", { schema }, ({ body }, reply) =>
  reply.type("application/x-ndjson").send(Readable.from(lines(body.count)))
)

await app.listen({ host: "127.0.0.1", port: 0 })
report((app.server.address() as AddressInfo).port)
