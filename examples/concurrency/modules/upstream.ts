/** The server of `upstream.ts`: `/slow?150` is answered after 150 ms, as by a service that waits for others. */
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { parentPort } from "node:worker_threads"

let running = 0
let peak = 0

const server = createServer(({ url }, response) => {
  const { pathname, search } = new URL(url!, "http://upstream")
  if (pathname === "/peak") {
    response.end(`${peak}`)
    peak = 0
    return
  }
  peak = Math.max(peak, ++running)
  response.on("close", () => running--)
  setTimeout(() => response.end("ok"), Number(search.slice(1)))
})

server.listen(0, "127.0.0.1", () => parentPort!.postMessage((server.address() as AddressInfo).port))
