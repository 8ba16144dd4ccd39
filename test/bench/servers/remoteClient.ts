/**
 * Calls the work of the benchmark `remote` in another process: as a deployment that is remote (argument `effect-serve`), or by effect/rpc
 * over a WebSocket (`effect/rpc`). The second argument is the port.
 */
import { NodeRuntime, NodeWS } from "@effect/platform-node"
import { Effect, Layer, Stream } from "effect"
import { RpcClient, RpcGroup, RpcSerialization } from "effect/rpc"
import { Socket } from "effect/socket"
import {
  type Bytes,
  checks,
  type Echo,
  type Item,
  methods,
  payloads,
  takeTurns,
  type Vector,
  Work,
  type Workload
} from "./remoteWork.ts"

const [, , name, port] = process.argv

type Method<S extends { readonly Type: unknown }> = (payload: S["Type"]) => Effect.Effect<S["Type"], unknown>
type Items = (payload: { readonly count: number }) => Stream.Stream<typeof Item.Type, unknown>

/** What both kinds of clients have. */
interface Client {
  readonly echo: Method<typeof Echo>
  readonly bytes: Method<typeof Bytes>
  readonly vector: Method<typeof Vector>
  readonly single: Items
  readonly natural: Items
}

const read = (items: Items) =>
  Effect.fnUntraced(function* (_: number, units: number) {
    let next = 0
    yield* Stream.runForEach(items({ count: units }), (item) => Effect.sync(() => checks.item(item, next++)))
    checks.count(next, units)
  })

type Calls = Record<Workload["method"], (i: number, units: number) => Effect.Effect<void, unknown>>

/** Calls a method once, as call `i`, and checks the answer. */
const callsOf = (client: Client): Calls => ({
  echo: (i) => Effect.map(client.echo(payloads.echo(i)), (answer) => checks.echo(answer, i)),
  bytes: (i) => Effect.map(client.bytes(payloads.bytes(i)), (answer) => checks.bytes(answer, i)),
  vector: () => Effect.map(client.vector(payloads.vector()), checks.vector),
  single: read(client.single),
  natural: read(client.natural)
})

const run = (client: Client) => {
  const calls = callsOf(client)
  takeTurns(({ inFlight, method, units }, isOver) => {
    let next = 0
    const caller = Effect.gen(function* () {
      while (!isOver()) yield* calls[method](next++, units)
    })
    const callers = Array.from({ length: inFlight }, () => caller)
    return Effect.runPromise(Effect.all(callers, { concurrency: "unbounded", discard: true })).then(() => next)
  })
  return Effect.never
}

const ours = Effect.suspend(() =>
  Effect.provide(Effect.flatMap(Work, run), Work.toLayerRemote({ url: `http://127.0.0.1:${port}` }))
)

const Protocol = RpcClient.layerProtocolSocket().pipe(
  Layer.provide(Socket.layerWebSocket(`ws://127.0.0.1:${port}/rpc`)),
  Layer.provide(NodeWS.layerWebSocketConstructor),
  Layer.provide(RpcSerialization.layerSchemaBinary())
)

const rpc = RpcClient.make(RpcGroup.make(...methods), { disableTracing: true }).pipe(
  Effect.flatMap(run),
  Effect.scoped,
  Effect.provide(Protocol)
)

NodeRuntime.runMain(name === "effect/rpc" ? rpc : ours)
