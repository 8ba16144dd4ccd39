// Seen red: the search without a connection that comes back, an embedder that closes its connections before the last answers are sent, and
// children that outlive Ctrl-C.
import { assert, describe, it } from "vitest"
import { spawnSync } from "node:child_process"
import { start } from "./server.ts"

describe("two processes", { timeout: 120_000 }, () => {
  it("recovers from a kill by itself, and loses no query when the embedder is replaced", () => {
    const { status, stderr, stdout } = spawnSync(
      process.execPath,
      ["--conditions=effect-serve-source", "examples/two-processes/watch.ts"],
      { encoding: "utf8" }
    )
    assert.strictEqual(status, 0, stdout + stderr)
    assert.include(stdout, "All as it should be")
    assert.match(stdout, /the kill to the recovery .*\d+ x 503 TransportError started:false/)
    assert.match(stdout, /planned replacement +0\n/)
  })

  it("stops both programs at Ctrl-C", async () => {
    const program = await start("two-processes/watch.ts")
    const [, ...pids] = /process (\d+), and the search in (\d+)/.exec(await program.printed("and the search in"))!
    await program.interrupt()
    for (const pid of pids) assert.throws(() => process.kill(Number(pid), 0), "ESRCH")
  })

  it("has its embedder in the same process, unless it is told where it is", async () => {
    const program = await start("two-processes/main.ts")
    try {
      assert.include(await program.printed("Ctrl-C"), "with Embedder in the same process")
      const response = await fetch(`${program.url}/search/query`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-request-priority": "critical" },
        body: JSON.stringify({ text: "how do I get my tap to stop leaking", top: 1 })
      })
      const { passages } = (await response.json()) as { readonly passages: ReadonlyArray<{ readonly topic: string }> }
      assert.strictEqual(passages[0]!.topic, "household")
    } finally {
      program.kill()
    }
  })
})
