/** Answers as they may come: in pieces of any size, from proxies, or cut off. */
import { assert, describe, it } from "@effect/vitest"
import { CallError, client } from "effect-serve/client"
import type { Stage } from "../ingress/http.ts"

const SSE = "text/event-stream"
const NDJSON = "application/x-ndjson"

/** A body that gives its pieces when it is asked, and then ends or fails. */
const bodyOf = (pieces: Iterable<Uint8Array<ArrayBuffer>>, failure?: Error) => {
  const seen = { pulled: 0, isCancelled: false }
  const iterator = pieces[Symbol.iterator]()
  const pull = (controller: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>) => {
    seen.pulled++
    const next = iterator.next()
    if (next.done !== true) controller.enqueue(next.value)
    else if (failure === undefined) controller.close()
    else controller.error(failure)
  }
  const cancel = () => void (seen.isCancelled = true)
  return { seen, body: new ReadableStream({ pull, cancel }, { highWaterMark: 0 }) }
}

const bytesOf = (text: string) => new TextEncoder().encode(text)
const cutIn = (text: string, size: number) => {
  const bytes = bytesOf(text)
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.slice(i * size, (i + 1) * size))
}

const answering = (body: ConstructorParameters<typeof Response>[0], type: string, init: ResponseInit = {}) =>
  client<typeof Stage>("http://stage.test", {
    retry: false,
    fetch: async () => new Response(body, { headers: { "content-type": type, "x-request-id": "r1" }, ...init })
  })

const read = async (type: string, pieces: Iterable<Uint8Array<ArrayBuffer>>, failure?: Error, events = false) => {
  const elements: Array<unknown> = []
  try {
    for await (const element of answering(bodyOf(pieces, failure).body, type).events(undefined, { events })) {
      elements.push(element)
    }
    return { elements }
  } catch (error) {
    assert.instanceOf(error, CallError)
    return { elements, error: (error as CallError).error, about: error as CallError }
  }
}

const errorOf = (call: PromiseLike<unknown>) =>
  call.then(
    () => assert.fail("it did not fail"),
    (error: CallError) => error
  )

const made = ["é \u{1f600}", { a: ["ü\n"] }, 1, null]
const wires = {
  [SSE]: made.map((element) => `data: ${JSON.stringify(element)}\n\n`).join(""),
  [NDJSON]: made.map((element) => `${JSON.stringify(element)}\n`).join("")
}

describe("the elements of a stream", () => {
  for (const type of [SSE, NDJSON] as const) {
    it(`are put together from pieces of any size, as ${type}`, async () => {
      for (const size of [1, 2, 3, 7, 1000]) {
        assert.deepStrictEqual(await read(type, cutIn(wires[type], size)), { elements: made }, String(size))
      }
      assert.deepStrictEqual(await read(`${type}; charset=utf-8`, cutIn(wires[type], 5)), { elements: made })
    })

    it(`are read when they are asked for, as ${type}`, async () => {
      const { body, seen } = bodyOf(cutIn(wires[type].repeat(100), bytesOf(wires[type]).length))
      const elements = answering(body, type).elements()[Symbol.asyncIterator]()
      for (let i = 0; i < 10; i++) await elements.next()
      assert.strictEqual(seen.pulled, 3, "ten elements are in three pieces of four")
      assert.isFalse(seen.isCancelled)
      await elements.return!()
      assert.isTrue(seen.isCancelled)
      assert.deepStrictEqual<unknown>(await elements.next(), { done: true, value: undefined })
    })

    it(`that end in the middle of one fail, as ${type}`, async () => {
      const cut = bytesOf(wires[type]).slice(0, -1)
      const { elements, error } = await read(type, [cut])
      assert.deepStrictEqual(elements, made.slice(0, -1))
      assert.deepInclude(error, { _tag: "NetworkError", sent: true })
    })

    it(`that break off fail, as ${type}`, async () => {
      const { about, elements, error } = await read(type, cutIn(wires[type], 1), new TypeError("terminated"))
      assert.deepStrictEqual(elements, made)
      assert.deepInclude(error, { _tag: "NetworkError", message: "terminated", sent: true })
      assert.deepInclude(about, { status: 200, requestId: "r1" })
      assert.instanceOf(about!.cause, TypeError)
    })

    it(`that are no JSON fail, as ${type}`, async () => {
      const broken = type === SSE ? "data: 1\n\ndata: <html>\n\n" : "1\n<html>\n"
      const { elements, error } = await read(type, cutIn(broken, 4))
      assert.deepStrictEqual(elements, [1])
      assert.deepInclude(error, { _tag: "BadAnswer", body: type === SSE ? "" : "<html>" })
    })
  }

  it("have no heartbeats between them", async () => {
    const text = ": still here\n\ndata: 1\n\n:\n\n: still here\n\ndata: 2\n\n: still here\n\n"
    for (const size of [1, 5, 1000]) assert.deepStrictEqual(await read(SSE, cutIn(text, size)), { elements: [1, 2] })
  })

  it("may have lines that end as the standard allows", async () => {
    const text = 'id: 1\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata:2\n\nretry: 5\n\n'
    for (const size of [1, 5, 1000]) {
      assert.deepStrictEqual(await read(SSE, cutIn(text, size)), { elements: [{ a: 1 }, 2] })
    }
  })

  it("are events with names and ids where they are said to be", async () => {
    const text = "id: a: b \nevent: tick\ndata: 1\n\ndata: 2\n\nid: \ndata: 3\n\n"
    const { elements } = await read(SSE, cutIn(text, 3), undefined, true)
    assert.deepStrictEqual(elements, [{ data: 1, id: "a: b ", event: "tick" }, { data: 2 }, { data: 3, id: "" }])
  })

  it("end with the error that an event tells of", async () => {
    for (const events of [false, true]) {
      const text = 'data: 1\n\nevent: error\ndata: {"_tag":"Lost","id":5}\n\n'
      const { about, elements, error } = await read(SSE, cutIn(text, 3), undefined, events)
      assert.deepStrictEqual(elements, events ? [{ data: 1 }] : [1])
      assert.deepStrictEqual<unknown>(error, { _tag: "Lost", id: 5 })
      assert.deepInclude(about, { status: 200, requestId: "r1" })
    }
  })

  it("end with the error that a last line tells of, but only where the connection breaks off after it", async () => {
    const text = '1\n{"error":{"_tag":"Lost","id":5}}\n'
    const lost = { _tag: "Lost", id: 5 }
    for (const size of [1, 1000]) {
      const failed = await read(NDJSON, cutIn(text, size), new TypeError("terminated"))
      assert.deepStrictEqual<unknown>([failed.elements, failed.error], [[1], lost])
      assert.deepStrictEqual(await read(NDJSON, cutIn(text, size)), { elements: [1, { error: lost }] })
      const more = await read(NDJSON, cutIn(`${text}2\n`, size), new TypeError("terminated"))
      assert.deepStrictEqual(more.elements, [1, { error: lost }, 2])
      assert.deepInclude(more.error, { _tag: "NetworkError" })
    }
  })

  it("come once, whoever asks", async () => {
    const call = answering(wires[SSE], SSE).elements()
    assert.strictEqual(call[Symbol.asyncIterator](), call[Symbol.asyncIterator]())
    const first: Array<unknown> = []
    for await (const element of call) if (first.push(element) === 2) break
    const rest: Array<unknown> = []
    for await (const element of call) rest.push(element)
    assert.deepStrictEqual([first, rest], [made.slice(0, 2), []])
  })

  it("of text are decoded across pieces, and those of bytes are not", async () => {
    const poem = await read("text/plain", cutIn("é\u{1f600}ü", 1))
    assert.deepStrictEqual(poem, { elements: ["é", "\u{1f600}", "ü"] })
    assert.deepStrictEqual(await read("audio/wav", cutIn("abc", 2)), { elements: [bytesOf("ab"), bytesOf("c")] })
    assert.deepInclude((await read("text/plain", cutIn("abc", 2), new Error("cut"))).error, { _tag: "NetworkError" })
  })
})

describe("an answer", () => {
  it("of text or of bytes is what its type says", async () => {
    const text = answering("ä", "text/csv; charset=utf-8").run()
    assert.deepStrictEqual(await Promise.all([text, text, text.result()]), ["ä", "ä", { ok: true, value: "ä" }])
    assert.strictEqual(await answering("<a/>", "image/svg+xml").run(), "<a/>")
    assert.deepStrictEqual<unknown>(await answering("ab", "image/png").run(), bytesOf("ab"))
    assert.strictEqual(await answering('"a"', "application/json; charset=utf-8").run(), "a")
  })

  it("that breaks off fails", async () => {
    for (const type of ["application/json", "text/plain", "image/png"]) {
      const { body } = bodyOf([bytesOf("1")], new TypeError("terminated"))
      assert.deepInclude((await errorOf(answering(body, type).run())).error, { _tag: "NetworkError", sent: true })
    }
  })

  it("that is not of an ingress is a bad one", async () => {
    const page = await errorOf(answering(`<h1>${"x".repeat(2000)}`, "text/html", { status: 502 }).run())
    assert.deepInclude(page.error, { _tag: "BadAnswer", body: `<h1>${"x".repeat(996)}` })
    assert.strictEqual(page.status, 502)
    const json = { status: 503, headers: { "content-type": "application/json" } }
    const other = await errorOf(answering('{"message":"no upstream"}', "", json).run())
    assert.deepInclude(other.error, { _tag: "BadAnswer", body: '{"message":"no upstream"}' })
    assert.deepInclude((await errorOf(answering("{", "application/json").run())).error, {
      _tag: "BadAnswer",
      body: "{"
    })
  })

  it("may be a declared error without a tag", async () => {
    const headers = { "content-type": "application/json" }
    const init = { status: 500, headers: { ...headers, "x-request-id": "r2" } }
    const { error, message, requestId } = await errorOf(answering('"oops"', "", init).run())
    assert.deepStrictEqual<unknown>([error, message, requestId], ["oops", '"oops"', "r2"])
    const other = await errorOf(answering('"oops"', "", { status: 500, headers }).run())
    assert.deepInclude(other.error, { _tag: "BadAnswer", body: '"oops"' })
  })

  it("that comes once is no stream", async () => {
    const elements = answering("1", "application/json").elements()[Symbol.asyncIterator]()
    assert.deepInclude((await errorOf(elements.next())).error, { _tag: "BadAnswer" })
  })
})
