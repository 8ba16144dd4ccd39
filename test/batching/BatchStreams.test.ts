/**
 * Seen red for each of these mutations: a row is taken that is too long or too short ("by a row that is"); none doesn't end a
 * stream, or ends them all ("comes for the caller whose cell is none"); rows go on when nobody wants one ("of all ends the
 * rows"); an element without room is lost, or the end of the rows ends no stream ("gives each caller its column"); buffers have
 * no bound ("waits until a slow reader"), or 17 by default ("has a buffer of 16"); who leaves doesn't free the producer ("frees
 * the others when it leaves"), or isn't heard ("after some elements is no longer there"); a run that throws isn't caught ("by a
 * run that throws"); a batch has no scope ("in a scope of the batch's own"); a run is never interrupted ("as the last one has
 * interrupted"), or by the first who leaves ("after a caller has left"); slots aren't given back, or are one too many ("of all
 * ends the rows"); one more waits than may ("with QueueFull"); a late item waits, or runs ("an item whose deadline has passed");
 * run is told the earliest deadline ("the latest deadline"); a drain waits for batchWaitTimeout ("runs what waits without"), or
 * interrupts callers ("fails what still waits and what still streams").
 */
import { assert, describe, it } from "@effect/vitest"
import { Batching, Deployment, RequestContext, ServeError } from "effect-serve"
import { Cause, Context, Effect, Exit, Fiber, Option, Schema, Scheduler, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { answered, Broken, call, isDone, open, reason, settle } from "../deployments.ts"

/** An item whose column has so many elements. */
interface Item {
  readonly name: string
  readonly length: number
}

const item = (name: string, length: number): Item => ({ name, length })

const column = ({ length, name }: Item) => Array.from({ length }, (_, i) => `${name}${i + 1}`)

/** As many rows as the longest column has elements. */
const rowsOf = (items: ReadonlyArray<Item>) => {
  const columns = items.map(column)
  return Array.from({ length: Math.max(...items.map(({ length }) => length)) }, (_, i) =>
    columns.map((elements) => Option.fromUndefinedOr(elements[i]))
  )
}

const oneByOne = <A>(elements: ReadonlyArray<A>) => Stream.rechunk(Stream.fromIterable(elements), 1)

const rows = (items: ReadonlyArray<Item>) => oneByOne(rowsOf(items))

/** A row every ten milliseconds. */
const paced = <A, E, R>(stream: Stream.Stream<A, E, R>) =>
  Stream.mapEffect(stream, (row) => Effect.as(Effect.sleep(10), row))

/** A batcher whose items hardly wait for others, and that waits for nothing at its end, unless a test says so. */
const make = <A, B, E = never, R = never>(options: Batching.StreamOptions<A, B, E, R>) =>
  Batching.makeStream({ maxBatchSize: 1, batchWaitTimeout: 1, gracefulShutdownTimeout: 0, ...options })

/** Notes when each batch begins, which rows it makes, and how it ends. */
const noted =
  (log: Array<string>, run = rows) =>
  (items: ReadonlyArray<Item>) => {
    const names = items.map(({ name }) => name).join("")
    return Stream.suspend(() => {
      log.push(`start ${names}`)
      return run(items)
    }).pipe(
      Stream.onExit((exit) =>
        Effect.sync(() =>
          log.push(`${Exit.isSuccess(exit) ? "end" : Exit.hasInterrupts(exit) ? "stop" : "fail"} ${names}`)
        )
      )
    )
  }

/** Starts to read a stream, and keeps what was read. */
const read = Effect.fnUntraced(function* <A, E>(stream: Stream.Stream<A, E>) {
  const seen: Array<A> = []
  const fiber = yield* call(Stream.runForEach(stream, (element) => Effect.sync(() => seen.push(element))))
  return { seen, fiber }
})

const readAll = <A, E>(streams: ReadonlyArray<Stream.Stream<A, E>>) => Effect.forEach(streams, read)

/** Reads a stream to its end, as time passes. */
const readAlone = Effect.fnUntraced(function* <A, E>(stream: Stream.Stream<A, E>) {
  const { fiber, seen } = yield* read(stream)
  yield* TestClock.adjust("1 second")
  return yield* Effect.as(Fiber.join(fiber), seen)
})

/** Passes time in small steps, as fibers that yield often need it. */
const passUntilDone = Effect.fnUntraced(function* (fibers: ReadonlyArray<Fiber.Fiber<unknown, unknown>>) {
  for (let i = 0; i < 500 && !fibers.every(isDone); i++) yield* TestClock.adjust(10)
  assert.isTrue(fibers.every(isDone), "someone still waits")
  yield* settle
})

const within = (deadline: number) =>
  Stream.provideService(RequestContext.RequestContext, Object.assign({}, RequestContext.empty, { deadline }))

const failure = (exit: Exit.Exit<unknown, unknown> | undefined) => {
  assert.isTrue(exit !== undefined && Exit.isFailure(exit))
  const error = Cause.squash((exit as Exit.Failure<unknown, unknown>).cause)
  return error instanceof ServeError.ServeError ? error.reason : error
}

/** Rows that go on after everyone's have ended. */
const endless = (items: ReadonlyArray<Item>) =>
  Stream.concat(rows(items), Stream.fromEffectRepeat(Effect.succeed(items.map(() => Option.none<string>()))))

/** Takes some time to close. */
const slowly = <A, E>(stream: Stream.Stream<A, E>, millis = 100) => Stream.ensuring(stream, Effect.sleep(millis))

/** Rows without end, counted when they are made. */
const counted = () => {
  const made = { count: 0 }
  const run = (chunk: number) => (items: ReadonlyArray<string>) =>
    Stream.range(1, Infinity).pipe(
      Stream.rechunk(1),
      Stream.map((i) => {
        made.count++
        return items.map((name) => Option.some(`${name}${i}`))
      }),
      chunk === 1 ? (stream) => stream : Stream.rechunk(chunk)
    )
  return { made, run }
}

const draining = new ServeError.Unavailable({ deployment: "batcher", why: "draining" })

const small = (maximum: number, minimum = 0) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

describe("Batching", () => {
  describe("makeStream", () => {
    it.effect.each([0, 1, 2, 5, 1000])("gives each caller its column of %i elements, in order", (length) =>
      Effect.gen(function* () {
        for (const run of [rows, (items: ReadonlyArray<Item>) => Stream.fromIterable(rowsOf(items))]) {
          const batched = yield* make({ maxBatchSize: 3, run })
          const items = ["a", "b", "c"].map((name) => item(name, length))
          const columns = yield* Effect.forEach(items, (each) => Stream.runCollect(batched(each)), {
            concurrency: "unbounded"
          })
          assert.deepStrictEqual(columns, items.map(column))
          assert.deepInclude(yield* batched.state, { queued: 0, running: 0, items: 3, wasted: 0 })
        }
      })
    )

    it.effect("submits nothing until a stream is read, and an item each time that it is", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const batched = yield* make({ run: noted(log) })
        const stream = batched(item("a", 2))
        yield* TestClock.adjust("1 minute")
        assert.deepInclude(yield* batched.state, { queued: 0, running: 0, items: 0 })
        assert.deepStrictEqual(yield* Stream.runCollect(stream), ["a1", "a2"])
        assert.deepStrictEqual(yield* Stream.runCollect(stream), ["a1", "a2"])
        assert.deepStrictEqual(log, ["start a", "end a", "start a", "end a"])
      })
    )

    it.effect("hands each element on when its row is there", () =>
      Effect.gen(function* () {
        const batched = yield* make({ maxBatchSize: 2, run: (items: ReadonlyArray<Item>) => paced(rows(items)) })
        const [a, b] = yield* readAll([batched(item("a", 2)), batched(item("b", 2))])
        yield* TestClock.adjust(9)
        assert.deepStrictEqual([a!.seen, b!.seen], [[], []])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual([a!.seen, b!.seen], [["a1"], ["b1"]])
        yield* TestClock.adjust(10)
        assert.deepStrictEqual([a!.seen, b!.seen], [column(item("a", 2)), column(item("b", 2))])
        assert.isTrue(isDone(a!.fiber) && isDone(b!.fiber))
      })
    )

    it.effect("waits for others, as long as batchWaitTimeout and no longer", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const batched = yield* make({ maxBatchSize: 3, batchWaitTimeout: 20, run: noted(log) })
        yield* read(batched(item("a", 1)))
        yield* TestClock.adjust(15)
        yield* read(batched(item("b", 1)))
        yield* TestClock.adjust(4)
        assert.deepStrictEqual(log, [])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(log, ["start ab", "end ab"])
        yield* readAll(["c", "d", "e"].map((name) => batched(item(name, 1))))
        yield* settle
        assert.deepStrictEqual(log.slice(2), ["start cde", "end cde"])
      })
    )

    it.effect("puts only items with equal keys into the same rows", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const batched = yield* make({ maxBatchSize: 2, key: ({ length }) => length, run: noted(log) })
        const readers = yield* readAll([1, 2, 1, 2].map((length, i) => batched(item("abcd"[i]!, length))))
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(log, ["start ac", "end ac", "start bd", "end bd"])
        assert.deepStrictEqual(
          readers.map(({ seen }) => seen),
          [["a1"], ["b1", "b2"], ["c1"], ["d1", "d2"]]
        )
      })
    )

    it.effect("runs in the services of the layer that makes it, not in those of its callers", () =>
      Effect.gen(function* () {
        class Model extends Context.Service<Model, { readonly name: string }>()("Model") {}
        const batched = yield* make({
          run: (items: ReadonlyArray<string>) =>
            Stream.fromEffect(Effect.map(Model, ({ name }) => items.map((each) => Option.some(each + name))))
        }).pipe(Effect.provideService(Model, { name: "one" }))
        const caller = Stream.runCollect(batched("model "))
        assert.deepStrictEqual(yield* Effect.provideService(caller, Model, { name: "other" }), ["model one"])
      })
    )

    it.effect("runs in a scope of the batch's own, which closes at its end", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const batched = yield* make({
          run: (items: ReadonlyArray<Item>) =>
            Stream.unwrap(
              Effect.as(
                Effect.addFinalizer(() => Effect.sync(() => log.push("closed"))),
                rows(items)
              )
            )
        })
        assert.deepStrictEqual(yield* Stream.runCollect(batched(item("a", 2))), ["a1", "a2"])
        yield* settle
        assert.deepStrictEqual(log, ["closed"])
        const effectful = yield* make({
          run: (items: ReadonlyArray<Item>) =>
            Stream.mapEffect(rows(items), (row) =>
              Effect.as(
                Effect.addFinalizer(() => Effect.sync(() => log.push("closed a row"))),
                row
              )
            )
        })
        assert.deepStrictEqual(yield* Stream.runCollect(effectful(item("a", 2))), ["a1", "a2"])
        yield* settle
        assert.deepStrictEqual(log, ["closed", "closed a row", "closed a row"])
      })
    )

    describe("an early end", () => {
      it.effect("comes for the caller whose cell is none, while the others go on", () =>
        Effect.gen(function* () {
          const batched = yield* make({ maxBatchSize: 3, run: (items: ReadonlyArray<Item>) => paced(rows(items)) })
          const readers = yield* readAll([2, 0, 4].map((length, i) => batched(item("abc"[i]!, length))))
          const done: Array<string> = []
          for (let row = 0; row <= 4; row++) {
            done.push(readers.map(({ fiber }) => (isDone(fiber) ? "-" : "+")).join(""))
            yield* TestClock.adjust(10)
          }
          assert.deepStrictEqual(done, ["+++", "+-+", "+-+", "--+", "---"])
          assert.deepStrictEqual(
            readers.map(({ seen }) => seen.length),
            [2, 0, 4]
          )
          assert.isTrue(readers.every(({ fiber }) => Exit.isSuccess(fiber.pollUnsafe()!)))
        })
      )

      it.effect("is final: what comes later in that column is nobody's", () =>
        Effect.gen(function* () {
          const cell = Option.some
          const batched = yield* make<string, number>({
            maxBatchSize: 2,
            run: () =>
              oneByOne([
                [cell(1), cell(10)],
                [Option.none(), cell(20)],
                [cell(3), cell(30)]
              ])
          })
          const [a, b] = yield* readAll([batched("a"), batched("b")])
          yield* settle
          assert.deepStrictEqual([a!.seen, b!.seen], [[1], [10, 20, 30]])
        })
      )

      it.effect("of all ends the rows, and what made them is closed before the slot is free", () =>
        Effect.gen(function* () {
          const log: Array<string> = []
          const batched = yield* make({ maxBatchSize: 2, run: noted(log, (items) => slowly(endless(items))) })
          const readers = yield* readAll([batched(item("a", 1)), batched(item("b", 2))])
          yield* settle
          assert.isTrue(readers.every(({ fiber }) => isDone(fiber)))
          assert.strictEqual((yield* batched.state).running, 1)
          yield* read(batched(item("c", 1)))
          yield* TestClock.adjust(99)
          assert.deepStrictEqual(log, ["start ab"])
          yield* TestClock.adjust(1)
          assert.deepInclude(log, "start c")
          yield* TestClock.adjust(100)
          assert.strictEqual((yield* batched.state).running, 0)
        })
      )
    })

    describe("a failure", () => {
      const kinds: ReadonlyArray<
        readonly [
          string,
          (items: ReadonlyArray<Item>) => Stream.Stream<ReadonlyArray<Option.Option<string>>, Broken>,
          unknown
        ]
      > = [
        ["of run", () => Stream.fail(new Broken({ part: "wheel" })), new Broken({ part: "wheel" })],
        ["that is a defect", () => Stream.die("boom"), "boom"],
        [
          "by a row that is too short",
          () => Stream.make([Option.some("short")]),
          new ServeError.BatchContract({ expected: 3, received: 1 })
        ],
        [
          "by a row that is too long",
          () => Stream.make(["b", "c", "x", "y"].map(Option.some)),
          new ServeError.BatchContract({ expected: 3, received: 4 })
        ],
        ["by an empty row", () => Stream.make([]), new ServeError.BatchContract({ expected: 3, received: 0 })],
        ["by an interruption from inside", () => Stream.fromEffect(Effect.interrupt), undefined],
        ["by a row that is none", () => Stream.make(null as unknown as []), undefined]
      ]

      for (const [name, fail, expected] of kinds) {
        it.effect(`${name} comes after the elements before it, to all whose streams haven't ended`, () =>
          Effect.gen(function* () {
            let runs = 0
            const batched = yield* make({
              maxBatchSize: 3,
              run: (items: ReadonlyArray<Item>) =>
                runs++ > 0
                  ? rows(items)
                  : Stream.concat(
                      rows(items),
                      Stream.suspend(() => fail(items))
                    )
            })
            const readers = yield* readAll([1, 2, 2].map((length, i) => batched(item("abc"[i]!, length))))
            yield* settle
            assert.deepStrictEqual(
              readers.map(({ seen }) => seen),
              [["a1"], ["b1", "b2"], ["c1", "c2"]]
            )
            const [a, b, c] = readers.map(({ fiber }) => fiber.pollUnsafe())
            assert.deepStrictEqual(a, Exit.void)
            assert.deepStrictEqual(failure(b), failure(c))
            if (expected === undefined) assert.instanceOf(failure(b), Error)
            else assert.deepStrictEqual(failure(b), expected)
            assert.isFalse(Exit.hasInterrupts(b!))
            assert.strictEqual((yield* batched.state).running, 0)
            assert.deepStrictEqual(yield* readAlone(batched(item("d", 2))), ["d1", "d2"])
          })
        )
      }

      it.effect("by a run that throws is a defect of all, and the next batch works", () =>
        Effect.gen(function* () {
          let runs = 0
          const batched = yield* make({
            maxBatchSize: 2,
            run: (items: ReadonlyArray<Item>) => {
              if (runs++ === 0) throw new Error("thrown")
              return rows(items)
            }
          })
          const readers = yield* readAll([batched(item("a", 1)), batched(item("b", 1))])
          yield* settle
          for (const { fiber } of readers) assert.deepStrictEqual(fiber.pollUnsafe(), Exit.die(new Error("thrown")))
          assert.deepStrictEqual(yield* readAlone(batched(item("c", 1))), ["c1"])
        })
      )

      it.effect("waits until a slow reader has what came before it", () =>
        Effect.gen(function* () {
          const batched = yield* make({
            bufferSize: 2,
            run: (items: ReadonlyArray<Item>) => Stream.concat(rows(items), Stream.fail(new Broken({ part: "wheel" })))
          })
          const pull = yield* Stream.toPull(batched(item("a", 3)))
          const chunks = [yield* pull]
          yield* TestClock.adjust("1 hour")
          chunks.push(yield* pull)
          assert.deepStrictEqual(chunks.flat(), ["a1", "a2", "a3"])
          assert.deepStrictEqual(yield* Effect.flip(pull), new Broken({ part: "wheel" }))
          assert.isTrue(Exit.isFailure(yield* Effect.exit(pull)))
        })
      )

      it.effect("after a caller has left doesn't disturb the next batch", () =>
        Effect.gen(function* () {
          const batched = yield* make({
            maxBatchSize: 2,
            run: (items: ReadonlyArray<Item>) =>
              items[0]!.name === "a"
                ? Stream.concat(paced(rows(items)), Stream.fail(new Broken({ part: "" })))
                : rows(items)
          })
          const [a, b] = yield* readAll([batched(item("a", 1)), batched(item("b", 1))])
          yield* Fiber.interrupt(a!.fiber)
          yield* TestClock.adjust(20)
          assert.deepStrictEqual(failure(b!.fiber.pollUnsafe()), new Broken({ part: "" }))
          assert.deepStrictEqual(yield* readAlone(batched(item("c", 1))), ["c1"])
        })
      )
    })

    describe("a caller that leaves", () => {
      it.effect("after some elements is no longer there, and nobody else notices", () =>
        Effect.gen(function* () {
          const batched = yield* make({ maxBatchSize: 3, run: (items: ReadonlyArray<Item>) => paced(rows(items)) })
          const items = ["a", "b", "c"].map((name) => item(name, 4))
          const [a, b, c] = yield* readAll([batched(items[0]!), Stream.take(batched(items[1]!), 2), batched(items[2]!)])
          yield* TestClock.adjust(20)
          assert.deepStrictEqual(
            [a, b, c].map((each) => isDone(each!.fiber)),
            [false, true, false]
          )
          assert.deepInclude(yield* batched.state, { running: 1, wasted: 1 })
          yield* TestClock.adjust(20)
          assert.deepStrictEqual([a!.seen, b!.seen, c!.seen], [column(items[0]!), ["b1", "b2"], column(items[2]!)])
          assert.deepInclude(yield* batched.state, { running: 0, wasted: 1 })
        })
      )

      it.effect("by interruption goes on at once, and so do the others", () =>
        Effect.gen(function* () {
          const log: Array<string> = []
          const batched = yield* make({
            maxBatchSize: 2,
            run: noted(log, (items: ReadonlyArray<Item>) => paced(rows(items)))
          })
          const [a, b] = yield* readAll([batched(item("a", 3)), batched(item("b", 3))])
          yield* TestClock.adjust(15)
          yield* Fiber.interrupt(a!.fiber)
          assert.deepStrictEqual(log, ["start ab"])
          yield* TestClock.adjust(15)
          assert.deepStrictEqual([a!.seen, b!.seen], [["a1"], ["b1", "b2", "b3"]])
          assert.deepStrictEqual(log, ["start ab", "end ab"])
        })
      )

      it.effect("before its batch is cut is never in one", () =>
        Effect.gen(function* () {
          const log: Array<string> = []
          const batched = yield* make({ maxBatchSize: 3, batchWaitTimeout: 10, run: noted(log) })
          const readers = yield* readAll(["a", "b"].map((name) => batched(item(name, 1))))
          yield* Fiber.interrupt(readers[0]!.fiber)
          assert.deepInclude(yield* batched.state, { queued: 1, dropped: { left: 1, expired: 0 } })
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(log, ["start b", "end b"])
        })
      )

      it.effect("as the last one has interrupted the run before it goes on, and the slot is free", () =>
        Effect.gen(function* () {
          const log: Array<string> = []
          const batched = yield* make({ maxBatchSize: 2, run: noted(log, (items) => slowly(paced(rows(items)), 50)) })
          const [a, b] = yield* readAll([batched(item("a", 9)), Stream.take(batched(item("b", 9)), 1)])
          yield* TestClock.adjust(10)
          assert.isTrue(isDone(b!.fiber))
          const leaving = yield* call(Fiber.interrupt(a!.fiber))
          yield* read(batched(item("c", 1)))
          yield* TestClock.adjust(49)
          assert.isFalse(isDone(leaving))
          assert.deepStrictEqual(log, ["start ab"])
          assert.deepInclude(yield* batched.state, { running: 1, queued: 1 })
          yield* TestClock.adjust(1)
          assert.isTrue(isDone(leaving))
          assert.deepStrictEqual(log, ["start ab", "stop ab", "start c"])
          yield* TestClock.adjust(60)
          assert.deepInclude(yield* batched.state, { running: 0, queued: 0, wasted: 2 })
        })
      )

      it.effect("leaves the run alone that has begun to end", () =>
        Effect.gen(function* () {
          const log: Array<string> = []
          const batched = yield* make({ run: noted(log, (items) => slowly(rows(items), 50)) })
          const pull = yield* Effect.provideService(
            Stream.toPull(batched(item("a", 1))),
            Scope.Scope,
            yield* Scope.make()
          )
          yield* pull
          const end = yield* call(Effect.exit(pull))
          yield* TestClock.adjust(50)
          assert.isTrue(isDone(end))
          assert.deepStrictEqual(log, ["start a", "end a"])
        })
      )
    })

    describe("a slow reader", () => {
      for (const bufferSize of [1, 3, 16]) {
        for (const chunk of [1, 4]) {
          it.effect(`stops the rows, at most ${bufferSize} and a pull of ${chunk} ahead of it`, () =>
            Effect.gen(function* () {
              const { made, run } = counted()
              const batched = yield* make({ bufferSize, run: run(chunk) })
              const pull = yield* Stream.toPull(batched("a"))
              let count = 0
              for (let i = 0; i < 5; i++) {
                count += (yield* pull).length
                yield* TestClock.adjust("1 minute")
                assert.isAtMost(made.count, count + bufferSize + chunk)
                assert.isAtLeast(made.count, count + bufferSize)
              }
            })
          )
        }
      }

      it.effect("has a buffer of 16 by default", () =>
        Effect.gen(function* () {
          const { made, run } = counted()
          const batched = yield* make({ run: run(1) })
          const pull = yield* Stream.toPull(batched("a"))
          const { length } = yield* pull
          yield* settle
          assert.strictEqual(made.count, length + 17)
        })
      )

      it.effect("is what the others of its batch wait for, until it reads", () =>
        Effect.gen(function* () {
          const { made, run } = counted()
          const batched = yield* make({ maxBatchSize: 3, bufferSize: 2, run: run(1) })
          const pull = yield* Effect.forkChild(
            Effect.flatMap(Stream.toPull(batched("b")), (pull) => Effect.as(pull, pull))
          )
          const a = yield* read(batched("a"))
          const c = yield* read(batched("c"))
          const slow = yield* Fiber.join(pull)
          yield* TestClock.adjust("1 minute")
          const before = made.count
          // A read takes what is there, so two may be in the hands of the reader.
          assert.isAtMost(before, 2 + 2 + 1)
          assert.isAtMost(Math.max(a.seen.length, c.seen.length), before)
          assert.isAtLeast(Math.min(a.seen.length, c.seen.length), before - 1)
          yield* slow
          yield* TestClock.adjust("1 minute")
          assert.isAbove(made.count, before)
          assert.isAtMost(made.count, before + 3)
          for (const { seen } of [a, c]) assert.isAtLeast(seen.length, made.count - 1)
        })
      )

      it.effect("frees the others when it leaves", () =>
        Effect.gen(function* () {
          const batched = yield* make({ maxBatchSize: 2, bufferSize: 1, run: rows })
          const slow = yield* call(Stream.runForEach(batched(item("a", 50)), () => Effect.never))
          const fast = yield* read(batched(item("b", 50)))
          yield* TestClock.adjust("1 hour")
          assert.isAtMost(fast.seen.length, 4)
          assert.isFalse(isDone(fast.fiber))
          yield* Fiber.interrupt(slow)
          yield* settle
          assert.deepStrictEqual(fast.seen, column(item("b", 50)))
          assert.isTrue(isDone(fast.fiber))
        })
      )

      it.effect("that never reads again keeps its slot until it leaves", () =>
        Effect.gen(function* () {
          const { made, run } = counted()
          const batched = yield* make({ bufferSize: 2, run: run(1) })
          const slow = yield* call(Stream.runForEach(batched("a"), () => Effect.never))
          const next = yield* read(Stream.take(batched("b"), 1))
          yield* TestClock.adjust("1 hour")
          assert.deepInclude(yield* batched.state, { running: 1, queued: 1 })
          assert.isAtMost(made.count, 2 + 2 + 1)
          yield* Fiber.interrupt(slow)
          yield* settle
          assert.deepStrictEqual(next.seen, ["b1"])
          assert.deepInclude(yield* batched.state, { running: 0, queued: 0, wasted: 2 })
        })
      )

      it.effect("whose read was given up gets its element with the next one", () =>
        Effect.gen(function* () {
          const batched = yield* make({ run: (items: ReadonlyArray<Item>) => paced(rows(items)) })
          const pull = yield* Stream.toPull(batched(item("a", 2)))
          const givenUp = yield* call(Effect.timeoutOption(pull, 5))
          yield* TestClock.adjust(15)
          assert.deepStrictEqual(yield* Fiber.join(givenUp), Option.none())
          assert.deepStrictEqual(yield* pull, ["a1"])
        })
      )
    })

    describe("slots", () => {
      it.effect("are held until the last stream of a batch has ended", () =>
        Effect.gen(function* () {
          const log: Array<string> = []
          const batched = yield* make({
            maxBatchSize: 2,
            run: noted(log, (items: ReadonlyArray<Item>) => paced(rows(items)))
          })
          yield* readAll([1, 5, 1].map((length, i) => batched(item("abc"[i]!, length))))
          yield* TestClock.adjust(49)
          assert.deepStrictEqual(log, ["start ab"])
          assert.deepInclude(yield* batched.state, { running: 1, queued: 1 })
          yield* TestClock.adjust(1)
          assert.deepStrictEqual(log, ["start ab", "end ab", "start c"])
        })
      )

      it.effect("let as many batches run at once as maxConcurrentBatches says", () =>
        Effect.gen(function* () {
          const log: Array<string> = []
          const batched = yield* make({
            maxBatchSize: 2,
            maxConcurrentBatches: 2,
            run: noted(log, (items: ReadonlyArray<Item>) => paced(rows(items)))
          })
          const names = ["a", "b", "c", "d", "e", "f"]
          const readers = yield* readAll(names.map((name) => batched(item(name, 2))))
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(log, ["start ab", "start cd"])
          assert.deepInclude(yield* batched.state, { running: 2, queued: 2 })
          assert.deepStrictEqual(
            readers.map(({ seen }) => seen.length),
            [1, 1, 1, 1, 0, 0]
          )
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(log.slice(2).toSorted(), ["end ab", "end cd", "start ef"])
          yield* TestClock.adjust(20)
          assert.deepStrictEqual(
            readers.map(({ seen }) => seen),
            names.map((name) => column(item(name, 2)))
          )
        })
      )

      it.effect("are not held up by a slow reader of another batch", () =>
        Effect.gen(function* () {
          const batched = yield* make({ maxConcurrentBatches: 2, bufferSize: 1, run: rows, maxBatchSize: 1 })
          yield* call(Stream.runForEach(batched(item("a", 50)), () => Effect.never))
          assert.deepStrictEqual(yield* Stream.runCollect(batched(item("b", 50))), column(item("b", 50)))
        })
      )
    })

    describe("refuses", () => {
      it.effect("with QueueFull when as many wait as may, and takes items again when one has left", () =>
        Effect.gen(function* () {
          const batched = yield* make<Item, string>({
            maxBatchSize: 1,
            maxQueuedItems: 2,
            run: () => Stream.never
          })
          const [, waiting] = yield* readAll(["a", "b", "c"].map((name) => batched(item(name, 1))))
          const refused = yield* reason(Stream.runCollect(batched(item("d", 1))))
          assert.deepInclude(refused, {
            _tag: "QueueFull",
            deployment: "batcher",
            ongoing: 1,
            maxOngoingRequests: 1,
            queued: 2,
            maxQueuedRequests: 2
          })
          yield* Fiber.interrupt(waiting!.fiber)
          const next = yield* read(batched(item("e", 1)))
          assert.isFalse(isDone(next.fiber))
          assert.deepInclude(yield* batched.state, { running: 1, queued: 2, dropped: { left: 1, expired: 0 } })
        })
      )

      it.effect("an item whose deadline has passed, at once", () =>
        Effect.gen(function* () {
          yield* TestClock.adjust(100)
          const batched = yield* make({ maxBatchSize: 2, batchWaitTimeout: "1 hour", run: rows })
          const { fiber } = yield* read(within(100)(batched(item("a", 1))))
          assert.isTrue(isDone(fiber))
          assert.deepStrictEqual(
            yield* answered(fiber),
            new ServeError.DeadlineExceeded({ deployment: "batcher", stage: "batch" })
          )
        })
      )

      it.effect("an item whose deadline has passed when its batch is cut, and none of the others", () =>
        Effect.gen(function* () {
          const log: Array<string> = []
          const batched = yield* make({
            maxBatchSize: 2,
            batchWaitTimeout: 10,
            run: noted(log, (items: ReadonlyArray<Item>) => paced(rows(items)))
          })
          yield* readAll(["a", "b"].map((name) => batched(item(name, 3))))
          const [c, d] = yield* readAll([within(20)(batched(item("c", 1))), within(40)(batched(item("d", 1)))])
          yield* TestClock.adjust(30)
          assert.deepStrictEqual(
            yield* answered(c!.fiber),
            new ServeError.DeadlineExceeded({ deployment: "batcher", stage: "batch" })
          )
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(d!.seen, ["d1"])
          assert.deepStrictEqual(log, ["start ab", "end ab", "start d", "end d"])
          assert.deepInclude(yield* batched.state, { items: 3, dropped: { left: 0, expired: 1 } })
        })
      )

      it.effect("options that are out of range, by name", () =>
        Effect.gen(function* () {
          for (const bufferSize of [0, -1, 1.5, NaN, Infinity]) {
            const exit = yield* Effect.exit(make({ name: "tokens", bufferSize, run: rows }))
            assert.match(String(failure(exit)), /Invalid options of tokens: [^]*bufferSize/)
          }
          const exit = yield* Effect.exit(make({ maxBatchSize: 0, run: rows }))
          assert.match(String(failure(exit)), /Invalid options of batcher: [^]*maxBatchSize/)
        })
      )
    })

    it.effect("tells run the latest deadline of its callers", () =>
      Effect.gen(function* () {
        const batched = yield* make({
          maxBatchSize: 2,
          run: (items: ReadonlyArray<Item>) =>
            Stream.fromEffect(
              Effect.map(RequestContext.RequestContext, ({ deadline }) => items.map(() => Option.some(deadline)))
            )
        })
        const readers = yield* readAll([within(500)(batched(item("a", 1))), within(900)(batched(item("b", 1)))])
        yield* settle
        assert.deepStrictEqual(
          readers.map(({ seen }) => seen),
          [[900], [900]]
        )
      })
    )

    it.effect("changes its limits for the next batch, while streams run on", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const batched = yield* make({
          maxBatchSize: 2,
          run: noted(log, (items: ReadonlyArray<Item>) => paced(rows(items)))
        })
        const readers = yield* readAll(["a", "b"].map((name) => batched(item(name, 3))))
        yield* TestClock.adjust(10)
        yield* batched.update({ maxBatchSize: 3, maxConcurrentBatches: 2 })
        assert.deepInclude(yield* batched.state, { maxBatchSize: 3, maxConcurrentBatches: 2, running: 1 })
        yield* readAll(["c", "d", "e"].map((name) => batched(item(name, 1))))
        yield* settle
        yield* TestClock.adjust(20)
        assert.deepStrictEqual(log, ["start ab", "start cde", "end cde", "end ab"])
        assert.deepStrictEqual(
          readers.map(({ seen }) => seen),
          ["a", "b"].map((name) => column(item(name, 3)))
        )
        const refused = yield* Effect.exit(batched.update({ maxBatchSize: 4, maxConcurrentBatches: 0 }))
        assert.match(String(failure(refused)), /maxConcurrentBatches/)
        assert.deepInclude(yield* batched.state, { maxBatchSize: 3, maxConcurrentBatches: 2 })
      })
    )

    it.effect("shows what it does in its state", () =>
      Effect.gen(function* () {
        const batched = yield* make({
          name: "tokens",
          maxBatchSize: 2,
          run: (items: ReadonlyArray<Item>) => paced(rows(items))
        })
        assert.deepInclude(yield* batched.state, { name: "tokens", status: "Ready", queued: 0, running: 0, items: 0 })
        yield* readAll(["a", "b", "c"].map((name) => batched(item(name, 2))))
        assert.deepInclude(yield* batched.state, { queued: 1, running: 1, items: 2 })
        yield* TestClock.adjust("1 second")
        assert.deepInclude(yield* batched.state, {
          queued: 0,
          running: 0,
          items: 3,
          batches: { full: 1, timeout: 0, slot: 1, deadline: 0, drain: 0 }
        })
      })
    )

    describe("when its scope closes", () => {
      const opened = Effect.fnUntraced(function* (
        options: Partial<Batching.StreamOptions<Item, string, never, never>>
      ) {
        const scope = yield* Scope.make()
        const log: Array<string> = []
        const batched = yield* Scope.provide(
          Batching.makeStream({
            maxBatchSize: 2,
            ...options,
            run: noted(log, (items: ReadonlyArray<Item>) => paced(rows(items)))
          }),
          scope
        )
        return { batched, log, close: Scope.close(scope, Exit.void) }
      })

      it.effect("runs what waits without waiting for more, and takes nothing new", () =>
        Effect.gen(function* () {
          const { batched, close, log } = yield* opened({ batchWaitTimeout: "1 hour" })
          const a = yield* read(batched(item("a", 3)))
          const closing = yield* call(close)
          assert.deepStrictEqual(log, ["start a"])
          assert.deepStrictEqual(yield* reason(Stream.runCollect(batched(item("b", 1)))), draining)
          assert.strictEqual((yield* batched.state).status, "Draining")
          yield* TestClock.adjust(29)
          assert.isFalse(isDone(closing))
          yield* TestClock.adjust(1)
          assert.deepStrictEqual(a.seen, ["a1", "a2", "a3"])
          assert.deepStrictEqual(a.fiber.pollUnsafe(), Exit.void)
          assert.isTrue(isDone(closing))
          assert.deepInclude(yield* batched.state, { status: "Stopped", queued: 0, running: 0 })
          assert.deepStrictEqual(yield* reason(Stream.runCollect(batched(item("b", 1)))), draining)
        })
      )

      it.effect("fails what still waits and what still streams after gracefulShutdownTimeout", () =>
        Effect.gen(function* () {
          const { batched, close, log } = yield* opened({ gracefulShutdownTimeout: 25 })
          const [a, b, c] = yield* readAll([9, 1, 9].map((length, i) => batched(item("abc"[i]!, length))))
          const closing = yield* call(close)
          yield* TestClock.adjust(24)
          assert.deepStrictEqual(
            [a, b, c].map((each) => isDone(each!.fiber)),
            [false, true, false]
          )
          yield* TestClock.adjust(1)
          assert.isTrue(isDone(closing))
          assert.deepStrictEqual([a!.seen, b!.seen, c!.seen], [["a1", "a2"], ["b1"], []])
          assert.deepStrictEqual(yield* answered(a!.fiber), draining)
          assert.deepStrictEqual(yield* answered(c!.fiber), draining)
          assert.deepStrictEqual(log, ["start ab", "stop ab"])
          assert.deepInclude(yield* batched.state, { status: "Stopped", queued: 0, running: 0 })
        })
      )

      it.effect("doesn't wait for a reader that doesn't read, who finds the end when it does", () =>
        Effect.gen(function* () {
          const { batched, close } = yield* opened({
            gracefulShutdownTimeout: "1 second",
            bufferSize: 1,
            batchWaitTimeout: 0
          })
          const pull = yield* Stream.toPull(batched(item("a", 9)))
          const first = yield* call(pull)
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(yield* Fiber.join(first), ["a1"])
          const closing = yield* call(close)
          yield* TestClock.adjust("1 second")
          assert.isTrue(isDone(closing))
          assert.deepStrictEqual(yield* pull, ["a2"])
          assert.deepStrictEqual(yield* reason(pull), draining)
        })
      )
    })

    describe("in a deployment", () => {
      class Speech extends Deployment.Service<Speech>()("Speech", [
        Rpc.make("say", { payload: { name: Schema.String, length: Schema.Int }, success: Schema.String, stream: true })
      ]) {}
      const speech = (
        options: Partial<Batching.StreamOptions<Item, string, never, never>>,
        log: Array<string>,
        deployment: Parameters<typeof Speech.toLayer>[1] = {}
      ) =>
        Speech.toLayer(
          Effect.map(
            make<Item, string>({
              name: "voices",
              maxBatchSize: 2,
              ...options,
              run: noted(log, (items: ReadonlyArray<Item>) => paced(rows(items)))
            }),
            (say) => ({ say })
          ),
          { gracefulShutdownTimeout: 0, maxOngoingRequests: 8, ...deployment }
        )

      it.effect("batches the calls of a streaming method, and is shown in the state of its replica", () =>
        Effect.gen(function* () {
          const log: Array<string> = []
          const { context, handle } = yield* open(Speech, speech({}, log))
          const readers = yield* readAll([3, 1].map((length, i) => handle.say(item("ab"[i]!, length))))
          yield* TestClock.adjust(10)
          const state = Effect.provideContext(Speech.state, context)
          assert.deepInclude((yield* state).replicas[0]!.batchers[0], { name: "Speech.voices", running: 1, queued: 0 })
          assert.deepInclude(yield* state, { running: 2, queued: 0 })
          yield* TestClock.adjust(20)
          assert.deepStrictEqual(
            readers.map(({ seen }) => seen),
            [["a1", "a2", "a3"], ["b1"]]
          )
          assert.deepInclude(yield* state, { running: 0, completed: 2 })
          assert.deepStrictEqual(log, ["start ab", "end ab"])
        })
      )

      it.effect("interrupts the run when its callers are gone, by timeout or by leaving", () =>
        Effect.gen(function* () {
          const log: Array<string> = []
          const { context, handle } = yield* open(Speech, speech({}, log))
          const [a, b] = yield* readAll([
            handle.say(item("a", 9), { timeout: 25 }),
            Stream.take(handle.say(item("b", 9)), 1)
          ])
          yield* TestClock.adjust(24)
          assert.isTrue(isDone(b!.fiber))
          assert.deepStrictEqual(log, ["start ab"])
          yield* TestClock.adjust(1)
          assert.deepStrictEqual(a!.seen, ["a1", "a2"])
          assert.deepInclude(yield* answered(a!.fiber), { _tag: "DeadlineExceeded", stage: "stream" })
          assert.deepStrictEqual(log, ["start ab", "stop ab"])
          assert.deepInclude(yield* Effect.provideContext(Speech.state, context), {
            running: 0,
            expired: 1,
            cancelled: 1
          })
        })
      )

      it.effect("refuses an item whose caller's time is over while it waits for a slot", () =>
        Effect.gen(function* () {
          const log: Array<string> = []
          const { handle } = yield* open(Speech, speech({ maxBatchSize: 1 }, log))
          const [, b] = yield* readAll([handle.say(item("a", 9)), handle.say(item("b", 1), { timeout: 25 })])
          yield* TestClock.adjust(25)
          assert.deepInclude(yield* answered(b!.fiber), { _tag: "DeadlineExceeded" })
          yield* TestClock.adjust(100)
          assert.deepStrictEqual(log, ["start a", "end a"])
        })
      )
    })

    const NEVER = 99
    const Caller = Schema.Struct({
      length: small(6),
      arrival: small(40),
      /** Milliseconds that it takes for each element. */
      pace: Schema.Literals([0, 0, 0, 7, 25]),
      leaves: Schema.Literals(["never", "never", "after some", "at some time"]),
      leavesAt: small(60),
      /** The row at which it makes its batch fail. */
      failsAt: Schema.Literals([NEVER, NEVER, NEVER, NEVER, 0, 2, 5]),
      how: Schema.Literals(["fail", "die", "short", "throw"])
    })
    const World = Schema.Struct({
      callers: Schema.Array(Caller).check(Schema.isMinLength(1), Schema.isMaxLength(9)),
      maxBatchSize: small(4, 1),
      maxConcurrentBatches: small(2, 1),
      bufferSize: small(3, 1),
      wait: Schema.Literals([0, 10]),
      rowTime: Schema.Literals([0, 0, 5]),
      chunk: small(3, 1),
      /** How seldom fibers yield. */
      ops: Schema.Literals([3, 7, 2048])
    })
    type Caller = typeof Caller.Type

    /** Runs callers to their ends; gives what each saw, and at which row its batch failed. */
    const play = Effect.fnUntraced(function* (world: typeof World.Type) {
      const { bufferSize, callers, chunk, maxBatchSize, maxConcurrentBatches, rowTime, wait } = world
      const failedAt = new Map<number, number>()
      let running = 0
      let most = 0
      const cellsOf = (ids: ReadonlyArray<number>, row: number) =>
        ids.map((id) => (row < callers[id]!.length ? Option.some([id, row] as const) : Option.none()))
      const failHow: Record<Caller["how"], (ids: ReadonlyArray<number>) => Effect.Effect<never, Broken> | []> = {
        fail: () => Effect.fail(new Broken({ part: "run" })),
        die: () => Effect.die("boom"),
        short: () => [],
        throw: () => {
          throw new Error("thrown")
        }
      }
      const batched = yield* Batching.makeStream({
        maxBatchSize,
        maxConcurrentBatches,
        bufferSize,
        batchWaitTimeout: wait,
        run: (ids: ReadonlyArray<number>) => {
          const failsAt = Math.min(...ids.map((id) => callers[id]!.failsAt))
          const how = ids.map((id) => callers[id]!).find((caller) => caller.failsAt === failsAt)!.how
          for (const id of ids) failedAt.set(id, failsAt)
          const row = (i: number) =>
            Effect.andThen(
              rowTime === 0 ? Effect.void : Effect.sleep(rowTime),
              Effect.suspend(() => {
                const failure = i === failsAt ? failHow[how](ids) : cellsOf(ids, i)
                return Array.isArray(failure) ? Effect.succeed(failure) : failure
              })
            )
          const all = Stream.range(0, 7).pipe(Stream.rechunk(1), Stream.mapEffect(row))
          return Stream.unwrap(
            Effect.acquireRelease(
              Effect.sync(() => {
                most = Math.max(most, ++running)
                // Rows that come together with a failure are lost with it, so a batch that fails makes them one by one.
                return chunk === 1 || failsAt < NEVER ? all : Stream.rechunk(all, chunk)
              }),
              () => Effect.sync(() => running--)
            )
          )
        }
      })
      const act = (caller: Caller, id: number) =>
        Effect.gen(function* () {
          const seen: Array<readonly [number, number]> = []
          const stream = caller.leaves === "after some" ? Stream.take(batched(id), caller.leavesAt % 6) : batched(id)
          const reading = Stream.runForEach(stream, (element) => {
            seen.push(element)
            return caller.pace === 0 ? Effect.void : Effect.sleep(caller.pace)
          })
          yield* Effect.sleep(caller.arrival)
          const fiber = yield* call(reading)
          if (caller.leaves === "at some time") {
            yield* Effect.sleep(caller.leavesAt)
            yield* Fiber.interrupt(fiber)
          }
          return { seen, exit: yield* Fiber.await(fiber) }
        })
      const fibers = yield* Effect.forEach(callers, (caller, id) => call(act(caller, id)))
      yield* passUntilDone(fibers)
      const outcomes = yield* Effect.forEach(fibers, Fiber.join)
      const state = yield* batched.state
      return { outcomes, failedAt, running, most, state, batched }
    })

    it.effect.prop(
      "gives each caller a prefix of its column, all of it unless it left or the run failed, and leaves nothing behind",
      [World],
      ([world]) =>
        Effect.scoped(
          Effect.gen(function* () {
            const { batched, failedAt, most, outcomes, running, state } = yield* Effect.provideService(
              play(world),
              Scheduler.MaxOpsBeforeYield,
              world.ops
            )
            for (const [id, { exit, seen }] of outcomes.entries()) {
              const { leaves, leavesAt, length } = world.callers[id]!
              assert.deepStrictEqual(
                seen,
                seen.map((_, row) => [id, row] as const)
              )
              if (Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause)) {
                assert.strictEqual(leaves, "at some time")
                continue
              }
              const all = leaves === "after some" ? Math.min(length, leavesAt % 6) : length
              const failsAt = failedAt.get(id) ?? NEVER
              const fails =
                leaves === "after some" && leavesAt % 6 <= Math.min(length, failsAt) ? false : failsAt <= length
              assert.strictEqual(Exit.isFailure(exit), fails)
              assert.strictEqual(seen.length, fails ? failsAt : all)
            }
            assert.deepInclude(state, { queued: 0, running: 0 })
            assert.strictEqual(running, 0)
            assert.isAtMost(most, world.maxConcurrentBatches)
            assert.strictEqual(state.items, failedAt.size)
            const again = world.callers.findIndex(({ failsAt }) => failsAt === NEVER)
            if (again === -1) return
            const next = yield* read(batched(again))
            yield* passUntilDone([next.fiber])
            assert.strictEqual(next.seen.length, world.callers[again]!.length)
          })
        ),
      { arbitrary: { runs: 300, size: 40, seed: 1 } }
    )
  })
})
