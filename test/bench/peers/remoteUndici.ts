/**
 * Calls the work of the benchmark `remote` in another process by undici, and decodes each answer by the schema of its method. The argument
 * is the port.
 */
import { Schema } from "effect"
import { type Dispatcher, Pool } from "undici"
import { checks, Echo, Item, payloads, takeTurns, Vector, type Workload } from "../servers/remoteWork.ts"

/** As many connections as there are callers at most: fewer cost more with 64 in flight. */
const pool = new Pool(`http://127.0.0.1:${process.argv[2]}`, { connections: 64, pipelining: 1 })

const decodeEcho = Schema.decodeUnknownSync(Echo)
const decodeVector = Schema.decodeUnknownSync(Vector)
const decodeItem = Schema.decodeUnknownSync(Item)
const decodeBase64 = Schema.decodeUnknownSync(Schema.Struct({ bytes: Schema.String }))

const headers = { "content-type": "application/json" }

const post = async (path: string, payload: unknown): Promise<Dispatcher.ResponseData["body"]> => {
  const { body, statusCode } = await pool.request({ path, method: "POST", headers, body: JSON.stringify(payload) })
  if (statusCode !== 200) throw new Error(`${path} was answered with ${statusCode}`)
  return body
}

const call = async (path: string, payload: unknown): Promise<unknown> =>
  JSON.parse(await (await post(path, payload)).text())

async function* items(count: number) {
  const body = await post("/items", { count })
  body.setEncoding("utf8")
  let rest = ""
  for await (const chunk of body) {
    const lines = (rest + chunk).split("\n")
    rest = lines.pop()!
    for (const line of lines) yield decodeItem(JSON.parse(line))
  }
}

const read = async (_: number, units: number) => {
  let next = 0
  for await (const item of items(units)) checks.item(item, next++)
  checks.count(next, units)
}

/** Calls a method once, as call `i`, and checks the answer. */
const calls: Record<Workload["method"], (i: number, units: number) => Promise<void>> = {
  echo: async (i) => checks.echo(decodeEcho(await call("/echo", payloads.echo(i))), i),
  bytes: async (i) => {
    const { bytes } = payloads.bytes(i)
    const answer = decodeBase64(await call("/bytes", { bytes: Buffer.from(bytes.buffer).toString("base64") }))
    checks.bytes({ bytes: Buffer.from(answer.bytes, "base64") }, i)
  },
  vector: async () => checks.vector(decodeVector(await call("/vector", payloads.vector()))),
  single: read,
  natural: read
}

takeTurns(async ({ inFlight, method, units }, isOver) => {
  let next = 0
  const caller = async () => {
    while (!isOver()) await calls[method](next++, units)
  }
  await Promise.all(Array.from({ length: inFlight }, caller))
  return next
})
