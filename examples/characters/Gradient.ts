/**
 * The gradient of the loss, by going forward through a window of text and back through the same steps.
 */
import { advance, retreat } from "./Cell.ts"
import { matrix, times, transposed } from "./Matrix.ts"
import { alphabet, units, type Weights } from "./Weights.ts"

/** A window of text, and the state that the text before it left; the state after it is written there. */
export interface Lane {
  readonly characters: ReadonlyArray<number>
  readonly state: Float32Array
}

const gates = 3 * units
const size = alphabet.length

const row = (values: Float32Array, index: number, columns: number) =>
  values.subarray(index * columns, (index + 1) * columns)

/** Computes what a change of each weight means for the loss: the mean, over windows of `steps` characters, of the surprise. */
export const gradient = (weights: Weights, lanes: ReadonlyArray<Lane>, steps: number) => {
  const { length } = lanes
  const trace = forward(weights, lanes, steps)
  const read = (step: number, lane: number) => lanes[lane]!.characters[step]!
  const states = trace.states.subarray(length * units)

  // From states to scores to the loss, and back.
  const output = matrix(weights.output, size)
  const scores = times(states, output)
  output.dispose()
  const loss = surprise(scores, (i) => read(Math.floor(i / length) + 1, i % length))
  const byOutput = matrix(scores, size)
  const ofOutput = times(transposed(states, units), byOutput)
  byOutput.dispose()
  const back = matrix(transposed(weights.output, size), units)
  const ofStates = times(scores, back)
  back.dispose()

  // Back through the steps.
  const through = matrix(transposed(weights.hidden, gates), units)
  const ofInput = new Float32Array(weights.input.length)
  const fromStates = new Float32Array(steps * length * gates)
  let carried = new Float32Array(length * units)
  const fromInput = new Float32Array(gates)
  for (let step = steps - 1; step >= 0; step--) {
    const slopes = row(ofStates, step, length * units)
    for (let i = 0; i < slopes.length; i++) slopes[i]! += carried[i]!
    for (let lane = 0; lane < length; lane++) {
      const at = step * length + lane
      const cell = {
        fromState: row(trace.fromStates, at, gates),
        gates: row(trace.gates, at, gates),
        state: row(trace.states, at, units)
      }
      retreat(cell, { state: row(slopes, lane, units), fromInput, fromState: row(fromStates, at, gates) })
      const sum = row(ofInput, read(step, lane), gates)
      for (let i = 0; i < gates; i++) sum[i]! += fromInput[i]!
    }
    carried = times(row(fromStates, step, length * gates), through) as Float32Array<ArrayBuffer>
    for (let i = 0; i < carried.length; i++) carried[i]! += slopes[i]!
  }
  through.dispose()
  const byHidden = matrix(fromStates, gates)
  const ofHidden = times(transposed(trace.states.subarray(0, steps * length * units), units), byHidden)
  byHidden.dispose()
  lanes.forEach(({ state }, lane) => state.set(row(trace.states, steps * length + lane, units)))
  return { loss, slopes: { input: ofInput, hidden: ofHidden, output: ofOutput } }
}

/** Goes through the windows and keeps all that the way back needs. */
const forward = (weights: Weights, lanes: ReadonlyArray<Lane>, steps: number) => {
  const { length } = lanes
  const states = new Float32Array((steps + 1) * length * units)
  const gatesOf = new Float32Array(steps * length * gates)
  const fromStates = new Float32Array(steps * length * gates)
  lanes.forEach(({ state }, lane) => states.set(state, lane * units))
  const hidden = matrix(weights.hidden, gates)
  for (let step = 0; step < steps; step++) {
    fromStates.set(times(row(states, step, length * units), hidden), step * length * gates)
    lanes.forEach(({ characters }, lane) => {
      const at = step * length + lane
      advance({
        fromInput: row(weights.input, characters[step]!, gates),
        fromState: row(fromStates, at, gates),
        state: row(states, at, units),
        gates: row(gatesOf, at, gates),
        next: row(states, at + length, units)
      })
    })
  }
  hidden.dispose()
  return { states, gates: gatesOf, fromStates }
}

/** Turns scores into slopes, in place, and gives the mean surprise at what came: minus the logarithm of its probability. */
const surprise = (scores: Float32Array, came: (i: number) => number) => {
  const count = scores.length / size
  let sum = 0
  for (let i = 0; i < count; i++) {
    const slopes = row(scores, i, size)
    const largest = slopes.reduce((a, b) => Math.max(a, b))
    let total = 0
    for (let j = 0; j < size; j++) total += slopes[j] = Math.exp(slopes[j]! - largest)
    sum -= Math.log(slopes[came(i)]! / total)
    for (let j = 0; j < size; j++) slopes[j]! /= total * count
    slopes[came(i)]! -= 1 / count
  }
  return sum / count
}
