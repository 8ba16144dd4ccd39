/**
 * The client against real servers, as programs and pages have it. What does not need one is in the tests beside this.
 *
 * Each of these mutations of the client has been seen to fail a test here. Requests: no timeout, priority, tenant or further headers sent; the
 * whole timeout sent with the second attempt; no type of a `Blob`; a text sent as JSON. Ends: a signal or a reader that leaves the server's work
 * running; `return` that waits for the next element; an abort that looks like a lost connection. Streams: lines asked for instead of
 * events; characters cut at the end of a chunk; errors of the body passed on as they are; an event with an error taken for an element.
 */
import { assert, describe, it, layer, vi } from "@effect/vitest"
import { HttpIngress, RequestContext, ServeError } from "effect-serve"
import { CallError, client, type ClientOptions, type Failure } from "effect-serve/client"
import { Duration, Effect, Stream } from "effect"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:http"
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { rolldown } from "rolldown"
import { program } from "../acceptance/readers.ts"
import { act, apps, Lost, settled, Solo, Stage, until, untilRunning } from "../ingress/http.ts"

const clientOf = (url: string, options: ClientOptions<"Stage"> = {}) => client<typeof Stage>(`${url}/stage`, options)

/** The options of a call for which a handler does something. */
const doing = (...work: Parameters<typeof act>) => ({ requestId: act(...work)["x-request-id"] })

const errorOf = async (call: PromiseLike<unknown>): Promise<CallError> => {
  try {
    await call
  } catch (error) {
    assert.instanceOf(error, CallError)
    return error as CallError
  }
  return assert.fail("it did not fail")
}

const collect = async <A>(elements: AsyncIterable<A>, into: Array<A> = []) => {
  for await (const element of elements) into.push(element)
  return into
}

const ones = (count: number) => Stream.rechunk(Stream.range(1, count), 1)

/** Work that does not end, and what has become of it. */
const endless = () => {
  const seen = { isRunning: false, isStopped: false }
  const started = Effect.sync(() => (seen.isRunning = true))
  const work = Effect.andThen(started, Effect.never).pipe(
    Effect.onInterrupt(() => Effect.sync(() => (seen.isStopped = true)))
  )
  return { seen, work }
}

const so = (condition: () => boolean) => Effect.runPromise(until(condition))

/** Passes a connection on until it is cut. */
const proxyTo = async (url: string) => {
  const sockets: Array<Socket> = []
  const server = createTcpServer((near) => {
    const far = connect(Number(new URL(url).port), "127.0.0.1")
    for (const socket of [near, far]) sockets.push(socket.on("error", () => {}))
    near.pipe(far).pipe(near)
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const cut = () => {
    for (const socket of sockets) socket.destroy()
    server.close()
  }
  return { cut, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}

const reasons: ReadonlyArray<readonly [status: number, reason: ServeError.Reason, fields: object]> = [
  [
    503,
    new ServeError.QueueFull({
      deployment: "Stage",
      ongoing: 1,
      maxOngoingRequests: 1,
      queued: 2,
      maxQueuedRequests: 2,
      retryAfter: Duration.millis(1500)
    }),
    { ongoing: 1, queued: 2, retryAfter: 1500 }
  ],
  [503, new ServeError.Shed({ deployment: "Stage", why: "so", retryAfter: Duration.millis(20) }), { why: "so" }],
  [503, new ServeError.Unavailable({ deployment: "Stage", why: "draining" }), { why: "draining" }],
  [504, new ServeError.DeadlineExceeded({ deployment: "Stage", stage: "batch" }), { stage: "batch" }],
  [500, new ServeError.ReplicaLost({ replica: "Stage#0", started: true }), { replica: "Stage#0", started: true }],
  [503, new ServeError.ReplicaLost({ replica: "Stage#0", started: false }), { started: false }],
  [500, new ServeError.WorkerCrashed({ exitCode: 3 }), { exitCode: 3 }],
  [500, new ServeError.BatchContract({ expected: 2, received: 1 }), { expected: 2, received: 1 }],
  [413, new ServeError.ItemTooLarge({ size: 9, maxBatchSize: 8 }), { size: 9, maxBatchSize: 8 }],
  [400, new ServeError.BadUpload({ why: "malformed", description: "odd" }), { description: "odd" }],
  [502, new ServeError.TransportError({ deployment: "Stage", started: true, description: "gone" }), { started: true }]
]

vi.setConfig({ testTimeout: 30_000 })

for (const { App, name } of apps().filter(({ name }) => !name.includes("thread"))) {
  layer(App, { excludeTestServices: true, timeout: "20 seconds", concurrent: true })(`a client of ${name}`, (it) => {
    const test = (title: string, run: (url: string) => Promise<void>) =>
      it.effect(title, () => Effect.flatMap(HttpIngress.Address, ({ url }) => Effect.promise(() => run(url))))

    test("gives the result of a call, and takes any payload", async (url) => {
      for (const payload of [{ text: "ä\n\u{1f600}" }, "text", 5, null, [true, ""], ""]) {
        const echo = clientOf(url).run(
          payload,
          doing((given) => Effect.succeed({ given }))
        )
        assert.deepStrictEqual(await echo, { given: payload })
        assert.deepStrictEqual(await echo.result(), { ok: true, value: { given: payload } })
      }
      assert.isNull(
        await clientOf(url).run(
          undefined,
          doing((given) => Effect.succeed(given))
        )
      )
    })

    test("sends a call at once, and once, however often it is asked for its result", async (url) => {
      let count = 0
      const counting = doing(Effect.sync(() => ++count))
      const call = clientOf(url).run(undefined, counting)
      await so(() => count === 1)
      assert.deepStrictEqual(await Promise.all([call, call.then((n) => n), call.result()]), [
        1,
        1,
        { ok: true, value: 1 }
      ])
      let isOver = false
      await call.finally(() => (isOver = true))
      assert.isTrue(isOver)
      assert.strictEqual(count, 1)
    })

    test("tells the handler who calls, how important it is and until when", async (url) => {
      const seen = doing(
        Effect.map(RequestContext.RequestContext, ({ deadline, priority, requestId, tenant }) => ({
          deadline,
          priority,
          requestId,
          tenant: tenant ?? null
        }))
      )
      const stage = clientOf(url, { timeout: 9000, headers: { "x-request-tenant": "acme" } })
      const more = { ...seen, priority: "critical", timeout: 4000 } as const
      const first: any = await stage.run(undefined, more)
      assert.deepInclude(first, { ...seen, priority: "critical", tenant: "acme" })
      assert.approximately(first.deadline, Date.now() + 4000, 1000)
      const second: any = await stage.run(undefined, { ...seen, tenant: "other" })
      assert.deepInclude(second, { tenant: "other", priority: "default" })
      assert.approximately(second.deadline, Date.now() + 9000, 1000)
      const third: any = await clientOf(url).run(undefined, { ...seen, headers: { "x-request-tenant": "third" } })
      assert.deepInclude(third, { tenant: "third" })
      assert.approximately(third.deadline, Date.now() + 60_000, 1000, "what the deployment allows")
    })

    test("rejects with the declared error, or gives it as a value", async (url) => {
      const options = doing(Effect.fail(new Lost({ id: 5 })))
      const call = clientOf(url).run(undefined, options)
      const { error, message, requestId, status } = await errorOf(call)
      assert.deepStrictEqual([error, status, requestId], [{ _tag: "Lost", id: 5 }, 404, options.requestId] as unknown[])
      assert.strictEqual(message, "Lost")
      assert.deepStrictEqual(await call.result(), { ok: false, error: { _tag: "Lost", id: 5 } })
      assert.strictEqual(await call.catch(() => "caught"), "caught")
    })

    test("rejects with each of the runtime's reasons, as the ingress has them", async (url) => {
      const stage = clientOf(url, { retry: false })
      for (const [status, reason, fields] of reasons) {
        const failing = doing(Effect.fail(new ServeError.ServeError({ reason })))
        const { error, ...about } = await errorOf(stage.run(undefined, failing))
        assert.deepInclude(error, { _tag: "ServeError", ...failing })
        assert.deepInclude(about, { status, ...failing }, reason._tag)
        if (error._tag !== "ServeError") return
        assert.deepInclude(error.reason, { _tag: reason._tag, ...fields })
        assert.isNotEmpty(error.message)
      }
    })

    it.effect(
      "is refused by a deployment that is full",
      Effect.fnUntraced(function* () {
        const { url } = yield* HttpIngress.Address
        const solo = client<typeof Solo>(`${url}/solo`, { retry: false })
        const leave = new AbortController()
        const { work } = endless()
        const running = solo.run(undefined, { ...doing(work), signal: leave.signal })
        yield* untilRunning(Solo.state, 1)
        const { error, retryAfter } = yield* Effect.promise(() => errorOf(solo.run(undefined, doing(work))))
        assert.deepInclude((error as any).reason, { _tag: "QueueFull", deployment: "Solo", ongoing: 1 })
        assert.isAbove(retryAfter!, 0)
        leave.abort()
        yield* Effect.promise(() => errorOf(running))
        yield* untilRunning(Solo.state, 0)
      })
    )

    test("is not told what a defect says", async (url) => {
      const dying = doing(Effect.die(new Error("the password is 1234")))
      const { error, message, status } = await errorOf(clientOf(url).run(undefined, dying))
      assert.deepStrictEqual<unknown>([status, error], [500, { _tag: "InternalServerError", ...dying }])
      assert.notInclude(message, "password")
    })

    test("is told which fields of a payload are wrong, and what else is wrong with a request", async (url) => {
      const stage = clientOf(url)
      const bad = await errorOf(collect(stage.count({ to: "two" as unknown as number })))
      assert.deepInclude(bad, { status: 400 })
      assert.deepInclude(bad.error, { _tag: "BadRequest" })
      assert.strictEqual((bad.error as Extract<Failure, { _tag: "BadRequest" }>).issues?.[0]?.path, "to")
      const missing = await errorOf((stage as any).nothing())
      assert.deepStrictEqual([missing.status, missing.error._tag], [404, "NotFound"])
      assert.include(missing.message, "run, elements")
      assert.strictEqual((await errorOf(stage.csv("a,b"))).error._tag, "UnsupportedMediaType")
      assert.strictEqual((await errorOf(stage.text("x".repeat(2_000_000)))).error._tag, "UnsupportedMediaType")
      const large = stage.text("x".repeat(2_000_000), { contentType: "text/plain" })
      assert.strictEqual((await errorOf(large)).error._tag, "PayloadTooLarge")
      const unclear = stage.elements(undefined, { headers: { accept: "text/html" } })
      assert.strictEqual((await errorOf(collect(unclear))).error._tag, "NotAcceptable")
    })

    test("is given up by its deadline, as the server says", async (url) => {
      const { seen, work } = endless()
      const { error, status } = await errorOf(clientOf(url).run(undefined, { ...doing(work), timeout: 150 }))
      assert.strictEqual(status, 504)
      assert.deepInclude((error as any).reason, { _tag: "DeadlineExceeded", stage: "handler" })
      await so(() => seen.isStopped)
    })

    test("is given up by its signal, with its work on the server", async (url) => {
      const { seen, work } = endless()
      const leaving = new AbortController()
      const call = clientOf(url).run(undefined, { ...doing(work), signal: leaving.signal })
      await so(() => seen.isRunning)
      leaving.abort("enough")
      const { error } = await errorOf(call)
      assert.deepInclude(error, { _tag: "Aborted", reason: "enough" })
      await so(() => seen.isStopped)
    })

    test("takes and gives bytes, text, uploads and forms as they are", async (url) => {
      const stage = clientOf(url)
      const bytes = Uint8Array.from({ length: 256 }, (_, i) => i)
      const same = doing((given) => Effect.succeed(given))
      const all = doing((body) =>
        Stream.runFold(
          body as Stream.Stream<Uint8Array>,
          () => 0,
          (n, b) => n + b.length
        )
      )
      assert.deepStrictEqual(await stage.bytes(bytes, same), bytes)
      assert.deepStrictEqual(await stage.bytes(bytes.buffer, same), bytes)
      assert.deepStrictEqual(await stage.wav(new Blob([bytes], { type: "audio/wav" }), same), bytes)
      assert.deepStrictEqual(await stage.wav(bytes, { ...same, contentType: "audio/wav" }), bytes)
      assert.strictEqual(await stage.csv("ä,b", { ...same, contentType: "text/csv" }), "ä,b")
      assert.strictEqual(await stage.upload(bytes, all), 256)
      assert.strictEqual(await stage.listen(new Blob([bytes]).stream(), { ...all, contentType: "audio/mp3" }), 256)
      const form = new FormData()
      form.append("title", "Summer")
      const names = doing((parts) => Stream.runCollect(Stream.map(parts as Stream.Stream<any>, ({ name }) => name)))
      assert.deepStrictEqual(await stage.form(form, names), ["title"])
    })

    test("reads a stream, as events or as lines", async (url) => {
      const made = [
        "a\nb\r\nc\rd\n\n",
        "é \u2028 \u{1f600} \u0000",
        "",
        "ü".repeat(200_000),
        { "data: ": ["\n"] },
        null
      ]
      for (const stream of [Stream.fromIterable(made), Stream.rechunk(Stream.fromIterable(made), 1), Stream.empty]) {
        const seen = await Promise.all([
          collect(clientOf(url).elements(undefined, doing(stream))),
          collect(clientOf(url).elements(undefined, { ...doing(stream), headers: { Accept: "application/x-ndjson" } }))
        ])
        const expected = stream === Stream.empty ? [] : made
        assert.deepStrictEqual(seen, [expected, expected])
      }
    })

    test("reads events with their names and ids", async (url) => {
      const made = [{ data: { n: 1 }, id: "7", event: "tick" }, { data: null }, { data: "x", event: "tock" }]
      const options = { ...doing(Stream.fromIterable(made)), events: true }
      assert.deepStrictEqual(await collect(clientOf(url).events(undefined, options)), made)
      const lines = { ...options, headers: { accept: "application/x-ndjson" } }
      assert.deepStrictEqual(await collect(clientOf(url).events(undefined, lines)), made)
      const bare = { ...options, events: false }
      assert.deepStrictEqual<unknown>(await collect(clientOf(url).events(undefined, bare)), [{ n: 1 }, null, "x"])
    })

    test("gives a stream out of an async function", async (url) => {
      const later = async () => clientOf(url).elements(undefined, doing(ones(2)))
      assert.deepStrictEqual(await collect(await later()), [1, 2])
    })

    test("reads streams of text and of bytes in the pieces that come", async (url) => {
      const poem = await collect(clientOf(url).poem(undefined, doing(Stream.make("ro", "ses\n", "ü"))))
      assert.strictEqual(poem.join(""), "roses\nü")
      const made = Uint8Array.from({ length: 256 }, (_, i) => i)
      const speech = await collect(clientOf(url).speech(undefined, doing(Stream.make(made, made))))
      assert.deepStrictEqual(Buffer.concat(speech as Array<Uint8Array>), Buffer.concat([made, made]))
    })

    test("stops the handler of a stream that it leaves", async (url) => {
      for (const from of [0, 2]) {
        const { seen, work } = endless()
        const elements = Stream.concat(ones(from), Stream.fromEffect(work))
        const iterator = clientOf(url).elements(undefined, doing(elements))[Symbol.asyncIterator]()
        for (let i = 1; i <= from; i++) assert.deepStrictEqual(await iterator.next(), { done: false, value: i })
        const waiting = iterator.next()
        await so(() => seen.isRunning)
        await iterator.return!()
        assert.deepStrictEqual<unknown>(await waiting, { done: true, value: undefined })
        await so(() => seen.isStopped)
      }
      const { seen, work } = endless()
      for await (const one of clientOf(url).elements(
        undefined,
        doing(Stream.concat(ones(1), Stream.fromEffect(work)))
      )) {
        assert.strictEqual(one, 1)
        await so(() => seen.isRunning)
        break
      }
      await so(() => seen.isStopped)
    })

    test("ends a stream by its signal or at its deadline with an error", async (url) => {
      const { seen, work } = endless()
      const leaving = new AbortController()
      const stream = Stream.concat(ones(2), Stream.fromEffect(work))
      const read: Array<unknown> = []
      const reading = collect(clientOf(url).elements(undefined, { ...doing(stream), signal: leaving.signal }), read)
      await so(() => read.length === 2 && seen.isRunning)
      leaving.abort()
      assert.deepInclude((await errorOf(reading)).error, { _tag: "Aborted" })
      await so(() => seen.isStopped)
      const late = await errorOf(collect(clientOf(url).elements(undefined, { ...doing(stream), timeout: 150 })))
      assert.deepInclude((late.error as any).reason, { _tag: "DeadlineExceeded", stage: "stream" })
    })

    test("makes the handler wait while it does not read on", async (url) => {
      const seen = { made: 0 }
      const element = "x".repeat(100_000)
      const stream = Stream.rechunk(Stream.fromEffectRepeat(Effect.sync(() => (seen.made++, element))), 1)
      let parked = Infinity
      let read = 0
      for await (const _ of clientOf(url).elements(undefined, doing(stream))) {
        if (++read === 3) parked = await Effect.runPromise(settled(() => seen.made, 150))
        if (seen.made > parked) break
        assert.isBelow(read, 1000)
      }
      assert.isBelow(parked, 300)
    })

    test("ends a stream that fails with its error, after all elements before", async (url) => {
      const draining = new ServeError.Unavailable({ deployment: "Other", why: "draining" })
      const failures: ReadonlyArray<readonly [stream: Stream.Stream<never, unknown>, error: object]> = [
        [Stream.fail(new Lost({ id: 5 })), { _tag: "Lost", id: 5 }],
        [Stream.fail(new ServeError.ServeError({ reason: draining })), { _tag: "ServeError" }],
        [Stream.die(new Error("the password is 1234")), { _tag: "InternalServerError" }]
      ]
      for (const [failure, error] of failures) {
        const read: Array<unknown> = []
        const options = doing(Stream.concat(ones(2), failure))
        const failed = await errorOf(collect(clientOf(url).elements(undefined, options), read))
        assert.deepStrictEqual(read, [1, 2])
        assert.deepInclude(failed, { status: 200, ...options })
        assert.deepInclude(failed.error, error)
      }
      const early = await errorOf(collect(clientOf(url).elements(undefined, doing(Stream.fail(new Lost({ id: 6 }))))))
      assert.deepStrictEqual<unknown>([early.status, early.error], [404, { _tag: "Lost", id: 6 }])
    })

    test("tells the error of a stream to a reader that is slow, too", async (url) => {
      const stream = Stream.concat(ones(2), Stream.fail(new Lost({ id: 5 })))
      const iterator = clientOf(url).elements(undefined, doing(stream))[Symbol.asyncIterator]()
      for (const value of [1, 2]) {
        await Effect.runPromise(Effect.sleep(30))
        assert.deepStrictEqual<unknown>(await iterator.next(), { done: false, value })
      }
      assert.deepStrictEqual<unknown>((await errorOf(iterator.next())).error, { _tag: "Lost", id: 5 })
    })

    test("ends a stream whose connection is cut with an error", async (url) => {
      for (const [method, made, accept] of [
        ["elements", 1, "text/event-stream"],
        ["elements", 1, "application/x-ndjson"],
        ["poem", "a", "*/*"]
      ] as const) {
        const proxy = await proxyTo(url)
        const elements = Stream.concat(Stream.make(made), Stream.never)
        const call = clientOf(proxy.url)[method](undefined, { ...doing(elements), headers: { accept } })
        const iterator = call[Symbol.asyncIterator]()
        assert.deepStrictEqual<unknown>(await iterator.next(), { done: false, value: made })
        proxy.cut()
        const { error } = await errorOf(iterator.next())
        assert.deepInclude(error, { _tag: "NetworkError", sent: true }, accept)
      }
    })

    test("tells whether a request can have been sent", async (url) => {
      const proxy = await proxyTo(url)
      const { seen, work } = endless()
      const call = clientOf(proxy.url).run(undefined, doing(work))
      await so(() => seen.isRunning)
      proxy.cut()
      assert.deepInclude((await errorOf(call)).error, { _tag: "NetworkError", sent: true })
      const nobody = clientOf(proxy.url, { retry: false }).run(undefined)
      assert.deepInclude((await errorOf(nobody)).error, { _tag: "NetworkError", sent: false })
    })
  })
}

describe("a call that nobody looks at", () => {
  it("rejects nothing", async () => {
    const rejected: Array<unknown> = []
    const note = (reason: unknown) => rejected.push(reason)
    process.on("unhandledRejection", note)
    const stage = client<typeof Stage>("http://nowhere.test", {
      fetch: () => Promise.reject(new TypeError("no network")),
      retry: false
    })
    stage.run()
    stage.elements()
    stage.elements()[Symbol.asyncIterator]()
    await new Promise((resolve) => setTimeout(resolve, 20))
    process.off("unhandledRejection", note)
    assert.deepStrictEqual(rejected, [])
  })
})

const bundle = async () => {
  const build = await rolldown({ input: "src/client/Client.ts", platform: "browser" })
  const { output } = await build.generate({ format: "esm", minify: true })
  assert.lengthOf(output, 1)
  return output[0]
}

describe("the file of the client", () => {
  it("has under 5 kB, and needs no other", async () => {
    const { code, dynamicImports, imports, modules } = await bundle()
    assert.isBelow(gzipSync(code).length, 5000)
    assert.deepStrictEqual([imports, dynamicImports], [[], []])
    assert.notMatch(code, /\bimport\b|\brequire\b|\bprocess\b|\bBuffer\b|node:/)
    for (const file of Object.keys(modules)) assert.match(file, /src\/client\/\w+\.ts$/)
  })
})

const chromium = "/usr/bin/chromium"

/** Does with the client what `ids` say, and sends what it has seen to where it comes from. */
const pageOf = (ids: Readonly<Record<string, string>>) => `<!doctype html><script type="module">
  import { CallError, client } from "/client.js"
  const ids = ${JSON.stringify(ids)}
  const stage = client(location.hash.slice(1))
  const as = (name, more) => ({ requestId: ids[name], ...more })
  const seen = { elements: [] }
  const fail = async (name, call) => {
    try { await call() } catch (error) { seen[name] = [error instanceof CallError, error.error._tag, error.status, error.requestId] }
  }
  seen.value = await stage.run({ text: "\u00e4" }, as("echo"))
  for await (const element of stage.elements(undefined, as("endless"))) { seen.first = element; break }
  await fail("mid", async () => {
    for await (const element of stage.elements(undefined, as("mid"))) seen.elements.push(element)
  })
  await fail("lost", () => stage.run(undefined, as("lost")))
  const leaving = new AbortController()
  setTimeout(() => leaving.abort(), 200)
  await fail("never", () => stage.run(undefined, as("never", { signal: leaving.signal })))
  await fetch("/", { method: "POST", body: JSON.stringify(seen) })
</script>`

/** A server for the page, which is of another origin than the deployments, and what the page says in the end. */
const pageServer = (page: string, script: string) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const said = Promise.withResolvers<string>()
      const server = createServer((request, response) => {
        if (request.url === "/client.js") return response.setHeader("content-type", "text/javascript").end(script)
        if (request.method === "GET") return response.setHeader("content-type", "text/html; charset=utf-8").end(page)
        let text = ""
        request.on("data", (chunk) => (text += chunk))
        return request.on("end", () => (said.resolve(text), response.end()))
      })
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
      return { server, said: said.promise, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
    }),
    ({ server }) => Effect.sync(() => (server.closeAllConnections(), server.close()))
  )

const open = Effect.fnUntraced(function* (url: string) {
  const profile = mkdtempSync(join(tmpdir(), "chromium-"))
  yield* Effect.addFinalizer(() => Effect.sync(() => rmSync(profile, { recursive: true, force: true, maxRetries: 9 })))
  const quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
  const offline = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
  yield* program(chromium, ...quiet, ...offline, `--user-data-dir=${profile}`, url)
})

const [anyPage] = apps({ cors: { origins: "*" } })
layer(anyPage!.App, { excludeTestServices: true })("a page in Chromium", (it) => {
  it.effect.runIf(existsSync(chromium))(
    "calls, reads streams, is told of errors, and leaves",
    Effect.fnUntraced(function* () {
      const { url } = yield* HttpIngress.Address
      const [left, never] = [endless(), endless()]
      const names = {
        echo: act((payload) => Effect.succeed(payload)),
        endless: act(Stream.concat(ones(1), Stream.fromEffect(left.work))),
        mid: act(Stream.concat(ones(3), Stream.fail(new Lost({ id: 5 })))),
        lost: act(Effect.fail(new Lost({ id: 6 }))),
        never: act(never.work)
      }
      const ids = Object.fromEntries(Object.entries(names).map(([name, { "x-request-id": id }]) => [name, id]))
      const { code } = yield* Effect.promise(bundle)
      const pages = yield* pageServer(pageOf(ids), code)
      yield* open(`${pages.url}/#${url}/stage`)
      assert.deepStrictEqual(JSON.parse(yield* Effect.promise(() => pages.said)), {
        value: { text: "ä" },
        first: 1,
        elements: [1, 2, 3],
        mid: [true, "Lost", 200, ids["mid"]],
        lost: [true, "Lost", 404, ids["lost"]],
        never: [true, "Aborted", null, null]
      })
      yield* until(() => left.seen.isStopped && never.seen.isStopped === never.seen.isRunning)
    })
  )
})
