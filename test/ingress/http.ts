import { NodeHttpServer } from "@effect/platform-node"
import { assert, layer, vi, type Vitest } from "@effect/vitest"
import { Deployment, HttpIngress, HttpSchema, RequestContext } from "effect-serve"
import { Effect, Layer, Logger, Metric, Schema, Stream } from "effect"
import { HttpServer } from "effect/http"
import { HttpApiSchema } from "effect/http-api"
import { Rpc } from "effect/rpc"
import { readFileSync } from "node:fs"
import { createServer } from "node:http"
import { connect, type Socket } from "node:net"

/** The error that the methods below declare. */
export class Lost extends Schema.TaggedError<Lost>()("Lost", { id: Schema.Int }, { httpApiStatus: 404 }) {}

const Bytes = Schema.Uint8Array.pipe(HttpApiSchema.asUint8Array())
const Wav = Schema.Uint8Array.pipe(HttpApiSchema.asUint8Array({ contentType: "audio/wav" }))
const Text = Schema.String.pipe(HttpApiSchema.asText())
const Csv = Schema.String.pipe(HttpApiSchema.asText({ contentType: "text/csv" }))
const any = { payload: Schema.Unknown, success: Schema.Unknown, error: Lost }
const none = { success: Schema.Unknown, error: Lost }

const methods = [
  Rpc.make("run", any),
  Rpc.make("elements", { ...any, stream: true }),
  Rpc.make("letters", { ...any, success: Schema.Literals(["a", "b"]), stream: true }),
  Rpc.make("events", { ...any, success: HttpSchema.Event(Schema.Unknown), stream: true }),
  Rpc.make("count", { ...any, payload: { to: Schema.Int }, stream: true }),
  Rpc.make("speech", { ...any, success: Wav, stream: true }),
  Rpc.make("poem", { ...any, success: Text, stream: true }),
  Rpc.make("bytes", { ...any, payload: Bytes, success: Bytes }),
  Rpc.make("wav", { ...any, payload: Wav, success: Wav }),
  Rpc.make("text", { ...any, payload: Text, success: Text }),
  Rpc.make("csv", { ...any, payload: Csv, success: Csv }),
  Rpc.make("upload", { ...none, payload: HttpSchema.Upload() }),
  Rpc.make("listen", { ...none, payload: HttpSchema.Upload({ contentType: "audio/*" }) }),
  Rpc.make("look", { ...none, payload: HttpSchema.Upload({ contentType: ["image/png", "image/jpeg"] }) }),
  Rpc.make("transcribe", { ...none, payload: HttpSchema.Upload(), stream: true }),
  Rpc.make("form", { ...none, payload: HttpSchema.Multipart() })
] as const

/** Deployments whose handlers do what a test says, each with its own options. */
export class Stage extends Deployment.Service<Stage>()("Stage", methods) {}
export class Solo extends Deployment.Service<Solo>()("Solo", methods) {}
export class Early extends Deployment.Service<Early>()("Early", methods) {}
export class Hasty extends Deployment.Service<Hasty>()("Hasty", methods) {}

type Work = Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown>
const acts = new Map<string, (payload: any) => Work>()

/** Makes the handlers do this for requests with the id that it returns. */
export const act = (work: Work | ((payload: any) => Work)): { readonly "x-request-id": string } => {
  const id = `act-${acts.size}`
  acts.set(id, typeof work === "function" && !Effect.isEffect(work) ? work : () => work as Work)
  return { "x-request-id": id }
}

const perform = (payload: unknown) =>
  Effect.map(RequestContext.RequestContext, ({ requestId }) => {
    const work = acts.get(requestId)
    if (work === undefined) throw new Error(`No act "${requestId}"`)
    return work(payload)
  })

const streams: ReadonlySet<string> = new Set(["elements", "letters", "events", "count", "speech", "poem", "transcribe"])

const handlers = Object.fromEntries(
  methods.map(({ _tag }) => [
    _tag,
    (payload: unknown) =>
      streams.has(_tag)
        ? Stream.unwrap(perform(payload) as Effect.Effect<Stream.Stream<unknown, unknown>>)
        : Effect.flatten(perform(payload) as Effect.Effect<Effect.Effect<unknown, unknown>>)
  ])
) as any

const one = { maxOngoingRequests: 1, maxQueuedRequests: 0, gracefulShutdownTimeout: 0 }

const Deployments = Layer.mergeAll(
  Stage.toLayer(handlers, { maxOngoingRequests: 50, gracefulShutdownTimeout: 0 }),
  Solo.toLayer(handlers, one),
  Early.toLayer(handlers, { ...one, releasePermit: "firstElement" }),
  Hasty.toLayer(handlers, { requestTimeout: "150 millis" })
)

const routes = { "/stage": Stage, "/solo": Solo, "/early": Early, "/hasty": Hasty, "/counted": Stage } as const

export const Quiet = Layer.mergeAll(
  Logger.layer([]),
  Layer.sync(Metric.MetricRegistry, () => new Map())
)

export const addressOf = Layer.effect(
  HttpIngress.Address,
  Effect.map(HttpServer.HttpServer, ({ address }) => {
    const port = "port" in address ? address.port : 0
    return { host: "127.0.0.1", port, url: `http://127.0.0.1:${port}` }
  })
)

/** How the same routes are served. */
export type ServerName = "layerNode" | "layerNode, on a thread of its own" | "layer"

type Ingress<R> = Layer.Layer<HttpIngress.Address, unknown, R>

/** Ingresses on all servers. */
export const ingresses = <const R extends HttpIngress.Routes>(
  routes: R,
  options: typeof HttpIngress.Options.Encoded = {},
  gracefulShutdownTimeout: `${number} millis` = "100 millis"
): Record<ServerName, Ingress<HttpIngress.Services<R>>> => {
  const written = { ...options, processGate: false }
  const onNode = { ...written, port: 0, gracefulShutdownTimeout }
  const Server = NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 0, gracefulShutdownTimeout })
  return {
    layerNode: HttpIngress.layerNode(routes, { ...onNode, ownThread: false }),
    "layerNode, on a thread of its own": HttpIngress.layerNode(routes, { ...onNode, ownThread: true }),
    layer: Layer.merge(addressOf, HttpIngress.layer(routes, written)).pipe(Layer.provide(Server))
  }
}

/** The deployments above, served by an ingress. */
const appOn = (Ingress: Ingress<Stage | Solo | Early | Hasty>) =>
  Ingress.pipe(Layer.provideMerge(Deployments), Layer.provideMerge(Quiet))

/** The same on all servers. */
export const apps = (...options: [options?: typeof HttpIngress.Options.Encoded, shutdown?: `${number} millis`]) =>
  Object.entries(ingresses(routes, ...options)).map(([name, Ingress]) => ({
    name: name as ServerName,
    App: appOn(Ingress)
  }))

type Provided = Layer.Success<ReturnType<typeof appOn>>

/** Runs tests on each server, which the tests of a server share. */
export const onEachServer = (
  title: string,
  { concurrent = true, ...options }: typeof HttpIngress.Options.Encoded & { readonly concurrent?: boolean },
  tests: (it: Vitest.MethodsNonLive<Provided>, server: ServerName) => void
): void => {
  // The machine may be busy with other things.
  vi.setConfig({ testTimeout: 30_000 })
  for (const { App, name } of apps(options)) {
    layer(App, { excludeTestServices: true, timeout: "20 seconds", concurrent })(`${title}, on ${name}`, (it) =>
      tests(it, name)
    )
  }
}

export const send = (path: string, init: RequestInit = {}) =>
  Effect.gen(function* () {
    const { url } = yield* HttpIngress.Address
    const response = yield* Effect.promise((signal) => fetch(url + path, { signal, ...init }))
    const text = yield* Effect.promise(() => response.text())
    return {
      status: response.status,
      headers: response.headers,
      text,
      body: response.headers.get("content-type") === "application/json" && text !== "" ? JSON.parse(text) : text
    }
  })

export const post = (path: string, body: unknown, headers: Record<string, string> = {}) =>
  send(path, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body)
  })

/** An answer as far as it has come. */
export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  /** What the server has written at once: the chunks of a body, or all of one that is not chunked. */
  readonly writes: ReadonlyArray<string>
  readonly bytes: Buffer
  readonly text: string
  /** Whether it has come to its end. */
  readonly isComplete: boolean
}

const HEAD_END = "\r\n\r\n"

/** Takes an answer apart that is at the beginning of what has come. */
const parse = (bytes: Buffer): Answer & { readonly length: number } => {
  const end = bytes.indexOf(HEAD_END)
  if (end === -1) return { status: 0, headers: {}, writes: [], bytes, text: "", isComplete: false, length: 0 }
  const [first = "", ...lines] = bytes.toString("latin1", 0, end).split("\r\n")
  const headers = Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()])
  )
  const { isComplete, length, pieces } =
    headers["transfer-encoding"] === "chunked"
      ? dechunk(bytes, end + HEAD_END.length)
      : whole(bytes, end + HEAD_END.length, Number(headers["content-length"] ?? 0))
  const body = Buffer.concat(pieces)
  const writes = pieces.map(String)
  const status = Number(first.split(" ")[1])
  return { status, headers, writes, bytes: body, text: body.toString(), isComplete, length }
}

const whole = (bytes: Buffer, from: number, length: number) => ({
  pieces: [bytes.subarray(from, from + length)],
  isComplete: bytes.length >= from + length,
  length: from + length
})

const dechunk = (bytes: Buffer, start: number) => {
  const pieces: Array<Buffer> = []
  let from = start
  for (;;) {
    const end = bytes.indexOf("\r\n", from)
    if (end === -1) break
    const size = Number.parseInt(bytes.toString("latin1", from, end), 16)
    if (bytes.length < end + 2 + size + 2) break
    from = end + 2 + size + 2
    if (size === 0) return { pieces, isComplete: true, length: from }
    pieces.push(bytes.subarray(end + 2, end + 2 + size))
  }
  return { pieces, isComplete: false, length: from }
}

const port = (port: number) => `:${port.toString(16).toUpperCase().padStart(4, "0")}`

/** What the system knows of an end of a connection: the bytes it has sent that have not been received, and those received but not read. */
const endOf = (local: number, remote: number) => {
  for (const line of readFileSync("/proc/net/tcp", "latin1").split("\n")) {
    const [, from, to, , queues, , , , , inode] = line.trim().split(/\s+/)
    if (from?.endsWith(port(local)) !== true || to?.endsWith(port(remote)) !== true) continue
    const [sent = 0, received = 0] = queues!.split(":").map((size) => Number.parseInt(size, 16))
    return { sent, received, isOpen: inode !== "0" }
  }
  return { sent: 0, received: 0, isOpen: false }
}

/** A client that reads and writes when it is told to. */
export class Client {
  readonly socket: Socket
  /** Whether the connection is closed. */
  isClosed = false
  /** Whether the server has closed its side. */
  hasEnded = false
  private pieces: Array<Buffer> = []
  private past = 0

  constructor(socket: Socket) {
    this.socket = socket
    socket.on("data", (piece) => this.pieces.push(piece))
    socket.on("error", () => {})
    socket.on("end", () => (this.hasEnded = true))
    socket.on("close", () => (this.isClosed = true))
  }

  private get bytes(): Buffer {
    const bytes = Buffer.concat(this.pieces)
    this.pieces = [bytes]
    return bytes.subarray(this.past)
  }

  /** What has been read of the answer that comes. */
  get answer(): Answer {
    return parse(this.bytes)
  }

  /** How much of the connection this process has taken from the system, if only to keep it. */
  get taken(): number {
    return this.socket.bytesRead
  }

  /** How much of it has been read. */
  get size(): number {
    return this.pieces.reduce((size, { length }) => size + length, 0)
  }

  /** How much of it waits in the buffers of the system. */
  get kernel(): number {
    const { localPort, remotePort } = this.socket
    return endOf(remotePort!, localPort!).sent + endOf(localPort!, remotePort!).received
  }

  /** How much of what has been sent the server has taken from the system. */
  get given(): number {
    const { bytesWritten, localPort, remotePort, writableLength } = this.socket
    const waiting = endOf(localPort!, remotePort!).sent + endOf(remotePort!, localPort!).received
    return bytesWritten - writableLength - waiting
  }

  /** Whether the server still has its end of the connection. */
  get isKept(): boolean {
    return endOf(this.socket.remotePort!, this.socket.localPort!).isOpen
  }

  /** Looks at the next answer from now on. */
  next(): void {
    this.past += parse(this.bytes).length
  }

  write(bytes: string | Uint8Array): void {
    this.socket.write(bytes)
  }

  /** Sends a request, or its head when its length is given. */
  ask(path: string, { body = "", headers = {}, length, verb = "POST" }: Request = {}): void {
    const lines = {
      host: "127.0.0.1",
      "content-type": "application/json",
      ...(length === "chunked"
        ? { "transfer-encoding": "chunked" }
        : { "content-length": length ?? Buffer.byteLength(body) }),
      ...headers
    }
    const head = Object.entries(lines).map(([name, value]) => `${name}: ${value}\r\n`)
    this.socket.write(`${verb} ${path} HTTP/1.1\r\n${head.join("")}\r\n`)
    if (body.length > 0) this.socket.write(body)
  }
}

interface Request {
  readonly verb?: string
  readonly headers?: Record<string, string>
  readonly body?: string | Uint8Array
  readonly length?: number | "chunked"
  /** Whether the client keeps its side open when the server closes its own. */
  readonly halfOpen?: boolean
}

/** Opens a connection, until the scope closes. */
const dial = (allowHalfOpen = false) =>
  Effect.flatMap(HttpIngress.Address, ({ port }) =>
    Effect.acquireRelease(
      Effect.callback<Client>((resume) => {
        const socket = connect({ port, host: "127.0.0.1", allowHalfOpen }, () =>
          resume(Effect.succeed(new Client(socket)))
        )
        socket.setNoDelay()
      }),
      ({ socket }) => Effect.sync(() => socket.destroy())
    )
  )

/** Opens a connection and sends a request. */
export const ask = (path: string, request: Request = {}) =>
  Effect.map(dial(request.halfOpen), (client) => {
    client.ask(path, request)
    return client
  })

/** Sends bytes as fast as they are taken, to the end or until the connection is closed. */
export const pour = ({ socket }: Client, pieces: Iterable<Uint8Array | string>) =>
  Effect.gen(function* () {
    for (const piece of pieces) {
      if (socket.destroyed) return
      if (socket.write(piece)) continue
      yield* Effect.callback<void>((resume) => {
        const go = () => resume(Effect.void)
        socket.once("drain", go)
        socket.once("close", go)
      })
    }
  })

/** A chunk of a body as HTTP has it. */
export const chunk = (content: Uint8Array | string) => {
  const bytes = Buffer.from(content as string)
  return Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from("\r\n")])
}

export const LAST_CHUNK = "0\r\n\r\n"

/** Waits until something is so, for at most 8 seconds, with a look every so many milliseconds. */
export const until = (condition: () => boolean, every = 1) =>
  Effect.gen(function* () {
    const end = performance.now() + 8000
    while (!condition()) {
      if (performance.now() > end) return yield* Effect.die(new Error(`never so: ${condition.toString()}`))
      yield* Effect.sleep(every)
    }
  })

/** The milliseconds until something is so. */
export const timeUntil = (condition: () => boolean, every = 1) =>
  Effect.suspend(() => {
    const start = performance.now()
    return Effect.map(until(condition, every), () => performance.now() - start)
  })

/** Waits until a number has not changed for so many milliseconds, and gives it. */
export const settled = (read: () => number, millis = 100) =>
  Effect.gen(function* () {
    let since = performance.now()
    let value = read()
    const end = since + 8000
    while (performance.now() - since < millis) {
      yield* Effect.sleep(10)
      const next = read()
      if (next !== value) since = performance.now()
      value = next
      if (since > end) return yield* Effect.die(new Error("it goes on and on"))
    }
    return value
  })

/** Waits until a deployment runs so many requests, and gives its state. */
export const untilRunning = <S extends { readonly running: number }, R>(
  stateOf: Effect.Effect<S, never, R>,
  count: number
) =>
  Effect.gen(function* () {
    const end = performance.now() + 8000
    for (;;) {
      const state = yield* stateOf
      if (state.running === count) return state
      if (performance.now() > end) return yield* Effect.die(new Error(`never ${count}: ${state.running}`))
      yield* Effect.sleep(1)
    }
  })

/** How often a path of the ingress has answered with each status. A server on a thread tells it once a second. */
const countsOf = (route: string) =>
  Effect.map(Metric.snapshot, (metrics) =>
    Object.fromEntries(
      metrics.flatMap((metric) =>
        metric.id === "serve_http_requests_total" && metric.type === "Counter" && metric.attributes?.["route"] === route
          ? [[metric.attributes["status"]!, Number(metric.state.count)]]
          : []
      )
    )
  )

/** Waits until a path of the ingress has been counted so often, by status. */
export const untilCounted = (route: string, counts: Readonly<Record<string, number>>) =>
  Effect.gen(function* () {
    const total = Object.values(counts).reduce((sum, count) => sum + count, 0)
    const end = performance.now() + 8000
    for (;;) {
      const seen = yield* countsOf(route)
      const sum = Object.values(seen).reduce((sum, count) => sum + count, 0)
      if (sum >= total || performance.now() > end) return assert.deepStrictEqual(seen, counts)
      yield* Effect.sleep(5)
    }
  })

/** A server-sent event. */
export interface ServerEvent {
  readonly event?: string
  readonly id?: string
  readonly data?: unknown
  readonly comment?: string
}

/** The events of a text that ends with one, as the HTML standard reads them. */
export const eventsOf = (text: string): ReadonlyArray<ServerEvent> => {
  assert.match(text, /^$|\n\n$/)
  return text
    .split("\n\n")
    .slice(0, -1)
    .map((event) =>
      Object.fromEntries(
        event.split("\n").map((line) => {
          const colon = line.indexOf(":")
          const name = line.slice(0, colon) || "comment"
          const value = line.slice(colon + 1).replace(/^ /, "")
          return [name, name === "data" ? JSON.parse(value) : value]
        })
      )
    )
}

/** The error that an event tells of. */
export const errorOf = (event: ServerEvent | undefined): any => {
  assert.strictEqual(event?.event, "error")
  return event?.data
}

/** The values of lines of JSON. */
export const linesOf = (text: string): ReadonlyArray<any> => {
  assert.match(text, /^$|\n$/)
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line))
}
