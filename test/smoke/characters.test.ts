import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Random, Stream } from "effect"
import { spawnSync } from "node:child_process"
import * as CharacterModel from "../../examples/characters/CharacterModel.ts"
import { gradient } from "../../examples/characters/Gradient.ts"
import { ready } from "../../examples/characters/Matrix.ts"
import * as Weights from "../../examples/characters/Weights.ts"
import { Writer, WriterLive } from "../../examples/characters/Writer.ts"

const services = Layer.provideMerge(WriterLive, NodeServices.layer)

const write = Effect.fnUntraced(function* (prompt: string, length: number, temperature: number) {
  const characters = yield* Stream.runCollect((yield* Writer).write({ prompt, length, temperature }))
  return Array.from(characters).join("")
})

/** Three short windows of text, read from different states. */
const lanes = () =>
  [1, 2, 3].map((lane) => ({
    state: new Float32Array(Weights.units).fill(0.1 * lane),
    characters: [5, 20, 30, 31, 7, 40 + lane, 3]
  }))

describe("characters", { timeout: 60_000 }, () => {
  it.layer(services, { excludeTestServices: true })((it) => {
    it.effect("writes as many characters as it is asked for, in words", () =>
      Effect.gen(function* () {
        const text = yield* write("The ", 300, 0.6)
        assert.lengthOf(text, 300)
        for (const character of text) assert.include(Weights.alphabet, character)
        const words = text.split(/\s+/)
        assert.isAbove(words.length, 30)
        assert.isBelow(words.length, 120)
      })
    )

    it.effect("writes the same alone and among others that come and go", () =>
      Effect.gen(function* () {
        const alone = yield* write("Call me ", 100, 0)
        const others = Effect.forEach([5, 20, 40, 60, 80, 150, 200], (length) => write("The whale ", length, 1), {
          concurrency: "unbounded"
        })
        const [among] = yield* Effect.all([write("Call me ", 100, 0), others], { concurrency: "unbounded" })
        assert.strictEqual(among, alone)
      })
    )

    it.effect("takes steps with all the texts that are being written", () =>
      Effect.gen(function* () {
        const counts = Effect.map(Writer.state, ({ replicas: [replica] }) => {
          const [loop] = replica!.batchers
          return loop !== undefined && "steps" in loop ? loop : assert.fail("there is no loop")
        })
        const before = yield* counts
        yield* Effect.all(
          Array.from({ length: 8 }, () => write("A", 50, 1)),
          { concurrency: "unbounded" }
        )
        const after = yield* counts
        assert.isAbove((after.sequenceSteps - before.sequenceSteps) / (after.steps - before.steps), 6)
      })
    )

    it.effect("has learnt: a sentence surprises it less than half as much as it would surprise a die", () =>
      Effect.gen(function* () {
        const model = yield* CharacterModel.make
        const sentence = "It was a dark night, and the rain fell upon the sea where the old ship lay at anchor."
        let state = CharacterModel.blank()
        let bits = 0
        for (let i = 0; i + 1 < sentence.length; i++) {
          const [next] = model.step([{ state, character: Weights.alphabet.indexOf(sentence[i]!) }])
          const chances = next!.scores.map((score) => Math.exp(score))
          const came = chances[Weights.alphabet.indexOf(sentence[i + 1]!)]!
          bits -= Math.log2(came / chances.reduce((a, b) => a + b))
          state = next!.state
        }
        assert.isBelow(bits / (sentence.length - 1), Math.log2(Weights.alphabet.length) / 2)
      }).pipe(Effect.scoped)
    )
  })

  it.live("trains along the slope of the loss", () =>
    Effect.gen(function* () {
      yield* ready
      const random = yield* Random.Random
      const weights = Weights.initial(() => random.nextDoubleUnsafe())
      const lossAt = (part: Float32Array, i: number, value: number) => {
        const before = part[i]!
        part[i] = value
        const { loss } = gradient(weights, lanes(), 6)
        part[i] = before
        return loss
      }
      const { slopes } = gradient(weights, lanes(), 6)
      for (const name of ["input", "hidden", "output"] as const) {
        const [part, slope] = [weights[name], slopes[name]]
        const i = slope.reduce((steepest, value, j) => (Math.abs(value) > Math.abs(slope[steepest]!) ? j : steepest), 0)
        const rise = lossAt(part, i, part[i]! + 0.01) - lossAt(part, i, part[i]! - 0.01)
        assert.closeTo(rise / 0.02 / slope[i]!, 1, 0.02, name)
      }
    }).pipe(Random.withSeed("slope"))
  )

  it("prints what it writes", () => {
    const { status, stdout } = spawnSync(
      process.execPath,
      ["--conditions=effect-serve-source", "examples/characters/main.ts", "The sea ", "100"],
      { encoding: "utf8" }
    )
    assert.strictEqual(status, 0)
    // A busy machine may hold the loop for so long that a warning comes between.
    assert.match(stdout.replaceAll(/\[[\d:.]+\] WARN .*\n/g, ""), /^The sea [^]{100}\n\nThe loop/)
  })
})
