/**
 * The way of a stream to its client: pulls from the handler only what the client takes.
 *
 * Pieces that are ready in the same turn of the event loop leave together, at the end of the turn at the latest. While the socket has
 * not taken one load, at most one more is gathered; then nothing is pulled, and the handler waits.
 *
 * @since 0.1.0
 */
import { type Cause, Clock, type Context, Duration, Effect, Exit, Option, Pull, type Scope, Stream } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import { DeadlineExceeded, type Reason, SlowConsumer } from "../core/ServeError.ts"

/** Characters or bytes that make a load. A single element may be larger. */
const LOAD = 16 * 1024

/** Text, or bytes as they are. */
export type Piece = string | Uint8Array

/**
 * How long a stream may be quiet, each in milliseconds.
 *
 * @category options
 * @since 0.1.0
 */
export interface Patience {
  /** Until the client is told that the stream is alive. */
  readonly heartbeat: number
  /** Until a client is given up that takes nothing. */
  readonly stall: number
  /** Until a handler is given up that gives nothing. */
  readonly idle: number
}

/** What a stream writes to. */
export class Outlet {
  /** Whether a load is on its way. */
  isSending = false
  /** When it was sent, or else when the last one was taken. */
  since: number
  private asked: number
  private hasWritten = false
  private isClosed = false
  private isLast = false
  private pieces: Array<Piece> = []
  private size = 0
  private scheduled = false
  private waiting: (() => void) | undefined = undefined
  private readonly send: (load: Piece, taken: () => void) => void
  private readonly now: () => number

  /** `send` sends a load, and calls back when it can send the next one. `now` gives milliseconds. */
  constructor(send: (load: Piece, taken: () => void) => void, now: () => number) {
    this.send = send
    this.now = now
    this.since = this.asked = now()
  }

  write(pieces: ReadonlyArray<Piece>): void {
    this.hasWritten = true
    for (const piece of pieces) this.gather(piece)
  }

  /** Writes something that is not of the handler. */
  gather(piece: Piece): void {
    if (this.isClosed || this.isLast || piece.length === 0) return
    const last = this.pieces.length - 1
    const before = this.pieces[last]
    if (typeof piece === "string" && typeof before === "string") this.pieces[last] = before + piece
    else this.pieces.push(piece)
    this.size += piece.length
    if (this.isFull) return this.flush()
    if (this.scheduled) return
    this.scheduled = true
    setImmediate(() => {
      this.scheduled = false
      this.flush()
    })
  }

  /** Since when the handler has been asked for more. It costs less not to look at the clock for each piece, so this is exact to a look. */
  quietSince(now: number): number {
    if (this.hasWritten) this.asked = now
    this.hasWritten = false
    return this.asked
  }

  get isFull(): boolean {
    return this.size >= LOAD
  }

  /** Waits until there is room for more. */
  readonly room: Effect.Effect<void> = this.until(() => !this.isFull)

  /** Waits until all has been taken. */
  readonly taken: Effect.Effect<void> = this.until(() => this.size === 0 && !this.isSending)

  /** Writes the last piece, and says whether the client has taken all within `patience` milliseconds. */
  finish(last: Piece, patience: number): Effect.Effect<boolean> {
    return Effect.suspend(() => {
      this.gather(last)
      this.isLast = true
      return Effect.map(Effect.timeoutOption(this.taken, patience), Option.isSome)
    })
  }

  /** The client is gone: there is room for everything, and it goes nowhere. */
  close(): void {
    this.isClosed = true
    this.isSending = false
    this.pieces = []
    this.size = 0
    this.waiting?.()
  }

  private until(isTrue: () => boolean): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      this.waiting = () => {
        if (!isTrue()) return
        this.waiting = undefined
        this.asked = this.now()
        resume(Effect.void)
      }
      this.waiting()
    })
  }

  private flush(): void {
    if (this.isSending || this.size === 0) return
    const { pieces } = this
    this.pieces = []
    this.size = 0
    this.isSending = true
    this.since = this.now()
    this.send(pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces.map(bytesOf)), this.onTaken)
    this.waiting?.()
  }

  private readonly onTaken = (): void => {
    if (this.isClosed) return
    this.isSending = false
    this.since = this.now()
    if (!this.scheduled) this.flush()
    this.waiting?.()
  }
}

const bytesOf = (piece: Piece) => (typeof piece === "string" ? Buffer.from(piece) : piece)

/**
 * A stream whose first piece is there.
 *
 * @category models
 * @since 0.1.0
 */
export class Flow<E> {
  /** Sends all of it, and ends when the client has taken it. */
  readonly run: (outlet: Outlet) => Effect.Effect<void, E>

  constructor(run: (outlet: Outlet) => Effect.Effect<void, E>) {
    this.run = run
  }
}

/**
 * Gives elements to who pulls them. With `attach` they come from the next pull on to `sink`, without being asked for, each chunk when what
 * `sink` returned for the one before has ended; that pull ends with the stream.
 *
 * @category models
 * @since 0.1.0
 */
export interface Source {
  readonly pull: Pull.Pull<NonEmptyReadonlyArray<unknown>, unknown>
  attach?(sink: (elements: NonEmptyReadonlyArray<unknown>) => Effect.Effect<void>): void
}

/** That of a stream, until the scope closes. */
export const sourceOf = (stream: Stream.Stream<unknown, unknown>): Effect.Effect<Source, never, Scope.Scope> =>
  Effect.map(Stream.toPull(stream), (pull) => ({ pull }))

/**
 * The elements of a stream, how they are written, and what is made of a failure.
 *
 * @category models
 * @since 0.1.0
 */
export interface Elements<E> {
  readonly source: Effect.Effect<Source, never, Scope.Scope>
  readonly frame: (elements: NonEmptyReadonlyArray<unknown>) => Effect.Effect<ReadonlyArray<Piece>>
  readonly fail: (cause: Cause.Cause<unknown>) => Effect.Effect<never, E>
}

/**
 * Opens a stream, until the scope closes, and waits for its first elements. Fails with what is made of a failure before them. Later on it
 * also fails, by way of `fail`, when client or handler are quiet for too long.
 */
export const open = Effect.fnUntraced(function* <E>(
  { fail, frame, source }: Elements<E>,
  options: {
    readonly deployment: string
    readonly method: string
    readonly heartbeat: string
    readonly patience: Patience
    readonly fail: (reason: Reason) => E
  }
): Effect.fn.Return<Flow<E>, E, Scope.Scope> {
  const opened = yield* source
  const first = yield* Effect.exit(opened.pull)
  if (Exit.isFailure(first)) {
    if (!Pull.isDoneCause(first.cause)) return yield* fail(first.cause)
    return new Flow<E>(({ taken }) => taken)
  }
  const pieces = yield* Effect.catchCause(frame(first.value), fail)
  return new Flow<E>((outlet) => {
    const all = pump(opened, pieces, frame, outlet)
    const ended = Effect.catchCause(all, (cause) => (Pull.isDoneCause(cause) ? outlet.taken : fail(cause)))
    return Effect.raceFirst(ended, watch(outlet, options))
  })
})

/** Writes elements as they come. It never succeeds: it ends as the source ends. */
const pump = (
  source: Source,
  first: ReadonlyArray<Piece>,
  frame: Elements<never>["frame"],
  outlet: Outlet
): Pull.Pull<never, unknown> => {
  const write = (pieces: ReadonlyArray<Piece>): Effect.Effect<void> => {
    outlet.write(pieces)
    return outlet.isFull ? outlet.room : Effect.void
  }
  const send = (elements: NonEmptyReadonlyArray<unknown>) => Effect.flatMapEager(frame(elements), write)
  const rest = Effect.contextWith((services: Context.Context<never>) => {
    // In the fiber of the handler, but with the services of this one.
    source.attach?.((elements) => {
      const sent = send(elements)
      return Exit.isExit(sent) ? sent : Effect.provideContext(sent, services)
    })
    return Effect.forever(Effect.flatMap(source.pull, send), { disableYield: true })
  })
  return Effect.suspend(() => Effect.andThen(write(first), rest))
}

/** Tells a client of a quiet stream that it is alive. Fails when the client takes nothing, or the handler gives nothing, for too long. */
const watch = <E>(
  outlet: Outlet,
  { deployment, fail, heartbeat, method, patience }: Parameters<typeof open<E>>[1]
): Effect.Effect<never, E> => {
  const beat = heartbeat === "" ? Infinity : patience.heartbeat
  // A state that begins during a sleep is due no sooner than its end.
  const shortest = Math.min(beat, patience.stall, patience.idle)
  if (shortest === Infinity) return Effect.never
  const look = (now: number): Effect.Effect<number, E> => {
    if (outlet.isSending) {
      const left = outlet.since + patience.stall - now
      if (left > 0) return Effect.succeed(left)
      const time = Duration.format(Duration.millis(patience.stall))
      const note = Effect.logInfo(`The client of ${deployment}.${method} took nothing for ${time}, so its stream ends`)
      return Effect.andThen(note, Effect.fail(fail(new SlowConsumer({}))))
    }
    const left = outlet.quietSince(now) + patience.idle - now
    if (left <= 0) return Effect.fail(fail(new DeadlineExceeded({ deployment, stage: "stream" })))
    if (outlet.since + beat <= now) outlet.gather(heartbeat)
    return Effect.succeed(Math.min(left, outlet.since + beat - now))
  }
  return Clock.currentTimeMillis.pipe(
    Effect.flatMap(look),
    Effect.flatMap((left) => Effect.sleep(Duration.millis(Math.min(Math.max(left, 1), shortest)))),
    Effect.forever
  )
}
