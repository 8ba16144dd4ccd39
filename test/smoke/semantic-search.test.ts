import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { execFileSync, spawnSync } from "node:child_process"
import { Effect, Schedule } from "effect"
import { Embedder, EmbedderLive } from "../../examples/semantic-search/Embedder.ts"
import { passages } from "../../examples/semantic-search/passages.ts"
import { start } from "./server.ts"

const post = async (url: string, payload?: object) => {
  // Important, so that it is not refused when other programs keep the machine busy.
  const headers = { "content-type": "application/json", "x-request-priority": "critical" }
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(payload) ?? "" })
  return { status: response.status, body: await response.text() }
}

const hasCurl = spawnSync("curl", ["--version"]).status === 0

/** Runs a pasted command; where there is no curl, sends the request that it describes. */
const paste = async (command: string) => {
  if (hasCurl) return JSON.parse(execFileSync("sh", ["-c", command], { encoding: "utf8" }))
  const [, url, body] = /^curl -s (\S+) .* -d '(.*)'$/.exec(command)!
  return JSON.parse((await post(`http://${url}`, JSON.parse(body!))).body)
}

/** Milliseconds until a promise is resolved. */
const timed = async (work: Promise<unknown>) => {
  const from = performance.now()
  await work
  return performance.now() - from
}

/** The longest list that Embedder takes; four batches. */
const long = passages.slice(0, 64).map(({ text }) => text)

const cosine = (a: ReadonlyArray<number>, b: ReadonlyArray<number>) =>
  a.reduce((sum, value, i) => sum + value * b[i]!, 0) / Math.hypot(...a) / Math.hypot(...b)

const countBatches = Effect.map(Embedder.state, ({ replicas: [replica] }) => {
  const [batcher] = replica!.batchers
  return batcher !== undefined && "batches" in batcher ? Object.values(batcher.batches).reduce((a, b) => a + b) : 0
})

describe("semantic search", { timeout: 90_000 }, () => {
  it("has at least 300 passages, none of them twice", () => {
    assert.isAtLeast(new Set(passages.map(({ text }) => text)).size, 300)
    assert.lengthOf(new Set(passages.map(({ text }) => text)), passages.length)
  })

  it("embeds texts that come at once together, as it embeds each alone", async () => {
    const texts = passages.slice(0, 16).map(({ text }) => text)
    const program = Effect.gen(function* () {
      const embedder = yield* Embedder
      const together = yield* Effect.forEach(texts, (text) => embedder.embedOne({ text }), { concurrency: "unbounded" })
      // The thread tells of its batches once a second.
      const batches = yield* countBatches.pipe(
        Effect.repeat({ schedule: Schedule.spaced("100 millis"), until: (count) => count > 0 })
      )
      // One, unless the machine is busy.
      assert.isAtMost(batches, 4)
      return cosine(together[3]!, yield* embedder.embedOne({ text: texts[3]! }))
    })
    assert.closeTo(await Effect.runPromise(Effect.provide(program, EmbedderLive)), 1, 1e-4)
  })

  describe("once its banner is printed", () => {
    let program: Awaited<ReturnType<typeof start>>
    let commands: ReadonlyArray<string>

    beforeAll(async () => {
      program = await start("semantic-search/main.ts")
      commands = (await program.printed("Ctrl-C")).split("\n").filter((line) => line.startsWith("curl"))
    }, 60_000)
    afterAll(() => program.kill())

    it("answers the first curl line with three passages on the topic, the best first", async () => {
      const found: ReadonlyArray<{ text: string; topic: string; score: number }> = (await paste(commands[0]!)).passages
      assert.lengthOf(found, 3)
      assert.match(found[0]!.text, /password/)
      assert.deepStrictEqual(
        found.map(({ topic }) => topic),
        ["computing", "computing", "computing"]
      )
      const scores = found.map(({ score }) => score)
      assert.deepStrictEqual(
        scores,
        scores.toSorted((a, b) => b - a)
      )
      assert.isAbove(scores[0]!, 0.4)
    })

    it("answers the second curl line with a vector of 512 numbers", async () => {
      const vectors: ReadonlyArray<ReadonlyArray<number>> = await paste(commands[1]!)
      assert.deepStrictEqual(
        vectors.map(({ length }) => length),
        [512]
      )
    })

    it("scores related sentences clearly above unrelated ones", async () => {
      const texts = ["How do I reset my password?", "I forgot my login credentials", "The cat sat on the sofa"]
      const [question, related, unrelated] = JSON.parse((await post(`${program.url}/embedder/embed`, { texts })).body)
      assert.isAbove(cosine(question, related), cosine(question, unrelated) + 0.2)
    })

    it("finds what a question means, in other words than its own", async () => {
      const topics = {
        "someone is having a heart attack": "health",
        "how do I get my tap to stop leaking": "household",
        "songs for putting a baby to sleep": "music",
        "the tallest mountain in the world": "geography",
        "my bread does not rise": "cooking"
      }
      for (const [text, topic] of Object.entries(topics)) {
        const { body } = await post(`${program.url}/search/query`, { text, top: 1 })
        assert.strictEqual(JSON.parse(body).passages[0].topic, topic, text)
      }
    })

    it("finds three passages when it is not told how many", async () => {
      const { body } = await post(`${program.url}/search/query`, { text: "why is the sky blue" })
      assert.lengthOf(JSON.parse(body).passages, 3)
    })

    it("refuses a wrong body with 400 and the name of the field", async () => {
      const tooMany = await post(`${program.url}/search/query`, { text: "why is the sky blue", top: 51 })
      assert.strictEqual(tooMany.status, 400)
      assert.include(tooMany.body, "top")

      const empty = await post(`${program.url}/embedder/embed`, { texts: ["fine", ""] })
      assert.strictEqual(empty.status, 400)
      assert.include(empty.body, "texts")
    })

    it("answers others while it embeds a long list", async () => {
      const state = { isDone: false }
      const list = timed(post(`${program.url}/embedder/embed`, { texts: long })).finally(() => (state.isDone = true))
      const times: Array<number> = []
      while (!state.isDone) {
        times.push(await timed(fetch(`${program.url}/-/healthz`)))
        times.push(await timed(post(`${program.url}/search/topics`)))
      }
      const [slow, all] = [times.toSorted((a, b) => a - b)[Math.floor(times.length / 2)]!, await list]
      assert.isBelow(slow, all / 10, `${times.length} answers`)
    })
  })

  describe("after Ctrl-C", () => {
    it("answers the request that is running and exits with 0", async () => {
      const program = await start("semantic-search/main.ts")
      await program.printed("Ctrl-C")
      const answer = post(`${program.url}/embedder/embed`, { texts: long })
      // Answered after the list has reached the server.
      await fetch(`${program.url}/-/healthz`)
      await fetch(`${program.url}/-/healthz`)
      const [{ status, body }, exitCode] = await Promise.all([answer, program.interrupt()])
      assert.strictEqual(status, 200)
      assert.lengthOf(JSON.parse(body), 64)
      assert.strictEqual(exitCode, 0)
    })

    it("stops building the index and exits with 0", async () => {
      const program = await start("semantic-search/main.ts")
      await program.printed("Indexing")
      assert.strictEqual(await program.interrupt(), 0)
      assert.notInclude(program.output(), "curl")
    })
  })
})
