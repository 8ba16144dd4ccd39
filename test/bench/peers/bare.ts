/**
 * The echoes and the streams of the benchmarks `http` and `stream`, as one writes them on `node:http` alone. Nothing is checked.
 */
import { once } from "node:events"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { setImmediate as nextTurn } from "node:timers/promises"
import { eventOf, report } from "./web.ts"

const readJson = (request: IncomingMessage, done: (body: any) => void) => {
  const chunks: Array<Buffer> = []
  request.on("data", (chunk: Buffer) => chunks.push(chunk))
  request.on("end", () => done(JSON.parse((chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)).toString())))
}

const echo = (response: ServerResponse, body: unknown) => {
  const text = JSON.stringify(body)
  response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(text) })
  response.end(text)
}

const stream = async (response: ServerResponse, count: number, wait: boolean) => {
  response.writeHead(200, { "content-type": "text/event-stream" })
  for (let i = 0; i < count; i++) {
    if (wait) await nextTurn()
    if (!response.write(`data: ${JSON.stringify(eventOf(i))}\n\n`)) await once(response, "drain")
  }
  response.end()
}

const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) =>
  readJson(request, (body) => {
    if (request.url!.startsWith("/echo/")) echo(response, body)
    else void stream(response, body.count, request.url === "/events/waiting")
  })
)

server.listen(0, "127.0.0.1", () => report((server.address() as AddressInfo).port))
