/**
 * Bodies over HTTP that are not JSON, on all servers: bytes, text, uploads and forms.
 *
 * Each of these mutations has been seen to fail a test here. Bodies: `application/octet-stream` asked for where any type will do; any type
 * taken where one is asked for; `audio/*` that takes `audiox/wav`; text decoded piece by piece. Bounds: no look at `content-length`; no
 * count of what comes, for whole bodies and for uploads; no time limit for the next piece, or for a whole body. Uploads: collected before
 * the handler gets them; kept after it has; sent ahead to another thread without bound; what is left of one kept from the next request,
 * after an answer and after a stream; a handler not interrupted when its upload breaks off. Forms: a file left unread not skipped;
 * filenames not decoded as UTF-8; what is malformed answered with 413; fields of more than 1 MiB.
 *
 * A client that leaves while more of its upload waits than the server's buffers take is not noticed before the handler reads on: the end of
 * the connection comes behind the bytes that nobody reads.
 */
import { assert } from "@effect/vitest"
import { type HttpSchema, ServeError } from "effect-serve"
import { Deferred, Effect, Exit, Fiber, Stream } from "effect"
import { createHash } from "node:crypto"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import {
  act,
  ask,
  chunk,
  type Client,
  errorOf,
  eventsOf,
  LAST_CHUNK,
  onEachServer,
  post,
  pour,
  send,
  settled,
  until,
  untilCounted
} from "./http.ts"

const put = (path: string, body: RequestInit["body"] & {}, headers: Record<string, string>) =>
  send(path, { method: "POST", headers, body })

const bytesOf = (length: number, seed = 1) => Uint8Array.from({ length }, (_, i) => (i * seed + (i >> 8)) % 256)
const hashOf = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex")

/** Reads a body to its end: how many bytes, and their hash. */
const read = (body: HttpSchema.Body) =>
  Effect.map(
    Stream.runFold(
      body,
      () => ({ size: 0, hash: createHash("sha256") }),
      ({ hash, size }, bytes) => ({ size: size + bytes.length, hash: hash.update(bytes) })
    ),
    ({ hash, size }) => ({ size, hash: hash.digest("hex") })
  )

const expected = (bytes: Uint8Array) => ({ size: bytes.length, hash: hashOf(bytes) })

const sizeOf = (body: HttpSchema.Body) =>
  Stream.runFold(
    body,
    () => 0,
    (size, bytes) => size + bytes.length
  )

const sizeOfFirst = (body: HttpSchema.Body) => sizeOf(Stream.take(body, 1))

const answerOf = (client: Client) =>
  Effect.map(
    until(() => client.answer.isComplete || client.isClosed),
    () => client.answer
  )

/** The memory that is in use, apart from what nobody uses any more. */
const memory = () => {
  setFlagsFromString("--expose-gc")
  const collect = runInNewContext("gc")
  // What the first one finds is given back by the beginning of the second one.
  collect()
  collect()
  const { arrayBuffers, heapUsed } = process.memoryUsage()
  return arrayBuffers + heapUsed
}

const MiB = 1024 * 1024
const piece = bytesOf(64 * 1024)

/** So many bytes, in pieces. */
function* pieces(bytes: number) {
  for (let sent = 0; sent < bytes; sent += piece.length) yield piece
}

/** Looks at how much more memory is in use, each time that some more has been read. */
const watched = (every = 4 * MiB) => {
  const before = memory()
  let size = 0
  const seen = { looks: 0, peak: 0 }
  const look = Effect.sync(() => {
    seen.looks++
    seen.peak = Math.max(seen.peak, memory() - before)
  })
  return {
    seen,
    look,
    count: (bytes: Uint8Array) =>
      Effect.suspend(() => ((size += bytes.length) < every * (seen.looks + 1) ? Effect.void : look))
  }
}

const BOUNDARY = "----edge"
const formType = { "content-type": `multipart/form-data; boundary=${BOUNDARY}` }
const field = (name: string, value: string) =>
  `--${BOUNDARY}\r\ncontent-disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`
const fileHead = (name: string, filename: string, type = "application/octet-stream") =>
  `--${BOUNDARY}\r\ncontent-disposition: form-data; name="${name}"; filename="${filename}"\r\ncontent-type: ${type}\r\n\r\n`
const FORM_END = `--${BOUNDARY}--\r\n`

type Parts = Stream.Stream<HttpSchema.Part, ServeError.ServeError>

/** The parts of a form, with the sizes of their files. */
const listed = (parts: Parts) =>
  parts.pipe(
    Stream.mapEffect((part): Effect.Effect<unknown, unknown> =>
      part._tag === "Field"
        ? Effect.succeed([part.name, part.value, part.contentType])
        : Effect.map(sizeOf(part.content), (size) => [part.name, part.filename, part.contentType, size])
    ),
    Stream.runCollect
  )

onEachServer("HTTP", { concurrent: false }, (it, server) => {
  it.effect(
    "bodies are bytes as they are, of any type where none is named",
    Effect.fnUntraced(function* () {
      const all = bytesOf(256)
      const id = act((bytes: Uint8Array) => Effect.succeed(Uint8Array.from(bytes).toReversed()))
      for (const headers of [{}, { "content-type": "image/png" }, { "content-type": "application/json" }]) {
        const client = yield* ask("/stage/bytes", { body: all, headers: { ...headers, ...id } })
        const answer = yield* answerOf(client)
        assert.strictEqual(answer.status, 200)
        assert.strictEqual(answer.headers["content-type"], "application/octet-stream")
        assert.deepStrictEqual(answer.bytes, Buffer.from(all.toReversed()))
      }
      const empty = yield* send("/stage/bytes", { method: "POST", headers: id })
      assert.deepStrictEqual([empty.status, empty.text], [200, ""])
    })
  )

  it.effect(
    "bodies are bytes and text of the type that the method says, in and out",
    Effect.fnUntraced(function* () {
      const same = act((body: unknown) => Effect.succeed(body))
      for (const [method, type, wrong] of [
        ["wav", "audio/wav", "audio/mpeg"],
        ["text", "text/plain", "application/json"],
        ["csv", "text/csv", "text/plain"]
      ] as const) {
        for (const good of [type, type.toUpperCase(), `${type}; charset=utf-8`]) {
          const { headers, status, text } = yield* put(`/stage/${method}`, "a,ü\n", { ...same, "content-type": good })
          assert.deepStrictEqual([status, headers.get("content-type"), text], [200, type, "a,ü\n"], good)
        }
        for (const headers of [{ "content-type": wrong }, { "content-type": `${type}x` }, { "content-type": "" }]) {
          const { body, status } = yield* put(`/stage/${method}`, "a", { ...same, ...headers })
          assert.strictEqual(status, 415)
          assert.include(body.message, type)
        }
      }
    })
  )

  it.effect(
    "bodies are text whatever way they are cut",
    Effect.fnUntraced(function* () {
      const text = "ü\u{1f600}é\n".repeat(20)
      const client = yield* ask("/stage/text", {
        length: "chunked",
        headers: { ...act((text: string) => Effect.succeed(text)), "content-type": "text/plain" }
      })
      for (const byte of Buffer.from(text)) client.write(chunk(Uint8Array.of(byte)))
      client.write(LAST_CHUNK)
      assert.strictEqual((yield* answerOf(client)).text, text)
      const none = yield* send("/stage/text", { method: "POST", headers: act((text) => Effect.succeed(`<${text}>`)) })
      assert.deepStrictEqual([none.status, none.text], [200, "<>"])
    })
  )

  it.effect(
    "bodies that fail have the answer that any failure has",
    Effect.fnUntraced(function* () {
      const { body, headers, status } = yield* put("/stage/wav", "x", {
        ...act(Effect.die(new Error("the password is 1234"))),
        "content-type": "audio/wav"
      })
      assert.deepStrictEqual([status, body._tag], [500, "InternalServerError"])
      assert.strictEqual(headers.get("content-type"), "application/json")
    })
  )

  it.effect(
    "uploads are what was sent, whatever way it is cut",
    Effect.fnUntraced(function* () {
      const bytes = bytesOf(300_001, 7)
      const cuts = (...sizes: ReadonlyArray<number>) => {
        const cut: Array<Uint8Array> = []
        for (let at = 0, i = 0; at < bytes.length; i++) {
          const size = sizes[i % sizes.length]!
          cut.push(bytes.subarray(at, at + size))
          at += size
        }
        return cut
      }
      const headers = act(read)
      for (const cut of [cuts(300_001), cuts(1, 65_537, 3, 16_384), cuts(1021)]) {
        const whole = yield* ask("/stage/upload", { length: bytes.length, headers })
        yield* pour(whole, cut)
        assert.deepStrictEqual(JSON.parse((yield* answerOf(whole)).text), expected(bytes))
        const chunked = yield* ask("/stage/upload", { length: "chunked", headers })
        yield* pour(chunked, [...cut.map(chunk), LAST_CHUNK])
        assert.deepStrictEqual(JSON.parse((yield* answerOf(chunked)).text), expected(bytes))
      }
      const none = yield* send("/stage/upload", { method: "POST", headers })
      assert.deepStrictEqual(none.body, expected(new Uint8Array()))
    })
  )

  it.effect(
    "uploads reach their handler while they come",
    Effect.fnUntraced(function* () {
      let size = 0
      const headers = act((body: HttpSchema.Body) =>
        Effect.as(
          Stream.runForEach(body, (bytes) => Effect.sync(() => (size += bytes.length))),
          "done"
        )
      )
      const client = yield* ask("/stage/upload", { length: 50, headers })
      for (let sent = 10; sent <= 50; sent += 10) {
        client.write("x".repeat(10))
        yield* until(() => size === sent)
      }
      assert.strictEqual((yield* answerOf(client)).text, '"done"')
    })
  )

  it.effect(
    "uploads are not kept",
    Effect.fnUntraced(function* () {
      const { count, seen } = watched()
      const client = yield* ask("/stage/upload", {
        length: 20 * MiB,
        headers: act((body: HttpSchema.Body) => Effect.as(Stream.runForEach(body, count), null))
      })
      yield* pour(client, pieces(20 * MiB))
      assert.strictEqual((yield* answerOf(client)).status, 200)
      assert.isBelow(seen.peak, 10 * MiB)
      assert.isAtLeast(seen.looks, 5)
    })
  )

  it.effect(
    "uploads stop while their handler doesn't read",
    Effect.fnUntraced(function* () {
      const gate = yield* Deferred.make<void>()
      const headers = act((body: HttpSchema.Body) => Effect.andThen(Deferred.await(gate), sizeOf(body)))
      const client = yield* ask("/stage/upload", { length: 20 * MiB, headers })
      const sending = yield* Effect.forkScoped(pour(client, pieces(20 * MiB)))
      yield* until(() => client.socket.writableLength > 0)
      assert.isAtMost(yield* settled(() => client.given), 256 * 1024)
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(sending)
      assert.strictEqual((yield* answerOf(client)).text, String(20 * MiB))
    })
  )

  it.effect(
    "uploads stop while their handler has read enough for now",
    Effect.fnUntraced(function* () {
      let size = 0
      const headers = act((body: HttpSchema.Body) =>
        Stream.runForEach(body, (bytes) =>
          Effect.suspend(() => ((size += bytes.length) > 1_000_000 ? Effect.never : Effect.void))
        )
      )
      const client = yield* ask("/stage/upload", { length: 50 * MiB, headers })
      yield* Effect.forkScoped(pour(client, pieces(50 * MiB)))
      const given = yield* settled(() => client.given)
      const ahead = server === "layerNode, on a thread of its own" ? 4 : 1
      assert.isAtMost(given - size, ahead * 512 * 1024)
    })
  )

  it.effect(
    "uploads may be answered before they are read, and after a part of them",
    Effect.fnUntraced(function* () {
      for (const [method, work] of [
        ["upload", () => Effect.succeed("no")],
        ["upload", sizeOfFirst],
        ["transcribe", () => Stream.make("no")],
        ["transcribe", (body: HttpSchema.Body) => Stream.fromEffect(sizeOfFirst(body))]
      ] as const) {
        const client = yield* ask(`/stage/${method}`, { length: 200_000, headers: act(work) })
        client.write(bytesOf(100_000))
        const { status, text } = yield* answerOf(client)
        assert.strictEqual(status, 200, text)
        // The rest goes nowhere, and the connection is as good as before.
        client.write(bytesOf(100_000))
        client.next()
        client.ask("/stage/run", { headers: act(Effect.succeed("next")) })
        yield* until(() => client.answer.isComplete)
        assert.strictEqual(client.answer.text, '"next"', method)
      }
    })
  )

  it.effect(
    "uploads that are answered early don't make their client wait for the answer",
    Effect.fnUntraced(function* () {
      for (const length of [50 * MiB, "chunked"] as const) {
        const client = yield* ask("/stage/upload", { length, headers: act(() => Effect.succeed("no")) })
        yield* Effect.forkScoped(
          pour(client, length === "chunked" ? Array.from(pieces(50 * MiB), chunk) : pieces(50 * MiB))
        )
        yield* until(() => client.answer.isComplete)
        assert.deepInclude(client.answer, { status: 200, text: '"no"' })
        client.socket.destroy()
      }
    })
  )

  it.effect(
    "uploads must be of a type that the method names, if it does",
    Effect.fnUntraced(function* () {
      const headers = act(sizeOf)
      for (const [method, good, bad] of [
        ["upload", ["image/png", "a/b", undefined], []],
        ["listen", ["audio/wav", "Audio/X-Any; rate=1"], ["video/mp4", "audio", "audiox/wav", undefined]],
        ["look", ["image/png", "IMAGE/JPEG;q=1"], ["image/gif", "image/*", "image/png2", undefined]]
      ] as const) {
        const ask = (type: string | undefined) =>
          put(
            `/stage/${method}`,
            Buffer.from("abc"),
            type === undefined ? headers : { ...headers, "content-type": type }
          )
        for (const type of good) assert.deepInclude(yield* ask(type), { status: 200, body: 3 }, String(type))
        for (const type of bad) {
          const { body, status } = yield* ask(type)
          assert.strictEqual(status, 415, String(type))
          assert.include(body.message, method === "listen" ? "audio/*" : "image/png or image/jpeg")
        }
      }
    })
  )

  it.effect(
    "uploads may be answered by a stream while they go on",
    Effect.fnUntraced(function* () {
      const headers = act((body: HttpSchema.Body) =>
        Stream.map(body, (bytes) => Buffer.from(bytes).toString().toUpperCase())
      )
      const client = yield* ask("/stage/transcribe", { length: "chunked", headers })
      for (let i = 1; i <= 5; i++) {
        client.write(chunk(`word ${i}`))
        yield* until(() => client.answer.writes.length === i)
        assert.strictEqual(client.answer.writes[i - 1], `data: "WORD ${i}"\n\n`)
      }
      client.write(LAST_CHUNK)
      assert.isTrue((yield* answerOf(client)).isComplete)
      assert.isFalse(client.isClosed)
    })
  )

  it.effect(
    "uploads that break off interrupt their handler",
    Effect.fnUntraced(function* () {
      const works: ReadonlyArray<(body: HttpSchema.Body) => Effect.Effect<unknown, unknown>> = [
        Stream.runDrain,
        () => Effect.never
      ]
      for (const work of works) {
        const seen = { hasBegun: false, end: Exit.void as Exit.Exit<unknown, unknown> }
        const headers = act((body: HttpSchema.Body) => {
          seen.hasBegun = true
          return Effect.onExit(work(body), (exit) => Effect.sync(() => (seen.end = exit)))
        })
        const client = yield* ask("/counted/upload", { length: 1000, headers })
        client.write("x".repeat(500))
        yield* until(() => seen.hasBegun)
        client.socket.destroy()
        yield* until(() => Exit.isFailure(seen.end))
      }
      yield* untilCounted("/counted/upload", { 499: 2 })
    })
  )

  it.effect(
    "forms are their parts, in order",
    Effect.fnUntraced(function* () {
      const form = new FormData()
      form.append("title", "Sümmer")
      form.append("photo", new Blob([bytesOf(1000)], { type: "image/png" }), "naïve \u{1f600}.png")
      form.append("empty", "")
      form.append("photo", new Blob([bytesOf(100_000)]), "b.bin")
      form.append("last", "1")
      const { body, status } = yield* put("/stage/form", form, act(listed))
      assert.strictEqual(status, 200)
      assert.deepStrictEqual(body, [
        ["title", "Sümmer", "text/plain"],
        ["photo", "naïve \u{1f600}.png", "image/png", 1000],
        ["empty", "", "text/plain"],
        ["photo", "b.bin", "application/octet-stream", 100_000],
        ["last", "1", "text/plain"]
      ])
    })
  )

  it.effect(
    "forms are what was sent, whatever way it is cut",
    Effect.fnUntraced(function* () {
      const content = Buffer.concat([bytesOf(5000), Buffer.from(`\r\n--${BOUNDARY.slice(0, -1)}\r\n--`), bytesOf(100)])
      const form = Buffer.concat([
        Buffer.from(field("a", "1") + fileHead("f", "x")),
        content,
        Buffer.from(`\r\n${field("b", "2")}${FORM_END}`)
      ])
      const headers = {
        ...act((parts: Parts) =>
          parts.pipe(
            Stream.mapEffect((part): Effect.Effect<unknown, unknown> =>
              part._tag === "Field" ? Effect.succeed(part.value) : read(part.content)
            ),
            Stream.runCollect
          )
        ),
        ...formType
      }
      for (const size of [1, 7, form.length]) {
        const client = yield* ask("/stage/form", { length: form.length, headers })
        for (let at = 0; at < form.length; at += size) client.write(form.subarray(at, at + size))
        assert.deepStrictEqual(JSON.parse((yield* answerOf(client)).text), ["1", expected(content), "2"])
      }
    })
  )

  it.effect(
    "forms have files of any size, which are not kept, whether they are read or not",
    Effect.fnUntraced(function* () {
      for (const isRead of [true, false]) {
        const { count, look, seen } = watched()
        const headers = {
          ...act((parts: Parts) =>
            parts.pipe(
              Stream.mapEffect((part) => {
                if (part._tag === "Field") return Effect.succeed(part.value)
                return isRead ? Effect.as(Stream.runForEach(part.content, count), "read") : Effect.succeed("unread")
              }),
              Stream.tap(() => look),
              Stream.runCollect
            )
          ),
          ...formType
        }
        const head = Buffer.from(field("a", "1") + fileHead("f", "x"))
        const tail = Buffer.from(`\r\n${field("b", "2")}${FORM_END}`)
        const client = yield* ask("/stage/form", { length: head.length + 20 * MiB + tail.length, headers })
        yield* pour(client, [head])
        yield* pour(client, pieces(20 * MiB))
        yield* pour(client, [tail])
        const { text } = yield* answerOf(client)
        assert.deepStrictEqual(JSON.parse(text), ["1", isRead ? "read" : "unread", "2"])
        assert.isBelow(seen.peak, 10 * MiB)
        assert.isAtLeast(seen.looks, isRead ? 5 : 3)
      }
    })
  )

  it.effect(
    "forms are refused when they are none",
    Effect.fnUntraced(function* () {
      const whole = field("a", "1") + FORM_END
      for (const [type, form] of [
        [formType["content-type"], "nothing of the kind"],
        [formType["content-type"], field("a", "1")],
        [formType["content-type"], field("a", "1") + fileHead("f", "x") + "the end is missing"],
        [formType["content-type"], ""],
        ["multipart/form-data", whole],
        ['multipart/form-data; boundary=""', whole],
        ["multipart/form-data; boundary=other", whole]
      ] as const) {
        const { body, status } = yield* put("/stage/form", form, { ...act(listed), "content-type": type })
        assert.deepStrictEqual([status, body.reason?.why], [400, "malformed"], `${type} ${form}`)
        assert.include(body.message, "multipart/form-data")
      }
      const { status } = yield* post("/stage/form", {}, act(listed))
      assert.strictEqual(status, 415)
    })
  )

  it.effect(
    "forms have fields of at most a megabyte",
    Effect.fnUntraced(function* () {
      const most = yield* put("/stage/form", field("a", "x".repeat(MiB)) + FORM_END, { ...act(listed), ...formType })
      assert.strictEqual(most.status, 200)
      const more = yield* put("/stage/form", field("a", "x".repeat(MiB + 1)) + FORM_END, {
        ...act(listed),
        ...formType
      })
      assert.deepStrictEqual([more.status, more.body.reason.why], [413, "tooLarge"])
    })
  )
})

const bounded = { maxBodySize: 1000, maxUploadSize: 100_000, receiveTimeout: "500 millis" } as const

onEachServer("HTTP with bounds", bounded, (it) => {
  it.effect(
    "bodies are refused by what they say, before they come",
    Effect.fnUntraced(function* () {
      for (const [method, length, type] of [
        ["bytes", 1001, "a/b"],
        ["text", 1001, "text/plain"],
        ["run", 1001, "application/json"],
        ["upload", 100_001, "a/b"],
        ["form", 100_001, formType["content-type"]]
      ] as const) {
        let isCalled = false
        const id = act(() => Effect.sync(() => (isCalled = true)))
        const client = yield* ask(`/stage/${method}`, { length, headers: { ...id, "content-type": type } })
        const { status, text } = yield* answerOf(client)
        assert.strictEqual(status, 413, method)
        assert.include(JSON.parse(text).message, String(length - 1))
        assert.isFalse(isCalled)
      }
    })
  )

  it.effect(
    "bodies are refused when too much has come",
    Effect.fnUntraced(function* () {
      for (const [method, size, type] of [
        ["bytes", 1001, "a/b"],
        ["text", 1001, "text/plain"],
        ["upload", 100_001, "a/b"]
      ] as const) {
        const same = act((body: unknown) =>
          Stream.isStream(body) ? sizeOf(body as HttpSchema.Body) : Effect.succeed(body)
        )
        const headers = { ...same, "content-type": type }
        const most = yield* ask(`/stage/${method}`, { length: "chunked", headers })
        yield* pour(most, [chunk("x"), chunk("x".repeat(size - 2)), LAST_CHUNK])
        assert.strictEqual((yield* answerOf(most)).status, 200)
        const more = yield* ask(`/stage/${method}`, { length: "chunked", headers })
        yield* pour(more, [chunk("x"), chunk("x".repeat(size - 1))])
        assert.strictEqual((yield* answerOf(more)).status, 413, method)
      }
      const form = field("a", "x".repeat(60_000)) + field("b", "x".repeat(60_000)) + FORM_END
      const client = yield* ask("/stage/form", { length: "chunked", headers: { ...act(listed), ...formType } })
      yield* pour(client, [chunk(form), LAST_CHUNK])
      const { status, text } = yield* answerOf(client)
      assert.deepStrictEqual([status, JSON.parse(text).reason.why], [413, "tooLarge"])
    })
  )

  it.effect(
    "bodies are a failure that a handler may let pass",
    Effect.fnUntraced(function* () {
      const headers = act((body: HttpSchema.Body) =>
        Effect.catchReason(sizeOf(body), "ServeError", "BadUpload", ({ why }) => Effect.succeed(why))
      )
      const large = yield* ask("/stage/upload", { length: "chunked", headers })
      yield* pour(large, [chunk("x".repeat(100_001))])
      assert.deepInclude(yield* answerOf(large), { status: 200, text: '"tooLarge"' })
      const slow = yield* ask("/stage/upload", { length: 10, headers })
      slow.write("x")
      assert.deepInclude(yield* answerOf(slow), { status: 200, text: '"stalled"' })
    })
  )

  it.effect(
    "bodies have as long as the ingress says for each piece that a handler reads",
    Effect.fnUntraced(function* () {
      const client = yield* ask("/stage/upload", { length: 5, headers: act(sizeOf) })
      const stream = act((body: HttpSchema.Body) => Stream.map(body, ({ length }) => length))
      const duplex = yield* ask("/stage/transcribe", { length: 5, headers: stream })
      duplex.write("x")
      for (let i = 0; i < 4; i++) {
        client.write("x")
        yield* Effect.sleep(200)
      }
      assert.strictEqual(client.answer.status, 0)
      const { status, text } = yield* answerOf(client)
      assert.deepStrictEqual([status, JSON.parse(text).reason.why], [408, "stalled"])

      yield* until(() => duplex.isClosed)
      const [first, failure] = eventsOf(duplex.answer.text)
      assert.deepStrictEqual(first, { data: 1 })
      assert.deepInclude(errorOf(failure).reason, { _tag: "BadUpload", why: "stalled" })
    })
  )

  it.effect(
    "bodies have as long as the ingress says in all, where they are read before their handler begins",
    Effect.fnUntraced(function* () {
      const headers = { ...act(Effect.void), "content-type": "text/plain" }
      const clients = yield* Effect.forEach([{}, { "x-request-disconnect-disabled": "?1" }], (patience) =>
        ask("/stage/text", { length: 5, headers: { ...headers, ...patience } })
      )
      for (const client of clients) client.write("x")
      for (const client of clients) assert.strictEqual((yield* answerOf(client)).status, 408)
    })
  )
})
