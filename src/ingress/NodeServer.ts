/**
 * The ingress on a `node:http` server of its own: the hot path from a socket to a handle and back.
 *
 * Between the parser of Node and the fiber of the request there is one map look-up, and the body is read from Node's
 * request directly.
 *
 * @since 0.1.0
 */
import { Duration, Effect, type Fiber, Schema, type Scope } from "effect"
import * as Http from "node:http"
import type { AddressInfo } from "node:net"
import type { Reply } from "../exchange/Answer.ts"
import type { Exchange } from "../exchange/Exchange.ts"
import type { Route } from "../exchange/RouteTable.ts"
import { CLIENT_CLOSED_REQUEST } from "../exchange/Status.ts"
import type { Count } from "../exchange/Tally.ts"

/**
 * Where the server listens, and the bounds of what it takes from the network.
 *
 * @category options
 * @since 0.1.0
 */
export interface Bounds {
  readonly port: number
  readonly host: string
  readonly maxBodySize: number
  readonly maxHeaderSize: number
  readonly maxConnections: number
  readonly headersTimeout: Duration.Duration
  readonly receiveTimeout: Duration.Duration
  readonly idleTimeout: Duration.Duration
  readonly gracefulShutdownTimeout: Duration.Duration
}

/**
 * The server could not listen, as when another program has the port.
 *
 * @category errors
 * @since 0.1.0
 */
export class ListenFailed extends Schema.TaggedError<ListenFailed>("effect-serve/HttpIngress/ListenFailed")(
  "ListenFailed",
  { host: Schema.String, port: Schema.Int, description: Schema.String }
) {
  override get message(): string {
    return `Can't listen on ${this.host}:${this.port} (${this.description}). Choose another port or host, or 0 for a free port.`
  }
}

/** Serves until the scope closes; then lets open requests finish and closes all connections. Returns its address. */
export const serve = Effect.fnUntraced(function* <R extends Route>(
  exchange: Exchange<R>,
  bounds: Bounds,
  count: Count
): Effect.fn.Return<AddressInfo, ListenFailed, Scope.Scope> {
  const open = new OpenRequests()
  const onRequest = listener(exchange, bounds, open, count)
  const server = Http.createServer({
    maxHeaderSize: bounds.maxHeaderSize,
    headersTimeout: Duration.toMillis(bounds.headersTimeout),
    requestTimeout: Duration.toMillis(bounds.receiveTimeout),
    keepAliveTimeout: Duration.toMillis(bounds.idleTimeout),
    connectionsCheckingInterval: 1000
  })
  server.maxConnections = bounds.maxConnections
  server.on("request", (request, response) => onRequest(request, response, false))
  server.on("checkContinue", (request, response) => onRequest(request, response, true))
  yield* Effect.acquireRelease(listen(server, bounds), () =>
    Effect.sync(() => exchange.drain()).pipe(
      Effect.andThen(open.finish(bounds.gracefulShutdownTimeout)),
      Effect.andThen(close(server))
    )
  )
  return server.address() as AddressInfo
})

const listen = (server: Http.Server, { host, port }: Bounds) =>
  Effect.callback<void, ListenFailed>((resume) => {
    const onError = ({ message }: Error) => resume(Effect.fail(new ListenFailed({ host, port, description: message })))
    server.once("error", onError)
    server.listen(port, host, () => {
      server.off("error", onError)
      resume(Effect.void)
    })
  })

const close = (server: Http.Server) =>
  Effect.callback<void>((resume) => {
    server.close(() => resume(Effect.void))
    server.closeAllConnections()
  })

/** The requests that have not been answered, and the fibers that work on them. */
class OpenRequests {
  private count = 0
  private readonly fibers = new Set<Fiber.Fiber<Reply>>()
  private onNone: (() => void) | undefined = undefined

  begin(response: Http.ServerResponse): void {
    this.count++
    response.on("close", () => {
      if (--this.count === 0) this.onNone?.()
    })
  }

  add(fiber: Fiber.Fiber<Reply>): void {
    this.fibers.add(fiber)
    fiber.addObserver(() => this.fibers.delete(fiber))
  }

  /** Waits until all are answered; interrupts what takes longer than `timeout`, and gives that a second to answer. */
  finish(timeout: Duration.Duration): Effect.Effect<void> {
    const none = Effect.callback<void>((resume) => {
      if (this.count === 0) return resume(Effect.void)
      this.onNone = () => resume(Effect.void)
    })
    const interrupt = Effect.sync(() => {
      for (const fiber of this.fibers) fiber.interruptUnsafe()
    })
    return Effect.timeoutOrElse(none, {
      duration: timeout,
      orElse: () => Effect.andThen(interrupt, Effect.asVoid(Effect.timeoutOption(none, "1 second")))
    })
  }
}

const listener =
  <R extends Route>(exchange: Exchange<R>, bounds: Bounds, open: OpenRequests, count: Count) =>
  (request: Http.IncomingMessage, response: Http.ServerResponse, expectsContinue: boolean): void => {
    open.begin(response)
    const send = (reply: Reply) => write(request, response, reply, bounds.idleTimeout)
    const opening = exchange.open(request.method!, request.url!, request.headers)
    if (opening._tag === "Answer") {
      count(opening.route, opening.reply.status)
      return send(opening.reply)
    }
    const { context, endpoint } = opening
    const run = <A>(effect: Effect.Effect<A>) =>
      Effect.runForkWith(exchange.contextFor(context, request.headers))(effect)
    const finish = (reply: Reply) => {
      count(endpoint.path, response.destroyed ? CLIENT_CLOSED_REQUEST : reply.status)
      if (response.destroyed) run(exchange.clientLeft(endpoint, context.requestId))
      else send(reply)
    }
    if (expectsContinue) response.writeContinue()
    readBody(request, bounds.maxBodySize, (body) => {
      if (body === undefined) return finish(exchange.tooLarge(context.requestId))
      const fiber = run(exchange.call(endpoint, context, body))
      const exit = fiber.pollUnsafe()
      if (exit?._tag === "Success") return finish(exit.value)
      open.add(fiber)
      response.on("close", () => {
        if (!response.writableEnded) fiber.interruptUnsafe()
      })
      fiber.addObserver((exit) => {
        finish(exit._tag === "Success" ? exit.value : exchange.unavailable(endpoint, context.requestId))
      })
    })
  }

/** Calls back with the body as text, or with `undefined` as soon as it has more than `maxSize` bytes. */
const readBody = (request: Http.IncomingMessage, maxSize: number, done: (body: string | undefined) => void): void => {
  let first: Buffer | undefined
  let rest: Array<Buffer> | undefined
  let size = 0
  const onData = (chunk: Buffer) => {
    size += chunk.length
    if (size > maxSize) {
      request.off("data", onData)
      request.off("end", onEnd)
      return done(undefined)
    }
    if (first === undefined) first = chunk
    else (rest ??= [first]).push(chunk)
  }
  const onEnd = () => done(rest === undefined ? (first?.toString() ?? "") : Buffer.concat(rest, size).toString())
  request.on("data", onData)
  request.on("end", onEnd)
}

const write = (
  request: Http.IncomingMessage,
  response: Http.ServerResponse,
  reply: Reply,
  idleTimeout: Duration.Duration
): void => {
  const headers: Record<string, string | number> = {
    "content-type": reply.contentType,
    "content-length": Buffer.byteLength(reply.body),
    "x-request-id": reply.requestId
  }
  if (reply.allow !== undefined) headers["allow"] = reply.allow
  if (reply.retryAfter !== undefined) headers["retry-after"] = reply.retryAfter
  if (reply.close === true) headers["connection"] = "close"
  response.writeHead(reply.status, headers)
  response.end(reply.body)
  // More than the kernel takes: the client has to read, or lose the connection.
  if (response.writableLength > 0) response.setTimeout(Duration.toMillis(idleTimeout), () => response.destroy())
  // What is left of a body that nobody reads would keep the connection from its next request.
  if (!request.complete) request.resume()
}
