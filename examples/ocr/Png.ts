/**
 * Reads PNG files: 8 bits a channel, grey or in colour, with or without transparency, not interlaced. That is what most programs
 * write; anything else is refused with the reason.
 */
import { inflateSync } from "node:zlib"

/** A picture in shades of grey, one byte a pixel, row by row; 0 is black. */
export interface Picture {
  readonly width: number
  readonly height: number
  readonly pixels: Uint8Array
}

const signature = [137, 80, 78, 71, 13, 10, 26, 10]

/** Channels of a pixel, by the colour type that the file names. */
const channelsOf = new Map([
  [0, 1],
  [2, 3],
  [4, 2],
  [6, 4]
])

/** Decodes a file, on white paper where it is transparent. Throws when it can't. */
export const decode = (file: Uint8Array, maxPixels: number): Picture => {
  if (signature.some((byte, i) => file[i] !== byte)) throw new Error("It is not a PNG file")
  const { compressed, header } = chunks(file)
  const [width, height] = [header.getUint32(0), header.getUint32(4)]
  const [depth, colour, , , interlaced] = [8, 9, 10, 11, 12].map((at) => header.getUint8(at))
  const channels = channelsOf.get(colour!)
  if (depth !== 8 || channels === undefined || interlaced !== 0) {
    throw new Error("It must have 8 bits a channel, no palette, and not be interlaced")
  }
  if (width * height === 0 || width * height > maxPixels) throw new Error(`It must have 1 to ${maxPixels} pixels`)
  const rowSize = width * channels
  const rows = inflateSync(compressed, { maxOutputLength: height * (rowSize + 1) })
  if (rows.length < height * (rowSize + 1)) throw new Error("It is cut off")
  return { width, height, pixels: grey(unfilter(rows, height, rowSize, channels), channels) }
}

/** Finds the header and the compressed rows. */
const chunks = (file: Uint8Array) => {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const parts: Array<Uint8Array> = []
  let header: DataView | undefined
  for (let at = signature.length; at + 12 <= file.length;) {
    const length = view.getUint32(at)
    if (at + 12 + length > file.length) break
    const name = String.fromCharCode(...file.subarray(at + 4, at + 8))
    if (name === "IHDR" && length === 13) header = new DataView(file.buffer, file.byteOffset + at + 8, length)
    if (name === "IDAT") parts.push(file.subarray(at + 8, at + 8 + length))
    at += 12 + length
  }
  if (header === undefined || parts.length === 0) throw new Error("It is cut off")
  return { header, compressed: Buffer.concat(parts) }
}

/** Undoes what makes rows easier to compress: a row holds differences to its neighbours, and its first byte says which. */
const unfilter = (rows: Uint8Array, height: number, rowSize: number, channels: number) => {
  const bytes = new Uint8Array(height * rowSize)
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (rowSize + 1)]!
    for (let x = 0; x < rowSize; x++) {
      const at = y * rowSize + x
      const left = x < channels ? 0 : bytes[at - channels]!
      const up = y === 0 ? 0 : bytes[at - rowSize]!
      const upLeft = x < channels || y === 0 ? 0 : bytes[at - rowSize - channels]!
      bytes[at] = rows[y * (rowSize + 1) + 1 + x]! + predicted(filter, left, up, upLeft)
    }
  }
  return bytes
}

const predicted = (filter: number, left: number, up: number, upLeft: number) => {
  if (filter === 0) return 0
  if (filter === 1) return left
  if (filter === 2) return up
  if (filter === 3) return (left + up) >> 1
  if (filter === 4) return nearest(left + up - upLeft, left, up, upLeft)
  throw new Error("It is damaged")
}

const nearest = (guess: number, left: number, up: number, upLeft: number) => {
  const [toLeft, toUp, toUpLeft] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - upLeft)]
  if (toLeft <= toUp && toLeft <= toUpLeft) return left
  return toUp <= toUpLeft ? up : upLeft
}

const grey = (bytes: Uint8Array, channels: number) => {
  const pixels = new Uint8Array(bytes.length / channels)
  const [coloured, transparent] = [channels >= 3, channels % 2 === 0]
  for (let i = 0; i < pixels.length; i++) {
    const at = i * channels
    const shade = coloured ? 0.299 * bytes[at]! + 0.587 * bytes[at + 1]! + 0.114 * bytes[at + 2]! : bytes[at]!
    const cover = transparent ? bytes[at + channels - 1]! / 255 : 1
    pixels[i] = Math.round(shade * cover + 255 * (1 - cover))
  }
  return pixels
}
