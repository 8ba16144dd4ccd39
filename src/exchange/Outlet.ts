/**
 * The way of a stream to its client: pulls from the handler only what the client takes.
 *
 * Pieces that are ready in the same turn of the event loop leave together, at the end of the turn at the latest. While the socket has
 * not taken one load, at most one more is gathered; then nothing is pulled, and the handler waits.
 *
 * @since 0.1.0
 */
import { Clock, Duration, Effect, Exit, Option, Pull, type Scope, Stream } from "effect"
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
  /** Since when the handler has been asked for more. */
  quietSince: number
  private isClosed = false
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
    this.since = this.quietSince = now()
  }

  write(piece: Piece): void {
    this.quietSince = this.now()
    this.gather(piece)
  }

  /** Writes something that is not of the handler. */
  gather(piece: Piece): void {
    if (this.isClosed || piece.length === 0) return
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
        this.quietSince = this.now()
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
 * Opens a stream, until the scope closes, and waits for its first piece. Fails with what it fails with before. Later on it also fails, by
 * way of `fail`, when client or handler are quiet for too long.
 */
export const open = Effect.fnUntraced(function* <E>(
  stream: Stream.Stream<Piece, E>,
  options: {
    readonly deployment: string
    readonly method: string
    readonly heartbeat: string
    readonly patience: Patience
    readonly fail: (reason: Reason) => E
  }
): Effect.fn.Return<Flow<E>, E, Scope.Scope> {
  const pull = yield* Stream.toPull(stream)
  const first = yield* Effect.exit(pull)
  if (Exit.isFailure(first) && !Pull.isDoneCause(first.cause))
    return yield* Effect.failCause(first.cause) as Effect.Effect<never, E>
  const pieces = Exit.isSuccess(first) ? first.value : undefined
  return new Flow<E>((outlet) => {
    const all = pieces === undefined ? outlet.taken : Effect.andThen(pump(pull, pieces, outlet), outlet.taken)
    return Effect.raceFirst(all, watch(outlet, options))
  })
})

const pump = <E>(
  pull: Pull.Pull<NonEmptyReadonlyArray<Piece>, E>,
  first: NonEmptyReadonlyArray<Piece>,
  outlet: Outlet
): Effect.Effect<void, E> => {
  const write = (pieces: NonEmptyReadonlyArray<Piece>) => {
    for (const piece of pieces) outlet.write(piece)
    return outlet.isFull ? outlet.room : Effect.void
  }
  const rest = Effect.forever(Effect.flatMap(pull, write), { disableYield: true })
  return Effect.suspend(() =>
    Effect.andThen(
      write(first),
      Pull.catchDone(rest, () => Effect.void)
    )
  )
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
    const left = outlet.quietSince + patience.idle - now
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
