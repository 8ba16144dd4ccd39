/** What the suites share that run over all servers of the ingress, on real sockets. */
import { NodeHttpServer } from "@effect/platform-node"
import { HttpIngress } from "effect-serve"
import { Effect, Layer, Metric } from "effect"
import { createServer } from "node:http"
import { connect, type Socket } from "node:net"
import { addressOf } from "./http.ts"

const Server = NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 0, gracefulShutdownTimeout: 0 })

type Shared<A> = typeof HttpIngress.Options.Encoded & HttpIngress.Authorizing<A>
type OfNode<A> = typeof HttpIngress.NodeOptions.Encoded & HttpIngress.Authorizing<A>
type Ingress<R extends HttpIngress.Routes, A> = Layer.Layer<HttpIngress.Address, unknown, HttpIngress.Services<R> | A>

/** The servers that listen themselves. */
export const nodeServers = <const R extends HttpIngress.Routes, A = never>(
  routes: R,
  options: OfNode<A> = {}
): Record<string, Ingress<R, A>> => {
  const common = { port: 0, gracefulShutdownTimeout: 0, ...options }
  return {
    layerNode: HttpIngress.layerNode<R, A>(routes, common),
    "layerNode, on a thread of its own": HttpIngress.layerNode<R, A>(routes, { ...common, ownThread: true })
  }
}

/** All three servers. */
export const servers = <const R extends HttpIngress.Routes, A = never>(
  routes: R,
  options: Shared<A> = {}
): Record<string, Ingress<R, A>> => ({
  ...nodeServers<R, A>(routes, options),
  layer: Layer.merge(addressOf, HttpIngress.layer<R, A>(routes, options)).pipe(Layer.provide(Server))
})

/** A connection on which bytes are sent as they are. */
export class Connection {
  readonly socket: Socket
  /** All that has come, one character for each byte. */
  received = ""
  isClosed = false
  private waiting: Array<() => void> = []

  constructor(socket: Socket) {
    this.socket = socket
    socket.setNoDelay(true)
    socket.on("error", () => {})
    socket.on("data", (bytes: Buffer) => {
      this.received += bytes.toString("latin1")
      this.tell()
    })
    socket.on("close", () => {
      this.isClosed = true
      this.tell()
    })
  }

  write(bytes: string | Uint8Array): void {
    this.socket.write(bytes)
  }

  /** Waits for what is there in the end, and gives all that has come. Dies when the connection closes before. */
  until(isThere: RegExp | ((received: string) => boolean)): Effect.Effect<string> {
    const test = typeof isThere === "function" ? isThere : (received: string) => isThere.test(received)
    return Effect.callback((resume) => {
      const look = () => {
        if (test(this.received)) return resume(Effect.succeed(this.received))
        if (this.isClosed) return resume(Effect.die(new Error(`Closed after: ${JSON.stringify(this.received)}`)))
        this.waiting.push(look)
      }
      look()
    })
  }

  /** Waits until the server has closed the connection, and gives all that has come. */
  readonly closed: Effect.Effect<string> = Effect.callback((resume) => {
    const look = () => {
      if (this.isClosed) return resume(Effect.succeed(this.received))
      this.waiting.push(look)
    }
    look()
  })

  private tell(): void {
    const { waiting } = this
    this.waiting = []
    for (const look of waiting) look()
  }
}

/** Connects until the scope closes. */
export const dial = Effect.flatMap(HttpIngress.Address, ({ port }) =>
  Effect.acquireRelease(
    Effect.callback<Connection>((resume) => {
      const socket = connect(port, "127.0.0.1", () => resume(Effect.succeed(connection)))
      const connection = new Connection(socket)
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )
)

/** Sends bytes as they are, and gives all that comes back until the server closes the connection. */
export const sendRaw = (bytes: string | Uint8Array) =>
  Effect.scoped(
    Effect.flatMap(dial, (connection) => {
      connection.write(bytes)
      return connection.closed
    })
  )

/** The head of a request, and its body if it has one. */
export const request = (line: string, headers: Record<string, string | number> = {}, body = ""): string => {
  const fields = Object.entries({ host: "x", ...(body === "" ? {} : { "content-length": body.length }), ...headers })
  return `${line} HTTP/1.1\r\n${fields.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n${body}`
}

/** Waits until an answer has been counted. */
export const untilCounted = (route: string, status: number) =>
  Effect.repeat(Effect.delay(Metric.snapshot, "2 millis"), {
    until: (metrics) =>
      metrics.some(
        ({ attributes, id, type }) =>
          id === "serve_http_requests_total" &&
          type === "Counter" &&
          attributes?.["route"] === route &&
          attributes["status"] === String(status)
      )
  })
