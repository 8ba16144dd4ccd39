import { assert, describe, it } from "@effect/vitest"
import { Deployment, ServeError } from "effect-serve"
import { Cause, Clock, Context, Effect, Exit, Fiber, Layer, Option, Random, Schema, Scope } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { Broken, call, isDone, Job, jobLayer, open, reason } from "../deployments.ts"

class Who extends Deployment.Service<Who>()("Who", [Rpc.make("am", { success: Schema.Number })]) {}

/** Builds handlers that answer with the number of the build; the builds in `failing` fail with `cause` instead. */
const builder = (
  failing: ReadonlyArray<number>,
  cause: Cause.Cause<Broken> = Cause.fail(new Broken({ part: "model" }))
) => {
  const log: Array<string> = []
  let builds = 0
  const build = Effect.gen(function* () {
    const number = builds++
    const note = (what: string) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        log.push(`${what} ${number} at ${now}`)
      })
    yield* Effect.acquireRelease(note("open"), () => note("close"))
    if (failing.includes(number)) return yield* Effect.failCause(cause)
    return Who.of({ am: () => Effect.succeed(number) })
  })
  return { build, log }
}

/** Lets a layer that may try for a while take its time. */
const launch = Effect.fnUntraced(function* <E>(layer: Layer.Layer<Who, E>) {
  const opening = yield* call(open(Who, layer))
  yield* TestClock.adjust("1 minute")
  return yield* Fiber.join(opening)
})

describe("Deployment", () => {
  describe("replicas", () => {
    it.effect("are built once each, and run their own handlers", () =>
      Effect.gen(function* () {
        const { build, log } = builder([])
        const { close, context, handle } = yield* open(Who, Who.toLayer(build, { replicas: 3 }))
        assert.deepStrictEqual(log, ["open 0 at 0", "open 1 at 0", "open 2 at 0"])
        const seen = yield* Effect.all(Array.from({ length: 60 }, () => handle.am()))
        assert.deepStrictEqual(new Set(seen), new Set([0, 1, 2]))
        assert.deepStrictEqual(
          (yield* Effect.provide(Who.state, context)).replicas.map(({ id }) => id),
          ["Who#0", "Who#1", "Who#2"]
        )
        assert.strictEqual(log.length, 3)
        yield* close
        assert.deepStrictEqual(log.slice(3), ["close 2 at 0", "close 1 at 0", "close 0 at 0"])
      }).pipe(Random.withSeed("replicas"))
    )

    it.effect("are tried again after 500 ms and after 1 s, each time in a scope of its own", () =>
      Effect.gen(function* () {
        const { build, log } = builder([0, 1])
        const { handle } = yield* launch(Who.toLayer(build))
        assert.deepStrictEqual(log, [
          "open 0 at 0",
          "close 0 at 0",
          "open 1 at 500",
          "close 1 at 500",
          "open 2 at 1500"
        ])
        assert.strictEqual(yield* handle.am(), 2)
      })
    )

    it.effect("are given up after three tries, and the deployment runs with those that started", () =>
      Effect.gen(function* () {
        const { build, log } = builder([0, 2, 3])
        const { context, handle } = yield* launch(Who.toLayer(build, { replicas: 2, maxOngoingRequests: 1 }))
        assert.deepStrictEqual(
          log.filter((line) => line.startsWith("open")),
          ["open 0 at 0", "open 1 at 0", "open 2 at 500", "open 3 at 1500"]
        )
        const { replicas, status } = yield* Effect.provide(Who.state, context)
        assert.strictEqual(status, "Ready")
        assert.deepStrictEqual(replicas, [
          { id: "Who#1", status: "Ready", running: 0, maxOngoingRequests: 1, batchers: [] }
        ])
        assert.strictEqual(yield* handle.am(), 1)
      })
    )

    it.effect("fail the layer with their error when none started", () =>
      Effect.gen(function* () {
        const { build, log } = builder([0, 1, 2])
        const exit = yield* Effect.exit(launch(Who.toLayer(build)))
        assert.deepStrictEqual(exit, Exit.fail(new Broken({ part: "model" })))
        assert.strictEqual(log.filter((line) => line.startsWith("open")).length, 3)
        assert.strictEqual(log.filter((line) => line.startsWith("close")).length, 3)
      })
    )

    it.effect("fail the layer with their defect when none started", () =>
      Effect.gen(function* () {
        const { build, log } = builder([0, 1, 2], Cause.die("no memory"))
        const exit = yield* Effect.exit(launch(Who.toLayer(build)))
        assert.deepStrictEqual(exit, Exit.die("no memory"))
        assert.strictEqual(log.filter((line) => line.startsWith("open")).length, 3)
      })
    )

    it.effect("stop being built when the layer is interrupted", () =>
      Effect.gen(function* () {
        const { build, log } = builder([0, 1, 2])
        const opening = yield* call(open(Who, Who.toLayer(build, {})))
        yield* TestClock.adjust("600 millis")
        yield* Fiber.interrupt(opening)
        yield* TestClock.adjust("1 minute")
        assert.isTrue(isDone(opening))
        assert.deepStrictEqual(log, ["open 0 at 0", "close 0 at 0", "open 1 at 500", "close 1 at 500"])
      })
    )

    it.effect("are closed when their build is interrupted", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const hanging = Effect.andThen(
          Effect.acquireRelease(
            Effect.sync(() => log.push("open")),
            () => Effect.sync(() => log.push("close"))
          ),
          Effect.never
        )
        const opening = yield* call(Layer.build(Who.toLayer(hanging, { replicas: 2 })))
        yield* Fiber.interrupt(opening)
        assert.deepStrictEqual(log, ["open", "open", "close", "close"])
      })
    )

    it.effect("may be none: then every request is refused", () =>
      Effect.gen(function* () {
        const { run } = yield* Job
        assert.deepStrictEqual(
          yield* reason(run(Effect.void)),
          new ServeError.Unavailable({ deployment: "Job", why: "noReplicas" })
        )
        assert.deepInclude(yield* Job.state, { status: "Ready", replicas: [], accepted: 0, rejected: 1 })
      }).pipe(Effect.provide(jobLayer({ replicas: 0 })))
    )

    it.effect("keep their scope from their handlers, in which what they open would pile up", () =>
      Effect.gen(function* () {
        let seen: Option.Option<Scope.Scope> | undefined
        const look = Effect.map(Effect.serviceOption(Scope.Scope), (scope) => {
          seen = scope
          return 0
        })
        const { handle } = yield* open(Who, Who.toLayer(Effect.succeed(Who.of({ am: () => look }))))
        yield* handle.am()
        assert.deepStrictEqual(seen, Option.none())
      })
    )

    it.effect("do not start with handlers that the contract does not name", () =>
      Effect.gen(function* () {
        const layer = Who.toLayer({ am: () => Effect.succeed(0), are: () => Effect.succeed(0) })
        const start = yield* call(Effect.exit(open(Who, layer)))
        yield* TestClock.adjust("2 seconds")
        assert.include(String(yield* Fiber.join(start)), 'Deployment "Who" has a handler "are" but no such method')
      })
    )

    it.effect("give their handlers what the builder was given", () =>
      Effect.gen(function* () {
        class Model extends Context.Service<Model, { readonly weight: number }>()("test/Model") {}
        const layer = Who.toLayer(
          Effect.map(Model, ({ weight }) => Who.of({ am: () => Effect.map(Model, (model) => model.weight + weight) }))
        ).pipe(Layer.provide(Layer.succeed(Model, { weight: 21 })))
        const { handle } = yield* open(Who, layer)
        assert.strictEqual(yield* handle.am(), 42)
      })
    )
  })
})
