import { assert, describe, it as test, layer } from "@effect/vitest"
import { Deployment, HttpIngress } from "effect-serve"
import { Cause, Context, Deferred, Effect, Layer, Schedule, Schema, type Scope } from "effect"
import { Rpc } from "effect/rpc"
import { post, Quiet, send } from "./http.ts"
import { type Connection, dial, nodeServers, request, sendRaw, servers, untilCounted } from "./servers.ts"

class Lab extends Deployment.Service<Lab>()("Lab", [
  Rpc.make("echo", { payload: Schema.Unknown, success: Schema.Unknown }),
  Rpc.make("big", { success: Schema.String }),
  Rpc.make("odd", {
    payload: { how: Schema.Literals(["circular", "bigint", "deep", "nothing"]) },
    success: Schema.Unknown
  }),
  Rpc.make("slow", { success: Schema.String }),
  Rpc.make("quick", { success: Schema.String })
]) {}

/** What the handlers tell the tests: how often `echo` has run, and that `quick` has, for which `slow` waits. */
class Seen extends Context.Service<Seen, { echoes: number; readonly quick: Deferred.Deferred<void> }>()("test/Seen") {
  static readonly layer = Layer.effect(
    Seen,
    Effect.map(Deferred.make<void>(), (quick) => ({ echoes: 0, quick }))
  )
}

const BIG = 20_000_000
const big = "x".repeat(BIG)

const circular: Record<string, unknown> = {}
circular["self"] = circular
let deep: unknown = 1
for (let i = 0; i < 100_000; i++) deep = [deep]
/** What has no JSON. */
const odd = { circular, bigint: 1n, deep, nothing: undefined }

const LabLive = Lab.toLayer(
  Effect.map(Seen, (seen) =>
    Lab.of({
      echo: (value) => Effect.sync(() => (seen.echoes++, value)),
      big: () => Effect.succeed(big),
      odd: ({ how }) => Effect.succeed(odd[how]),
      slow: () => Effect.as(Deferred.await(seen.quick), "slow"),
      quick: () => Effect.as(Deferred.succeed(seen.quick, undefined), "quick")
    })
  ),
  { gracefulShutdownTimeout: 0 }
)

const routes = { "/lab": Lab } as const
const appOf = <E>(ingress: Layer.Layer<HttpIngress.Address, E, Lab>) =>
  ingress.pipe(Layer.provide(LabLive), Layer.provideMerge(Seen.layer), Layer.provideMerge(Quiet))

type Provided = Layer.Success<ReturnType<typeof appOf>> | Scope.Scope

/** Runs a test that takes its time on some servers at once. */
const onEach = <E>(
  ingresses: Record<string, Layer.Layer<HttpIngress.Address, E, Lab>>,
  body: () => Effect.Effect<void, never, Provided>
) =>
  Effect.forEach(
    Object.entries(ingresses),
    ([name, ingress]) =>
      body().pipe(
        Effect.provide(appOf(ingress)),
        Effect.scoped,
        Effect.catchCause((cause) => Effect.die(new Error(`On ${name}: ${Cause.pretty(cause)}`)))
      ),
    { concurrency: "unbounded", discard: true }
  )

/** Milliseconds by which something may be late on a machine that has other things to do. */
const SLACK = 1500

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const start = performance.now()
    return Effect.map(effect, (value) => [value, performance.now() - start] as const)
  })

/** Sends a piece every 50 milliseconds, and gives all that comes until the server closes the connection. */
const trickle = (connection: Connection, piece: string) =>
  Effect.raceFirst(
    connection.closed,
    Effect.andThen(
      Effect.repeat(
        Effect.sync(() => connection.write(piece)),
        Schedule.spaced("50 millis")
      ),
      Effect.never
    )
  )

const json = { "content-type": "application/json" }
const headOf = (length: number, more = {}) => request("POST /lab/echo", { ...json, "content-length": length, ...more })
const chunked = (...chunks: ReadonlyArray<string>) =>
  request("POST /lab/echo", { ...json, "transfer-encoding": "chunked" }) +
  [...chunks, ""].map((chunk) => `${chunk.length.toString(16)}\r\n${chunk}\r\n`).join("")

const ask = (connection: Connection) => {
  connection.write(request("GET /-/healthz"))
  return connection.until(/success$/)
}
/** Connects until the server lets it. */
const untilLetIn: Effect.Effect<void, never, HttpIngress.Address> = Effect.suspend(() =>
  Effect.scoped(
    Effect.flatMap(dial, (connection) => {
      connection.write(request("GET /-/healthz", { connection: "close" }))
      return connection.closed
    })
  )
).pipe(
  Effect.repeat({ until: (answer) => answer.endsWith("success"), schedule: Schedule.spaced("10 millis") }),
  Effect.asVoid
)

const two = { maxConnections: 2, stallTimeout: "300 millis" } as const
const ofServer = {
  headersTimeout: "300 millis",
  keepAliveTimeout: "300 millis",
  stallTimeout: "300 millis",
  maxHeaderSize: 2000
} as const
const limits = { maxBodySize: 1000, receiveTimeout: "500 millis", stallTimeout: "300 millis" } as const

for (const [name, ingress] of Object.entries(servers(routes, limits))) {
  layer(appOf(ingress), { excludeTestServices: true })(`HttpIngress.${name}, with limits`, (it) => {
    it.effect("has its answer read by a client that sends a body all the same", () =>
      Effect.gen(function* () {
        const body = "x".repeat(5_000_000)
        const answers = Array.from({ length: 10 }, (_, i) =>
          sendRaw(i % 2 === 0 ? headOf(body.length) + body : chunked(body))
        )
        for (const answer of yield* Effect.all(answers, { concurrency: "unbounded" })) {
          assert.match(answer, /^HTTP\/1.1 413 [^]*\}$/)
        }
      })
    )

    it.effect("asks for a body that it will read", () =>
      Effect.gen(function* () {
        const connection = yield* dial
        connection.write(headOf(7, { expect: "100-continue" }))
        yield* connection.until(/^HTTP\/1.1 100 Continue\r\n\r\n$/)
        connection.write('"hello"')
        yield* connection.until(/\r\n\r\nHTTP\/1.1 200 [^]*"hello"$/)
      })
    )

    it.effect("asks for no body at a path, or with headers, that it refuses", () =>
      Effect.gen(function* () {
        const expect = { expect: "100-continue" }
        for (const [line, headers, status] of [
          ["POST /lab/nope", json, 404],
          ["PUT /lab/echo", json, 405],
          ["POST /-/healthz", json, 405],
          ["POST /lab/echo", { "content-type": "text/plain" }, 415],
          ["POST /lab/echo", { ...json, "x-request-priority": "vip" }, 400]
        ] as const) {
          const connection = yield* dial
          connection.write(request(line, { "content-length": 7, ...headers, ...expect }))
          assert.match(yield* connection.until(/\}$/), new RegExp(`^HTTP/1.1 ${status} `))
        }
      })
    )

    it.effect("refuses a body that turns out to be too large", () =>
      Effect.gen(function* () {
        const seen = yield* Seen
        const before = seen.echoes
        assert.match(yield* sendRaw(chunked(`"${"x".repeat(998)}"`, " ")), /^HTTP\/1.1 413 [^]*"PayloadTooLarge"/)
        const just = yield* dial
        just.write(chunked(`"${"x".repeat(500)}`, `${"x".repeat(498)}"`))
        yield* just.until(/^HTTP\/1.1 200 [^]*x"$/)
        just.write(request("POST /lab/echo", json, `"${"y".repeat(998)}"`))
        yield* just.until(/y"$/)
        assert.strictEqual(seen.echoes, before + 2)
      })
    )

    it.effect("refuses a body with too many levels, and doesn't count what is in strings", () =>
      Effect.gen(function* () {
        const { body, status } = yield* post("/lab/echo", "[".repeat(501))
        assert.deepStrictEqual([status, body.message], [400, "The body has more than 500 levels of arrays and objects"])
        const levels = `${"[".repeat(495)}1${"]".repeat(495)}`
        for (const text of [levels, JSON.stringify("[{".repeat(400)), JSON.stringify('"[\\"[{'.repeat(70))]) {
          assert.strictEqual((yield* post("/lab/echo", text)).text, text)
        }
      })
    )

    it.effect("answers 500 when the answer of a handler has no JSON", () =>
      Effect.gen(function* () {
        for (const how of ["circular", "bigint", "deep", "nothing"]) {
          const { body, status } = yield* post("/lab/odd", { how })
          assert.deepStrictEqual([status, body._tag], [500, "InternalServerError"], how)
        }
        assert.strictEqual((yield* send("/-/healthz")).status, 200)
      })
    )

    it.effect("answers requests in their order, whichever is done first", () =>
      Effect.gen(function* () {
        const connection = yield* dial
        connection.write(
          request("POST /lab/slow") +
            request("POST /lab/quick") +
            request("POST /nope", json, '"a body that nobody reads"') +
            request("POST /lab/echo", json, '"hello"') +
            request("GET /-/healthz", { connection: "close" })
        )
        const answer = yield* connection.closed
        const statuses = Array.from(answer.matchAll(/HTTP\/1.1 (\d+) /g), ([, status]) => status)
        assert.deepStrictEqual(statuses, ["200", "200", "404", "200", "200"])
        assert.match(answer, /"slow"[^]*"quick"[^]*NotFound[^]*"hello"[^]*success$/)
      })
    )

    it.effect("goes on with a connection after a body that it did not read", () =>
      Effect.gen(function* () {
        const connection = yield* dial
        connection.write(request("POST /nope", json, "x".repeat(50_000)) + request("GET /-/healthz"))
        yield* connection.until(/^HTTP\/1.1 404 [^]*HTTP\/1.1 200 [^]*success$/)
      })
    )

    it.effect("refuses requests whose end is not clear", () =>
      Effect.gen(function* () {
        const seen = yield* Seen
        const before = seen.echoes
        const unclear = [
          "content-length: 2\r\ncontent-length: 7\r\n",
          "content-length: 2, 7\r\n",
          "content-length: 7\r\ntransfer-encoding: chunked\r\n",
          "transfer-encoding: chunked\r\ncontent-length: 7\r\n",
          "transfer-encoding: identity\r\n",
          "transfer-encoding: chunked, identity\r\n",
          "transfer-encoding: xchunked\r\n",
          "transfer-encoding : chunked\r\n",
          "content-length: +7\r\n",
          "content-length: 0x7\r\n",
          "content-length: -7\r\n",
          "content-length : 7\r\n",
          "x: 1\ntransfer-encoding: chunked\r\n",
          "x: 1\r\n content-length: 7\r\n\0: 1\r\n"
        ]
        for (const headers of unclear) {
          const head = `POST /lab/echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${headers}\r\n`
          const answer = yield* sendRaw(`${head}"hello"${request("GET /-/healthz")}`)
          assert.match(answer, /^HTTP\/1.1 400 /, headers)
          assert.notInclude(answer, "success", headers)
        }
        assert.strictEqual(seen.echoes, before)
        assert.strictEqual((yield* send("/-/healthz")).status, 200)
      })
    )
  })
}

for (const [name, ingress] of Object.entries(nodeServers(routes, ofServer))) {
  layer(appOf(ingress), { excludeTestServices: true })(`HttpIngress.${name}, with limits of its server`, (it) => {
    it.effect("gives the answer after a large one its own time", () =>
      Effect.gen(function* () {
        const connection = yield* dial
        connection.write(request("POST /lab/big") + request("POST /lab/slow"))
        yield* connection.until((received) => received.length > BIG)
        // Longer than the large one may stall.
        yield* Effect.sleep(500)
        assert.isFalse(connection.isClosed)
        yield* post("/lab/quick", "")
        yield* connection.until(/"slow"$/)
      })
    )

    it.effect("refuses headers that are too large", () =>
      Effect.gen(function* () {
        assert.match(yield* sendRaw(request("GET /-/healthz", { x: "y".repeat(2000) })), /^HTTP\/1.1 431 /)
        assert.match(yield* sendRaw(request(`GET /${"y".repeat(2000)}`)), /^HTTP\/1.1 431 /)
        const many = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`x${i}`, "y".repeat(20)]))
        assert.match(yield* sendRaw(request("GET /-/healthz", many)), /^HTTP\/1.1 431 /)
        const answer = yield* sendRaw(request("GET /-/healthz", { x: "y".repeat(1500), connection: "close" }))
        assert.match(answer, /^HTTP\/1.1 200 /)
      })
    )
  })
}

for (const [name, ingress] of Object.entries(nodeServers(routes, two))) {
  layer(appOf(ingress), { excludeTestServices: true })(`HttpIngress.${name}, with maxConnections`, (it) => {
    it.effect("closes the connection that is one too many, until another one is closed", () =>
      Effect.gen(function* () {
        const [first, second] = [yield* dial, yield* dial]
        yield* Effect.all([ask(first), ask(second)])
        assert.strictEqual(yield* sendRaw(request("GET /-/healthz")), "")
        first.socket.destroy()
        yield* untilLetIn
        yield* ask(second)
      })
    )
  })
}

const refused = (expect: object) =>
  Effect.gen(function* () {
    const connection = yield* dial
    connection.write(headOf(1001, expect))
    const answer = yield* connection.until(/\}$/)
    assert.match(answer, /^HTTP\/1.1 413 [^]*"message":"The body may have at most 1000 bytes"\}$/)
    assert.match(answer, /connection: close\r\n/i)
    return yield* timed(connection.closed)
  })

const start = (text: string, piece: string) =>
  Effect.flatMap(dial, (connection) => {
    connection.write(text)
    return trickle(connection, piece)
  })

const failureOf = (ingress: Layer.Layer<HttpIngress.Address, unknown, Lab>) =>
  Effect.map(Effect.exit(Layer.build(appOf(ingress))), String)

describe("HttpIngress, on every server at once", () => {
  test.live("refuses a body that is announced to be too large, before it is sent", () =>
    onEach(servers(routes, limits), () =>
      Effect.gen(function* () {
        const seen = yield* Seen
        for (const [, millis] of yield* Effect.all([refused({}), refused({ expect: "100-continue" })], {
          concurrency: "unbounded"
        })) {
          assert.isBelow(millis, 2000 + SLACK)
        }
        assert.strictEqual(seen.echoes, 0)
        yield* untilCounted("/lab/echo", 413)
      })
    )
  )

  test.live("gives up a body that takes too long, says so, and closes the connection", () =>
    onEach(servers(routes, limits), () =>
      Effect.gen(function* () {
        const seen = yield* Seen
        const before = seen.echoes
        const silent = Effect.flatMap(dial, (connection) => {
          connection.write(headOf(10))
          return connection.closed
        })
        const slow = Effect.flatMap(dial, (connection) => {
          connection.write(headOf(900))
          return trickle(connection, " ")
        })
        const slowChunks = Effect.flatMap(dial, (connection) => {
          connection.write(request("POST /lab/echo", { ...json, "transfer-encoding": "chunked" }))
          return trickle(connection, "1\r\n \r\n")
        })
        const all = yield* Effect.all([timed(silent), timed(slow), timed(slowChunks)], { concurrency: "unbounded" })
        for (const [answer, millis] of all) {
          assert.match(answer, /^HTTP\/1.1 408 [^]*connection: close\r\n/i)
          assert.match(
            answer,
            /\{"_tag":"RequestTimeout","requestId":"[^"]+","message":"The body must be there within 500ms"\}$/
          )
          assert.isAtLeast(millis, 500)
          assert.isBelow(millis, 500 + 1000 + SLACK)
        }
        assert.strictEqual(seen.echoes, before)
        yield* untilCounted("/lab/echo", 408)
      })
    )
  )

  test.live("answers at once when it will not read a body, and does not wait for it for ever", () =>
    onEach(servers(routes, limits), () =>
      Effect.gen(function* () {
        const announced = request("POST /nope", { ...json, "content-length": 100_000_000 })
        const wait = (piece: string) =>
          Effect.flatMap(dial, (connection) => {
            connection.write(announced)
            return Effect.flatMap(timed(connection.until(/\}$/)), ([, millis]) => {
              assert.isBelow(millis, SLACK)
              return trickle(connection, piece)
            })
          })
        for (const [answer, millis] of yield* Effect.all(
          [timed(wait("")), timed(wait("x")), timed(wait("x".repeat(10_000)))],
          { concurrency: "unbounded" }
        )) {
          assert.match(answer, /^HTTP\/1.1 404 [^]*\}$/)
          assert.isBelow(millis, 500 + 1000 + SLACK)
        }
      })
    )
  )

  test.live("takes a request that expects something unheard of as any other", () =>
    onEach(nodeServers(routes, limits), () =>
      Effect.gen(function* () {
        const expect = { expect: "200-ok" }
        assert.match(
          yield* sendRaw(request("POST /lab/echo", { ...json, ...expect, connection: "close" }, '"hello"')),
          /^HTTP\/1.1 200 [^]*"hello"$/
        )
        const connection = yield* dial
        connection.write(headOf(900, expect))
        assert.match(yield* trickle(connection, " "), /^HTTP\/1.1 408 /)
      })
    )
  )

  test.live("closes connections that send their headers too slowly, or none", () =>
    onEach(nodeServers(routes, ofServer), () =>
      Effect.gen(function* () {
        const all = yield* Effect.all(
          [
            timed(start("", "")),
            timed(start("POST /la", "a")),
            timed(start("POST /lab/quick HTTP/1.1\r\nhost: x\r\n", "")),
            timed(start("POST /lab/quick HTTP/1.1\r\nhost: x\r\n", "x: y\r\n"))
          ],
          { concurrency: "unbounded" }
        )
        for (const [answer, millis] of all) {
          assert.match(answer, /^(HTTP\/1.1 408 [^]*)?$/)
          assert.isBelow(millis, 300 + 1000 + SLACK)
        }
      })
    )
  )

  test.live("closes connections that are idle after an answer, and tells them how long they may be", () =>
    onEach(nodeServers(routes, ofServer), () =>
      Effect.gen(function* () {
        const connection = yield* dial
        connection.write(request("GET /-/healthz"))
        assert.match(yield* connection.until(/success$/), /connection: keep-alive\r\n/i)
        const [, millis] = yield* timed(connection.closed)
        assert.isBelow(millis, 300 + 1000 + SLACK)
      })
    )
  )

  test.live(
    "closes the connection of a client that reads nothing of a large answer, whether it goes on sending or not",
    () =>
      Effect.forEach(
        ["", "\r\n"],
        (piece) =>
          onEach(nodeServers(routes, two), () =>
            Effect.gen(function* () {
              const other = yield* dial
              yield* ask(other)
              const stalled = yield* dial
              stalled.socket.pause()
              stalled.write(request("POST /lab/big"))
              const write = Effect.sync(() => stalled.write(piece))
              yield* Effect.forkScoped(Effect.repeat(write, Schedule.spaced("50 millis")))
              // There is no room for it until the other one has been closed.
              const [, millis] = yield* timed(untilLetIn)
              assert.isBelow(millis, 300 + 1000 + SLACK)
              stalled.socket.resume()
              yield* stalled.closed
              assert.isBelow(stalled.socket.bytesRead, BIG)
            })
          ),
        { concurrency: "unbounded", discard: true }
      )
  )
})

describe("HttpIngress", () => {
  test.live("names an option that is wrong, on each server", () =>
    Effect.gen(function* () {
      const wrong: ReadonlyArray<[typeof HttpIngress.Options.Encoded, string]> = [
        [{ cors: { origins: ["app.example.com"] } }, `["cors"]["origins"][0]`],
        [{ cors: { origins: "*", credentials: true } }, `["cors"]["credentials"]`],
        [{ cors: { origins: "*", maxAge: "soon" as never } }, `["cors"]["maxAge"]`],
        [{ cors: { origin: "*" } as never }, `["cors"]["origin"]`],
        [{ compression: { encodings: ["deflate" as never] } }, `["compression"]["encodings"][0]`],
        [{ compression: { encodings: ["br", "br"] } }, `["compression"]["encodings"]`],
        [{ compression: { minSize: -1 } }, `["compression"]["minSize"]`],
        [{ openApi: { title: "" } }, `["openApi"]["title"]`],
        [{ openApi: { licence: "MIT" } as never }, `["openApi"]["licence"]`],
        [{ protectOwnPaths: "no" as never }, `["protectOwnPaths"]`],
        [{ receiveTimeout: "-1 seconds" }, `["receiveTimeout"]`]
      ]
      for (const [options, path] of wrong) {
        for (const ingress of Object.values(servers(routes, options))) {
          const failure = yield* failureOf(ingress)
          assert.include(failure, "Invalid options of HttpIngress")
          assert.include(failure, path)
        }
      }
    }).pipe(Effect.scoped)
  )

  test.live("names what is wrong with tls", () =>
    Effect.gen(function* () {
      const tls = { key: "nonsense", cert: "nonsense" }
      const wrong: ReadonlyArray<[typeof HttpIngress.NodeOptions.Encoded, string]> = [
        [{ tls: { ...tls, key: "" } }, `["tls"]["key"]`],
        [{ tls: { key: "a" } as never }, `["tls"]["cert"]`],
        [{ tls: { ...tls, clientCertificate: "always" as never } }, `["tls"]["clientCertificate"]`],
        [{ tls: { ...tls, passphrase: "x" } as never }, `["tls"]["passphrase"]`],
        [{ tls }, "tls"],
        [{ maxHeaderSize: 0 }, `["maxHeaderSize"]`],
        [{ maxConnections: 0 }, `["maxConnections"]`]
      ]
      for (const [options, path] of wrong) {
        for (const ingress of Object.values(nodeServers(routes, options))) {
          const failure = yield* failureOf(ingress)
          assert.include(failure, "Invalid options of HttpIngress")
          assert.include(failure, path)
        }
      }
    }).pipe(Effect.scoped)
  )
})
