/**
 * Seen red for each of these mutations. In the thread that watches: time in which it was late itself counts; a heartbeat that is on
 * time is late; the threshold is always 100 ms; what waits is asked when the block is over; the method is nobody's; no line is
 * written; it does not end, there is one for each watch, or none after the first has ended. Of whose code runs: a method isn't
 * forgotten; who called has not the loop again; only what starts is seen, and not what goes on; who waits isn't counted, or still is
 * when it has ended. In the reports: the first who watches logs them; series stay in the registry; 0 is a threshold; every block
 * is told of; those that were not told of are counted twice; it isn't waited until all was seen; every loop is the main one; the thread keeps its process alive.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Context, Deferred, Effect, Exit, type Fiber, Layer, Metric, Option } from "effect"
import { spawn } from "node:child_process"
import { Worker } from "node:worker_threads"
import * as BlockingDetector from "../../src/watch/BlockingDetector.ts"
import * as CurrentMethod from "../../src/watch/CurrentMethod.ts"
import { logged } from "../worker/pools.ts"

const { reportsOf } = BlockingDetector

/** Holds the event loop. */
const spin = (millis: number) => {
  const until = performance.now() + millis
  while (performance.now() < until);
}
const spinning = (millis: number) => Effect.sync(() => spin(millis))

const contexts = new Map(
  ["compute", "read", "other"].map((method) => [
    method,
    CurrentMethod.contextOf(Context.empty(), { deployment: "Doc", method })
  ])
)

/** Runs work as a request of a method, the way that a router does. */
const request = (method: string, work: Effect.Effect<unknown>) =>
  Effect.callback<void>((resume) => {
    const fiber: Fiber.Fiber<unknown> = CurrentMethod.fork(contexts.get(method)!, work)
    if (fiber.pollUnsafe() !== undefined) return resume(Effect.void)
    CurrentMethod.whenEnded(fiber, () => resume(Effect.void))
  })

const watching = BlockingDetector.watch("Doc", Array.from(contexts.keys()))
const watchingQuietly = Effect.provide(watching, logged().layer)

/** Who held the main loop meanwhile, each once. */
const culprits = (effect: Effect.Effect<unknown>) =>
  Effect.map(reportsOf(effect), ([, reports]) =>
    Array.from(new Set(reports.map(({ deployment, method }) => (deployment === undefined ? "nobody" : method))))
  )

const configured = (threshold: string) =>
  ConfigProvider.layer(ConfigProvider.fromUnknown({ SERVE_BLOCKING_THRESHOLD: threshold }))

const afterATimer = (run: () => void) => new Promise<void>((done) => setTimeout(() => done(run()), 5))

/** The state of a metric of one method. */
const shown = (id: string, method: string) =>
  Effect.map(
    Metric.snapshot,
    (metrics) => metrics.find((metric) => metric.id === id && metric.attributes?.["method"] === method)?.state
  )

const url = (name: string) => new URL(`../../src/watch/${name}.ts`, import.meta.url).href

/** Runs a program in a process of its own. It has `watching` and `spin`. */
const child = (body: string) => {
  const code = `
    import { Effect } from "effect"
    import { reportsOf, watch } from "./src/watch/BlockingDetector.ts"
    const watching = watch("Doc", ["compute"])
    const spin = (millis) => { const until = performance.now() + millis; while (performance.now() < until); }
    ${body}`
  const process = spawn("node_modules/.bin/node", ["--input-type=module-typescript", "-e", code])
  let output = ""
  const waiting = new Set<() => void>()
  const hear = (chunk: Buffer) => {
    output += chunk.toString()
    for (const look of waiting) look()
  }
  process.stdout.on("data", hear)
  process.stderr.on("data", hear)
  /** Waits until it has written what matches. */
  const wrote = (pattern: RegExp) =>
    Effect.callback<string>((resume) => {
      const look = () => {
        const [match] = pattern.exec(output) ?? []
        if (match !== undefined) resume(Effect.succeed(match))
      }
      waiting.add(look)
      look()
    })
  return { process, wrote }
}

const spawned = (body: string) =>
  Effect.acquireRelease(
    Effect.sync(() => child(body)),
    ({ process }) => Effect.sync(() => process.kill("SIGKILL"))
  )

// Where other programs take the cores, the thread that watches is late itself, and counts nothing.
describe("BlockingDetector", { retry: 4 }, () => {
  // First, so that no thread is left from another test.
  it.live("has one thread that watches, which ends when there is nothing to watch for a while", () =>
    Effect.gen(function* () {
      const alive = new Set<Worker>()
      let started = 0
      const count = (worker: Worker) => {
        started++
        alive.add(worker)
        worker.once("exit", () => alive.delete(worker))
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => process.on("worker", count)),
        () => Effect.sync(() => process.off("worker", count))
      )
      yield* Effect.scoped(Effect.andThen(watchingQuietly, reportsOf(Effect.void)))
      yield* Effect.scoped(Effect.all([watchingQuietly, watchingQuietly, reportsOf(Effect.void)]))
      assert.deepStrictEqual([started, alive.size], [1, 1])
      const gone = Effect.suspend(() => (alive.size === 0 ? Effect.void : Effect.fail("alive")))
      const waited = yield* Effect.timeoutOption(Effect.eventually(Effect.andThen(Effect.sleep(20), gone)), "5 seconds")
      assert.isTrue(Option.isSome(waited))
      yield* watchingQuietly
      assert.deepStrictEqual(yield* culprits(request("read", spinning(200))), ["read"])
      assert.strictEqual(started, 2)
    }).pipe(Effect.scoped)
  )

  it.live("doesn't keep a process alive that has nothing more to do", () =>
    Effect.gen(function* () {
      const { process, wrote } = yield* spawned(`
        Effect.runFork(Effect.scoped(watching)).addObserver(() => console.log("done"))`)
      const ended = Effect.callback<void>((resume) => void process.once("exit", () => resume(Effect.void)))
      yield* wrote(/done/)
      assert.isTrue(Option.isSome(yield* Effect.timeoutOption(ended, "500 millis")))
    }).pipe(Effect.scoped)
  )

  describe("watch", () => {
    it.live("says who held the loop, for how long, and what to do, and counts it", () => {
      const { layer, messages } = logged()
      return Effect.gen(function* () {
        yield* watching
        assert.deepStrictEqual(yield* shown("serve_event_loop_blocked_total", "compute"), {
          count: 0,
          incremental: true
        })
        const [, reports] = yield* reportsOf(request("compute", spinning(300)))
        const [{ millis }] = reports as [BlockingDetector.Report]
        assert.deepStrictEqual(reports, [
          { loop: "main", deployment: "Doc", method: "compute", millis, candidates: [] }
        ])
        assert.isAtLeast(millis, 200)
        assert.isAtMost(millis, 1000)
        assert.deepStrictEqual(messages, [
          `Method "Doc.compute" held the main event loop for ${millis} ms, and nothing else ran there. Make it a ` +
            `Deployment.Blocking method of a module deployment, or call a WorkerPool for what takes long.`
        ])
        assert.deepInclude(yield* shown("serve_event_loop_blocked_total", "compute"), { count: 1 })
        assert.deepInclude(yield* shown("serve_event_loop_blocked_ms", "compute"), { count: 1, sum: millis })
        assert.deepInclude(yield* shown("serve_event_loop_blocked_total", "read"), { count: 0 })
        assert.deepInclude(yield* shown("serve_event_loop_blocked_total", "unknown"), { count: 0 })
      }).pipe(
        Effect.scoped,
        Effect.andThen(
          Effect.forEach(["compute", "unknown"], (method) => shown("serve_event_loop_blocked_total", method))
        ),
        Effect.map((states) => assert.deepStrictEqual(states, [undefined, undefined])),
        Effect.provide(layer)
      )
    })

    it.live("logs for the deployment that it is about, whoever else watches", () => {
      const mine = logged()
      const others = logged()
      return Effect.gen(function* () {
        yield* Effect.provide(BlockingDetector.watch("Other", ["run"]), others.layer)
        yield* Effect.provide(watching, mine.layer)
        yield* reportsOf(request("read", spinning(200)))
        assert.strictEqual(mine.messages.length, 1)
        assert.deepStrictEqual(others.messages, [])
      }).pipe(Effect.scoped)
    })
  })

  describe("knows whose code runs", () => {
    const layer = Layer.effectDiscard(watchingQuietly)

    it.layer(layer, { excludeTestServices: true })((it) => {
      for (const [when, work] of Object.entries({
        "after a timer": Effect.andThen(Effect.sleep(5), spinning(200)),
        "after a promise": Effect.andThen(
          Effect.promise(() => afterATimer(() => {})),
          spinning(200)
        ),
        "after it has yielded": Effect.andThen(Effect.yieldNow, spinning(200)),
        "in fibers that it started": Effect.forEach([5, 10], (n) => Effect.andThen(Effect.sleep(n), spinning(120)), {
          concurrency: 2
        })
      })) {
        it.effect(when, () =>
          Effect.gen(function* () {
            assert.deepStrictEqual(yield* culprits(request("read", work)), ["read"])
          })
        )
      }

      it.effect("when a handler calls another method: the inner one's while it runs, the outer one's afterwards", () =>
        Effect.gen(function* () {
          const inner = request("read", Effect.andThen(Effect.void, spinning(200)))
          assert.deepStrictEqual(yield* culprits(request("compute", inner)), ["read"])
          const quick = request("read", Effect.void)
          const outer = Effect.suspend(() => {
            CurrentMethod.fork(contexts.get("read")!, Effect.void)
            spin(200)
            return Effect.void
          })
          assert.deepStrictEqual(yield* culprits(request("compute", outer)), ["compute"])
          const later = Effect.andThen(Effect.andThen(Effect.sleep(5), quick), spinning(200))
          assert.deepStrictEqual(yield* culprits(request("compute", later)), ["compute"])
        })
      )

      it.effect("or names those that may have left it running, such as an async function", () =>
        Effect.gen(function* () {
          const gate = yield* Deferred.make<void>()
          yield* Effect.forkChild(request("other", Deferred.await(gate)), { startImmediately: true })
          yield* request("compute", Effect.sleep(1))
          const [, reports] = yield* reportsOf(
            request(
              "read",
              Effect.promise(() => afterATimer(() => spin(200)))
            )
          )
          yield* Deferred.succeed(gate, undefined)
          const candidates = ["read", "other"].map((method) => ({ deployment: "Doc", method }))
          assert.deepStrictEqual(
            reports.map(({ candidates, deployment, method }) => ({ candidates, deployment, method })),
            [{ candidates, deployment: undefined, method: undefined }]
          )
        })
      )

      it.effect("and not that of a method which ran before", () =>
        Effect.gen(function* () {
          const ran = request("read", Effect.sleep(5))
          const unrelated = Effect.promise(() => afterATimer(() => spin(200)))
          assert.deepStrictEqual(yield* culprits(Effect.andThen(ran, unrelated)), ["nobody"])
        })
      )
    })
  })

  describe("reports nothing", () => {
    it.live("of a loop that is idle, or busy without being held", () =>
      Effect.gen(function* () {
        yield* watching
        const busy = Effect.gen(function* () {
          const until = performance.now() + 600
          while (performance.now() < until) yield* request("read", Effect.andThen(spinning(40), Effect.yieldNow))
        })
        assert.deepStrictEqual(yield* culprits(Effect.andThen(Effect.sleep(400), busy)), [])
      }).pipe(Effect.scoped)
    )

    it.live("of a process that was stopped, but what it does afterwards", () =>
      Effect.gen(function* () {
        const { process, wrote } = yield* spawned(`
          const stopped = Effect.callback((resume) => {
            console.log("ready")
            process.stdin.once("data", () => resume(Effect.void))
          })
          const program = Effect.gen(function*() {
            yield* watching
            const [, whileStopped] = yield* reportsOf(stopped)
            const [, afterwards] = yield* reportsOf(Effect.sync(() => spin(200)))
            console.log("reports:", whileStopped.length, afterwards.length)
            process.exit()
          })
          Effect.runFork(Effect.scoped(program))`)
        yield* wrote(/ready/)
        process.kill("SIGSTOP")
        yield* Effect.sleep(500)
        process.kill("SIGCONT")
        yield* Effect.sleep(20)
        process.stdin.write("go on\n")
        assert.strictEqual(yield* wrote(/reports:.*/), "reports: 0 1")
      }).pipe(Effect.scoped)
    )

    it.live("shorter than SERVE_BLOCKING_THRESHOLD, which is a duration or a number of milliseconds", () =>
      Effect.gen(function* () {
        for (const threshold of ["1 second", "1000"]) {
          const nothing = Effect.andThen(watching, culprits(request("read", spinning(150))))
          assert.deepStrictEqual(yield* Effect.provide(Effect.scoped(nothing), configured(threshold)), [])
        }
      })
    )

    it.live("when SERVE_BLOCKING_THRESHOLD is 0 or Infinity, and says so to who asks", () =>
      Effect.gen(function* () {
        for (const [threshold, why] of [
          ["0", "no event loop is watched"],
          ["Infinity", "no event loop is watched"],
          ["soon", "SERVE_BLOCKING_THRESHOLD"]
        ] as const) {
          const exit = yield* reportsOf(Effect.void).pipe(Effect.provide(configured(threshold)), Effect.exit)
          assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", why)
        }
      })
    )
  })

  it.live("writes of a loop that goes on being held, which can't do so itself", () =>
    Effect.gen(function* () {
      const { wrote } = yield* spawned(`
        import { contextOf, fork } from "./src/watch/CurrentMethod.ts"
        import { Context } from "effect"
        const forever = fork.bind(null, contextOf(Context.empty(), { deployment: "Doc", method: "compute" }), Effect.sync(() => spin(Infinity)))
        Effect.runFork(Effect.scoped(Effect.andThen(watching, reportsOf(Effect.sync(forever)))))`)
      assert.match(
        yield* wrote(/effect-serve: .*\n/),
        /^effect-serve: "Doc\.compute" has been holding the main event loop for 1\.\d s\. Make it a Deployment\.Blocking/
      )
    }).pipe(Effect.scoped)
  )

  describe("watchThread", () => {
    it.live("watches the loop of a replica's thread", () => {
      const { layer, messages } = logged()
      return Effect.gen(function* () {
        const worker = yield* Effect.acquireRelease(
          Effect.sync(
            () =>
              new Worker(
                `const { parentPort } = require("node:worker_threads")
                const load = Promise.all([import("effect"), import("${url("BlockingDetector")}"), import("${url("CurrentMethod")}")])
                load.then(([{ Context, Effect }, { show }, { contextOf, fork }]) => {
                  const context = contextOf(Context.empty(), { deployment: "Far", method: "run" })
                  const work = Effect.sync(() => { const until = performance.now() + 200; while (performance.now() < until); })
                  parentPort.on("message", () => setTimeout(() => parentPort.postMessage(fork(context, work) && "done"), 60))
                  Effect.runFork(Effect.scoped(Effect.flatMap(show("Far", ["run"]), (pulse) => {
                    parentPort.postMessage(pulse)
                    return Effect.never
                  })))
                })`,
                { eval: true, execArgv: [] }
              )
          ),
          (worker) => Effect.promise(() => worker.terminate())
        )
        const heard = Effect.callback<any>((resume) => void worker.once("message", (m) => resume(Effect.succeed(m))))
        yield* BlockingDetector.watchThread("Far#0", yield* heard, "Far", ["run"])
        const run = Effect.suspend(() => {
          // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
          worker.postMessage("run")
          return heard
        })
        const [done, reports] = yield* reportsOf(run)
        assert.strictEqual(done, "done")
        assert.deepStrictEqual(
          reports.map(({ deployment, loop, method }) => ({ deployment, loop, method })),
          [{ deployment: "Far", loop: "Far#0", method: "run" }]
        )
        assert.match(messages[0]!, /^Method "Far\.run" held the event loop of replica "Far#0" for \d+ ms/)
      }).pipe(Effect.scoped, Effect.provide(layer))
    })
  })

  describe("Blocks", () => {
    it("lets one warning through in 10 seconds, with the number of blocks that nobody was told of", () => {
      const blocks = new BlockingDetector.Blocks()
      const told = [0, 1, 9999, 10_000, 10_001, 20_000, 30_000].map((at) => blocks.add(100, at))
      assert.deepStrictEqual(told, [0, undefined, undefined, 2, undefined, 1, 0])
    })
  })

  describe("a warning", () => {
    const report = { loop: "main", deployment: "Doc", method: "read", millis: 312, candidates: [] }
    const nobody = { ...report, deployment: undefined, method: undefined }

    it("says how often it happened", () => {
      assert.include(BlockingDetector.describe(report, 3), "ran there. It is the last of 4 times. Make it")
    })

    it("says whose it may be, if anyone's", () => {
      const candidates = ["read", "compute"].map((method) => ({ deployment: "Doc", method }))
      assert.match(
        BlockingDetector.describe({ ...nobody, candidates }, 0),
        /^Code outside of handlers, probably an async function of "Doc.read" or "Doc.compute", held the main event loop for 312 ms/
      )
      assert.match(BlockingDetector.describe(nobody, 0), /^Code that is none of a method held the main event loop/)
    })
  })
})
