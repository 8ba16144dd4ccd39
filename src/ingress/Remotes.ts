/**
 * The remote handles that are connected to an ingress, on whichever server, until they close or the ingress stops.
 *
 * @since 0.1.0
 */
import { Duration, Effect, Exit, Fiber, type Scope } from "effect"
import type { HttpServerRequest } from "effect/http"
import * as Socket from "effect/socket/Socket"
import * as Metrics from "../core/Metrics.ts"
import type { Reply } from "../exchange/Answer.ts"
import type { Peer } from "../exchange/Auth.ts"
import type { Exchange } from "../exchange/Exchange.ts"
import type { Route } from "../exchange/RouteTable.ts"
import { accept, type Accepted, type Offer } from "../wire/Connection.ts"
import type { Socket as WebSocket } from "../wire/SocketPort.ts"

/** Time that calls get to finish where a server is stopped that has no such time for them. */
export const SHUTDOWN_TIMEOUT = Duration.seconds(20)

export class Remotes {
  private readonly open = new Set<Accepted>()

  static readonly make: Effect.Effect<Remotes, never, Scope.Scope> = Effect.gen(function* () {
    const remotes = new Remotes()
    yield* Metrics.showGauge(Metrics.connections, {}, () => remotes.open.size)
    return remotes
  })

  /** Serves on a socket until it closes. */
  serve(socket: WebSocket, offer: Offer): Effect.Effect<void> {
    return Effect.flatMap(accept(socket, offer), (accepted) => {
      this.open.add(accepted)
      return Effect.ensuring(
        // The server that runs this stops.
        Effect.onInterrupt(accepted.closed, () =>
          Effect.andThen(Effect.timeoutOption(accepted.leave, SHUTDOWN_TIMEOUT), Effect.sync(accepted.end))
        ),
        Effect.sync(() => this.open.delete(accepted))
      )
    })
  }

  /** The same for a request to an Effect server, or the answer to those who may not connect. */
  connect<R extends Route>(
    exchange: Exchange<R>,
    request: HttpServerRequest.HttpServerRequest,
    peer: () => Peer
  ): Effect.Effect<Reply | undefined> {
    return Effect.flatMap(exchange.connect(request.url, request.headers, peer), (decision) => {
      if ("status" in decision) return Effect.succeed(decision)
      const serving = Effect.flatMap(Effect.orDie(request.upgrade), (socket) => this.serveOn(socket, decision))
      return Effect.as(Effect.scoped(serving), undefined)
    })
  }

  /** Asks all who are connected to call nothing more, waits until what they have called has ended, at most for `timeout`, and closes. */
  finish(timeout: Duration.Duration): Effect.Effect<void> {
    return Effect.suspend(() =>
      Effect.timeoutOption(
        Effect.forEach(Array.from(this.open), ({ leave }) => leave, { concurrency: "unbounded", discard: true }),
        timeout
      )
    ).pipe(
      Effect.andThen(
        Effect.sync(() => {
          for (const { end } of this.open) end()
        })
      )
    )
  }

  private serveOn(socket: Socket.Socket, offer: Offer): Effect.Effect<void, never, Scope.Scope> {
    return Effect.gen({ self: this }, function* () {
      const adapter = new Adapter(yield* socket.writer)
      const reader = yield* Effect.orDie(socket.reader)
      // Goes on while this is told to stop.
      const reading = Effect.forkDetach(adapter.read(reader))
      yield* Effect.acquireUseRelease(reading, () => this.serve(adapter, offer), Fiber.interrupt)
    })
  }
}

/** A socket of Effect as one that says when something comes. What it is given to send it takes at once. */
class Adapter implements WebSocket {
  private readonly writer: Socket.Writer
  private onMessage: (frame: Uint8Array, isBinary: boolean) => void = () => {}
  private onClose: () => void = () => {}
  private isClosed = false
  private isPaused = false
  private onResume: (() => void) | undefined = undefined
  private onEnd: () => void = () => {}

  constructor(writer: Socket.Writer) {
    this.writer = writer
  }

  /** Reads until either side has closed. */
  read({ pull }: Socket.Reader): Effect.Effect<void> {
    const ended = Effect.callback<void>((resume) => {
      this.onEnd = () => resume(Effect.void)
    })
    const resumed = Effect.callback<void>((resume) => {
      if (!this.isPaused) return resume(Effect.void)
      this.onResume = () => resume(Effect.void)
    })
    const one = Effect.map(Effect.andThen(resumed, pull), (frames) => {
      for (const frame of frames) {
        if (typeof frame === "string") this.onMessage(new Uint8Array(0), false)
        else this.onMessage(frame, true)
      }
    })
    return Effect.ensuring(
      Effect.raceFirst(Effect.ignore(Effect.forever(one)), ended),
      Effect.sync(() => this.closed())
    )
  }

  on(event: "message" | "close" | "error", listener: (data: never, isBinary: boolean) => void): void {
    if (event === "message") this.onMessage = listener as typeof this.onMessage
    if (event === "close") this.onClose = listener as typeof this.onClose
  }

  send(frame: Uint8Array, sent: (error?: Error | null) => void): void {
    const fiber = Effect.runFork(this.writer.write(frame))
    fiber.addObserver((exit) => sent(Exit.isSuccess(exit) ? null : new Error("The socket has closed")))
  }

  pause(): void {
    this.isPaused = true
  }

  resume(): void {
    this.isPaused = false
    this.onResume?.()
    this.onResume = undefined
  }

  close(code: number, reason: string): void {
    Effect.runFork(this.writer.write(new Socket.CloseEvent(code, reason)))
  }

  terminate(): void {
    this.onEnd()
  }

  private closed(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.onClose()
  }
}
