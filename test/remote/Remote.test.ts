/**
 * What a remote handle makes of its options, and of who is at its URLs, on real sockets.
 *
 * Seen red for each of these mutations: a refusal is tried again, or 429 is one, or nothing is; calls wait for ever; it is ready at first;
 * uploads are called; nothing is ejected; TLS options or `connectTimeout` are left out; URLs have no commas; defects are told; the process gate
 * isn't asked; the thread of an ingress has no bound where a deployment has none; the first wait is as long as the second; who leaves while it
 * connects waits for that.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Auth, Deployment, HttpIngress, HttpSchema, RequestContext } from "effect-serve"
import { ConfigProvider, Context, Effect, Exit, Fiber, Layer, Random, Schema, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import * as NodeWS from "@effect/platform-node/NodeWS"
import { createServer, type RequestListener } from "node:http"
import { createServer as createTcpServer, type AddressInfo } from "node:net"
import { readFileSync } from "node:fs"
import * as ProcessGate from "../../src/exchange/ProcessGate.ts"
import { call, reason } from "../deployments.ts"
import { send } from "../ingress/http.ts"
import { nodeServers } from "../ingress/servers.ts"
import { logged, Logs, until, whenLogged } from "../modules/app.ts"
import { appOf, defect, Desk, deskLayer, Desks, dial, dialTo, refusal, refusalOf, timed } from "./desk.ts"

const routes = { "/desk": Desk } as const

const known = (url: string) => ({ url, gracefulShutdownTimeout: 0, reconnect: { maxDelay: "20 millis" } }) as const

/** Builds an app that the test can close. */
const start = Effect.fnUntraced(function* (
  ingress: Layer.Layer<HttpIngress.Address, unknown, Desk>,
  name = "desk",
  broken = false
) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const deployment = Layer.provideMerge(deskLayer(name, {}, broken), Desks.layer)
  const context = yield* Layer.buildWithScope(Layer.provideMerge(ingress, deployment), scope)
  const { port, url } = Context.get(context, HttpIngress.Address)
  return { port, url, desks: Context.get(context, Desks), close: Scope.close(scope, Exit.void) }
})

const onPort = (port = 0) => HttpIngress.layerNode(routes, { port, gracefulShutdownTimeout: 0, processGate: false })

/** A port that nobody listens on. */
const freePort = Effect.callback<number>((resume) => {
  const server = createTcpServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address() as AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

/** Something that listens and is no ingress. */
const listening = (server: ReturnType<typeof createTcpServer>) =>
  Effect.acquireRelease(
    Effect.callback<string>((resume) => {
      server.listen(0, "127.0.0.1", () =>
        resume(Effect.succeed(`http://127.0.0.1:${(server.address() as AddressInfo).port}`))
      )
    }),
    () => Effect.sync(() => server.close())
  )

const plain = (listener: RequestListener) => {
  const server = createServer(listener)
  server.keepAliveTimeout = 1
  return listening(server)
}

const both = (one: { readonly url: string }, other: { readonly url: string }) =>
  Effect.tap(
    dialTo({ urls: [one.url, other.url], gracefulShutdownTimeout: 0, reconnect: { maxDelay: "20 millis" } }),
    ({ state }) => until(Effect.map(state, ({ replicas }) => replicas.every(({ status }) => status === "Ready")))
  )
const many = <A, E>(work: Effect.Effect<A, E>, count = 60) =>
  Effect.forEach(Array.from({ length: count }), () => Effect.exit(work), { concurrency: 10 })

const pem = (name: string) => readFileSync(new URL(`../ingress/certificates/${name}.pem`, import.meta.url), "utf8")

const certificate = (name: string) => ({ cert: pem(name), key: pem(`${name}-key`) })

describe("toLayerRemote", () => {
  describe("with options", () => {
    const invalid: Record<string, ReadonlyArray<readonly [options: object, words: string]>> = {
      url: [
        [{}, "url or urls"],
        [{ url: "http://a", urls: ["http://b"] }, "url or urls"],
        ...["", "localhost:8000", "ftp://a", "ws://a", "//a", 7].map((url) => [{ url }, `["url"]`] as const)
      ],
      urls: [
        [{ urls: [] }, `["urls"]`],
        [{ urls: ["http://a", "b"] }, `["urls"]`],
        [{ urls: "http://a,b" }, `["urls"]`]
      ],
      others: [
        [{ url: "http://a", connections: 0 }, "connections"],
        [{ url: "http://a", connectTimeout: "soon" }, "connectTimeout"],
        [{ url: "http://a", pingTimeout: -1 }, "pingTimeout"],
        [{ url: "http://a", maxAnswerSize: 0 }, "maxAnswerSize"],
        [{ url: "http://a", tls: { ca: "" } }, "ca"],
        [{ url: "http://a", maxOngoingRequests: 5 }, "maxOngoingRequests"]
      ]
    }
    for (const [name, cases] of Object.entries(invalid)) {
      it.effect(`dies when one is wrong, and names it: ${name}`, () =>
        Effect.forEach(cases, ([options, words]) =>
          Effect.gen(function* () {
            const message = yield* defect(Layer.build(Desk.toLayerRemote(options)))
            assert.include(message, 'Invalid options of deployment "Desk"')
            assert.include(message, words)
          })
        )
      )
    }

    it.live("takes the URLs from the ConfigProvider, with commas between them", () =>
      Effect.gen(function* () {
        const [one, other] = [yield* start(onPort(), "one"), yield* start(onPort(), "other")]
        const env = { SERVE_DESK_URLS: `${one.url}, ${other.url}`, SERVE_DESK_CONNECT_TIMEOUT: "2 seconds" }
        const config = ConfigProvider.layer(ConfigProvider.fromEnv({ env }))
        const context = yield* Layer.build(Layer.provide(Desk.toLayerRemote({ gracefulShutdownTimeout: 0 }), config))
        const state = Effect.provide(Desk.state, context)
        yield* until(Effect.map(state, ({ replicas }) => replicas.every(({ status }) => status === "Ready")))
        const desk = Context.get(context, Desk)
        const names = yield* Effect.forEach(Array.from({ length: 40 }), () => desk.name(), { concurrency: 40 })
        assert.deepStrictEqual(Array.from(new Set(names)).toSorted(), ["one", "other"])
        const bad = ConfigProvider.layer(ConfigProvider.fromEnv({ env: { SERVE_DESK_URL: "nowhere" } }))
        const message = yield* defect(Layer.build(Layer.provide(Desk.toLayerRemote(), bad)))
        for (const words of ["url", "ConfigProvider"]) assert.include(message, words)
      })
    )

    it.effect("dies when a method takes an upload, and names it", () =>
      Effect.gen(function* () {
        for (const payload of [HttpSchema.Upload(), HttpSchema.Multipart()]) {
          class Files extends Deployment.Service<Files>()("Files", [
            Rpc.make("list", { success: Schema.String }),
            Rpc.make("store", { payload, success: Schema.Int })
          ]) {}
          const message = yield* defect(Layer.build(Files.toLayerRemote({ url: "http://127.0.0.1:1" })))
          for (const words of [`"Files"`, `"store"`, "upload"]) assert.include(message, words)
        }
      })
    )
  })

  describe("when nobody is there", () => {
    it.live(
      "is built after connectTimeout with a warning; then calls wait, fail after unreachableTimeout, and then at once",
      () =>
        Effect.gen(function* () {
          const port = yield* freePort
          const options = {
            ...known(`http://127.0.0.1:${port}`),
            connectTimeout: "100 millis",
            unreachableTimeout: "250 millis"
          } as const
          const [{ desk, state }, built] = yield* timed(dialTo(options))
          assert.isAtLeast(built, 90)
          assert.isBelow(built, 1500)
          const [warning] = yield* logged("can't be reached")
          assert.deepInclude(warning, { level: "Warn" })
          const [why, waited] = yield* timed(reason(desk.name()))
          assert.deepInclude(why, { _tag: "TransportError", started: false, deployment: "Desk" })
          assert.isAtLeast(waited, 20)
          assert.isBelow(waited, 1500)
          for (const work of [desk.name(), Stream.runDrain(desk.seenMany())]) {
            const [again, millis] = yield* timed(reason(work))
            assert.deepInclude(again, { _tag: "TransportError", started: false })
            assert.isBelow(millis, 200)
          }
          assert.deepInclude(yield* whenLogged("for 250ms"), { level: "Error" })
          assert.deepInclude(yield* state, { queued: 0, running: 0 })

          yield* start(onPort(port))
          yield* until(Effect.map(Effect.exit(desk.name()), Exit.isSuccess))
          assert.strictEqual(yield* desk.name(), "desk")
        }).pipe(Effect.provide(Logs.layer))
    )

    it.live("brings to a server that comes in time what has waited for it", () =>
      Effect.gen(function* () {
        const port = yield* freePort
        const { desk, state } = yield* dialTo({ ...known(`http://127.0.0.1:${port}`), connectTimeout: 10 })
        const callers = yield* Effect.forEach(Array.from({ length: 20 }), () => call(desk.name()))
        const stream = yield* call(Stream.runCollect(desk.seenMany()))
        assert.deepInclude(yield* state, { queued: 21, running: 0 })
        yield* start(onPort(port))
        assert.deepStrictEqual(new Set(yield* Fiber.joinAll(callers)), new Set(["desk"]))
        assert.lengthOf(yield* Fiber.join(stream), 1)
      }).pipe(Effect.provide(Logs.layer))
    )

    it.live("is no reason for an ingress that serves it to be ready, on any server", () =>
      Effect.gen(function* () {
        const port = yield* freePort
        const remote = Desk.toLayerRemote({ ...known(`http://127.0.0.1:${port}`), connectTimeout: 10 })
        const fronts = yield* Effect.forEach(Object.values(nodeServers(routes)), (front) =>
          Layer.build(Layer.provide(front, remote))
        )
        const health = Effect.forEach(fronts, (front) =>
          Effect.map(Effect.provide(send("/-/healthz"), front), ({ status }) => status)
        )
        assert.deepStrictEqual(yield* health, [503, 503])
        const server = yield* start(onPort(port))
        yield* until(Effect.map(health, (statuses) => statuses.every((status) => status === 200)))
        const bodies = yield* Effect.forEach(fronts, (front) =>
          Effect.provide(send("/desk/name", { method: "POST", headers: { "content-type": "application/json" } }), front)
        )
        assert.deepStrictEqual(
          bodies.map(({ body }) => body),
          ["desk", "desk"]
        )
        yield* server.close
        yield* until(Effect.map(health, ([status]) => status === 503))
      }).pipe(Effect.provide(Logs.layer))
    )
  })

  describe("when somebody else is there", () => {
    const short = { connectTimeout: "60 millis", unreachableTimeout: "60 millis" } as const

    it.live("fails when that will never have it", () =>
      Effect.gen(function* () {
        const url = yield* plain((_, response) => response.writeHead(404).end("<h1>not here</h1>"))
        const error = yield* refusalOf(dialTo({ url }))
        assert.deepInclude(error, { status: 404, url })
        assert.include(error.message, "not here")
      })
    )

    it.live("goes on trying when it may have it later", () =>
      Effect.gen(function* () {
        for (const status of [200, 302, 429, 500, 503]) {
          const url = yield* plain((_, response) => response.writeHead(status, { location: "/" }).end("busy"))
          const { desk } = yield* dialTo({ ...known(url), ...short })
          const why = yield* reason(desk.name())
          assert.deepInclude(why, { _tag: "TransportError", started: false })
          assert.isAtLeast((yield* logged(`status ${status}`)).length, 1)
        }
      }).pipe(Effect.provide(Logs.layer))
    )

    it.live("doesn't wait longer than connectTimeout for a server that says nothing", () =>
      Effect.gen(function* () {
        const url = yield* listening(createTcpServer((socket) => socket.on("error", () => {}).resume()))
        const [{ desk }, built] = yield* timed(dialTo({ ...known(url), ...short }))
        assert.isBelow(built, 1500)
        assert.deepInclude(yield* reason(desk.name()), { _tag: "TransportError", started: false })
        yield* whenLogged("within 60ms")
      }).pipe(Effect.provide(Logs.layer))
    )

    it.live("takes none that speaks another protocol, or says something else than hello", () =>
      Effect.gen(function* () {
        for (const protocol of ["effect-serve.2", "effect-serve.1"]) {
          const server = createServer()
          const sockets = new NodeWS.WebSocketServer({ server, handleProtocols: () => protocol })
          sockets.on("connection", (socket) => socket.send(Buffer.from([99, 1, 2])))
          const url = yield* listening(server)
          yield* Effect.addFinalizer(() => Effect.sync(() => sockets.clients.forEach((socket) => socket.terminate())))
          const { desk } = yield* dialTo({ ...known(url), ...short })
          assert.deepInclude(yield* reason(desk.name()), { _tag: "TransportError", started: false })
        }
      }).pipe(Effect.provide(Logs.layer))
    )
  })

  describe("with two URLs", () => {
    it.live("shares calls out, and leaves alone what is gone until it is there again", () =>
      Effect.gen(function* () {
        const [one, other] = [yield* start(onPort(), "one"), yield* start(onPort(), "other")]
        const { desk, state } = yield* both(one, other)
        yield* many(desk.name(), 200)
        assert.strictEqual(one.desks.calls + other.desks.calls, 200)
        assert.isAtLeast(Math.min(one.desks.calls, other.desks.calls), 10)
        assert.deepStrictEqual(
          (yield* state).replicas.map(({ id }) => id),
          ["Desk#0", "Desk#1"]
        )
        yield* one.close
        yield* until(Effect.map(state, ({ replicas }) => replicas[0]?.status === "Left"))
        assert.isTrue((yield* many(desk.name())).every((exit) => Exit.isSuccess(exit) && exit.value === "other"))
        yield* start(onPort(one.port), "again")
        yield* until(Effect.map(state, ({ replicas }) => replicas[0]?.status === "Ready"))
        const names = new Set((yield* many(desk.name(), 400)).map((exit) => Exit.isSuccess(exit) && exit.value))
        assert.isTrue(names.has("again") && names.has("other"), "a cold one gets little, and something")
      }).pipe(Effect.provide(Logs.layer))
    )

    it.live("sends no more to one that fails every call", () =>
      Effect.gen(function* () {
        const [one, other] = [yield* start(onPort(), "one", true), yield* start(onPort(), "other")]
        const { desk, state } = yield* both(one, other)
        yield* until(
          Effect.map(Effect.andThen(many(desk.name()), state), ({ replicas }) => replicas[0]?.status === "Ejected")
        )
        assert.strictEqual((yield* state).replicas[1]?.status, "Ready")
        const after = yield* many(desk.name())
        assert.isTrue(after.every((exit) => Exit.isSuccess(exit) && exit.value === "other"))
      }).pipe(Effect.provide(Logs.layer))
    )

    it.live("is built with one of them, when the other refuses it", () =>
      Effect.gen(function* () {
        const one = yield* start(onPort(), "one")
        const url = yield* plain((_, response) => response.writeHead(401).end())
        const { desk, state } = yield* dialTo({ urls: [url, one.url], gracefulShutdownTimeout: 0 })
        assert.strictEqual(yield* desk.name(), "one")
        assert.deepStrictEqual(
          (yield* state).replicas.map(({ status }) => status),
          ["Left", "Ready"]
        )
        const error = yield* refusalOf(dialTo({ urls: [url, url] }))
        assert.strictEqual(error.status, 401)
      }).pipe(Effect.provide(Logs.layer))
    )
  })

  it.live("tells a caller nothing of a defect but that there was one", () =>
    Effect.gen(function* () {
      const { url } = yield* start(onPort(), "one", true)
      const { desk } = yield* dialTo(known(url))
      const message = yield* defect(desk.name())
      assert.notInclude(message, "broken")
      assert.include(message, "log")
      const { annotations, level } = yield* whenLogged("Error: broken")
      assert.strictEqual(level, "Error")
      assert.property(annotations, "requestId")
    }).pipe(Effect.provide(Logs.layer))
  )

  it.live("waits no longer than reconnect.firstDelay before its second try, and twice as long before its third", () =>
    Effect.gen(function* () {
      const tries: Array<number> = []
      const server = createTcpServer((socket) => {
        tries.push(performance.now())
        socket.destroy()
      })
      const reconnect = { firstDelay: "150 millis", maxDelay: "10 seconds" } as const
      const longest = { nextIntUnsafe: () => 1, nextDoubleUnsafe: () => 0.999 }
      const dialing = dialTo({ url: yield* listening(server), connectTimeout: 10, reconnect })
      yield* Effect.provideService(dialing, Random.Random, longest)
      yield* until(Effect.sync(() => tries.length >= 3))
      const [one, other] = [tries[1]! - tries[0]!, tries[2]! - tries[1]!]
      assert.isAtLeast(one, 145)
      assert.isBelow(one, 280)
      assert.isAtLeast(other, 290)
    }).pipe(Effect.provide(Logs.layer))
  )

  it.live("closes at once, wherever it is", () =>
    Effect.gen(function* () {
      for (const answers of [true, false]) {
        const server = createTcpServer((socket) => {
          socket.on("error", () => {})
          if (answers) socket.destroy()
          else socket.resume()
        })
        const url = yield* listening(server)
        const scope = yield* Scope.make()
        const remote = Desk.toLayerRemote({ url, reconnect: { firstDelay: "5 seconds", maxDelay: "5 seconds" } })
        const building = yield* call(Layer.buildWithScope(remote, scope))
        yield* Effect.sleep(50)
        const [, millis] = yield* timed(Effect.andThen(Fiber.interrupt(building), Scope.close(scope, Exit.void)))
        assert.isBelow(millis, 1000)
      }
    }).pipe(Effect.provide(Logs.layer))
  )

  it.live("goes on trying when what shows who it is fails", () =>
    Effect.gen(function* () {
      const { url } = yield* start(onPort())
      let asked = 0
      const auth = Effect.suspend(() =>
        asked++ === 0 ? Effect.die(new Error("the token service is down")) : Effect.succeed({})
      )
      const { desk } = yield* dialTo({ ...known(url), auth, connectTimeout: "1 second" })
      assert.strictEqual(yield* desk.name(), "desk")
      assert.strictEqual(asked, 2)
    }).pipe(Effect.provide(Logs.layer))
  )

  it.live("calls a deployment that has many methods", () =>
    Effect.gen(function* () {
      const methods = Array.from({ length: 400 }, (_, i) => Rpc.make(`methodNumber${i}OfMany`, { success: Schema.Int }))
      class Many extends Deployment.Service<Many>()("Many", methods) {}
      const handlers = Object.fromEntries(methods.map(({ _tag }, i) => [_tag, () => Effect.succeed(i)]))
      const ingress = HttpIngress.layerNode({ "/many": Many }, { port: 0, gracefulShutdownTimeout: 0 })
      const server = yield* Layer.build(Layer.provide(ingress, Many.toLayer(handlers as never)))
      const { url } = Context.get(server, HttpIngress.Address)
      const remote = Many.toLayerRemote({ url, connectTimeout: "1 second", gracefulShutdownTimeout: 0 })
      const many: Context.Service.Shape<typeof Many> = Context.get(yield* Layer.build(remote), Many)
      assert.strictEqual(yield* many["methodNumber7OfMany"]!(undefined, { timeout: "500 millis" }), 7)
    }).pipe(Effect.provide(Logs.layer))
  )

  describe("over TLS", () => {
    const tls = { key: pem("server-key"), cert: pem("server"), ca: pem("ca"), clientCertificate: "require" } as const
    const byName = Auth.clientCertificate({
      byCommonName: { "billing.internal": { id: "billing", tenant: "finance" } }
    })

    for (const [name, ingress] of Object.entries(nodeServers(routes, { tls, authorize: byName }))) {
      layer(appOf(ingress), { excludeTestServices: true })(`to ${name}`, (it) => {
        it.effect("is known by its certificate", () =>
          Effect.gen(function* () {
            const { url } = yield* HttpIngress.Address
            assert.match(url, /^https:/)
            const { desk } = yield* dial({ tls: { ca: pem("ca"), ...certificate("client") } })
            assert.deepInclude(yield* desk.seen(), {
              principal: { id: "billing", tenant: "finance" },
              tenant: "finance"
            })
            assert.lengthOf(yield* desk.echo(new Uint8Array(500_000)), 500_000)
          })
        )

        it.effect("is refused with the certificate of somebody else", () =>
          Effect.gen(function* () {
            const error = yield* refusal({ tls: { ca: pem("ca"), ...certificate("stranger") } })
            assert.include([401, 403], error.status)
          })
        )

        it.effect("trusts no server that its authorities don't know, and is no client without a certificate", () =>
          Effect.gen(function* () {
            const short = { connectTimeout: "100 millis", unreachableTimeout: "50 millis" } as const
            for (const tls of [
              certificate("client"),
              { ca: pem("ca") },
              { ca: pem("ca"), ...certificate("foreign") }
            ]) {
              const { desk } = yield* dial({ tls, ...short })
              assert.deepInclude(yield* reason(desk.name()), { _tag: "TransportError", started: false })
            }
            assert.isAtLeast((yield* logged("certificate")).length, 1)
          })
        )
      })
    }
  })

  it.effect("is told when the process over there is overloaded, by the priority of each call", () =>
    Effect.gen(function* () {
      const source = Effect.succeed(() => ({ utilization: 1, delay: 2000 }))
      const ingress = HttpIngress.layerNode(routes, { port: 0, gracefulShutdownTimeout: 0 })
      const { desks, url } = yield* Effect.provideService(start(ingress), ProcessGate.Source, source)
      const { desk } = yield* dialTo(known(url))
      assert.strictEqual(yield* desk.name(undefined, { priority: "sheddable" }), "desk")
      yield* TestClock.adjust("1 second")
      for (let i = 0; i < 5; i++) {
        const why = yield* reason(desk.name(undefined, { priority: "sheddable" }))
        assert.deepInclude(why, { _tag: "Shed", deployment: "Desk" })
        assert.strictEqual(yield* desk.name(undefined, { priority: "critical" }), "desk")
        assert.strictEqual(
          (yield* reason(Stream.runDrain(desk.seenMany(undefined, { priority: "sheddable" }))))._tag,
          "Shed"
        )
      }
      assert.strictEqual(desks.calls, 6)
      assert.strictEqual(yield* desk.name(undefined, { priority: "critical" }), "desk")
    }).pipe(Effect.provide(Logs.layer))
  )
})

describe("a remote handle that serves somebody", () => {
  it.live("tells a server that does not trust it nothing of their claims, however many there are", () =>
    Effect.gen(function* () {
      const ingress = HttpIngress.layerNode({ "/desk": Desk }, { port: 0, gracefulShutdownTimeout: 0 })
      const server = yield* Layer.build(appOf(ingress))
      const { desk } = yield* dialTo({ url: Context.get(server, HttpIngress.Address).url })
      const groups = Array.from({ length: 400 }, (_, i) => `cn=group-${i},ou=groups,dc=example`)
      const request = Object.assign({}, RequestContext.empty, { principal: { id: "ada", claims: { groups } } })
      const named = Effect.provideService(desk.name(), RequestContext.RequestContext, request)
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(named)))
    }).pipe(Effect.provide(Logs.layer))
  )
})
