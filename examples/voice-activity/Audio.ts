/**
 * From the bytes of a recording, in pieces of any size, to the windows that the model hears: 32 ms each, at 16 kHz.
 */
import * as Resampler from "./Resampler.ts"

/** Samples per second that the model was trained on. */
export const RATE = 16_000
/** Samples of a window. */
export const WINDOW = 512

export interface Window {
  /** `WINDOW` samples, -1 to 1. */
  readonly samples: Float32Array
  /** How many of them are of the recording: the last window is filled up with silence. */
  readonly size: number
}

/** Decodes one recording. Both functions throw when it can't be understood; the message says why. */
export interface Decoder {
  /** The windows that are full with these bytes. What is left over waits for more. */
  readonly push: (bytes: Uint8Array) => ReadonlyArray<Window>
  readonly end: () => ReadonlyArray<Window>
}

/** Samples as they are, with nothing before them: 16 bits, little-endian, one channel, 16 kHz. */
export const raw = (): Decoder => body({ channels: 1, rate: RATE, size: Infinity })

/** A WAV file: 16 bits; several channels are mixed, and other rates changed to 16 kHz. */
export const wav = (): Decoder => {
  let header = Buffer.alloc(0)
  let decoder: Decoder | undefined
  return {
    push: (bytes) => {
      if (decoder !== undefined) return decoder.push(bytes)
      header = Buffer.concat([header, bytes])
      const found = parse(header)
      if (found === undefined) return []
      decoder = body(found.format)
      return decoder.push(header.subarray(found.at))
    },
    end: () => {
      if (decoder === undefined) throw new Error("It ends before its sound begins")
      return decoder.end()
    }
  }
}

interface Format {
  readonly channels: number
  readonly rate: number
  /** Bytes of sound. After them comes what is not sound. */
  readonly size: number
}

/** More than this before the sound is not read. */
const LONGEST_HEADER = 64 * 1024
/** What writers say who don't know yet how long it will be. */
const unknownSizes = [0, 0xffffffff]

/** Where in the file the sound begins and what it is like, or nothing when it has not come that far. */
const parse = (file: Buffer): { readonly at: number; readonly format: Format } | undefined => {
  const starts = (text: string, at: number) => text.startsWith(file.toString("latin1", at, at + text.length))
  if (!starts("RIFF", 0) || !starts("WAVE", 8)) throw new Error("It is not a WAV file")
  let format: Omit<Format, "size"> | undefined
  for (let at = 12; at + 8 <= file.length;) {
    const [name, size] = [file.toString("latin1", at, at + 4), file.readUInt32LE(at + 4)]
    at += 8
    if (name === "data") {
      if (format === undefined) throw new Error("It does not say what its sound is like")
      return { at, format: { ...format, size: unknownSizes.includes(size) ? Infinity : size } }
    }
    if (name === "fmt ") {
      if (size < 16) throw new Error("It is damaged")
      if (at + size > file.length) break
      format = formatOf(file.subarray(at, at + size))
    }
    at += size + (size % 2)
  }
  if (file.length > LONGEST_HEADER) throw new Error("Its header is too long")
  return undefined
}

const formatOf = (chunk: Buffer) => {
  const [tag, channels, rate, bits] = [0, 2, 4, 14].map((at) =>
    at === 4 ? chunk.readUInt32LE(at) : chunk.readUInt16LE(at)
  )
  // An extensible format has its tag further back.
  const coding = tag === 0xfffe && chunk.length >= 26 ? chunk.readUInt16LE(24) : tag
  if (coding !== 1 || bits !== 16) throw new Error("It must have samples of 16 bits, not compressed")
  if (channels! < 1 || channels! > 8) throw new Error("It must have 1 to 8 channels")
  if (!Resampler.rates.has(rate!)) throw new Error(`It has ${rate} samples per second, which is not a usual rate`)
  return { channels: channels!, rate: rate! }
}

const body = ({ channels, rate, size }: Format): Decoder => {
  const samplesOf = mixer(channels)
  const resampler = Resampler.make(rate, RATE)
  const cut = cutter()
  let left = size
  return {
    push: (bytes) => {
      const sound = bytes.subarray(0, left)
      left -= sound.length
      return cut.push(resampler.push(samplesOf(sound)))
    },
    // Half a sample at the end is dropped.
    end: () => [...cut.push(resampler.end()), ...cut.end()]
  }
}

/** Reads samples and takes the mean of the channels. Keeps bytes that are not a whole sample of each channel. */
const mixer = (channels: number) => {
  let kept = Buffer.alloc(0)
  return (bytes: Uint8Array): Float32Array => {
    const buffer = Buffer.concat([kept, bytes])
    const frames = Math.floor(buffer.length / (2 * channels))
    kept = buffer.subarray(2 * channels * frames)
    const samples = new Float32Array(frames)
    for (let frame = 0; frame < frames; frame++) {
      let sum = 0
      for (let channel = 0; channel < channels; channel++) sum += buffer.readInt16LE(2 * (frame * channels + channel))
      samples[frame] = sum / (32_768 * channels)
    }
    return samples
  }
}

const cutter = () => {
  let kept: Float32Array = new Float32Array(0)
  return {
    push: (samples: Float32Array): ReadonlyArray<Window> => {
      const all = Resampler.joined(kept, samples)
      const full = Math.floor(all.length / WINDOW)
      kept = all.slice(full * WINDOW)
      return Array.from({ length: full }, (_, i) => ({
        samples: all.subarray(i * WINDOW, (i + 1) * WINDOW),
        size: WINDOW
      }))
    },
    end: (): ReadonlyArray<Window> => {
      if (kept.length === 0) return []
      const samples = new Float32Array(WINDOW)
      samples.set(kept)
      return [{ samples, size: kept.length }]
    }
  }
}
