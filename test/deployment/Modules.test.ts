/**
 * What only replicas on threads of their own can do. What they have in common with others is in
 * `test/acceptance/placements.test.ts`.
 *
 * Seen red for each of these mutations. Telemetry: metrics are not by replica, or stay when it has left. ThreadReplica: calls that
 * had not begun are not sent elsewhere; a replica whose thread has ended doesn't leave, says nothing, or is not ended when it does not
 * heed that. ThreadEnd: a thread that is building does not heed it. LinkedThread: why it ended, or could not start, is not told; it
 * has all the memory there is. AppEnd: both sides count their calls in one place.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Deployment, HttpSchema, ServeError } from "effect-serve"
import { Cause, Context, Effect, Exit, Fiber, Layer, Metric, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { threadId } from "node:worker_threads"
import { Host } from "../../src/batching/Host.ts"
import { resolve } from "../../src/core/Options.ts"
import { ModuleOptions } from "../../src/deployment/DeploymentOptions.ts"
import * as ModuleReplica from "../../src/deployment/ModuleReplica.ts"
import { answered, call, isDone, reason } from "../deployments.ts"
import { app, liveThreads, logged, Logs, started, threadNames, until } from "../modules/app.ts"
import { Part, Probe } from "../modules/Probe.ts"

const lost = (replica: string, started: boolean) => new ServeError.ReplicaLost({ replica, started })

/** Ends a thread, and waits until another one has taken its place. */
const replacing = <A, E, R>(end: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const before = liveThreads()
    const result = yield* end
    yield* until(
      Effect.map(Probe.state, ({ replicas }) => {
        const now = liveThreads()
        const isNew = now.length === before.length && now.some((thread) => !before.includes(thread))
        return isNew && replicas.every(({ status }) => status === "Ready")
      })
    )
    return result
  })

/** What a call on a replica that dies of it fails with. */
const lastWords = <A>(effect: Effect.Effect<A, unknown>) =>
  Effect.map(reason(effect), (lost) => {
    assert.deepInclude(lost, { _tag: "ReplicaLost", started: true })
    return (lost as ServeError.ReplicaLost).replica
  })

/** The number of milliseconds that an effect takes. */
const millisOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const from = performance.now()
    return Effect.map(effect, () => performance.now() - from)
  })

/** Lets virtual time go by until an effect is done, which waits for real threads too. */
const hurry = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const fiber = yield* call(effect)
    while (!isDone(fiber)) {
      yield* TestClock.withLive(Effect.sleep("5 millis"))
      yield* TestClock.adjust("50 millis")
    }
    return yield* Fiber.join(fiber)
  })

setFlagsFromString("--expose-gc")
const collectGarbage = runInNewContext("gc") as () => void

/** The bytes that live on this thread's heap. */
const heap = () => {
  collectGarbage()
  return process.memoryUsage().heapUsed
}

const moduleUrl = (file: string) => new URL(file, new URL("../modules/", import.meta.url))

const options = {
  replicas: 2,
  maxOngoingRequests: 3,
  // Many a call here is to fail.
  outlierEjection: false,
  resourceLimits: { maxOldGenerationSizeMb: 64 }
}

describe("a deployment whose replicas have threads", { timeout: 30_000 }, () => {
  layer(app(options), { excludeTestServices: true })("as long as all is well", (it) => {
    it.effect("gives each of them an event loop of its own", () =>
      Effect.gen(function* () {
        const { thread } = yield* Probe
        const threads = yield* Effect.forEach(Array.from({ length: 12 }), () => thread(), { concurrency: 6 })
        assert.lengthOf(new Set(threads), 2)
        assert.notInclude(threads, threadId)
        assert.sameMembers([...threadNames()], ["Probe#0", "Probe#1"])
      })
    )

    it.effect("gives each of them as much memory as it may have", () =>
      Effect.gen(function* () {
        const { memory } = yield* Probe
        assert.strictEqual(yield* memory(), options.resourceLimits.maxOldGenerationSizeMb)
      })
    )

    it.effect("keeps the app's loop and the other replicas free while a handler computes", () =>
      Effect.gen(function* () {
        const { spin, thread } = yield* Probe
        const spinning = yield* call(spin({ millis: 500 }))
        let ticks = 0
        let answers = 0
        const tick = Effect.andThen(
          Effect.sleep("5 millis"),
          Effect.sync(() => ticks++)
        )
        const ask = Effect.andThen(
          thread(),
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

    it.effect("dies, and says why, when a payload is not of its method's type", () =>
      Effect.gen(function* () {
        const { move } = yield* Probe
        const exit = yield* Effect.exit(move({ point: { x: "1" } as never, at: new Date(0) }))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        if (Exit.isFailure(exit))
          for (const word of ["move", "Expected"]) assert.include(Cause.pretty(exit.cause), word)
      })
    )

    it.effect("shows the metrics of each, by replica", () =>
      Effect.gen(function* () {
        const { measure } = yield* Probe
        const replicas = Effect.map(Metric.snapshot, (metrics) =>
          metrics.filter(({ id }) => id === "test_measured").map(({ attributes }) => attributes?.["replica"])
        )
        yield* Effect.forEach(Array.from({ length: 12 }), () => measure(), { concurrency: 6 })
        yield* until(Effect.map(replicas, (replicas) => replicas.length === 2))
        assert.sameMembers([...(yield* replicas)], ["Probe#0", "Probe#1"])
      })
    )
  })

  layer(app(options), { excludeTestServices: true })("when a thread ends", (it) => {
    const both = Effect.map(Probe.state, ({ replicas }) => replicas.map(({ running }) => running))

    it.effect("fails the calls that run there, no others, and starts another one", () =>
      Effect.gen(function* () {
        const { exit, never, thread } = yield* Probe
        const holders = yield* Effect.forEach([1, 2, 3, 4], () => call(never()))
        const before = yield* Probe.state
        const replica = yield* replacing(lastWords(exit({ code: 3 })))
        const there = before.replicas.find(({ id }) => id === replica)!.running
        const done = holders.filter(isDone)
        assert.lengthOf(done, there)
        for (const holder of done) assert.deepStrictEqual(yield* answered(holder), lost(replica, true))
        assert.lengthOf(threadNames(), 2)
        const threads = yield* Effect.forEach([1, 2], () => thread(), { concurrency: 2 })
        assert.lengthOf(threads, 2)
        yield* Fiber.interruptAll(holders)
        assert.deepStrictEqual(yield* both, [0, 0])
      })
    )

    const unbegun = {
      calls: ({ pause }) => pause({ millis: 100 }),
      streams: ({ chunk }) => Effect.map(Stream.runCollect(chunk({ size: 50 })), ({ length }) => length - 49)
    } satisfies Record<string, (probe: typeof Probe.Service) => Effect.Effect<number, ServeError.ServeError>>
    for (const [what, work] of Object.entries(unbegun)) {
      it.effect(`sends those ${what} elsewhere that it was sent and had not begun`, () =>
        Effect.gen(function* () {
          const probe = yield* Probe
          const before = yield* Probe.state
          const dying = yield* call(probe.spinAndExit({ millis: 150 }))
          // Until it spins.
          yield* Effect.sleep("30 millis")
          const others = yield* Effect.forEach(Array.from({ length: 10 }), () => call(work(probe)))
          assert.deepStrictEqual(yield* both, [3, 3])
          assert.deepInclude(yield* Probe.state, { queued: 5 })
          yield* replacing(lastWords(Fiber.join(dying)))
          for (const other of others) assert.isAtLeast(yield* Fiber.join(other), 1)
          const { completed, failed, rerouted } = yield* Probe.state
          assert.deepStrictEqual([completed - before.completed, failed - before.failed], [10, 1])
          // One that waited may have been sent there when it was already dead.
          assert.include([2, 3], rerouted - before.rerouted)
        })
      )
    }

    it.effect("ends streams that it had begun, after the elements that had come", () =>
      Effect.gen(function* () {
        const { exit, hang } = yield* Probe
        const taken: Array<number> = []
        const read = Stream.runForEach(hang({ after: 3 }), (n) => Effect.sync(() => taken.push(n)))
        const readers = yield* Effect.forEach([1, 2, 3, 4], () => call(read))
        yield* until(Effect.sync(() => taken.length === 12))
        const { replicas } = yield* Probe.state
        const replica = yield* replacing(lastWords(exit({ code: 4 })))
        const cut = readers.filter(isDone)
        assert.lengthOf(cut, replicas.find(({ id }) => id === replica)!.running)
        for (const reader of cut) assert.deepStrictEqual(yield* answered(reader), lost(replica, true))
        yield* Fiber.interruptAll(readers)
        assert.deepStrictEqual(yield* both, [0, 0])
      })
    )

    it.effect("shows no metrics of it any more", () =>
      Effect.gen(function* () {
        const { exit, measure } = yield* Probe
        const measured = Effect.map(Metric.snapshot, (metrics) => metrics.filter(({ id }) => id === "test_measured"))
        yield* Effect.forEach(Array.from({ length: 6 }), () => measure(), { concurrency: 6 })
        yield* until(Effect.map(measured, ({ length }) => length === 2))
        yield* replacing(lastWords(exit({ code: 5 })))
        assert.lengthOf(yield* measured, 1)
      })
    )

    describe("says why", () => {
      const ways = {
        "it exited": [({ exit }) => exit({ code: 3 }), "exit code 3"],
        "it threw where nobody catches": [({ throwLater }) => throwLater({ message: "loose" }), "RangeError: loose"],
        "it needs too much memory": [({ hog }) => hog(), "memory limit"]
      } satisfies Record<string, readonly [(probe: typeof Probe.Service) => Effect.Effect<void, unknown>, string]>
      for (const [what, [end, words]] of Object.entries(ways)) {
        it.effect(what, () =>
          Effect.gen(function* () {
            const probe = yield* Probe
            const entries = yield* Logs
            entries.splice(0)
            yield* replacing(Effect.ignore(end(probe)))
            assert.isNumber(yield* probe.thread())
            assert.deepInclude((yield* logged("has left"))[0], { level: "Warn" })
            assert.deepInclude((yield* logged(words))[0] ?? entries, { level: "Error" })
          })
        )
      }
    })

    it.effect("sends none elsewhere that had begun, whatever calls the handlers there have made", () =>
      Effect.gen(function* () {
        const { callAndExit, linger, thread } = yield* Probe
        yield* Effect.forEach(Array.from({ length: 50 }), () => thread(), { concurrency: 6 })
        const lingering = yield* Effect.forEach([1, 2, 3, 4], () => call(linger({ millis: 0 })))
        const begun = Effect.map(logged("lingers"), ({ length }) => length)
        yield* until(Effect.map(begun, (begun) => begun === 4))
        const { replicas } = yield* Probe.state
        const replica = yield* replacing(lastWords(callAndExit()))
        const ended = lingering.filter(isDone)
        assert.lengthOf(ended, replicas.find(({ id }) => id === replica)!.running)
        for (const caller of ended) assert.deepStrictEqual(yield* answered(caller), lost(replica, true))
        assert.strictEqual(yield* begun, 4)
        yield* Fiber.interruptAll(lingering)
      })
    )
  })

  describe("ends", () => {
    it.live("its threads with its layer", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const context = yield* Layer.buildWithScope(app({ replicas: 3 }), scope)
        assert.lengthOf(threadNames(), 3)
        const millis = yield* millisOf(Scope.close(scope, Exit.void))
        assert.lengthOf(threadNames(), 0)
        assert.isBelow(millis, 2000)
        yield* Effect.provideContext(until(Effect.map(logged("closed"), (closed) => closed.length === 3)), context)
        assert.lengthOf(yield* Effect.provideContext(logged("ended"), context), 0)
      })
    )

    describe.concurrent("when its layer isn't wanted any more, a thread", () => {
      it.live("that is building what it needs, at once", () =>
        Effect.gen(function* () {
          const starting = yield* call(Layer.build(Part.toLayerModule(moduleUrl("failing.module.ts?waits"))))
          const mine = yield* started("Part#0")
          yield* Effect.sleep("600 millis")
          const millis = yield* millisOf(Fiber.interrupt(starting))
          assert.notInclude(liveThreads(), mine)
          assert.isBelow(millis, 3000)
        }).pipe(Effect.scoped)
      )

      it.live("that does not heed it, after 5 seconds", () =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const context = yield* Layer.buildWithScope(app({ gracefulShutdownTimeout: 0 }), scope)
          const mine = yield* started("Probe#0")
          const spinning = yield* call(Context.get(context, Probe).spin({ millis: 15_000 }))
          yield* Effect.sleep("30 millis")
          const millis = yield* millisOf(Scope.close(scope, Exit.void))
          assert.deepStrictEqual(yield* answered(spinning), lost("Probe#0", true))
          yield* Effect.yieldNow
          assert.notInclude(liveThreads(), mine)
          assert.isAtLeast(millis, 4900)
          assert.isBelow(millis, 8000)
        })
      )
    })
  })

  describe("that can't start", () => {
    /** Why a replica could not be built; one try. */
    const whyNot = Effect.fnUntraced(function* (url: URL, { deployment, methods }: Deployment.Any) {
      const resolved = yield* resolve(ModuleOptions, "deployment", deployment, {})
      const placement = { isolation: "thread", blockingThreads: 0, ownRouter: false } as const
      const host = {
        deployment,
        replica: `${deployment}#0`,
        maxOngoingRequests: 1,
        leave: Effect.void,
        endings: new Set<never>(),
        batchers: new Set<never>()
      }
      const contract = { deployment, methods: methods as never }
      const error = yield* ModuleReplica.build(url, contract, resolved, placement).pipe(
        Effect.scoped,
        Effect.provideService(Host, host),
        Effect.flip
      )
      assert.strictEqual(error._tag, "ModuleFailed")
      assert.include(error.message, url.href)
      return error.message
    })

    const cases: ReadonlyArray<readonly [what: string, file: string, words: ReadonlyArray<string>]> = [
      ["there is no such file", "nowhere.ts", ["Cannot find module", "nowhere.ts"]],
      ["it throws", "failing.module.ts?throws", ["RangeError", "the weights don't fit", "failing.module.ts"]],
      ["its build fails", "failing.module.ts?fails", ["Broken", "failing.module.ts"]],
      ["its build dies", "failing.module.ts?dies", ["TypeError", "the weights are none", "failing.module.ts"]],
      ["it exits", "failing.module.ts?exits", ["exit code 9"]],
      ["a handler is missing", "failing.module.ts?tooFew", [`"Part" has no handler for method "never"`]]
    ]
    describe.concurrent("says so when", () => {
      for (const [what, file, words] of cases) {
        it.live(what, () =>
          Effect.gen(function* () {
            const message = yield* whyNot(moduleUrl(file), Part)
            for (const word of words) assert.include(message, word)
          })
        )
      }

      it.live("a deployment that it uses isn't provided", () =>
        Effect.gen(function* () {
          const message = yield* whyNot(moduleUrl("probe.module.ts"), Probe)
          for (const word of [`"Probe" uses "Part"`, "Layer.provide"]) assert.include(message, word)
        })
      )
    })

    it.effect("dies, and says what to do, when a method takes an upload", () =>
      Effect.gen(function* () {
        class Ear extends Deployment.Service<Ear>()("Ear", [Rpc.make("hear", { payload: HttpSchema.Upload() })]) {}
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(Ear.toLayerModule(moduleUrl("nowhere.ts")))))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        if (Exit.isFailure(exit)) {
          for (const word of [`"Ear"`, `"hear"`, `isolation: "loop"`]) assert.include(Cause.pretty(exit.cause), word)
        }
      })
    )

    it.effect("gives up after three tries", () =>
      Effect.gen(function* () {
        const layer = Part.toLayerModule(moduleUrl("failing.module.ts?exits")).pipe(Layer.provideMerge(Logs.layer))
        const starting = yield* call(Effect.exit(Effect.scoped(Layer.build(layer))))
        for (const pause of [1, 500, 1000]) {
          yield* TestClock.adjust(pause - 1)
          yield* TestClock.withLive(Effect.sleep("30 millis"))
          assert.strictEqual(threadNames().length, pause === 1 ? 1 : 0)
          yield* TestClock.adjust(1)
          yield* until(Effect.sync(() => threadNames().length === 1))
          yield* until(Effect.sync(() => threadNames().length === 0))
        }
        const exit = yield* Fiber.join(starting)
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.include(Cause.pretty(exit.cause), "exit code 9")
      })
    )

    it.effect("does with the replicas that could", () =>
      Effect.gen(function* () {
        const layer = Part.toLayerModule(moduleUrl("failing.module.ts?second"), { replicas: 2 })
        const context = yield* hurry(Layer.build(Layer.provideMerge(layer, Logs.layer)))
        assert.strictEqual(yield* Context.get(context, Part).double({ x: 1 }), 0)
        const { replicas } = yield* Effect.provideContext(Part.state, context)
        assert.deepStrictEqual(
          replicas.map(({ id, status }) => [id, status]),
          [["Part#0", "Ready"]]
        )
        const warnings = yield* Effect.provideContext(logged(`Replica "Part#1" did not start`), context)
        assert.deepStrictEqual(
          warnings.map(({ level }) => level),
          ["Warn"]
        )
      })
    )
  })

  it.live("takes the JavaScript of a module whose TypeScript is not there", () =>
    Effect.gen(function* () {
      const part = yield* Part
      assert.strictEqual(yield* part.double({ x: 2 }), 40)
    }).pipe(Effect.provide(Part.toLayerModule(moduleUrl("built.module.ts"))))
  )

  it.live("replaces threads without a trace of those before", () =>
    Effect.gen(function* () {
      const { exit } = yield* Probe
      const replaceOne = replacing(Effect.ignore(exit({ code: 1 })))
      yield* replaceOne
      const before = heap()
      for (let i = 0; i < 5; i++) yield* replaceOne
      const kept = (heap() - before) / 5
      assert.lengthOf(threadNames(), 1)
      assert.isBelow(kept, 300_000)
    }).pipe(Effect.provide(app({})))
  )
})
