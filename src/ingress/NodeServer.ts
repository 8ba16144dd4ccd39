/**
 * The ingress on a `node:http` server of its own: where it listens, what it takes at most, and how it stops.
 *
 * @since 0.1.0
 */
import { Clock, Duration, Effect, Schema, type Scope } from "effect"
import * as Http from "node:http"
import * as Https from "node:https"
import { type AddressInfo, Server, type Socket } from "node:net"
import type { Exchange } from "../exchange/Exchange.ts"
import type { Route } from "../exchange/RouteTable.ts"
import type { Count } from "../exchange/Tally.ts"
import { Conversation, Incoming } from "./Conversation.ts"
import { Remotes } from "./Remotes.ts"
import { isRpc, RpcServer } from "./RpcServer.ts"

/**
 * What TLS needs; see `HttpIngress.NodeOptions`.
 *
 * @category options
 * @since 0.1.0
 */
export const Tls = Schema.Struct({
  /** The key of the certificate, in PEM. */
  key: Schema.NonEmptyString,
  /** The certificate, in PEM, and those between it and who signs it. */
  cert: Schema.NonEmptyString,
  /** Certificates of those who sign the certificates of clients, in PEM. Default: Node's authorities. */
  ca: Schema.optionalKey(Schema.NonEmptyString),
  /** What is asked of clients: nothing, to `"request"` a certificate, or to `"require"` one of the `ca`. Default `"none"`. */
  clientCertificate: Schema.Literals(["none", "request", "require"]).pipe(
    Schema.withDecodingDefaultTypeKey(Effect.succeed("none" as const))
  )
})

/**
 * Where the server listens, and the bounds of what it takes from the network.
 *
 * @category options
 * @since 0.1.0
 */
export interface Bounds {
  readonly port: number
  readonly host: string
  readonly reusePort: boolean
  readonly tls?: typeof Tls.Type
  readonly maxBodySize: number
  readonly maxHeaderSize: number
  readonly maxConnections: number
  readonly headersTimeout: Duration.Duration
  readonly receiveTimeout: Duration.Duration
  readonly keepAliveTimeout: Duration.Duration
  readonly stallTimeout: Duration.Duration
  readonly gracefulShutdownTimeout: Duration.Duration
}

/**
 * The server could not listen, as when another program has the port, or when the system can't share ports (`reusePort`).
 *
 * @category errors
 * @since 0.1.0
 */
export class ListenFailed extends Schema.TaggedError<ListenFailed>("effect-serve/HttpIngress/ListenFailed")(
  "ListenFailed",
  {
    host: Schema.String,
    port: Schema.Int,
    reusePort: Schema.Boolean,
    /** The system's, such as `"EADDRINUSE"`. */
    code: Schema.String,
    description: Schema.String
  }
) {
  override get message(): string {
    return `Can't listen on ${this.host}:${this.port} (${this.description}). ${adviceOf(this)}`
  }
}

const adviceOf = ({ code, reusePort }: { readonly code: string; readonly reusePort: boolean }) => {
  if (reusePort && CANNOT_SHARE.has(code)) return "This system can't share ports: leave out the option reusePort."
  if (reusePort && code === "EADDRINUSE")
    return "To share a port, all who listen on it need reusePort, and the same user."
  return "Choose another port or host, or 0 for a free port."
}

/** What Node says where there is no `SO_REUSEPORT` that spreads connections, and what an old Linux does. */
const CANNOT_SHARE: ReadonlySet<string> = new Set(["ENOTSUP", "ENOPROTOOPT"])

/** Milliseconds for which a client may go on sending that has its last answer. */
const LINGER = 1000

/** Milliseconds for which open connections are served on that others may take over, and for which the last new ones may come. */
const LAST_CALLS = 1000

/** Milliseconds of a turn of the event loop that did little. */
const SHORT_TURN = 0.2

/** Serves until the scope closes; then lets open requests finish and closes all connections. Returns its address. */
export const serve = Effect.fnUntraced(function* <R extends Route>(
  exchange: Exchange<R>,
  bounds: Bounds,
  count: Count
): Effect.fn.Return<AddressInfo, ListenFailed, Scope.Scope> {
  const clock = yield* Clock.Clock
  const open = new OpenRequests()
  const now = () => clock.currentTimeMillisUnsafe()
  const bodies = new Bodies(Duration.toMillis(bounds.receiveTimeout), now)
  const leftovers = new Bodies(LINGER, now)
  yield* Effect.forkScoped(
    Effect.forever(
      Effect.andThen(
        Effect.sleep("1 second"),
        Effect.sync(() => {
          bodies.look()
          leftovers.look()
        })
      )
    )
  )
  const desk = {
    exchange,
    count,
    open,
    bodies,
    leftovers,
    maxBodySize: bounds.maxBodySize,
    stallTimeout: Duration.toMillis(bounds.stallTimeout),
    now
  }
  const remotes = yield* Remotes.make
  const rpc = new RpcServer(exchange, remotes, count, bounds)
  const server = yield* create(bounds.tls, {
    IncomingMessage: Incoming,
    shouldUpgradeCallback: isRpc,
    maxHeaderSize: bounds.maxHeaderSize,
    headersTimeout: Duration.toMillis(bounds.headersTimeout),
    // How long a body may take depends on its method, so `Bodies` looks after that.
    requestTimeout: 0,
    keepAliveTimeout: Duration.toMillis(bounds.keepAliveTimeout),
    connectionsCheckingInterval: 1000
  })
  server.maxConnections = bounds.maxConnections
  const converse = (request: Incoming, response: Http.ServerResponse) =>
    new Conversation(desk, request, response).begin()
  server.on("request", converse)
  server.on("upgrade", (request: Incoming, socket: Socket, head: Buffer) => {
    if (isRpc(request)) return rpc.upgrade(request, socket, head)
    // Node before 24.9 leaves it to us that an upgrade to something else, such as HTTP/2, is declined.
    const response = new Http.ServerResponse(request)
    response.assignSocket(socket)
    response.on("finish", () => socket.end())
    converse(request, response)
  })
  // Expectations that nobody has heard of. Node would refuse them itself, and then read the body for ever.
  server.on("checkExpectation", converse)
  server.on("checkContinue", (request: Incoming, response: Http.ServerResponse) =>
    new Conversation(desk, request, response, true).begin()
  )
  yield* Effect.acquireRelease(listen(server, bounds), () =>
    (bounds.reusePort ? handOver(server, bounds.gracefulShutdownTimeout) : Effect.void).pipe(
      Effect.andThen(
        Effect.sync(() => {
          exchange.drain()
          rpc.stop()
        })
      ),
      Effect.andThen(
        Effect.all([open.finish(bounds.gracefulShutdownTimeout), remotes.finish(bounds.gracefulShutdownTimeout)], {
          concurrency: "unbounded",
          discard: true
        })
      ),
      Effect.andThen(close(server))
    )
  )
  return server.address() as AddressInfo
})

const create = (tls: Bounds["tls"], options: Http.ServerOptions): Effect.Effect<Http.Server> => {
  if (tls === undefined) return Effect.sync(() => Http.createServer(options))
  const { clientCertificate, ...pem } = tls
  const server = () =>
    Https.createServer({
      ...options,
      ...pem,
      minVersion: "TLSv1.2",
      requestCert: clientCertificate !== "none",
      rejectUnauthorized: clientCertificate === "require",
      handshakeTimeout: options.headersTimeout
    })
  return Effect.catchDefect(Effect.sync(server), (why) =>
    Effect.die(new Error(`Invalid options of HttpIngress.layerNode: ["tls"] is not PEM, or no pair: ${String(why)}`))
  )
}

const listen = (server: Http.Server, { host, port, reusePort }: Bounds) =>
  Effect.callback<void, ListenFailed>((resume) => {
    const onError = ({ code = "", message }: NodeJS.ErrnoException) =>
      resume(Effect.fail(new ListenFailed({ host, port, reusePort, code, description: message })))
    server.once("error", onError)
    server.listen({ port, host, reusePort }, () => {
      server.off("error", onError)
      resume(Effect.void)
    })
  })

/**
 * Leaves the port to those that share it, so that new connections go to them. Who has a connection here gets one more answer, which says
 * that the connection closes.
 */
const handOver = (server: Http.Server, timeout: Duration.Duration) => {
  const handedOver = Effect.callback<void>((resume) => {
    server.once("close", () => resume(Effect.void))
    whenAccepted(server, () => {
      server.prependListener("request", sayLast)
      server.prependListener("checkContinue", sayLast)
      // Not `server.close()`, which closes idle connections, on which a request may be on its way.
      Server.prototype.close.call(server)
    })
  })
  return Effect.timeoutOption(handedOver, Math.min(Duration.toMillis(timeout), LAST_CALLS))
}

const sayLast = (_: Http.IncomingMessage, response: Http.ServerResponse) => {
  response.shouldKeepAlive = false
}

/**
 * Waits for a turn of the event loop in which nobody connects, and which is short: the system breaks off those who wait to be accepted at a
 * socket that is closed, and here they may have come since the loop has looked.
 */
const whenAccepted = (server: Http.Server, then: () => void) => {
  const until = performance.now() + LAST_CALLS / 2
  let hasAccepted = true
  let began = 0
  const onConnection = () => {
    hasAccepted = true
  }
  const look = () => {
    const now = performance.now()
    if ((hasAccepted || now - began > SHORT_TURN) && now < until) {
      hasAccepted = false
      began = now
      return void setImmediate(look)
    }
    server.off("connection", onConnection)
    then()
  }
  server.on("connection", onConnection)
  setImmediate(look)
}

const close = (server: Http.Server) =>
  Effect.callback<void>((resume) => {
    server.close(() => resume(Effect.void))
    server.closeAllConnections()
  })

/** The requests that have not been answered. */
export class OpenRequests {
  private readonly requests = new Set<{ stop(): void }>()
  private onNone: (() => void) | undefined = undefined

  add(request: { stop(): void }): void {
    this.requests.add(request)
  }

  delete(request: { stop(): void }): void {
    this.requests.delete(request)
    if (this.requests.size === 0) this.onNone?.()
  }

  /** Waits until all are answered; interrupts what takes longer than `timeout`, and gives that a second to answer. */
  finish(timeout: Duration.Duration): Effect.Effect<void> {
    const none = Effect.callback<void>((resume) => {
      if (this.requests.size === 0) return resume(Effect.void)
      this.onNone = () => resume(Effect.void)
    })
    const interrupt = Effect.sync(() => {
      for (const request of this.requests) request.stop()
    })
    return Effect.timeoutOrElse(none, {
      duration: timeout,
      orElse: () => Effect.andThen(interrupt, Effect.asVoid(Effect.timeoutOption(none, "1 second")))
    })
  }
}

/** What is done with a body that takes too long. */
interface Body {
  giveUp(): unknown
}

/** The bodies that have begun to come, the oldest first. One that takes too long is given up, within a second. */
export class Bodies {
  private readonly waiting = new Map<Body, number>()
  private readonly timeout: number
  private readonly now: () => number

  /** Both are in milliseconds. */
  constructor(timeout: number, now: () => number) {
    this.timeout = timeout
    this.now = now
  }

  begin(body: Body): void {
    this.waiting.set(body, this.now() + this.timeout)
  }

  end(body: Body): void {
    this.waiting.delete(body)
  }

  /** Gives up those whose time is over. */
  look(): void {
    const now = this.now()
    for (const [body, until] of this.waiting) {
      if (until > now) return
      this.waiting.delete(body)
      body.giveUp()
    }
  }
}
