/** The recording that comes with the example, and what Silero's own code makes of it. */
import { readFileSync } from "node:fs"

export const speech = readFileSync(new URL("samples/speech.wav", import.meta.url))

/** What its `get_speech_timestamps` finds, in samples. */
export const expected: ReadonlyArray<{ readonly text: string; readonly start: number; readonly end: number }> = [
  { text: "he was not an ill-disposed young man", start: 3616, end: 46_048 },
  { text: "unless to be rather cold-hearted", start: 58_400, end: 76_256 },
  { text: "he might even have been made amiable himself", start: 87_072, end: 132_576 }
]

/** How likely its `OnnxWrapper` takes speech to be in some of the windows, at the edges of what is spoken. */
export const probabilities: ReadonlyArray<readonly [window: number, probability: number]> = [
  [7, 0.0058],
  [8, 0.654],
  [32, 0.8426],
  [33, 0.3852],
  [34, 0.1448],
  [89, 0.2538],
  [90, 0.0613],
  [114, 0.1368],
  [170, 0.3858],
  [171, 0.9773],
  [257, 0.3583],
  [258, 0.0748]
]
