/**
 * Seen red for each of these mutations: as many as the limit are too many; a large machine may only have 8 more; it warns each time,
 * or never again; threads stay when they have ended; the same threads can't be started twice; libuv always has 4.
 */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Exit, Scope } from "effect"
import { Cores, register, warningOf } from "../../src/worker/Oversubscription.ts"
import { logged } from "./pools.ts"

/** A pool with some threads. */
const pool = (threads: number) => ({ kind: "pool" as const, name: "Tasks", threads })

/** How many threads beside the 4 of libuv are just not too many. */
const most = (cores: number) => {
  let threads = 0
  while (warningOf([pool(threads + 1)], 4, cores) === undefined) threads++
  return threads
}

const machine = (cores: number, uvThreads?: number) => (effect: Effect.Effect<void, never, Scope.Scope>) => {
  const env = uvThreads === undefined ? {} : { UV_THREADPOOL_SIZE: String(uvThreads) }
  return effect.pipe(
    Effect.scoped,
    Effect.provideService(Cores, cores),
    Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown(env))
  )
}

describe("Oversubscription", () => {
  describe("warningOf", () => {
    it("lets there be 8 threads more than cores, or twice as many on a larger machine", () => {
      assert.deepStrictEqual([1, 2, 7, 8, 9, 16].map(most), [5, 6, 11, 12, 14, 28])
    })

    it("names what has threads, and the cores", () => {
      const threads = [pool(10), { kind: "replicas" as const, name: "Embedder", threads: 3 }]
      assert.include(
        warningOf(threads, 4, 2),
        `There are 17 threads for 2 cores (worker pool "Tasks" 10, replicas of "Embedder" 3, UV_THREADPOOL_SIZE 4).`
      )
      assert.include(warningOf(threads, 4, 1), "for 1 core (")
    })
  })

  describe("register", () => {
    it.effect("warns once, and again after there have been few enough", () => {
      const { layer, messages } = logged()
      return Effect.gen(function* () {
        yield* register(pool(5))
        const scope = yield* Scope.make()
        const more = Scope.provide(register(pool(1)), scope)
        yield* more
        assert.deepStrictEqual(messages, [])
        yield* more
        yield* Effect.scoped(register(pool(5)))
        assert.strictEqual(messages.length, 1)
        assert.include(messages[0], "There are 11 threads for 2 cores")
        yield* Scope.close(scope, Exit.void)
        yield* register(pool(2))
        assert.strictEqual(messages.length, 2)
      }).pipe(machine(2), Effect.provide(layer))
    })

    it.effect("counts as many threads of libuv as UV_THREADPOOL_SIZE says", () => {
      const { layer, messages } = logged()
      return Effect.gen(function* () {
        yield* machine(2, 9)(register(pool(1)))
        assert.deepStrictEqual(messages, [])
        yield* machine(2, 10)(register(pool(1)))
        assert.include(messages[0], "UV_THREADPOOL_SIZE 10")
      }).pipe(Effect.provide(layer))
    })
  })
})
