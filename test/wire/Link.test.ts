/**
 * Both ends of a link, in one thread.
 *
 * Seen red for each of these mutations. Link: there is no window, or it is an element larger; no credit; a cancelled call is not
 * told, or not waited for, or not kept; each message is sent by itself; calls of a side that is gone go on, and calls to it are all
 * said to have begun, or compared with what it has sent itself; ids don't run over, or are compared as if they did not; what can't
 * be sent takes all of its turn along, or leaves its producer running; calls that ended stay; a call to a side that is gone is not
 * answered; all of a buffer is sent along with a part of it; the failure of a stream comes before its elements, or an end after a failure counts; spans are not given back. Crossing:
 * the clock of the caller is taken for the wall clock.
 */
import { assert, describe, it } from "@effect/vitest"
import { RequestContext } from "effect-serve"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import type { MessagePort } from "node:worker_threads"
import * as AppEnd from "../../src/wire/AppEnd.ts"
import type { Link } from "../../src/wire/Link.ts"
import * as MethodCodec from "../../src/wire/MethodCodec.ts"
import * as ThreadEnd from "../../src/wire/ThreadEnd.ts"
import { call, isDone } from "../deployments.ts"
import { until } from "../modules/app.ts"
import { Broken, Point } from "../modules/Probe.ts"

const codec = (options: Parameters<typeof Rpc.make>[1], name = "method") => MethodCodec.make(Rpc.make(name, options))

const one = codec({ payload: Schema.Any, success: Schema.Any, error: Broken })
const many = codec({ payload: Schema.Any, success: Schema.Any, error: Broken, stream: true })

type Work = (payload: any) => Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown>

/** What a side knows of its calls, which nothing of its surface shows. */
const open = (link: Link) => {
  type Calls = ReadonlyMap<number, unknown>
  const { outgoing, serving } = link as unknown as {
    readonly outgoing: Calls
    readonly serving: { readonly calls: Calls }
  }
  return serving.calls.size + outgoing.size
}

class Gone extends Error {
  readonly begun: boolean
  constructor(begun: boolean) {
    super(`begun: ${begun}`)
    this.begun = begun
  }
}

/** Serves on one side, and gives what the other side calls. */
const serving =
  (to: Link, from: Link) =>
  (target: string, work: Work, kind = one) => {
    to.served.set(target, { codec: kind, run: work, context: Context.empty() })
    return from.method(target, kind)
  }

/** Two sides that serve and call each other. `turns` are the messages that arrived at the second one. */
const connect = Effect.gen(function* () {
  const notes: Array<unknown> = []
  const { link, start } = (yield* AppEnd.make)((name, value) => notes.push([name, value]))
  const other = ThreadEnd.open(start)
  const turns: Array<ReadonlyArray<unknown>> = []
  start.port.on("message", (messages) => turns.push(messages))
  const closed = { app: false }
  const cut = Effect.promise(
    () =>
      new Promise<void>((resolve) => {
        const port = (link as unknown as { port: { port: MessagePort } }).port.port
        port.once("close", () => setImmediate(resolve))
        start.port.close()
      })
  )
  link.closeWithPeer(() => {
    closed.app = true
    return (begun) => Exit.fail(new Gone(begun))
  })
  yield* Effect.addFinalizer(() => Effect.suspend(() => (closed.app ? Effect.void : cut)))
  const serve = serving(other.link, link)
  const serveStream = (target: string, work: Work) =>
    serve(target, work, many) as (payload: unknown) => Stream.Stream<any, unknown>
  return {
    app: link,
    thread: other.link,
    notes,
    turns,
    cut,
    serve: serve as (target: string, work: Work) => (payload: unknown) => Effect.Effect<any, unknown>,
    serveStream,
    serveBack: serving(link, other.link) as (
      target: string,
      work: Work
    ) => (payload: unknown) => Effect.Effect<any, unknown>,
    isIdle: until(Effect.sync(() => open(link) === 0 && open(other.link) === 0))
  }
})

/** Lets messages come that are under way. */
const turn = Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))
const turns = (count: number) => Effect.forEach(Array.from({ length: count }), () => turn, { discard: true })

const defect = <A>(effect: Effect.Effect<A, unknown>) =>
  Effect.map(Effect.exit(effect), (exit) => {
    assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), "it dies")
    return Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Error).message : ""
  })

const begun = (fiber: Fiber.Fiber<unknown, unknown>) =>
  Effect.map(Effect.flip(Fiber.join(fiber)), (error) => (error instanceof Gone ? error.begun : error))

/** Elements that may be under way between threads. */
const WINDOW = 16

const unclonable = () => 1

const throws = () => {
  throw new TypeError("thrown")
}

/** A stream whose elements come one by one, and how many were made. */
const counted = (link: Effect.Success<typeof connect>) => {
  let made = 0
  const count = Stream.range(1, Infinity).pipe(
    Stream.rechunk(1),
    Stream.tap(() => Effect.sync(() => made++))
  )
  return { made: () => made, read: link.serveStream("count", () => count)(0) }
}

describe("Link", () => {
  describe("calls", () => {
    it.effect("the method of its target, and hands its answer back", () =>
      Effect.gen(function* () {
        const { isIdle, serve } = yield* connect
        const twice = serve("twice", (x: number) => Effect.succeed(2 * x))
        const fail = serve("fail", (part: string) => Effect.fail(new Broken({ part })))
        assert.strictEqual(yield* twice(4), 8)
        assert.deepStrictEqual(yield* Effect.flip(fail("a")), new Broken({ part: "a" }))
        yield* isIdle
      })
    )

    it.effect("begins calls in the order in which they were sent, and answers each when it is done", () =>
      Effect.gen(function* () {
        const { isIdle, serve } = yield* connect
        const begun: Array<number> = []
        const ends: Array<number> = []
        const gates = yield* Effect.forEach(Array.from({ length: 50 }), () => Deferred.make<void>())
        const wait = serve("wait", (i: number) => {
          begun.push(i)
          return Effect.as(Deferred.await(gates[i]!), i)
        })
        const callers = yield* Effect.forEach(gates, (_, i) =>
          call(Effect.tap(wait(i), (i: number) => Effect.sync(() => ends.push(i))))
        )
        yield* until(Effect.sync(() => begun.length === 50))
        const order = gates.map((_, i) => (i * 7) % 50)
        for (const i of order) {
          yield* Deferred.succeed(gates[i]!, undefined)
          yield* Fiber.join(callers[i]!)
        }
        assert.deepStrictEqual(
          begun,
          gates.map((_, i) => i)
        )
        assert.deepStrictEqual(ends, order)
        yield* isIdle
      })
    )

    it.effect("sends all messages of a turn together", () =>
      Effect.gen(function* () {
        const { serve, turns } = yield* connect
        const echo = serve("echo", (x) => Effect.succeed(x))
        const numbers = Array.from({ length: 100 }, (_, i) => i)
        assert.deepStrictEqual(yield* Effect.forEach(numbers, (i) => echo(i), { concurrency: "unbounded" }), numbers)
        assert.deepStrictEqual(
          turns.map(({ length }) => length),
          [100]
        )
      })
    )

    it.effect("and sends of bytes those that it is given alone, and not all of which they are a part", () =>
      Effect.gen(function* () {
        const { serve, turns } = yield* connect
        const whole = new Uint8Array(100_000).fill(7)
        const answer = yield* serve("part", () => Effect.succeed(whole.subarray(10, 20)))(whole.subarray(0, 5))
        assert.deepStrictEqual(answer, whole.slice(10, 20))
        const [[call]] = turns as unknown as [[ReadonlyArray<unknown>]]
        assert.strictEqual((call[3] as Uint8Array).buffer.byteLength, 5)
        assert.strictEqual(answer.buffer.byteLength, 10)
      })
    )

    it.effect("both ways at once", () =>
      Effect.gen(function* () {
        const { isIdle, serve, serveBack } = yield* connect
        const down = (n: number): Effect.Effect<number, unknown> => (n === 0 ? Effect.succeed(0) : up(n - 1))
        const up = serveBack("up", (n: number) => Effect.map(there(n), (m: number) => m + 1))
        const there = serve("down", down)
        const sums = yield* Effect.forEach([9, 5, 0, 12], (n) => there(n), { concurrency: "unbounded" })
        assert.deepStrictEqual(sums, [9, 5, 0, 12])
        yield* isIdle
      })
    )

    it.effect("on behalf of the caller's request, with its deadline on the clock of each side", () =>
      Effect.gen(function* () {
        const { serve } = yield* connect
        const look = serve("look", () => Effect.map(RequestContext.RequestContext, (request) => request))
        yield* TestClock.adjust("1 hour")
        const request: RequestContext.RequestContext = {
          requestId: "r",
          deadline: 3_600_000 + 5000,
          priority: "critical",
          tenant: "t",
          modelId: "m",
          sessionId: "s",
          route: "/",
          principal: { id: "p" },
          lastEventId: "7"
        }
        const seen: RequestContext.RequestContext = yield* Effect.provideService(
          look(0),
          RequestContext.RequestContext,
          request
        )
        assert.approximately(seen.deadline - Date.now(), 5000, 500)
        assert.deepStrictEqual(Object.assign(seen, { deadline: 0 }), Object.assign(request, { deadline: 0 }))
        assert.deepStrictEqual(yield* look(0), RequestContext.empty)
      })
    )

    it.effect("in the caller's trace, for as long as they last", () =>
      Effect.gen(function* () {
        const { app, serve } = yield* connect
        const { spans } = app as unknown as { readonly spans: { back: (span: unknown) => void } }
        const back: Array<unknown> = []
        spans.back = (span) => back.push(span)
        const span = serve("span", () => Effect.map(Effect.currentParentSpan, ({ spanId }) => spanId))
        const fail = serve("fail", () => Effect.fail(new Broken({ part: "a" })))
        const id = yield* Effect.gen(function* () {
          const { spanId } = yield* Effect.currentSpan
          assert.strictEqual(yield* span(0), spanId)
          yield* Effect.flip(fail(0))
          return spanId
        }).pipe(Effect.withSpan("caller"))
        assert.deepStrictEqual(
          back.map((span) => (span as { readonly spanId: string }).spanId),
          [id, id]
        )
      })
    )

    it.effect("fails with a defect when nothing is served by that name", () =>
      Effect.gen(function* () {
        const { app, isIdle } = yield* connect
        const nothing = app.method("Part.nothing", one)("x") as Effect.Effect<unknown>
        assert.include(yield* defect(nothing), `"Part.nothing"`)
        yield* isIdle
      })
    )

    it.effect("fails with a defect, before anything is sent, when the payload is not of its type", () =>
      Effect.gen(function* () {
        const { app, turns } = yield* connect
        const typed = codec({ payload: Point, success: Schema.Void }, "move")
        const move = app.method("move", typed)({ x: "1" }) as Effect.Effect<unknown>
        const message = yield* defect(move)
        assert.include(message, `"move"`)
        assert.include(message, "Expected")
        yield* turn
        assert.lengthOf(turns, 0)
        assert.strictEqual(open(app), 0)
      })
    )

    it.effect("fails with a defect when the other side has another type for the payload", () =>
      Effect.gen(function* () {
        const { app, isIdle, thread } = yield* connect
        const theirs = codec({ payload: Schema.Struct({ y: Schema.Int }), success: Schema.Void }, "move")
        thread.served.set("move", { codec: theirs, run: () => Effect.void, context: Context.empty() })
        const ours = app.method("move", codec({ payload: Schema.Struct({ x: Schema.Int }), success: Schema.Void }))
        const message = yield* defect(ours({ x: 1 }) as Effect.Effect<unknown>)
        for (const words of [`"move"`, `["y"]`]) assert.include(message, words)
        yield* isIdle
      })
    )

    const words = codec({ success: Schema.String, stream: true }, "words")
    it.effect("fails with a defect when an element is not of its type", () =>
      Effect.gen(function* () {
        const { app, isIdle, thread } = yield* connect
        let stopped = 0
        const run = () =>
          Stream.ensuring(
            Stream.make(1, 2),
            Effect.sync(() => stopped++)
          )
        thread.served.set("words", { codec: words, run, context: Context.empty() })
        const read = Stream.runDrain(app.method("words", words)(undefined) as Stream.Stream<unknown>)
        const message = yield* defect(read)
        for (const words of [`"words"`, "Expected string"]) assert.include(message, words)
        yield* isIdle
        assert.strictEqual(stopped, 1)
      })
    )

    it.effect("fails with a defect when the other side has another type for the elements", () =>
      Effect.gen(function* () {
        const { app, isIdle, thread } = yield* connect
        let stopped = 0
        // Slow, so that all of it has come before it is read.
        const read = Stream.runForEach(app.method("words", words)(undefined) as Stream.Stream<unknown>, () => turns(5))
        for (const end of [Stream.never, Stream.empty]) {
          const run = () =>
            Stream.make<ReadonlyArray<unknown>>("a", 1).pipe(
              Stream.rechunk(1),
              Stream.concat(end),
              Stream.ensuring(Effect.sync(() => stopped++))
            )
          thread.served.set("words", { codec: many, run, context: Context.empty() })
          const message = yield* defect(read)
          for (const words of [`"words"`, "Expected string"]) assert.include(message, words)
          yield* isIdle
        }
        assert.strictEqual(stopped, 2)
      }).pipe(Effect.timeout("2 seconds"), TestClock.withLive)
    )

    it.effect("fails with a defect when a handler throws or interrupts itself", () =>
      Effect.gen(function* () {
        const { isIdle, serve, serveStream } = yield* connect
        assert.include(yield* defect(serve("throws", throws)(0)), "thrown")
        assert.include(yield* defect(Stream.runDrain(serveStream("throwsMany", throws)(0))), "thrown")
        assert.include(yield* defect(serve("interrupts", () => Effect.interrupt)(0)), "interrupted itself")
        yield* isIdle
      })
    )
  })

  describe("streams", () => {
    it.effect("lets the producer be a window ahead of the reader, and not one element more", () =>
      Effect.gen(function* () {
        const link = yield* connect
        const { made, read } = counted(link)
        const pull = yield* Stream.toPull(read)
        let taken = 0
        for (let i = 0; i < 5; i++) {
          const chunk = yield* pull
          assert.strictEqual(chunk[0], taken + 1)
          taken += chunk.length
          yield* until(Effect.sync(() => made() >= taken + WINDOW))
          yield* turns(20)
          assert.strictEqual(made(), taken + WINDOW)
        }
      })
    )

    it.effect("gives a large chunk in parts", () =>
      Effect.gen(function* () {
        const { isIdle, serveStream } = yield* connect
        const elements = Array.from({ length: 3 * WINDOW + 5 }, (_, i) => i)
        const pull = yield* Stream.toPull(serveStream("chunk", () => Stream.fromArray(elements))(0))
        const sizes: Array<number> = []
        const taken: Array<number> = []
        while (taken.length < elements.length) {
          const chunk = yield* pull
          sizes.push(chunk.length)
          taken.push(...chunk)
          yield* turns(5)
        }
        assert.deepStrictEqual(sizes, [WINDOW, WINDOW, WINDOW, 5])
        assert.deepStrictEqual(taken, elements)
        yield* isIdle
      })
    )

    it.effect("delivers what came before it fails, however slow the reader", () =>
      Effect.gen(function* () {
        const { isIdle, serveStream } = yield* connect
        for (const count of [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 5 * WINDOW]) {
          const failing = Stream.concat(
            Stream.fromArray(Array.from({ length: count }, (_, i) => i)),
            Stream.fail(new Broken({ part: "end" }))
          )
          const taken: Array<number> = []
          const read = serveStream("failing", () => failing)(0)
          const error = yield* Effect.flip(
            Stream.runForEach(read, (i) =>
              Effect.andThen(
                turn,
                Effect.sync(() => taken.push(i))
              )
            )
          )
          assert.deepStrictEqual(error, new Broken({ part: "end" }))
          assert.lengthOf(taken, count)
        }
        yield* isIdle
      })
    )

    it.effect("keeps its element types", () =>
      Effect.gen(function* () {
        const { app, thread } = yield* connect
        const points = codec({ success: Point, stream: true })
        const point = Stream.make(new Point({ x: 1, y: 2 }))
        thread.served.set("points", { codec: points, run: () => point, context: Context.empty() })
        const [received] = yield* Stream.runCollect(app.method("points", points)(undefined) as Stream.Stream<unknown>)
        assert.instanceOf(received, Point)
      })
    )

    it.effect("is not held up by another one whose reader has stopped", () =>
      Effect.gen(function* () {
        const link = yield* connect
        const stuck = yield* Stream.toPull(counted(link).read)
        yield* stuck
        const other = link.serveStream("other", () => Stream.range(1, 200))(0)
        assert.lengthOf(yield* Stream.runCollect(other), 200)
        assert.strictEqual(yield* link.serve("echo", (x) => Effect.succeed(x))(1), 1)
      })
    )
  })

  describe("interruption", () => {
    it.effect("waits until the work over there has ended", () =>
      Effect.gen(function* () {
        const { isIdle, serve } = yield* connect
        const begun = yield* Deferred.make<void>()
        const gate = yield* Deferred.make<void>()
        const work = serve("work", () =>
          Effect.onInterrupt(Effect.andThen(Deferred.succeed(begun, undefined), Effect.never), () =>
            Deferred.await(gate)
          )
        )
        const caller = yield* call(work(0))
        yield* Deferred.await(begun)
        const leaving = yield* call(Fiber.interrupt(caller))
        yield* turns(10)
        assert.isFalse(isDone(leaving))
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(leaving)
        yield* isIdle
      })
    )

    const kinds: Record<string, Work> = {
      "that succeeds at once": () => Effect.succeed(1),
      "that takes some turns": () => Effect.andThen(turns(3), Effect.succeed(1)),
      "that takes some turns to stop": () => Effect.onInterrupt(Effect.never, () => turns(3)),
      "that can't be interrupted": () => Effect.uninterruptible(turns(4)),
      "that calls back": () => Effect.never,
      "that streams": () => Stream.range(1, 100).pipe(Stream.rechunk(7)),
      "that streams for ever": () => Stream.forever(Stream.make(1, 2, 3)),
      "that streams nothing": () => Stream.fromEffect(Effect.onInterrupt(Effect.never, () => turns(2)))
    }
    for (const [what, work] of Object.entries(kinds)) {
      it.effect(`leaves nothing behind of a call ${what}, whenever it comes`, () =>
        Effect.gen(function* () {
          const { app, isIdle, serve, serveBack, serveStream, thread } = yield* connect
          let begun = 0
          let ended = 0
          const around = (effect: Effect.Effect<unknown, unknown>) =>
            Effect.ensuring(
              Effect.andThen(
                Effect.sync(() => begun++),
                effect
              ),
              Effect.sync(() => ended++)
            )
          const back = serveBack("back", () => around(Effect.onInterrupt(Effect.never, () => turns(2))))
          const run = (payload: unknown) => {
            const made = what === "that calls back" ? back(payload) : work(payload)
            if (Effect.isEffect(made)) return around(made)
            begun++
            return Stream.ensuring(
              made,
              Effect.sync(() => ended++)
            )
          }
          const invoke = what.includes("streams")
            ? (steps: number) => Stream.runForEach(Stream.take(serveStream("work", run)(0), steps + 1), () => turns(1))
            : () => serve("work", run)(0)
          for (let steps = 0; steps < 24; steps++) {
            const caller = yield* call(invoke(steps))
            for (let i = 0; i < steps % 4; i++) yield* Effect.yieldNow
            yield* turns(steps >> 2)
            yield* Fiber.interrupt(caller)
            assert.deepStrictEqual([open(app), open(thread)], [0, 0], `after ${steps} steps`)
            assert.strictEqual(begun, ended, `after ${steps} steps`)
          }
          yield* isIdle
          assert.isAtLeast(begun, 8)
        })
      )
    }

    it.effect("ends the stream of a reader that has had enough", () =>
      Effect.gen(function* () {
        const { isIdle, serveStream } = yield* connect
        let stopped = 0
        const forever = Stream.ensuring(
          Stream.forever(Stream.make(1)),
          Effect.sync(() => stopped++)
        )
        assert.lengthOf(yield* Stream.runCollect(Stream.take(serveStream("forever", () => forever)(0), 40)), 40)
        assert.strictEqual(stopped, 1)
        yield* isIdle
      })
    )
  })

  describe("a value that can't be sent", () => {
    it.effect("fails its own call, and none of those that were to go along", () =>
      Effect.gen(function* () {
        const { isIdle, serve } = yield* connect
        const echo = serve("echo", (x) => Effect.succeed(x))
        const callers = yield* Effect.forEach([1, unclonable, 2], (x) => call(Effect.exit(echo(x))))
        const [first, second, third] = yield* Fiber.joinAll(callers)
        assert.deepStrictEqual([first, third], [Exit.succeed(1), Exit.succeed(2)])
        assert.include(yield* defect(second!), "can't be sent")
        yield* isIdle
      })
    )

    it.effect("fails the call whose result it is, and no other one", () =>
      Effect.gen(function* () {
        const { isIdle, serve } = yield* connect
        const made = serve("make", (x) => Effect.succeed(x === "bad" ? unclonable : x))
        const callers = yield* Effect.forEach([1, "bad", 2], (x) => call(Effect.exit(made(x))))
        const [first, second, third] = yield* Fiber.joinAll(callers)
        assert.deepStrictEqual([first, third], [Exit.succeed(1), Exit.succeed(2)])
        assert.include(yield* defect(second!), "can't be sent")
        yield* isIdle
      })
    )

    it.effect("fails the stream whose element it is, and stops its producer", () =>
      Effect.gen(function* () {
        const { isIdle, serveStream } = yield* connect
        let stopped = 0
        const bad = Stream.make<ReadonlyArray<unknown>>(1, 2).pipe(
          Stream.rechunk(1),
          Stream.concat(Stream.make(unclonable)),
          Stream.concat(Stream.never),
          Stream.ensuring(Effect.sync(() => stopped++))
        )
        assert.include(yield* defect(Stream.runDrain(serveStream("bad", () => bad)(0))), "can't be sent")
        yield* isIdle
        assert.strictEqual(stopped, 1)
      })
    )

    it.effect("is left out when it is a note", () =>
      Effect.gen(function* () {
        const { notes, thread } = yield* connect
        thread.note("a", 1)
        thread.note("b", unclonable)
        thread.note("c", 3)
        yield* until(Effect.sync(() => notes.length > 1))
        yield* turns(3)
        assert.deepStrictEqual(notes, [
          ["a", 1],
          ["c", 3]
        ])
      })
    )
  })

  describe("when the other side is gone", () => {
    it.effect("ends calls with whether they had begun", () =>
      Effect.gen(function* () {
        const { app, cut, serve } = yield* connect
        const never = serve("never", () => Effect.never)
        const there = [yield* call(never(1)), yield* call(never(2))]
        yield* turns(5)
        // Its port closes before it takes these.
        const unbegun = [yield* call(never(3)), yield* call(never(4))]
        yield* cut
        assert.deepStrictEqual(yield* Effect.forEach(there, begun), [true, true])
        assert.deepStrictEqual(yield* Effect.forEach(unbegun, begun), [false, false])
        assert.strictEqual(open(app), 0)
        assert.isFalse(yield* begun(yield* call(never(5))))
      })
    )

    it.effect("tells so of each side's own calls, whatever the other one has begun of the other's", () =>
      Effect.gen(function* () {
        const { cut, serve, serveBack } = yield* connect
        const back = serveBack("back", () => Effect.never)
        const never = serve("never", (calls: number) =>
          Effect.all([Effect.never, ...Array.from({ length: calls }, () => back(0))], { concurrency: "unbounded" })
        )
        // The numbers of the calls back are lower than that of the last call, or higher.
        const few = [yield* call(never(0)), yield* call(never(0)), yield* call(never(1))]
        yield* turns(5)
        const later = yield* call(never(30))
        yield* turns(5)
        const unbegun = [yield* call(never(1)), yield* call(never(1))]
        yield* cut
        assert.deepStrictEqual(yield* Effect.forEach([...few, later], begun), [true, true, true, true])
        assert.deepStrictEqual(yield* Effect.forEach(unbegun, begun), [false, false])
      })
    )

    it.effect("tells so when the numbers of calls have run over", () =>
      Effect.gen(function* () {
        const { app, cut, serve } = yield* connect
        const numbers = app as unknown as { lastId: number }
        numbers.lastId = 2 ** 31 - 3
        const never = serve("never", () => Effect.never)
        const echo = serve("echo", (x) => Effect.succeed(x))
        const there = [yield* call(never(0)), yield* call(never(0)), yield* call(never(0))]
        assert.deepStrictEqual(yield* Effect.forEach([1, 2, 3, 4], (x) => echo(x)), [1, 2, 3, 4])
        assert.isBelow(numbers.lastId, 0)
        const unbegun = yield* call(never(0))
        yield* cut
        assert.deepStrictEqual(yield* Effect.forEach(there, begun), [true, true, true])
        assert.isFalse(yield* begun(unbegun))
      })
    )

    it.effect("ends streams, after the elements that have come", () =>
      Effect.gen(function* () {
        const { cut, serveStream } = yield* connect
        const some = serveStream("some", () => Stream.concat(Stream.range(1, 5), Stream.never))
        const taken: Array<number> = []
        const reader = yield* call(
          Stream.runForEach(some(0), (i) =>
            Effect.andThen(
              turn,
              Effect.sync(() => taken.push(i))
            )
          )
        )
        yield* until(Effect.sync(() => taken.length >= 1))
        yield* cut
        assert.isTrue(yield* begun(reader))
        assert.deepStrictEqual(taken, [1, 2, 3, 4, 5])
      })
    )

    it.effect("interrupts the calls that came from there", () =>
      Effect.gen(function* () {
        const { app, cut, serve, serveBack } = yield* connect
        const stopped: Array<string> = []
        const back = serveBack("back", () =>
          Effect.onInterrupt(Effect.never, () => Effect.sync(() => stopped.push("back")))
        )
        const caller = yield* call(serve("work", () => back(0))(0))
        yield* turns(6)
        yield* cut
        assert.isTrue(yield* begun(caller))
        yield* turns(2)
        assert.deepStrictEqual(stopped, ["back"])
        assert.strictEqual(open(app), 0)
      })
    )

    it.effect("lets go of those who wait for the end of what they interrupted", () =>
      Effect.gen(function* () {
        const { cut, serve } = yield* connect
        const caller = yield* call(serve("work", () => Effect.uninterruptible(Effect.never))(0))
        yield* turns(3)
        const leaving = yield* call(Fiber.interrupt(caller))
        yield* turns(3)
        assert.isFalse(isDone(leaving))
        yield* cut
        yield* Fiber.join(leaving)
      })
    )

    it.effect("leaves nothing behind, whenever that is", () =>
      Effect.gen(function* () {
        for (let steps = 0; steps < 16; steps++) {
          yield* Effect.scoped(
            Effect.gen(function* () {
              const { app, cut, serve, serveBack, serveStream } = yield* connect
              const back = serveBack("back", () => turns(2))
              const callers = [
                yield* call(serve("work", () => back(0))(0)),
                yield* call(serve("slow", () => turns(8))(0)),
                yield* call(Stream.runDrain(serveStream("count", () => Stream.forever(Stream.make(1)))(0)))
              ]
              yield* turns(steps >> 1)
              if (steps % 2 === 1) for (const caller of callers) caller.interruptUnsafe()
              yield* cut
              for (const caller of callers) yield* Fiber.await(caller)
              yield* turns(3)
              assert.strictEqual(open(app), 0, `after ${steps} steps`)
            })
          )
        }
      })
    )
  })
})
