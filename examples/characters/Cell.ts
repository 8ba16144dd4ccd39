/**
 * The arithmetic of one unit after another, for one sequence: everything but the products.
 */
import { units } from "./Weights.ts"

/** What a step of one sequence reads and writes. */
export interface Cell {
  /** What the character adds to the gates, `3 * units` numbers: update, reset, candidate. */
  readonly fromInput: Float32Array
  /** What the state adds to the gates. */
  readonly fromState: Float32Array
  readonly state: Float32Array
  /** Written: how open the gates are, and the candidate. */
  readonly gates: Float32Array
  /** Written: the state after the step. */
  readonly next: Float32Array
}

/** Computes the state after a step: between the old one and a candidate, as the gates say. */
export const advance = ({ fromInput, fromState, gates, next, state }: Cell): void => {
  for (let i = 0; i < units; i++) {
    const update = sigmoid(fromInput[i]! + fromState[i]!)
    const reset = sigmoid(fromInput[units + i]! + fromState[units + i]!)
    const candidate = 2 * sigmoid(2 * (fromInput[2 * units + i]! + reset * fromState[2 * units + i]!)) - 1
    gates[i] = update
    gates[units + i] = reset
    gates[2 * units + i] = candidate
    next[i] = candidate + update * (state[i]! - candidate)
  }
}

/** What a change of each number of a step means for the loss. */
export interface Slopes {
  /** Read: of the state after the step. Written: of the state before it, but for what goes through the product. */
  readonly state: Float32Array
  /** Written: of what the character adds to the gates. */
  readonly fromInput: Float32Array
  /** Written: of what the state adds to the gates. */
  readonly fromState: Float32Array
}

/** Goes the same step backwards. */
export const retreat = ({ fromState, gates, state }: Omit<Cell, "next" | "fromInput">, slopes: Slopes): void => {
  for (let i = 0; i < units; i++) {
    const update = gates[i]!
    const reset = gates[units + i]!
    const candidate = gates[2 * units + i]!
    const slope = slopes.state[i]!
    const ofUpdate = slope * (state[i]! - candidate) * update * (1 - update)
    const ofCandidate = slope * (1 - update) * (1 - candidate * candidate)
    const ofReset = ofCandidate * fromState[2 * units + i]! * reset * (1 - reset)
    slopes.fromInput[i] = slopes.fromState[i] = ofUpdate
    slopes.fromInput[units + i] = slopes.fromState[units + i] = ofReset
    slopes.fromInput[2 * units + i] = ofCandidate
    slopes.fromState[2 * units + i] = ofCandidate * reset
    slopes.state[i] = slope * update
  }
}

// A table, because there are 768 of these for each character, and with `Math.exp` a step takes twice as long outside the products.
const perUnit = 256
const bound = 12
const table = Float32Array.from({ length: 2 * bound * perUnit + 2 }, (_, i) => 1 / (1 + Math.exp(bound - i / perUnit)))

const sigmoid = (x: number) => {
  const at = (Math.min(Math.max(x, -bound), bound) + bound) * perUnit
  const below = at | 0
  return table[below]! + (at - below) * (table[below + 1]! - table[below]!)
}
