import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Deployment, HttpIngress, RequestContext } from "effect-serve"
import { Context, Deferred, Effect, Fiber, Layer, Logger, Metric, References, Schema, Scope, Stream } from "effect"
import { HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { Rpc } from "effect/rpc"
import { createServer } from "node:http"
import { connect } from "node:net"
import { post, send } from "./http.ts"
import { sendRaw } from "./servers.ts"

class NotFound extends Schema.TaggedError<NotFound>()("NotFound", { id: Schema.Int }, { httpApiStatus: 404 }) {}
class Broken extends Schema.TaggedError<Broken>()("Broken", { part: Schema.String }) {}

class Lab extends Deployment.Service<Lab>()("Lab", [
  Rpc.make("shout", {
    payload: { text: Schema.NonEmptyString, tags: Schema.optionalKey(Schema.Array(Schema.Int)) },
    success: Schema.Struct({ text: Schema.String, at: Schema.Date })
  }),
  Rpc.make("find", { payload: { id: Schema.Int }, success: Schema.Int, error: Schema.Union([NotFound, Broken]) }),
  Rpc.make("crash"),
  Rpc.make("lie", { success: Schema.Int }),
  Rpc.make("trap", {
    payload: Schema.String.check(
      Schema.makeFilter(() => {
        throw new Error("the password is 1234")
      })
    )
  }),
  Rpc.make("ping"),
  Rpc.make("wait"),
  Rpc.make("context", { success: Schema.Record(Schema.String, Schema.Unknown) }),
  Rpc.make("tokens", { success: Schema.String, stream: true })
]) {}

class Inner extends Deployment.Service<Inner>()("Inner", [Rpc.make("ping", { success: Schema.String })]) {}

/** What the tests see of the handler that waits. */
class Waiting extends Context.Service<
  Waiting,
  {
    readonly started: Deferred.Deferred<void>
    readonly interrupted: Deferred.Deferred<void>
    readonly released: Deferred.Deferred<void>
  }
>()("test/Waiting") {
  static readonly layer = Layer.effect(
    Waiting,
    Effect.all({ started: Deferred.make<void>(), interrupted: Deferred.make<void>(), released: Deferred.make<void>() })
  )
}

const LabLive = Lab.toLayer(
  Effect.gen(function* () {
    const { interrupted, released, started } = yield* Waiting
    return Lab.of({
      shout: ({ text }) => Effect.succeed({ text: text.toUpperCase(), at: new Date(0) }),
      find: ({ id }) =>
        id === 0
          ? Effect.fail(new NotFound({ id }))
          : id < 0
            ? Effect.fail(new Broken({ part: "wing" }))
            : Effect.succeed(id),
      crash: () => Effect.die(new Error("the password is 1234")),
      lie: () => Effect.succeed(1.5),
      trap: () => Effect.void,
      ping: () => Effect.void,
      wait: () =>
        Deferred.succeed(started, undefined).pipe(
          Effect.andThen(Deferred.await(released)),
          Effect.onInterrupt(() => Deferred.succeed(interrupted, undefined))
        ),
      context: () => Effect.map(RequestContext.RequestContext, (context) => JSON.parse(JSON.stringify(context))),
      tokens: () => Stream.make("a")
    })
  }),
  { maxOngoingRequests: 2, maxQueuedRequests: 0 }
).pipe(Layer.provideMerge(Waiting.layer))

const InnerLive = Inner.toLayer({ ping: () => Effect.succeed("inner") })
const Deployments = Layer.mergeAll(LabLive, InnerLive)
const routes = { "/lab": Lab, "/lab/inner": Inner } as const
const options = { maxBodySize: 1000 }

const Quiet = Layer.mergeAll(Logger.layer([]), Layer.succeed(Metric.MetricRegistry, new Map()))

const addressOf = Layer.effect(
  HttpIngress.Address,
  Effect.map(HttpServer.HttpServer, ({ address }) => {
    const port = "port" in address ? address.port : 0
    return { host: "127.0.0.1", port, url: `http://127.0.0.1:${port}` }
  })
)

const onNode = HttpIngress.layerNode(routes, { ...options, port: 0, gracefulShutdownTimeout: "2 seconds" })
const onThread = HttpIngress.layerNode(routes, {
  ...options,
  port: 0,
  gracefulShutdownTimeout: "2 seconds",
  ownThread: true
})
const Server = NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 0, gracefulShutdownTimeout: "2 seconds" })
const onServer = Layer.merge(addressOf, HttpIngress.layer(routes, options)).pipe(Layer.provide(Server))

const idOf = (headers: Record<string, string>) =>
  Effect.map(post("/lab/ping", "", headers), (_) => _.headers.get("x-request-id")!)

const servers: Record<string, Layer.Layer<HttpIngress.Address, unknown, Lab | Inner>> = {
  layerNode: onNode,
  "layerNode, on a thread of its own": onThread,
  layer: onServer
}

for (const [name, ingress] of Object.entries(servers)) {
  const App = ingress.pipe(Layer.provideMerge(Deployments), Layer.provideMerge(Quiet))
  const live = <E>(sentence: string, effect: () => Effect.Effect<void, E, Layer.Success<typeof App> | Scope.Scope>) =>
    it.live(sentence, () => effect().pipe(Effect.provide(App), Effect.scoped), 10_000)

  describe(`HttpIngress.${name}`, () => {
    live(
      "answers with the encoded success of the method",
      Effect.fnUntraced(function* () {
        const { body, headers, status } = yield* post("/lab/shout", { text: "hello" })
        assert.strictEqual(status, 200)
        assert.strictEqual(headers.get("content-type"), "application/json")
        assert.deepStrictEqual(body, { text: "HELLO", at: "1970-01-01T00:00:00.000Z" })
      })
    )

    live(
      "takes no body for a method without payload, and answers null for one without success",
      Effect.fnUntraced(function* () {
        const { status, text } = yield* send("/lab/ping", { method: "POST" })
        assert.deepStrictEqual({ status, text }, { status: 200, text: "null" })
      })
    )

    live(
      "gives a path to the longest prefix, and ignores the query",
      Effect.fnUntraced(function* () {
        assert.strictEqual((yield* send("/lab/inner/ping?x=1", { method: "POST" })).text, '"inner"')
      })
    )

    live(
      "echoes a request id, and makes one when there is none or it is unfit to be logged",
      Effect.fnUntraced(function* () {
        assert.strictEqual(yield* idOf({ "x-request-id": "abc-1" }), "abc-1")
        const made = [
          yield* idOf({}),
          yield* idOf({ "x-request-id": "a b" }),
          yield* idOf({ "x-request-id": "x".repeat(129) })
        ]
        assert.strictEqual(new Set(made).size, 3)
        for (const id of made) assert.match(id, /^[\w-]{3,20}$/)
      })
    )

    live(
      "names the field of a payload that its schema refuses",
      Effect.fnUntraced(function* () {
        const { body, status } = yield* post("/lab/shout", { text: "a", tags: [1, "two"] })
        assert.strictEqual(status, 400)
        assert.deepInclude(body, { _tag: "BadRequest", issues: [{ path: "tags[1]", message: "Expected number" }] })
        assert.deepStrictEqual((yield* post("/lab/shout", {})).body.issues[0].path, "text")
      })
    )

    live(
      "refuses a body that is not JSON",
      Effect.fnUntraced(function* () {
        const { body, status } = yield* post("/lab/shout", "{text:")
        assert.deepStrictEqual([status, body.message], [400, "The body is not JSON"])
      })
    )

    live(
      "refuses another content type with 415",
      Effect.fnUntraced(function* () {
        for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1"]) {
          assert.strictEqual((yield* post("/lab/shout", { text: "a" }, { "content-type": type })).status, 415, type)
        }
        const { status } = yield* post(
          "/lab/shout",
          { text: "a" },
          { "content-type": "Application/JSON; charset=UTF-8" }
        )
        assert.strictEqual(status, 200)
      })
    )

    live(
      "refuses another verb with 405 and says which one to use",
      Effect.fnUntraced(function* () {
        for (const method of ["GET", "PUT", "DELETE"]) {
          const { headers, status } = yield* send("/lab/shout", { method })
          assert.deepStrictEqual([status, headers.get("allow")], [405, "POST"])
        }
        assert.strictEqual((yield* send("/-/routes", { method: "POST" })).headers.get("allow"), "GET, HEAD")
      })
    )

    live(
      "answers 404 with what there is instead",
      Effect.fnUntraced(function* () {
        const noMethod = yield* post("/lab/nope", {})
        assert.deepStrictEqual([noMethod.status, noMethod.body._tag], [404, "NotFound"])
        assert.include(noMethod.body.message, "shout")
        const noRoute = yield* post("/nope", {})
        assert.strictEqual(noRoute.status, 404)
        assert.include(noRoute.body.message, "/lab")
        assert.strictEqual((yield* post("/lab", {})).status, 404)
      })
    )

    live(
      "answers a declared error by its status and its schema",
      Effect.fnUntraced(function* () {
        const annotated = yield* post("/lab/find", { id: 0 })
        assert.deepStrictEqual([annotated.status, annotated.body], [404, { _tag: "NotFound", id: 0 }])
        const plain = yield* post("/lab/find", { id: -1 })
        assert.deepStrictEqual([plain.status, plain.body], [500, { _tag: "Broken", part: "wing" }])
      })
    )

    live(
      "tells a client nothing of a defect",
      Effect.fnUntraced(function* () {
        for (const [method, payload] of [
          ["crash", ""],
          ["lie", ""],
          ["trap", '"a"']
        ] as const) {
          const { body, status } = yield* post(`/lab/${method}`, payload, { "x-request-id": "abc" })
          assert.deepStrictEqual([status, body], [500, { _tag: "InternalServerError", requestId: "abc" }])
        }
        assert.strictEqual((yield* post("/lab/ping", "")).status, 200)
      })
    )

    live(
      "answers 413 to a body that is too large, announced or not",
      Effect.fnUntraced(function* () {
        assert.strictEqual((yield* post("/lab/shout", { text: "x".repeat(1000) })).status, 413)
        const chunk = `fff\r\n${"x".repeat(0xfff)}\r\n`
        const answer = yield* sendRaw(
          `POST /lab/shout HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n${chunk}0\r\n\r\n`
        )
        assert.match(answer, /^HTTP\/1.1 413 /)
        assert.strictEqual((yield* post("/lab/ping", "")).status, 200)
      })
    )

    live(
      "hands the headers of a request to its handler",
      Effect.fnUntraced(function* () {
        const { body } = yield* post("/lab/context", "", {
          "x-request-id": "r1",
          "x-request-priority": "critical",
          "x-request-tenant": "acme",
          "x-request-timeout-seconds": "60",
          "x-request-timeout-ms": "5000"
        })
        assert.deepInclude(body, { requestId: "r1", priority: "critical", tenant: "acme", route: "/lab/context" })
        assert.approximately(body.deadline - Date.now(), 5000, 1000)
      })
    )

    live(
      "refuses headers that make no sense",
      Effect.fnUntraced(function* () {
        const wrong = [
          ["x-request-timeout-ms", "soon"],
          ["x-request-timeout-seconds", ""],
          ["x-request-priority", "vip"]
        ] as const
        for (const [header, value] of wrong) {
          const { body, status } = yield* post("/lab/ping", "", { [header]: value })
          assert.strictEqual(status, 400, header)
          assert.include(body.message, header)
        }
      })
    )

    live(
      "answers 504 when the time that the client gives runs out",
      Effect.fnUntraced(function* () {
        const { body, status } = yield* post("/lab/wait", "", { "x-request-timeout-ms": "250" })
        assert.deepStrictEqual([status, body.reason.stage], [504, "handler"])
        yield* Deferred.await((yield* Waiting).interrupted)
        const late = yield* post("/lab/wait", "", { "x-request-timeout-ms": "0" })
        assert.deepStrictEqual([late.status, late.body.reason.stage], [504, "admission"])
      })
    )

    live(
      "answers 503 with Retry-After when the deployment is full",
      Effect.fnUntraced(function* () {
        const running = yield* Effect.forEach([1, 2], () => Effect.forkScoped(post("/lab/wait", "")))
        const { released, started } = yield* Waiting
        yield* Deferred.await(started)
        yield* untilRunning(2)
        const { body, headers, status } = yield* post("/lab/ping", "")
        assert.deepStrictEqual([status, body.reason._tag, body.reason.ongoing], [503, "QueueFull", 2])
        assert.isAtLeast(Number(headers.get("retry-after")), 1)
        yield* Deferred.succeed(released, undefined)
        for (const fiber of running) assert.strictEqual((yield* Fiber.join(fiber)).status, 200)
      })
    )

    live(
      "interrupts the handler of a client that hangs up",
      Effect.fnUntraced(function* () {
        const { interrupted, started } = yield* Waiting
        const client = yield* Effect.forkScoped(post("/lab/wait", ""))
        yield* Deferred.await(started)
        yield* Fiber.interrupt(client)
        yield* Deferred.await(interrupted)
        yield* untilRunning(0)
        assert.strictEqual((yield* Lab.state).cancelled, 1)
        yield* untilCounted("/lab/wait", "499")
      })
    )

    it.live("logs a client that left, with its request id", () =>
      Effect.gen(function* () {
        const lines: Array<string> = []
        const Capture = Logger.layer([
          Logger.map(Logger.formatStructured, (line) => {
            lines.push(JSON.stringify(line))
          })
        ])
        yield* Effect.gen(function* () {
          const client = yield* Effect.forkChild(post("/lab/wait", "", { "x-request-id": "gone-1" }))
          yield* Deferred.await((yield* Waiting).started)
          yield* Fiber.interrupt(client)
          yield* Effect.repeat(Effect.delay(Effect.void, "2 millis"), {
            until: () => lines.some((line) => line.includes("Lab.wait left"))
          })
        }).pipe(Effect.provide(ingress.pipe(Layer.provideMerge(Deployments), Layer.provideMerge(Capture))))
        const line = lines.find((line) => line.includes("Lab.wait left"))
        assert.include(line, "gone-1")
        assert.include(line, "499")
      })
    )

    live(
      "counts answers by route and status",
      Effect.fnUntraced(function* () {
        yield* post("/lab/ping", "")
        yield* post("/lab/shout", {})
        yield* untilCounted("/lab/ping", "200")
        yield* untilCounted("/lab/shout", "400")
      })
    )

    live(
      "says that it is healthy, and what it serves",
      Effect.fnUntraced(function* () {
        const healthy = yield* send("/-/healthz")
        assert.deepStrictEqual([healthy.status, healthy.text], [200, "success"])
        const served = JSON.parse((yield* send("/-/routes")).text)
        assert.deepInclude(served, { path: "/lab/shout", deployment: "Lab", method: "shout", stream: false })
        assert.deepInclude(served, { path: "/lab/inner/ping", deployment: "Inner", method: "ping", stream: false })
      })
    )
  })
}

const untilRunning = (running: number) =>
  Effect.repeat(Effect.delay(Lab.state, "2 millis"), { until: (state) => state.running === running })

const untilCounted = (route: string, status: string) =>
  Effect.repeat(Effect.delay(Metric.snapshot, "2 millis"), {
    until: (metrics) =>
      metrics.some(
        ({ attributes, id, type }) =>
          id === "serve_http_requests_total" &&
          type === "Counter" &&
          attributes?.["route"] === route &&
          attributes["status"] === status
      )
  })

/** Starts a server that a test stops itself. */
const start = (Ingress: Layer.Layer<HttpIngress.Address, unknown, Lab | Inner>) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const context = yield* Layer.buildWithScope(
      Ingress.pipe(Layer.provideMerge(Deployments), Layer.provideMerge(Quiet)),
      scope
    )
    return { context, stop: Scope.close(scope, yield* Effect.exit(Effect.void)) }
  })

describe("HttpIngress.layerNode", () => {
  it.live("lets a running request finish at shutdown, refuses new ones meanwhile, and says so to health checks", () =>
    Effect.gen(function* () {
      const { context, stop } = yield* start(onNode)
      yield* Effect.gen(function* () {
        const { released, started } = yield* Waiting
        const running = yield* Effect.forkChild(post("/lab/wait", ""))
        yield* Deferred.await(started)
        const stopping = yield* Effect.forkChild(stop)
        yield* Effect.repeat(Effect.delay(send("/-/healthz"), "2 millis"), { until: ({ status }) => status === 503 })
        const refused = yield* post("/lab/ping", "")
        assert.deepStrictEqual([refused.status, refused.body.reason.why], [503, "draining"])
        yield* Deferred.succeed(released, undefined)
        assert.strictEqual((yield* Fiber.join(running)).status, 200)
        yield* Fiber.join(stopping)
        assert.strictEqual(
          (yield* Effect.exit(Effect.tryPromise(() => fetch(`${url(context)}/-/healthz`))))._tag,
          "Failure"
        )
      }).pipe(Effect.provideContext(context))
    })
  )

  it.live("interrupts a request that is not done within gracefulShutdownTimeout, and answers it", () =>
    Effect.gen(function* () {
      const { context, stop } = yield* start(
        HttpIngress.layerNode(routes, { port: 0, gracefulShutdownTimeout: "50 millis" })
      )
      yield* Effect.gen(function* () {
        const { interrupted, started } = yield* Waiting
        const running = yield* Effect.forkChild(post("/lab/wait", ""))
        yield* Deferred.await(started)
        yield* stop
        yield* Deferred.await(interrupted)
        const { body, status } = yield* Fiber.join(running)
        assert.deepStrictEqual([status, body.reason.why], [503, "draining"])
      }).pipe(Effect.provideContext(context))
    })
  )

  it.live("answers 429 and 408 instead, where that is asked for", () =>
    Effect.gen(function* () {
      class Busy extends Deployment.Service<Busy>()("Busy", [Rpc.make("wait")]) {}
      const BusyLive = Busy.toLayer({ wait: () => Effect.never }, { maxOngoingRequests: 1, maxQueuedRequests: 0 })
      const choices = { port: 0, refusalStatus: 429, timeoutStatus: 408 } as const
      const App = HttpIngress.layerNode({ "/busy": Busy }, choices).pipe(
        Layer.provideMerge(BusyLive),
        Layer.provide(Quiet)
      )
      const waiting = yield* Effect.gen(function* () {
        const waiting = yield* Effect.forkChild(post("/busy/wait", "", { "x-request-timeout-ms": "300" }))
        yield* Effect.repeat(Effect.delay(Busy.state, "2 millis"), { until: ({ running }) => running === 1 })
        assert.strictEqual((yield* post("/busy/wait", "")).status, 429)
        return yield* Fiber.join(waiting)
      }).pipe(Effect.provide(App))
      assert.deepStrictEqual([waiting.status, waiting.body.reason.stage], [408, "handler"])
    })
  )

  it.live("closes a connection that sends its headers too slowly", () =>
    Effect.gen(function* () {
      const { context, stop } = yield* start(HttpIngress.layerNode(routes, { port: 0, headersTimeout: "100 millis" }))
      const answer = yield* Effect.provideContext(sendRaw("POST /lab/ping HTTP/1.1\r\nhost: x\r\n"), context)
      assert.match(answer, /^HTTP\/1.1 408 /)
      yield* stop
    })
  )

  it.live("closes a connection that does not read its answer", () =>
    Effect.gen(function* () {
      class Big extends Deployment.Service<Big>()("Big", [Rpc.make("get", { success: Schema.String })]) {}
      const BigLive = Big.toLayer({ get: () => Effect.succeed("x".repeat(20_000_000)) })
      const Ingress = HttpIngress.layerNode({ "/big": Big }, { port: 0, stallTimeout: "200 millis" })
      const { port } = yield* Effect.map(
        Layer.build(Ingress.pipe(Layer.provide(BigLive), Layer.provide(Quiet))),
        Context.get(HttpIngress.Address)
      )
      const read = yield* Effect.callback<number>((resume) => {
        const socket = connect(port, "127.0.0.1", () => socket.write("POST /big/get HTTP/1.1\r\nhost: x\r\n\r\n"))
        // Nothing is read until the server has given up; then what the kernel holds is read up to the break.
        setTimeout(() => socket.resume(), 1000)
        socket.on("error", () => {})
        socket.on("close", () => resume(Effect.succeed(socket.bytesRead)))
        socket.pause()
      })
      assert.isBelow(read, 20_000_000)
    }).pipe(Effect.scoped)
  )

  it.live("answers 431 to headers that are too large", () =>
    Effect.gen(function* () {
      const { context, stop } = yield* start(HttpIngress.layerNode(routes, { port: 0, maxHeaderSize: 1000 }))
      const answer = yield* Effect.provideContext(
        sendRaw(`POST /lab/ping HTTP/1.1\r\nhost: x\r\nx-long: ${"x".repeat(2000)}\r\n\r\n`),
        context
      )
      assert.match(answer, /^HTTP\/1.1 431 /)
      yield* stop
    })
  )

  it.live("fails when the port is taken", () =>
    Effect.gen(function* () {
      const { context, stop } = yield* start(onNode)
      const { port } = Context.get(context, HttpIngress.Address)
      const second = yield* Effect.exit(Effect.scoped(start(HttpIngress.layerNode(routes, { port }))))
      assert.include(String(second), `Can't listen on 127.0.0.1:${port}`)
      assert.include(String(second), "EADDRINUSE")
      yield* stop
    })
  )

  it.effect("names an option or a route that is wrong", () =>
    Effect.gen(function* () {
      const failureOf = (Ingress: Layer.Layer<HttpIngress.Address, unknown, Lab | Inner>) =>
        Effect.map(Effect.exit(start(Ingress)), String)
      assert.include(yield* failureOf(HttpIngress.layerNode(routes, { port: -1 })), "port")
      assert.include(
        yield* failureOf(HttpIngress.layerNode(routes, { headersTimeout: "-1 seconds" })),
        "headersTimeout"
      )
      assert.include(yield* failureOf(HttpIngress.layerNode({ lab: Lab })), '"lab"')
      assert.include(yield* failureOf(HttpIngress.layerNode({ "/-/lab": Lab })), '"/-/lab"')
    })
  )

  it.live("logs a defect with its request id and its cause", () =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const Capture = Logger.layer([
        Logger.map(Logger.formatStructured, (line) => {
          lines.push(JSON.stringify(line))
        })
      ])
      const App = onNode.pipe(Layer.provideMerge(Deployments), Layer.provideMerge(Capture))
      yield* Effect.provide(post("/lab/crash", "", { "x-request-id": "abc" }), App)
      const line = lines.find((line) => line.includes("Lab.crash"))
      assert.isDefined(line)
      assert.include(line, "abc")
      assert.include(line, "the password is 1234")
    }).pipe(Effect.provideService(References.MinimumLogLevel, "Error"))
  )
})

describe("HttpIngress.layerRouter", () => {
  it.live("serves deployments beside the routes of an application", () =>
    Effect.gen(function* () {
      const Own = HttpRouter.add("GET", "/own", HttpServerResponse.text("own"))
      const App = Layer.merge(
        addressOf,
        HttpRouter.serve(Layer.mergeAll(Own, HttpIngress.layerRouter(routes)), { disableLogger: true })
      ).pipe(Layer.provide(Server), Layer.provideMerge(Deployments), Layer.provideMerge(Quiet))
      yield* Effect.gen(function* () {
        assert.strictEqual((yield* send("/own")).text, "own")
        assert.strictEqual((yield* post("/lab/shout", { text: "a" })).body.text, "A")
        assert.strictEqual((yield* send("/-/healthz")).text, "success")
        assert.strictEqual((yield* post("/lab/nope", {})).status, 404)
      }).pipe(Effect.provide(App))
    })
  )
})

const url = (context: Context.Context<HttpIngress.Address>) => Context.get(context, HttpIngress.Address).url
