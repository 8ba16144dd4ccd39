import { assert, describe, it } from "@effect/vitest"
import { RequestContext, WorkerPool } from "effect-serve"
import {
  Cause,
  ConfigProvider,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Metric,
  Option,
  Schema,
  Scope,
  Stream
} from "effect"
import { readFileSync } from "node:fs"
import { availableParallelism } from "node:os"
import { dirname, join } from "node:path"
import { answered, reason } from "../deployments.ts"
import {
  cells,
  logged,
  modules,
  taskError,
  Tasks,
  threadsOfProcess,
  timed,
  when,
  whenState,
  withTasks
} from "./pools.ts"

const all = { concurrency: "unbounded" } as const
const times = (n: number) => Array.from({ length: n }, (_, i) => i)

const pool = (module: URL) => WorkerPool.Service<Tasks, { twice: (n: number) => number }>()("Twice", { module })

const interrupted = <A, E>(call: Effect.Effect<A, E>, begun: () => boolean) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(call, { startImmediately: true })
    yield* when(begun)
    const { millis } = yield* timed(Fiber.interrupt(fiber))
    return millis
  })

const within = (millis: number) =>
  Effect.provideService(
    RequestContext.RequestContext,
    Object.assign({}, RequestContext.empty, { deadline: Date.now() + millis })
  )

/** Learns that `count` is short, and then calls it with these times, all at once: the order in which they are done. */
const doneInOrder = (millis: ReadonlyArray<number>) =>
  Effect.gen(function* () {
    const { count } = yield* Tasks
    const seen = cells()
    yield* Effect.forEach(times(50), () => count(seen, 1))
    const order: Array<number> = []
    yield* Effect.forEach(millis, (millis, i) => Effect.map(count(seen, 2, millis), () => order.push(i)), all)
    assert.strictEqual(seen[2], millis.length)
    return order
  })

const failure = (module: URL) =>
  Effect.map(Effect.flip(Effect.scoped(Layer.build(pool(module).layer({ size: 2 })))), (error) => {
    assert.instanceOf(error, WorkerPool.ModuleFailed)
    assert.strictEqual(error.module, module.href)
    return error.description
  })

describe("WorkerPool", () => {
  describe("a call", () => {
    it.live("gives the result of a function, sync or async", () =>
      Effect.gen(function* () {
        const tasks = yield* Tasks
        assert.strictEqual(yield* tasks.double(21), 42)
        assert.strictEqual(yield* tasks.later(21), 42)
        assert.deepStrictEqual(yield* tasks.same({ a: [new Date(1)] }), { a: [new Date(1)] })
        assert.strictEqual(yield* tasks.same(undefined), undefined)
      }).pipe(withTasks())
    )

    it.live("runs on another thread, so that the event loop goes on", () =>
      Effect.gen(function* () {
        const { spin } = yield* Tasks
        let turns = 0
        const timer = setInterval(() => turns++, 5)
        yield* spin(200)
        clearInterval(timer)
        assert.isAtLeast(turns, 10)
      }).pipe(withTasks())
    )

    it.live("takes the first result of a promise that gives two", () =>
      Effect.gen(function* () {
        const { double, thenable } = yield* Tasks
        assert.strictEqual(yield* thenable() as Effect.Effect<unknown>, 1)
        assert.strictEqual(yield* double(3), 6)
      }).pipe(withTasks({ size: 1 }))
    )

    it.live("runs when it is run, and again each time", () =>
      Effect.gen(function* () {
        const { count } = yield* Tasks
        const runs = cells()
        const call = count(runs, 7)
        assert.strictEqual(runs[7], 0)
        yield* call
        yield* call
        assert.strictEqual(runs[7], 2)
      }).pipe(withTasks())
    )

    it.live("keeps apart what two calls are given, though it is the same", () =>
      Effect.gen(function* () {
        const { same } = yield* Tasks
        const value = { a: 1 }
        const [a, b] = yield* Effect.all([same(value), same(value)], all)
        assert.deepStrictEqual([a, b], [value, value])
        assert.notStrictEqual(a, b)
      }).pipe(withTasks({ size: 1 }))
    )
  })

  describe("eight calls of 100 ms on two threads", () => {
    it.live("take about 400 ms, two at a time and in the order in which they came", () =>
      Effect.gen(function* () {
        const { block } = yield* Tasks
        const done: Array<number> = []
        const call = (i: number) => Effect.map(block(100), () => done.push(i))
        const { millis } = yield* timed(Effect.forEach(times(8), call, all))
        assert.isAtLeast(millis, 400)
        assert.isAtMost(millis, 700)
        assert.deepStrictEqual(
          done.map((i) => Math.floor(i / 2)),
          [0, 0, 1, 1, 2, 2, 3, 3]
        )
      }).pipe(withTasks())
    )
  })

  describe("a failure", () => {
    it.live("of a task is a TaskError with its name, message, stack and causes", () =>
      Effect.gen(function* () {
        const { refuse, refuseLater } = yield* Tasks
        for (const call of [refuse(), refuseLater()]) {
          const error = yield* taskError(call)
          assert.deepInclude(error, { kind: "threw", name: "Refused", description: "too much" })
          assert.match(error.stack!, /tasks\.ts:\d+/)
          assert.deepInclude(error.cause, { name: "TypeError", description: "of that" })
          assert.deepStrictEqual(error.cause?.cause, { name: "string", description: "greed" })
          assert.include(error.message, "Refused: too much")
        }
      }).pipe(withTasks())
    )

    it.live("can be anything that is thrown", () =>
      Effect.gen(function* () {
        const { cycle, oddError, raise } = yield* Tasks
        const { description, name } = yield* taskError(raise("no"))
        assert.deepStrictEqual({ name, description }, { name: "string", description: "no" })
        assert.strictEqual((yield* taskError(raise(null))).name, "null")
        assert.strictEqual((yield* taskError(oddError())).kind, "threw")
        let depth = 0
        for (let cause = (yield* taskError(cycle())).cause; cause !== undefined; cause = cause.cause) depth++
        assert.strictEqual(depth, 8)
      }).pipe(withTasks())
    )

    it.live("crosses a wire", () =>
      Effect.gen(function* () {
        const { refuse } = yield* Tasks
        const error = yield* taskError(refuse())
        const encoded = JSON.stringify(yield* Schema.encodeEffect(WorkerPool.TaskError)(error))
        const decoded = yield* Schema.decodeUnknownEffect(WorkerPool.TaskError)(JSON.parse(encoded))
        assert.deepStrictEqual(decoded, error)
      }).pipe(withTasks())
    )

    it.live("names an argument that can't be sent, and the thread is none the wiser", () =>
      Effect.gen(function* () {
        const { count, double, same } = yield* Tasks
        const error = yield* taskError(same(() => 1))
        assert.deepInclude(error, { task: "same", kind: "argument", name: "DataCloneError" })
        assert.include(error.description, "argument 0")
        const second = yield* taskError(count(cells(), Symbol() as never))
        assert.include(second.description, "argument 1")
        const moved = new Uint8Array(8)
        structuredClone(moved, { transfer: [moved.buffer] })
        assert.include((yield* taskError(same(WorkerPool.move(moved)))).description, "argument 0")
        assert.strictEqual(yield* double(1), 2)
        assert.strictEqual((yield* Tasks.state).running, 0)
      }).pipe(withTasks({ size: 1 }))
    )

    it.live("tells of a result that can't be sent", () =>
      Effect.gen(function* () {
        const { double, functionOf, generatorOf } = yield* Tasks
        for (const call of [functionOf(), generatorOf()]) {
          assert.strictEqual((yield* taskError(call)).kind, "result")
        }
        assert.strictEqual(yield* double(1), 2)
      }).pipe(withTasks({ size: 1 }))
    )

    it.live("tells of a function that the module does not export", () =>
      Effect.gen(function* () {
        const tasks: any = yield* Tasks
        for (const name of ["triple", "notAFunction"]) {
          const error = yield* taskError(tasks[name](1) as Effect.Effect<unknown, unknown>)
          assert.deepInclude(error, { task: name, kind: "missing" })
        }
      }).pipe(withTasks())
    )
  })

  describe("a module", () => {
    it.live("that fails to load fails the layer, and says why", () =>
      Effect.gen(function* () {
        const url = yield* modules({
          "throws.mjs": `throw new Error("no model")`,
          "broken.mjs": `export const twice = (n) => 2 * * n`,
          "exits.mjs": `process.exit(3)`,
          "waits.mjs": `await new Promise(() => {})`
        })
        const before = threadsOfProcess()
        assert.include(yield* failure(new URL("throws.mjs", url)), "Error: no model")
        assert.include(yield* failure(new URL("broken.mjs", url)), "SyntaxError")
        assert.include(yield* failure(new URL("nowhere.mjs", url)), "Cannot find module")
        assert.include(yield* failure(new URL("exits.mjs", url)), "exit code 3")
        assert.include(yield* failure(new URL("waits.mjs", url)), "exit code 0")
        yield* when(() => threadsOfProcess() <= before)
      })
    )

    it.live("that was written in TypeScript is found when it is built", () =>
      Effect.gen(function* () {
        const url = yield* modules({
          "a.js": `export const twice = (n) => 2 * n`,
          "b.mjs": `export const twice = (n) => 2 * n`,
          "c.ts": `export const twice = (n: number): number => 2 * n`,
          "c.js": `throw new Error("not this one")`
        })
        for (const name of ["a.ts", "b.mts", "c.ts"]) {
          const Twice = pool(new URL(name, url))
          const twice = Effect.flatMap(Twice, ({ twice }) => twice(21))
          assert.strictEqual(yield* Effect.provide(twice, Twice.layer({ size: 1 })), 42)
        }
      })
    )

    it("is loaded by files that do not load Effect", () => {
      const visit = (file: string): ReadonlyArray<string> =>
        Array.from(
          readFileSync(file, "utf8").matchAll(/^(?:im|ex)port (?!type)[\w*{},\s]+ from "([^"]+)"/gm),
          ([, name]) => (name!.startsWith(".") ? visit(join(dirname(file), name!)) : [name!])
        ).flat()
      for (const file of ["taskEntry.ts", "Task.ts"]) {
        assert.deepStrictEqual(
          visit(join("src/worker", file)).filter((name) => !name.startsWith("node:")),
          []
        )
      }
    })
  })

  describe("interrupting a call", () => {
    it.live("tells a task that computes, and waits until it has stopped", () =>
      Effect.gen(function* () {
        const { cooperative } = yield* Tasks
        const seen = cells()
        yield* interrupted(cooperative(seen), () => seen[0] === 1)
        assert.strictEqual(seen[1], 1)
        const { cancelled, restarts, running, threads } = yield* Tasks.state
        assert.deepStrictEqual(
          { cancelled, restarts, running, threads },
          { cancelled: 1, restarts: 0, running: 0, threads: 1 }
        )
      }).pipe(withTasks({ size: 1, cancelGrace: "5 seconds" }))
    )

    it.live("aborts the signal of a task that waits", () =>
      Effect.gen(function* () {
        const { double, waiting } = yield* Tasks
        const seen = cells()
        const millis = yield* interrupted(waiting(seen), () => seen[0] === 1)
        assert.isBelow(millis, 1000)
        assert.strictEqual(seen[1], 1)
        assert.strictEqual(yield* double(1), 2)
        assert.strictEqual((yield* Tasks.state).restarts, 0)
      }).pipe(withTasks({ size: 1, cancelGrace: "5 seconds" }))
    )

    it.live("aborts a signal after the task could listen to it", () =>
      Effect.gen(function* () {
        const { waitingLate } = yield* Tasks
        const seen = cells()
        yield* interrupted(waitingLate(seen), () => seen[0] === 1)
        assert.strictEqual(seen[1], 1)
      }).pipe(withTasks({ size: 1, cancelGrace: "2 seconds" }))
    )

    it.live("ends the thread of a task that goes on after the grace, and replaces it", () =>
      Effect.gen(function* () {
        const { double, runaway } = yield* Tasks
        const seen = cells()
        const millis = yield* interrupted(runaway(seen), () => seen[0] === 1)
        assert.isAtLeast(millis, 95)
        assert.isBelow(millis, 300)
        assert.strictEqual(yield* double(1), 2)
        const state = yield* whenState(({ threads }) => threads === 2)
        assert.deepInclude(state, { cancelled: 1, crashes: 0, restarts: 1, running: 0, queued: 0 })
      }).pipe(withTasks())
    )

    it.live("fails nobody else", () =>
      Effect.gen(function* () {
        const { runaway, spin, until } = yield* Tasks
        const seen = cells()
        const innocent = yield* Effect.forkChild(until(seen, 5), { startImmediately: true })
        const stuck = yield* Effect.forkChild(runaway(seen), { startImmediately: true })
        yield* when(() => seen[0] === 2)
        const next = yield* Effect.forkChild(spin(1), { startImmediately: true })
        yield* Fiber.interrupt(stuck)
        assert.strictEqual(yield* Fiber.join(next), 1)
        seen[5] = 1
        assert.strictEqual(yield* Fiber.join(innocent), 5)
      }).pipe(withTasks({ cancelGrace: "20 millis" }))
    )

    it.live("ends the thread at once without a grace", () =>
      Effect.gen(function* () {
        const { cooperative, double } = yield* Tasks
        const seen = cells()
        yield* interrupted(cooperative(seen), () => seen[0] === 1)
        assert.strictEqual(yield* double(1), 2)
        assert.strictEqual((yield* Tasks.state).restarts, 1)
      }).pipe(withTasks({ size: 1, cancelGrace: 0 }))
    )

    it.live("starts the replacement in the second half of the grace, and ends it when it isn't needed", () =>
      Effect.gen(function* () {
        const { until } = yield* Tasks
        const seen = cells()
        const fiber = yield* Effect.forkChild(until(seen, 5), { startImmediately: true })
        yield* when(() => seen[0] === 1)
        const interrupt = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
        yield* whenState(({ threads }) => threads === 2)
        seen[5] = 1
        yield* Fiber.join(interrupt)
        const state = yield* whenState(({ threads }) => threads === 1)
        assert.deepInclude(state, { restarts: 1, crashes: 0, cancelled: 1 })
      }).pipe(withTasks({ size: 1, cancelGrace: "3 seconds" }))
    )

    it.live("takes a call that waits out of the queue, and it never runs", () =>
      Effect.gen(function* () {
        const { count, until } = yield* Tasks
        const seen = cells()
        const first = yield* Effect.forkChild(until(seen, 5), { startImmediately: true })
        const second = yield* Effect.forkChild(count(seen, 7), { startImmediately: true })
        assert.strictEqual((yield* Tasks.state).queued, 1)
        yield* Fiber.interrupt(second)
        assert.strictEqual((yield* Tasks.state).queued, 0)
        seen[5] = 1
        yield* Fiber.join(first)
        assert.strictEqual(yield* count(seen, 8), 8)
        assert.strictEqual(seen[7], 0)
      }).pipe(withTasks({ size: 1 }))
    )

    it.live(
      "50 times in a row leaves everything as it was",
      () =>
        Effect.gen(function* () {
          const { cooperative, double, runaway, waiting } = yield* Tasks
          yield* double(1)
          const threads = threadsOfProcess()
          const rounds = (n: number) =>
            Effect.forEach(
              times(n),
              (i) => {
                const seen = cells()
                const call = [cooperative, waiting, runaway][i % 3]!
                return interrupted(call(seen), () => seen[0] === 1)
              },
              { discard: true }
            )
          yield* rounds(12)
          globalThis.gc?.()
          const before = process.memoryUsage().rss
          yield* rounds(50)
          const state = yield* whenState(({ threads }) => threads === 2)
          assert.deepInclude(state, { running: 0, queued: 0, cancelled: 62, crashes: 0 })
          yield* when(() => threadsOfProcess() <= threads)
          assert.isBelow(process.memoryUsage().rss - before, 100 * 2 ** 20)
          assert.deepStrictEqual(yield* Effect.forEach([1, 2], double), [2, 4])
        }).pipe(withTasks({ cancelGrace: "20 millis" })),
      30_000
    )
  })

  describe("a call that is late", () => {
    it.live("fails at its timeout, and its thread is replaced", () =>
      Effect.gen(function* () {
        const { double, runaway } = yield* Tasks
        const { millis, value } = yield* timed(reason(runaway(cells())))
        assert.deepInclude(value, { _tag: "DeadlineExceeded", deployment: "Tasks", stage: "handler" })
        assert.isAtLeast(millis, 195)
        assert.isAtMost(millis, 250)
        assert.deepStrictEqual(yield* Effect.forEach([1, 2], double), [2, 4])
        const state = yield* whenState(({ restarts, threads }) => restarts === 1 && threads === 1)
        assert.deepInclude(state, { failed: 1, cancelled: 0, crashes: 0, running: 0 })
      }).pipe(withTasks({ size: 1, taskTimeout: "200 millis" }))
    )

    it.live("keeps the thread when the task stops when it is told to", () =>
      Effect.gen(function* () {
        const { cooperative, double } = yield* Tasks
        const seen = cells()
        assert.strictEqual((yield* reason(cooperative(seen)))._tag, "DeadlineExceeded")
        assert.strictEqual(yield* double(1), 2)
        assert.strictEqual(seen[1], 1)
        assert.strictEqual((yield* Tasks.state).restarts, 0)
      }).pipe(withTasks({ size: 1, taskTimeout: "20 millis", cancelGrace: "5 seconds" }))
    )

    it.live("is timed from when it runs", () =>
      Effect.gen(function* () {
        const { block } = yield* Tasks
        const calls = Effect.forEach(times(4), () => block(100), all)
        assert.deepStrictEqual(yield* calls, [100, 100, 100, 100])
      }).pipe(withTasks({ size: 1, taskTimeout: "250 millis" }))
    )

    it.live("is not given more time by others that leave", () =>
      Effect.gen(function* () {
        const { block, double } = yield* Tasks
        yield* Effect.forEach(times(50), double)
        yield* Effect.forEach(times(50), () => block(0))
        const late = yield* Effect.forkChild(timed(reason(block(1000))), { startImmediately: true })
        const leave = Effect.gen(function* () {
          const fiber = yield* Effect.forkChild(double(1), { startImmediately: true })
          yield* Effect.sleep(30)
          yield* Fiber.interrupt(fiber)
        })
        yield* Effect.forEach(times(8), () => leave)
        const { millis, value } = yield* Fiber.join(late)
        assert.strictEqual(value._tag, "DeadlineExceeded")
        assert.isBelow(millis, 180)
      }).pipe(withTasks({ size: 1, taskTimeout: "100 millis" }))
    )

    it.live("is bounded by the deadline of the request that makes it", () =>
      Effect.gen(function* () {
        const { count, runaway } = yield* Tasks
        const seen = cells()
        const running = yield* Effect.forkChild(within(100)(runaway(seen)), { startImmediately: true })
        const queued = yield* Effect.forkChild(within(50)(count(seen, 7)), { startImmediately: true })
        assert.deepInclude(yield* answered(queued), { _tag: "DeadlineExceeded", stage: "queue" })
        assert.deepInclude(yield* answered(running), { _tag: "DeadlineExceeded", stage: "handler" })
        const past = yield* reason(within(-1)(count(seen, 7)))
        assert.deepInclude(past, { _tag: "DeadlineExceeded", stage: "queue" })
        assert.strictEqual(seen[7], 0)
      }).pipe(withTasks({ size: 1 }))
    )
  })

  describe("a thread that ends by itself", () => {
    it.live("fails its own task, and no other", () =>
      Effect.gen(function* () {
        const { double, exit, until } = yield* Tasks
        const seen = cells()
        const innocent = yield* Effect.forkChild(until(seen, 5), { startImmediately: true })
        yield* when(() => seen[0] === 1)
        const crash = yield* reason(exit(3))
        assert.deepInclude(crash, { _tag: "WorkerCrashed", exitCode: 3 })
        seen[5] = 1
        assert.strictEqual(yield* Fiber.join(innocent), 5)
        assert.strictEqual(yield* double(1), 2)
        const state = yield* whenState(({ threads }) => threads === 2)
        assert.deepInclude(state, { crashes: 1, restarts: 1, failed: 1 })
      }).pipe(withTasks(), Effect.provide(logged().layer))
    )

    it.live("says why, as far as that is known", () =>
      Effect.gen(function* () {
        const { eat, rejectBehind } = yield* Tasks
        const rejected = yield* reason(rejectBehind())
        assert.include(rejected.message, "left behind")
        const { description } = (yield* reason(eat())) as { description?: string }
        assert.include(description, "memory limit")
      }).pipe(withTasks({ size: 1, resourceLimits: { maxOldGenerationSizeMb: 32 } }), Effect.provide(logged().layer))
    )

    it.live("while it has nothing to do fails nobody", () =>
      Effect.gen(function* () {
        const { double, throwLater } = yield* Tasks
        yield* throwLater()
        yield* whenState(({ crashes }) => crashes === 1)
        assert.strictEqual(yield* double(1), 2)
        assert.strictEqual((yield* Tasks.state).failed, 0)
      }).pipe(withTasks({ size: 1 }), Effect.provide(logged().layer))
    )
  })

  describe("a generator", () => {
    it.live("gives a stream of its elements, sync or async", () =>
      Effect.gen(function* () {
        const { asyncNumbers, numbers, words } = yield* Tasks
        assert.deepStrictEqual(yield* Stream.runCollect(words("a b c")), ["a", "b", "c"])
        for (const generator of [numbers, asyncNumbers]) {
          const seen = cells()
          assert.deepStrictEqual(yield* Stream.runCollect(generator(seen, 100)), times(100))
          assert.deepStrictEqual(Array.from(seen.subarray(0, 2)), [100, 1])
        }
        assert.deepStrictEqual(yield* Stream.runCollect(numbers(cells(), 0)), [])
      }).pipe(withTasks())
    )

    it.live("is not ahead of its reader by more than a window", () =>
      Effect.gen(function* () {
        const { asyncNumbers, double, numbers } = yield* Tasks
        for (const generator of [numbers, asyncNumbers]) {
          const seen = cells()
          const taken: Array<number> = []
          const gates = [Effect.never, Effect.void]
          const reader = yield* Effect.forkChild(
            Stream.runForEach(generator(seen), (n) =>
              Effect.suspend(() => {
                taken.push(n)
                return n === 100 ? gates[0]! : gates[1]!
              })
            ),
            { startImmediately: true }
          )
          yield* when(() => taken.length === 101)
          yield* when(() => seen[0]! >= 101)
          // Both threads run something else meanwhile: the one that is parked must not.
          yield* double(1)
          // Where the cores are taken it may still be on its way to the end of its window.
          for (let ahead = 0; ahead !== seen[0];) {
            ahead = seen[0]!
            yield* Effect.sleep(50)
            assert.isAtMost(seen[0]!, 101 + 2 * 16)
          }
          yield* Fiber.interrupt(reader)
          assert.strictEqual(seen[1], 1)
        }
        assert.deepInclude(yield* Tasks.state, { running: 0, restarts: 0, cancelled: 2 })
      }).pipe(withTasks())
    )

    it.live("is left when its reader leaves, and its thread is free when it has cleaned up", () =>
      Effect.gen(function* () {
        const { asyncNumbers, double, numbers } = yield* Tasks
        for (const generator of [numbers, asyncNumbers]) {
          const seen = cells()
          assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(generator(seen), 3)), [0, 1, 2])
          assert.strictEqual(seen[1], 1)
        }
        assert.strictEqual(yield* double(1), 2)
        assert.deepInclude(yield* Tasks.state, { running: 0, restarts: 0 })
      }).pipe(withTasks({ size: 1 }))
    )

    it.live("loses its thread when it does not end after its reader left", () =>
      Effect.gen(function* () {
        const { double, stuck } = yield* Tasks
        const seen = cells()
        const first = Stream.take(
          Stream.tap(stuck(seen), () => when(() => seen[0] === 1)),
          1
        )
        assert.deepStrictEqual(yield* Stream.runCollect(first), [1])
        assert.strictEqual(yield* double(1), 2)
        assert.deepInclude(yield* Tasks.state, { restarts: 1, cancelled: 1 })
      }).pipe(withTasks({ size: 1, cancelGrace: "20 millis" }))
    )

    it.live("holds its thread until it has ended", () =>
      Effect.gen(function* () {
        const { double, numbers } = yield* Tasks
        const gate = cells()
        const reader = yield* Effect.forkChild(
          Stream.runForEach(numbers(gate, 40), () => (gate[5] === 0 ? Effect.sleep(1) : Effect.void)),
          { startImmediately: true }
        )
        yield* when(() => gate[0]! > 0)
        const next = yield* Effect.forkChild(double(1), { startImmediately: true })
        yield* Effect.sleep(10)
        assert.isUndefined(next.pollUnsafe())
        gate[5] = 1
        yield* Fiber.join(reader)
        assert.strictEqual(yield* Fiber.join(next), 2)
      }).pipe(withTasks({ size: 1 }))
    )

    it.live("gives what it had before it failed, and then how", () =>
      Effect.gen(function* () {
        const { failing, unsendable } = yield* Tasks
        const taken: Array<unknown> = []
        const collect = <A>(stream: Stream.Stream<A, unknown>) =>
          taskError(Stream.runForEach(stream, (element) => Effect.sync(() => taken.push(element))))
        assert.deepInclude(yield* collect(failing(20)), { kind: "threw", name: "Refused" })
        assert.deepStrictEqual(taken.splice(0), times(20))
        const seen = cells()
        assert.deepInclude(yield* collect(unsendable(seen)), { kind: "result" })
        assert.deepStrictEqual(taken, [1])
        assert.strictEqual(seen[1], 1)
      }).pipe(withTasks({ size: 1 }))
    )

    it.live("that fills the same buffer again sends what was in it", () =>
      Effect.gen(function* () {
        const { reusing } = yield* Tasks
        const elements = yield* Stream.runCollect(reusing(40))
        assert.deepStrictEqual(
          elements.map(([n]) => n),
          times(40)
        )
      }).pipe(withTasks({ size: 1 }))
    )

    it.live("is late only before its first element", () =>
      Effect.gen(function* () {
        const { numbers, stuck } = yield* Tasks
        const slow = Stream.mapEffect(numbers(cells(), 40), (n) => Effect.as(Effect.sleep(10), n))
        assert.strictEqual((yield* Stream.runCollect(slow)).length, 40)
        const never = Stream.drop(stuck(cells()), 1)
        const taken = yield* Effect.timeoutOption(Stream.runDrain(never), "500 millis")
        assert.isTrue(Option.isNone(taken))
      }).pipe(withTasks({ size: 1, taskTimeout: "200 millis", cancelGrace: "20 millis" }))
    )
  })

  describe("buffers", () => {
    it.live("are moved both ways when they are marked", () =>
      Effect.gen(function* () {
        const { bounce } = yield* Tasks
        const bytes = new Uint8Array(1000).fill(7)
        const left = cells()
        const back = yield* bounce(WorkerPool.move(bytes), left)
        assert.strictEqual(bytes.byteLength, 0)
        assert.deepStrictEqual(back, new Uint8Array(1000).fill(7))
        yield* when(() => left[0] !== 0)
        assert.strictEqual(left[0], 1)
      }).pipe(withTasks())
    )

    it.live("are copied when they aren't", () =>
      Effect.gen(function* () {
        const { bounceUnmarked } = yield* Tasks
        const bytes = new Uint8Array(1000).fill(7)
        const left = cells()
        const { nested } = yield* bounceUnmarked(bytes, left)
        assert.strictEqual(bytes.byteLength, 1000)
        assert.deepStrictEqual(nested, bytes)
        yield* when(() => left[0] !== 0)
        assert.strictEqual(left[0], 1001)
      }).pipe(withTasks())
    )

    it.live("are all moved with the option to, but for those of Node's pool", () =>
      Effect.gen(function* () {
        const { bounceUnmarked, same } = yield* Tasks
        const bytes = new Uint8Array(1000).fill(7)
        const left = cells()
        const { nested } = yield* bounceUnmarked(bytes, left)
        assert.strictEqual(bytes.byteLength, 0)
        assert.strictEqual(nested.byteLength, 1000)
        yield* when(() => left[0] !== 0)
        assert.strictEqual(left[0], 1)
        const pooled = Buffer.from("pooled")
        const value = { map: new Map([["a", [new Float64Array(2), pooled]]]), again: pooled }
        assert.deepStrictEqual(String.fromCharCode(...((yield* same(value)) as typeof value).again), "pooled")
        assert.strictEqual(pooled.toString(), "pooled")
        assert.strictEqual(value.map.get("a")![0]!.byteLength, 0)
      }).pipe(withTasks({ transfer: "all" }))
    )

    it.live("can be moved from inside a value", () =>
      Effect.gen(function* () {
        const { same } = yield* Tasks
        const inner = new Uint8Array(8)
        const other = new Uint8Array(8)
        yield* same(WorkerPool.move({ inner, other }, [inner.buffer]))
        assert.deepStrictEqual([inner.byteLength, other.byteLength], [0, 8])
      }).pipe(withTasks())
    )
  })

  describe("the queue", () => {
    it.live("refuses what is too much for it", () =>
      Effect.gen(function* () {
        const { count, until } = yield* Tasks
        const seen = cells()
        const calls = yield* Effect.forEach([1, 2, 3, 4], () =>
          Effect.forkChild(until(seen, 5), { startImmediately: true })
        )
        const full = yield* reason(count(seen, 7))
        assert.deepInclude(full, {
          _tag: "QueueFull",
          deployment: "Tasks",
          ongoing: 2,
          maxOngoingRequests: 2,
          queued: 2,
          maxQueuedRequests: 2
        })
        assert.deepInclude(yield* Tasks.state, { running: 2, queued: 2 })
        seen[5] = 1
        yield* Effect.forEach(calls, Fiber.join)
        assert.strictEqual(yield* count(seen, 7), 7)
        assert.strictEqual(seen[7], 1)
      }).pipe(withTasks({ maxQueuedTasks: 2 }))
    )

    it.live("of no length takes no more than there are threads, also of short tasks", () =>
      Effect.gen(function* () {
        const { double } = yield* Tasks
        yield* Effect.forEach(times(20), double)
        const exits = yield* Effect.forEach(times(5), (n) => Effect.exit(double(n)), all)
        assert.strictEqual(exits.filter(Exit.isSuccess).length, 2)
      }).pipe(withTasks({ maxQueuedTasks: 0 }))
    )

    it.live("takes any number without a bound", () =>
      Effect.gen(function* () {
        const { double } = yield* Tasks
        const doubled = yield* Effect.forEach(times(5000), double, all)
        assert.deepStrictEqual(
          doubled,
          times(5000).map((n) => 2 * n)
        )
      }).pipe(withTasks({ maxQueuedTasks: Infinity }))
    )
  })

  describe("a task that was sent ahead behind one that takes long", () => {
    it.live("goes to another thread when that has nothing to do", () =>
      Effect.gen(function* () {
        const order = yield* doneInOrder([300, 10, ...times(20).map(() => 0)])
        assert.strictEqual(order.indexOf(0), 21)
      }).pipe(withTasks())
    )

    it.live("goes to another thread before what came later", () =>
      Effect.gen(function* () {
        const order = yield* doneInOrder([300, ...times(200).map(() => 1)])
        // 16 were sent ahead to each thread.
        const last = Math.max(...times(32).map((i) => order.indexOf(i + 1)))
        assert.isBelow(last, 60)
        assert.isBelow(last, order.indexOf(0))
      }).pipe(withTasks())
    )
  })

  describe("threads", () => {
    it.live("end when they have had nothing to do for long, and are started again when they are needed", () =>
      Effect.gen(function* () {
        const { until } = yield* Tasks
        assert.strictEqual((yield* Tasks.state).threads, 3)
        const state = yield* whenState(({ threads }) => threads === 1)
        assert.deepInclude(state, { crashes: 0, restarts: 0 })
        const seen = cells()
        const calls = yield* Effect.forEach([1, 2, 3], () =>
          Effect.forkChild(until(seen, 5), { startImmediately: true })
        )
        yield* when(() => seen[0] === 3)
        seen[5] = 1
        yield* Effect.forEach(calls, Fiber.join)
        yield* whenState(({ threads }) => threads === 1)
      }).pipe(withTasks({ size: 3, minSize: 1, idleTimeout: "50 millis" }))
    )

    it.live("are all there after many short calls", () =>
      Effect.gen(function* () {
        const { double, until } = yield* Tasks
        for (const round of times(5)) {
          yield* Effect.forEach(times(2000), (n) => double(n), { concurrency: 64, discard: true })
          const seen = cells()
          const calls = yield* Effect.forEach([1, 2], () =>
            Effect.forkChild(until(seen, 5), { startImmediately: true })
          )
          yield* when(() => seen[0] === 2)
          seen[5] = 1
          yield* Effect.forEach(calls, Fiber.join)
          assert.strictEqual((yield* Tasks.state).running, 0, `round ${round}`)
        }
      }).pipe(withTasks({ size: 2 }))
    )

    it.live("can all end", () =>
      Effect.gen(function* () {
        const { double } = yield* Tasks
        yield* whenState(({ threads }) => threads === 0)
        assert.strictEqual(yield* double(1), 2)
      }).pipe(withTasks({ minSize: 0, idleTimeout: 0 }))
    )

    it.live("wait a moment for the next call before they go back to their event loop", () =>
      Effect.gen(function* () {
        const { double, turns } = yield* Tasks
        const before = yield* turns()
        for (let i = 0; i < 1000; i++) yield* double(i)
        assert.isBelow((yield* turns()) - before, 500)
      }).pipe(withTasks({ size: 1 }))
    )

    it.live("let the timers of the module go on while they are busy", () =>
      Effect.gen(function* () {
        const { double, tick, ticks } = yield* Tasks
        yield* tick(2)
        const end = performance.now() + 200
        while (performance.now() < end) yield* double(1)
        assert.isAtLeast(yield* ticks(), 5)
      }).pipe(withTasks({ size: 1 }))
    )
  })

  describe("when it is closed", () => {
    const opened = Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Tasks.layer({ size: 1, cancelGrace: "100 millis" }), scope)
      return { context, close: Scope.close(scope, Exit.void) }
    })

    it.live("what waits and what does not stop fails with Unavailable, and no thread is left", () =>
      Effect.gen(function* () {
        const before = threadsOfProcess()
        const { close, context } = yield* opened
        yield* Effect.gen(function* () {
          const { count, runaway } = yield* Tasks
          const seen = cells()
          const running = yield* Effect.forkChild(runaway(seen), { startImmediately: true })
          const waiting = yield* Effect.forkChild(count(seen, 7), { startImmediately: true })
          yield* when(() => seen[0] === 1)
          const { millis } = yield* timed(close)
          assert.isAtLeast(millis, 95)
          assert.isAtMost(millis, 400)
          for (const fiber of [running, waiting]) {
            assert.deepInclude(yield* answered(fiber), { _tag: "Unavailable", deployment: "Tasks", why: "draining" })
          }
          assert.strictEqual(seen[7], 0)
          assert.strictEqual((yield* reason(count(seen, 7)))._tag, "Unavailable")
          assert.deepInclude(yield* Tasks.state, { status: "Stopped", threads: 0, running: 0, queued: 0 })
        }).pipe(Effect.provideContext(context))
        yield* when(() => threadsOfProcess() <= before)
      })
    )

    it.live("a task that stops when it is told to gives its result", () =>
      Effect.gen(function* () {
        const { close, context } = yield* opened
        yield* Effect.gen(function* () {
          const { cooperative } = yield* Tasks
          const seen = cells()
          const running = yield* Effect.forkChild(cooperative(seen), { startImmediately: true })
          yield* when(() => seen[0] === 1)
          yield* close
          assert.strictEqual(yield* Fiber.join(running), "stopped")
        }).pipe(Effect.provideContext(context))
      })
    )
  })

  describe("options", () => {
    const options = Effect.map(Tasks.state, ({ options }) => options)

    it.live("have defaults", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* options, {
          size: Math.max(1, availableParallelism() - 1),
          minSize: 1,
          idleTimeout: Duration.seconds(30),
          maxQueuedTasks: 1000,
          taskTimeout: Duration.infinity,
          cancelGrace: Duration.millis(100),
          transfer: "marked",
          resourceLimits: {}
        })
      }).pipe(Effect.provide(Tasks.layer()))
    )

    it.live("come from the ConfigProvider first", () =>
      Effect.gen(function* () {
        const { maxQueuedTasks, size, taskTimeout } = yield* options
        assert.deepStrictEqual([size, maxQueuedTasks, taskTimeout], [2, Infinity, Duration.seconds(5)])
      }).pipe(
        Effect.provide(
          Tasks.layer({ size: 1 }).pipe(
            Layer.provide(
              ConfigProvider.layer(
                ConfigProvider.fromEnv({
                  env: {
                    SERVE_TASKS_SIZE: "2",
                    SERVE_TASKS_MAX_QUEUED_TASKS: "Infinity",
                    SERVE_TASKS_TASK_TIMEOUT: "5 seconds"
                  }
                })
              )
            )
          )
        )
      )
    )

    it.live("kill the layer and are named when they are invalid", () =>
      Effect.gen(function* () {
        const invalid: ReadonlyArray<[string, unknown]> = [
          ["size", 0],
          ["minSize", 3],
          ["idleTimeout", "soon"],
          ["maxQueuedTasks", -1],
          ["taskTimeout", -1],
          ["cancelGrace", null],
          ["transfer", "none"],
          ["resourceLimits", { maxOldGenerationSizeMb: 0 }],
          ["threads", 4]
        ]
        for (const [option, value] of invalid) {
          const layer = Tasks.layer({ size: 2, [option]: value })
          const exit = yield* Effect.exit(Effect.scoped(Layer.build(layer)))
          assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
          const message = Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : ""
          assert.include(message, 'Invalid options of pool "Tasks"')
          assert.include(message, option)
        }
      })
    )
  })

  describe("metrics", () => {
    it.live("show what the pool does", () =>
      Effect.gen(function* () {
        const { block, refuse, until } = yield* Tasks
        yield* block(30)
        yield* Effect.flip(refuse())
        const seen = cells()
        const calls = yield* Effect.forEach([1, 2, 3], () =>
          Effect.forkChild(until(seen, 5), { startImmediately: true })
        )
        yield* when(() => seen[0] === 2)
        yield* Fiber.interrupt(calls[2]!)
        yield* Effect.forkChild(until(seen, 5), { startImmediately: true })
        const snapshot = yield* Metric.snapshot
        const value = (name: string) => {
          const found = snapshot.find(({ attributes, id }) => id === name && attributes?.["pool"] === "Tasks")
          return found?.state as { value: number; count: number; max: number }
        }
        assert.strictEqual(value("serve_pool_threads").value, 2)
        assert.strictEqual(value("serve_pool_tasks_running").value, 2)
        assert.strictEqual(value("serve_pool_tasks_queued").value, 1)
        assert.strictEqual(value("serve_pool_tasks_completed_total").count, 1)
        assert.strictEqual(value("serve_pool_tasks_failed_total").count, 1)
        assert.strictEqual(value("serve_pool_tasks_cancelled_total").count, 1)
        assert.strictEqual(value("serve_pool_crashes_total").count, 0)
        assert.strictEqual(value("serve_pool_run_time_ms").count, 2)
        assert.isAtLeast(value("serve_pool_run_time_ms").max, 29)
        seen[5] = 1
      }).pipe(withTasks())
    )
  })

  describe("a handle that a test made", () => {
    it.effect("has no state", () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Effect.provideService(Tasks.state, Tasks, {} as never))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      })
    )
  })
})
