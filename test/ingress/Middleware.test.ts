/**
 * What {@link HttpIngress.middleware} does for endpoints that are not methods of deployments, on real sockets.
 */
import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Auth, Deployment, HttpIngress, RequestContext, ServeError } from "effect-serve"
import { Context, Deferred, Effect, Layer, Logger, Metric, Schema } from "effect"
import { HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { Rpc } from "effect/rpc"
import { createServer, request } from "node:http"

class Lab extends Deployment.Service<Lab>()("Lab", [
  Rpc.make("context", { success: Schema.Record(Schema.String, Schema.Unknown) }),
  Rpc.make("wait")
]) {}

/** What the tests see of the handler that waits. */
class Waiting extends Context.Service<
  Waiting,
  {
    readonly started: Deferred.Deferred<void>
    readonly interrupted: Deferred.Deferred<void>
    readonly released: Deferred.Deferred<void>
  }
>()("test/Middleware/Waiting") {
  static readonly layer = Layer.effect(
    Waiting,
    Effect.all({ started: Deferred.make<void>(), interrupted: Deferred.make<void>(), released: Deferred.make<void>() })
  )
}

const LabLive = Lab.toLayer(
  Effect.gen(function* () {
    const { interrupted, released, started } = yield* Waiting
    return Lab.of({
      context: () => Effect.map(RequestContext.RequestContext, (context) => JSON.parse(JSON.stringify(context))),
      wait: () =>
        Deferred.succeed(started, undefined).pipe(
          Effect.andThen(Deferred.await(released)),
          Effect.onInterrupt(() => Deferred.succeed(interrupted, undefined))
        )
    })
  }),
  { maxOngoingRequests: 1, maxQueuedRequests: 0 }
).pipe(Layer.provideMerge(Waiting.layer))

class Taken extends Schema.TaggedError<Taken>()("Taken", { name: Schema.String }, { httpApiStatus: 409 }) {}

const Api = HttpApi.make("api").add(
  HttpApiGroup.make("items").add(
    HttpApiEndpoint.post("add", "/api/items/:name", {
      params: { name: Schema.String },
      payload: Schema.Struct({ count: Schema.Int }),
      success: Schema.Record(Schema.String, Schema.Unknown),
      error: Taken
    })
  )
)

const endpoints = (middleware: Layer.Layer<HttpRouter.Request<"Error", ServeError.ServeError>>) => {
  const text = HttpServerResponse.text("done")
  const Routes = HttpRouter.addAll([
    HttpRouter.route(
      "GET",
      "/context/:id",
      Effect.flatMap(
        Effect.flatMap(Lab, (lab) => lab.context()),
        HttpServerResponse.json
      )
    ),
    HttpRouter.route(
      "GET",
      "/own",
      Effect.flatMap(RequestContext.RequestContext, (_) => HttpServerResponse.json(_))
    ),
    // It may fail with a ServeError, which the middleware answers: that this compiles is part of the test.
    HttpRouter.route(
      "GET",
      "/wait",
      Effect.as(
        Effect.flatMap(Lab, (lab) => lab.wait()),
        text
      )
    ),
    HttpRouter.route("GET", "/never", Effect.never),
    HttpRouter.route("GET", "/die", Effect.die(new Error("the password is 1234")))
  ])
  const Items = HttpApiBuilder.group(Api, "items", (handlers) =>
    handlers.handle("add", ({ params, payload }) =>
      params.name === "taken"
        ? Effect.fail(new Taken({ name: params.name }))
        : Effect.flatMap(Lab, (lab) => (payload.count > 0 ? lab.context() : Effect.as(lab.wait(), {}))).pipe(
            Effect.orDie
          )
    )
  )
  const ApiRoutes = Layer.provide(HttpApiBuilder.layer(Api), Items)
  return HttpRouter.serve(Layer.mergeAll(Routes, ApiRoutes).pipe(Layer.provide(middleware)), {
    disableLogger: true
  }).pipe(
    Layer.provideMerge(NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 0, gracefulShutdownTimeout: 0 })),
    Layer.provideMerge(LabLive)
  )
}

const urlOf = Effect.map(
  HttpServer.HttpServer,
  ({ address }) => `http://127.0.0.1:${"port" in address ? address.port : 0}`
)

const send = (path: string, init: RequestInit = {}) =>
  Effect.gen(function* () {
    const url = yield* urlOf
    const response = yield* Effect.promise((signal) => fetch(url + path, { signal, ...init }))
    const text = yield* Effect.promise(() => response.text())
    const body: Record<string, any> = text.startsWith("{") ? JSON.parse(text) : {}
    return { status: response.status, headers: response.headers, text, body }
  })

const add = (name: string, body: unknown, headers: Record<string, string> = {}) =>
  send(`/api/items/${name}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body)
  })

const counted = (route: string, status: number) =>
  Effect.map(Metric.snapshot, (metrics) => {
    const found = metrics.find(
      ({ attributes, id }) =>
        id === "serve_http_requests_total" && attributes?.["route"] === route && attributes["status"] === String(status)
    )
    return found?.type === "Counter" ? Number(found.state.count) : 0
  })

const until = <R>(condition: Effect.Effect<boolean, never, R>) =>
  Effect.repeat(Effect.delay(condition, "2 millis"), { until: (isTrue) => isTrue })

/** Sends a request, waits until its handler runs, and hangs up. */
const hangUp = (path: string, headers: Record<string, string> = {}) =>
  Effect.gen(function* () {
    const url = yield* urlOf
    const sent = request(url + path, { headers })
    sent.on("error", () => {})
    sent.end()
    yield* Deferred.await((yield* Waiting).started)
    sent.destroy()
  })

describe("HttpIngress.middleware", () => {
  const Quiet = Layer.mergeAll(Logger.layer([]), Layer.succeed(Metric.MetricRegistry, new Map()))
  const App = endpoints(HttpIngress.middleware()).pipe(Layer.provideMerge(Quiet))
  const live = (name: string, test: () => Effect.Effect<void, unknown, Layer.Success<typeof App>>) =>
    it.live(name, () => Effect.provide(test(), App))

  live(
    "tells an endpoint, and the deployments that it calls, what is known of the request",
    Effect.fnUntraced(function* () {
      const headers = {
        "x-request-id": "r-1",
        "x-request-priority": "critical",
        "x-request-tenant": "t",
        "x-request-timeout-ms": "5000",
        "last-event-id": "7"
      }
      const expected = { requestId: "r-1", priority: "critical", tenant: "t", lastEventId: "7" }
      const own = yield* send("/own", { headers })
      assert.deepInclude(own.body, { ...expected, route: "/own" })
      const nested = yield* send("/context/5", { headers })
      assert.deepInclude(nested.body, { ...expected, route: "/context/:id" })
      assert.isAtMost(nested.body["deadline"], Date.now() + 5000)
      assert.strictEqual(nested.headers.get("x-request-id"), "r-1")
    })
  )

  live(
    "does the same for an HttpApi",
    Effect.fnUntraced(function* () {
      const { body, headers, status } = yield* add(
        "a",
        { count: 1 },
        { "x-request-id": "r-2", "x-request-tenant": "t" }
      )
      assert.strictEqual(status, 200)
      assert.deepInclude(body, { requestId: "r-2", tenant: "t", route: "/api/items/:name" })
      assert.strictEqual(headers.get("x-request-id"), "r-2")
    })
  )

  live(
    "makes an id for a request that brings none, and says it whatever the answer is",
    Effect.fnUntraced(function* () {
      const ids = yield* Effect.forEach(
        [send("/own"), send("/die"), add("taken", { count: 1 }), add("a", { count: "x" })],
        Effect.map(({ headers }) => headers.get("x-request-id"))
      )
      for (const id of ids) assert.match(id!, /^[\w-]{8,}$/)
      assert.strictEqual(new Set(ids).size, 4)
    })
  )

  live(
    "answers 400 to a header that is wrong",
    Effect.fnUntraced(function* () {
      const { body, status } = yield* send("/own", { headers: { "x-request-priority": "high" } })
      assert.strictEqual(status, 400)
      assert.deepInclude(body, { _tag: "BadRequest" })
      assert.include(body["message"], "x-request-priority")
    })
  )

  live(
    "gives a ServeError its status",
    Effect.fnUntraced(function* () {
      yield* Effect.forkChild(send("/wait"))
      yield* Deferred.await((yield* Waiting).started)
      for (const refused of [yield* send("/wait"), yield* add("a", { count: 0 })]) {
        assert.strictEqual(refused.status, 503)
        assert.deepInclude(refused.body, { _tag: "ServeError" })
        assert.strictEqual(refused.body["reason"]._tag, "QueueFull")
        assert.match(refused.headers.get("retry-after")!, /^\d+$/)
      }
      yield* Deferred.succeed((yield* Waiting).released, undefined)
    })
  )

  live(
    "ends an endpoint at its deadline",
    Effect.fnUntraced(function* () {
      const { body, status } = yield* send("/never", { headers: { "x-request-timeout-ms": "30" } })
      assert.strictEqual(status, 504)
      assert.deepInclude(body["reason"], { _tag: "DeadlineExceeded", stage: "handler" })
    })
  )

  live(
    "leaves errors that an endpoint declares, and payloads that don't match, to the application",
    Effect.fnUntraced(function* () {
      const taken = yield* add("taken", { count: 1 })
      assert.strictEqual(taken.status, 409)
      assert.deepStrictEqual(taken.body, { _tag: "Taken", name: "taken" })
      assert.strictEqual((yield* add("a", { count: "x" })).status, 400)
    })
  )

  live(
    "answers a defect with 500 and no word of it",
    Effect.fnUntraced(function* () {
      const { body, status, text } = yield* send("/die", { headers: { "x-request-id": "r-3" } })
      assert.strictEqual(status, 500)
      assert.deepStrictEqual(body, { _tag: "InternalServerError", requestId: "r-3" })
      assert.notInclude(text, "1234")
    })
  )

  live(
    "counts every answer once, by the pattern of the route",
    Effect.fnUntraced(function* () {
      yield* send("/context/1")
      yield* send("/context/2")
      yield* send("/die")
      yield* add("taken", { count: 1 })
      assert.strictEqual(yield* counted("/context/:id", 200), 2)
      assert.strictEqual(yield* counted("/die", 500), 1)
      assert.strictEqual(yield* counted("/api/items/:name", 409), 1)
    })
  )

  live(
    "interrupts an endpoint whose client leaves, and what it has called, and counts it as 499",
    Effect.fnUntraced(function* () {
      yield* hangUp("/wait")
      yield* Deferred.await((yield* Waiting).interrupted)
      yield* until(Effect.map(counted("/wait", 499), (count) => count === 1))
      yield* until(Effect.map(Lab.state, ({ running }) => running === 0))
    })
  )

  live(
    "lets it go on when the client asked for that",
    Effect.fnUntraced(function* () {
      yield* hangUp("/wait", { "x-request-disconnect-disabled": "?1" })
      // What a hang-up interrupts is interrupted by the time that another request has been answered.
      yield* send("/own")
      const { interrupted, released } = yield* Waiting
      assert.isFalse(yield* Deferred.isDone(interrupted))
      yield* Deferred.succeed(released, undefined)
      yield* until(Effect.map(Lab.state, ({ completed }) => completed === 1))
      yield* until(Effect.map(counted("/wait", 499), (count) => count === 1))
    })
  )

  describe("with authorize", () => {
    const Closed = endpoints(
      HttpIngress.middleware({ authorize: Auth.bearer({ secret: { id: "ada", tenant: "analysts" } }) })
    ).pipe(Layer.provideMerge(Quiet))

    it.live("turns away those that it doesn't know, and tells endpoints who the others are", () =>
      Effect.gen(function* () {
        const refused = yield* send("/own")
        assert.strictEqual(refused.status, 401)
        assert.strictEqual(refused.headers.get("www-authenticate"), "Bearer")
        assert.deepInclude(refused.body, { _tag: "Unauthorized" })
        const headers = { authorization: "Bearer secret", "x-request-tenant": "other" }
        const known = { tenant: "analysts", principal: { id: "ada", tenant: "analysts" } }
        assert.deepInclude((yield* send("/own", { headers })).body, known)
        assert.deepInclude((yield* send("/context/1", { headers })).body, known)
        assert.deepInclude((yield* add("a", { count: 1 }, headers)).body, known)
      }).pipe(Effect.provide(Closed))
    )
  })

  it.effect("dies at the start when an option is wrong, and names it", () =>
    Effect.gen(function* () {
      const cause = yield* Effect.sandbox(
        Effect.scoped(Layer.build(endpoints(HttpIngress.middleware({ refusalStatus: 500 as 503 }))))
      ).pipe(Effect.flip)
      assert.include(String(cause), "refusalStatus")
    })
  )
})
