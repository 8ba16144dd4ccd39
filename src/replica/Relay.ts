/**
 * Hands the elements of a stream method from the handler's fiber to the reader's, one chunk for each pull.
 *
 * The producer runs only while the reader waits for it: a reader that stops parks the producer with nothing buffered. A reader that only
 * passes elements on can have that done in the producer's fiber: two fibers that take turns for each element cost several times as much.
 *
 * @since 0.1.0
 */
import { Cause, Effect, Exit, type Pull } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"

type Chunk = NonEmptyReadonlyArray<unknown>
type Waiting<A, E> = (effect: Effect.Effect<A, E>) => void

export class Relay {
  private reader: Waiting<Chunk, unknown> | undefined = undefined
  private producer: Waiting<void, never> | undefined = undefined
  private chunk: Chunk | undefined = undefined
  private ended: Exit.Exit<never, unknown> | undefined = undefined
  /** Whether there has been an element. */
  started = false
  /** Whether the request gives its permit back with its first element, and not at its end. */
  readonly releasesEarly: boolean
  /** Whether it has done so. */
  hasReleased = false
  /** Whether the request has ended before its handler began. */
  isUnbegun = false
  /** When the reader gives up, on the router's time. The request itself may have less time for its first element. */
  deadline = Infinity
  private sink: ((chunk: Chunk) => Effect.Effect<void>) | undefined = undefined
  private readonly onFirst: () => void

  /** `onFirst` runs when the first element is there. */
  constructor(releasesEarly: boolean, onFirst: () => void) {
    this.releasesEarly = releasesEarly
    this.onFirst = onFirst
  }

  /** Gives the reader a chunk and waits until it asks for the next one. */
  offer(chunk: Chunk): Effect.Effect<void> {
    return this.sink === undefined ? this.hold(chunk) : this.sink(chunk)
  }

  /** From the next pull on, which then ends with the stream, gives chunks to `sink`, and waits for what that returns. */
  attach(sink: (chunk: Chunk) => Effect.Effect<void>): void {
    this.sink = sink
  }

  private hold(chunk: Chunk): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      this.producer = resume
      if (!this.started) {
        this.started = true
        this.onFirst()
      }
      const reader = this.reader
      this.reader = undefined
      if (reader === undefined) this.chunk = chunk
      else reader(Effect.succeed(chunk))
    })
  }

  /** Ends the stream: after the elements that were offered when `exit` is a success, at once when it is a failure. */
  end(exit: Exit.Exit<unknown, unknown>, begun = true): void {
    if (this.ended !== undefined) return
    this.isUnbegun = !begun
    this.ended = Exit.isSuccess(exit) ? Exit.fail(Cause.Done()) : Exit.failCause(exit.cause)
    if (Exit.isFailure(exit)) this.chunk = undefined
    const reader = this.reader
    this.reader = undefined
    reader?.(this.ended)
  }

  /** The reader's side: the next chunk, the failure, or `Cause.Done`. */
  readonly pull: Pull.Pull<Chunk, unknown> = Effect.callback<Chunk, unknown>((resume) => {
    if (this.chunk !== undefined) {
      const chunk = this.chunk
      this.chunk = undefined
      return resume(Effect.succeed(chunk))
    }
    if (this.ended !== undefined) return resume(this.ended)
    this.reader = resume
    const producer = this.producer
    this.producer = undefined
    producer?.(Effect.void)
    return Effect.sync(() => {
      this.reader = undefined
    })
  })
}
