/**
 * The elements of a stream that have arrived, until its reader takes them.
 *
 * @since 0.1.0
 */
import { Cause, Effect, Exit, Pull } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"

/** Some of them, in order. */
export type Elements = NonEmptyReadonlyArray<unknown>

export class Inflow {
  private elements: Array<unknown> = []
  private bytes = 0
  private ended: Exit.Exit<never, unknown> | undefined = undefined
  private reader: ((effect: Effect.Effect<Elements, unknown>) => void) | undefined = undefined
  /** Elements and bytes that were taken, of which the producer has not heard. */
  private taken = 0
  private bytesTaken = 0
  private readonly most: { readonly elements: number; readonly bytes: number }
  private readonly onTaken: (count: number, bytes: number) => void

  /** `onTaken` hears what was taken, when it is a quarter of the most that the producer may be ahead. */
  constructor(
    most: { readonly elements: number; readonly bytes: number },
    onTaken: (count: number, bytes: number) => void
  ) {
    this.most = most
    this.onTaken = onTaken
  }

  /** Adds elements, of which the reader hears with {@link Inflow.tell}. */
  add(elements: ReadonlyArray<unknown>, bytes: number): void {
    if (this.elements.length === 0) this.elements = Array.from(elements)
    else for (const element of elements) this.elements.push(element)
    this.bytes += bytes
  }

  end(exit: Exit.Exit<unknown, unknown>): void {
    this.ended ??= Exit.isSuccess(exit) ? Exit.fail(Cause.Done()) : Exit.failCause(exit.cause)
    this.tell()
  }

  readonly pull: Pull.Pull<Elements, unknown> = Effect.callback<Elements, unknown>((resume) => {
    this.reader = resume
    this.tell()
    return Effect.sync(() => {
      this.reader = undefined
    })
  })

  private credit(elements: number, bytes: number): void {
    this.taken += elements
    this.bytesTaken += bytes
    if (4 * this.taken < this.most.elements && 4 * this.bytesTaken < this.most.bytes) return
    this.onTaken(this.taken, this.bytesTaken)
    this.taken = 0
    this.bytesTaken = 0
  }

  /** Adds one. */
  push(element: unknown, bytes: number): void {
    this.elements.push(element)
    this.bytes += bytes
  }

  /** Gives the reader what there is, if it waits. */
  tell(): void {
    const { bytes, elements, reader } = this
    if (reader === undefined || (elements.length === 0 && this.ended === undefined)) return
    this.reader = undefined
    if (elements.length === 0) return reader(this.ended!)
    this.elements = []
    this.bytes = 0
    this.credit(elements.length, bytes)
    reader(Effect.succeed(elements as unknown as Elements))
  }
}

/** Ends well with what ends a stream well. */
export const untilDone = (pulling: Effect.Effect<never, unknown>): Effect.Effect<void, unknown> =>
  Effect.catchCause(pulling, (cause) => (Pull.isDoneCause(cause) ? Effect.void : Effect.failCause(cause)))
