/**
 * Methods whose handlers are plain functions that block, and where they run. Calls are made to last by the clock, not by work.
 *
 * Seen red for each of these mutations. Blocking: warns each time; declared errors, or ServeErrors, are defects; a generator is not
 * told that its reader has left; the request is another one. ModuleReplica: a thread too many; as many threads as cores.
 */
import { assert, describe, it, layer, type Vitest } from "@effect/vitest"
import { Deployment, RequestContext, ServeError } from "effect-serve"
import { Cause, Context, Effect, Exit, Fiber, Layer, Schema, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { availableParallelism } from "node:os"
import { threadId } from "node:worker_threads"
import { call, isDone, reason } from "../deployments.ts"
import {
  liveThreads,
  logged,
  Logs,
  PartLive,
  request as requestOf,
  started,
  threadNames,
  until
} from "../modules/app.ts"
import { Broken, Point } from "../modules/Probe.ts"
import { Block, Work } from "../modules/Work.ts"
import { handlers } from "../modules/workHandlers.ts"

const moduleUrl = (file: string) => new URL(`../modules/${file}`, import.meta.url)

const workLayer = (options: Deployment.DeploymentModuleOptions) =>
  Work.toLayerModule<typeof import("../modules/work.module.ts")>(moduleUrl("work.module.ts"), options).pipe(
    Layer.provideMerge(PartLive),
    Layer.provideMerge(Logs.layer)
  )

const blockLayer = (options: Deployment.DeploymentModuleOptions) =>
  Block.toLayerModule<typeof import("../modules/block.module.ts")>(moduleUrl("block.module.ts"), options)

/** How many threads a deployment has all of whose methods block. */
const threadsOf = (options: Deployment.DeploymentModuleOptions) =>
  Effect.provide(
    Effect.sync(() => threadNames().length),
    blockLayer(options)
  )

/** The number of milliseconds that an effect takes. */
const millisOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const from = performance.now()
    return Effect.map(effect, () => performance.now() - from)
  })

const defect = <A>(effect: Effect.Effect<A, unknown>) =>
  Effect.map(Effect.exit(effect), (exit) => {
    assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), "it dies")
    return (Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined) as Error
  })

interface Ran {
  readonly thread: number
  readonly from: number
  readonly to: number
}

/** How many of these ran at once at most. */
const atOnce = (all: ReadonlyArray<Ran>) =>
  Math.max(...all.map(({ from }) => all.filter((other) => other.from <= from && from < other.to).length))

const eight = Array.from({ length: 8 })
const spinEight = Effect.flatMap(Work, ({ spin }) =>
  Effect.forEach(eight, () => spin({ millis: 150 }), { concurrency: "unbounded" })
)

/** What a caller can tell of a blocking method, wherever it runs. */
const behaviour = (it: Pick<Vitest.MethodsNonLive<Work>, "effect">) => {
  it.effect("answers with values in their classes", () =>
    Effect.gen(function* () {
      const { move, reverse } = yield* Work
      const moved = yield* move({ point: new Point({ x: 1, y: 2 }), at: new Date("2020-02-03") })
      assert.instanceOf(moved, Point)
      assert.deepStrictEqual(moved, new Point({ x: 2021, y: 2 }))
      assert.deepStrictEqual(yield* reverse({ bytes: Uint8Array.of(1, 2, 3) }), Uint8Array.of(3, 2, 1))
    })
  )

  it.effect("knows its request", () =>
    Effect.gen(function* () {
      const { request } = yield* Work
      const { millisLeft, ...rest } = yield* Effect.provideService(
        request(undefined, { timeout: "3 seconds", tenant: "t", priority: "critical" }),
        RequestContext.RequestContext,
        requestOf({ requestId: "r" })
      )
      assert.deepStrictEqual(rest, { requestId: "r", priority: "critical", tenant: "t" })
      assert.isAtMost(millisLeft, 3000)
      assert.isAtLeast(millisLeft, 1000)
    })
  )

  it.effect("fails with what it throws, when its method declares that", () =>
    Effect.gen(function* () {
      const { fail } = yield* Work
      const error = yield* Effect.flip(fail({ part: "a" }))
      assert.instanceOf(error, Broken)
      assert.strictEqual(error.part, "a")
    })
  )

  it.effect("fails with a ServeError that it throws", () =>
    Effect.gen(function* () {
      const { refuse } = yield* Work
      assert.deepInclude(yield* reason(refuse()), { _tag: "Shed", why: "the test" })
    })
  )

  it.effect("dies of anything else that it throws, and lives on", () =>
    Effect.gen(function* () {
      const { built, die } = yield* Work
      const { message, name, stack } = yield* defect(die({ message: "no such key" }))
      assert.deepStrictEqual([name, message], ["TypeError", "no such key"])
      assert.include(stack, "workHandlers.ts")
      assert.strictEqual(yield* built(), 42)
    })
  )

  it.effect("gives its elements, of any iterable, and then its error", () =>
    Effect.gen(function* () {
      const { count, list } = yield* Work
      const numbers = Array.from({ length: 200 }, (_, i) => i + 1)
      assert.deepStrictEqual(yield* Stream.runCollect(count({ to: 200, failAt: 0 })), numbers)
      const points = yield* Stream.runCollect(list())
      assert.deepStrictEqual(points, [new Point({ x: 1, y: 2 }), new Point({ x: 3, y: 4 })])
      assert.instanceOf(points[0], Point)
      for (const failAt of [1, 16, 17, 60]) {
        const taken: Array<number> = []
        const error = yield* Effect.flip(
          Stream.runForEach(count({ to: 200, failAt }), (n) =>
            Effect.andThen(
              Effect.yieldNow,
              Effect.sync(() => taken.push(n))
            )
          )
        )
        assert.instanceOf(error, Broken)
        assert.lengthOf(taken, failAt - 1)
      }
    })
  )

  it.effect("lets a generator clean up when its reader has had enough", () =>
    Effect.gen(function* () {
      const { count, counts } = yield* Work
      const { finished } = yield* counts()
      assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(count({ to: 1e9, failAt: 0 }), 3)), [1, 2, 3])
      assert.strictEqual((yield* counts()).finished, finished + 1)
      assert.strictEqual((yield* Work.state).running, 0)
    })
  )
}

describe("a blocking method", { timeout: 20_000 }, () => {
  layer(workLayer({ maxOngoingRequests: 8, poolSize: 1 }), { excludeTestServices: true })(
    "of a module, on a thread of its own,",
    (it) => {
      behaviour(it)

      it.effect("dies, and says why, when its result is not of its type", () =>
        Effect.gen(function* () {
          const { wrong } = yield* Work
          const { message } = yield* defect(wrong())
          for (const word of ["wrong", "Expected number"]) assert.include(message, word)
        })
      )

      it.effect("dies, and says why, when its payload is not of its type", () =>
        Effect.gen(function* () {
          const { move } = yield* Work
          const { message } = yield* defect(move({ point: { x: "1" } as never, at: new Date(0) }))
          for (const words of ["move", "Expected"]) assert.include(message, words)
        })
      )

      it.effect("runs on no event loop, neither the app's nor that of the other methods", () =>
        Effect.gen(function* () {
          const { loop, spin } = yield* Work
          const { thread } = yield* spin({ millis: 1 })
          const other = yield* loop()
          assert.lengthOf(new Set([thread, other, threadId]), 3)
        })
      )

      it.effect("holds up nothing else", () =>
        Effect.gen(function* () {
          const { loop, spin } = yield* Work
          const spinning = yield* call(spin({ millis: 400 }))
          let ticks = 0
          let answers = 0
          const tick = Effect.andThen(
            Effect.sleep("5 millis"),
            Effect.sync(() => ticks++)
          )
          const ask = Effect.andThen(
            loop(),
            Effect.sync(() => answers++)
          )
          yield* Effect.raceFirst(
            Fiber.join(spinning),
            Effect.all([Effect.forever(tick), Effect.forever(ask)], { concurrency: 2 })
          )
          // A loop that is held gives none.
          assert.isAtLeast(ticks, 5)
          assert.isAtLeast(answers, 5)
        })
      )

      it.effect("is not ahead of the reader of its elements by more than a window", () =>
        Effect.gen(function* () {
          const { count } = yield* Work
          const pull = yield* Stream.toPull(count({ to: 1e9, failAt: 0 }))
          let taken = 0
          while (taken < 40) taken = (yield* pull).at(-1)!
          yield* Effect.sleep("50 millis")
          // All that was made is in the next chunk, or in what the pool may hold beside it.
          const chunk = yield* pull
          assert.strictEqual(chunk[0], taken + 1)
          assert.isAtMost(chunk.length, 32)
        }).pipe(Effect.scoped)
      )

      it.effect("stops when its stream is late, and keeps its thread", () =>
        Effect.gen(function* () {
          const { count, counts, spin } = yield* Work
          const { thread } = yield* spin({ millis: 1 })
          const { finished } = yield* counts()
          const late = Stream.runForEach(
            count({ to: 1e9, failAt: 0 }, { timeout: "100 millis" }),
            () => Effect.yieldNow
          )
          assert.deepInclude(yield* reason(late), { _tag: "DeadlineExceeded", stage: "stream" })
          yield* until(Effect.map(Work.state, ({ running }) => running === 0))
          assert.strictEqual((yield* counts()).finished, finished + 1)
          assert.strictEqual((yield* spin({ millis: 1 })).thread, thread)
        })
      )

      it.effect("stops when it asks whether it is cancelled, and keeps its thread", () =>
        Effect.gen(function* () {
          const { obedient, spin } = yield* Work
          const { thread } = yield* spin({ millis: 1 })
          const caller = yield* call(obedient())
          yield* Effect.sleep("30 millis")
          yield* Fiber.interrupt(caller)
          assert.strictEqual((yield* Work.state).running, 0)
          assert.deepInclude(yield* reason(obedient(undefined, { timeout: "50 millis" })), { stage: "handler" })
          assert.strictEqual((yield* spin({ millis: 1 })).thread, thread)
        })
      )

      it.effect("does not begin for a caller that leaves before its turn", () =>
        Effect.gen(function* () {
          const { count, counts, spin } = yield* Work
          const { produced } = yield* counts()
          const spinning = yield* call(spin({ millis: 150 }))
          const waiting = yield* call(Stream.runDrain(count({ to: -1 * produced, failAt: 0 })))
          yield* Effect.sleep("30 millis")
          assert.isBelow(yield* millisOf(Fiber.interrupt(waiting)), 80)
          assert.isFalse(isDone(spinning))
          yield* Fiber.join(spinning)
          assert.strictEqual((yield* counts()).produced, produced)
          assert.strictEqual((yield* Work.state).running, 0)
        })
      )
    }
  )

  layer(workLayer({ maxOngoingRequests: 8, poolSize: 2 }), { excludeTestServices: true })("with two threads", (it) => {
    it.effect("runs twice at once, and not more often", () =>
      Effect.gen(function* () {
        const { spin } = yield* Work
        // Both threads have been started, and what they run is warm.
        yield* Effect.forEach(eight, () => spin({ millis: 5 }), { concurrency: "unbounded" })
        let ran: ReadonlyArray<Ran> = []
        const millis = yield* millisOf(Effect.map(spinEight, (all) => (ran = all)))
        assert.strictEqual(atOnce(ran), 2)
        assert.lengthOf(new Set(ran.map(({ thread }) => thread)), 2)
        assert.isAtLeast(millis, 4 * 150)
        assert.isBelow(millis, 6 * 150)
      })
    )

    it.effect("that never ends is late at once for its caller, and for its replica when its thread has ended", () =>
      Effect.gen(function* () {
        const { endless, spin } = yield* Work
        const times: Array<number> = []
        for (let i = 0; i < 2; i++) {
          const before = liveThreads()
          const late = reason(endless(undefined, { timeout: "200 millis" }))
          times.push(yield* millisOf(Effect.map(late, (late) => assert.deepInclude(late, { stage: "handler" }))))
          assert.strictEqual((yield* Work.state).running, 1)
          assert.includeMembers([...liveThreads()], [...before])
          // The other thread is there meanwhile.
          assert.notStrictEqual((yield* spin({ millis: 1 })).thread, threadId)
          yield* until(Effect.map(Work.state, ({ running }) => running === 0))
          assert.lengthOf(
            before.filter((thread) => !liveThreads().includes(thread)),
            1
          )
        }
        // The lesser, because a busy machine may be late by itself.
        assert.isBelow(Math.min(...times), 250)
        assert.lengthOf(yield* Effect.forEach([1, 2], () => spin({ millis: 1 })), 2)
        // One for the other methods, and two again.
        yield* until(Effect.sync(() => liveThreads().length === 3))
      })
    )

    it.effect("that never ends is ended when its caller leaves", () =>
      Effect.gen(function* () {
        const { endless } = yield* Work
        const caller = yield* call(endless())
        yield* Effect.sleep("50 millis")
        assert.isBelow(yield* millisOf(Fiber.interrupt(caller)), 1000)
        assert.strictEqual((yield* Work.state).running, 0)
      })
    )

    it.effect("fails with its thread, and no other call does", () =>
      Effect.gen(function* () {
        const { exit, spin } = yield* Work
        // The tests before may have ended a thread whose successor is not there yet.
        yield* until(Effect.map(spinEight, (ran) => atOnce(ran) === 2))
        const other = yield* call(spin({ millis: 800 }))
        const crashed = yield* reason(exit({ code: 5 }))
        assert.deepInclude(crashed, { _tag: "WorkerCrashed", exitCode: 5 })
        assert.isFalse(isDone(other))
        assert.isAtLeast((yield* Fiber.join(other)).to, 0)
        const { replicas, running } = yield* Work.state
        assert.deepStrictEqual([running, ...replicas.map(({ status }) => status)], [0, "Ready"])
        assert.strictEqual(atOnce(yield* spinEight), 2)
      })
    )
  })

  const onLoop = { maxOngoingRequests: 8, isolation: "loop", runSyncInThreadpool: false } as const
  layer(workLayer(onLoop), { excludeTestServices: true })("of a module, when that is switched off,", (it) => {
    behaviour(it)

    it.effect("runs once at a time, where the others run", () =>
      Effect.gen(function* () {
        let ran: ReadonlyArray<Ran> = []
        const millis = yield* millisOf(Effect.map(spinEight, (all) => (ran = all)))
        assert.strictEqual(atOnce(ran), 1)
        assert.isAtLeast(millis, 8 * 150)
        assert.deepStrictEqual([ran[0]!.thread, yield* (yield* Work).loop()], [threadId, threadId])
      })
    )

    it.effect("warns once for each method", () =>
      Effect.gen(function* () {
        const { built, counts, spin } = yield* Work
        for (let i = 0; i < 3; i++) yield* Effect.all([built(), counts(), spin({ millis: 1 })])
        for (const method of ["built", "counts", "spin"]) {
          const warnings = yield* logged(`"Work.${method}"`)
          assert.deepStrictEqual(
            warnings.map(({ level }) => level),
            ["Warn"]
          )
          assert.include(String(warnings[0]!.message[0]), "SERVE_RUN_SYNC_IN_THREADPOOL")
        }
      })
    )
  })

  const inCode = Work.toLayer(handlers(42), { maxOngoingRequests: 8 }).pipe(Layer.provideMerge(Logs.layer))
  layer(inCode, { excludeTestServices: true })("of a deployment that is no module,", (it) => {
    behaviour(it)

    it.effect("runs on the app's loop, and warns once for each method", () =>
      Effect.gen(function* () {
        const { built, spin } = yield* Work
        for (let i = 0; i < 3; i++) yield* built()
        assert.strictEqual((yield* spin({ millis: 1 })).thread, threadId)
        for (const method of ["built", "spin"]) assert.lengthOf(yield* logged(`"Work.${method}"`), 1)
        assert.lengthOf(yield* logged(`"Work.loop"`), 0)
      })
    )
  })

  it.live("on the loop of its replica's thread, when it has one and that is switched off", () =>
    Effect.gen(function* () {
      const { loop, spin } = yield* Work
      const { thread } = yield* spin({ millis: 1 })
      assert.deepStrictEqual([yield* loop(), thread === threadId], [thread, false])
      assert.lengthOf(threadNames(), 1)
      yield* until(Effect.map(logged(`"Work.spin"`), ({ length }) => length === 1))
    }).pipe(Effect.provide(workLayer({ runSyncInThreadpool: false })))
  )

  describe("and its threads", () => {
    it.live("are all that a replica has whose methods all block, and have the memory that it may have", () =>
      Effect.gen(function* () {
        const { memory, numbers, thread } = yield* Block
        assert.lengthOf(threadNames(), 1)
        assert.notStrictEqual(yield* thread(), threadId)
        assert.deepStrictEqual(yield* Stream.runCollect(numbers()), [1, 2, 3])
        assert.strictEqual(yield* memory(), 96)
      }).pipe(Effect.provide(blockLayer({ poolSize: 1, resourceLimits: { maxOldGenerationSizeMb: 96 } })))
    )

    it.live("are as many as requests may run, and no more than there are cores", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* threadsOf({ maxOngoingRequests: 1 }), 1)
        assert.strictEqual(yield* threadsOf({ maxOngoingRequests: 64 }), availableParallelism())
      })
    )

    it.live("end with the layer, whatever they run", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const context = yield* Layer.buildWithScope(workLayer({ gracefulShutdownTimeout: 0, poolSize: 2 }), scope)
        const { endless, spin } = Context.get(context, Work)
        const running = [yield* call<unknown, unknown, never>(endless()), yield* call(spin({ millis: 10_000 }))]
        yield* Effect.sleep("50 millis")
        const millis = yield* millisOf(Scope.close(scope, Exit.void))
        const lost = new ServeError.ReplicaLost({ replica: "Work#0", started: true })
        for (const fiber of running) assert.deepStrictEqual(yield* reason(Fiber.join<unknown, unknown>(fiber)), lost)
        assert.lengthOf(threadNames(), 0)
        assert.isBelow(millis, 3000)
      })
    )

    it.live("end with a layer that isn't wanted any more while they are started", () =>
      Effect.gen(function* () {
        const starting = yield* call(Layer.build(blockLayer({ poolSize: 2 })))
        yield* started("Block#0")
        const millis = yield* millisOf(Fiber.interrupt(starting))
        assert.lengthOf(threadNames(), 0)
        assert.isBelow(millis, 2000)
      }).pipe(Effect.scoped)
    )
  })

  it.effect("of a stream begins when it is read, and each time anew", () =>
    Effect.gen(function* () {
      let begun = 0
      class Lines extends Deployment.Service<Lines>()("Lines", [
        Deployment.Blocking(Rpc.make("read", { success: Schema.String, stream: true }))
      ]) {}
      const read = () => {
        begun++
        return ["a", "b"]
      }
      const lines = Context.get(yield* Layer.build(Lines.toLayer({ read }).pipe(Layer.provide(Logs.layer))), Lines)
      const stream = lines.read()
      assert.strictEqual(begun, 0)
      yield* Stream.runDrain(stream)
      yield* Stream.runDrain(stream)
      assert.strictEqual(begun, 2)
    })
  )
})
