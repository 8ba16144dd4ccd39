/**
 * What the model takes and gives: a picture of a line of text becomes numbers, and numbers become text.
 */
import type { Picture } from "./Png.ts"

/** Height of the lines that the model was trained on, in pixels. */
const HEIGHT = 48

/** Numbers as the model takes them: three channels of `HEIGHT` rows. */
export interface Input {
  readonly width: number
  readonly values: Float32Array
}

/** Scales a picture to the model's height and its shades to -1 (black) to 1 (white). */
export const toInput = ({ height, pixels, width }: Picture): Input => {
  const columns = Math.max(1, Math.round((width * HEIGHT) / height))
  const plane = HEIGHT * columns
  const values = new Float32Array(3 * plane)
  const across = steps(width, columns)
  const down = steps(height, HEIGHT)
  for (const [y, row] of down.entries()) {
    for (const [x, column] of across.entries()) {
      const at = (r: number, c: number) => pixels[r * width + c]!
      const above = mix(at(row.low, column.low), at(row.low, column.high), column.share)
      const below = mix(at(row.high, column.low), at(row.high, column.high), column.share)
      values[y * columns + x] = mix(above, below, row.share) / 127.5 - 1
    }
  }
  // The model looks at red, green and blue; a picture in shades of grey has the same in each.
  values.copyWithin(plane, 0, plane)
  values.copyWithin(2 * plane, 0, plane)
  return { width: columns, values }
}

/** For each of `to` pixels, between which two of `from` pixels it lies, and how near to the second. */
const steps = (from: number, to: number) =>
  Array.from({ length: to }, (_, i) => {
    const centre = Math.min(Math.max(((i + 0.5) * from) / to - 0.5, 0), from - 1)
    const low = Math.floor(centre)
    return { low, high: Math.min(low + 1, from - 1), share: centre - low }
  })

const mix = (a: number, b: number, share: number) => a + (b - a) * share

/** What was read. */
export interface Reading {
  readonly text: string
  /** How sure the model is, 0 to 1: the mean over the characters. */
  readonly confidence: number
}

/**
 * Reads the model's output: for each step along the line, how likely each character is. One character often spans several steps, so
 * equal neighbours count once; between two characters that are the same the model puts a blank, which is class 0.
 */
export const toText = (chances: Float32Array, alphabet: ReadonlyArray<string>): Reading => {
  const classes = alphabet.length
  let text = ""
  let sum = 0
  let characters = 0
  let previous = 0
  for (let step = 0; step < chances.length; step += classes) {
    const best = indexOfMax(chances.subarray(step, step + classes))
    if (best !== 0 && best !== previous) {
      text += alphabet[best]
      sum += chances[step + best]!
      characters++
    }
    previous = best
  }
  // It also reads the margins, as spaces.
  return { text: text.trim(), confidence: characters === 0 ? 0 : sum / characters }
}

const indexOfMax = (values: Float32Array) => {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}

/** The classes of the model, in order: the blank, the characters of its dictionary, one a line, and the space. */
export const alphabetOf = (dictionary: string): ReadonlyArray<string> => ["", ...dictionary.split(/\r?\n/), " "]
