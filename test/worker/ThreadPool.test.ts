import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Stream } from "effect"
import { resolveModule } from "../../src/core/ModuleFile.ts"
import * as ThreadPool from "../../src/worker/ThreadPool.ts"
import { seeded } from "../acceptance/load.ts"
import { reason } from "../deployments.ts"
import { cells, logged, taskError, Tasks, threadsOfProcess, when, whenState, withTasks } from "./pools.ts"

const options = {
  size: 1,
  minSize: 1,
  idleTimeout: Duration.seconds(30),
  maxQueuedTasks: 1000,
  taskTimeout: Duration.infinity,
  cancelGrace: Duration.millis(100),
  transfer: "marked",
  resourceLimits: {}
} as const

/** A pool whose threads count their starts in the first cell. */
const brittle = (seen: Int32Array, more: Partial<Parameters<typeof ThreadPool.make>[0]> = {}) =>
  ThreadPool.make({
    ...options,
    name: "Brittle",
    entry: new URL("./tasks/brittle.ts", import.meta.url),
    data: seen,
    ...more
  })

const random = (seed: number) => {
  const next = seeded(seed, "pool")
  return (below: number) => Math.floor(next() * below)
}

/**
 * Many callers, each of which calls something and stays, or leaves at some moment: while its call waits, was sent ahead, runs,
 * streams, or has just ended. A task counts its runs in the cell of its caller.
 */
const world = (seed: number, callers: number, withCrashes: boolean) =>
  Effect.gen(function* () {
    const tasks = yield* Tasks
    const below = random(seed)
    const runs = new Int32Array(new SharedArrayBuffer(4 * callers))
    let calls = 0
    const counted = <A, E>(call: Effect.Effect<A, E>) => Effect.suspend(() => (calls++, call))
    yield* Effect.forEach(Array.from({ length: 20 }), () => counted(tasks.count(cells(), 2)))
    const work = (i: number): Effect.Effect<unknown, unknown> => {
      const kind = below(withCrashes ? 12 : 11)
      if (kind < 6) return counted(tasks.count(runs, i))
      if (kind < 8) return counted(tasks.count(runs, i, below(4)))
      if (kind === 8) return counted(tasks.countLater(runs, i))
      if (kind === 9) return counted(Stream.runDrain(Stream.take(tasks.numbers(cells(), 40), 1 + below(60))))
      if (kind === 10) return Effect.timeoutOption(counted(tasks.waiting(cells())), 2)
      return counted(tasks.exit(2))
    }
    const caller = (i: number) =>
      Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(work(i), { startImmediately: true })
        const patience = below(12)
        if (patience < 6) {
          for (let turn = below(8); turn > 0; turn--) yield* patience < 3 ? Effect.yieldNow : Effect.sleep(below(2))
          yield* Fiber.interrupt(fiber)
        }
        return { isPatient: patience >= 6, exit: yield* Fiber.await(fiber) }
      })
    const ends = yield* Effect.forEach(Array.from({ length: callers }).keys(), caller, { concurrency: 40 })
    const state = yield* whenState(({ threads }) => threads === 3)
    assert.deepInclude(state, { running: 0, queued: 0 })
    assert.strictEqual(state.completed + state.failed + state.cancelled, calls)
    ends.forEach(({ exit }, i) => {
      assert.isAtMost(runs[i]!, 1, `call ${i} ran twice`)
      if (Exit.isSuccess(exit) && exit.value === i) assert.strictEqual(runs[i], 1, `call ${i} did not run`)
    })
    const doubled = yield* Effect.forEach([1, 2, 3, 4, 5, 6], tasks.double, { concurrency: 6 })
    assert.deepStrictEqual(doubled, [2, 4, 6, 8, 10, 12])
    return { ends, state }
  })

describe("ThreadPool", () => {
  it.live("runs what an entry serves, and knows what that is", () =>
    Effect.gen(function* () {
      const pool = yield* brittle(cells())
      assert.deepStrictEqual(Array.from(pool.functions), [
        ["attached", "function"],
        ["die", "function"],
        ["live", "function"],
        ["elements", "generator"]
      ])
      assert.strictEqual(yield* pool.call("live", []), 1)
      assert.deepStrictEqual(yield* Stream.runCollect(pool.stream("elements", [])), [])
      for (const missing of [pool.call("five", []), Stream.runDrain(pool.stream("five", []))]) {
        const { kind, task } = yield* taskError(missing)
        assert.deepStrictEqual({ kind, task }, { kind: "missing", task: "five" })
      }
    })
  )

  it.live("attaches something else to each thread", () =>
    Effect.gen(function* () {
      let attached = 0
      const pool = yield* brittle(cells(), {
        attach: () => {
          const { buffer } = new Uint8Array([++attached])
          return { data: buffer, transfer: [buffer] }
        }
      })
      const number = Effect.map(pool.call("attached", []), (buffer) => new Uint8Array(buffer as ArrayBuffer)[0])
      assert.strictEqual(yield* number, 1)
      yield* Effect.flip(pool.call("die", []))
      assert.strictEqual(yield* number, 2)
    }).pipe(Effect.provide(logged().layer))
  )

  it.live("fails when a thread says that it can't be loaded", () =>
    Effect.gen(function* () {
      const seen = cells()
      seen[1] = 1
      const error = yield* Effect.flip(brittle(seen))
      assert.strictEqual(error._tag, "ModuleFailed")
      assert.include(error.message, "brittle.ts: Error: not now")
    })
  )

  describe("a thread that crashes again and again", () => {
    it.live("is started at once, and then after a rest that doubles, until a task is done", () => {
      const { layer, messages } = logged()
      return Effect.gen(function* () {
        const seen = cells()
        const pool = yield* brittle(seen)
        const rests: Array<number> = []
        const crash = Effect.gen(function* () {
          const starts = seen[0]!
          assert.deepInclude(yield* reason(pool.call("die", [])), { _tag: "WorkerCrashed", exitCode: 1 })
          const start = performance.now()
          yield* when(() => seen[0] === starts + 1)
          rests.push(performance.now() - start)
        })
        for (let i = 0; i < 4; i++) yield* crash
        assert.isBelow(rests[0]!, 300)
        assert.isAtLeast(rests[1]!, 95)
        assert.isAtLeast(rests[2]!, 195)
        assert.isAtLeast(rests[3]!, 395)
        assert.deepInclude(pool.state, { crashes: 4, restarts: 4, failed: 4 })
        assert.deepStrictEqual(
          messages.map((message) => /in (\d+) ms/.exec(message)![1]),
          ["0", "100", "200", "400"]
        )
        assert.strictEqual(yield* pool.call("live", []), 1)
        yield* crash
        assert.isBelow(rests[4]!, 300)
      }).pipe(Effect.provide(layer))
    })

    it.live("keeps those waiting that wait, and they run when it is back", () =>
      Effect.gen(function* () {
        const seen = cells()
        const pool = yield* brittle(seen)
        seen[1] = 1
        yield* Effect.flip(pool.call("die", []))
        const waiting = yield* Effect.forkChild(pool.call("live", []), { startImmediately: true })
        yield* when(() => seen[0] === 4)
        assert.deepInclude(pool.state, { queued: 1, running: 0 })
        seen[1] = 0
        assert.strictEqual(yield* Fiber.join(waiting), 1)
        assert.isAtLeast(pool.state.crashes, 3)
      }).pipe(Effect.provide(logged().layer))
    )

    it.live("does not keep the pool from being closed while it rests", () =>
      Effect.gen(function* () {
        const before = threadsOfProcess()
        const seen = cells()
        const pool = yield* Effect.scoped(
          Effect.tap(brittle(seen), (pool) =>
            Effect.gen(function* () {
              seen[1] = 1
              yield* Effect.flip(pool.call("die", []))
              yield* when(() => seen[0] === 3)
            })
          )
        )
        assert.deepInclude(pool.state, { status: "Stopped", threads: 0 })
        const starts = seen[0]
        yield* Effect.sleep(250)
        assert.strictEqual(seen[0], starts)
        yield* when(() => threadsOfProcess() <= before)
      }).pipe(Effect.provide(logged().layer))
    )
  })

  describe("whatever its callers do", () => {
    for (const seed of [1, 2, 3, 4, 5, 6]) {
      it.live(`every call ends once, and nothing is left or lost: ${seed}`, () =>
        Effect.gen(function* () {
          const { ends, state } = yield* world(seed, 600, false)
          assert.deepInclude(state, { crashes: 0, restarts: 0 })
          const failed = ends.filter(({ exit, isPatient }) => isPatient && Exit.isFailure(exit))
          assert.deepStrictEqual(failed, [])
        }).pipe(withTasks({ size: 3, minSize: 3, maxQueuedTasks: Infinity, cancelGrace: "2 seconds" }))
      )
    }

    for (const seed of [7, 8, 9]) {
      it.live(`that holds while threads crash and are ended: ${seed}`, () =>
        Effect.gen(function* () {
          const { state } = yield* world(seed, 150, true)
          assert.isAbove(state.crashes, 0)
        }).pipe(
          withTasks({ size: 3, minSize: 3, maxQueuedTasks: Infinity, cancelGrace: "1 millis" }),
          Effect.provide(logged().layer)
        )
      )
    }
  })

  describe("resolveModule", () => {
    it("leaves alone what is there, and what is no file", () => {
      const here = new URL(import.meta.url)
      for (const url of [
        here,
        new URL("./nothing.ts", here),
        new URL("data:text/javascript,1"),
        new URL("./a.js", here)
      ]) {
        assert.strictEqual(resolveModule(url).href, url.href)
      }
    })
  })
})
