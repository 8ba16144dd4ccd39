/**
 * A connection to the deployments of another process: a link over a WebSocket, from both its ends.
 *
 * The server says first what it takes (`hello`). When it is to stop, it says so (`leaving`), and the client answers (`left`) once it calls
 * nothing more here; what it has called goes on, and the server closes the connection when all of that has ended.
 *
 * @since 0.1.0
 */
import * as NodeWS from "@effect/platform-node/NodeWS"
import { Cause, Clock, Context, Deferred, Duration, Effect, Exit, Option, Schema, type Scope } from "effect"
import type { IncomingMessage } from "node:http"
import type * as Net from "node:net"
import { Link } from "./Link.ts"
import { type Runner, runner as plainRunner, type Served } from "./Serving.ts"
import { binary } from "./MethodCodec.ts"
import { frameSize, type Socket, SocketPort } from "./SocketPort.ts"
import * as Spans from "./Spans.ts"

/** The WebSocket subprotocol, whose number changes when two sides would not understand each other any more. */
export const PROTOCOL = "effect-serve.1"

/** What the server says first. */
const Hello = Schema.Struct({
  /** Bytes that a payload may have. */
  maxSize: Schema.Int,
  /** Bytes that the payloads of all calls may have which have not ended. */
  window: Schema.Int,
  /** Whether it believes who the client says that it calls for. */
  trustsPrincipals: Schema.Boolean,
  /** The names of the methods, each with a star after it when it streams. */
  methods: Schema.Array(Schema.String)
})

const decodeHello = Schema.decodeUnknownOption(Hello)

/** The name of a method as `hello` has it. */
export const methodName = ({ method, stream }: { readonly method: string; readonly stream: boolean }): string =>
  stream ? `${method}*` : method

/**
 * The server won't have this client, and says why: another try makes no sense unless something is changed.
 *
 * @category errors
 * @since 0.1.0
 */
export class Refused extends Schema.TaggedError<Refused>("effect-serve/Connection/Refused")("Refused", {
  url: Schema.String,
  /** Its HTTP status. */
  status: Schema.Int,
  description: Schema.String
}) {
  override get message(): string {
    return `${this.url} refused the connection with status ${this.status}: ${this.description}`
  }
}

/**
 * There is no connection to be had at the moment.
 *
 * @category errors
 * @since 0.1.0
 */
export class Unreachable extends Schema.TaggedError<Unreachable>("effect-serve/Connection/Unreachable")("Unreachable", {
  url: Schema.String,
  description: Schema.String
}) {
  override get message(): string {
    return `${this.url} can't be reached: ${this.description}`
  }
}

/**
 * Whom to call, and how.
 *
 * @category options
 * @since 0.1.0
 */
export interface Target {
  readonly url: string
  readonly deployment: string
  /** Sent along, anew each time. */
  readonly headers: Effect.Effect<Readonly<Record<string, string>>>
  readonly tls: Readonly<Partial<Record<"ca" | "cert" | "key", string>>>
  readonly maxAnswerSize: number
  readonly connectTimeout: Duration.Duration
  readonly pingTimeout: Duration.Duration
}

/**
 * An open connection, seen from the client.
 *
 * @category models
 * @since 0.1.0
 */
export interface Connection {
  readonly link: Link
  readonly hello: typeof Hello.Type
  /** Waits until nothing new may be sent: the server is to stop, or the connection has closed. */
  readonly leaving: Effect.Effect<void>
  /** Waits until it has closed. */
  readonly closed: Effect.Effect<void>
  /** Whether the server is to stop, and has said so. */
  readonly isLeaving: () => boolean
  /** Why it has closed, or will. */
  readonly why: () => string
}

/** Time for which a caller that leaves waits until its work has stopped over there. */
const CANCEL_TIMEOUT = Duration.seconds(1)

/** Opens a connection, which is closed with the scope. `lost` is how a call ends that had not ended by then, and is told why it closed. */
export const open = Effect.fnUntraced(function* (
  target: Target,
  lost: (begun: boolean, why: string) => Exit.Exit<never, unknown>
): Effect.fn.Return<Connection, Refused | Unreachable, Scope.Scope> {
  const clock = yield* Clock.Clock
  const headers = yield* Effect.catchCause(target.headers, (cause) =>
    Effect.fail(unreachable(target, `what shows who is calling failed: ${String(Cause.squash(cause))}`))
  )
  const connecting = dial(target, headers, (socket) => new Client(socket, target, clock, lost))
  const opening = Effect.gen(function* () {
    const client = yield* Effect.acquireRelease(connecting, ({ port }) => Effect.sync(() => port.fail(1000, CLOSED)), {
      interruptible: true
    })
    yield* Effect.forkScoped(client.port.keepAlive(target.pingTimeout))
    const hello = yield* Deferred.await(client.hello)
    return {
      link: client.link,
      hello,
      leaving: Deferred.await(client.leaving),
      closed: Deferred.await(client.closed),
      isLeaving: () => client.isLeaving,
      why: () => client.port.why
    } satisfies Connection
  })
  const tooSlow = unreachable(target, `there was no answer within ${Duration.format(target.connectTimeout)}`)
  return yield* Effect.timeoutOrElse(opening, {
    duration: target.connectTimeout,
    orElse: () => Effect.fail(tooSlow)
  }).pipe(Effect.provideService(Clock.Clock, wall))
})

const CLOSED = "it was closed"

const unreachable = ({ url }: Target, description: string) => new Unreachable({ url, description })

/** Opens a WebSocket. `onOpen` is called in the same moment, so that it misses nothing that comes. */
const dial = <A>(
  target: Target,
  headers: Readonly<Record<string, string>>,
  onOpen: (socket: Socket) => A
): Effect.Effect<A, Refused | Unreachable> =>
  Effect.callback<A, Refused | Unreachable>((resume) => {
    const socket = new NodeWS.WebSocket(addressOf(target), [PROTOCOL], {
      headers,
      ...target.tls,
      perMessageDeflate: false,
      maxPayload: frameSize(target.maxAnswerSize),
      // What masks are for are pages that make a browser send what a proxy takes for something else. A mask of zeros costs nothing.
      generateMask: (mask) => mask.fill(0)
    })
    let error = "it closed at once"
    let stream: Net.Socket | undefined
    const received = () => stream?.bytesRead ?? 0
    socket.on("upgrade", (response) => (stream = response.socket))
    socket.on("open", () => resume(Effect.succeed(onOpen(Object.assign(socket, { received }) as unknown as Socket))))
    socket.on("error", ({ message }) => (error = message))
    socket.on("close", () => resume(Effect.fail(unreachable(target, error))))
    socket.on("unexpected-response", (request, response) => {
      answerOf(response, (description) => {
        request.destroy()
        resume(Effect.fail(refusal(target, response.statusCode ?? 0, description)))
      })
    })
    return Effect.sync(() => socket.terminate())
  })

/** The answer to who may not connect: now, or ever. */
const refusal = (target: Target, status: number, description: string): Refused | Unreachable =>
  status >= 400 && status < 500 && status !== 429
    ? new Refused({ url: target.url, status, description })
    : unreachable(target, `it answered with status ${status}: ${description}`)

/** The client's end of an open socket. */
class Client {
  readonly port: SocketPort
  readonly link: Link
  readonly hello = Deferred.makeUnsafe<typeof Hello.Type, Unreachable>()
  readonly leaving = Deferred.makeUnsafe<void>()
  readonly closed = Deferred.makeUnsafe<void>()
  isLeaving = false
  private readonly target: Target

  constructor(
    socket: Socket,
    target: Target,
    clock: Clock.Clock,
    lost: (begun: boolean, why: string) => Exit.Exit<never, unknown>
  ) {
    this.target = target
    this.port = new SocketPort(socket, { carried: Infinity, largest: target.maxAnswerSize })
    this.link = new Link({
      port: this.port,
      form: binary,
      clock,
      spans: Spans.ofPeer,
      runner: plainRunner,
      patience: CANCEL_TIMEOUT,
      onNote: (name, value) => {
        if (name === "hello") this.greeted(value)
        else if (name === "leaving") this.left()
      }
    })
    this.link.closeWithPeer(() => {
      // Before the calls have ended that are lost with it, so that none is made again here.
      Deferred.doneUnsafe(this.leaving, Exit.void)
      // Once they have.
      queueMicrotask(() => {
        Deferred.doneUnsafe(this.hello, Exit.fail(unreachable(target, this.port.why)))
        Deferred.doneUnsafe(this.closed, Exit.void)
      })
      return (begun) => lost(begun, this.port.why)
    })
    this.link.note("maxAnswerSize", target.maxAnswerSize)
  }

  private greeted(value: unknown): void {
    const said = decodeHello(value)
    if (Option.isNone(said)) {
      Deferred.doneUnsafe(this.hello, Exit.fail(unreachable(this.target, "it said something else than hello")))
      return
    }
    this.port.maxSize = Math.max(said.value.maxSize, 0)
    this.port.sendsPrincipals = said.value.trustsPrincipals
    Deferred.doneUnsafe(this.hello, Exit.succeed(said.value))
  }

  private left(): void {
    this.isLeaving = true
    this.port.why = "its server stops"
    Deferred.doneUnsafe(this.leaving, Exit.void)
  }
}

const addressOf = ({ deployment, url }: Target) => {
  const address = new URL(url)
  address.pathname = `${address.pathname.replace(/\/$/, "")}/-/rpc`
  address.protocol = address.protocol.replace("http", "ws")
  address.searchParams.set("deployment", deployment)
  return address
}

const decodeProblem = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Struct({ message: Schema.String })))

/** What an HTTP answer says in words, of which not much is read. */
const answerOf = (response: IncomingMessage, done: (text: string) => void) => {
  let body = ""
  response.setEncoding("utf8")
  response.on("data", (text: string) => {
    body += text
    if (body.length > 4096) response.destroy()
  })
  response.on("close", () => {
    const problem = decodeProblem(body)
    done(Option.isSome(problem) ? problem.value.message : body.slice(0, 200))
  })
}

/**
 * What a client may call over a connection, and within which bounds.
 *
 * @category options
 * @since 0.1.0
 */
export interface Offer {
  readonly methods: ReadonlyMap<string, Served>
  readonly maxSize: number
  readonly window: number
  readonly trustsPrincipals: boolean
  readonly pingTimeout: Duration.Duration
  readonly runner: Runner
  /** Makes a call part of the trace in which it comes. */
  readonly under: Spans.Spans["under"]
}

/**
 * A connection as the server has it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Accepted {
  /** Waits until it has closed. */
  readonly closed: Effect.Effect<void>
  /** Tells the client to call nothing more, waits until all has ended that it has called, and closes the connection. */
  readonly leave: Effect.Effect<void>
  /** Closes it at once, and stops what was called over it. */
  readonly end: () => void
}

/** Time that a client gets to say that it calls nothing more. */
const LEAVE_TIMEOUT = "5 seconds"
/** Time for what the system has to get to the client, and for the client to close its side. */
const CLOSE_TIMEOUT = "5 seconds"

/** Serves on a socket that is open, until it closes. */
export const accept = Effect.fnUntraced(function* (socket: Socket, offer: Offer): Effect.fn.Return<Accepted> {
  const clock = yield* Clock.Clock
  const left = Deferred.makeUnsafe<void>()
  const closed = Deferred.makeUnsafe<void>()
  // Twice the window, because a client looks at it before it knows the size of what it sends.
  const port = new SocketPort(socket, { carried: 2 * offer.window + offer.maxSize, largest: offer.maxSize })
  const link = new Link({
    port,
    form: binary,
    clock,
    spans: { ...Spans.ofPeer, under: offer.under },
    runner: offer.runner,
    onNote: (name, value) => {
      if (name === "left") Deferred.doneUnsafe(left, Exit.void)
      if (name === "maxAnswerSize" && Number.isSafeInteger(value)) port.maxSize = Math.max(Number(value), 0)
    }
  })
  for (const [name, served] of offer.methods) link.served.set(name, served)
  const methods = Array.from(offer.methods.values(), ({ codec }) => methodName(codec))
  const { maxSize, trustsPrincipals, window } = offer
  link.note("hello", { maxSize, window, trustsPrincipals, methods } satisfies typeof Hello.Encoded)
  const alive = Effect.runFork(port.keepAlive(offer.pingTimeout))
  link.closeWithPeer(() => {
    alive.interruptUnsafe()
    Deferred.doneUnsafe(left, Exit.void)
    Deferred.doneUnsafe(closed, Exit.void)
    return () => Exit.die(new Error(port.why))
  })
  return {
    closed: Deferred.await(closed),
    leave: Effect.gen(function* () {
      link.note("leaving", undefined)
      yield* Effect.timeoutOption(Deferred.await(left), LEAVE_TIMEOUT)
      yield* link.idle
      yield* port.sent
      port.close(1001, "the server stops")
      yield* Effect.timeoutOption(Deferred.await(closed), CLOSE_TIMEOUT)
    }).pipe(Effect.provideService(Clock.Clock, wall)),
    end: () => port.fail(1001, "the server stops")
  }
})

// Connections take real time, whatever the clock of the program.
const wall = Context.get(Context.empty(), Clock.Clock)
