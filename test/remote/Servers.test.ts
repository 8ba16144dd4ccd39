/**
 * What holds for remote handles on every server of the ingress, on real sockets.
 *
 * Seen red for each of these mutations: ids come as they are; principals are always trusted, or never, or the tenant of the request wins; the
 * protocol, the deployment or `rpc.enabled` isn't looked at; calls that nobody traces run without a fiber although there is a tracer; elements that
 * came together aren't parted on the way to the server's thread; connections aren't counted, or not down; methods aren't compared with those
 * over there; there is no window; there is one connection; a token is sent alone; the trace or the deadline stays here.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Auth, Deployment, HttpIngress, RequestContext, ServeError } from "effect-serve"
import { Context, Deferred, Effect, Fiber, Layer, Metric, Redacted, Schema, Stream, Tracer } from "effect"
import { Rpc } from "effect/rpc"
import * as NodeWS from "@effect/platform-node/NodeWS"
import { Broken, call, isDone, reason } from "../deployments.ts"
import { send } from "../ingress/http.ts"
import { servers } from "../ingress/servers.ts"
import { Logs, until } from "../modules/app.ts"
import { appOf, defect, Desk, deskLayer, Desks, dial, refusal, timed } from "./desk.ts"

/** A tracer that keeps its spans. */
const makeTracer = () => {
  const spans: Array<Tracer.NativeSpan> = []
  const span: Tracer.Tracer["span"] = (options) => {
    const span = new Tracer.NativeSpan(options)
    spans.push(span)
    return span
  }
  return { spans, tracer: Tracer.make({ span }), ids: () => spans.map(({ spanId }) => spanId) }
}

const as = (known: Partial<RequestContext.RequestContext>) =>
  Effect.provideService(RequestContext.RequestContext, Object.assign({}, RequestContext.empty, known))

/** A handle of the same deployment, with other methods. */
const at = (rpcs: ReadonlyArray<Rpc.Any>) =>
  Effect.gen(function* () {
    class Other extends Deployment.Service<Other>()("Desk", rpcs as never) {}
    const { url } = yield* HttpIngress.Address
    const remote: Layer.Layer<Other> = Other.toLayerRemote({ url, gracefulShutdownTimeout: 0 }) as never
    return Context.get(yield* Layer.build(remote), Other) as Record<string, (payload?: unknown) => Effect.Effect<any>>
  })

const routes = { "/desk": Desk } as const
const MiB = 1024 ** 2

for (const [name, ingress] of Object.entries(
  servers(routes, { maxBodySize: 300_000, rpc: { maxInFlightSize: 500_000 } })
)) {
  layer(appOf(ingress), { excludeTestServices: true })(`a remote handle, over HttpIngress.${name}`, (it) => {
    describe("carries along", () => {
      it.effect("priority, tenant, model, session, route, the last event, and the id", () =>
        Effect.gen(function* () {
          const { desk } = yield* dial()
          const known = {
            requestId: "abc-1",
            priority: "sheddable",
            tenant: "acme",
            modelId: "m",
            sessionId: "s",
            route: "/there/x",
            lastEventId: "17"
          } as const
          const { left, ...seen } = yield* as(known)(desk.seen())
          assert.deepStrictEqual(seen, { ...known, principal: undefined })
          assert.isAbove(left, 0)
          const many = yield* as(known)(Stream.runCollect(desk.seenMany()))
          assert.deepInclude(many[0], known)
          const options = yield* as(known)(
            desk.seen(undefined, { priority: "critical", tenant: "other", modelId: "n", sessionId: "t" })
          )
          assert.deepInclude(options, { priority: "critical", tenant: "other", modelId: "n", sessionId: "t" })
        })
      )

      it.effect("an id of its own where there is none", () =>
        Effect.gen(function* () {
          const { desk } = yield* dial()
          const ids = [yield* desk.seen(), yield* desk.seen()].map(({ requestId }) => requestId)
          for (const id of ids) assert.match(id, /^[\x21-\x7e]{1,128}$/)
          assert.notStrictEqual(ids[0], ids[1])
        })
      )

      it.effect("no id that would not be taken from a client of HTTP", () =>
        Effect.gen(function* () {
          const { desk } = yield* dial()
          for (const requestId of ["a b", "line\nbreak", "ö", "x".repeat(129)]) {
            const seen = yield* as({ requestId })(desk.seen())
            assert.match(seen.requestId, /^[\x21-\x7e]{1,128}$/)
            assert.notStrictEqual(seen.requestId, requestId)
          }
          assert.strictEqual((yield* as({ requestId: "x".repeat(128) })(desk.seen())).requestId, "x".repeat(128))
        })
      )

      it.effect("the time that is left", () =>
        Effect.gen(function* () {
          const { desk } = yield* dial()
          const { left } = yield* desk.seen(undefined, { timeout: "5 seconds" })
          assert.isAtMost(left, 5001)
          assert.isAbove(left, 4000)
          const inherited = yield* as({ deadline: Date.now() + 3000 })(desk.seen(undefined, { timeout: "50 seconds" }))
          assert.isAtMost(inherited.left, 3001)
          assert.isAbove(inherited.left, 2000)
          const stage = yield* reason(desk.hold(new Uint8Array(1), { timeout: "40 millis" }))
          assert.deepInclude(stage, { _tag: "DeadlineExceeded", deployment: "Desk" })
          const desks = yield* Desks
          yield* until(Effect.sync(() => desks.held === 0))
        })
      )

      it.effect("no principal that the client names, with its tenant", () =>
        Effect.gen(function* () {
          const { desk } = yield* dial()
          const principal = { id: "root", tenant: "all", claims: { admin: true } }
          const seen = yield* as({ principal, tenant: "acme" })(desk.seen())
          assert.deepInclude(seen, { principal: undefined, tenant: "acme" })
        })
      )

      it.effect("the trace, as the parent of what runs there", () =>
        Effect.gen(function* () {
          const { desk } = yield* dial()
          const { ids, spans, there } = yield* Effect.gen(function* () {
            const there = yield* desk.span()
            const spans = yield* Stream.runCollect(desk.spans())
            return { there, spans, ids: yield* Effect.currentSpan }
          }).pipe(Effect.withSpan("client"))
          for (const span of [there, ...spans]) assert.strictEqual(span?.traceId, ids.traceId)
        })
      )
    })

    describe("that is not of the same version", () => {
      it.effect("dies at a method that the server doesn't have, and no other does", () =>
        Effect.gen(function* () {
          const other = yield* at([
            Rpc.make("newer"),
            Rpc.make("newerStream", { success: Schema.String, stream: true }),
            // One of them streams there and not here, and the other way round.
            Rpc.make("elements", { success: Schema.Uint8Array }),
            Rpc.make("name", { success: Schema.String, stream: true }),
            Rpc.make("grow", { payload: Schema.Int, success: Schema.Uint8Array })
          ])
          for (const [method, how] of [
            ["newer", "answers once"],
            ["newerStream", "streams"],
            ["elements", "answers once"],
            ["name", "streams"]
          ] as const) {
            const work = other[method]!() as Effect.Effect<unknown> | Stream.Stream<unknown>
            const message = yield* defect(Stream.isStream(work) ? Stream.runDrain(work) : work)
            for (const words of [`"${method}"`, how, "version"]) assert.include(message, words)
          }
          assert.lengthOf(yield* other.grow!(3), 3)
        })
      )

      it.effect("dies when what it sends is of another type, and says so", () =>
        Effect.gen(function* () {
          const other = yield* at([
            Rpc.make("grow", { payload: Schema.String, success: Schema.Uint8Array }),
            Rpc.make("name", { success: Schema.String })
          ])
          assert.match(yield* defect(other.grow!("many")), /"grow"/)
          assert.strictEqual(yield* other.name!(), "desk")
        })
      )
    })

    it.effect("ends the work over there when its caller leaves, and waits for it", () =>
      Effect.gen(function* () {
        const desks = yield* Desks
        desks.gate = Deferred.makeUnsafe()
        const { desk, state } = yield* dial()
        const callers = [yield* call(desk.hold(new Uint8Array(10))), yield* call(Stream.runDrain(desk.holdMany()))]
        yield* until(Effect.sync(() => desks.held === 2))
        yield* Fiber.interruptAll(callers)
        assert.strictEqual(desks.held, 0)
        assert.deepInclude(yield* state, { running: 0, cancelled: 2 })
      })
    )

    it.effect("hears of errors that a method declares", () =>
      Effect.gen(function* () {
        const { desk } = yield* dial()
        const error = yield* Effect.flip(desk.fail())
        assert.instanceOf(error, Broken)
        assert.deepInclude(error, { part: "wheel" })
      })
    )

    describe("with much to carry", () => {
      it.effect("fails a call alone whose payload or answer is too large, and says both sizes", () =>
        Effect.gen(function* () {
          const { desk, state } = yield* dial({ maxAnswerSize: 400_000 })
          const [up, down, down2, fine] = yield* Effect.all(
            [
              reason(desk.echo(new Uint8Array(MiB))),
              reason(desk.grow(MiB)),
              reason(Stream.runDrain(desk.elements({ count: 3, size: MiB, together: false }))),
              desk.echo(new Uint8Array(299_000))
            ],
            { concurrency: "unbounded" }
          )
          for (const [why, most] of [
            [up, 300_000],
            [down, 400_000],
            [down2, 400_000]
          ] as const) {
            assert.deepInclude(why, { _tag: "BadUpload", why: "tooLarge" })
            const { description } = why as ServeError.BadUpload
            const [size] = /\d+/.exec(description)!
            assert.approximately(Number(size), MiB, 1000)
            assert.include(description, String(most))
          }
          assert.lengthOf(fine, 299_000)
          assert.lengthOf(yield* desk.grow(399_000), 399_000)
          assert.deepInclude((yield* state).replicas[0], { status: "Ready", running: 0 })
        })
      )

      it.effect("takes no payload that is only a little too large", () =>
        Effect.gen(function* () {
          const { desk } = yield* dial()
          for (const size of [300_001, 400_000]) {
            assert.deepInclude(yield* reason(desk.echo(new Uint8Array(size))), { _tag: "BadUpload", why: "tooLarge" })
          }
        })
      )

      it.effect("brings elements that come together, of which each is small enough", () =>
        Effect.gen(function* () {
          const { desk } = yield* dial({ maxAnswerSize: 100_000 })
          const elements = yield* Stream.runCollect(desk.elements({ count: 20, size: 50_000, together: true }))
          assert.deepStrictEqual(
            elements.map(({ length }) => length),
            Array.from({ length: 20 }, () => 50_000)
          )
        })
      )

      it.effect("carries other calls while nobody reads a stream with large elements", () =>
        Effect.gen(function* () {
          const desks = yield* Desks
          const { desk, state } = yield* dial()
          desks.made = 0
          const pulls = yield* Effect.forEach([1, 2, 3], () =>
            Stream.toPull(desk.elements({ count: 1000, size: 100_000, together: false }))
          )
          yield* Effect.forEach(pulls, (pull) => pull)
          yield* Effect.sleep(50)
          // What was read, 64 KiB and one element ahead, and what the server's thread has of the app.
          assert.isAtMost(desks.made, 3 * 5)
          const times = yield* Effect.forEach(Array.from({ length: 10 }), () =>
            Effect.map(timed(desk.echo(new Uint8Array(1000))), ([, millis]) => millis)
          )
          // Whatever else this machine does.
          assert.isBelow(times.toSorted((one, other) => one - other)[3]!, 50)
          assert.deepInclude(yield* state, { running: 3 })
        })
      )

      it.effect(
        "lets calls wait here when those there have as many bytes as they may, and all succeed in the end",
        () =>
          Effect.gen(function* () {
            const desks = yield* Desks
            desks.gate = Deferred.makeUnsafe()
            desks.heldBytes = 0
            const { desk, state } = yield* dial()
            const callers = yield* Effect.forEach(Array.from({ length: 60 }), () =>
              call(desk.hold(new Uint8Array(50_000)))
            )
            yield* until(Effect.sync(() => desks.held >= 10))
            yield* Effect.sleep(20)
            const { queued, running } = yield* state
            assert.strictEqual(queued + running, 60)
            assert.isAtLeast(queued, 40)
            assert.isAtMost(desks.heldBytes, 600_000)
            yield* Deferred.succeed(desks.gate, undefined)
            assert.deepStrictEqual(
              yield* Fiber.joinAll(callers),
              Array.from({ length: 60 }, () => 50_000)
            )
            assert.isAtMost(desks.heldBytes, 600_000)
            assert.deepInclude(yield* state, { queued: 0, running: 0, completed: 60 })
          })
      )

      it.effect("refuses more calls than may wait here", () =>
        Effect.gen(function* () {
          const desks = yield* Desks
          desks.gate = Deferred.makeUnsafe()
          const { desk } = yield* dial({ maxQueuedRequests: 2 })
          const callers = yield* Effect.forEach(Array.from({ length: 10 }), () =>
            call(Effect.exit(desk.hold(new Uint8Array(100_000))))
          )
          yield* until(Effect.sync(() => callers.filter(isDone).length >= 3))
          const [refused] = callers.filter(isDone)
          const why = yield* reason(Effect.flatten(Fiber.join(refused!)))
          assert.deepInclude(why, { _tag: "QueueFull", deployment: "Desk", queued: 2, maxQueuedRequests: 2 })
          yield* Deferred.succeed(desks.gate, undefined)
          yield* Fiber.joinAll(callers)
        })
      )
    })

    it.effect("is counted while it is connected", () =>
      Effect.gen(function* () {
        // Those of other tests are closing.
        yield* until(Effect.map(gauge, (open) => open === 0))
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* dial({ connections: 3 })
            yield* until(Effect.map(gauge, (open) => open === 3))
          })
        )
        // The server's thread tells it once a second.
        if (!name.includes("thread")) yield* until(Effect.map(gauge, (open) => open === 0))
      })
    )

    it.effect("shows its connections as replicas", () =>
      Effect.gen(function* () {
        const { desk, state } = yield* dial({ connections: 2 })
        yield* until(Effect.map(state, ({ replicas }) => replicas.every(({ status }) => status === "Ready")))
        const { deployment, options, replicas, status } = yield* state
        assert.deepStrictEqual([deployment, status], ["Desk", "Ready"])
        assert.deepStrictEqual(
          replicas.map(({ id }) => id),
          ["Desk#0", "Desk#1"]
        )
        assert.strictEqual(options.replicas, 2)
        assert.strictEqual(options.maxOngoingRequests, Infinity)
        yield* desk.name()
        assert.deepInclude(yield* state, { accepted: 1, completed: 1 })
      })
    )

    describe("is refused", () => {
      it.effect("when the server has no such deployment", () =>
        Effect.gen(function* () {
          class Nobody extends Deployment.Service<Nobody>()("Nobody", [Rpc.make("ping")]) {}
          const { url } = yield* HttpIngress.Address
          const error = yield* Effect.flip(Layer.build(Nobody.toLayerRemote({ url })))
          assert.instanceOf(error, Deployment.ConnectionRefused)
          assert.deepInclude(error, { _tag: "Refused", status: 404, url })
          assert.match(error.message, /served here/)
        })
      )

      it.effect("when it is no remote handle, or of another version, and the answer says so", () =>
        Effect.gen(function* () {
          const { port } = yield* HttpIngress.Address
          for (const protocols of [["effect-serve.2"], [], ["chat"]]) {
            const answer = yield* refused(`ws://127.0.0.1:${port}/-/rpc?deployment=Desk`, protocols)
            assert.strictEqual(answer.status, 400)
            assert.include(answer.text, "effect-serve.1")
          }
        })
      )

      it.effect("when it doesn't ask for a WebSocket", () =>
        Effect.gen(function* () {
          const answer = yield* send("/-/rpc?deployment=Desk")
          assert.strictEqual(answer.status, 426)
          assert.strictEqual(answer.headers.get("upgrade"), "websocket")
          assert.deepInclude(answer.body, { _tag: "UpgradeRequired" })
        })
      )
    })
  })
}

const gauge = Effect.map(Metric.snapshot, (metrics) =>
  metrics.reduce(
    (sum, { id, state }) => (id === "serve_rpc_connections" ? sum + (state as { value: number }).value : sum),
    0
  )
)

/** The answer to a WebSocket client that is refused. */
const refused = (url: string, protocols: Array<string>) =>
  Effect.callback<{ readonly status: number; readonly text: string }>((resume) => {
    const socket = new NodeWS.WebSocket(url, protocols)
    socket.on("error", () => {})
    socket.on("open", () => resume(Effect.die(new Error("It was taken"))))
    socket.on("unexpected-response", (request, response) => {
      let text = ""
      response.on("data", (piece: Buffer) => (text += piece.toString()))
      response.on("end", () => {
        request.destroy()
        resume(Effect.succeed({ status: response.statusCode ?? 0, text }))
      })
    })
  })

const token = "s3cr3t-t0k3n"
const authorize: Auth.Authorize = Auth.bearer({
  [token]: { id: "web", tenant: "shop", claims: { plan: "pro" } },
  plain: "batch"
})
const user = { id: "ada", tenant: "acme", claims: { role: "admin" } }

for (const [name, ingress] of Object.entries(servers(routes, { authorize }))) {
  layer(appOf(ingress), { excludeTestServices: true })(
    `a remote handle, over HttpIngress.${name} with authorize`,
    (it) => {
      it.effect("is let in with its token, and handlers see who it is, with its tenant", () =>
        Effect.gen(function* () {
          const { desk } = yield* dial({ auth: Redacted.make(token) })
          const known = { id: "web", tenant: "shop", claims: { plan: "pro" } }
          const seen = yield* as({ principal: user, tenant: "acme" })(desk.seen(undefined, { tenant: "other" }))
          assert.deepInclude(seen, { principal: known, tenant: "shop" })
          const [many] = yield* as({ principal: user })(Stream.runCollect(desk.seenMany()))
          assert.deepInclude(many, { principal: known, tenant: "shop" })
          const batch = yield* dial({ auth: Redacted.make("plain") })
          assert.deepInclude(yield* as({ tenant: "acme" })(batch.desk.seen()), {
            principal: { id: "batch" },
            tenant: "acme"
          })
        })
      )

      it.effect("shows what an effect gives it, anew for each connection", () =>
        Effect.gen(function* () {
          let connections = 0
          const auth = Effect.sync(() => ({ authorization: `Bearer ${connections++ === 0 ? "plain" : token}` }))
          const { desk, state } = yield* dial({ auth, connections: 2 })
          yield* until(Effect.map(state, ({ replicas }) => replicas.every(({ status }) => status === "Ready")))
          assert.strictEqual(connections, 2)
          const seen = yield* Effect.forEach(Array.from({ length: 20 }), () => desk.seen(), {
            concurrency: "unbounded"
          })
          assert.sameMembers(Array.from(new Set(seen.map(({ principal }) => principal?.id))), ["batch", "web"])
        })
      )

      it.effect("is refused with a wrong token or none, and the token is nowhere told", () =>
        Effect.gen(function* () {
          const { url } = yield* HttpIngress.Address
          for (const auth of [Redacted.make("wr0ng-t0k3n"), undefined]) {
            const error = yield* refusal(auth === undefined ? {} : { auth })
            assert.deepInclude(error, { status: 401, url })
            assert.match(error.message, /refused the connection with status 401: .+/)
            assert.notInclude(error.message, "wr0ng")
            assert.notInclude(JSON.stringify(error), "wr0ng")
          }
          const told = JSON.stringify(yield* Logs)
          assert.notInclude(told, "wr0ng")
          assert.notInclude(told, token)
        })
      )
    }
  )
}

for (const [name, ingress] of Object.entries(servers(routes, { authorize, rpc: { trustPrincipals: true } }))) {
  layer(appOf(ingress), { excludeTestServices: true })(
    `a remote handle, over HttpIngress.${name} with trustPrincipals`,
    (it) => {
      it.effect("says on whose behalf it calls, and is itself where it doesn't", () =>
        Effect.gen(function* () {
          const { desk } = yield* dial({ auth: Redacted.make(token) })
          const seen = yield* as({ principal: user, tenant: "other" })(desk.seen())
          assert.deepInclude(seen, { principal: user, tenant: "acme" })
          const [many] = yield* as({ principal: { id: "bob" }, tenant: "acme" })(Stream.runCollect(desk.seenMany()))
          assert.deepInclude(many, { principal: { id: "bob" }, tenant: "acme" })
          assert.deepInclude(yield* desk.seen(), { principal: { id: "web", tenant: "shop", claims: { plan: "pro" } } })
          yield* refusal()
        })
      )
    }
  )
}

for (const [name, ingress] of Object.entries(servers(routes, { rpc: { enabled: false } }))) {
  // That its options come to the server's thread is seen above.
  if (name.includes("thread")) continue
  layer(appOf(ingress), { excludeTestServices: true })(
    `a remote handle, over HttpIngress.${name} with rpc: { enabled: false }`,
    (it) => {
      it.effect("is refused", () =>
        Effect.gen(function* () {
          const error = yield* refusal()
          assert.strictEqual(error.status, 404)
          assert.strictEqual(
            (yield* send("/desk/name", { method: "POST", headers: { "content-type": "application/json" } })).status,
            200
          )
        })
      )
    }
  )
}

for (const [name, ingress] of Object.entries(servers(routes))) {
  const there = makeTracer()
  const traced = Layer.succeed(Tracer.Tracer, there.tracer)
  const app = appOf(Layer.provide(ingress, Layer.provideMerge(deskLayer(), traced)))
  layer(app, { excludeTestServices: true })(`a remote handle, over HttpIngress.${name} with a tracer`, (it) => {
    it.effect("is the parent of what runs over there", () =>
      Effect.gen(function* () {
        const here = makeTracer()
        const client = Effect.gen(function* () {
          const { desk } = yield* dial()
          const seen = [yield* desk.span(), ...(yield* Stream.runCollect(desk.spans()))]
          const { traceId } = yield* Effect.currentSpan
          return { seen, traceId }
        })
        const { seen, traceId } = yield* client.pipe(
          Effect.withSpan("client"),
          Effect.provideService(Tracer.Tracer, here.tracer)
        )
        yield* until(
          Effect.sync(
            () =>
              there.spans.filter(({ name, status }) => name.startsWith("Desk.") && status._tag === "Ended").length === 2
          )
        )
        // Effect's own server has a span for the request that connects.
        const ours = there.spans.filter(({ name }) => name.startsWith("Desk."))
        assert.deepStrictEqual(
          ours.map(({ name }) => name),
          ["Desk.span", "Desk.spans"]
        )
        for (const span of ours) {
          assert.strictEqual(span.traceId, traceId)
          assert.include(here.ids(), span.parent._tag === "Some" ? span.parent.value.spanId : "none")
        }
        // The handlers run in one of them.
        for (const span of seen) {
          assert.strictEqual(span?.traceId, traceId)
          assert.include(there.ids(), span?.spanId)
        }
      })
    )

    it.effect("is not traced over there when it is not sampled here", () =>
      Effect.gen(function* () {
        there.spans.length = 0
        const { desk } = yield* dial()
        const work = Effect.andThen(desk.span(), Stream.runDrain(desk.spans()))
        yield* Effect.withSpan(work, "client", { sampled: false })
        yield* Effect.sleep(20)
        const sampled = there.spans.filter(({ name, sampled }) => sampled && name.startsWith("Desk."))
        assert.lengthOf(sampled, 0)
      })
    )

    it.effect("is traced over there alike, whether it streams or not, when nobody traces it here", () =>
      Effect.gen(function* () {
        there.spans.length = 0
        const { desk } = yield* dial()
        yield* desk.span()
        yield* Stream.runDrain(desk.spans())
        const names = () => there.spans.map(({ name }) => name).filter((name) => name.startsWith("Desk."))
        yield* until(Effect.sync(() => names().length === 2))
        assert.deepStrictEqual(names(), ["Desk.span", "Desk.spans"])
      })
    )
  })
}
