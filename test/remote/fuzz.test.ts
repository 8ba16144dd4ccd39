/**
 * `FUZZ_SEED=<seed>` sends the same frames again.
 *
 * Seen red for each of these mutations. SocketPort: text is taken, or ignored; an unfit frame is ignored, or its error is thrown. Frame:
 * bytes that mean nothing are taken, or a time that is none. Serving: a call takes the place of another one. Link: work goes on without its
 * connection. Connection: answers may have less than no bytes. RemoteCalls: what is the client's fault is logged. Exchange: any subprotocol
 * will do, or any deployment, or anybody. RpcServer: any path will do.
 */
import * as NodeWS from "@effect/platform-node/NodeWS"
import { assert, describe, it } from "@effect/vitest"
import { Auth, Deployment, HttpIngress, RequestContext } from "effect-serve"
import { Cause, Effect, Fiber, Layer, Metric, Redacted, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { PROTOCOL } from "../../src/wire/Connection.ts"
import type { Crossing } from "../../src/wire/Crossing.ts"
import { FrameWriter } from "../../src/wire/Frame.ts"
import * as MethodCodec from "../../src/wire/MethodCodec.ts"
import type { Message } from "../../src/wire/Port.ts"
import { frameSize } from "../../src/wire/SocketPort.ts"
import { call } from "../deployments.ts"
import { Dice } from "../ingress/requests.ts"
import { dial, request, servers } from "../ingress/servers.ts"
import { Logs, until } from "../modules/app.ts"

const seed = Number(process.env["FUZZ_SEED"] ?? Math.floor(Math.random() * 2 ** 31))
const COUNT = 10_000
/** Of each server, at once. */
const CONNECTIONS = 4
const MAX_BODY = 20_000

interface Tree {
  readonly value: number
  readonly children: ReadonlyArray<Tree>
}
const Tree = Schema.Struct({
  value: Schema.Int,
  children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
})
const Sample = Schema.Struct({
  text: Schema.String,
  numbers: Schema.Array(Schema.Number),
  bytes: Schema.Uint8Array,
  at: Schema.optional(Schema.Date),
  by: Schema.Record(Schema.String, Schema.Int),
  tree: Tree
})

const echo = Rpc.make("echo", { payload: Sample, success: Sample })
const count = Rpc.make("count", { payload: { to: Schema.Int }, success: Schema.Int, stream: true })

const hang = Rpc.make("hang")

class Target extends Deployment.Service<Target>()("Target", [
  echo,
  count,
  hang,
  Rpc.make("die"),
  Rpc.make("wait", { success: Schema.Int, stream: true })
]) {}

const TargetLive = Target.toLayer(
  {
    echo: Effect.succeed,
    count: ({ to }) => Stream.range(1, Math.min(to, 1000)),
    hang: () => Effect.never,
    die: () => Effect.die(new Error("as it should")),
    wait: () => Stream.never
  },
  { maxOngoingRequests: 100_000, gracefulShutdownTimeout: 0 }
)

const sample = (dice: Dice, depth = 2): typeof Sample.Type => {
  const tree = (depth: number): Tree => ({
    value: dice.int(1000),
    children: depth === 0 ? [] : Array.from({ length: dice.int(3) }, () => tree(depth - 1))
  })
  return {
    text: dice.text(20, "abcäöü€"),
    numbers: Array.from({ length: dice.int(5) }, () => dice.next() * 1e6),
    bytes: Uint8Array.from(dice.bytes(40)),
    by: { a: dice.int(9) },
    tree: tree(depth)
  }
}

const payloads = {
  echo: MethodCodec.make(echo, MethodCodec.binary).payload,
  count: MethodCodec.make(count, MethodCodec.binary).payload
}
const NONE = MethodCodec.make(hang, MethodCodec.binary).payload.encode(undefined) as Uint8Array

/** A frame, and what has to happen to a connection on which it comes. */
interface Fuzzed {
  readonly frame: Uint8Array | string
  readonly isBad: boolean
}

const frameOf = (...messages: ReadonlyArray<Message>): Uint8Array => {
  const writer = new FrameWriter()
  for (const message of messages) writer.write(message)
  return Uint8Array.from(writer.take())
}

const TIMES = [0, -1, -1e308, -Infinity, 1e-300, 1, 50, 1e9, 1e308, Infinity]

const crossing = (known: Partial<Crossing>): Crossing => Object.assign({ span: undefined }, RequestContext.empty, known)

const anyCrossing = (dice: Dice) =>
  crossing({
    requestId: dice.text(12, "abc- \n"),
    deadline: Date.now() + dice.pick(TIMES),
    priority: dice.pick(["critical", "default", "sheddable"]),
    tenant: dice.once(4) ? dice.text(9, "ab") : undefined,
    principal: dice.once(4) ? { id: "p", claims: { a: 1 } } : undefined,
    span: dice.once(4) ? { traceId: dice.text(32, "0af"), spanId: "00", sampled: dice.once(2) } : undefined
  })

/** Ids of the calls of a connection. Few of them, so that they meet again. */
const id = (dice: Dice) => (dice.once(8) ? dice.int(2 ** 32) | 0 : dice.int(50))

const payloadOf = (dice: Dice, target: string): Uint8Array => {
  const sent =
    target === "echo"
      ? (payloads.echo.encode(sample(dice)) as Uint8Array)
      : target === "count"
        ? (payloads.count.encode({ to: dice.int(2000) }) as Uint8Array)
        : NONE
  return dice.once(3) ? mutated(dice, sent) : sent
}

const mutated = (dice: Dice, bytes: Uint8Array): Uint8Array => {
  const copy = Buffer.from(bytes)
  for (let flips = 1 + dice.int(4); flips > 0 && copy.length > 0; flips--)
    copy[dice.int(copy.length)] = dice.pick([0, 1, 127, 128, 255, dice.int(256)])
  if (dice.once(3)) return Buffer.concat([copy, dice.bytes(8)])
  return dice.once(3) ? copy.subarray(0, dice.int(copy.length + 1)) : copy
}

const targets = ["echo", "echo", "count", "hang", "die", "wait", "nothing", "constructor", "__proto__", ""]

const message = (dice: Dice, ids: Set<number>): Message =>
  dice.one<Message>([
    () => {
      const target = dice.pick(targets)
      let own = id(dice)
      while (ids.has(own)) own = (own + 1) | 0
      ids.add(own)
      return ["call", own, target, payloadOf(dice, target), anyCrossing(dice)]
    },
    () => ["cancel", id(dice)],
    () => ["credit", id(dice), dice.pick([0, 1, 256, 2 ** 32 - 1]), dice.pick([0, 1, 2 ** 16, 2 ** 32 - 1])],
    () => ["exit", id(dice), [dice.pick(["success", "error", "serveError", "defect", "interrupted"]), dice.bytes(9)]],
    () => ["elements", id(dice), dice.bytes(9)],
    () => [
      "note",
      dice.pick(["ping", "pong", "hello", "leaving", "left", "constructor"]),
      dice.pick([null, 1, {}, []])
    ],
    () => [
      "note",
      "maxAnswerSize",
      dice.pick([-1, -(2 ** 40), -Number.MAX_SAFE_INTEGER, 0, 1, 1.5, 2 ** 50, "x", null])
    ]
  ])

const good = (dice: Dice, ids: Set<number>): Fuzzed => ({
  frame: frameOf(...Array.from({ length: dice.once(3) ? dice.int(5) : 1 }, () => message(dice, ids))),
  isBad: false
})

const hanging = (own: number, timeout = 1000): Message => [
  "call",
  own,
  "hang",
  NONE,
  crossing({ requestId: "r", deadline: Date.now() + timeout })
]

const patched = (frame: Uint8Array, change: (frame: Buffer) => unknown): Uint8Array => {
  const copy = Buffer.from(frame)
  change(copy)
  return copy
}

const bad = (dice: Dice): Fuzzed => ({
  isBad: true,
  frame: dice.one<Uint8Array | string>([
    // A kind that there isn't, at once or after a message that is one.
    () => Buffer.concat([dice.once(2) ? frameOf(["cancel", 1]) : Buffer.alloc(0), Buffer.from([6 + dice.int(250)])]),
    () => {
      const whole = frameOf(["note", "left", null], hanging(7))
      const from = frameOf(["note", "left", null]).length
      return whole.subarray(0, from + 1 + dice.int(whole.length - from - 1))
    },
    () => frameOf(hanging(8), hanging(8)),
    () => patched(frameOf(hanging(9)), (frame) => frame.writeUInt32LE(dice.pick([2 ** 32 - 1, 2 ** 31, 8193, 200]), 5)),
    () => patched(frameOf(["elements", 1, new Uint8Array(0)]), (frame) => frame.writeUInt32LE(2 ** 32 - 1, 5)),
    () => patched(frameOf(hanging(9)), (frame) => frame.writeUInt32LE(2 ** 32 - 1, 13)),
    // No time.
    () => patched(frameOf(hanging(9)), (frame) => frame.writeDoubleLE(Number.NaN, 22 + NONE.length)),
    // No priority.
    () => patched(frameOf(hanging(9)), (frame) => frame.writeUInt8(3, 30 + NONE.length)),
    () => patched(frameOf(["note", "left", null]), (frame) => frame.write("nul{", frame.length - 4)),
    () => Buffer.concat([frameOf(["cancel", 3]), dice.bytes(3), Buffer.from([255])]),
    () => dice.text(30, "abc{}"),
    () => "",
    () => Buffer.alloc(frameSize(MAX_BODY) + 1)
  ])
})

const either = (dice: Dice, ids: Set<number>): Fuzzed => ({
  ...(dice.once(2)
    ? { frame: mutated(dice, good(dice, ids).frame as Uint8Array) }
    : { frame: Uint8Array.from(dice.bytes(60)) }),
  isBad: false
})

/** A connection that was not opened by a remote handle. */
class Peer {
  isClosed = false
  private readonly socket: NodeWS.WebSocket
  private wake = () => {}

  constructor(port: number) {
    this.socket = new NodeWS.WebSocket(`ws://127.0.0.1:${port}/-/rpc?deployment=Target`, [PROTOCOL])
    this.socket.on("error", () => {})
    this.socket.on("close", () => {
      this.isClosed = true
      this.wake()
    })
    this.socket.on("open", () => this.wake())
  }

  get isOpen(): boolean {
    return this.socket.readyState === NodeWS.WebSocket.OPEN
  }

  /** Waits until `condition` holds. */
  async when(condition: () => boolean): Promise<void> {
    const end = performance.now() + 5000
    while (!condition()) {
      if (performance.now() > end) throw new Error("The server doesn't close the connection")
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 1000)
        this.wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  /** Sends a frame, and lets the server come to it. */
  send(frame: Uint8Array | string): Promise<void> {
    return new Promise((resolve) => this.socket.send(frame, () => resolve()))
  }

  end(): void {
    this.socket.terminate()
  }
}

const describeFrame = (frame: Uint8Array | string) =>
  typeof frame === "string" ? JSON.stringify(frame) : Buffer.from(frame).toString("hex").slice(0, 400)

const attack = async (dice: Dice, port: number, next: () => boolean, closed: { count: number }) => {
  let isGoing = true
  while (isGoing) {
    const peer = new Peer(port)
    await peer.when(() => peer.isOpen || peer.isClosed)
    if (!peer.isOpen) throw new Error("The server takes no connection")
    const ids = new Set<number>()
    const sent: Array<string> = []
    for (let frames = 4 + dice.int(12); frames > 0 && !peer.isClosed && (isGoing = next()); frames--) {
      const { frame, isBad } = frames === 1 ? bad(dice) : dice.once(4) ? either(dice, ids) : good(dice, ids)
      sent.push(describeFrame(frame))
      await peer.send(frame)
      if (!isBad) continue
      await peer
        .when(() => peer.isClosed)
        .catch((error: Error) => {
          throw new Error(`${error.message} on which came:\n${sent.join("\n")}`)
        })
      closed.count++
    }
    peer.end()
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

/** Connections of remote handles that the server has. One on a thread tells it once a second. */
const connections = Effect.map(Metric.snapshot, (metrics) => {
  const gauge = metrics.find(({ id }) => id === "serve_rpc_connections")
  return gauge?.type === "Gauge" ? Number(gauge.state.value) : Number.NaN
})

const options = { maxBodySize: MAX_BODY, processGate: false } as const

const fuzz = (count: number, onSent: () => void) =>
  Effect.gen(function* () {
    const { port, url } = yield* HttpIngress.Address
    const closed = { count: 0 }
    let left = count
    const next = () => {
      onSent()
      return left-- > 0
    }
    const dices = Array.from({ length: CONNECTIONS }, (_, i) => new Dice(seed + i))
    const healthy = Effect.gen(function* () {
      const client = yield* Target
      const dice = new Dice(seed)
      let calls = 0
      const one = Effect.gen(function* () {
        const sent = sample(dice)
        assert.deepStrictEqual(yield* client.echo(sent, { timeout: "3 seconds" }), sent)
        assert.strictEqual((yield* Stream.runCollect(client.count({ to: 100 }, { timeout: "3 seconds" }))).length, 100)
        calls++
      })
      const calling = yield* call(Effect.forever(Effect.andThen(one, Effect.sleep(5))))
      const attacks = Effect.promise(() => Promise.all(dices.map((dice) => attack(dice, port, next, closed))))
      yield* Effect.raceFirst(attacks, Effect.andThen(Fiber.join(calling), Effect.never))
      yield* one
      return calls
    }).pipe(Effect.provide(Target.toLayerRemote({ url })))
    const calls = yield* healthy
    yield* until(Effect.map(Target.state, ({ queued, running }) => running === 0 && queued === 0))
    yield* until(Effect.map(connections, (connections) => connections === 0))
    const { accepted, cancelled, completed, expired, failed } = yield* Target.state
    assert.strictEqual(completed + failed + cancelled + expired, accepted)
    const errors = (yield* Logs).filter(
      ({ cause, level, message }) =>
        (level === "Error" || level === "Fatal") &&
        !(message[0] === "Defect in Target.die" && cause?.includes("as it should") === true)
    )
    assert.deepStrictEqual(errors, [])
    return { calls, closed: closed.count }
  })

describe("the endpoint of remote handles", { timeout: 60_000 }, () => {
  it.live("closes a connection that brings what is no frame, and goes on", () =>
    Effect.gen(function* () {
      const unhandled: Array<unknown> = []
      const note = (error: unknown) => void unhandled.push(error)
      process.on("unhandledRejection", note).on("uncaughtException", note)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => process.off("unhandledRejection", note).off("uncaughtException", note))
      )
      let sent = 0
      let before = 0
      const onSent = () => {
        if (++sent === COUNT / 5) before = heap()
      }
      const all = Object.entries(servers({ "/target": Target }, options))
      yield* Effect.forEach(
        all,
        ([name, ingress]) =>
          fuzz(Math.ceil(COUNT / all.length), onSent).pipe(
            Effect.provide(ingress.pipe(Layer.provideMerge(TargetLive), Layer.provideMerge(Logs.layer))),
            Effect.tap(({ calls, closed }) =>
              Effect.sync(() => {
                assert.isAbove(closed, 100)
                assert.isAbove(calls, 5)
              })
            ),
            Effect.catchCause((cause) =>
              Effect.die(new Error(`FUZZ_SEED=${seed}, ${name}: ${String(Cause.squash(cause))}`, { cause: cause }))
            )
          ),
        { concurrency: "unbounded", discard: true }
      )
      assert.deepStrictEqual(unhandled, [])
      assert.isBelow(heap() - before, 15, "MiB more")
    }).pipe(Effect.scoped)
  )
})

const KEY = "dGhlIHNhbXBsZSBub25jZQ=="
const AUTH = { authorization: "Bearer t0" }
const RPC = "GET /-/rpc?deployment=Target"
const upgrade = {
  connection: "Upgrade",
  upgrade: "websocket",
  "sec-websocket-key": KEY,
  "sec-websocket-version": 13,
  "sec-websocket-protocol": PROTOCOL,
  ...AUTH
}
const without = (name: string) => Object.fromEntries(Object.entries(upgrade).filter(([key]) => key !== name))

/** Requests that must not become connections, and the statuses of their answers. */
const refusals: ReadonlyArray<readonly [what: string, request: string, statuses: ReadonlyArray<number>]> = [
  ["of another subprotocol", request(RPC, { ...upgrade, "sec-websocket-protocol": "effect-serve.0" }), [400]],
  ["of none", request(RPC, without("sec-websocket-protocol")), [400]],
  ["of another path", request("GET /-/rpcs?deployment=Target", upgrade), [404]],
  ["of a path below", request("GET /-/rpc/?deployment=Target", upgrade), [404]],
  ["to a method", request("GET /target/hang", upgrade), [405]],
  ["of no deployment", request("GET /-/rpc", upgrade), [404]],
  ["of a deployment that there isn't", request("GET /-/rpc?deployment=constructor", upgrade), [404]],
  ["of nobody", request(RPC, without("authorization")), [401]],
  ["of somebody else", request(RPC, { ...upgrade, authorization: "Bearer t1" }), [401]],
  ["with an unfit priority", request(RPC, { ...upgrade, "x-request-priority": "most" }), [400]],
  ["with large headers", request(RPC, { ...upgrade, "x-large": "x".repeat(40_000) }), [431]],
  ["to HTTP/2", request(RPC, { ...upgrade, upgrade: "h2c", "http2-settings": "AAMAAABkAAQAAP__" }), [426]],
  ["to nothing", request(RPC, without("upgrade")), [426]],
  ["with another verb", request("POST /-/rpc?deployment=Target", upgrade), [405]],
  ["without a key", request(RPC, without("sec-websocket-key")), [400]],
  ["with an unfit key", request(RPC, { ...upgrade, "sec-websocket-key": "x" }), [400]],
  ["of another version", request(RPC, { ...upgrade, "sec-websocket-version": 99 }), [400, 426]]
]

for (const [name, ingress] of Object.entries(
  servers({ "/target": Target }, { ...options, authorize: Auth.bearer({ t0: "ada" }) })
)) {
  describe(`the endpoint of remote handles, on ${name}`, () => {
    it.live("takes no connections that it should not take", () =>
      Effect.gen(function* () {
        const { url } = yield* HttpIngress.Address
        const seen = yield* Effect.forEach(refusals, ([what, request]) =>
          Effect.scoped(
            Effect.gen(function* () {
              const connection = yield* dial
              connection.write(request)
              const received = yield* Effect.timeout(connection.until(/\r\n\r\n/), "3 seconds").pipe(
                Effect.orElseSucceed(() => "no answer")
              )
              return [what, Number(received.split(" ")[1])] as const
            })
          )
        )
        assert.deepStrictEqual(
          seen.filter(([, status], i) => !refusals[i]![2].includes(status)),
          []
        )
        const connected = Effect.flatMap(Target, (client) => Stream.runCollect(client.count({ to: 3 }))).pipe(
          Effect.provide(Target.toLayerRemote({ url, auth: Redacted.make("t0") }))
        )
        assert.deepStrictEqual(yield* connected, [1, 2, 3])
        assert.deepStrictEqual(
          (yield* Logs).filter(({ level }) => level === "Error" || level === "Fatal"),
          []
        )
      }).pipe(Effect.provide(ingress.pipe(Layer.provideMerge(TargetLive), Layer.provideMerge(Logs.layer))))
    )
  })
}

describe("an ingress", () => {
  const { layer } = servers({ "/target": Target }, { maxBodySize: 1000, processGate: false })
  it.live("closes a connection with a frame that is larger than maxBodySize lets any be, on layer", () =>
    Effect.gen(function* () {
      const { port } = yield* HttpIngress.Address
      const socket = new NodeWS.WebSocket(`ws://127.0.0.1:${port}/-/rpc?deployment=Target`, [PROTOCOL])
      let isClosed = false
      socket.on("error", () => {})
      socket.on("close", () => (isClosed = true))
      yield* Effect.callback<void>((resume) => void socket.on("open", () => resume(Effect.void)))
      // Answers to calls that nobody has made: a frame like others.
      const answer = Buffer.alloc(10 + 1_000_000)
      answer.writeUInt8(1, 0)
      answer.writeUInt32LE(1_000_000, 6)
      socket.send(answer)
      yield* Effect.sleep(300)
      const hasClosed = isClosed
      socket.terminate()
      assert.isTrue(hasClosed)
    }).pipe(Effect.provide(layer!.pipe(Layer.provide(TargetLive), Layer.provideMerge(Logs.layer))))
  )
})
