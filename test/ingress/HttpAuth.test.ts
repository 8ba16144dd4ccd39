import { assert, layer } from "@effect/vitest"
import { Auth, Deployment, HttpIngress, HttpSchema, RequestContext } from "effect-serve"
import { Context, Deferred, Effect, Fiber, Layer, Logger, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { X509Certificate } from "node:crypto"
import { readFileSync } from "node:fs"
import * as Https from "node:https"
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from "node:tls"
import { Part, Probe } from "../modules/Probe.ts"
import { seen } from "../modules/seen.ts"
import { post, Quiet, send } from "./http.ts"
import { dial, nodeServers, request, sendRaw, servers, untilCounted } from "./servers.ts"

const Who = Schema.Struct({ id: Schema.UndefinedOr(Schema.String), tenant: Schema.UndefinedOr(Schema.String) })

class Lab extends Deployment.Service<Lab>()("Lab", [
  Rpc.make("who", { success: Who }),
  Rpc.make("nested", { success: Who }),
  Rpc.make("repeat", { payload: { text: Schema.String }, success: Schema.String }),
  Rpc.make("upload", { payload: HttpSchema.Upload(), success: Schema.Int }),
  Rpc.make("tokens", { success: Who, stream: true })
]) {}

class Inner extends Deployment.Service<Inner>()("Inner", [Rpc.make("who", { success: Who })]) {}

/** What the handlers and the authorizer tell the tests. */
class Seen extends Context.Service<
  Seen,
  { runs: number; asked: Deferred.Deferred<void>; interrupted: Deferred.Deferred<void>; readonly log: Array<string> }
>()("test/Seen") {
  static readonly layer = Layer.effect(
    Seen,
    Effect.map(Effect.all([Deferred.make<void>(), Deferred.make<void>()]), ([asked, interrupted]) => ({
      runs: 0,
      asked,
      interrupted,
      log: new Array<string>()
    }))
  )
}

/** The same, as if nobody had been asked yet. */
const fresh = Effect.flatMap(Seen, (seen) =>
  Effect.map(Effect.all([Deferred.make<void>(), Deferred.make<void>()]), ([asked, interrupted]) =>
    Object.assign(seen, { asked, interrupted })
  )
)

const who = Effect.map(RequestContext.RequestContext, ({ principal, tenant }) => ({ id: principal?.id, tenant }))

const LabLive = Lab.toLayer(
  Effect.gen(function* () {
    const seen = yield* Seen
    const inner = yield* Inner
    const run = <A, E>(effect: Effect.Effect<A, E>) =>
      Effect.suspend(() => {
        seen.runs++
        return effect
      })
    return Lab.of({
      who: () => run(who),
      nested: () => run(inner.who()),
      repeat: ({ text }) => run(Effect.succeed(text)),
      upload: (body) =>
        run(
          Stream.runFold(
            body,
            () => 0,
            (size, piece) => size + piece.length
          )
        ),
      tokens: () => Stream.fromEffect(run(who))
    })
  })
)
const InnerLive = Inner.toLayer({ who: () => who })
const ProbeLive = Probe.toLayerModule<typeof import("../modules/probe.module.ts")>(
  new URL("../modules/probe.module.ts", import.meta.url)
)
const PartLive = Part.toLayer({
  seen: () => seen,
  double: Effect.die,
  count: () => Stream.empty,
  never: () => Effect.never
})

/** Where an authorizer looks people up, which is a service of its application. */
class Directory extends Context.Service<Directory, { readonly ban: (id: string) => boolean }>()("test/Directory") {
  static readonly layer = Layer.succeed(Directory, { ban: (id) => id === "mallory" })
}

const bearer = Auth.bearer({ t0: "ada", t1: { id: "bob", tenant: "acme", claims: { plan: "pro" } }, t2: "mallory" })

/** Tokens, and what else an authorizer can do, by the header `x-case`. */
const authorize: Auth.Authorize<Directory | Seen> = Effect.fnUntraced(function* (headers, peer) {
  const { asked, interrupted } = yield* Seen
  if (headers["x-case"] === "die") return yield* Effect.die(new Error("the password is 1234"))
  if (headers["x-case"] === "throw") throw new Error("the password is 1234")
  if (headers["x-case"] === "fail") return yield* Effect.fail(new Error("the password is 1234") as never)
  if (headers["x-case"] === "never") {
    yield* Deferred.succeed(asked, undefined)
    return yield* Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined))
  }
  if (headers["x-case"] === "slow") yield* Effect.sleep("100 millis")
  if (headers["x-case"] === "peer") return { id: String(peer.remoteAddress) }
  const principal = yield* bearer(headers, peer)
  if ((yield* Directory).ban(principal.id)) return yield* new Auth.Forbidden({ why: "you are banned" })
  return principal
})

const routes = { "/lab": Lab, "/inner": Inner, "/probe": Probe } as const
const Deployments = LabLive.pipe(Layer.provideMerge(InnerLive), Layer.provideMerge(ProbeLive), Layer.provide(PartLive))
const Capture = Layer.effect(
  Logger.CurrentLoggers,
  Effect.map(
    Seen,
    ({ log }) => new Set([Logger.map(Logger.formatStructured, (line) => void log.push(JSON.stringify(line)))])
  )
)
const appOf = (
  ingress: Layer.Layer<HttpIngress.Address, unknown, Layer.Success<typeof Deployments> | Directory | Seen>
) =>
  ingress.pipe(
    Layer.provide(Deployments),
    Layer.provide(Directory.layer),
    Layer.provide(Capture),
    Layer.provideMerge(Seen.layer),
    Layer.provideMerge(Quiet)
  )

const as = (token: string) => ({ authorization: `Bearer ${token}` })

const chunk = (part: string) => `${part.length.toString(16)}\r\n${part}\r\n`

/** Who made a request, as its handler has seen it. */
const seenBy = (path: string, headers: Record<string, string>) =>
  Effect.map(post(path, "", headers), ({ body, status }) => {
    assert.strictEqual(status, 200, JSON.stringify(body))
    return [body.id ?? undefined, body.tenant ?? undefined]
  })

for (const [name, ingress] of Object.entries(servers(routes, { authorize }))) {
  layer(appOf(ingress), { excludeTestServices: true })(`HttpIngress.${name}, with authorize`, (it) => {
    it.effect("tells a handler who calls, and whomever it calls in turn", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* seenBy("/lab/who", as("t0")), ["ada", undefined])
        assert.deepStrictEqual(yield* seenBy("/lab/nested", as("t1")), ["bob", "acme"])
        const upload = yield* send("/lab/upload", { method: "POST", headers: as("t0"), body: "12345" })
        assert.deepStrictEqual([upload.status, upload.text], [200, "5"])
        const stream = yield* post("/lab/tokens", "", as("t1"))
        assert.strictEqual(stream.text, 'data: {"id":"bob","tenant":"acme"}\n\n')
        assert.deepStrictEqual(yield* seenBy("/lab/who", { ...as("t0"), "x-case": "peer" }), ["127.0.0.1", undefined])
      })
    )

    it.effect("reads a body of which all, a part or nothing has come before it is known who asks", () =>
      Effect.gen(function* () {
        const text = "what comes in parts ".repeat(10_000)
        const body = JSON.stringify({ text })
        const head = request("POST /lab/repeat", {
          ...as("t0"),
          "x-case": "slow",
          "content-type": "application/json",
          "content-length": body.length
        })
        const inChunks = head.replace(/content-length: .*/, "transfer-encoding: chunked")
        for (const early of [0, 1, 100_000, body.length]) {
          const [first, rest] = [body.slice(0, early), body.slice(early)]
          for (const [before, after] of [
            [head + first, rest],
            [inChunks + (first && chunk(first)), (rest && chunk(rest)) + "0\r\n\r\n"]
          ] as const) {
            const connection = yield* dial
            connection.write(before)
            yield* Effect.sleep("200 millis")
            connection.write(after + request("GET /-/healthz", { connection: "close" }))
            const answer = yield* connection.closed
            assert.match(answer, /^HTTP\/1.1 200 [^]*success$/, `${early} of ${before.slice(0, 200)}`)
            assert.include(answer, JSON.stringify(text))
          }
        }
      })
    )

    it.effect("tells it to a module on a thread, and to what that calls", () =>
      Effect.gen(function* () {
        const bob = { id: "bob", tenant: "acme", claims: { plan: "pro" } }
        const here = yield* post("/probe/seen", "", as("t1"))
        assert.deepInclude(here.body, { principal: bob, tenant: "acme", route: "/probe/seen" })
        const there = yield* post("/probe/partSeen", "", as("t1"))
        assert.deepStrictEqual(there.body.principal, bob)
      })
    )

    it.effect("takes the tenant of who calls, whatever the request says", () =>
      Effect.gen(function* () {
        const tenant = { "x-request-tenant": "other" }
        assert.deepStrictEqual(yield* seenBy("/lab/who", { ...as("t1"), ...tenant }), ["bob", "acme"])
        assert.deepStrictEqual(yield* seenBy("/lab/nested", { ...as("t1"), ...tenant }), ["bob", "acme"])
        assert.deepStrictEqual(yield* seenBy("/lab/who", { ...as("t0"), ...tenant }), ["ada", "other"])
      })
    )

    it.effect("answers 401 to strangers, says how to be known, and runs nothing", () =>
      Effect.gen(function* () {
        const seen = yield* Seen
        const before = seen.runs
        for (const [headers, challenge, why] of [
          [{}, "Bearer", "is missing"],
          [{ authorization: "Basic YWRhOmFkYQ==" }, "Bearer", "another form"],
          [as("wrong"), 'Bearer error="invalid_token"', "not known"]
        ] as const) {
          for (const path of ["/lab/who", "/lab/tokens", "/lab/upload"]) {
            const answer = yield* post(path, "", { ...headers, "x-request-id": "abc" })
            assert.strictEqual(answer.status, 401)
            assert.strictEqual(answer.headers.get("www-authenticate"), challenge)
            assert.strictEqual(answer.headers.get("content-type"), "application/json")
            assert.strictEqual(answer.headers.get("x-request-id"), "abc")
            assert.hasAllKeys(answer.body, ["_tag", "requestId", "message"])
            assert.deepInclude(answer.body, { _tag: "Unauthorized", requestId: "abc" })
            assert.include(answer.body.message, why)
            assert.notInclude(answer.text, "wrong")
          }
        }
        assert.strictEqual(seen.runs, before)
        yield* untilCounted("/lab/who", 401)
      })
    )

    it.effect("answers 403 to those who are known, and may not", () =>
      Effect.gen(function* () {
        const { body, headers, status } = yield* post("/lab/who", "", { ...as("t2"), "x-request-id": "abc" })
        const message = "The request is forbidden: you are banned"
        assert.deepStrictEqual([status, body], [403, { _tag: "Forbidden", requestId: "abc", message }])
        assert.isNull(headers.get("www-authenticate"))
      })
    )

    it.effect("answers before the body is there, and goes on with the connection when it is", () =>
      Effect.gen(function* () {
        const body = '{"text":"hello"}'
        for (const path of ["/lab/who", "/lab/upload"]) {
          const connection = yield* dial
          const announced = { "content-type": "application/json", "content-length": body.length }
          connection.write(request(`POST ${path}`, announced))
          assert.match(yield* connection.until(/\r\n\r\n\{.*\}$/), /^HTTP\/1.1 401 /)
          connection.write(body + request("GET /-/healthz"))
          yield* connection.until(/HTTP\/1.1 200 [^]*success$/)
        }
      })
    )

    it.effect("asks for no body that it will not read", () =>
      Effect.gen(function* () {
        for (const path of ["/lab/who", "/lab/upload"]) {
          const announced = { "content-type": "application/json", "content-length": 10, expect: "100-continue" }
          const stranger = yield* dial
          stranger.write(request(`POST ${path}`, announced))
          assert.match(yield* stranger.until(/\{.*\}$/), /^HTTP\/1.1 401 /)
          const known = yield* dial
          known.write(request(`POST ${path}`, { ...announced, ...as("t0") }))
          yield* known.until(/^HTTP\/1.1 100 Continue\r\n\r\n$/)
          known.write('"12345678"')
          yield* known.until(/^HTTP\/1.1 [24]0[^]*[0}]$/m)
        }
      })
    )

    it.effect("keeps its own paths to those who are known, but for health checks", () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* send("/-/healthz")).text, "success")
        for (const path of ["/-/routes", "/-/openapi.json", "/-/docs"]) {
          for (const method of ["GET", "HEAD"]) {
            const closed = yield* send(path, { method })
            assert.deepStrictEqual([closed.status, closed.headers.get("www-authenticate")], [401, "Bearer"], path)
            assert.strictEqual((yield* send(path, { method, headers: as("t2") })).status, 403, path)
            assert.strictEqual((yield* send(path, { method, headers: as("t0") })).status, 200, path)
          }
          const late = yield* send(path, { headers: { "x-case": "never", "x-request-timeout-ms": "30" } })
          assert.strictEqual(late.status, 504, path)
        }
      })
    )

    it.effect("tells strangers nothing of what it serves", () =>
      Effect.gen(function* () {
        for (const path of ["/nope", "/lab/nope"]) {
          const { body, status } = yield* post(path, "")
          assert.strictEqual(status, 404)
          assert.notMatch(body.message, /lab|inner|probe|nested/i)
        }
      })
    )

    it.effect("answers 500 when it can't find out, and tells the log alone why", () =>
      Effect.gen(function* () {
        const { log } = yield* Seen
        for (const how of ["die", "throw", "fail"]) {
          const headers = { "x-case": how, "x-request-id": `broken-${how}` }
          const { body, status } = yield* post("/lab/who", "", headers)
          assert.deepStrictEqual([status, body], [500, { _tag: "InternalServerError", requestId: `broken-${how}` }])
          const own = yield* send("/-/routes", { headers })
          assert.deepStrictEqual([own.status, own.body], [500, body])
          const isTold = () => log.some((line) => line.includes(`broken-${how}`) && line.includes("password"))
          yield* Effect.repeat(Effect.delay(Effect.void, "2 millis"), { until: isTold })
        }
        assert.deepStrictEqual(yield* seenBy("/lab/who", as("t0")), ["ada", undefined])
      })
    )

    it.effect("answers 504 when it does not find out in time", () =>
      Effect.gen(function* () {
        const { body, status } = yield* post("/lab/who", "", { "x-case": "never", "x-request-timeout-ms": "30" })
        assert.deepStrictEqual([status, body.reason.stage], [504, "admission"])
      })
    )

    it.effect("stops asking when the client is gone", () =>
      Effect.gen(function* () {
        const { asked, interrupted, log, runs } = yield* fresh
        const client = yield* Effect.forkChild(post("/lab/who", "", { "x-case": "never", "x-request-id": "gone-1" }))
        yield* Deferred.await(asked)
        yield* Fiber.interrupt(client)
        yield* Deferred.await(interrupted)
        yield* untilCounted("/lab/who", 499)
        const isTold = () => log.some((line) => line.includes("gone-1") && line.includes("Lab.who left"))
        yield* Effect.repeat(Effect.delay(Effect.void, "2 millis"), { until: isTold })
        assert.strictEqual((yield* Seen).runs, runs)
      })
    )
  })
}

/** What a module that needs no more than `who` is served with. */
const bare = <E>(ingress: Layer.Layer<HttpIngress.Address, E, Inner>) =>
  ingress.pipe(Layer.provide(InnerLive), Layer.provideMerge(Quiet))

for (const [name, ingress] of Object.entries(
  servers({ "/inner": Inner }, { authorize: bearer, protectOwnPaths: false })
)) {
  layer(bare(ingress), { excludeTestServices: true })(`HttpIngress.${name}, with protectOwnPaths: false`, (it) => {
    it.effect("shows to anybody what it serves, and lets nobody call", () =>
      Effect.gen(function* () {
        assert.include((yield* send("/-/routes")).text, "/inner/who")
        assert.strictEqual((yield* send("/-/openapi.json")).body.openapi, "3.1.0")
        assert.match((yield* send("/-/docs")).text, /^<!doctype html>/i)
        assert.include((yield* post("/inner/nope", "")).body.message, "who")
        assert.strictEqual((yield* post("/inner/who", "")).status, 401)
        assert.strictEqual((yield* post("/inner/who", "", as("t0"))).status, 200)
      })
    )
  })
}

const pem = (name: string) => readFileSync(new URL(`./certificates/${name}.pem`, import.meta.url), "utf8")
const tls = { key: pem("server-key"), cert: pem("server"), ca: pem("ca") }
const certificateOf = (name: string) => ({ cert: pem(name), key: pem(`${name}-key`) })

/** Calls `who` over TLS, and gives the code of the error when there is no answer. */
const call = (options: Https.RequestOptions = {}) =>
  Effect.flatMap(HttpIngress.Address, ({ port }) =>
    Effect.callback<{
      readonly status: number
      readonly headers: Record<string, unknown>
      readonly body: any
      readonly isReused?: boolean
    }>((resume) => {
      const request = Https.request({
        host: "127.0.0.1",
        port,
        path: "/inner/who",
        method: "POST",
        ca: tls.ca,
        agent: false,
        ...options
      })
      request.on("response", (response) => {
        let text = ""
        response.on("data", (piece) => (text += piece))
        response.on("end", () => {
          const isReused = (response.socket as TLSSocket).isSessionReused()
          const { headers, statusCode = 0 } = response
          resume(Effect.succeed({ status: statusCode, headers, body: JSON.parse(text), isReused }))
        })
      })
      request.on("error", (error) => resume(Effect.succeed({ status: 0, headers: {}, body: error })))
      request.end()
    })
  )

/** Shakes hands, and gives the protocol or the code of the error. */
const shakeHands = (options: ConnectionOptions) =>
  Effect.flatMap(HttpIngress.Address, ({ port }) =>
    Effect.callback<string>((resume) => {
      const socket = connectTls({ host: "127.0.0.1", port, ca: tls.ca, ...options }, () => {
        resume(Effect.succeed(String(socket.getProtocol())))
        socket.destroy()
      })
      socket.on("error", (error: NodeJS.ErrnoException) => resume(Effect.succeed(String(error.code))))
    })
  )

const authorizeByName = Auth.clientCertificate({
  byCommonName: { "billing.internal": { id: "billing", tenant: "finance" } }
})

for (const [name, ingress] of Object.entries(
  nodeServers({ "/inner": Inner }, { tls: { ...tls, clientCertificate: "require" }, authorize: authorizeByName })
)) {
  layer(bare(ingress), { excludeTestServices: true })(`HttpIngress.${name}, that requires certificates`, (it) => {
    it.effect("knows who calls by the certificate", () =>
      Effect.gen(function* () {
        const { body, status } = yield* call(certificateOf("client"))
        assert.deepStrictEqual([status, body], [200, { id: "billing", tenant: "finance" }])
      })
    )

    it.effect("knows it again when a client goes on with its session", () =>
      Effect.gen(function* () {
        const agent = new Https.Agent({ ca: tls.ca, ...certificateOf("client") })
        const answers = [yield* call({ agent }), yield* call({ agent })]
        assert.deepStrictEqual(
          answers.map(({ body, isReused }) => [body.id, isReused]),
          [
            ["billing", false],
            ["billing", true]
          ]
        )
      })
    )

    it.effect("has no connection for those who show none, or one of a CA that it doesn't know", () =>
      Effect.gen(function* () {
        for (const certificate of [{}, certificateOf("foreign")]) {
          const { body, status } = yield* call(certificate)
          assert.strictEqual(status, 0, JSON.stringify(body))
          assert.match(body.code, /^(ECONNRESET|EPIPE|ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED)$/)
        }
      })
    )

    it.effect("answers 403 to the certificate of somebody else", () =>
      Effect.gen(function* () {
        const { body, status } = yield* call(certificateOf("stranger"))
        assert.deepStrictEqual([status, body._tag], [403, "Forbidden"])
      })
    )
  })
}

const { fingerprint256 } = new X509Certificate(pem("client"))
const authorizeByFingerprint = Auth.clientCertificate({ byFingerprint: { [fingerprint256]: "billing" } })

for (const [name, ingress] of Object.entries(
  nodeServers(
    { "/inner": Inner },
    { tls: { ...tls, clientCertificate: "request" }, authorize: authorizeByFingerprint, headersTimeout: "300 millis" }
  )
)) {
  layer(bare(ingress), { excludeTestServices: true })(`HttpIngress.${name}, that requests certificates`, (it) => {
    it.effect("knows who shows one, and answers 401 to who shows none, or one that anybody could have made", () =>
      Effect.gen(function* () {
        const known = yield* call(certificateOf("client"))
        assert.deepStrictEqual([known.status, known.body.id], [200, "billing"])
        for (const certificate of [{}, certificateOf("foreign")]) {
          const { body, headers, status } = yield* call(certificate)
          assert.deepStrictEqual([status, body._tag], [401, "Unauthorized"])
          assert.strictEqual(headers["www-authenticate"], "ClientCertificate")
        }
        assert.strictEqual((yield* call(certificateOf("stranger"))).status, 403)
      })
    )

    it.effect("says that it speaks https, of version 1.2 at least", () =>
      Effect.gen(function* () {
        const { port, url } = yield* HttpIngress.Address
        assert.strictEqual(url, `https://127.0.0.1:${port}`)
        const old = { minVersion: "TLSv1.1", maxVersion: "TLSv1.1", ciphers: "DEFAULT@SECLEVEL=0" } as const
        // The server's alert: the client itself would have spoken it.
        assert.strictEqual(yield* shakeHands(old), "ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION")
        assert.strictEqual(yield* shakeHands({ maxVersion: "TLSv1.2" }), "TLSv1.2")
        assert.strictEqual(yield* shakeHands({}), "TLSv1.3")
      })
    )

    it.effect("closes connections that speak something else, or nothing, and goes on", () =>
      Effect.gen(function* () {
        assert.notInclude(yield* sendRaw(request("GET /-/healthz")), "HTTP/1.1 200")
        yield* sendRaw(Buffer.from([22, 3, 1, 255, 255, 1, 0, 0, 0]))
        yield* sendRaw("")
        assert.strictEqual((yield* call(certificateOf("client"))).status, 200)
      })
    )
  })
}
