/**
 * Padding waste: what `key` and `batchSize` do for texts of mixed lengths. `npm run example:buckets`, a few seconds.
 *
 * A model that pads computes each text of a batch at the length of the longest. Texts of similar length together waste less, and
 * a budget of tokens, in place of a number of texts, keeps batches of long texts from taking long. The tokenizer is real, and the
 * model is not: it sleeps as long as a model would compute. (The one that the tokenizer belongs to doesn't pad.)
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect } from "effect"
import { bucket, padded, run, type Way } from "./padding.ts"
import { texts } from "./texts.ts"

const ways: ReadonlyArray<Way> = [
  { name: "16 texts", maxBatchSize: 16 },
  { name: "16 texts of one bucket", maxBatchSize: 16, key: bucket },
  { name: "1024 tokens", maxBatchSize: 1024, size: padded },
  { name: "1024 tokens of one bucket", maxBatchSize: 1024, size: padded, key: bucket }
]

const program = Effect.gen(function* () {
  const mixed = yield* texts
  const lengths = mixed.map(({ length }) => length).toSorted((a, b) => a - b)
  const [shortest, median, longest] = [lengths[0], lengths[lengths.length / 2], lengths.at(-1)]
  yield* Console.log(`${mixed.length} texts of ${shortest} to ${longest} tokens, median ${median}\n`)
  yield* Console.log(row("a batch is at most", "batches", "tokens", "of it padding", "largest batch", "time"))
  for (const way of ways) {
    const { batches, largest, millis, paddedTokens, waste } = yield* run(mixed, way)
    const share = `${Math.round(100 * waste)} %`
    yield* Console.log(row(way.name, `${batches}`, `${paddedTokens}`, share, `${largest}`, `${millis} ms`))
  }
})

const row = (name: string, ...values: ReadonlyArray<string>) =>
  name.padEnd(27) + values.map((value) => value.padStart(14)).join("")

NodeRuntime.runMain(program)
