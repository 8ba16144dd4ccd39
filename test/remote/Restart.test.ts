/**
 * A server that is stopped on purpose, and what its remote handles notice of that: nothing.
 *
 * Seen red for each of these mutations. Connection: the client is not told that the server leaves; the connection is closed while calls
 * run, or before the system has the last answer. RpcServer: who is not connected yet, or never will be, is waited for. Remotes: on
 * Effect's server calls end with its interruption. Link: the last answers are not sent before the connection is closed.
 */
import { NodeHttpServer, NodeWS } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { HttpIngress } from "effect-serve"
import { Context, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { createServer } from "node:http"
import { connect } from "node:net"
import { PROTOCOL } from "../../src/wire/Connection.ts"
import { call } from "../deployments.ts"
import { Quiet } from "../ingress/http.ts"
import { request } from "../ingress/servers.ts"
import { until } from "../modules/app.ts"
import { Book, Ledger, open, read, upTo } from "./Ledger.ts"
import { type Ingress, roll } from "./rolling.ts"

const ingresses: Record<string, Ingress> = {
  layerNode: (port) => HttpIngress.layerNode({ "/ledger": Ledger }, { port, processGate: false }),
  "layerNode, on a thread of its own": (port) =>
    HttpIngress.layerNode({ "/ledger": Ledger }, { port, ownThread: true, processGate: false }),
  layer: (port) =>
    HttpIngress.layer({ "/ledger": Ledger }, { processGate: false }).pipe(
      Layer.provide(
        NodeHttpServer.layer(createServer, { host: "127.0.0.1", port, gracefulShutdownTimeout: "500 millis" })
      )
    )
}

const upgrade = {
  connection: "Upgrade",
  upgrade: "websocket",
  "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
  "sec-websocket-version": 13,
  "sec-websocket-protocol": PROTOCOL
}

/** Takes its time. */
const authorize = () => Effect.as(Effect.sleep("300 millis"), { id: "ada" })

describe("a server that stops", { timeout: 20_000 }, () => {
  it.live("answers all that has begun before it closes a connection, and takes no other", () =>
    Effect.gen(function* () {
      const { book, client, clientState, closeServer, isLost, nothingIsLeft, proxy } = yield* open({
        unreachableTimeout: "100 millis"
      })
      const working = yield* Effect.forEach(upTo(10), (i) => call(client.work({ id: `${i}`, millis: 20 * i })))
      const counting = yield* call(read(client.count({ id: "count", to: 40, millis: 5 })))
      yield* until(Effect.sync(() => book.running === 11))
      const closing = yield* call(closeServer)
      yield* isLost
      const late = yield* call(Effect.exit(client.work({ id: "late", millis: 0 })))
      assert.deepStrictEqual(yield* Fiber.joinAll(working), upTo(10).map(String))
      assert.deepStrictEqual((yield* Fiber.join(counting)).elements, upTo(40))
      yield* Fiber.join(closing)
      assert.isTrue((yield* Fiber.join(late))._tag === "Failure")
      yield* nothingIsLeft
      assert.isFalse(book.begun.has("late"))
      assert.deepInclude(yield* clientState, { completed: 11 })
      yield* until(Effect.sync(() => proxy.open === 0))
    })
  )

  it.live("sends the answers of calls that end at once", () =>
    Effect.gen(function* () {
      const { client, closeServer, nothingIsLeft } = yield* open({ unreachableTimeout: "100 millis" })
      const working = yield* Effect.forEach(upTo(10), (i) =>
        call(client.fetch({ id: `${i}`, bytes: new Uint8Array(0), size: 0 }))
      )
      yield* closeServer
      yield* Fiber.joinAll(working)
      yield* nothingIsLeft
    })
  )

  it.live("does not wait for a connection that was being authorized, nor keep it", () =>
    Effect.gen(function* () {
      const live = new Book().layer
      const ingress = HttpIngress.layerNode({ "/ledger": Ledger }, { port: 0, processGate: false, authorize })
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(ingress.pipe(Layer.provide(live), Layer.provideMerge(Quiet)), scope)
      const { port } = Context.get(context, HttpIngress.Address)
      const socket = new NodeWS.WebSocket(`ws://127.0.0.1:${port}/-/rpc?deployment=Ledger`, [PROTOCOL])
      socket.on("error", () => {})
      yield* Effect.sleep(100)
      const closing = yield* Effect.forkDetach(Scope.close(scope, Exit.void))
      const exit = yield* Effect.timeoutOption(Fiber.await(closing), "3 seconds")
      socket.terminate()
      assert.strictEqual(exit._tag, "Some")
    })
  )

  it.live("does not wait for who was refused a connection and keeps it", () =>
    Effect.gen(function* () {
      const ingress = HttpIngress.layerNode({ "/ledger": Ledger }, { port: 0, processGate: false })
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(
        ingress.pipe(Layer.provide(new Book().layer), Layer.provideMerge(Quiet)),
        scope
      )
      const { port } = Context.get(context, HttpIngress.Address)
      const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true })
      let received = ""
      socket.on("error", () => {}).on("data", (bytes: Buffer) => (received += bytes.toString("latin1")))
      socket.write(request("GET /-/rpc?deployment=None", upgrade))
      yield* until(Effect.sync(() => received.startsWith("HTTP/1.1 404")))
      const closing = yield* Effect.forkDetach(Scope.close(scope, Exit.void))
      const exit = yield* Effect.timeoutOption(Fiber.await(closing), "3 seconds")
      socket.destroy()
      assert.strictEqual(exit._tag, "Some")
    })
  )

  it.live("lets an answer come to its client that is on its way, however slow the network is", () =>
    Effect.gen(function* () {
      const { book, client, closeServer, proxy } = yield* open()
      proxy.stall()
      proxy.flow()
      const size = 40_000_000
      const fetching = yield* call(client.fetch({ id: "fetch", bytes: new Uint8Array(0), size }))
      yield* until(Effect.sync(() => book.begun.size === 1))
      proxy.stall()
      const closing = yield* call(closeServer)
      yield* Effect.sleep(2500)
      proxy.flow()
      assert.strictEqual((yield* Fiber.join(fetching)).length, size)
      yield* Fiber.join(closing)
    })
  )
})

describe.concurrent("a planned restart of two servers, one after the other", { timeout: 20_000 }, () => {
  for (const [name, ingress] of Object.entries(ingresses)) {
    it.live(`fails no call, on ${name}`, () =>
      Effect.map(roll(ingress), ({ failures }) => assert.deepStrictEqual(failures, []))
    )
  }
})
