/**
 * Ingresses that share a port, on real sockets.
 *
 * Seen red: the option isn't handed to the server, or not through the thread; the error says nothing of it; the port is kept while the
 * ingress stops; connections are closed, or refused, as soon as it stops; it doesn't say that they close; those are forgotten that wait to
 * be accepted; each ingress has limits, or batches, of its own.
 */
import { assert, describe, it, vi } from "@effect/vitest"
import { Batching, Deployment, HttpIngress, RequestContext } from "effect-serve"
import { Context, Effect, Exit, Fiber, Layer, Schema, Scope } from "effect"
import { Rpc } from "effect/rpc"
import * as Http from "node:http"
import { connect, Server } from "node:net"
import { Quiet, until } from "./http.ts"
import { Connection, nodeServers, request } from "./servers.ts"

class Who extends Deployment.Service<Who>()("Who", [Rpc.make("name", { success: Schema.String })]) {}

type Options = typeof HttpIngress.NodeOptions.Encoded
type Kind = "layerNode" | "layerNode, on a thread of its own"

const kinds: ReadonlyArray<Kind> = ["layerNode", "layerNode, on a thread of its own"]

/** Builds an ingress that the test can close, with a deployment that says its name. */
const start = Effect.fnUntraced(function* (kind: Kind, name: string, options: Options) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const ingress = nodeServers({ "/who": Who }, { processGate: false, reusePort: true, ...options })[kind]!
  const deployment = Who.toLayer({ name: () => Effect.succeed(name) }, { maxOngoingRequests: 1000 })
  const layer = ingress.pipe(Layer.provide(deployment), Layer.provide(Quiet))
  const { port } = Context.get(yield* Layer.buildWithScope(layer, scope), HttpIngress.Address)
  return { port, close: Scope.close(scope, Exit.void) }
})

/** What a request gets: its answer, or why there is none. */
const ask = (port: number, path: string, agent: Http.Agent | false = false, body?: unknown) =>
  Effect.callback<string>((resume) => {
    const headers = body === undefined ? {} : { "content-type": "application/json" }
    const request = Http.request({ port, host: "127.0.0.1", path, method: "POST", agent, headers }, (response) => {
      let text = `${response.statusCode} `
      response.on("data", (chunk: Buffer) => (text += chunk.toString()))
      response.on("end", () => resume(Effect.succeed(text)))
      response.on("error", ({ message }) => resume(Effect.succeed(message)))
    })
    request.on("error", ({ message }) => resume(Effect.succeed(message)))
    request.end(body === undefined ? undefined : JSON.stringify(body))
  })

const countOf = (answers: ReadonlyArray<string>) =>
  Object.fromEntries(
    Array.from(new Set(answers), (answer) => [answer, answers.filter((other) => other === answer).length])
  )

const dialTo = (port: number) =>
  Effect.acquireRelease(
    Effect.callback<Connection>((resume) => {
      const socket = connect(port, "127.0.0.1", () => resume(Effect.succeed(connection)))
      const connection = new Connection(socket)
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )

vi.setConfig({ testTimeout: 30_000 })

describe("HttpIngress.layerNode, reusePort", () => {
  for (const kind of kinds) {
    describe(`on ${kind}`, () => {
      it.live("shares a port: connections are spread over all that listen on it", () =>
        Effect.gen(function* () {
          const { port } = yield* start(kind, "one", {})
          assert.notStrictEqual(port, 0)
          const other = yield* start(kind, "other", { port })
          assert.strictEqual(other.port, port)
          const answers = yield* Effect.forEach(Array.from({ length: 60 }), () => ask(port, "/who/name"))
          assert.hasAllKeys(countOf(answers), ['200 "one"', '200 "other"'])
        }).pipe(Effect.scoped)
      )

      it.live("fails to start where another one doesn't share the port, and says what is missing", () =>
        Effect.gen(function* () {
          const { port } = yield* start(kind, "one", { reusePort: false })
          const error = yield* Effect.flip(start(kind, "other", { port }))
          assert.instanceOf(error, HttpIngress.ListenFailed)
          assert.deepInclude(error, { port, code: "EADDRINUSE", reusePort: true })
          assert.include(error.message, "all who listen on it need reusePort")
          const plain = yield* Effect.flip(start(kind, "third", { port, reusePort: false }))
          assert.instanceOf(plain, HttpIngress.ListenFailed)
          assert.include(plain.message, "Choose another port")
        }).pipe(Effect.scoped)
      )

      it.live("stops without a failed call, while clients go on calling over the connections that they have", () =>
        Effect.gen(function* () {
          const { port } = yield* start(kind, "stays", {})
          for (let round = 0; round < 3; round++) {
            const { close } = yield* start(kind, "leaves", { port, gracefulShutdownTimeout: "5 seconds" })
            const agent = new Http.Agent({ keepAlive: true })
            const answers: Array<string> = []
            const state = { isOver: false }
            const client = Effect.gen(function* () {
              while (!state.isOver) {
                answers.push(yield* ask(port, "/who/name", agent))
                yield* Effect.sleep(1)
              }
            })
            const clients = yield* Effect.forkScoped(
              Effect.all(
                Array.from({ length: 12 }, () => client),
                { concurrency: "unbounded", discard: true }
              )
            )
            yield* until(() => answers.length > 200)
            yield* close
            const before = answers.length
            yield* until(() => answers.length > before + 50)
            state.isOver = true
            yield* Fiber.join(clients)
            agent.destroy()
            assert.hasAllKeys(countOf(answers), ['200 "stays"', '200 "leaves"'])
            assert.deepStrictEqual(countOf(answers.slice(before + 12)), { '200 "stays"': answers.length - before - 12 })
          }
        }).pipe(Effect.scoped)
      )

      it.live("answers those who have connected when it stops, and whom it has not yet accepted", () =>
        Effect.gen(function* () {
          const { close, port } = yield* start(kind, "leaves", { gracefulShutdownTimeout: "5 seconds" })
          const asking = yield* Effect.forkScoped(
            Effect.forEach(Array.from({ length: 100 }), () => ask(port, "/who/name"), { concurrency: "unbounded" }),
            { startImmediately: true }
          )
          yield* dialTo(port)
          yield* close
          assert.deepStrictEqual(countOf(yield* Fiber.join(asking)), { '200 "leaves"': 100 })
        }).pipe(Effect.scoped)
      )

      it.live("leaves the port at once, answers once more on connections that are open, and says that they close", () =>
        Effect.gen(function* () {
          const { close, port } = yield* start(kind, "leaves", { gracefulShutdownTimeout: "5 seconds" })
          const kept = yield* dialTo(port)
          kept.write(request("POST /who/name"))
          assert.notMatch(yield* kept.until(/leaves/), /connection: close/i)
          kept.received = ""
          const began = performance.now()
          const closing = yield* Effect.forkScoped(close)
          yield* Effect.repeat(Effect.delay(ask(port, "/who/name"), "5 millis"), {
            until: (answer) => answer.includes("ECONNREFUSED")
          })
          assert.isBelow(performance.now() - began, 800)
          kept.write(request("POST /who/name"))
          const last = yield* kept.closed
          assert.match(last, /^HTTP\/1.1 200 [^]*connection: close[^]*"leaves"$/i)
          yield* Fiber.join(closing)
        }).pipe(Effect.scoped)
      )
    })
  }

  it.live("fails to start with an error that names the option, where the system can't share ports", () =>
    Effect.gen(function* () {
      const unsupported = Object.assign(new Error("listen ENOTSUP: operation not supported"), { code: "ENOTSUP" })
      const listen = vi.spyOn(Server.prototype, "listen").mockImplementation(function (this: Server) {
        process.nextTick(() => this.emit("error", unsupported))
        return this
      })
      const error = yield* Effect.ensuring(
        Effect.flip(start("layerNode", "one", {})),
        Effect.sync(() => listen.mockRestore())
      )
      assert.instanceOf(error, HttpIngress.ListenFailed)
      assert.deepInclude(error, { code: "ENOTSUP", reusePort: true })
      assert.include(error.message, "leave out the option reusePort")
    }).pipe(Effect.scoped)
  )

  it.live("dies when it is not a boolean", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(start("layerNode", "one", { reusePort: "yes" as never }))
      assert.include(String(exit), `["reusePort"]`)
    }).pipe(Effect.scoped)
  )
})

const names = ["one", "other"] as const

class Model extends Deployment.Service<Model>()("Model", [
  Rpc.make("run", { payload: { n: Schema.Int }, success: Schema.Int })
]) {}

describe("Ingresses that share a port, with remote handles to one deployment", () => {
  it.live("have its limits between them, and its batches have requests of both", () =>
    Effect.gen(function* () {
      const seen = { running: 0, most: 0, callers: new Set<string>(), batches: new Array<ReadonlyArray<string>>() }
      const ModelLive = Model.toLayer(
        Effect.gen(function* () {
          const batch = yield* Batching.make({
            maxBatchSize: 4,
            batchWaitTimeout: "20 millis",
            run: (items: ReadonlyArray<{ readonly n: number; readonly from: string }>) =>
              Effect.sync(() => {
                seen.batches.push(items.map(({ from }) => from))
                return items.map(({ n }) => 2 * n)
              })
          })
          return Model.of({
            run: ({ n }) =>
              Effect.gen(function* () {
                const { principal } = yield* RequestContext.RequestContext
                seen.most = Math.max(seen.most, ++seen.running)
                return yield* batch({ n, from: principal!.id })
              }).pipe(Effect.ensuring(Effect.sync(() => seen.running--)))
          })
        }),
        { maxOngoingRequests: 4 }
      )
      const routes = { "/model": Model }
      const common = { processGate: false, gracefulShutdownTimeout: 0 } as const
      const app = HttpIngress.layerNode(routes, { ...common, port: 0, rpc: { trustPrincipals: true } }).pipe(
        Layer.provide(ModelLive),
        Layer.provide(Quiet)
      )
      const { url } = Context.get(yield* Layer.build(app), HttpIngress.Address)
      const front = (id: string, port: number) =>
        HttpIngress.layerNode(routes, {
          ...common,
          port,
          reusePort: true,
          authorize: () => Effect.succeed({ id })
        }).pipe(Layer.provide(Model.toLayerRemote({ url, gracefulShutdownTimeout: 0 })), Layer.provide(Quiet))
      const { port } = Context.get(yield* Layer.build(front("one", 0)), HttpIngress.Address)
      yield* Layer.build(front("other", port))

      const answers = yield* Effect.forEach(
        Array.from({ length: 200 }, (_, n) => n),
        (n) => ask(port, "/model/run", false, { n }),
        { concurrency: 24 }
      )
      assert.deepStrictEqual(
        answers,
        answers.map((_, n) => `200 ${2 * n}`)
      )
      assert.strictEqual(seen.most, 4)
      assert.strictEqual(seen.running, 0)
      assert.sameMembers(Array.from(new Set(seen.batches.flat())), [...names])
      assert.isAbove(seen.batches.filter((batch) => new Set(batch).size === 2).length, 10)
      assert.isTrue(seen.batches.every(({ length }) => length <= 4))
    }).pipe(Effect.scoped)
  )
})
