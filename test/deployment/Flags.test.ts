/**
 * The switches for where user code runs, and the options of a deployment that come before them.
 *
 * Seen red for each of these mutations: flags are off by default; all replicas have threads; an ingress always avoids the loop; a
 * replica has as many threads as there are cores.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deployment } from "effect-serve"
import { Cause, ConfigProvider, Context, Effect, Exit, Layer } from "effect"
import { threadId } from "node:worker_threads"
import { resolve } from "../../src/core/Options.ts"
import { ModuleOptions } from "../../src/deployment/DeploymentOptions.ts"
import * as Handle from "../../src/deployment/Handle.ts"
import * as ModuleReplica from "../../src/deployment/ModuleReplica.ts"
import { PartLive, probeLayer, threadNames } from "../modules/app.ts"
import { Part, Probe } from "../modules/Probe.ts"
import { Block, Work } from "../modules/Work.ts"

type Options = Deployment.DeploymentModuleOptions
type Environment = Record<string, string>

const within = (env: Environment) => Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env })))

const cores = 4

/** Where the code of a deployment runs that is given these options, and has these methods, in this environment. */
const place = (env: Environment, written: Options = {}, deployment: Deployment.Any = Work) =>
  Effect.gen(function* () {
    const options = yield* resolve(ModuleOptions, "deployment", deployment.deployment, written)
    return yield* ModuleReplica.place(deployment.deployment, options, deployment.methods as never, cores)
  }).pipe(within(env))

/** What a layer dies with. */
const refusal = (env: Environment, written: Options = {}) =>
  Effect.gen(function* () {
    const exit = yield* Effect.exit(Effect.scoped(Layer.build(Layer.provide(probeLayer(written), PartLive))))
    assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), "the layer dies")
    return Exit.isFailure(exit) ? Cause.pretty(exit.cause) : ""
  }).pipe(within(env))

describe("Flags", () => {
  it.effect("are all on by default", () =>
    Effect.gen(function* () {
      const everywhere = { isolation: "thread", blockingThreads: cores, ownRouter: true } as const
      assert.deepStrictEqual(yield* place({}), everywhere)
      for (const on of ["1", "true"]) {
        const env = {
          SERVE_RUN_SYNC_IN_THREADPOOL: on,
          SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: on,
          SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: on
        }
        assert.deepStrictEqual(yield* place(env), everywhere)
      }
    })
  )

  it.effect("are each for one thing", () =>
    Effect.gen(function* () {
      for (const off of ["0", "false"]) {
        assert.deepInclude(yield* place({ SERVE_RUN_SYNC_IN_THREADPOOL: off }), {
          isolation: "thread",
          blockingThreads: 0,
          ownRouter: true
        })
        assert.deepInclude(yield* place({ SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: off }), {
          isolation: "loop",
          blockingThreads: cores,
          ownRouter: true
        })
        assert.deepInclude(yield* place({ SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: off }), {
          isolation: "thread",
          blockingThreads: cores,
          ownRouter: false
        })
      }
    })
  )

  const off = {
    SERVE_RUN_SYNC_IN_THREADPOOL: "0",
    SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0",
    SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "0"
  }

  it.effect("give way to the options of a deployment in code", () =>
    Effect.gen(function* () {
      const written = { isolation: "thread", runSyncInThreadpool: true, runRouterInSeparateLoop: true } as const
      assert.deepStrictEqual(yield* place(off, written), {
        isolation: "thread",
        blockingThreads: cores,
        ownRouter: true
      })
      assert.deepStrictEqual(
        yield* place({}, { isolation: "loop", runSyncInThreadpool: false, runRouterInSeparateLoop: false }),
        { isolation: "loop", blockingThreads: 0, ownRouter: false }
      )
    })
  )

  it.effect("give way to those in the environment, which come before those in code", () =>
    Effect.gen(function* () {
      const others = { SERVE_PART_ISOLATION: "loop", SERVE_PART_RUN_SYNC_IN_THREADPOOL: "0" }
      for (const [loop, no] of [
        ["loop", "0"],
        ["loop", "false"]
      ] as const) {
        const env = {
          SERVE_WORK_ISOLATION: loop,
          SERVE_WORK_RUN_SYNC_IN_THREADPOOL: no,
          SERVE_WORK_RUN_ROUTER_IN_SEPARATE_LOOP: no
        }
        const written = { isolation: "thread", runSyncInThreadpool: true, runRouterInSeparateLoop: true } as const
        assert.deepStrictEqual(yield* place({ ...others, ...env }, written), {
          isolation: "loop",
          blockingThreads: 0,
          ownRouter: false
        })
      }
      const env = {
        SERVE_WORK_ISOLATION: "thread",
        SERVE_WORK_RUN_SYNC_IN_THREADPOOL: "1",
        SERVE_WORK_RUN_ROUTER_IN_SEPARATE_LOOP: "true"
      }
      assert.deepStrictEqual(yield* place({ ...off, ...env }), {
        isolation: "thread",
        blockingThreads: cores,
        ownRouter: true
      })
    })
  )

  it.effect("let blocking methods have as many threads as requests may run, and cores are there, or poolSize", () =>
    Effect.gen(function* () {
      const threads = (options: Options, deployment?: Deployment.Any) =>
        Effect.map(place({}, options, deployment), ({ blockingThreads }) => blockingThreads)
      assert.strictEqual(yield* threads({ maxOngoingRequests: 3 }), 3)
      assert.strictEqual(yield* threads({ maxOngoingRequests: 64 }), cores)
      assert.strictEqual(yield* threads({ maxOngoingRequests: 64, poolSize: 7 }), 7)
      assert.strictEqual(yield* threads({ isolation: "loop", poolSize: 1 }), 1)
      assert.strictEqual(yield* threads({}, Block), cores)
      // There is none that blocks.
      assert.strictEqual(yield* threads({ poolSize: 7 }, Part), 0)
      const configured = yield* place({ SERVE_WORK_POOL_SIZE: "2" }, { poolSize: 7 })
      assert.strictEqual(configured.blockingThreads, 2)
    })
  )

  describe("name the option when they are invalid:", () => {
    const flags = Object.keys(off)
    const invalid: Record<string, Environment> = {
      ...Object.fromEntries(flags.map((flag) => [flag, { [flag]: "maybe" }])),
      isolation: { SERVE_PROBE_ISOLATION: "process" },
      runSyncInThreadpool: { SERVE_PROBE_RUN_SYNC_IN_THREADPOOL: "2" },
      runRouterInSeparateLoop: { SERVE_PROBE_RUN_ROUTER_IN_SEPARATE_LOOP: "yes please" },
      poolSize: { SERVE_PROBE_POOL_SIZE: "0" },
      cancelGrace: { SERVE_PROBE_CANCEL_GRACE: "soon" }
    }
    for (const [option, env] of Object.entries(invalid)) {
      it.effect(`${option} from the environment`, () =>
        Effect.gen(function* () {
          assert.include(yield* refusal(env), option)
          assert.lengthOf(threadNames(), 0)
        })
      )
    }

    const written: Record<string, unknown> = {
      isolation: "process",
      runSyncInThreadpool: "1",
      runRouterInSeparateLoop: 2,
      poolSize: 0,
      cancelGrace: -1,
      resourceLimits: { maxOldGenerationSizeMb: 0 }
    }
    for (const [option, value] of Object.entries(written)) {
      it.effect(`${option} in code`, () =>
        Effect.gen(function* () {
          assert.include(yield* refusal({}, { [option]: value }), option)
        })
      )
    }
  })

  describe("decide where a module deployment runs:", () => {
    const start = Effect.fnUntraced(function* (written: Options = {}) {
      const context = yield* Layer.build(Layer.provide(probeLayer(written), PartLive))
      const probe = Context.get(context, Probe)
      return { thread: yield* probe.thread(), avoidsLoop: Handle.avoidsLoop(probe) }
    })

    it.live("on a thread, and the ingress may be on the app's loop", () =>
      Effect.gen(function* () {
        const { avoidsLoop, thread } = yield* start()
        assert.deepStrictEqual([thread === threadId, avoidsLoop], [false, false])
        assert.lengthOf(threadNames(), 1)
      }).pipe(Effect.scoped, within({}))
    )

    it.live("on the app's loop, and the ingress is to avoid that", () =>
      Effect.gen(function* () {
        const { avoidsLoop, thread } = yield* start()
        assert.deepStrictEqual([thread === threadId, avoidsLoop], [true, true])
        assert.lengthOf(threadNames(), 0)
      }).pipe(Effect.scoped, within({ SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0" }))
    )

    it.live("on the app's loop, and the ingress with it", () =>
      Effect.gen(function* () {
        const { avoidsLoop, thread } = yield* start({ isolation: "loop" })
        assert.deepStrictEqual([thread === threadId, avoidsLoop], [true, false])
      }).pipe(Effect.scoped, within({ SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "0" }))
    )
  })
})
