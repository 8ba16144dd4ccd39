/** What is tried again, when, and how often; without a server, and in no time. */
import { afterEach, assert, beforeEach, describe, it, vi } from "@effect/vitest"
import { CallError, client, type ClientOptions } from "effect-serve/client"
import type { Stage } from "../ingress/http.ts"

const json =
  (status: number, body: unknown, headers: Record<string, string> = {}) =>
  () =>
    Promise.resolve(Response.json(body, { status, headers }))

const refused = (reason: object, headers?: Record<string, string>) =>
  json(503, { _tag: "ServeError", reason: { deployment: "Stage", ...reason }, requestId: "r", message: "" }, headers)

/** A request that is never answered. */
const unanswered = (_: string, { signal }: RequestInit) =>
  new Promise<Response>((_, reject) => signal!.addEventListener("abort", () => reject(signal!.reason)))

const full = refused({ _tag: "QueueFull", retryAfter: 1000 })
const well = json(200, 42)
const lost = () => Promise.reject(new TypeError("fetch failed", { cause: new Error("reset") }))
const unsent = (code: string) => () =>
  Promise.reject(new TypeError("fetch failed", { cause: Object.assign(new Error("no"), { code }) }))
const page = (status: number) => () => Promise.resolve(new Response("<html>", { status }))

/** A client whose requests are answered in this order, and when they came. */
const answered = (answers: ReadonlyArray<() => Promise<Response>>, options: ClientOptions<"Stage"> = {}) => {
  const start = performance.now()
  const times: Array<number> = []
  const requests: Array<RequestInit> = []
  const fetch = (_: string, init: RequestInit) => {
    times.push(Math.round(performance.now() - start))
    requests.push(init)
    return (answers[times.length - 1] ?? answers.at(-1)!)()
  }
  return { times, requests, stage: client<typeof Stage>("http://stage.test/", { fetch, ...options }) }
}

/** Lets all timers go off in their turn, and gives what comes of a call. */
const outcome = async (call: { result(): Promise<{ readonly ok: boolean }> }): Promise<any> => {
  const result = call.result()
  await vi.advanceTimersByTimeAsync(100_000)
  return result
}

const headersOf = (init: RequestInit | undefined) => Object.fromEntries(init!.headers as Headers)

beforeEach(() => {
  vi.useFakeTimers()
  vi.spyOn(Math, "random").mockReturnValue(0.5)
})
afterEach(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

describe("a call that was refused", () => {
  it("is tried again after the time that the server says, and up to a quarter more", async () => {
    for (const [random, wait] of [
      [0, 1000],
      [0.5, 1125]
    ] as const) {
      vi.spyOn(Math, "random").mockReturnValue(random)
      const { stage, times } = answered([full, full, well])
      assert.deepStrictEqual(await outcome(stage.run()), { ok: true, value: 42 })
      assert.deepStrictEqual(times, [0, wait, 2 * wait])
    }
    const byHeader = answered([refused({ _tag: "Unavailable" }, { "retry-after": "2" }), well])
    assert.isTrue((await outcome(byHeader.stage.run())).ok)
    assert.deepStrictEqual(byHeader.times, [0, 2250])
  })

  it("waits longer and longer, at random, where the server says nothing", async () => {
    const { stage, times } = answered([refused({ _tag: "Shed" })], { retry: { attempts: 10 } })
    assert.isFalse((await outcome(stage.run())).ok)
    const waits = times.slice(1).map((time, i) => time - times[i]!)
    assert.deepStrictEqual(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000])
  })

  it("is given up after three attempts, or as many as are said", async () => {
    for (const [retry, count] of [
      [undefined, 3],
      [{ attempts: 2 }, 2],
      [{ attempts: 1 }, 1],
      [false, 1]
    ] as const) {
      const { stage, times } = answered([full], retry === undefined ? {} : { retry })
      const { error, ok } = await outcome(stage.run())
      assert.deepStrictEqual([ok, error.reason._tag, times.length], [false, "QueueFull", count])
    }
  })

  it("is also tried again before its stream begins, and where 429 says so", async () => {
    const { stage, times } = answered([
      json(429, { _tag: "ServeError", reason: { _tag: "Shed", deployment: "Stage", retryAfter: 10 }, message: "" }),
      () => Promise.resolve(new Response("data: 1\n\n", { headers: { "content-type": "text/event-stream" } }))
    ])
    const next = stage.elements()[Symbol.asyncIterator]().next()
    await vi.advanceTimersByTimeAsync(100)
    assert.deepStrictEqual<unknown>([await next, times.length], [{ done: false, value: 1 }, 2])
  })

  it("is not tried again when its time is over before", async () => {
    const { requests, stage, times } = answered([full], { timeout: 2000 })
    const { error } = await outcome(stage.run())
    assert.deepStrictEqual([error._tag, times], ["ServeError", [0, 1125]])
    const left = requests.map((init) => headersOf(init)["x-request-timeout-ms"])
    assert.deepStrictEqual(left, ["2000", "875"])
    assert.strictEqual(vi.getTimerCount(), 0)
  })

  it("stops waiting when its signal ends it", async () => {
    const { stage, times } = answered([full, well])
    const leaving = new AbortController()
    const result = stage.run(undefined, { signal: leaving.signal }).result()
    await vi.advanceTimersByTimeAsync(500)
    leaving.abort()
    const found = await result
    assert.deepInclude(found.ok ? {} : found.error, { _tag: "Aborted" })
    assert.deepStrictEqual([times, vi.getTimerCount()], [[0], 0])
  })

  it("is told from one that a handler passes on, with the name of the deployment", async () => {
    const nested = refused({ _tag: "QueueFull", retryAfter: 10, deployment: "Other" })
    const count = async (options: ClientOptions<"Stage">, idempotent: boolean) => {
      const { stage, times } = answered([nested], options)
      await outcome(stage.run(undefined, { idempotent }))
      return times.length
    }
    assert.strictEqual(await count({}, false), 3)
    assert.strictEqual(await count({ deployment: "Stage" }, false), 1)
    assert.strictEqual(await count({ deployment: "Stage" }, true), 3)
    const { stage, times } = answered([full], { deployment: "Stage" })
    await outcome(stage.run())
    assert.lengthOf(times, 3)
  })
})

describe("the budget", () => {
  it("allows ten retries at once, and then one for every five calls", async () => {
    const { stage, times } = answered([full], { retry: { attempts: 2 } })
    for (let i = 0; i < 10; i++) await outcome(stage.run())
    assert.strictEqual(times.length, 20)
    for (let i = 0; i < 100; i++) await outcome(stage.run())
    assert.approximately(times.length, 20 + 100 + 22, 1)
  })

  it("is as large as is said, and calls that go well fill it up to ten", async () => {
    const none = answered([full], { retry: { attempts: 2, budget: 0 } })
    for (let i = 0; i < 30; i++) await outcome(none.stage.run())
    assert.strictEqual(none.times.length, 40)
    const kept = answered([...Array.from({ length: 200 }, () => well), full], { retry: { attempts: 2 } })
    for (let i = 0; i < 230; i++) await outcome(kept.stage.run())
    assert.approximately(kept.times.length, 230 + 10 + 6, 2)
  })
})

/** How many attempts are made for a call that always fails alike. */
const attempts = async (answer: () => Promise<Response>, idempotent: boolean, payload?: unknown) => {
  const { stage, times } = answered([answer])
  assert.isFalse((await outcome(stage.run(payload, { idempotent }))).ok)
  return times.length
}

const failing = (status: number, reason: object) =>
  json(status, { _tag: "ServeError", reason: { deployment: "Stage", ...reason }, requestId: "r", message: "" })

/** An answer whose body breaks off. */
const half = () => {
  const cut = new ReadableStream({ pull: (controller) => controller.error(new TypeError("terminated")) })
  return Promise.resolve(new Response(cut, { headers: { "content-type": "application/json" } }))
}

describe("a call that failed otherwise", () => {
  it("is tried again when it was surely not sent", async () => {
    for (const code of ["ECONNREFUSED", "ENOTFOUND", "UND_ERR_CONNECT_TIMEOUT"]) {
      assert.strictEqual(await attempts(unsent(code), false), 3, code)
    }
  })

  it("is tried again when its handler had not begun", async () => {
    for (const reason of [
      { _tag: "ReplicaLost", replica: "Stage#0", started: false },
      { _tag: "TransportError", started: false }
    ]) {
      assert.strictEqual(await attempts(failing(503, reason), false), 3, reason._tag)
    }
    const own = { deployment: "Stage" } as const
    for (const [replica, count] of [
      ["Stage#0", 3],
      ["Other#0", 1]
    ] as const) {
      const { stage, times } = answered([failing(503, { _tag: "ReplicaLost", replica, started: false })], own)
      await outcome(stage.run())
      assert.strictEqual(times.length, count, replica)
    }
  })

  it("is tried again when its connection was lost, if it may be done twice", async () => {
    const replicaLost = failing(500, { _tag: "ReplicaLost", replica: "Stage#0", started: true })
    const cutOff = failing(502, { _tag: "TransportError", started: true })
    for (const answer of [lost, unsent("ECONNRESET"), replicaLost, cutOff, page(502), page(503), page(429), half]) {
      assert.strictEqual(await attempts(answer, false), 1)
      assert.strictEqual(await attempts(answer, true), 3)
    }
  })

  it("is not tried again when the server has answered", async () => {
    for (const answer of [
      json(404, { _tag: "Lost", id: 1 }),
      json(500, { _tag: "InternalServerError", requestId: "r" }),
      json(400, { _tag: "BadRequest", requestId: "r", message: "" }),
      failing(504, { _tag: "DeadlineExceeded", stage: "queue" }),
      failing(500, { _tag: "WorkerCrashed", exitCode: 1 }),
      page(500)
    ]) {
      assert.strictEqual(await attempts(answer, true), 1)
    }
  })

  it("is not tried again with a stream as its body, which is gone", async () => {
    assert.strictEqual(await attempts(full, true, new ReadableStream()), 1)
    assert.strictEqual(await attempts(full, true, new Uint8Array(3)), 3)
  })
})

describe("the time of a call", () => {
  it("ends it half a second after the server should have", async () => {
    const stage = client<typeof Stage>("http://stage.test", { fetch: unanswered })
    const result = stage.run(undefined, { timeout: 1000 }).result()
    let isOver = false
    void result.then(() => (isOver = true))
    await vi.advanceTimersByTimeAsync(1499)
    assert.isFalse(isOver)
    await vi.advanceTimersByTimeAsync(1)
    assert.deepInclude(await result, { ok: false })
    const found = await result
    assert.deepInclude(found.ok ? {} : found.error, { _tag: "TimedOut", timeout: 1000 })
  })

  it("is not kept when the call is over", async () => {
    const leaving = new AbortController()
    const listening = vi.spyOn(leaving.signal, "removeEventListener")
    for (const answer of [well, json(404, { _tag: "Lost" }), lost]) {
      const { stage } = answered([answer])
      await stage.run(undefined, { timeout: 1000, signal: leaving.signal }).result()
      assert.strictEqual(vi.getTimerCount(), 0)
    }
    assert.strictEqual(listening.mock.calls.length, 3)
    for (const text of ["data: 1\n\n", "data: 1"]) {
      const events = () => Promise.resolve(new Response(text, { headers: { "content-type": "text/event-stream" } }))
      const elements = answered([events]).stage.elements(undefined, { timeout: 1000, signal: leaving.signal })
      const iterator = elements[Symbol.asyncIterator]()
      await iterator.next().then(
        () => iterator.next(),
        () => {}
      )
      assert.strictEqual(vi.getTimerCount(), 0)
    }
    assert.strictEqual(listening.mock.calls.length, 5)
  })

  it("may be longer than a timer takes", async () => {
    for (const timeout of [Infinity, 2 ** 31]) {
      const { stage } = answered([well])
      assert.deepStrictEqual(await stage.run(undefined, { timeout }).result(), { ok: true, value: 42 })
    }
  })
})

describe("a request", () => {
  it("is not sent when its signal has ended it before", async () => {
    const { stage, times } = answered([well])
    const found = await stage.run(undefined, { signal: AbortSignal.abort("before") }).result()
    assert.deepInclude(found.ok ? {} : found.error, { _tag: "Aborted", reason: "before" })
    assert.isEmpty(times)
  })

  it("has the headers that are given for every attempt", async () => {
    let count = 0
    const headers = async () => ({ authorization: `Bearer ${++count}`, "x-a": "client" })
    const { requests, stage } = answered([full, well], { headers })
    assert.isTrue((await outcome(stage.run({ a: 1 }, { headers: { "X-A": "call" }, tenant: "acme" }))).ok)
    const sent = requests.map(headersOf)
    assert.deepStrictEqual(
      sent.map(({ authorization }) => authorization),
      ["Bearer 1", "Bearer 2"]
    )
    assert.deepInclude(sent[0], { "x-a": "call", "x-request-tenant": "acme", "content-type": "application/json" })
    assert.strictEqual(requests[0]!.body, '{"a":1}')
  })

  it("goes to the method below the prefix", async () => {
    const urls: Array<string> = []
    const fetch = (url: string) => {
      urls.push(url)
      return well()
    }
    for (const url of ["http://a.test/stage", "http://a.test/stage//", new URL("http://a.test/stage"), "/stage"]) {
      await client<typeof Stage>(url, { fetch }).run()
    }
    await (client<typeof Stage>("/", { fetch }) as any)["ä/b"]()
    const absolute = "http://a.test/stage/run"
    assert.deepStrictEqual(urls, [absolute, absolute, absolute, "/stage/run", "/%C3%A4%2Fb"])
  })

  it("that can't be made fails with what is wrong", async () => {
    const { stage, times } = answered([well], {
      headers: () => {
        throw new RangeError("no token")
      }
    })
    const error = await stage.run().then(
      () => undefined,
      (error: unknown) => error
    )
    assert.instanceOf(error, RangeError)
    assert.notInstanceOf(error, CallError)
    const big = await answered([well])
      .stage.run(1n)
      .result()
      .catch((error: unknown) => error)
    assert.instanceOf(big, TypeError)
    assert.isEmpty(times)
  })
})

describe("a client", () => {
  it("can be given out of an async function, and has the same methods every time", async () => {
    const { stage, times } = answered([well])
    const later = async () => stage
    const given = await later()
    assert.strictEqual(given.run, stage.run)
    assert.strictEqual(JSON.stringify({ stage }), '{"stage":{}}')
    assert.isEmpty(times)
  })
})
