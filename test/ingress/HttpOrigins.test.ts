import { assert, describe, it as test, layer } from "@effect/vitest"
import { Auth, Deployment, HttpIngress } from "effect-serve"
import { Effect, Layer, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { brotliDecompressSync, gunzipSync } from "node:zlib"
import { post, Quiet, send } from "./http.ts"
import { dial, request, servers } from "./servers.ts"

class Missing extends Schema.TaggedError<Missing>()("Missing", { text: Schema.String }, { httpApiStatus: 404 }) {}

class Lab extends Deployment.Service<Lab>()("Lab", [
  Rpc.make("repeat", {
    payload: { text: Schema.String, times: Schema.Int },
    success: Schema.String,
    error: Missing
  }),
  Rpc.make("tokens", { payload: { text: Schema.String }, success: Schema.String, stream: true })
]) {}

const LabLive = Lab.toLayer({
  repeat: ({ text, times }) =>
    times < 0 ? Effect.fail(new Missing({ text: text.repeat(-times) })) : Effect.succeed(text.repeat(times)),
  tokens: ({ text }) => Stream.make(text, text)
})

const routes = { "/lab": Lab } as const
const appOf = <E>(ingress: Layer.Layer<HttpIngress.Address, E, Lab>) =>
  ingress.pipe(Layer.provide(LabLive), Layer.provideMerge(Quiet))

const page = "https://app.example.com"
const cors = { origins: [page, "http://localhost:5173"], credentials: true, maxAge: "5 minutes" } as const

/** What the answer says to pages of other origins. */
const saidTo = (headers: Headers) => ({
  origin: headers.get("access-control-allow-origin"),
  credentials: headers.get("access-control-allow-credentials"),
  exposed: headers.get("access-control-expose-headers"),
  vary: headers.get("vary")
})

const toPage = { origin: page, credentials: "true", exposed: "x-request-id, retry-after", vary: "origin" }
const toNobody = { origin: null, credentials: null, exposed: null, vary: "origin" }

const asked = { "access-control-request-method": "POST", "access-control-request-headers": "content-type,x-request-id" }
const preflight = (path: string, headers: Record<string, string>) => send(path, { method: "OPTIONS", headers })

const bearer = Auth.bearer({ t0: "ada" })

for (const [name, ingress] of Object.entries(servers(routes, { cors, authorize: bearer }))) {
  layer(appOf(ingress), { excludeTestServices: true })(`HttpIngress.${name}, with cors`, (it) => {
    const known = { authorization: "Bearer t0" }

    it.effect("lets a page ask whether it may call, though it is not known yet who calls", () =>
      Effect.gen(function* () {
        for (const path of ["/lab/repeat", "/lab/tokens", "/-/routes", "/nowhere"]) {
          const { headers, status, text } = yield* preflight(path, { origin: page, ...asked })
          assert.deepStrictEqual([status, text], [204, ""], path)
          assert.deepStrictEqual(saidTo(headers), {
            ...toPage,
            exposed: null,
            vary: "origin, access-control-request-headers"
          })
          assert.strictEqual(headers.get("access-control-allow-methods"), "POST, GET, HEAD")
          assert.strictEqual(headers.get("access-control-allow-headers"), "content-type,x-request-id")
          assert.strictEqual(headers.get("access-control-max-age"), "300")
          for (const absent of ["content-type", "content-length"]) assert.isNull(headers.get(absent), absent)
        }
      })
    )

    it.effect("says nothing to a page that may not, nor to one that has not asked", () =>
      Effect.gen(function* () {
        for (const origin of ["https://evil.example.com", "null", `${page}.evil.com`, page.toUpperCase()]) {
          const { headers, status } = yield* preflight("/lab/repeat", { origin, ...asked })
          assert.deepStrictEqual([status, saidTo(headers)], [204, toNobody], origin)
          assert.isNull(headers.get("access-control-allow-methods"))
        }
        const { headers, status } = yield* preflight("/lab/repeat", { origin: page })
        assert.deepStrictEqual([status, saidTo(headers)], [405, toPage])
      })
    )

    it.effect("refuses a page that may not the requests before which browsers don't ask", () =>
      Effect.gen(function* () {
        const path = `/lab/tokens?payload=${encodeURIComponent('{"text":"a"}')}`
        const accept = { accept: "text/event-stream", ...known }
        for (const origin of ["https://evil.example.com", "null"]) {
          const { body, headers, status } = yield* send(path, { headers: { ...accept, origin } })
          assert.deepStrictEqual([status, body._tag, saidTo(headers)], [403, "Forbidden", toNobody])
        }
        const answer = yield* send(path, { headers: { ...accept, origin: page } })
        assert.deepStrictEqual([answer.status, saidTo(answer.headers)], [200, toPage])
      })
    )

    it.effect("says it with every answer, errors too", () =>
      Effect.gen(function* () {
        const ok = JSON.stringify({ text: "a", times: 1 })
        const from = { origin: page, ...known }
        const answers = {
          200: yield* post("/lab/repeat", ok, from),
          "200 of a stream": yield* post("/lab/tokens", { text: "a" }, from),
          "200 of its own": yield* send("/-/routes", { headers: from }),
          "200 of a health check": yield* send("/-/healthz", { headers: { origin: page } }),
          "400 of a schema": yield* post("/lab/repeat", "{}", from),
          "400 of JSON": yield* post("/lab/repeat", "{", from),
          "400 of a header": yield* post("/lab/repeat", ok, { ...from, "x-request-priority": "vip" }),
          401: yield* post("/lab/repeat", ok, { origin: page }),
          "401 of its own": yield* send("/-/routes", { headers: { origin: page } }),
          404: yield* post("/nowhere", ok, from),
          "404 of the method": yield* post("/lab/repeat", { text: "a", times: -1 }, from),
          405: yield* send("/lab/repeat", { headers: from }),
          406: yield* post("/lab/tokens", { text: "a" }, { ...from, accept: "text/html" }),
          413: yield* post("/lab/repeat", { text: "a".repeat(1_100_000), times: 1 }, from),
          415: yield* post("/lab/repeat", ok, { ...from, "content-type": "text/plain" }),
          504: yield* post("/lab/repeat", ok, { ...from, "x-request-timeout-ms": "0" })
        }
        for (const [of, { headers, status }] of Object.entries(answers)) {
          assert.strictEqual(status, Number(of.slice(0, 3)), of)
          assert.deepStrictEqual(saidTo(headers), toPage, of)
        }
        const other = yield* post("/lab/repeat", ok, { ...known, origin: "https://evil.example.com" })
        assert.deepStrictEqual([other.status, saidTo(other.headers)], [200, toNobody])
        const own = yield* post("/lab/repeat", ok, known)
        assert.deepStrictEqual([own.status, saidTo(own.headers)], [200, toNobody])
      })
    )
  })
}

/** An answer as it comes, which `fetch` would have decoded. */
const raw = (accepted: string | undefined, body: unknown, line = "POST /lab/repeat", more = {}) =>
  Effect.gen(function* () {
    const connection = yield* dial
    const text = body === undefined ? "" : JSON.stringify(body)
    const accept: Record<string, string> = accepted === undefined ? {} : { "accept-encoding": accepted }
    connection.write(
      request(line, { "content-type": "application/json", connection: "close", ...accept, ...more }, text)
    )
    const received = Buffer.from(yield* connection.closed, "latin1")
    const end = received.indexOf("\r\n\r\n")
    const [first, ...lines] = received.subarray(0, end).toString().split("\r\n")
    const headers = new Headers(lines.map((line) => line.split(": ") as [string, string]))
    return { status: Number(first!.split(" ")[1]), headers, bytes: received.subarray(end + 4) }
  })

for (const [name, ingress] of Object.entries(servers(routes, { cors: { origins: "*" }, compression: {} }))) {
  layer(appOf(ingress), { excludeTestServices: true })(`HttpIngress.${name}, with compression`, (it) => {
    const decode = { br: brotliDecompressSync, gzip: gunzipSync } as const
    const large = { text: "effect-serve ", times: 1000 }
    const largeText = JSON.stringify(large.text.repeat(large.times))

    it.effect("writes a large answer in fewer bytes, as the client likes it best", () =>
      Effect.gen(function* () {
        for (const [accepted, encoding] of [
          ["gzip, deflate, br, zstd", "br"],
          ["gzip", "gzip"],
          ["br;q=0.5, gzip;q=0.8", "gzip"],
          ["*", "br"],
          ["identity;q=0, gzip", "gzip"],
          ["identity;q=0, *", "br"]
        ] as const) {
          const { bytes, headers, status } = yield* raw(accepted, large)
          assert.deepStrictEqual([status, headers.get("content-encoding")], [200, encoding], accepted)
          assert.strictEqual(Number(headers.get("content-length")), bytes.length, accepted)
          assert.isBelow(bytes.length, largeText.length / 10)
          assert.strictEqual(decode[encoding](bytes).toString(), largeText)
          assert.strictEqual(headers.get("content-type"), "application/json")
          assert.strictEqual(headers.get("vary"), "accept-encoding")
        }
      })
    )

    it.effect("leaves it as it is for a client that asks for nothing else, and says that it depends", () =>
      Effect.gen(function* () {
        for (const accepted of [undefined, "", "identity", "deflate", "gzip;q=0", "br;q=0, *;q=0", "gzip;q=x"]) {
          const { bytes, headers } = yield* raw(accepted, large)
          assert.isNull(headers.get("content-encoding"), accepted)
          assert.strictEqual(headers.get("vary"), "accept-encoding", accepted)
          assert.strictEqual(Number(headers.get("content-length")), largeText.length, accepted)
          assert.strictEqual(bytes.toString(), largeText)
        }
      })
    )

    it.effect("compresses from 1024 bytes on", () =>
      Effect.gen(function* () {
        const small = yield* raw("gzip", { text: "x", times: 1021 })
        assert.deepStrictEqual([small.headers.get("content-encoding"), small.bytes.length], [null, 1023])
        assert.isNull(small.headers.get("vary"))
        const just = yield* raw("gzip", { text: "x", times: 1022 })
        assert.strictEqual(just.headers.get("content-encoding"), "gzip")
        assert.strictEqual(gunzipSync(just.bytes).length, 1024)
      })
    )

    it.effect("compresses errors and its own answers alike", () =>
      Effect.gen(function* () {
        const failed = yield* raw("gzip", { text: "x", times: -2000 })
        assert.deepStrictEqual([failed.status, failed.headers.get("content-encoding")], [404, "gzip"])
        assert.deepStrictEqual(JSON.parse(gunzipSync(failed.bytes).toString()), {
          _tag: "Missing",
          text: "x".repeat(2000)
        })
        const own = yield* raw("gzip", undefined, "GET /-/openapi.json")
        assert.strictEqual(own.headers.get("content-encoding"), "gzip")
        assert.property(JSON.parse(gunzipSync(own.bytes).toString()).paths, "/lab/repeat")
        const docs = yield* raw("br", undefined, "GET /-/docs")
        assert.strictEqual(docs.headers.get("content-encoding"), "br")
        assert.match(brotliDecompressSync(docs.bytes).toString(), /^<!doctype html>/i)
      })
    )

    it.effect("never compresses a stream", () =>
      Effect.gen(function* () {
        for (const accept of ["text/event-stream", "application/x-ndjson"]) {
          const { bytes, headers, status } = yield* raw("gzip, br", { text: "x".repeat(2000) }, "POST /lab/tokens", {
            accept
          })
          assert.deepStrictEqual([status, headers.get("content-encoding"), headers.get("vary")], [200, null, null])
          assert.include(bytes.toString(), "x".repeat(2000))
        }
      })
    )

    it.effect("answers HEAD with the head of the answer to GET, and nothing else", () =>
      Effect.gen(function* () {
        for (const accepted of ["gzip", "identity"]) {
          const get = yield* raw(accepted, undefined, "GET /-/openapi.json")
          const head = yield* raw(accepted, undefined, "HEAD /-/openapi.json")
          assert.deepStrictEqual([head.status, head.bytes.length], [200, 0])
          for (const name of ["content-length", "content-encoding", "content-type", "vary"]) {
            assert.strictEqual(head.headers.get(name), get.headers.get(name), name)
          }
          assert.strictEqual(Number(get.headers.get("content-length")), get.bytes.length)
        }
      })
    )
  })
}

for (const [name, ingress] of Object.entries(
  servers(routes, { cors: { origins: [page] }, compression: { encodings: ["gzip"], minSize: 1 } })
)) {
  layer(appOf(ingress), { excludeTestServices: true })(`HttpIngress.${name}, with cors and compression`, (it) => {
    it.effect("says that an answer depends on both", () =>
      Effect.gen(function* () {
        const answer = yield* post(
          "/lab/repeat",
          { text: "a", times: 9 },
          { origin: page, "accept-encoding": "br, gzip" }
        )
        assert.strictEqual(answer.headers.get("content-encoding"), "gzip")
        assert.strictEqual(answer.headers.get("vary"), "origin, accept-encoding")
        assert.strictEqual(answer.text, '"aaaaaaaaa"')
      })
    )

    it.effect("compresses the list of its routes too", () =>
      Effect.gen(function* () {
        const { headers, text } = yield* send("/-/routes", { headers: { "accept-encoding": "gzip" } })
        assert.strictEqual(headers.get("content-encoding"), "gzip")
        assert.include(text, "/lab/repeat")
      })
    )
  })
}

for (const [name, ingress] of Object.entries(servers(routes))) {
  describe(`HttpIngress.${name}, by default`, () => {
    test.live("says nothing of other origins, and compresses nothing", () =>
      Effect.gen(function* () {
        const headers = { origin: page, "accept-encoding": "gzip" }
        const answer = yield* post("/lab/repeat", { text: "a", times: 2000 }, headers)
        assert.deepStrictEqual(saidTo(answer.headers), { origin: null, credentials: null, exposed: null, vary: null })
        assert.isNull(answer.headers.get("content-encoding"))
        assert.strictEqual((yield* preflight("/lab/repeat", { origin: page, ...asked })).status, 405)
      }).pipe(Effect.provide(appOf(ingress)))
    )
  })
}
