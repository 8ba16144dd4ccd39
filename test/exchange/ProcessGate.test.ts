/**
 * Seen red for each of these mutations. `Gate`: utilization or delay doesn't matter ("takes a busy loop", "takes a late
 * loop"); a bound belongs to its range; "default" is refused from the soft bounds on, or without a cap ("refuses default
 * requests only"); critical is treated like default; the utilization is of the last interval alone ("for one bad
 * interval"), or the first baseline stays ("after a long idle time"); a chance never falls, or `isOverloaded` sticks
 * ("forgets an overload"); refusals aren't counted; no jitter. `eventLoop`: the baseline never moves, so that the
 * utilization is that of a lifetime; one histogram instead of two, or none is reset. `layer`: no yield before a reading;
 * ten times the interval; a gate per ingress. `Exchange`: priority isn't looked at; the answer of the gate is turned
 * around; the gate comes before the other refusals, or before health checks; a refusal closes the connection.
 * `HttpIngress`: the option does nothing.
 */
import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Deployment, HttpIngress } from "effect-serve"
import { Array, Duration, Effect, Fiber, Layer, Logger, Metric, Random, Schema, type Scope } from "effect"
import { HttpServer } from "effect/http"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { createServer } from "node:http"
import { connect } from "node:net"
import { eventLoop, Gate, layer, type Reading, Source } from "../../src/exchange/ProcessGate.ts"

type Priority = "critical" | "default" | "sheddable"
const priorities: ReadonlyArray<Priority> = ["critical", "default", "sheddable"]

const calm: Reading = { utilization: 0.1, delay: 1 }
const softOverload: Reading = { utilization: 0.95, delay: 300 }
const hardOverload: Reading = { utilization: 1, delay: 1000 }

let drawn = 0
const gateAfter = (...readings: ReadonlyArray<Reading>) => {
  const gate = new Gate(() => drawn)
  for (const reading of readings) gate.observe(reading)
  return gate
}

const steady = (utilization: number, delay: number) => gateAfter({ utilization, delay }, { utilization, delay })

/** The share of the requests of a priority that a gate refuses, in hundredths. */
const refused = (gate: Gate, priority: Priority) =>
  Array.range(0, 99).filter((hundredths) => {
    drawn = hundredths / 100
    return gate.isOverloaded && gate.sheds(priority)
  }).length

const refusedByAll = (gate: Gate) => priorities.map((priority) => refused(gate, priority))

const between = (minimum: number, maximum: number) => Schema.Finite.check(Schema.isBetween({ minimum, maximum }))
const ReadingOf = (utilization: readonly [number, number], delay: readonly [number, number]) =>
  Schema.Struct({ utilization: between(...utilization), delay: between(...delay) })
const Any = Schema.Array(ReadingOf([0, 1], [0, 2000])).check(Schema.isMaxLength(6))
const runs = { arbitrary: { runs: 500, seed: 1 } }

describe("Gate", () => {
  it("refuses nothing before its first reading", () => {
    assert.deepStrictEqual(refusedByAll(gateAfter()), [0, 0, 0])
  })

  it("takes a busy loop that keeps up for well used", () => {
    assert.deepStrictEqual(refusedByAll(steady(1, 50)), [0, 0, 0])
  })

  it("takes a late loop with time to spare for one that met a long task", () => {
    assert.deepStrictEqual(refusedByAll(steady(0.9, 5000)), [0, 0, 0])
  })

  it("refuses the more sheddable requests the later a busy loop is, all of them at 250 ms", () => {
    const delays = [50, 100, 150, 200, 250, 5000]
    assert.deepStrictEqual(
      delays.map((delay) => refused(steady(0.95, delay), "sheddable")),
      [0, 25, 50, 75, 100, 100]
    )
    for (const delay of delays) assert.deepStrictEqual(refusedByAll(steady(0.95, delay)).slice(0, 2), [0, 0])
  })

  it("refuses default requests only when the loop is all busy and more than 250 ms late, and never all of them", () => {
    const delays = [250, 400, 625, 1000, 60_000]
    assert.deepStrictEqual(
      delays.map((delay) => refused(steady(1, delay), "default")),
      [0, 20, 50, 95, 95]
    )
    for (const delay of delays) assert.strictEqual(refused(steady(1, delay), "sheddable"), 100)
    assert.strictEqual(refused(steady(0.98, 60_000), "default"), 0)
  })

  it("refuses nothing for one bad interval", () => {
    assert.deepStrictEqual(refusedByAll(gateAfter(calm, { utilization: 1, delay: 60_000 })), [0, 0, 0])
  })

  it("sees an overload within one second after a long idle time", () => {
    const idle = Array.makeBy(7200, () => calm)
    assert.deepStrictEqual(refusedByAll(gateAfter(...idle, hardOverload, hardOverload)), [0, 95, 100])
  })

  it("forgets an overload within one second, however long it was", () => {
    const overload = Array.makeBy(7200, () => hardOverload)
    const busy = { utilization: 1, delay: 20 }
    assert.deepStrictEqual(refusedByAll(gateAfter(...overload, busy)), [0, 0, 0])
    assert.deepStrictEqual(refusedByAll(gateAfter(...overload, calm)), [0, 0, 0])
    assert.isFalse(gateAfter(...overload, calm).isOverloaded)
  })

  it("counts what it refuses", () => {
    const gate = steady(1, 625)
    refusedByAll(gate)
    assert.deepStrictEqual(gate.shed, { critical: 0, default: 50, sheddable: 100 })
  })

  it("asks to come back after one to two seconds", () => {
    const gate = new Gate(() => drawn)
    const after = [0, 0.5, 0.999].map((random) => {
      drawn = random
      return Duration.toMillis(gate.retryAfter())
    })
    assert.deepStrictEqual(after, [1000, 1500, 1999])
  })

  it.prop(
    "never refuses a critical request",
    [Any],
    ([readings]) => assert.strictEqual(refused(gateAfter(...readings), "critical"), 0),
    runs
  )

  it.prop(
    "never refuses more when the loop was less late or less busy, nor default requests before sheddable ones",
    [between(0.85, 1), between(0, 1500), between(0.85, 1), between(0, 1500)],
    ([oneUtilization, oneDelay, otherUtilization, otherDelay]) => {
      const less = steady(Math.min(oneUtilization, otherUtilization), Math.min(oneDelay, otherDelay))
      const more = steady(Math.max(oneUtilization, otherUtilization), Math.max(oneDelay, otherDelay))
      for (const priority of priorities) assert.isAtMost(refused(less, priority), refused(more, priority))
      assert.isAtMost(refused(more, "default"), refused(more, "sheddable"))
    },
    runs
  )

  it.prop(
    "never refuses anything when the last second was not both busy and late",
    [
      Any,
      ReadingOf([0, 0.9], [0, 2000]),
      ReadingOf([0, 0.9], [0, 2000]),
      ReadingOf([0, 1], [0, 50]),
      ReadingOf([0, 1], [0, 50])
    ],
    ([before, spare, alsoSpare, punctual, alsoPunctual]) => {
      assert.deepStrictEqual(refusedByAll(gateAfter(...before, spare, alsoSpare)), [0, 0, 0])
      assert.deepStrictEqual(refusedByAll(gateAfter(...before, punctual, alsoPunctual)), [0, 0, 0])
    },
    runs
  )
})

/** Keeps this thread from everything else. */
const block = (millis: number) => {
  const end = performance.now() + millis
  while (performance.now() < end);
}

const nextTurns = Effect.promise(async () => {
  for (let i = 0; i < 10; i++) await new Promise((resume) => setImmediate(resume))
})

describe("eventLoop", () => {
  it.live("measures what was between two readings, and nothing from before", () =>
    Effect.gen(function* () {
      const read = yield* eventLoop
      yield* Effect.sleep("300 millis")
      assert.isBelow(read().utilization, 0.8)
      block(150)
      assert.isAbove(read().utilization, 0.95)
    }).pipe(Effect.scoped)
  )

  it.live("measures how late the loop was in the last two intervals, wherever in them", () =>
    Effect.gen(function* () {
      const read = yield* eventLoop
      yield* Effect.sleep("50 millis")
      read()
      block(500)
      yield* nextTurns
      assert.isAbove(read().delay, 450)
      block(500)
      yield* nextTurns
      assert.isAbove(read().delay, 450)
      yield* Effect.sleep("50 millis")
      read()
      yield* Effect.sleep("50 millis")
      assert.isBelow(read().delay, 400)
    }).pipe(Effect.scoped)
  )
})

class Lab extends Deployment.Service<Lab>()("Lab", [
  Rpc.make("ping", { payload: Schema.String, success: Schema.String })
]) {}

const LabLive = Lab.toLayer({ ping: (text) => Effect.succeed(text) })
const routes = { "/lab": Lab } as const

type Ingress = Layer.Layer<HttpIngress.Address, unknown, Lab>

const Server = NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 0 })
const addressOf = Layer.effect(
  HttpIngress.Address,
  Effect.map(HttpServer.HttpServer, ({ address }) => {
    const port = "port" in address ? address.port : 0
    return { host: "127.0.0.1", port, url: `http://127.0.0.1:${port}` }
  })
)

const servers: Record<string, (options?: typeof HttpIngress.Options.Encoded) => Ingress> = {
  layerNode: (options) => HttpIngress.layerNode(routes, { ...options, port: 0 }),
  layer: (options) => Layer.merge(addressOf, HttpIngress.layer(routes, options)).pipe(Layer.provide(Server))
}

const send = (path: string, init: RequestInit = {}) =>
  Effect.gen(function* () {
    const { url } = yield* HttpIngress.Address
    const response = yield* Effect.promise((signal) => fetch(url + path, { signal, ...init }))
    const text = yield* Effect.promise(() => response.text())
    return { status: response.status, headers: response.headers, text }
  })

const ping = (priority: Priority) =>
  send("/lab/ping", {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-priority": priority, "x-request-id": "r1" },
    body: '"hello"'
  })

const statusOf = (priority: Priority) => Effect.map(ping(priority), ({ status }) => status)
const statuses = Effect.forEach(priorities, statusOf)

/** Sends bytes as they are, and returns what came back when that has `answers` status lines, or the connection closes. */
const sendRaw = (bytes: string, answers: number) =>
  Effect.flatMap(HttpIngress.Address, ({ port }) =>
    Effect.callback<string>((resume) => {
      let answer = ""
      const socket = connect(port, "127.0.0.1", () => socket.write(bytes))
      const finish = () => {
        socket.destroy()
        resume(Effect.succeed(answer))
      }
      socket.on("data", (chunk) => {
        answer += chunk.toString()
        if (answer.split("HTTP/1.1 ").length > answers) finish()
      })
      socket.on("error", finish)
      socket.on("close", finish)
    })
  )

const series = Effect.map(Metric.snapshot, (metrics) => (name: string, priority?: Priority) => {
  const found = metrics.find(({ attributes, id }) => id === name && attributes?.["priority"] === priority)
  return found?.type === "Counter" ? found.state.count : found?.type === "Gauge" ? found.state.value : undefined
})

/** Every request that may be refused is refused. */
const Unlucky = Layer.succeed(Random.Random, { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0 })
const Quiet = Layer.mergeAll(Logger.layer([]), Layer.succeed(Metric.MetricRegistry, new Map()))

/** An application whose event loop does what the test says. */
const underTest = (ingress: Ingress, read: () => Reading) =>
  ingress.pipe(
    Layer.provideMerge(LabLive),
    Layer.provideMerge(Layer.mergeAll(Quiet, Unlucky, Layer.succeed(Source, Effect.succeed(read))))
  )

type Test = (loop: {
  now: Reading
}) => Effect.Effect<void, unknown, Layer.Success<ReturnType<typeof underTest>> | Scope.Scope>

for (const [name, ingress] of Object.entries(servers)) {
  /** `loop` is what the gate reads, every half second of virtual time. */
  const app = (sentence: string, test: Test, options?: typeof HttpIngress.Options.Encoded) =>
    it.effect(sentence, () => {
      const loop = { now: calm }
      return test(loop).pipe(Effect.provide(underTest(ingress(options), () => loop.now)))
    })

  describe(`HttpIngress.${name}`, () => {
    app(
      "answers a sheddable request with 503 and the reason, and lets the others pass",
      Effect.fnUntraced(function* (loop) {
        assert.deepStrictEqual(yield* statuses, [200, 200, 200])
        loop.now = softOverload
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* statuses, [200, 200, 503])
        const { headers, text } = yield* ping("sheddable")
        const why = "the process is overloaded"
        assert.deepStrictEqual(JSON.parse(text), {
          _tag: "ServeError",
          reason: { _tag: "Shed", deployment: "Lab", why, retryAfter: 1000 },
          requestId: "r1",
          message: `Deployment "Lab" dropped the request under overload: ${why}. Try again later.`
        })
        assert.deepStrictEqual([headers.get("retry-after"), headers.get("x-request-id")], ["1", "r1"])
      })
    )

    app(
      "refuses default requests too in a hard overload, but answers critical ones and health checks",
      Effect.fnUntraced(function* (loop) {
        loop.now = hardOverload
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* statuses, [200, 503, 503])
        assert.strictEqual((yield* send("/-/healthz")).text, "success")
        assert.strictEqual((yield* send("/-/routes")).status, 200)
        assert.strictEqual((yield* Lab.state).accepted, 1)
      })
    )

    app(
      "tells a client what is wrong with its request rather than to come back",
      Effect.fnUntraced(function* (loop) {
        loop.now = hardOverload
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* send("/lab/nope", { method: "POST" })).status, 404)
        assert.strictEqual((yield* send("/lab/ping")).status, 405)
        assert.strictEqual((yield* send("/lab/ping", { method: "POST", body: "hello" })).status, 415)
      })
    )

    app(
      "lets all pass within a second after the overload",
      Effect.fnUntraced(function* (loop) {
        loop.now = hardOverload
        yield* TestClock.adjust("1 minute")
        loop.now = calm
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* statuses, [200, 200, 200])
      })
    )

    app(
      "keeps the connection of a request that it refuses",
      Effect.fnUntraced(function* (loop) {
        loop.now = softOverload
        yield* TestClock.adjust("1 second")
        const body = `"${"x".repeat(200_000)}"`
        const answers = yield* sendRaw(
          `POST /lab/ping HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-request-priority: sheddable\r\n` +
            `content-length: ${body.length}\r\n\r\n${body}GET /-/healthz HTTP/1.1\r\nhost: x\r\n\r\n`,
          2
        )
        assert.match(answers, /^HTTP\/1.1 503 [^]*HTTP\/1.1 200 /)
        assert.notMatch(answers, /connection: close/i)
      })
    )

    app(
      "shows what it measures and whom it refuses",
      Effect.fnUntraced(function* (loop) {
        loop.now = hardOverload
        yield* TestClock.adjust("1 second")
        yield* statuses
        yield* statusOf("sheddable")
        const read = yield* series
        assert.strictEqual(read("serve_process_shed_total", "sheddable"), 2)
        assert.strictEqual(read("serve_process_shed_total", "default"), 1)
        assert.strictEqual(read("serve_event_loop_utilization"), 1)
        assert.strictEqual(read("serve_event_loop_delay_ms"), 1000)
      })
    )

    app(
      "answers 429 instead, where that is asked for",
      Effect.fnUntraced(function* (loop) {
        loop.now = hardOverload
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* statuses, [200, 429, 429])
      }),
      { refusalStatus: 429 }
    )

    app(
      "refuses nothing, and measures nothing, when it is switched off",
      Effect.fnUntraced(function* (loop) {
        loop.now = hardOverload
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* statuses, [200, 200, 200])
        assert.isUndefined((yield* series)("serve_event_loop_utilization"))
      }),
      { processGate: false }
    )

    it.effect("names the option when it is wrong", () =>
      Effect.gen(function* () {
        const built = yield* Effect.exit(Layer.build(underTest(ingress({ processGate: 1 as never }), () => calm)))
        assert.include(String(built), "processGate")
      }).pipe(Effect.scoped)
    )
  })
}

/** Blocks the event loop again and again, with a few turns for everything else in between. */
const blockInBursts = (millis: number) =>
  Effect.forever(
    Effect.andThen(
      Effect.sync(() => block(millis)),
      nextTurns
    )
  )

describe("ProcessGate", () => {
  it.effect("is one for all ingresses of an application", () =>
    Effect.gen(function* () {
      let sources = 0
      const Counted = Layer.succeed(
        Source,
        Effect.sync(() => {
          sources++
          return () => calm
        })
      )
      const Ingresses = Layer.merge(servers["layerNode"]!(), servers["layer"]!())
      yield* Layer.build(Ingresses.pipe(Layer.provide(LabLive), Layer.provide(Layer.merge(Quiet, Counted))))
      assert.strictEqual(sources, 1)
    }).pipe(Effect.scoped)
  )

  it.live("reads after a long task when all timers that are due have fired, as those of the measurement", () =>
    Effect.gen(function* () {
      const order: Array<string> = []
      const read = () => {
        order.push("reading")
        return calm
      }
      yield* Layer.build(Layer.provide(layer, Layer.merge(Quiet, Layer.succeed(Source, Effect.succeed(read)))))
      setTimeout(() => order.push("timer"), 520)
      block(600)
      yield* nextTurns
      assert.deepStrictEqual(order, ["timer", "reading"])
    }).pipe(Effect.scoped)
  )

  for (const [tasks, millis] of [
    ["tasks", 260],
    ["tasks longer than the interval of the gate", 600]
  ] as const) {
    it.live(
      `refuses sheddable requests while ${tasks} really block the event loop, and not after that`,
      () =>
        Effect.gen(function* () {
          const blocking = yield* Effect.forkChild(blockInBursts(millis))
          yield* Effect.repeat(statusOf("sheddable"), { until: (status) => status === 503 })
          assert.strictEqual((yield* send("/-/healthz")).status, 200)
          assert.strictEqual(yield* statusOf("critical"), 200)
          yield* Fiber.interrupt(blocking)
          yield* Effect.repeat(Effect.delay(statusOf("sheddable"), "100 millis"), { until: (status) => status === 200 })
        }).pipe(
          Effect.provide(servers["layerNode"]!().pipe(Layer.provideMerge(LabLive), Layer.provideMerge(Quiet))),
          Effect.scoped
        ),
      20_000
    )
  }
})
