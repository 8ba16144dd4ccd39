/**
 * A deployment that finds the passages closest in meaning to a text.
 *
 * Its index is a table with one vector per passage, made by calling `Embedder` when a replica starts. A query is embedded
 * the same way, in a batch with those of others, and the passages that point in the most similar direction are its answer.
 */
import { Effect, Schema } from "effect"
import { chunksOf } from "effect/Array"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"
import { Embedder, Text } from "./Embedder.ts"
import { passages } from "./passages.ts"
import { withProgress } from "./progress.ts"

/** A passage and the cosine of its angle to the query: 1 means the same, about 0.2 is usual for unrelated sentences. */
const Match = Schema.Struct({ text: Schema.String, topic: Schema.String, score: Schema.Finite })

/** How many passages to answer with, 1 to 50. Default `3`. */
const Top = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 50 })).pipe(
  Schema.withDecodingDefaultTypeKey(Effect.succeed(3))
)

export class Search extends Deployment.Service<Search>()("Search", [
  Rpc.make("query", {
    payload: { text: Text, top: Top },
    success: Schema.Struct({ passages: Schema.Array(Match) })
  }),
  Rpc.make("topics", { success: Schema.Array(Schema.Struct({ topic: Schema.String, passages: Schema.Int })) })
]) {}

export const SearchLive = Search.toLayer(
  Effect.gen(function* () {
    const embedder = yield* Embedder
    const vectors = yield* withProgress("Indexing passages", chunksOf(passages, 16), (batch) =>
      embedder.embed({ texts: batch.map(({ text }) => text) })
    )
    const index = vectors.flat().map((vector) => Float32Array.from(vector))

    return Search.of({
      query: Effect.fnUntraced(function* ({ text, top }) {
        const query = yield* embedder.embedOne({ text })
        return { passages: rank(index, query).slice(0, top) }
      }),
      topics: () => Effect.succeed(topics)
    })
  }),
  // A query spends its time waiting for Embedder, whose own limit keeps the model from being overrun.
  { maxOngoingRequests: 100 }
)

const topics = Array.from(
  Map.groupBy(passages, ({ topic }) => topic),
  ([topic, { length }]) => ({ topic, passages: length })
)

const rank = (index: ReadonlyArray<Float32Array>, query: ReadonlyArray<number>) =>
  passages.map((passage, i) => ({ ...passage, score: dot(index[i]!, query) })).toSorted((a, b) => b.score - a.score)

// The model's vectors have length 1, so their dot product is the cosine.
const dot = (a: Float32Array, b: ReadonlyArray<number>) => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}
