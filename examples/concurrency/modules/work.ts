/**
 * Work that blocks, as plain functions for the threads of a `WorkerPool`; on a loop they hold it. Each says when and where it ran.
 */
import { move } from "effect-serve/task"
import { pbkdf2Sync } from "node:crypto"
import { type Run, timed } from "../clock.ts"
import { getSync } from "./getSync.ts"

/** Hashes a password, so often that it takes a core some 130 ms. */
export const hash = (rounds = 1_000_000): Run => timed(() => pbkdf2Sync("hunter2", "salt", rounds, 32, "sha256"))

/** Fetches a URL, and blocks until the answer is there. */
export const fetchBlocking = (url: string): Run => timed(() => getSync(url))

/** Counts up to ten million, 15 ms or more for a core, `repeats` times. */
export const compute = (x: number, repeats = 10): Run & { readonly total: number } => {
  let total = 0
  const run = timed(() => {
    for (let repeat = 0; repeat < repeats; repeat++) {
      total = 0
      for (let i = 0; i < 10_000_000; i++) total += (i * x) % 7
    }
  })
  return { ...run, total }
}

/** The product of two square matrices, which are as long as they are wide. */
export const multiply = (a: Float64Array, b: Float64Array): Run & { readonly product: Float64Array } => {
  const n = Math.sqrt(a.length)
  const product = new Float64Array(a.length)
  const run = timed(() => {
    for (let i = 0; i < n; i++) {
      for (let k = 0; k < n; k++) {
        const factor = a[i * n + k]!
        for (let j = 0; j < n; j++) product[i * n + j]! += factor * b[k * n + j]!
      }
    }
  })
  // The one who asked gets the numbers themselves, and no copy of them.
  return { ...run, product: move(product) }
}

/** Inputs and outputs of the layer, and its weights: four bits each, two in a byte, as models are kept that have to be small. */
const UNITS = 2048
const packed = new Uint8Array((UNITS * UNITS) / 2).map((_, i) => Math.imul(i, 2654435761) >>> 24)

/**
 * Runs a layer of a neural network. It unpacks the weights once for a batch, which takes a core some 15 ms, and then does a product for
 * each input, 5 ms. The answer is which output is the strongest.
 */
export const predict = (inputs: ReadonlyArray<number>): Run & { readonly classes: ReadonlyArray<number> } => {
  let classes: ReadonlyArray<number> = []
  const run = timed(() => {
    const weights = unpack()
    classes = inputs.map((input) => strongest(weights, input))
  })
  return { ...run, classes }
}

const unpack = () => {
  const weights = new Float32Array(2 * packed.length)
  for (let i = 0; i < packed.length; i++) {
    weights[2 * i] = ((packed[i]! & 15) - 7.5) / 16
    weights[2 * i + 1] = ((packed[i]! >> 4) - 7.5) / 16
  }
  return weights
}

const strongest = (weights: Float32Array, input: number) => {
  const vector = new Float32Array(UNITS).map((_, i) => Math.sin(input * i))
  let best = 0
  let most = -Infinity
  for (let unit = 0; unit < UNITS; unit++) {
    let sum = 0
    for (let i = 0; i < UNITS; i++) sum += weights[unit * UNITS + i]! * vector[i]!
    if (sum > most) [best, most] = [unit, sum]
  }
  return best
}

/** Squares a number, after a hash that makes it heavy. */
export const heavySquare = (x: number): Run & { readonly square: number } => ({ ...hash(), square: x * x })
