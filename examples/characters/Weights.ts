/**
 * The weights of the model, and the file that has them.
 *
 * The model is one layer of gated recurrent units (Cho et al., 2014; the reset gate after the product, as in cuDNN) between a table
 * with one row per character and a product that gives one score per character.
 */
import { Effect, FileSystem } from "effect"
import { fileURLToPath } from "node:url"

/** The characters that the model knows. */
export const alphabet = "\n !\"'(),-.:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/** Numbers that a sequence carries from one character to the next. */
export const units = 256

/** Three matrices, row by row. */
export interface Weights {
  /** What a character adds to the three gates: a row of `3 * units` for each character. */
  readonly input: Float32Array
  /** What each unit adds to the three gates: `units` rows of `3 * units`. */
  readonly hidden: Float32Array
  /** What each unit adds to the scores of the next character: `units` rows of one number per character. */
  readonly output: Float32Array
}

const sizes = [alphabet.length * 3 * units, units * 3 * units, units * alphabet.length] as const
const path = fileURLToPath(new URL("weights.bin", import.meta.url))

/** Reads `weights.bin`. */
export const read: Effect.Effect<Weights, never, FileSystem.FileSystem> = Effect.gen(function* () {
  const bytes = yield* (yield* FileSystem.FileSystem).readFile(path)
  const all = widened(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2))
  const [input, hidden] = sizes
  return {
    input: all.subarray(0, input),
    hidden: all.subarray(input, input + hidden),
    output: all.subarray(input + hidden)
  }
}).pipe(Effect.orDie)

/** Writes `weights.bin`. */
export const write = Effect.fnUntraced(function* ({ hidden, input, output }: Weights) {
  const halves = [input, hidden, output].map((values) => new Uint8Array(narrowed(values).buffer))
  yield* (yield* FileSystem.FileSystem).writeFile(path, new Uint8Array(Buffer.concat(halves)))
}, Effect.orDie)

/** Draws small numbers to begin with. */
export const initial = (random: () => number): Weights => {
  const draw = (size: number, scale: number) => Float32Array.from({ length: size }, () => scale * (2 * random() - 1))
  const [input, hidden, output] = sizes
  const scale = 1 / Math.sqrt(units)
  return { input: draw(input, scale), hidden: draw(hidden, scale), output: draw(output, scale) }
}

// The file has the upper half of each number ("bfloat16"): eight binary digits, half the size, and the model writes as well.
const narrowed = (values: Float32Array) =>
  Uint16Array.from(new Uint32Array(values.buffer, values.byteOffset, values.length), (bits) =>
    Math.min((bits + 0x8000) / 0x10000, 0xffff)
  )

const widened = (halves: Uint16Array) => new Float32Array(Uint32Array.from(halves, (half) => half * 0x10000).buffer)
