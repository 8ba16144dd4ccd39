/**
 * From how likely speech is in each window to where it begins and ends.
 *
 * The rules and the numbers are those of `get_speech_timestamps` in Silero's own `utils_vad.py`
 * (https://github.com/snakers4/silero-vad/blob/v6.2/src/silero_vad/utils_vad.py), which needs the whole recording. This gives the same
 * segments as soon as they have ended: the silence that ends one is longer than the padding of it and of the next one together, so
 * nothing that comes later can move its end.
 */
import { RATE } from "./Audio.ts"

const milliseconds = (n: number) => (RATE * n) / 1000

/** Speech begins with a window that is at least this likely to be speech. */
const THRESHOLD = 0.5
/** Silence begins with a window that is less likely than this; between both, nothing changes. */
const EXIT_THRESHOLD = THRESHOLD - 0.15
/** Shorter speech is none. */
const MIN_SPEECH = milliseconds(250)
/** Shorter silence is within speech. */
const MIN_SILENCE = milliseconds(100)
/** How much is added before and after. */
const PAD = milliseconds(30)

/** What there is to know of a stream between two windows; all positions are in samples. */
export interface State {
  /** How much was heard. */
  readonly heard: number
  /** Where speech began that has not ended. */
  readonly start?: number
  /** Where within that the silence began that may be its end. */
  readonly silence?: number
}

export interface Segment {
  readonly start: number
  readonly end: number
}

/** How likely speech is in a window, and how many samples of the recording it has. */
export interface Heard {
  readonly probability: number
  readonly size: number
}

export const initial: State = { heard: 0 }

/** Hears one more window, and gives the segment that has ended with it. */
export const step = (state: State, { probability, size }: Heard): readonly [State, ReadonlyArray<Segment>] => {
  const at = state.heard
  const heard = at + size
  if (probability >= THRESHOLD) return [{ heard, start: state.start ?? at }, []]
  if (state.start === undefined || probability >= EXIT_THRESHOLD) return [{ ...state, heard }, []]
  const silence = state.silence ?? at
  if (at - silence < MIN_SILENCE) return [{ heard, start: state.start, silence }, []]
  return [{ heard }, segment(state.start, silence, heard)]
}

/** The segment that ends with the recording. */
export const last = ({ heard, start }: State): ReadonlyArray<Segment> =>
  start === undefined ? [] : segment(start, heard, heard)

const segment = (start: number, end: number, heard: number): ReadonlyArray<Segment> =>
  end - start > MIN_SPEECH ? [{ start: Math.max(0, start - PAD), end: Math.min(end + PAD, heard) }] : []
