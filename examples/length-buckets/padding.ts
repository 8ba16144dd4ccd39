/**
 * Batches for a model that pads: it takes texts of one length, so that the short ones of a batch cost as much as the longest.
 */
import { Clock, Effect } from "effect"
import { Batching } from "effect-serve"

/** A text as a model sees it: one number for each word piece. */
export type Tokens = ReadonlyArray<number>

/** How texts are put together. */
export interface Way {
  readonly name: string
  /** Only texts with the same key go together. */
  readonly key?: (text: Tokens) => unknown
  /** Texts per batch, or tokens per batch with `size`. */
  readonly maxBatchSize: number
  /** The size of a batch, taken up one text at a time. */
  readonly size?: Batching.Cost<Tokens, Padded>
}

/** A batch on the way: its texts, and the length that they are padded to. */
interface Padded {
  readonly texts: number
  readonly longest: number
}

/** Word pieces of a batch with its padding: `maxBatchSize` is then a budget of tokens, so no batch takes much longer than others. */
export const padded: Batching.Cost<Tokens, Padded> = {
  empty: { texts: 0, longest: 0 },
  add: ({ longest, texts }, text) => ({ texts: texts + 1, longest: Math.max(longest, text.length) }),
  size: ({ longest, texts }) => texts * longest
}

/** Lengths in steps of 16: up to 16 tokens, up to 32, and so on. */
export const bucket = (text: Tokens): number => Math.ceil(text.length / 16)

/** What became of some texts. */
interface Outcome {
  readonly batches: number
  /** Tokens of the texts, and with the padding. */
  readonly tokens: number
  readonly paddedTokens: number
  /** The most tokens of one batch, with the padding. */
  readonly largest: number
  /** The part of the work that was padding, 0 to 1. */
  readonly waste: number
  readonly millis: number
}

/** Sends texts through a batcher, 64 at a time, and counts. */
export const run = Effect.fnUntraced(function* (texts: ReadonlyArray<Tokens>, { key, maxBatchSize, name, size }: Way) {
  const sizes: Array<number> = []
  const embed = yield* Batching.make({
    name,
    maxBatchSize,
    ...(key && { key }),
    ...(size && { batchSize: size }),
    run: (batch: ReadonlyArray<Tokens>) => {
      const cost = batch.length * Math.max(...batch.map(({ length }) => length))
      sizes.push(cost)
      return Effect.as(model(cost), batch)
    }
  })
  const from = yield* Clock.currentTimeMillis
  yield* Effect.forEach(texts, embed, { concurrency: 64, discard: true })
  const tokens = texts.reduce((sum, { length }) => sum + length, 0)
  const paddedTokens = sizes.reduce((a, b) => a + b, 0)
  return {
    batches: sizes.length,
    tokens,
    paddedTokens,
    largest: Math.max(...sizes),
    waste: 1 - tokens / paddedTokens,
    millis: (yield* Clock.currentTimeMillis) - from
  } satisfies Outcome
}, Effect.scoped)

/** Stands for the model: 2 milliseconds a batch and 20 microseconds a token, padding or not. */
const model = (paddedTokens: number) => Effect.sleep(2 + 0.02 * paddedTokens)
