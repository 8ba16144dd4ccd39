import { assert, describe, it } from "@effect/vitest"
import { Deployment } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { Cause, ConfigProvider, Effect, Exit, Layer } from "effect"
import { Rpc } from "effect/rpc"
import { logged } from "../worker/pools.ts"

const spin = Effect.sync(() => {
  const until = performance.now() + 200
  while (performance.now() < until);
})

class Inner extends Deployment.Service<Inner>()("Inner", [Rpc.make("hold"), Rpc.make("wait")]) {}
class Outer extends Deployment.Service<Outer>()("Outer", [Rpc.make("call"), Rpc.make("resume"), Rpc.make("import")]) {}

const InnerLive = Inner.toLayer({ hold: () => spin, wait: () => Effect.sleep("5 millis") })

const OuterLive = Outer.toLayer(
  Effect.gen(function* () {
    const inner = yield* Inner
    return Outer.of({
      call: () => Effect.orDie(inner.hold()),
      resume: () => Effect.andThen(Effect.orDie(inner.wait()), spin),
      import: () =>
        Effect.promise(async () => {
          await new Promise((done) => setTimeout(done, 5))
          Effect.runSync(spin)
        })
    })
  })
)

const Live = Layer.provideMerge(OuterLive, InnerLive).pipe(Layer.provide(logged().layer))

const culprits = (effect: Effect.Effect<unknown, unknown>) =>
  Effect.map(TestServe.blocked(effect), ([, reports]) =>
    reports.map(({ deployment, method }) => `${deployment}.${method}`)
  )

// Where other programs take the cores, the thread that watches is late itself, and counts nothing.
describe("TestServe", { retry: 4 }, () => {
  describe("blocked", () => {
    it.layer(Live, { excludeTestServices: true })((it) => {
      it.effect("gives the result, and nothing when no handler holds the loop", () =>
        Effect.gen(function* () {
          const { wait } = yield* Inner
          assert.deepStrictEqual(yield* TestServe.blocked(Effect.as(wait(), 42)), [42, []])
        })
      )

      it.effect("names the deployment and the method whose handler does", () =>
        Effect.gen(function* () {
          const { hold } = yield* Inner
          const { call, resume } = yield* Outer
          assert.deepStrictEqual(yield* culprits(hold()), ["Inner.hold"])
          assert.deepStrictEqual(yield* culprits(call()), ["Inner.hold"])
          assert.deepStrictEqual(yield* culprits(resume()), ["Outer.resume"])
        })
      )

      it.effect("names those whose async functions may have done so", () =>
        Effect.gen(function* () {
          const outer = yield* Outer
          const [, [report]] = yield* TestServe.blocked(outer.import())
          assert.deepStrictEqual(report?.candidates, [{ deployment: "Outer", method: "import" }])
        })
      )
    })

    it.effect("dies when no loop is watched", () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(TestServe.blocked(Effect.void))
        assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", "SERVE_BLOCKING_THRESHOLD")
      }).pipe(
        Effect.provideService(
          ConfigProvider.ConfigProvider,
          ConfigProvider.fromUnknown({ SERVE_BLOCKING_THRESHOLD: 0 })
        )
      )
    )
  })
})
