/**
 * Ray Serve's page on asyncio and concurrency, statement by statement, in our words and as things are here. Where time is the subject it
 * is virtual; where threads are, they are real, and what is asserted is what ran at once and not how fast it was.
 *
 * Seen red for each of these mutations. DeploymentOptions: six at once by default. Balancer: always the first replica. Router: one more may
 * wait; a permit that comes free wakes nobody; who leaves stays in the queue. ModuleReplica: user code never, or always, has a thread;
 * blocking methods never, or always, have some; a thread too many; three threads whatever poolSize says. Blocking: warns each time, or
 * never. HttpIngress: never, or always, on a thread of its own. Engine: one batch at once, or one too many. BatchQueue: every item is a
 * batch. Batching: never says that batches can't fill, or does at the bound. Oversubscription: says nothing. Relay: the producer doesn't
 * wait.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Batching, Deployment, HttpIngress } from "effect-serve"
import { ConfigProvider, Deferred, Effect, Exit, Fiber, Layer, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { pbkdf2 } from "node:crypto"
import { promisify } from "node:util"
import { threadId } from "node:worker_threads"
import { answers, batcher, lasting, range, send } from "../batching/batches.ts"
import { call, isDone, Job, jobLayer, reason, settle } from "../deployments.ts"
import { logged, Logs, threadNames, until } from "../modules/app.ts"
import { Where } from "../modules/Where.ts"
import { cells, Tasks } from "../worker/pools.ts"

const where = (options: Deployment.DeploymentModuleOptions, env: Record<string, string> = {}) =>
  Where.toLayerModule<typeof import("../modules/where.module.ts")>(
    new URL("../modules/where.module.ts", import.meta.url),
    options
  ).pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env }))), Layer.provideMerge(Logs.layer))

/** Holds the thread that calls it. */
const spin = (millis: number) => {
  const end = performance.now() + millis
  while (performance.now() < end);
}

/** How long a timer of 5 ms takes that is started just before an effect: the time for which that holds this loop, if it does. */
const timerBeside = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const from = performance.now()
    const timer = yield* call(Effect.map(Effect.sleep("5 millis"), () => performance.now() - from))
    yield* effect
    return yield* Fiber.join(timer)
  })

const atOnce = (all: ReadonlyArray<{ readonly from: number; readonly to: number }>) =>
  Math.max(...all.map(({ from }) => all.filter((other) => other.from <= from && from < other.to).length))

/** Makes a call several times at once. */
const several = <A, E, R>(times: number, effect: Effect.Effect<A, E, R>) =>
  Effect.forEach(range(times), () => effect, { concurrency: "unbounded" })

/** Starts so many requests that wait for 100 ms, and tells after how long each one has its answer. */
const waits = Effect.fnUntraced(function* (count: number) {
  const { run } = yield* Job
  const callers = yield* Effect.forEach(range(count), () => call(run(Effect.sleep("100 millis"))))
  const times = callers.map(() => 0)
  for (let millis = 100; !callers.every(isDone) && millis <= 10_000; millis += 100) {
    yield* TestClock.adjust("100 millis")
    yield* settle
    callers.forEach((caller, i) => {
      if (times[i] === 0 && isDone(caller)) times[i] = millis
    })
  }
  return times
})

const onThreads = where({ replicas: 2, maxOngoingRequests: 8, poolSize: 1, outlierEjection: false })
const onLoop = where(
  { maxOngoingRequests: 100 },
  { SERVE_RUN_SYNC_IN_THREADPOOL: "0", SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0" }
)

/** Runs a batch that gives way to nobody. */
const holding = (items: ReadonlyArray<number>) =>
  Effect.as(
    Effect.sync(() => spin(40)),
    items
  )

const ingress = (env: Record<string, string>) =>
  HttpIngress.layerNode({ "/where": Where }, { port: 0, gracefulShutdownTimeout: 0 }).pipe(
    Layer.provideMerge(where({}, env)),
    Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env })))
  )

/** A stream of numbers, a second apart, and how many times each of its parts has run. */
const ticking = () => {
  const runs = { started: 0, made: 0, ended: 0 }
  const elements = Stream.unwrap(
    Effect.sync(() => {
      runs.started++
      return Stream.fromEffectRepeat(
        Effect.delay(
          Effect.sync(() => ++runs.made),
          "1 second"
        )
      )
    })
  ).pipe(Stream.ensuring(Effect.sync(() => runs.ended++)))
  return { runs, elements }
}

// Other programs may take the cores for longer than what is told apart here.
const real = { excludeTestServices: true } as const

describe("how requests are served", () => {
  it.effect("while a handler waits, its loop serves the others: waits overlap and don't add up", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(
        yield* waits(10),
        range(10).map(() => 100)
      )
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 10 })))
  )

  it.effect("a handler that needs nothing from outside ends in the turn in which it is called", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      assert.isTrue(isDone(yield* call(run(Effect.succeed(1)))))
    }).pipe(Effect.provide(jobLayer()))
  )

  it.effect("a request goes through the router to a replica, which runs it", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      yield* call(run(Effect.never))
      const { accepted, replicas } = yield* Job.state
      assert.strictEqual(accepted, 1)
      assert.deepInclude(replicas[0], { id: "Job#0", running: 1 })
    }).pipe(Effect.provide(jobLayer()))
  )
})

describe("what blocks and what doesn't", { retry: 3 }, () => {
  layer(
    Layer.merge(jobLayer({ maxOngoingRequests: 100 }), Tasks.layer({ size: 2, minSize: 2 })),
    real
  )((it) => {
    it.effect("blocking inside of an Effect is still blocking: nothing else runs meanwhile", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const timer = yield* timerBeside(run(Effect.sync(() => spin(40))))
        assert.isAtLeast(timer, 40)
      })
    )

    it.effect("a promise that waits for something outside lets the loop go on", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const waiting = Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 60)))
        assert.isBelow(yield* timerBeside(run(waiting)), 60)
      })
    )

    it.effect("the same blocking code on a thread of a pool lets the loop go on", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const tasks = yield* Tasks
        assert.isBelow(yield* timerBeside(run(Effect.orDie(tasks.block(60)))), 60)
      })
    )

    it.effect("computing is not faster because its handler is an Effect: on one loop, one after the other", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const from = performance.now()
        yield* several(3, run(Effect.sync(() => spin(20))))
        assert.isAtLeast(performance.now() - from, 60)
      })
    )

    it.effect("two threads compute at once: one waits for what the other does meanwhile", () =>
      Effect.gen(function* () {
        const tasks = yield* Tasks
        const shared = cells()
        const waiting = yield* call(tasks.until(shared, 5))
        assert.strictEqual(yield* tasks.count(shared, 5), 5)
        assert.strictEqual(yield* Fiber.join(waiting), 5)
      })
    )

    it.effect("native code that takes a callback has threads already", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const hash = Effect.promise(() => promisify(pbkdf2)("password", "salt", 150_000, 32, "sha256"))
        const from = performance.now()
        const timer = yield* timerBeside(run(hash))
        assert.isBelow(timer, performance.now() - from)
      })
    )

    it.effect("the result of code that computes on a thread comes back to its handler", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        const tasks = yield* Tasks
        assert.strictEqual(yield* run(Effect.orDie(tasks.double(21))), 42)
      })
    )

    it.effect("many inputs go to threads at once, and their results come in the order of the inputs", () =>
      Effect.gen(function* () {
        const tasks = yield* Tasks
        const shared = cells()
        const results = yield* Effect.forEach(range(6), (cell) => tasks.count(shared, cell, 2 * (6 - cell)), {
          concurrency: 2
        })
        assert.deepStrictEqual(results, range(6))
        assert.deepStrictEqual(
          range(6).map((cell) => shared[cell]),
          range(6).map(() => 1)
        )
      })
    )

    it.effect("a batch that blocks holds the loop for all of its requests, and for all others", () =>
      Effect.gen(function* () {
        const batched = yield* Batching.make({ maxBatchSize: 3, run: holding })
        const from = performance.now()
        const callers = Effect.forEach(range(3), (n) => Effect.map(batched(n), () => performance.now() - from), {
          concurrency: "unbounded"
        })
        let times: ReadonlyArray<number> = []
        const timer = yield* timerBeside(Effect.tap(callers, (all) => Effect.sync(() => void (times = all))))
        assert.isAtLeast(timer, 40)
        assert.isAtLeast(Math.min(...times), 40)
      })
    )

    it.effect("a batch whose work is on a thread lets the loop go on", () =>
      Effect.gen(function* () {
        const tasks = yield* Tasks
        const run = (items: ReadonlyArray<number>) => Effect.as(Effect.orDie(tasks.block(60)), items)
        const batched = yield* Batching.make({ maxBatchSize: 3, run })
        const callers = Effect.forEach(range(3), (n) => batched(n), { concurrency: "unbounded" })
        assert.isBelow(yield* timerBeside(callers), 60)
      })
    )

    it.effect("batches on two threads run at once, as maxConcurrentBatches says", () =>
      Effect.gen(function* () {
        const tasks = yield* Tasks
        const shared = cells()
        // The first batch ends when the second one has run.
        const run = ([first]: ReadonlyArray<number>) =>
          Effect.map(Effect.orDie(first === 0 ? tasks.until(shared, 7) : tasks.count(shared, 7)), (n) => [n])
        const batched = yield* Batching.make({ maxBatchSize: 1, maxConcurrentBatches: 2, run })
        assert.deepStrictEqual(yield* Effect.forEach([0, 1], (n) => batched(n), { concurrency: 2 }), [7, 7])
      })
    )

    it.effect("a generator on a thread gives its elements through the stream of a handler", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const tasks = yield* Tasks
        const words = flow(Stream.orDie(tasks.words("to be or not")))
        assert.deepStrictEqual(yield* Stream.runCollect(words), ["to", "be", "or", "not"])
      })
    )

    it.effect("a stream that blocks before an element holds the loop for all others", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const elements = Stream.fromEffectRepeat(Effect.sync(() => spin(40))).pipe(Stream.take(2))
        assert.isAtLeast(yield* timerBeside(Stream.runDrain(flow(elements))), 40)
      })
    )

    it.effect("a stream that blocks can't be cancelled before it gives way", () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const from = performance.now()
        const begun = yield* Deferred.make<void>()
        const element = Effect.andThen(
          Deferred.succeed(begun, undefined),
          Effect.andThen(
            Effect.yieldNow,
            Effect.sync(() => spin(40))
          )
        )
        const reader = yield* call(Stream.runDrain(flow(Stream.fromEffect(element))))
        yield* Deferred.await(begun)
        yield* Effect.sleep("5 millis")
        yield* Fiber.interrupt(reader)
        assert.isAtLeast(performance.now() - from, 40)
      })
    )
  })

  it.effect("threads share no objects, so that nothing needs a lock: each has the state of its module for itself", () =>
    Effect.gen(function* () {
      const tasks = yield* Tasks
      const given = { n: 1 }
      const back = (yield* tasks.same(given)) as typeof given
      assert.deepStrictEqual(back, given)
      assert.notStrictEqual(back, given)
    }).pipe(Effect.provide(Tasks.layer({ size: 1 })))
  )

  it.effect("threads of a pool, together with those of native code, that are far more than the cores say so", () =>
    Effect.gen(function* () {
      const env = { UV_THREADPOOL_SIZE: "999" }
      const tasks = Layer.provide(Tasks.layer({ size: 1 }), ConfigProvider.layer(ConfigProvider.fromEnv({ env })))
      yield* Effect.scoped(Layer.build(tasks))
      const [warning] = yield* logged("999")
      assert.strictEqual(warning?.level, "Warn")
      assert.include(String(warning?.message), "cores")
    }).pipe(Effect.provide(Logs.layer))
  )
})

describe("maxOngoingRequests", () => {
  it.effect("up to maxOngoingRequests requests are in flight per replica", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      for (let i = 0; i < 10; i++) yield* call(run(Effect.never))
      const { queued, replicas, running } = yield* Job.state
      assert.deepStrictEqual({ running, queued }, { running: 6, queued: 4 })
      assert.deepStrictEqual(
        replicas.map((replica) => replica.running),
        [3, 3]
      )
    }).pipe(Effect.provide(jobLayer({ replicas: 2, maxOngoingRequests: 3 })))
  )

  it.effect("it is 5 when nothing is said", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      for (let i = 0; i < 10; i++) yield* call(run(Effect.never))
      assert.strictEqual((yield* Job.state).running, 5)
    }).pipe(Effect.provide(jobLayer()))
  )

  it.effect("excess requests queue until there is capacity", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* waits(6), [100, 100, 200, 200, 300, 300])
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 2 })))
  )

  it.effect("excess requests fail with backpressure when no more may queue", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      for (let i = 0; i < 3; i++) yield* call(run(Effect.never))
      const refused = yield* reason(run(Effect.void))
      assert.deepInclude(refused, { _tag: "QueueFull", maxOngoingRequests: 2, queued: 1, maxQueuedRequests: 1 })
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 2, maxQueuedRequests: 1 })))
  )

  it.effect("a hundred handlers that wait are in flight at once when it is a hundred", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(new Set(yield* waits(100)), new Set([100]))
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 100 })))
  )

  it.effect("two replicas serve twice as much, with the same limit on each", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* waits(8), [100, 100, 100, 100, 200, 200, 200, 200])
    }).pipe(Effect.provide(jobLayer({ replicas: 2, maxOngoingRequests: 2 })))
  )

  it.effect("what waits behind a modest limit can leave, and has cost its replica nothing", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      let begun = 0
      const work = Effect.andThen(
        Effect.sync(() => begun++),
        Effect.never
      )
      const callers = yield* Effect.forEach(range(5), () => call(run(work)))
      yield* Fiber.interruptAll(callers.slice(2))
      assert.strictEqual(begun, 2)
      assert.strictEqual((yield* Job.state).queued, 0)
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 2 })))
  )
})

describe("blocking methods and user code", { retry: 3 }, () => {
  layer(onThreads, real)("on threads, which is the default", (it) => {
    it.effect("user code of a module runs on loops of its own, apart from that of the router", () =>
      Effect.gen(function* () {
        const { handler } = yield* Where
        const threads = new Set(yield* several(8, handler()))
        assert.lengthOf([...threads], 2)
        assert.isFalse(threads.has(threadId))
      })
    )

    it.effect("user code that holds its loop doesn't hold the one that says how the deployment is", () =>
      Effect.gen(function* () {
        const { compute } = yield* Where
        const computing = yield* call(compute({ millis: 100 }))
        yield* Effect.sleep("10 millis")
        assert.strictEqual((yield* Where.state).running, 1)
        assert.isFalse(isDone(computing))
        yield* Fiber.join(computing)
      })
    )

    it.effect("the router goes on sending requests to one replica while another one is held", () =>
      Effect.gen(function* () {
        const { compute, handler } = yield* Where
        const computing = yield* call(compute({ millis: 150 }))
        const answer = yield* handler()
        assert.isFalse(isDone(computing))
        const { thread } = yield* Fiber.join(computing)
        assert.notStrictEqual(answer, thread)
      })
    )

    it.effect("work that computes scales by replicas: two of them compute at once", () =>
      Effect.gen(function* () {
        const { compute } = yield* Where
        const ran = yield* several(2, compute({ millis: 60 }))
        assert.strictEqual(atOnce(ran), 2)
      })
    )

    it.effect("on one replica, handlers that compute run one after the other, whatever maxOngoingRequests says", () =>
      Effect.gen(function* () {
        const { compute } = yield* Where
        const ran = yield* several(6, compute({ millis: 15 }))
        const byThread = Map.groupBy(ran, ({ thread }) => thread)
        for (const all of byThread.values()) assert.strictEqual(atOnce(all), 1)
      })
    )

    it.effect("blocking methods run on threads unless SERVE_RUN_SYNC_IN_THREADPOOL is 0", () =>
      Effect.gen(function* () {
        const { block, handler } = yield* Where
        const handlers = yield* several(4, handler())
        const { thread } = yield* block({ millis: 1 })
        assert.notInclude([...handlers, threadId], thread)
        assert.isEmpty(yield* logged("runs on an event loop"))
      })
    )

    it.effect("as many blocking calls run at once as there are threads for them", () =>
      Effect.gen(function* () {
        const { block, handler } = yield* Where
        const handlers = yield* several(4, handler())
        const ran = yield* several(4, block({ millis: 40 }))
        assert.strictEqual(atOnce(ran), 2)
        const threads = new Set(ran.map(({ thread }) => thread))
        assert.lengthOf([...threads], 2)
        assert.isTrue(handlers.every((thread) => !threads.has(thread)))
      })
    )

    it.effect("the loop of a replica serves others while its blocking methods run", () =>
      Effect.gen(function* () {
        const { block, handler } = yield* Where
        const blocking = yield* call(several(2, block({ millis: 100 })))
        yield* Effect.sleep("10 millis")
        assert.lengthOf([...new Set(yield* several(4, handler()))], 2)
        assert.isFalse(isDone(blocking))
        yield* Fiber.join(blocking)
      })
    )

    it.effect("a blocking generator gives its elements from a thread, and holds no loop", () =>
      Effect.gen(function* () {
        const { blockingSteps } = yield* Where
        const steps = Stream.runCollect(blockingSteps({ count: 3, millis: 25 }))
        assert.isBelow(yield* timerBeside(steps), 75)
        assert.deepStrictEqual(yield* steps, [1, 2, 3])
      })
    )
  })

  layer(onLoop, real)("with the flags at 0", (it) => {
    it.effect("with SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD 0, user code runs on the loop of the app", () =>
      Effect.gen(function* () {
        const { handler } = yield* Where
        assert.strictEqual(yield* handler(), threadId)
      })
    )

    it.effect("then whatever blocks there holds the app", () =>
      Effect.gen(function* () {
        const { compute } = yield* Where
        assert.isAtLeast(yield* timerBeside(compute({ millis: 40 })), 40)
      })
    )

    it.effect("with SERVE_RUN_SYNC_IN_THREADPOOL 0, a blocking method runs where the others do", () =>
      Effect.gen(function* () {
        const { block } = yield* Where
        assert.strictEqual((yield* block({ millis: 1 })).thread, threadId)
        assert.isAtLeast(yield* timerBeside(block({ millis: 40 })), 40)
      })
    )

    it.effect("a blocking handler on the loop serialises requests whatever maxOngoingRequests says", () =>
      Effect.gen(function* () {
        const { block } = yield* Where
        const ran = yield* several(4, block({ millis: 15 }))
        assert.strictEqual(atOnce(ran), 1)
      })
    )

    it.effect("a blocking method on a loop says so once, and how it would run on a thread", () =>
      Effect.gen(function* () {
        const { block } = yield* Where
        yield* several(3, block({ millis: 1 }))
        const warnings = yield* logged('"Where.block" runs on an event loop')
        assert.lengthOf(warnings, 1)
        assert.strictEqual(warnings[0]?.level, "Warn")
        assert.include(String(warnings[0]?.message), "SERVE_RUN_SYNC_IN_THREADPOOL")
      })
    )
  })

  const shared = { SERVE_RUN_SYNC_IN_THREADPOOL: "0", SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0" }
  const health = Effect.flatMap(HttpIngress.Address, ({ url }) =>
    Effect.promise(async () => (await fetch(`${url}/-/healthz`)).status)
  )

  it.live("the router has a loop apart from user code, unless SERVE_RUN_ROUTER_IN_SEPARATE_LOOP is 0", () =>
    Effect.gen(function* () {
      const apart = yield* Effect.provide(
        Effect.map(health, (status) => ({ status, threads: threadNames() })),
        ingress(shared)
      )
      assert.strictEqual(apart.status, 200)
      assert.deepStrictEqual([...apart.threads], ["ingress"])
      yield* until(Effect.sync(() => threadNames().length === 0))
      const together = yield* Effect.provide(
        Effect.map(health, (status) => ({ status, threads: threadNames() })),
        ingress({ ...shared, SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "0" })
      )
      assert.deepStrictEqual(together, { status: 200, threads: [] })
    })
  )
})

describe("batching", () => {
  it.effect("requests that come together reach their handler as one list", () =>
    Effect.gen(function* () {
      const { batched, notes } = yield* batcher({ maxBatchSize: 32, batchWaitTimeout: 5 })
      const callers = yield* send(batched, 1, 2, 3)
      yield* TestClock.adjust("5 millis")
      assert.deepStrictEqual(notes.batches, [[1, 2, 3]])
      assert.deepStrictEqual(yield* answers(callers), [Exit.succeed(1), Exit.succeed(2), Exit.succeed(3)])
    })
  )

  it.effect("several batches run at once, up to maxConcurrentBatches, when their handler waits", () =>
    Effect.gen(function* () {
      const { batched, notes } = yield* batcher({ maxBatchSize: 2, maxConcurrentBatches: 2, run: lasting(100) })
      const callers = yield* send(batched, ...range(6))
      yield* TestClock.adjust("100 millis")
      yield* settle
      assert.deepStrictEqual(callers.map(isDone), [true, true, true, true, false, false])
      assert.strictEqual(notes.most, 2)
    })
  )

  it.effect("they run one after the other when their handler never gives way, whatever maxConcurrentBatches says", () =>
    Effect.gen(function* () {
      const { batched, notes } = yield* batcher({
        maxBatchSize: 2,
        maxConcurrentBatches: 3,
        run: (items) =>
          Effect.as(
            Effect.sync(() => spin(2)),
            items
          )
      })
      yield* send(batched, ...range(6))
      yield* settle
      assert.lengthOf(notes.batches, 3)
      assert.strictEqual(notes.most, 1)
    })
  )

  it.effect("a deployment whose limit is too small for its batches says so", () =>
    Effect.gen(function* () {
      class Model extends Deployment.Service<Model>()("Model", [
        Rpc.make("answer", { payload: { n: Schema.Number }, success: Schema.Number })
      ]) {}
      const build = Effect.map(
        Batching.make({
          maxBatchSize: 32,
          maxConcurrentBatches: 2,
          run: (items: ReadonlyArray<number>) => Effect.succeed(items)
        }),
        (batched) => Model.of({ answer: ({ n }) => batched(n) })
      )
      yield* Effect.scoped(Layer.build(Model.toLayer(build, { maxOngoingRequests: 63 })))
      assert.lengthOf(yield* logged("can't fill its batches"), 1)
      yield* Effect.scoped(Layer.build(Model.toLayer(build, { maxOngoingRequests: 64 })))
      assert.lengthOf(yield* logged("can't fill its batches"), 1)
    }).pipe(Effect.provide(Logs.layer))
  )
})

describe("streaming", () => {
  it.effect("the caller has the first element while the handler still makes the others", () =>
    Effect.gen(function* () {
      const { flow } = yield* Job
      const { elements } = ticking()
      const seen: Array<unknown> = []
      yield* call(Stream.runForEach(flow(elements), (n) => Effect.sync(() => seen.push(n))))
      yield* TestClock.adjust("1 second")
      yield* settle
      assert.deepStrictEqual(seen, [1])
      yield* TestClock.adjust("2 seconds")
      yield* settle
      assert.deepStrictEqual(seen, [1, 2, 3])
    }).pipe(Effect.provide(jobLayer()))
  )

  it.effect("the handler is called once, and asked for each element", () =>
    Effect.gen(function* () {
      const { flow } = yield* Job
      const { elements, runs } = ticking()
      const reader = yield* call(Stream.runCollect(Stream.take(flow(elements), 3)))
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual(yield* Fiber.join(reader), [1, 2, 3])
      assert.deepStrictEqual(runs, { started: 1, made: 3, ended: 1 })
    }).pipe(Effect.provide(jobLayer()))
  )

  it.effect("a stream that waits between its elements lets other requests go on", () =>
    Effect.gen(function* () {
      const { flow, run } = yield* Job
      yield* call(Stream.runDrain(flow(ticking().elements)))
      yield* TestClock.adjust("500 millis")
      assert.strictEqual(yield* run(Effect.succeed("meanwhile")), "meanwhile")
    }).pipe(Effect.provide(jobLayer()))
  )

  it.effect("a slow reader holds the handler back", () =>
    Effect.gen(function* () {
      const { flow } = yield* Job
      let made = 0
      const elements = Stream.fromEffectRepeat(Effect.sync(() => ++made))
      yield* call(Stream.runForEach(flow(elements), () => Effect.sleep("1 second")))
      yield* TestClock.adjust("10 seconds")
      yield* settle
      assert.isAtMost(made, 12)
      assert.isAtLeast(made, 10)
    }).pipe(Effect.provide(jobLayer()))
  )

  it.effect("a reader that leaves ends the stream at once, between two elements", () =>
    Effect.gen(function* () {
      const { flow } = yield* Job
      const { elements, runs } = ticking()
      const reader = yield* call(Stream.runDrain(flow(elements)))
      yield* TestClock.adjust("1500 millis")
      yield* Fiber.interrupt(reader)
      assert.deepStrictEqual(runs, { started: 1, made: 1, ended: 1 })
      assert.strictEqual((yield* Job.state).running, 0)
    }).pipe(Effect.provide(jobLayer()))
  )
})
