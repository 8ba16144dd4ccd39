/**
 * Changes the sampling rate of sound that comes in pieces, by windowed-sinc interpolation: a low-pass filter keeps out what the lower
 * rate can't carry, which would be heard as something else.
 */

/** Rates that are understood, in samples per second. */
export const rates: ReadonlySet<number> = new Set([
  8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000
])

/** Takes sound in pieces and gives it at another rate. */
export interface Resampler {
  readonly push: (samples: Float32Array) => Float32Array
  /** What is left when the sound has ended. */
  readonly end: () => Float32Array
}

/** Lobes of the sinc on each side: more of them make the filter steeper. */
const LOBES = 16
/** The share of the band that passes; the filter falls off above it. */
const PASSING = 0.95

export const make = (from: number, to: number): Resampler => {
  if (from === to) return { push: (samples) => samples, end: () => new Float32Array(0) }
  const { down, half, phases, up } = filterFor(from, to)
  // Sample `n` of the output lies `n * down / up` samples into the input, and is made of the `2 * half` samples around there.
  let kept: Float32Array = new Float32Array(half - 1)
  let keptFrom = 1 - half
  let next = 0

  const positionOf = (n: number) => Math.floor((n * down) / up)

  const push = (samples: Float32Array) => {
    const input = joined(kept, samples)
    const until = keptFrom + input.length
    const output: Array<number> = []
    for (; positionOf(next) + half < until; next++) {
      const taps = phases[(next * down) % up]!
      const first = positionOf(next) - half + 1 - keptFrom
      let sum = 0
      for (let i = 0; i < taps.length; i++) sum += taps[i]! * input[first + i]!
      output.push(sum)
    }
    const needed = Math.min(positionOf(next) - half + 1 - keptFrom, input.length)
    kept = input.slice(needed)
    keptFrom += needed
    return Float32Array.from(output)
  }

  return { push, end: () => push(new Float32Array(half)) }
}

interface Filter {
  readonly up: number
  readonly down: number
  /** Samples of the input on each side of one of the output. */
  readonly half: number
  /** The filter for each place that a sample of the output can have between two of the input. */
  readonly phases: ReadonlyArray<Float32Array>
}

const filters = new Map<string, Filter>()

const filterFor = (from: number, to: number): Filter => {
  const key = `${from} ${to}`
  const known = filters.get(key)
  if (known !== undefined) return known
  const filter = design(from, to)
  filters.set(key, filter)
  return filter
}

const design = (from: number, to: number): Filter => {
  const divisor = greatestCommonDivisor(from, to)
  const [up, down] = [to / divisor, from / divisor]
  const cutoff = PASSING * Math.min(1, to / from)
  const half = Math.ceil(LOBES / cutoff)
  const phases = Array.from({ length: up }, (_, phase) =>
    Float32Array.from({ length: 2 * half }, (_, i) => {
      const distance = i - half + 1 - phase / up
      const window = Math.cos((Math.PI * distance) / (2 * half)) ** 2
      return cutoff * sinc(cutoff * distance) * window
    })
  )
  return { up, down, half, phases }
}

const sinc = (x: number) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x))

const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b))

/** One array after the other. */
export const joined = (a: Float32Array, b: Float32Array): Float32Array => {
  if (a.length === 0) return b
  const both = new Float32Array(a.length + b.length)
  both.set(a)
  both.set(b, a.length)
  return both
}
