/** `FUZZ_SEED=<seed>` sends the same requests again. */
import { assert, describe, it } from "@effect/vitest"
import { Auth, Deployment, HttpIngress, HttpSchema } from "effect-serve"
import { Cause, Effect, Layer, Schema, Stream } from "effect"
import { HttpApiSchema } from "effect/http-api"
import { Rpc } from "effect/rpc"
import { connect, type Socket } from "node:net"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { post, Quiet } from "./http.ts"
import { Dice, fuzzed, type FuzzedRequest } from "./requests.ts"
import { servers } from "./servers.ts"

const seed = Number(process.env["FUZZ_SEED"] ?? Math.floor(Math.random() * 2 ** 31))
const COUNT = 10_000
/** Of each server. */
const CONNECTIONS = 6

interface Tree {
  readonly value: number
  readonly children: ReadonlyArray<Tree>
}
const Tree = Schema.Struct({
  value: Schema.Int,
  children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
})

class Teapot extends Schema.TaggedError<Teapot>()("Teapot", {}, { httpApiStatus: 418 }) {}
class Declared extends Schema.TaggedError<Declared>()("Declared", {}) {}

class Lab extends Deployment.Service<Lab>()("Lab", [
  Rpc.make("echo", { payload: Schema.Unknown, success: Schema.Unknown }),
  Rpc.make("strict", {
    payload: {
      a: Schema.Number,
      n: Schema.Int,
      at: Schema.Date,
      kind: Schema.Literals(["x", "y"]),
      big: Schema.BigInt
    },
    success: Schema.Struct({ a: Schema.Number, at: Schema.Date, big: Schema.BigInt })
  }),
  Rpc.make("tree", { payload: Tree, success: Tree }),
  Rpc.make("record", {
    payload: Schema.Record(Schema.String, Schema.Number),
    success: Schema.Record(Schema.String, Schema.Number)
  }),
  Rpc.make("text", {
    payload: Schema.String.pipe(HttpApiSchema.asText()),
    success: Schema.String.pipe(HttpApiSchema.asText())
  }),
  Rpc.make("bytes", {
    payload: Schema.Uint8Array.pipe(HttpApiSchema.asUint8Array()),
    success: Schema.Uint8Array.pipe(HttpApiSchema.asUint8Array())
  }),
  Rpc.make("upload", { payload: HttpSchema.Upload(), success: Schema.Int }),
  Rpc.make("form", { payload: HttpSchema.Multipart(), success: Schema.Array(Schema.String) }),
  Rpc.make("tokens", {
    payload: { n: Schema.Int.check(Schema.isLessThanOrEqualTo(10)) },
    success: Schema.Int,
    stream: true
  }),
  Rpc.make("fail", {
    payload: { how: Schema.Literals(["teapot", "declared"]) },
    error: Schema.Union([Teapot, Declared])
  }),
  Rpc.make("none")
]) {}

const LabLive = Lab.toLayer(
  {
    echo: Effect.succeed,
    strict: Effect.succeed,
    tree: Effect.succeed,
    record: Effect.succeed,
    text: Effect.succeed,
    bytes: Effect.succeed,
    upload: Stream.runFold(
      () => 0,
      (size, piece: Uint8Array) => size + piece.length
    ),
    form: (parts) =>
      Stream.runCollect(
        Stream.mapEffect(parts, (part) =>
          part._tag === "Field" ? Effect.succeed(part.name) : Effect.as(Stream.runDrain(part.content), part.name)
        )
      ),
    tokens: ({ n }) => Stream.take(Stream.range(1, 10), Math.max(n, 0)),
    fail: ({ how }) => Effect.fail(how === "teapot" ? new Teapot() : new Declared()),
    none: () => Effect.void
  },
  { maxOngoingRequests: 1000, gracefulShutdownTimeout: 0 }
)

const options = {
  maxBodySize: 300_000,
  receiveTimeout: "500 millis",
  processGate: false,
  authorize: Auth.bearer({ t0: "ada" })
} as const
const more = { compression: {}, cors: { origins: ["https://app.example.com"] } }
const ingresses = {
  ...servers({ "/lab": Lab }, { ...options, ...more }),
  // This is faster, and another way through.
  "layerNode, with neither compression nor cors": servers({ "/lab": Lab }, options)["layerNode"]!
}

interface Answer {
  readonly status: number
  readonly headers: ReadonlyMap<string, string>
  readonly body: Buffer
  readonly length: number
}

/** The answer at the beginning of what has come, when all of it is there, or when nothing more comes. */
const parse = (bytes: Buffer, verb: string, isClosed: boolean): Answer | undefined => {
  const end = bytes.indexOf("\r\n\r\n")
  if (end === -1) return undefined
  const [first = "", ...lines] = bytes.toString("latin1", 0, end).split("\r\n")
  const headers = new Map(
    lines.map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 2)])
  )
  const status = Number(first.split(" ")[1])
  const from = end + 4
  const whole = (body: Buffer, length: number): Answer => ({ status, headers, body, length })
  if (status < 200 || status === 204 || verb === "HEAD") return whole(Buffer.alloc(0), from)
  const length = headers.get("content-length")
  if (length !== undefined) {
    const to = from + Number(length)
    return bytes.length < to ? undefined : whole(bytes.subarray(from, to), to)
  }
  if (headers.get("transfer-encoding") === "chunked") {
    const to = bytes.indexOf("0\r\n\r\n", from)
    return to === -1 ? undefined : whole(bytes.subarray(from, to), to + 5)
  }
  return isClosed ? whole(bytes.subarray(from), bytes.length) : undefined
}

/** Sends requests one after the other, over as few connections as the server lets it. */
class Client {
  private socket: Socket | undefined = undefined
  private readonly port: number
  private received = Buffer.alloc(0)
  private isClosed = false
  private wake = () => {}

  constructor(port: number) {
    this.port = port
  }

  private async connect(): Promise<Socket> {
    if (this.socket !== undefined && !this.isClosed && !this.socket.destroyed) return this.socket
    const socket = connect({ port: this.port, host: "127.0.0.1", noDelay: true })
    this.socket = socket
    this.received = Buffer.alloc(0)
    this.isClosed = false
    socket.on("error", () => {})
    socket.on("data", (bytes) => {
      this.received = Buffer.concat([this.received, bytes])
      this.wake()
    })
    socket.on("close", () => {
      if (this.socket !== socket) return
      this.isClosed = true
      this.wake()
    })
    await new Promise<void>((resolve) => {
      socket.once("connect", resolve)
      socket.once("close", () => resolve())
    })
    return socket
  }

  /** All answers to a request: those that say that it may go on, and the last one, if the connection doesn't end before. */
  async send(request: FuzzedRequest): Promise<ReadonlyArray<Answer>> {
    let isLate = false
    const patience = setTimeout(() => {
      isLate = true
      this.wake()
    }, 8000)
    try {
      return await this.exchange(request, () => isLate)
    } finally {
      clearTimeout(patience)
    }
  }

  private async exchange({ bytes, cut, verb }: FuzzedRequest, isLate: () => boolean): Promise<ReadonlyArray<Answer>> {
    const socket = await this.connect()
    socket.write(bytes)
    if (cut === "closed") socket.end()
    const answers: Array<Answer> = []
    for (;;) {
      const answer = parse(this.received, verb, this.isClosed)
      if (answer !== undefined) {
        this.received = this.received.subarray(answer.length)
        answers.push(answer)
        if (answer.status < 200) continue
        // Where its end isn't known, neither is what the rest of it would be taken for. And after a request that asks for another
        // protocol, and doesn't get it, Node says nothing to what it can't read, and closes the connection when it has been idle.
        if (
          cut !== "no" ||
          /\r\nupgrade:/i.test(bytes.toString("latin1")) ||
          answer.headers.get("connection")?.toLowerCase() !== "keep-alive"
        )
          this.close()
        return answers
      }
      if (this.isClosed) return answers
      if (isLate()) throw new Error(`no answer, but ${JSON.stringify(this.received.toString("latin1"))}`)
      await new Promise<void>((resolve) => (this.wake = resolve))
    }
  }

  close(): void {
    this.socket?.destroy()
    this.socket = undefined
  }
}

const gc: () => void = (() => {
  setFlagsFromString("--expose-gc")
  return runInNewContext("gc") as () => void
})()

const heap = () => {
  gc()
  return process.memoryUsage().heapUsed / 2 ** 20
}

const JSON_TYPE = "application/json"

/** What is wrong with an answer. */
const wrong = ({ bytes, verb }: FuzzedRequest, { body, headers, status }: Answer): string | undefined => {
  if (!headers.has("x-request-id")) {
    return status < 500 && (status >= 400 || status === 100) ? undefined : "comes from nowhere"
  }
  if (!/^[\x21-\x7e]{1,128}$/.test(headers.get("x-request-id")!)) return "has an unfit id"
  if (verb === "HEAD" || status < 400) return undefined
  if (headers.has("content-encoding")) return "is compressed, and so large"
  if (headers.get("content-type") !== JSON_TYPE) return "is not JSON"
  const failure = JSON.parse(body.toString()) as { readonly _tag: string; readonly message?: string }
  if (failure._tag === "Teapot" || failure._tag === "Declared") return undefined
  if (status >= 500 && !(status === 504 && /x-request-timeout/.test(bytes.toString("latin1")))) return "is a 5xx"
  return failure.message === undefined || failure.message === "" ? "says nothing" : undefined
}

/** A request with what is repeated in it only once. */
const describeRequest = ({ bytes, cut }: FuzzedRequest) => {
  const text = bytes
    .toString("latin1")
    .replaceAll(/(.{1,30}?)\1{9,}/gs, (all, [...part]) => `${part.join("")}<${all.length}>`)
  return `${JSON.stringify(text.slice(0, 3000))}, ${bytes.length} bytes, cut: ${cut}`
}

/** Sends requests to one server, and gives how often each status was answered. */
const attack = (count: number, onSent: () => void) =>
  Effect.gen(function* () {
    const { port } = yield* HttpIngress.Address
    const statuses: Record<number, number> = {}
    let left = count
    const talk = async (dice: Dice) => {
      const client = new Client(port)
      for (; left > 0; left--) {
        onSent()
        const request = fuzzed(dice)
        const answers = await client.send(request).catch((error: Error) => {
          throw new Error(`${error.message} to ${describeRequest(request)}`)
        })
        for (const answer of answers) {
          statuses[answer.status] = (statuses[answer.status] ?? 0) + 1
          const why = wrong(request, answer)
          if (why === undefined) continue
          const text = answer.body.toString("latin1", 0, 500)
          throw new Error(`The answer ${why}: ${answer.status} ${text} to ${describeRequest(request)}`)
        }
      }
      client.close()
    }
    const dices = Array.from({ length: CONNECTIONS }, (_, i) => new Dice(seed + i))
    yield* Effect.promise(() => Promise.all(dices.map(talk)))
    const normal = yield* post("/lab/echo", { a: 1 }, { authorization: "Bearer t0" })
    assert.deepStrictEqual([normal.status, normal.body], [200, { a: 1 }])
    return statuses
  })

describe("HttpIngress, fuzzed", { timeout: 60_000 }, () => {
  it.live("answers whatever is sent with what was wrong with it, and goes on", () =>
    Effect.gen(function* () {
      const unhandled: Array<unknown> = []
      const note = (error: unknown) => void unhandled.push(error)
      process.on("unhandledRejection", note).on("uncaughtException", note)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => process.off("unhandledRejection", note).off("uncaughtException", note))
      )
      const inPrototype = Reflect.ownKeys(Object.prototype)
      let sent = 0
      let before = 0
      const onSent = () => {
        if (++sent === COUNT / 10) before = heap()
      }
      const all = Object.entries(ingresses)
      yield* Effect.forEach(
        all,
        ([name, ingress]) =>
          attack(COUNT / all.length, onSent).pipe(
            Effect.provide(ingress.pipe(Layer.provide(LabLive), Layer.provideMerge(Quiet))),
            Effect.tap((statuses) =>
              Effect.sync(() =>
                assert.containsAllKeys(statuses, [100, 200, 400, 401, 404, 405, 413, 415, 418, 431, 500, 504])
              )
            ),
            Effect.catchCause((cause) =>
              Effect.die(new Error(`FUZZ_SEED=${seed}, ${name}: ${String(Cause.squash(cause))}`))
            )
          ),
        { concurrency: "unbounded", discard: true }
      )
      assert.deepStrictEqual(unhandled, [])
      assert.deepStrictEqual(Reflect.ownKeys(Object.prototype), inPrototype)
      assert.isBelow(heap() - before, 15, "MiB more")
    }).pipe(Effect.scoped)
  )
})
