/**
 * A recurrent model that predicts the next character, for many sequences in one step.
 */
import { Effect } from "effect"
import { advance } from "./Cell.ts"
import { matrix, ready, times } from "./Matrix.ts"
import { alphabet, read, units } from "./Weights.ts"

/** What a sequence brings to a step: what it has read so far, and the character that comes next. */
export interface Reader {
  readonly state: Float32Array
  readonly character: number
}

/** The state of a sequence that has read nothing. */
export const blank = (): Float32Array => new Float32Array(units)

const gates = 3 * units

/** Loads the weights; frees them with the scope. */
export const make = Effect.gen(function* () {
  yield* ready
  const weights = yield* read
  const [hidden, output] = yield* Effect.acquireRelease(
    Effect.sync(() => [matrix(weights.hidden, gates), matrix(weights.output, alphabet.length)] as const),
    (matrices) => Effect.sync(() => matrices.forEach((each) => each.dispose()))
  )
  const scratch = new Float32Array(gates)

  return {
    /**
     * Lets each sequence read one character, and gives its next state and a score for each character that may follow. There are
     * two products, whatever the number of sequences, so each weight is read from memory once.
     */
    step: (readers: ReadonlyArray<Reader>) => {
      const states = new Float32Array(readers.length * units)
      readers.forEach(({ state }, i) => states.set(state, i * units))
      const fromStates = times(states, hidden)
      readers.forEach(({ character, state }, i) =>
        advance({
          fromInput: row(weights.input, character, gates),
          fromState: row(fromStates, i, gates),
          state,
          gates: scratch,
          next: row(states, i, units)
        })
      )
      const scores = times(states, output)
      return readers.map((_, i) => ({ state: row(states, i, units), scores: row(scores, i, alphabet.length) }))
    }
  }
})

const row = (values: Float32Array, index: number, columns: number) =>
  values.subarray(index * columns, (index + 1) * columns)

/**
 * Draws a character by its score: at temperature `0` the likeliest, at `1` as often as the model expects it, above that more
 * boldly. `at` is a random number from 0 to 1.
 */
export const draw = (scores: Float32Array, temperature: number, at: number): number => {
  let best = 0
  for (let i = 1; i < scores.length; i++) if (scores[i]! > scores[best]!) best = i
  if (temperature === 0) return best
  const chances = scores.map((score) => Math.exp((score - scores[best]!) / temperature))
  let left = at * sum(chances)
  for (let i = 0; i < chances.length; i++) if ((left -= chances[i]!) < 0) return i
  return best
}

const sum = (values: Float32Array) => {
  let total = 0
  for (const value of values) total += value
  return total
}
