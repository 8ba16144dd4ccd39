// Seen red: the tasks of the pool, the blocking method and the replica run on the app's loop; the fan-outs run one by one; light
// calls counted from when they are made.
import { assert, beforeAll, describe, it } from "vitest"
import { spawnSync } from "node:child_process"
import { availableParallelism } from "node:os"

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

describe("offload", () => {
  let runs: ReadonlyArray<ReturnType<typeof run>>
  // The best of three runs, because other programs use the machine.
  const best = (name: string, column: "took" | "p50" | "p99") =>
    Math.min(...runs.map((rows) => rows.get(name)![column]))
  const leastShare = (one: string, many: string) =>
    Math.min(...runs.map((rows) => rows.get(many)!.took / rows.get(one)!.took))

  beforeAll(() => {
    runs = [run(), run(), run()]
  }, 90_000)

  it("has a row for each pattern", () => {
    for (const rows of runs) assert.lengthOf(Array.from(rows), 10)
  })

  it("holds up light calls for as long as a hash takes when it hashes on the app's loop", () => {
    assert.isAbove(best("hash on the app's loop", "p99"), (0.8 * best("hash on the app's loop", "took")) / count)
  })

  for (const name of ["WorkerPool", "blocking method", "replica in a thread", "crypto.pbkdf2, async"]) {
    it(`answers light calls far sooner with ${name}`, () => {
      assert.isBelow(best(name, "p50"), best("hash on the app's loop", "p50") / 10)
      assert.isBelow(best(name, "p99"), best("hash on the app's loop", "p99") / 2)
    })
  }

  it("answers light calls far sooner while zlib compresses by itself", () => {
    assert.isBelow(best("zlib.gzip, async", "p50"), best("gzipSync on the app's loop", "p50") / 10)
  })

  it.runIf(availableParallelism() > 1)("is done sooner when calls fan out over several cores", () => {
    assert.isBelow(leastShare("WorkerPool", "fan-out over WorkerPool"), 0.9)
    assert.isBelow(leastShare("crypto.pbkdf2, async", "fan-out over crypto.pbkdf2"), 0.9)
  })
})
