import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Duration, Effect, Exit, Layer } from "effect"
import { resolve } from "../../src/core/Options.ts"
import { Options, RemoteOptions } from "../../src/deployment/DeploymentOptions.ts"
import { call, Job, jobLayer } from "../deployments.ts"

type Options = Parameters<typeof Job.toLayer>[1]

/** The message with which the layer of a deployment dies. */
const refusal = (options: Options) =>
  Effect.map(Effect.exit(Effect.scoped(Layer.build(jobLayer(options)))), (exit) => {
    assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), "the layer dies")
    return Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : ""
  })

/** What the deployment does with its options, as its state shows it. */
const limits = (options: Options = {}) =>
  Job.state.pipe(
    Effect.map(({ maxQueuedRequests, replicas }) => ({
      replicas: replicas.length,
      maxOngoingRequests: replicas[0]?.maxOngoingRequests,
      maxQueuedRequests
    })),
    Effect.provide(jobLayer(options))
  )

const configured = (config: unknown) => ConfigProvider.layer(ConfigProvider.fromUnknown(config))
const environment = (env: Record<string, string>) => ConfigProvider.layer(ConfigProvider.fromEnv({ env }))

describe("DeploymentOptions", () => {
  it.effect("have defaults", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* resolve(Options, "deployment", "Job", {}), {
        replicas: 1,
        maxOngoingRequests: 5,
        maxQueuedRequests: 1000,
        queueDiscipline: "adaptive",
        fairness: "none",
        concurrencyLimit: "fixed",
        minOngoingRequests: 1,
        outlierEjection: true,
        releasePermit: "end",
        requestTimeout: Duration.seconds(60),
        gracefulShutdownTimeout: Duration.seconds(20)
      })
      assert.deepStrictEqual(yield* limits(), { replicas: 1, maxOngoingRequests: 5, maxQueuedRequests: 1000 })
    })
  )

  it.effect("take a time in any way that Effect accepts", () =>
    Effect.gen(function* () {
      for (const requestTimeout of [1500, "1500 millis", "1.5 seconds", Duration.millis(1500)] as const) {
        const options = yield* resolve(Options, "deployment", "Job", { requestTimeout })
        assert.strictEqual(Duration.toMillis(options.requestTimeout), 1500)
      }
      const { requestTimeout } = yield* resolve(Options, "deployment", "Job", { requestTimeout: Infinity })
      assert.strictEqual(Duration.toMillis(requestTimeout), Infinity)
    })
  )

  it.effect("allow their smallest and their largest values", () =>
    Effect.gen(function* () {
      const smallest = { replicas: 0, maxOngoingRequests: 1, maxQueuedRequests: 0 }
      assert.deepStrictEqual(yield* limits(smallest), { ...smallest, maxOngoingRequests: undefined })
      const largest = { replicas: 3, maxOngoingRequests: 1_000_000, maxQueuedRequests: Infinity }
      assert.deepStrictEqual(yield* limits(largest), largest)
    })
  )

  const invalid: Record<string, ReadonlyArray<unknown>> = {
    replicas: [-1, 1.5, Number.NaN, Infinity, "2", null],
    maxOngoingRequests: [0, -1, 2.5, Infinity, "many", {}],
    maxQueuedRequests: [-1, 0.5, Number.NaN, -Infinity, "100", null],
    requestTimeout: [-1, "-1 second", "soon", Number.NaN, null, []],
    gracefulShutdownTimeout: [-1, "-1 second", "never", Number.NaN, null, true]
  }
  describe("kill the layer and are named when they are invalid", () => {
    for (const [option, values] of Object.entries(invalid)) {
      it.effect(option, () =>
        Effect.gen(function* () {
          for (const value of values) {
            const message = yield* refusal({ [option]: value })
            assert.include(message, 'Invalid options of deployment "Job"')
            assert.include(message, option, `${option}: ${String(value)}`)
          }
        })
      )
    }

    it.effect("all of them at once", () =>
      Effect.gen(function* () {
        const message = yield* refusal({ replicas: -1, requestTimeout: "soon" as never })
        assert.include(message, "replicas")
        assert.include(message, "requestTimeout")
      })
    )
  })

  it.effect("refuse a name that they don't have", () =>
    Effect.gen(function* () {
      assert.include(yield* refusal({ maxOngoing: 5 } as never), "maxOngoing")
    })
  )

  describe("from the ConfigProvider", () => {
    it.effect("take precedence over those in code", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* limits({ replicas: 1, maxOngoingRequests: 7 }), {
          replicas: 2,
          maxOngoingRequests: 7,
          maxQueuedRequests: 3
        })
      }).pipe(
        Effect.provide(configured({ serve: { Job: { replicas: 2, maxQueuedRequests: 3 }, Part: { replicas: 9 } } }))
      )
    )

    it.effect("can be set in the environment", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* limits({ maxOngoingRequests: 7 }), {
          replicas: 3,
          maxOngoingRequests: 64,
          maxQueuedRequests: Infinity
        })
        const { gracefulShutdownTimeout, requestTimeout } = yield* resolve(Options, "deployment", "Job", {})
        assert.deepStrictEqual([requestTimeout, gracefulShutdownTimeout].map(Duration.toMillis), [90_000, 250])
      }).pipe(
        Effect.provide(
          environment({
            SERVE_JOB_REPLICAS: "3",
            SERVE_JOB_MAX_ONGOING_REQUESTS: "64",
            SERVE_JOB_MAX_QUEUED_REQUESTS: "Infinity",
            SERVE_JOB_REQUEST_TIMEOUT: "90 seconds",
            SERVE_JOB_GRACEFUL_SHUTDOWN_TIMEOUT: "250",
            SERVE_PART_REPLICAS: "9"
          })
        )
      )
    )

    it.effect("can be set in the environment for a name of several words", () =>
      Effect.gen(function* () {
        const { replicas } = yield* resolve(Options, "deployment", "SpamFilter", {})
        assert.strictEqual(replicas, 4)
      }).pipe(Effect.provide(environment({ SERVE_SPAM_FILTER_REPLICAS: "4" })))
    )

    it.effect("can be set in the environment for the fields of a struct, beside those that are written", () =>
      Effect.gen(function* () {
        const written = { url: "http://a", reconnect: { firstDelay: "1 second" } } as const
        const { reconnect } = yield* resolve(RemoteOptions, "deployment", "Job", written)
        assert.deepStrictEqual([reconnect.firstDelay, reconnect.maxDelay].map(Duration.toMillis), [1000, 250])
      }).pipe(Effect.provide(environment({ SERVE_JOB_RECONNECT_MAX_DELAY: "250" })))
    )

    it.effect("replace what says the same in another way", () =>
      Effect.gen(function* () {
        const written = { url: "http://a" }
        const { url, urls } = yield* resolve(RemoteOptions, "deployment", "Job", written, ["url", "urls"])
        assert.deepStrictEqual([url, urls], [undefined, ["http://b", "http://c:8001"]])
      }).pipe(Effect.provide(environment({ SERVE_JOB_URLS: "http://b, http://c:8001," })))
    )

    it.effect("apply to the running deployment", () =>
      Effect.gen(function* () {
        yield* Effect.gen(function* () {
          const { run } = yield* Job
          for (let i = 0; i < 3; i++) yield* call(run(Effect.never))
          assert.deepInclude(yield* Job.state, { running: 2, queued: 1 })
        }).pipe(Effect.provide(jobLayer()))
      }).pipe(Effect.provide(environment({ SERVE_JOB_MAX_ONGOING_REQUESTS: "2" })))
    )

    it.effect("kill the layer and are named when they are invalid", () =>
      Effect.gen(function* () {
        assert.include(yield* refusal({}), "maxOngoingRequests")
      }).pipe(Effect.provide(environment({ SERVE_JOB_MAX_ONGOING_REQUESTS: "lots" })))
    )

    it.effect("kill the layer when they are blank, and don't count when they are empty", () =>
      Effect.gen(function* () {
        const blank = environment({ SERVE_JOB_REPLICAS: " " })
        assert.include(yield* Effect.provide(refusal({ replicas: 2 }), blank), "replicas")
        const empty = environment({ SERVE_JOB_REPLICAS: "" })
        assert.deepInclude(yield* Effect.provide(limits({ replicas: 2 }), empty), { replicas: 2 })
      })
    )
  })
})
