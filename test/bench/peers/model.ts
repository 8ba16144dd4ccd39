/**
 * What both servers of the study `model` have in common: the texts, and how the answer is found.
 */
import { passages } from "../../../examples/semantic-search/passages.ts"

export const MAX_BATCH_SIZE = 16

/** As long as what people type into a search box: the first seven words of each passage. */
export const queries = passages.map(({ text }) => text.split(" ").slice(0, 7).join(" "))

/** The passages among which the nearest one is looked for. */
export const candidates = passages.filter((_, i) => i % 8 === 0).map(({ text }) => text)

type Vector = ReadonlyArray<number>

/** The place of the vector that is nearest to the first one; all have length 1. */
export const nearest = (vector: Vector, all: ReadonlyArray<Vector>) => {
  const likeness = all.map((other) => other.reduce((sum, x, i) => sum + x * vector[i]!, 0))
  return likeness.indexOf(Math.max(...likeness))
}
