/**
 * What becomes of the calls of a remote handle when the network fails, on real sockets.
 *
 * Seen red for each of these mutations. Link: calls or work go on when the connection is lost; a cancelled call is not told; ended calls
 * are counted for ever, on either side. Connection: a caller that leaves waits for ever; no `connectTimeout`. SocketPort: all lost calls are
 * said to have begun, or none; what the system takes counts as heard; silence is not noticed; there are no pings; a client does not read
 * while it can't send. Serving: credit is lost; an element that does not fit its schema fails the connection; ended calls stay. Frame: the deadline
 * does not go along. RemoteReplica: what has not begun is not made again, or what has begun is. Router: those who wait are not cut off, or
 * only they, or for ever. Exchange: on a thread, the time after which a connection is dead is not a Duration.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deployment, HttpIngress, ServeError } from "effect-serve"
import { Cause, Context, Effect, Exit, Fiber, Layer, Option, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { answered, call, isDone, reason } from "../deployments.ts"
import { Quiet } from "../ingress/http.ts"
import { servers } from "../ingress/servers.ts"
import { until } from "../modules/app.ts"
import { isTransportError, Ledger, open, read, timed, upTo } from "./Ledger.ts"
import type { Way } from "./proxy.ts"

const ways: ReadonlyArray<Way> = ["toServer", "toClient"]

const reasonOf = <A>(exit: Exit.Exit<A, unknown>): ServeError.Reason | undefined => {
  if (Exit.isSuccess(exit)) return undefined
  const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
  return error instanceof ServeError.ServeError ? error.reason : undefined
}

const assertLost = (reason: ServeError.Reason | undefined, started = true) =>
  assert.isTrue(reason !== undefined && isTransportError(reason, started), JSON.stringify(reason))

type App = Effect.Success<ReturnType<typeof open>>

/** Sends calls until one of them is not taken by the system any more. Nothing passes meanwhile. */
const fill = Effect.fnUntraced(function* ({ client, unsent }: App) {
  const calls: Array<Fiber.Fiber<unknown, ServeError.ServeError>> = []
  const bytes = new Uint8Array(300_000)
  while (unsent() === 0) {
    calls.push(yield* call(client.fetch({ id: `fill-${calls.length}`, bytes, size: 0 })))
    yield* Effect.sleep(3)
    assert.isBelow(calls.length, 100)
  }
  return calls
})

describe("a remote handle", () => {
  describe("whose connection is cut", () => {
    it.live("fails the calls that have begun, and stops them over there", () =>
      Effect.gen(function* () {
        const { book, client, isConnected, nothingIsLeft, proxy } = yield* open()
        const calls = yield* Effect.forEach(upTo(20), (i) => call(client.work({ id: `${i}`, millis: 10_000 })))
        yield* until(Effect.sync(() => book.running === 20))
        proxy.cut()
        for (const fiber of calls) assertLost(yield* answered(fiber))
        yield* nothingIsLeft
        assert.strictEqual(book.stopped.size, 20)
        yield* isConnected
        assert.strictEqual(proxy.count, 2)
        assert.strictEqual(yield* client.work({ id: "after", millis: 0 }), "after")
      })
    )

    it.live("makes the calls again that were not sent, and no others", () =>
      Effect.gen(function* () {
        const app = yield* open()
        const { book, client, isLost, nothingIsLeft, proxy } = app
        proxy.stall()
        const sent = yield* fill(app)
        const waiting = yield* Effect.forEach(upTo(20), (i) => call(client.work({ id: `${i}`, millis: 0 })))
        const stream = yield* call(read(client.count({ id: "stream", to: 100, millis: 0 })))
        yield* Effect.sleep(20)
        assert.isFalse([...waiting, stream].some(isDone))
        const lost = yield* call(isLost)
        proxy.cut()
        yield* Fiber.join(lost)
        proxy.flow()
        for (const fiber of sent) assertLost(yield* answered(fiber))
        for (const [i, fiber] of waiting.entries()) assert.strictEqual(yield* Fiber.join(fiber), `${i + 1}`)
        assert.deepStrictEqual((yield* Fiber.join(stream)).elements, upTo(100))
        yield* nothingIsLeft
        assert.strictEqual(book.completed.size, 21)
        assert.strictEqual((yield* app.clientState).rerouted, 21)
      })
    )

    it.live("makes calls wait that come while there is no connection", () =>
      Effect.gen(function* () {
        const { book, client, isLost, nothingIsLeft, proxy } = yield* open()
        proxy.isDown = true
        proxy.cut()
        yield* isLost
        const working = yield* call(client.work({ id: "work", millis: 0 }))
        const counting = yield* call(read(client.count({ id: "count", to: 5, millis: 0 })))
        yield* Effect.sleep(100)
        assert.isFalse(isDone(working) || isDone(counting))
        proxy.isDown = false
        assert.strictEqual(yield* Fiber.join(working), "work")
        assert.deepStrictEqual((yield* Fiber.join(counting)).elements, upTo(5))
        yield* nothingIsLeft
        assert.strictEqual(book.completed.size, 2)
      })
    )

    it.live("fails calls when there has been no connection for too long, until there is one", () =>
      Effect.gen(function* () {
        const { book, client, isConnected, isLost, nothingIsLeft, proxy } = yield* open({
          unreachableTimeout: "300 millis"
        })
        proxy.isDown = true
        proxy.cut()
        yield* isLost
        const [why, waited] = yield* timed(reason(client.work({ id: "long", millis: 0 })))
        assertLost(why, false)
        assert.isAtLeast(waited, 200)
        assert.isAtMost(waited, 2000)
        const [again, at] = yield* timed(reason(Stream.runDrain(client.count({ id: "more", to: 1, millis: 0 }))))
        assertLost(again, false)
        assert.isAtMost(at, 200)
        proxy.isDown = false
        yield* isConnected
        assert.strictEqual(yield* client.work({ id: "again", millis: 0 }), "again")
        yield* nothingIsLeft
        assert.deepStrictEqual(Array.from(book.begun.keys()), ["again"])
      })
    )

    it.live("ends streams after what has come of them, and stops them over there", () =>
      Effect.gen(function* () {
        const { book, client, nothingIsLeft, proxy } = yield* open()
        const streams = yield* Effect.forEach(upTo(5), (i) =>
          call(read(client.count({ id: `${i}`, to: 1e9, millis: 5 })))
        )
        yield* Effect.sleep(60)
        proxy.cut()
        for (const stream of streams) {
          const { elements, exit } = yield* Fiber.join(stream)
          assertLost(reasonOf(exit))
          assert.isAbove(elements.length, 0)
          assert.deepStrictEqual(elements, upTo(elements.length))
        }
        yield* nothingIsLeft
        assert.strictEqual(book.stopped.size, 5)
      })
    )

    it.live("doesn't know whether a call has begun whose message is lost on its way", () =>
      Effect.gen(function* () {
        const { book, client, isConnected, nothingIsLeft, proxy } = yield* open()
        for (const bytes of [0, 1, 2, 5, 30]) {
          proxy.truncate("toServer", bytes)
          assertLost(yield* reason(client.work({ id: `toServer-${bytes}`, millis: 0 })))
          yield* isConnected
          proxy.truncate("toClient", bytes)
          const id = `toClient-${bytes}`
          // What is cut off may be the end of the answer.
          const exit = yield* Effect.exit(client.work({ id, millis: 0 }))
          if (bytes < 5) assertLost(reasonOf(exit))
          else assert.isTrue(Exit.isSuccess(exit) || reasonOf(exit)?._tag === "TransportError")
          assert.isTrue(book.completed.has(id))
          yield* isConnected
        }
        yield* nothingIsLeft
        assert.isFalse(Array.from(book.begun.keys()).some((id) => id.startsWith("toServer")))
      })
    )

    for (const way of ways) {
      it.live(`is not served by half a connection, which ends ${way}`, () =>
        Effect.gen(function* () {
          const { book, client, isConnected, nothingIsLeft, proxy } = yield* open()
          const working = yield* call(client.work({ id: "work", millis: 10_000 }))
          const counting = yield* call(read(client.count({ id: "count", to: 1e9, millis: 5 })))
          yield* until(Effect.sync(() => book.running === 2))
          proxy.halfClose(way)
          const [why, waited] = yield* timed(answered(working))
          assertLost(why)
          assert.isAtMost(waited, 1500)
          assertLost(reasonOf((yield* Fiber.join(counting)).exit))
          yield* nothingIsLeft
          assert.strictEqual(book.stopped.size, 2)
          yield* isConnected
          assert.strictEqual(yield* client.work({ id: "after", millis: 0 }), "after")
          assert.strictEqual(proxy.open, 1)
        })
      )
    }
  })

  describe("through which nothing passes", () => {
    it.live("lets callers leave within a second, and ends their work when something passes again", () =>
      Effect.gen(function* () {
        const { book, client, clientState, nothingIsLeft, proxy, serverState } = yield* open()
        const callers = [
          yield* call(client.work({ id: "work", millis: 10_000 })),
          yield* call(Stream.runDrain(client.count({ id: "count", to: 1e9, millis: 5 })))
        ]
        yield* until(Effect.sync(() => book.running === 2))
        proxy.stall()
        callers.push(yield* call(client.work({ id: "late", millis: 10_000 })))
        yield* Effect.sleep(20)
        const [, waited] = yield* timed(Fiber.interruptAll(callers))
        assert.isAtLeast(waited, 800)
        assert.isAtMost(waited, 2500)
        assert.deepInclude(yield* clientState, { running: 0, queued: 0, cancelled: 3 })
        assert.deepInclude(yield* serverState, { running: 2 })
        proxy.flow()
        yield* nothingIsLeft
        assert.isTrue(book.stopped.has("work") && book.stopped.has("count"))
        // It has the call and its end at once, or does not begin it at all.
        assert.isFalse(book.completed.has("late"))
        assert.strictEqual(proxy.count, 1)
      })
    )

    it.live("fails calls at their deadlines, and keeps none of their permits", () =>
      Effect.gen(function* () {
        const { book, client, clientState, nothingIsLeft, proxy } = yield* open()
        const timeout = "150 millis"
        let counted = 0
        const counting = client.count({ id: "before", to: 1e9, millis: 5 }, { timeout })
        const before = [
          yield* call(reason(client.work({ id: "work", millis: 10_000 }, { timeout }))),
          yield* call(reason(Stream.runForEach(counting, () => Effect.sync(() => counted++))))
        ]
        yield* until(Effect.sync(() => book.running === 2 && counted > 0))
        proxy.stall()
        const after = [
          yield* call(reason(client.work({ id: "late", millis: 10_000 }, { timeout }))),
          yield* call(reason(Stream.runDrain(client.count({ id: "stream", to: 9, millis: 5 }, { timeout }))))
        ]
        const [reasons, waited] = yield* timed(Fiber.joinAll([...before, ...after]))
        assert.isAtMost(waited, 800)
        assert.deepStrictEqual(
          reasons.map((reason) => (reason._tag === "DeadlineExceeded" ? reason.stage : reason)),
          ["handler", "stream", "handler", "handler"]
        )
        yield* until(Effect.map(clientState, ({ running }) => running === 0))
        // The deadline went along.
        yield* until(Effect.sync(() => book.running === 0))
        proxy.flow()
        assert.strictEqual(yield* client.work({ id: "after", millis: 0 }), "after")
        yield* nothingIsLeft
        assert.isFalse(book.completed.has("late"))
      })
    )

    it.live("is given up by both sides within pingTimeout", () =>
      Effect.gen(function* () {
        const pingTimeout = "300 millis"
        const { book, client, nothingIsLeft, proxy } = yield* open({ pingTimeout }, { rpc: { pingTimeout } })
        // Longer than that, in which there is something to hear.
        assert.strictEqual(yield* client.work({ id: "long", millis: 450 }), "long")
        const working = yield* call(client.work({ id: "work", millis: 60_000 }))
        const counting = yield* call(read(client.count({ id: "count", to: 1e9, millis: 5 })))
        yield* until(Effect.sync(() => book.running === 2))
        proxy.stall()
        const [why, waited] = yield* timed(answered(working))
        assertLost(why)
        assert.isAtLeast(waited, 180)
        assert.isAtMost(waited, 2000)
        assertLost(reasonOf((yield* Fiber.join(counting)).exit))
        yield* until(Effect.sync(() => book.running === 0))
        assert.deepStrictEqual(Array.from(book.stopped), ["work", "count"])
        proxy.flow()
        assert.strictEqual(yield* client.work({ id: "after", millis: 0 }), "after")
        yield* nothingIsLeft
      })
    )

    it.live("goes on where it was when something passes again in time", () =>
      Effect.gen(function* () {
        const { client, nothingIsLeft, proxy } = yield* open({ pingTimeout: "1 second" })
        const working = yield* call(client.work({ id: "work", millis: 50 }))
        const counting = yield* call(read(client.count({ id: "count", to: 5000, millis: 0 })))
        proxy.stall()
        const late = yield* call(client.work({ id: "late", millis: 0 }))
        yield* Effect.sleep(300)
        assert.isFalse(isDone(working) || isDone(counting) || isDone(late))
        proxy.flow()
        assert.deepStrictEqual(yield* Fiber.joinAll([working, late]), ["work", "late"])
        assert.deepStrictEqual((yield* Fiber.join(counting)).elements, upTo(5000))
        yield* nothingIsLeft
        assert.strictEqual(proxy.count, 1)
      })
    )

    it.live("gives up to connect in time, and tries again", () =>
      Effect.gen(function* () {
        const { client, isConnected, isLost, nothingIsLeft, proxy } = yield* open({
          connectTimeout: "150 millis",
          unreachableTimeout: "100 millis"
        })
        proxy.stall()
        proxy.cut()
        yield* isLost
        assertLost(yield* reason(client.work({ id: "none", millis: 0 })), false)
        // One connection is there, and two tries were given up.
        yield* until(Effect.sync(() => proxy.count === 4))
        proxy.flow()
        yield* isConnected
        assert.strictEqual(yield* client.work({ id: "again", millis: 0 }), "again")
        yield* nothingIsLeft
        yield* until(Effect.sync(() => proxy.open === 1))
      })
    )
  })

  describe("over a slow network", () => {
    it.live("calls and streams as ever, but later", () =>
      Effect.gen(function* () {
        const { book, client, nothingIsLeft, proxy } = yield* open()
        proxy.slow(60)
        const [answers, waited] = yield* timed(
          Effect.forEach(upTo(50), (i) => client.work({ id: `${i}`, millis: 0 }), { concurrency: "unbounded" })
        )
        assert.deepStrictEqual(answers, upTo(50).map(String))
        assert.isAtLeast(waited, 115)
        assert.deepStrictEqual((yield* read(client.count({ id: "count", to: 1000, millis: 0 }))).elements, upTo(1000))
        const why = yield* reason(client.work({ id: "short", millis: 0 }, { timeout: "100 millis" }))
        assert.strictEqual(why._tag, "DeadlineExceeded")
        yield* nothingIsLeft
        assert.isTrue(book.completed.has("count"))
      })
    )
  })

  it.live("has one call die of an element that is not of its type, and no other", () =>
    Effect.gen(function* () {
      const { book, client, nothingIsLeft, proxy } = yield* open()
      const working = yield* call(client.work({ id: "work", millis: 100 }))
      // Before the window is full, and after.
      for (const at of [1, 10_000, 20_000]) {
        const { elements, exit } = yield* read(client.wrong({ id: `${at}`, at }))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), String(exit))
        assert.deepStrictEqual(elements, upTo(elements.length))
      }
      assert.strictEqual(yield* Fiber.join(working), "work")
      yield* nothingIsLeft
      assert.strictEqual(book.stopped.size, 3)
      assert.strictEqual(proxy.count, 1)
    })
  )

  it.live("takes answers while it has more to send than passes", () =>
    Effect.gen(function* () {
      const { book, client, clientState, nothingIsLeft, proxy } = yield* open()
      const working = yield* call(client.work({ id: "work", millis: 300 }))
      yield* until(Effect.sync(() => book.running === 1))
      proxy.hold("toServer")
      // Of a size with which the port is full just when it has given a frame away.
      const bytes = new Uint8Array(150_000)
      const calls: Array<Fiber.Fiber<Uint8Array, ServeError.ServeError>> = []
      while ((yield* clientState).queued === 0) {
        calls.push(yield* call(client.fetch({ id: `${calls.length}`, bytes, size: 10 })))
        yield* Effect.sleep(2)
        assert.isBelow(calls.length, 100)
      }
      // If neither side read while it can't send, neither could ever send.
      assert.strictEqual(yield* Effect.timeout(Fiber.join(working), "2 seconds"), "work")
      proxy.flow()
      for (const { length } of yield* Fiber.joinAll(calls)) assert.strictEqual(length, 10)
      yield* nothingIsLeft
      assert.strictEqual(proxy.count, 1)
    })
  )
})

const rpc = { pingTimeout: "400 millis" } as const

for (const [name, ingress] of Object.entries(servers({ "/ledger": Ledger }, { processGate: false, rpc }))) {
  it.live(`stops what runs for a client that is gone, on ${name}`, () =>
    Effect.gen(function* () {
      const { book, client, isConnected, nothingIsLeft, proxy } = yield* open({}, {}, ingress)
      for (const fault of ["cut", "stall"] as const) {
        const calls = yield* Effect.forEach(upTo(5), (i) =>
          call(Effect.exit(client.work({ id: `${fault}-${i}`, millis: 60_000 })))
        )
        const streams = yield* Effect.forEach(upTo(5), (i) =>
          call(read(client.count({ id: `${fault}-stream-${i}`, to: 1e9, millis: 5 })))
        )
        yield* until(Effect.sync(() => book.running === 10))
        proxy[fault]()
        yield* until(Effect.sync(() => book.running === 0))
        if (fault === "stall") {
          assert.isFalse(calls.some(isDone))
          proxy.flow()
        }
        for (const exit of yield* Fiber.joinAll(calls)) assertLost(reasonOf(exit))
        for (const { exit } of yield* Fiber.joinAll(streams)) assertLost(reasonOf(exit))
        yield* isConnected
      }
      yield* nothingIsLeft
      assert.strictEqual(book.stopped.size, 20)
    })
  )
}

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

const Call = Schema.Struct({
  at: between(0, 250),
  stream: Schema.Boolean,
  millis: between(0, 40),
  /** In 60 milliseconds; 0 is none. */
  timeout: between(0, 2),
  /** Milliseconds after which its caller leaves; 0 is none. */
  leaves: between(0, 80)
})
const Fault = Schema.Struct({
  at: between(0, 250),
  what: Schema.Literals([
    "cut",
    "toServer",
    "toClient",
    "truncateToServer",
    "truncateToClient",
    "stall",
    "slow",
    "down"
  ]),
  size: between(0, 60)
})
const Plan = Schema.Struct({
  calls: Schema.Array(Call).check(Schema.isMinLength(5), Schema.isMaxLength(40)),
  faults: Schema.Array(Fault).check(Schema.isMinLength(1), Schema.isMaxLength(5))
})

const inflict = Effect.fnUntraced(function* ({ proxy }: App, { at, size, what }: typeof Fault.Type) {
  yield* Effect.sleep(at)
  switch (what) {
    case "cut":
      return proxy.cut()
    case "toServer":
    case "toClient":
      return proxy.halfClose(what)
    case "truncateToServer":
      return proxy.truncate("toServer", size)
    case "truncateToClient":
      return proxy.truncate("toClient", size)
    case "stall":
      proxy.stall()
      yield* Effect.sleep(size)
      return proxy.flow()
    case "slow":
      return proxy.slow(size)
    case "down":
      proxy.isDown = true
      proxy.cut()
      yield* Effect.sleep(size)
      proxy.isDown = false
      return
  }
})

/** Whether a call may end so. */
const mayEnd = (exit: Exit.Exit<unknown, unknown>, { leaves, timeout }: typeof Call.Type): boolean => {
  if (Exit.isSuccess(exit)) return true
  if (Cause.hasInterruptsOnly(exit.cause)) return leaves > 0
  const reason = reasonOf(exit)
  if (reason?._tag === "DeadlineExceeded") return timeout > 0
  return reason?._tag === "TransportError"
}

describe("a remote handle, whatever happens to its connections", () => {
  it.live.prop(
    "ends every call once and in time, begins none twice, and leaves nothing behind",
    [Plan],
    ([{ calls, faults }]) =>
      Effect.gen(function* () {
        const app = yield* open({}, { rpc: { pingTimeout: "2 seconds" } })
        const { book, client, nothingIsLeft } = app
        const one = Effect.fnUntraced(function* (planned: typeof Call.Type, i: number) {
          const { at, leaves, millis, stream, timeout } = planned
          yield* Effect.sleep(at)
          const id = `${i}`
          const options = timeout === 0 ? {} : ({ timeout: `${timeout * 60} millis` } as const)
          const seen: Array<number> = []
          const reading = Stream.runForEach(client.count({ id, to: millis, millis: 2 }, options), (n) =>
            Effect.sync(() => seen.push(n))
          )
          const fiber = yield* call(stream ? reading : client.work({ id, millis }, options))
          const leaving = leaves === 0 ? undefined : yield* call(Effect.delay(Fiber.interrupt(fiber), leaves))
          const [exit, took] = yield* timed(Fiber.await(fiber))
          if (leaving !== undefined) yield* Fiber.await(leaving)
          assert.isTrue(mayEnd(exit, planned), `${String(exit)} of ${JSON.stringify(planned)}`)
          assert.deepStrictEqual(seen, upTo(seen.length))
          if (Exit.isSuccess(exit)) {
            assert.isTrue(book.completed.has(id))
            if (stream) assert.strictEqual(seen.length, millis)
          }
          if (timeout > 0 || leaves > 0) assert.isBelow(took, 3000)
          const why = reasonOf(exit)
          if (why?._tag === "TransportError" && !why.started) assert.isFalse(book.begun.has(id))
          return exit
        })
        const inflicting = yield* call(
          Effect.forEach(faults, (fault) => inflict(app, fault), { concurrency: "unbounded" })
        )
        const exits = yield* Effect.forEach(calls, one, { concurrency: "unbounded" })
        assert.strictEqual(exits.length, calls.length)
        yield* Fiber.join(inflicting)
        app.proxy.slow(0)
        yield* nothingIsLeft
        // Nobody may have noticed yet that the connection is gone.
        yield* Effect.retry(client.work({ id: "after", millis: 0 }), { times: 5 })
      }),
    { arbitrary: { runs: 4, size: 40 } }
  )
})

describe("a remote handle", { timeout: 20_000 }, () => {
  it.live("does not take a connection for dead while a large answer comes over it, however long that takes", () =>
    Effect.gen(function* () {
      const pingTimeout = "400 millis"
      const { client, proxy } = yield* open({ pingTimeout }, { rpc: { pingTimeout } })
      proxy.rate = 2000
      const [answer, took] = yield* timed(client.fetch({ id: "fetch", bytes: new Uint8Array(0), size: 3_000_000 }))
      assert.strictEqual(answer.length, 3_000_000)
      assert.isAtLeast(took, 1000)
    })
  )

  it.live("begins no call again because its handler fails with Unavailable of its own deployment", () =>
    Effect.gen(function* () {
      class Loop extends Deployment.Service<Loop>()("Loop", [Rpc.make("again", { success: Schema.Int })]) {}
      let begun = 0
      const why = new ServeError.Unavailable({ deployment: "Loop", why: "draining" })
      // As from a call that it makes to its own deployment.
      const live = Loop.toLayer({
        again: () => Effect.suspend(() => (begun++, Effect.fail(new ServeError.ServeError({ reason: why }))))
      })
      const ingress = HttpIngress.layerNode({ "/loop": Loop }, { port: 0, processGate: false })
      const { url } = Context.get(
        yield* Layer.build(ingress.pipe(Layer.provide(live), Layer.provideMerge(Quiet))),
        HttpIngress.Address
      )
      const client = Context.get(
        yield* Layer.build(Loop.toLayerRemote({ url, gracefulShutdownTimeout: 0 }).pipe(Layer.provide(Quiet))),
        Loop
      )
      const exit = yield* Effect.exit(client.again())
      assert.strictEqual(begun, 1)
      assert.include(String(exit), `Deployment "Loop" is unavailable`)
    })
  )
})
