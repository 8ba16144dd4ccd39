/**
 * Measures how many characters a second 1, 8 and 32 sequences get: `npm run example:characters:measure`, about two minutes, prints
 * the table that README.md shows.
 *
 * Through the handle of the deployment, whose loop takes steps with all sequences at once; and the model alone, in a plain loop.
 * Seconds are those of the processor, which this program never leaves idle: other programs on the machine count less that way.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Layer, Stream } from "effect"
import * as CharacterModel from "./CharacterModel.ts"
import { Writer, WriterLive } from "./Writer.ts"

const rounds = 7
const sequences = [1, 8, 32] as const
const length = 1000

const program = Effect.gen(function* () {
  const writer = yield* Writer
  const model = yield* CharacterModel.make
  const write = Stream.runDrain(writer.write({ prompt: "\n", length, temperature: 0.7 }))
  const cases = sequences.flatMap((count) => [
    { name: `handle ${count}`, count, run: together(count, write) },
    { name: `model ${count}`, count, run: Effect.sync(() => alone(model, count)) }
  ])
  const measured = new Map(cases.map(({ name }) => [name, Array.of<number>()]))
  // The first round warms up.
  for (let round = 0; round <= rounds; round++) {
    yield* Console.error(round === 0 ? "Warming up" : `Round ${round} of ${rounds}`)
    for (const { count, name, run } of round % 2 === 0 ? cases : cases.toReversed()) {
      const from = process.cpuUsage()
      yield* run
      const { system, user } = process.cpuUsage(from)
      const value = (1e6 * count * length) / (system + user)
      if (round > 0) measured.get(name)!.push(value)
    }
  }
  yield* Console.log(table((name) => measured.get(name)!))
}).pipe(Effect.scoped)

const together = <E>(count: number, write: Effect.Effect<void, E>) =>
  Effect.all(
    Array.from({ length: count }, () => write),
    { concurrency: "unbounded", discard: true }
  )

const alone = (model: Effect.Success<typeof CharacterModel.make>, count: number) => {
  let readers: ReadonlyArray<CharacterModel.Reader> = Array.from({ length: count }, () => ({
    state: CharacterModel.blank(),
    character: 0
  }))
  for (let i = 0; i < length; i++) {
    readers = model.step(readers).map(({ scores, state }, k) => ({
      state,
      character: CharacterModel.draw(scores, 0.7, ((7 * i + 3 * k) % 11) / 11)
    }))
  }
}

const table = (of: (name: string) => ReadonlyArray<number>) => {
  const row = (count: number) => {
    const gain = (kind: string) => of(`${kind} ${count}`).map((value, i) => value / of(`${kind} 1`)[i]!)
    const cells = ["handle", "model"].map((kind) => `${summary(of(`${kind} ${count}`), 0)} | ${summary(gain(kind), 1)}`)
    return `| ${count} | ${cells.join(" | ")} |`
  }
  return `
Characters of all sequences per second of processor time, median (range) of ${rounds} rounds.

| sequences | through the handle | times | the model alone | times |
|---|---|---|---|---|
${sequences.map(row).join("\n")}`
}

const summary = (values: ReadonlyArray<number>, digits: number) => {
  const sorted = values.toSorted((a, b) => a - b)
  const [median, low, high] = [sorted[Math.floor(sorted.length / 2)]!, sorted[0]!, sorted.at(-1)!]
  return `${median.toFixed(digits)} (${low.toFixed(digits)} to ${high.toFixed(digits)})`
}

NodeRuntime.runMain(Effect.provide(program, Layer.provideMerge(WriterLive, NodeServices.layer)))
