/**
 * Streams over HTTP, on all servers: their forms, how they fail, how they wait for their reader, and how long they may take.
 *
 * Each of these mutations has been seen to fail a test here. Forms: lines where both are liked equally; no `id` of an event; names and ids
 * of several lines; text as JSON; a GET refused to an EventSource, or granted to anybody; no `lastEventId` for the handler; an empty stream
 * taken for a failure. Failures: the message of a defect in the answer; a failure taken for the end; a connection left open after an error
 * event; lines ended well after an error, or events broken off; what was not yet sent dropped with the connection, or its taking not waited
 * for; a connection kept for a client that doesn't close its side. Readers: every element sent alone; sending put off by 60 ms; no waiting
 * for room; a stalled client never given up, or one that is only slow; a quiet handler never given up; no heartbeat, or one between lines.
 * Permits and times: `releasePermit` unknown to the router in the server's thread; `requestTimeout` for the whole of a stream; no time to
 * finish at shutdown, or no word when it is over. Counts: a stream counted at its start too; a stalled client counted twice.
 */
import { assert, describe, it } from "@effect/vitest"
import { RequestContext, ServeError } from "effect-serve"
import { type Cause, Effect, Exit, Fiber, Layer, Queue, Scope, Stream } from "effect"
import {
  act,
  apps,
  ask,
  type Client,
  Early,
  errorOf,
  eventsOf,
  linesOf,
  Lost,
  onEachServer,
  post,
  send,
  settled,
  Solo,
  timeUntil,
  until,
  untilCounted,
  untilRunning
} from "./http.ts"

const lines = { accept: "application/x-ndjson" }
const events = { accept: "text/event-stream" }

/** Elements that come one by one. */
const ones = (count: number) => Stream.rechunk(Stream.range(1, count), 1)
const thenFailing = (error: unknown) => Stream.concat(ones(2), Stream.fail(error))
const thenDying = Stream.concat(ones(2), Stream.die(new Error("the password is 1234")))

/** Elements without end, of so many bytes, and how many there have been. */
const endless = (bytes: number) => {
  const element = "x".repeat(bytes)
  const seen = { made: 0, isStopped: false }
  const make = Effect.sync(() => {
    seen.made++
    return element
  })
  return {
    seen,
    stream: Stream.fromEffectRepeat(make).pipe(
      Stream.rechunk(1),
      Stream.ensuring(Effect.sync(() => (seen.isStopped = true)))
    )
  }
}

/** Says when the elements come. */
const fed = Effect.map(Queue.unbounded<unknown, Cause.Done>(), (queue) => ({
  stream: Stream.fromQueue(queue),
  give: (element: unknown) => Queue.offer(queue, element),
  end: Queue.end(queue)
}))

const get = (path: string, headers: Record<string, string>) => send(path, { headers })

const bodyOf = (client: Client) =>
  Effect.map(
    until(() => client.answer.isComplete || client.isClosed),
    () => client.answer
  )

onEachServer("streams over HTTP", {}, (it, server) => {
  it.effect(
    "are server-sent events, unless lines are asked for",
    Effect.fnUntraced(function* () {
      const id = act(ones(2))
      const asEvents = [
        undefined,
        "text/event-stream",
        "*/*",
        "text/*",
        "text/event-stream, application/x-ndjson",
        "application/x-ndjson;q=0.5, */*"
      ]
      for (const accept of asEvents) {
        const { headers, status, text } = yield* post(
          "/stage/elements",
          "",
          accept === undefined ? id : { ...id, accept }
        )
        assert.deepStrictEqual(
          [status, headers.get("content-type"), text],
          [200, "text/event-stream", "data: 1\n\ndata: 2\n\n"],
          accept
        )
        assert.strictEqual(headers.get("cache-control"), "no-cache, no-transform")
        assert.strictEqual(headers.get("x-accel-buffering"), "no")
        assert.strictEqual(headers.get("x-request-id"), id["x-request-id"])
      }
      const asLines = [
        "application/x-ndjson",
        "application/*",
        "text/event-stream;q=0.5, application/x-ndjson;q=0.6",
        "*/*;q=0.1, application/X-NDJSON",
        "text/event-stream;q=0, */*"
      ]
      for (const accept of asLines) {
        const { headers, text } = yield* post("/stage/elements", "", { ...id, accept })
        assert.deepStrictEqual([headers.get("content-type"), text], ["application/x-ndjson", "1\n2\n"], accept)
      }
    })
  )

  it.effect(
    "can be had in no other form",
    Effect.fnUntraced(function* () {
      for (const accept of ["text/html", "application/json", "*/*;q=0", "text/event-stream;q=2", ""]) {
        const { body, status } = yield* post("/stage/elements", "", { ...act(ones(1)), accept })
        assert.deepStrictEqual([status, body._tag], [406, "NotAcceptable"], accept)
      }
    })
  )

  it.effect(
    "of events have names and ids beside the data, and in it where there is one line for each",
    Effect.fnUntraced(function* () {
      const made = [{ data: { n: 1 }, id: "7", event: "tick" }, { data: null }, { data: "x", event: "tock" }]
      const id = act(Stream.fromIterable(made))
      const { text } = yield* post("/stage/events", "", id)
      assert.strictEqual(text, 'id: 7\nevent: tick\ndata: {"n":1}\n\ndata: null\n\nevent: tock\ndata: "x"\n\n')
      assert.deepStrictEqual(linesOf((yield* post("/stage/events", "", { ...id, ...lines })).text), made)
    })
  )

  it.effect(
    "don't let an id or a name of an event write lines of its own",
    Effect.fnUntraced(function* () {
      for (const made of [
        { data: 1, id: "1\ndata: 2" },
        { data: 1, event: "a\rb" }
      ]) {
        assert.strictEqual((yield* post("/stage/events", "", act(Stream.make(made)))).status, 500)
      }
    })
  )

  it.effect(
    "carry any text, of any size, as it is",
    Effect.fnUntraced(function* () {
      const made = ["a\nb\r\nc\rd\n\n", "é \u2028 \u{1f600} \u0000", "", "ü".repeat(1_000_000), { "data: ": ["\n"] }]
      for (const stream of [Stream.fromIterable(made), Stream.rechunk(Stream.fromIterable(made), 1)]) {
        const id = act(stream)
        const read = eventsOf((yield* post("/stage/elements", "", id)).text)
        assert.deepStrictEqual(
          read.map(({ data }) => data),
          made
        )
        assert.deepStrictEqual(linesOf((yield* post("/stage/elements", "", { ...id, ...lines })).text), made)
      }
    })
  )

  it.effect(
    "of text and of bytes are sent as they are, whatever is accepted",
    Effect.fnUntraced(function* () {
      const poem = yield* post("/stage/poem", "", { ...act(Stream.make("ro", "ses\n", "", "ü")), ...events })
      assert.deepStrictEqual([poem.headers.get("content-type"), poem.text], ["text/plain", "roses\nü"])
      const made = Uint8Array.from({ length: 256 }, (_, i) => i)
      const client = yield* ask("/stage/speech", { headers: act(Stream.make(made, made.subarray(0, 0), made)) })
      const { bytes, headers } = yield* bodyOf(client)
      assert.strictEqual(headers["content-type"], "audio/wav")
      assert.deepStrictEqual(bytes, Buffer.concat([made, made]))
    })
  )

  it.effect(
    "may be empty, and leave their connection to the next request",
    Effect.fnUntraced(function* () {
      const client = yield* ask("/stage/elements", { headers: act(Stream.empty) })
      const empty = yield* bodyOf(client)
      assert.deepStrictEqual([empty.status, empty.text, empty.isComplete], [200, "", true])
      for (const headers of [act(ones(2)), act(Stream.empty), { ...act(ones(2)), ...lines }]) {
        client.next()
        client.ask("/stage/elements", { headers })
        assert.deepInclude(yield* bodyOf(client), { status: 200, isComplete: true })
      }
      assert.strictEqual(client.answer.text, "1\n2\n")
      assert.isFalse(client.isClosed)
    })
  )

  it.effect(
    "tell the handler which event a reader has got last",
    Effect.fnUntraced(function* () {
      const id = act(
        Stream.fromEffect(Effect.map(RequestContext.RequestContext, ({ lastEventId }) => lastEventId ?? null))
      )
      const { text } = yield* post("/stage/elements", "", { ...id, "last-event-id": "41" })
      assert.strictEqual(text, 'data: "41"\n\n')
      assert.strictEqual((yield* post("/stage/elements", "", id)).text, "data: null\n\n")
      assert.strictEqual((yield* post("/stage/elements", "", { ...id, "last-event-id": "x".repeat(257) })).status, 400)
    })
  )

  it.effect(
    "can be read by an EventSource, which has its payload in the URL",
    Effect.fnUntraced(function* () {
      const id = act(({ to }) => ones(to))
      const payload = `payload=${encodeURIComponent('{"to":3}')}`
      const read = yield* get(`/stage/count?x=1&${payload}`, { ...id, ...events })
      assert.deepStrictEqual([read.status, read.text], [200, "data: 1\n\ndata: 2\n\ndata: 3\n\n"])
      const none = yield* get("/stage/elements", { ...act((payload) => Stream.make(payload)), ...events })
      assert.deepStrictEqual([none.status, none.text], [200, "data: null\n\n"])

      const wrong = yield* get("/stage/count?payload=%7B%7D", { ...id, ...events })
      assert.deepStrictEqual([wrong.status, wrong.body.issues[0].path], [400, "to"])
      assert.strictEqual((yield* get("/stage/count?payload=%7B", { ...id, ...events })).status, 400)
    })
  )

  it.effect(
    "take no other verb",
    Effect.fnUntraced(function* () {
      const refusals: ReadonlyArray<readonly [verb: string, method: string, accept: string, allow: string]> = [
        ["GET", "elements", "*/*", "GET, POST"],
        ["GET", "elements", "application/x-ndjson", "GET, POST"],
        ["HEAD", "elements", "text/event-stream", "GET, POST"],
        ["PUT", "elements", "text/event-stream", "GET, POST"],
        ["GET", "speech", "text/event-stream", "POST"],
        ["GET", "transcribe", "text/event-stream", "POST"],
        ["GET", "run", "text/event-stream", "POST"]
      ]
      for (const [verb, method, accept, allow] of refusals) {
        const { headers, status } = yield* send(`/stage/${method}`, { method: verb, headers: { accept } })
        assert.deepStrictEqual([status, headers.get("allow")], [405, allow], `${verb} ${method}`)
      }
    })
  )

  it.effect(
    "that fail before their first element have the answer that any failure has",
    Effect.fnUntraced(function* () {
      for (const form of [events, lines]) {
        const lost = yield* post("/stage/elements", "", { ...act(Stream.fail(new Lost({ id: 1 }))), ...form })
        assert.deepStrictEqual([lost.status, lost.body], [404, { _tag: "Lost", id: 1 }])
        assert.strictEqual(lost.headers.get("content-type"), "application/json")

        const late = yield* post("/stage/elements", "", {
          ...act(Stream.never),
          ...form,
          "x-request-timeout-ms": "200"
        })
        assert.deepStrictEqual([late.status, late.body.reason._tag], [504, "DeadlineExceeded"])

        const defect = { ...act(Stream.die(new Error("the password is 1234"))), ...form }
        const broken = yield* post("/stage/elements", "", defect)
        assert.deepStrictEqual(
          [broken.status, broken.body],
          [500, { _tag: "InternalServerError", requestId: defect["x-request-id"] }]
        )
        const unfit = yield* post("/stage/letters", "", { ...act(Stream.make("c")), ...form })
        assert.deepStrictEqual([unfit.status, unfit.body._tag], [500, "InternalServerError"])

        const wrong = yield* post("/stage/count", { to: "two" }, { ...act(ones(1)), ...form })
        assert.deepStrictEqual([wrong.status, wrong.body.issues[0].path], [400, "to"])
        const noJson = yield* post("/stage/count", "{", { ...act(ones(1)), ...form })
        assert.deepStrictEqual([noJson.status, noJson.body.message], [400, "The body is not JSON"])
      }
    })
  )

  it.effect(
    "that fail later on say so in a last event, and close the connection",
    Effect.fnUntraced(function* () {
      const draining = new ServeError.ServeError({
        reason: new ServeError.Unavailable({ deployment: "Other", why: "draining" })
      })
      for (const [stream, last] of [
        [thenFailing(new Lost({ id: 5 })), { _tag: "Lost", id: 5 }],
        [thenFailing(draining), { _tag: "ServeError" }],
        [Stream.concat(ones(2), Stream.fail("not declared")), { _tag: "InternalServerError" }],
        [thenDying, { _tag: "InternalServerError" }]
      ] as const) {
        const client = yield* ask("/stage/elements", { headers: act(stream) })
        yield* until(() => client.isClosed)
        const { status, text } = client.answer
        const [one, two, failure, ...more] = eventsOf(text)
        assert.deepStrictEqual([status, one, two, more], [200, { data: 1 }, { data: 2 }, []])
        assert.strictEqual(failure?.event, "error")
        assert.deepInclude(failure?.data as object, last)
        assert.notInclude(text, "password")
      }
      const { text } = yield* post("/stage/letters", "", act(Stream.rechunk(Stream.make("a", "c"), 1)))
      assert.deepInclude(eventsOf(text)[1], { event: "error" })
    })
  )

  it.effect(
    "that fail later on say so in a last line, and break off",
    Effect.fnUntraced(function* () {
      for (const [stream, last] of [
        [thenFailing(new Lost({ id: 5 })), { _tag: "Lost", id: 5 }],
        [thenDying, { _tag: "InternalServerError" }]
      ] as const) {
        const client = yield* ask("/stage/elements", { headers: { ...act(stream), ...lines } })
        yield* until(() => client.isClosed)
        const { isComplete, text } = client.answer
        const [one, two, failure, ...more] = linesOf(text)
        assert.deepStrictEqual([one, two, more, isComplete], [1, 2, [], false])
        assert.deepInclude(failure.error, last)
        assert.notInclude(text, "password")
      }
    })
  )

  it.effect(
    "of text and of bytes that fail break off, and say nothing",
    Effect.fnUntraced(function* () {
      const failure = Stream.fail(new Lost({ id: 1 }))
      for (const [method, stream] of [
        ["poem", Stream.concat(Stream.make("roses"), failure)],
        ["speech", Stream.concat(Stream.make(Buffer.from("roses")), failure)]
      ] as const) {
        const client = yield* ask(`/stage/${method}`, { headers: act(stream) })
        yield* until(() => client.isClosed)
        assert.deepInclude(client.answer, { text: "roses", isComplete: false })
      }
    })
  )

  it.effect(
    "that fail have sent to a late reader all that there was before",
    Effect.fnUntraced(function* () {
      const element = "x".repeat(16_000)
      const count = 400
      const stream = Stream.concat(
        Stream.rechunk(Stream.fromIterable(Array.from({ length: count }, () => element)), 1),
        Stream.fail(new Lost({ id: 1 }))
      )
      for (const form of [events, lines]) {
        const client = yield* ask("/stage/elements", { headers: { ...act(stream), ...form } })
        client.socket.pause()
        yield* settled(() => client.kernel)
        while (!client.isClosed) {
          const before = client.size
          client.socket.resume()
          yield* until(() => client.size > before + 1_000_000 || client.isClosed)
          client.socket.pause()
          if (client.isClosed) break
          yield* Effect.sleep(5)
        }
        const { text } = client.answer
        const read = form === events ? eventsOf(text) : linesOf(text)
        assert.strictEqual(read.length, count + 1)
        assert.include(JSON.stringify(read.at(-1)), "Lost")
      }
    })
  )

  it.effect(
    "send together what is ready together",
    Effect.fnUntraced(function* () {
      for (const [stream, most] of [
        [Stream.range(1, 100), 2],
        [Stream.range(1, 4000), 4],
        [ones(100), server === "layerNode, on a thread of its own" ? 50 : 4]
      ] as const) {
        const client = yield* ask("/stage/elements", { headers: act(stream) })
        const { writes } = yield* bodyOf(client)
        assert.isAtMost(writes.length, most)
      }
    })
  )

  it.effect(
    "send at once what is ready alone",
    Effect.fnUntraced(function* () {
      for (const form of [events, lines]) {
        const { give, stream } = yield* fed
        yield* give(0)
        const client = yield* ask("/stage/elements", { headers: { ...act(stream), ...form } })
        yield* until(() => client.answer.writes.length === 1)
        const times: Array<number> = []
        for (let i = 1; i <= 7; i++) {
          yield* give(i)
          times.push(yield* timeUntil(() => client.answer.writes.length === i + 1))
        }
        assert.isBelow(Math.min(...times), 50)
      }
    })
  )

  it.effect(
    "hold a permit to their end",
    Effect.fnUntraced(function* () {
      const { end, give, stream } = yield* fed
      yield* give(1)
      const client = yield* ask("/solo/elements", { headers: act(stream) })
      yield* until(() => client.answer.writes.length === 1)
      const refused = yield* post("/solo/elements", "", act(ones(1)))
      assert.deepStrictEqual([refused.status, refused.body.reason._tag], [503, "QueueFull"])
      assert.isAtLeast(Number(refused.headers.get("retry-after")), 1)
      yield* give(2)
      yield* end
      assert.strictEqual((yield* bodyOf(client)).text, "data: 1\n\ndata: 2\n\n")
      yield* untilRunning(Solo.state, 0)
      assert.strictEqual((yield* post("/solo/elements", "", act(ones(1)))).text, "data: 1\n\n")
    })
  )

  it.effect(
    "hold it only to their first element, where the deployment says so",
    Effect.fnUntraced(function* () {
      const { give, stream } = yield* fed
      const first = yield* ask("/early/elements", { headers: act(stream) })
      yield* untilRunning(Early.state, 1)
      assert.strictEqual((yield* post("/early/elements", "", act(ones(1)))).status, 503)
      yield* give(1)
      yield* until(() => first.answer.writes.length === 1)
      assert.strictEqual((yield* post("/early/elements", "", act(ones(1)))).text, "data: 1\n\n")
      yield* give(2)
      yield* until(() => first.answer.text === "data: 1\n\ndata: 2\n\n")
    })
  )

  it.effect(
    "have as long as the client says, in all",
    Effect.fnUntraced(function* () {
      const slow = Stream.tick("40 millis").pipe(Stream.as("x"))
      for (const form of [events, lines]) {
        const client = yield* ask("/stage/elements", {
          headers: { ...act(slow), ...form, "x-request-timeout-ms": "250" }
        })
        yield* until(() => client.isClosed)
        const { text } = client.answer
        const failure = form === events ? errorOf(eventsOf(text).at(-1)) : linesOf(text).at(-1).error
        assert.deepInclude(failure.reason, { _tag: "DeadlineExceeded", stage: "stream" })
      }
    })
  )

  it.effect(
    "have as long as the deployment says for their first element alone",
    Effect.fnUntraced(function* () {
      const late = yield* post("/hasty/elements", "", act(Stream.never))
      assert.deepStrictEqual([late.status, late.body.reason.stage], [504, "handler"])
      const slow = Stream.concat(ones(1), Stream.fromEffect(Effect.delay(Effect.succeed(2), "300 millis")))
      assert.strictEqual((yield* post("/hasty/elements", "", act(slow))).text, "data: 1\n\ndata: 2\n\n")
    })
  )

  it.effect(
    "are made no further while their reader doesn't read",
    Effect.fnUntraced(function* () {
      const { seen, stream } = endless(1000)
      const client = yield* ask("/stage/elements", { headers: act(stream) })
      client.socket.pause()
      const made = yield* settled(() => seen.made, 200)
      // An element is 1010 bytes, as an event.
      const held = made * 1010 - client.taken - client.kernel
      // An HttpServer of Effect's keeps some more, which is not ours to say.
      assert.isAtMost(held, (server === "layer" ? 96 : 64) * 1024)
      client.socket.resume()
      yield* until(() => seen.made > made + 1000)
      client.socket.destroy()
      yield* until(() => seen.isStopped)
    })
  )

  it.effect(
    "are counted once, when they end, as what they end with",
    Effect.fnUntraced(function* () {
      const client = yield* ask("/counted/elements", { headers: act(Stream.concat(ones(1), Stream.never)) })
      yield* until(() => client.answer.writes.length === 1)
      client.socket.destroy()
      const unsaid = { accept: "text/html" }
      const late = { "x-request-timeout-ms": "200" }
      yield* post("/counted/elements", "", act(ones(2)))
      yield* post("/counted/elements", "", act(Stream.empty))
      yield* post("/counted/elements", "", act(Stream.fail(new Lost({ id: 1 }))))
      yield* post("/counted/elements", "", act(thenFailing(new Lost({ id: 1 }))))
      yield* post("/counted/elements", "", act(thenDying))
      yield* post("/counted/elements", "", { ...act(Stream.concat(ones(1), Stream.never)), ...late })
      yield* post("/counted/elements", "", { ...act(ones(1)), ...unsaid })
      yield* untilCounted("/counted/elements", { 200: 2, 404: 2, 406: 1, 499: 1, 500: 1, 504: 1 })
    })
  )
})

const impatient = {
  heartbeatInterval: "60 millis",
  stallTimeout: "600 millis",
  streamIdleTimeout: "1200 millis"
} as const

onEachServer("streams over HTTP that may not be quiet", impatient, (it) => {
  it.effect(
    "say that they are alive while they are quiet, where that is possible",
    Effect.fnUntraced(function* () {
      const { end, give, stream } = yield* fed
      yield* give(1)
      const id = act(stream)
      const client = yield* ask("/stage/elements", { headers: { ...id, ...events } })
      yield* until(() => client.answer.writes.length >= 5)
      yield* give(2)
      yield* until(() => client.answer.text.includes("data: 2"))
      yield* end
      const { isComplete, text } = yield* bodyOf(client)
      const read = eventsOf(text)
      assert.deepStrictEqual(
        read.filter(({ comment }) => comment === undefined),
        [{ data: 1 }, { data: 2 }]
      )
      assert.isTrue(isComplete)
    })
  )

  it.effect(
    "say nothing while they are lively, nor ever as lines",
    Effect.fnUntraced(function* () {
      const lively = Stream.tick("10 millis").pipe(Stream.as(1), Stream.take(30))
      const { text } = yield* post("/stage/elements", "", act(lively))
      assert.isBelow(eventsOf(text).filter(({ comment }) => comment !== undefined).length, 5)
      const quiet = Stream.concat(ones(1), Stream.fromEffect(Effect.delay(Effect.succeed(2), "250 millis")))
      assert.strictEqual((yield* post("/stage/elements", "", { ...act(quiet), ...lines })).text, "1\n2\n")
    })
  )

  it.effect(
    "end with a client that takes nothing for too long",
    Effect.fnUntraced(function* () {
      const { seen, stream } = endless(10_000)
      const client = yield* ask("/solo/elements", { headers: act(stream) })
      client.socket.pause()
      yield* until(() => seen.isStopped)
      yield* untilRunning(Solo.state, 0)
      assert.strictEqual((yield* post("/solo/elements", "", act(ones(1)))).status, 200)
      client.socket.resume()
      yield* until(() => client.isClosed)
      assert.isFalse(client.answer.isComplete)
      yield* untilCounted("/solo/elements", { 200: 1, 499: 1 })
    })
  )

  it.effect(
    "don't end with a client that is only slow",
    Effect.fnUntraced(function* () {
      const { seen, stream } = endless(10_000)
      const client = yield* ask("/stage/elements", { headers: act(stream) })
      const end = performance.now() + 1500
      while (performance.now() < end) {
        const before = client.size
        client.socket.resume()
        yield* until(() => client.size > before + 500_000 || client.isClosed)
        client.socket.pause()
        yield* Effect.sleep(30)
      }
      assert.isFalse(seen.isStopped)
      assert.isFalse(client.isClosed)
      client.socket.destroy()
      yield* until(() => seen.isStopped)
    })
  )

  it.effect(
    "that broke off don't keep a connection that the client doesn't close",
    Effect.fnUntraced(function* () {
      for (const form of [events, lines]) {
        const client = yield* ask("/stage/elements", { headers: { ...act(thenDying), ...form }, halfOpen: true })
        yield* until(() => client.hasEnded)
        // Node would keep it for 5 seconds and more.
        assert.isBelow(yield* timeUntil(() => !client.isKept, 20), 4000)
      }
    })
  )

  it.effect(
    "end when their handler gives nothing for too long",
    Effect.fnUntraced(function* () {
      let isStopped = false
      const quiet = Stream.concat(ones(1), Stream.never).pipe(Stream.ensuring(Effect.sync(() => (isStopped = true))))
      const client = yield* ask("/stage/elements", { headers: act(quiet) })
      yield* until(() => client.isClosed)
      const failure = errorOf(eventsOf(client.answer.text).at(-1))
      assert.deepInclude(failure.reason, { _tag: "DeadlineExceeded", deployment: "Stage", stage: "stream" })
      yield* until(() => isStopped)
    })
  )
})

describe("streams over HTTP at shutdown", () => {
  for (const { App, name } of apps({}, "1000 millis")) {
    it.live(
      `may end, on ${name}`,
      Effect.fnUntraced(function* () {
        const scope = yield* Scope.make()
        const context = yield* Layer.buildWithScope(App, scope)
        const { end, give, stream } = yield* fed
        yield* give(1)
        const client = yield* Effect.provideContext(ask("/stage/elements", { headers: act(stream) }), context)
        yield* until(() => client.answer.writes.length === 1)
        const stopping = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
        yield* Effect.sleep(50)
        yield* give(2)
        yield* end
        assert.deepInclude(yield* bodyOf(client), { text: "data: 1\n\ndata: 2\n\n", isComplete: true })
        client.socket.destroy()
        yield* Fiber.join(stopping)
      })
    )
  }

  for (const { App, name } of apps({}, "50 millis")) {
    // A server that is not the ingress's own breaks them off before the ingress can say anything.
    it.live(
      name === "layer" ? "that go on break off, on layer" : `that go on are told that it is over, on ${name}`,
      Effect.fnUntraced(function* () {
        const scope = yield* Scope.make()
        const context = yield* Layer.buildWithScope(App, scope)
        const headers = act(Stream.concat(ones(1), Stream.never))
        const asEvents = yield* Effect.provideContext(ask("/stage/elements", { headers: headers }), context)
        const asLines = yield* Effect.provideContext(
          ask("/stage/elements", { headers: { ...headers, ...lines } }),
          context
        )
        yield* until(() => asEvents.answer.writes.length === 1 && asLines.answer.writes.length === 1)
        yield* Scope.close(scope, Exit.void)
        yield* until(() => asEvents.isClosed && asLines.isClosed)
        assert.isFalse(asLines.answer.isComplete)
        if (name === "layer") {
          assert.deepInclude(asEvents.answer, { text: "data: 1\n\n", isComplete: false })
          assert.strictEqual(asLines.answer.text, "1\n")
          return
        }
        const draining = { _tag: "Unavailable", deployment: "Stage", why: "draining" }
        const [, event] = eventsOf(asEvents.answer.text)
        assert.strictEqual(event?.event, "error")
        assert.deepInclude(errorOf(event).reason, draining)
        assert.deepInclude(linesOf(asLines.answer.text)[1].error.reason, draining)
      })
    )
  }
})
