// Seen red: the tasks of the pool, the blocking method and the replica run on the app's loop; the fan-outs run one by one; light
// calls counted from when they are made.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { spawnSync } from "node:child_process"
import { availableParallelism } from "node:os"
import { patterns, PatternsLive, Tasks } from "../../examples/offload/patterns.ts"

const count = 4

/** Runs the example and reads its table. */
const run = () => {
  const { status, stderr, stdout } = spawnSync(
    process.execPath,
    ["--conditions=effect-serve-source", "examples/offload/main.ts", `${count}`],
    { encoding: "utf8" }
  )
  assert.strictEqual(status, 0, stderr)
  const cells = stdout.split("\n").map((line) => line.split("|").map((cell) => cell.trim()))
  const rows = cells.filter(({ length }) => length === 6).slice(2)
  return new Map(
    rows.map(([, name, took, p50, p99]) => [name!, { took: Number(took), p50: Number(p50), p99: Number(p99) }])
  )
}

describe("offload", { timeout: 120_000 }, () => {
  const runs: Array<ReturnType<typeof run>> = []
  const best = (name: string, column: "took" | "p50" | "p99") =>
    Math.min(...runs.map((rows) => rows.get(name)![column]))

  /** Runs the example again until a claim holds for all its runs together, because other programs use the machine. */
  const holds = (claim: () => void) => {
    if (runs.length === 0) runs.push(run())
    while (runs.length < 6) {
      try {
        return claim()
      } catch {
        runs.push(run())
      }
    }
    claim()
  }

  it("has a row for each pattern", () => {
    holds(() => {})
    assert.lengthOf(Array.from(runs[0]!), 10)
  })

  it("holds up light calls for as long as a hash takes when it hashes on the app's loop", () => {
    holds(() =>
      assert.isAbove(best("hash on the app's loop", "p99"), (0.8 * best("hash on the app's loop", "took")) / count)
    )
  })

  for (const name of ["WorkerPool", "blocking method", "replica in a thread", "crypto.pbkdf2, async"]) {
    it(`answers light calls far sooner with ${name}`, () => {
      holds(() => {
        assert.isBelow(best(name, "p50"), best("hash on the app's loop", "p50") / 10)
        assert.isBelow(best(name, "p99"), best("hash on the app's loop", "p99") / 2)
      })
    })
  }

  it("answers light calls far sooner while zlib compresses by itself", () => {
    holds(() => assert.isBelow(best("zlib.gzip, async", "p50"), best("gzipSync on the app's loop", "p50") / 10))
  })

  it.live("uses every core when calls fan out, and one at a time when they don't", () =>
    Effect.gen(function* () {
      const all = yield* patterns(2 * availableParallelism())
      const named = (name: string) => all.find((pattern) => pattern.name === name)!.work
      assert.strictEqual(yield* mostAtOnce(named("WorkerPool")), 1)
      assert.strictEqual(yield* mostAtOnce(named("fan-out over WorkerPool")), availableParallelism())
    }).pipe(Effect.provide(PatternsLive))
  )
})

/** How many threads of the pool were seen to run a task at once. */
const mostAtOnce = Effect.fnUntraced(function* <E, R>(work: Effect.Effect<void, E, R>) {
  const working = yield* Effect.forkChild(work)
  let most = 0
  while (working.pollUnsafe() === undefined) {
    most = Math.max(most, (yield* Tasks.state).running)
    yield* Effect.sleep("5 millis")
  }
  yield* Fiber.join(working)
  return most
})
