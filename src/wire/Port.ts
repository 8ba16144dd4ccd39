/**
 * What two sides of a link tell each other, and what carries it.
 *
 * @since 0.1.0
 */
import { BadUpload, because, type ServeError } from "../core/ServeError.ts"
import type { Crossing } from "./Crossing.ts"
import type { SentExit } from "./MethodCodec.ts"

/**
 * What one side tells the other.
 *
 * @category models
 * @since 0.1.0
 */
export type Message =
  | readonly ["call", id: number, target: string, payload: unknown, crossing: Crossing]
  | readonly ["exit", id: number, exit: SentExit]
  | readonly ["cancel", id: number]
  | readonly ["elements", id: number, elements: unknown]
  | readonly ["element", id: number, element: unknown]
  | readonly ["credit", id: number, elements: number, bytes: number]
  | readonly ["note", name: string, value: unknown]

/**
 * What carries the messages of a link.
 *
 * @category models
 * @since 0.1.0
 */
export interface Port {
  /** Elements of a stream that may be on their way, or wait for their reader: what can be taken in the time that a message needs. */
  readonly window: number
  /** Bytes that the payload of a call from the other side may have. */
  readonly largest: number
  /** Gives what arrives to `receive`, and calls `onClose` once when nothing can arrive or leave any more. */
  readonly listen: (receive: (messages: ReadonlyArray<Message>) => void, onClose: () => void) => void
  /** Sends messages of one turn. Throws, with none of them sent, when one can't be. */
  readonly post: (messages: ReadonlyArray<Message>) => void
  /** Takes note that a call from the other side begins. Their ids come in order. */
  readonly begin: (id: number) => void
  /** Whether a call to the other side may have begun, when the port has closed. */
  readonly hasBegun: (id: number) => boolean
  /** The bytes of a value in the form that is sent; 0 where that is not known. */
  readonly sizeOf: (sent: unknown) => number
  /** Whether so much is on its way that nothing should be added that can wait. */
  readonly isFull: () => boolean
  /** Calls back once it is not. */
  readonly whenRoom: (resume: () => void) => void
  /** Takes note of how many bytes the calls have that came from the other side and have not ended. */
  readonly carry: (bytes: number) => void
}

/** Says of a value that it may not have so many bytes. */
export const tooLarge = (size: number, most: number): ServeError => {
  const description = `it has ${size} bytes, and the other side takes ${most} (maxBodySize there, or maxAnswerSize here)`
  return because(() => new BadUpload({ why: "tooLarge", description }))
}
