/**
 * A WebSocket as what carries a link to another process.
 *
 * What is written while the system takes no more waits here and leaves as one frame, so that frames are large under load and leave at
 * once when there is none. Nothing is dropped: when `MOST_UNSENT` is reached the link makes nothing more to send, and what the other
 * side asks is left unread while its calls hold more than they may.
 *
 * @since 0.1.0
 */
import { Clock, Context, Duration, Effect } from "effect"
import { FRAME, FrameWriter, HEAD, read } from "./Frame.ts"
import { type Message, type Port, tooLarge } from "./Port.ts"

/** Bytes that may wait to be taken by the system. */
const MOST_UNSENT = 1024 * 1024

/**
 * A WebSocket that is open, as those of the package `ws` are. `message` comes with bytes, and whether they are no text.
 *
 * @category models
 * @since 0.1.0
 */
export interface Socket {
  /** Bytes that have come, also of messages that are not whole, where that is known. */
  readonly received?: () => number
  readonly send: (frame: Uint8Array, sent: (error?: Error | null) => void) => void
  readonly pause: () => void
  readonly resume: () => void
  readonly close: (code: number, reason: string) => void
  readonly terminate: () => void
  readonly on: (event: "message" | "close" | "error", listener: (data: never, isBinary: boolean) => void) => unknown
}

/** Bytes that the frames of a socket may have whose payloads have at most `maxSize`. */
export const frameSize = (maxSize: number): number => Math.max(maxSize, FRAME) + HEAD

export class SocketPort implements Port {
  readonly window = 4096
  /** Bytes that a message may have for the other side to take it. */
  maxSize = 0
  /** Whether the other side wants to know on whose behalf calls are made. */
  sendsPrincipals = false
  /** Why it has closed, where that is known. */
  why = "the connection has closed"
  private readonly socket: Socket
  /** Bytes that the calls of the other side may have which have not ended. */
  private readonly mostCarried: number
  readonly largest: number
  private received = 0
  private readonly writer = new FrameWriter()
  /** Where the frames of what is written end, except for the last one. */
  private cuts: Array<number> = []
  private unsent = 0
  private lastWritten = 0
  private lastSent: number | undefined = undefined
  private carried = 0
  private isPaused = false
  private hasClosed = false
  /** Whether anything has been heard since the last look, or taken that had to wait by then. */
  private heard = true
  private looks = 0
  private waiting: Array<() => void> = []

  /** `carried` bounds the bytes of all calls of the other side together, and `largest` those of each. */
  constructor(socket: Socket, { carried, largest }: { readonly carried: number; readonly largest: number }) {
    this.socket = socket
    this.largest = largest
    this.mostCarried = carried
  }

  listen(receive: (messages: ReadonlyArray<Message>) => void, onClose: () => void): void {
    this.socket.on("message", (frame: Uint8Array, isBinary) => {
      this.heard = true
      try {
        if (!isBinary) throw new Error("A frame is text")
        if (frame.byteLength > frameSize(this.largest)) return this.fail(1009, "a frame was too large")
        receive(this.withoutPings(read(frame)))
      } catch (error) {
        this.fail(1002, String(error))
      }
    })
    this.socket.on("error", (error: Error) => (this.why = error.message))
    this.socket.on("close", () => {
      if (this.hasClosed) return
      this.hasClosed = true
      onClose()
      this.tellRoom()
    })
  }

  post(messages: ReadonlyArray<Message>): void {
    if (this.hasClosed) return
    const before = this.writer.size
    try {
      for (const message of messages) this.write(message)
    } catch (error) {
      this.writer.truncate(before)
      while ((this.cuts.at(-1) ?? 0) > before) this.cuts.pop()
      throw error
    }
    for (const message of messages) if (message[0] === "call") this.lastWritten = message[1]
    if (this.unsent === 0 || this.cuts.length > 0) this.flush()
  }

  private write(message: Message): void {
    const from = this.writer.size
    this.writer.write(message[0] === "call" && !this.sendsPrincipals ? withoutPrincipal(message) : message)
    const size = this.writer.size - from
    if (size > this.maxSize + HEAD) throw tooLarge(size, this.maxSize)
    const start = this.cuts.at(-1) ?? 0
    if (from > start && this.writer.size - start > FRAME) this.cuts.push(from)
  }

  /** Closes it when all is sent. */
  close(code: number, reason: string): void {
    this.flush()
    this.socket.close(code, reason)
  }

  /** Waits until the system has all that was to be sent. */
  readonly sent: Effect.Effect<void> = Effect.callback((resume) => {
    const look = (): void => {
      if (this.hasClosed || this.unsent + this.writer.size === 0) resume(Effect.void)
      else this.waiting.push(look)
    }
    this.flush()
    look()
  })

  /** Ends it at once. */
  fail(code: number, why: string): void {
    this.why = why
    this.socket.close(code, "")
    this.socket.terminate()
  }

  /** Asks the other side whether it is there, and ends the connection when nothing has been heard for as long as `timeout`. */
  keepAlive(timeout: Duration.Duration): Effect.Effect<never> {
    let silent = 0
    const look = Effect.sync(() => {
      const received = this.socket.received?.() ?? 0
      if (received !== this.received) this.heard = true
      this.received = received
      // What is not read can't be heard.
      if (this.heard || (this.isPaused && !this.isFull())) silent = 0
      else silent++
      this.heard = false
      this.looks++
      if (silent >= LOOKS) this.fail(1001, `nothing was heard for ${Duration.format(timeout)}`)
      else this.post([PING])
    })
    return Effect.andThen(Effect.sleep(Duration.millis(Duration.toMillis(timeout) / LOOKS)), look).pipe(
      Effect.forever,
      Effect.provideService(Clock.Clock, wall)
    )
  }

  begin(): void {}

  hasBegun(id: number): boolean {
    return this.lastSent !== undefined && ((this.lastSent - id) | 0) >= 0
  }

  sizeOf(sent: unknown): number {
    return sent instanceof Uint8Array ? sent.byteLength : 0
  }

  isFull(): boolean {
    return this.unsent + this.writer.size >= MOST_UNSENT
  }

  whenRoom(resume: () => void): void {
    this.waiting.push(resume)
  }

  carry(bytes: number): void {
    this.carried = bytes
    this.decideReading()
  }

  private withoutPings(messages: ReadonlyArray<Message>): ReadonlyArray<Message> {
    if (!messages.some(isAbout)) return messages
    if (messages.some((message) => message[1] === PING[1])) this.post([PONG])
    return messages.filter((message) => !isAbout(message))
  }

  private decideReading(): void {
    // A side of which nothing is asked reads on: what it reads is how the other side gets rid of what it has to send. If neither read
    // because it can't send, neither could ever send.
    const shouldPause = this.mostCarried < Infinity && (this.carried > this.mostCarried || this.isFull())
    if (shouldPause === this.isPaused) return
    this.isPaused = shouldPause
    if (shouldPause) this.socket.pause()
    else this.socket.resume()
  }

  private flush(): void {
    if (this.writer.size === 0 || this.hasClosed) return
    const { cuts } = this
    this.cuts = []
    this.lastSent = this.lastWritten
    const written = this.writer.take()
    let from = 0
    for (const to of [...cuts, written.length]) {
      this.sendFrame(written.subarray(from, to))
      from = to
    }
    this.decideReading()
  }

  private sendFrame(frame: Uint8Array): void {
    const { byteLength } = frame
    const { looks } = this
    this.unsent += byteLength
    this.socket.send(frame, (error) => {
      this.unsent -= byteLength
      if (error != null) return
      // What is taken at once says nothing: the system takes it for a side that is gone as well.
      if (looks !== this.looks) this.heard = true
      if (this.unsent === 0) this.flush()
      if (this.isFull()) return
      this.tellRoom()
      this.decideReading()
    })
  }

  private tellRoom(): void {
    const { waiting } = this
    this.waiting = []
    for (const resume of waiting) resume()
  }
}

const PING: Message = ["note", "ping", null]
const PONG: Message = ["note", "pong", null]

const isAbout = ([kind, name]: Message): boolean => kind === "note" && (name === PING[1] || name === PONG[1])

/** How often it is looked at in the time after which a connection is taken for dead. */
const LOOKS = 4

// Connections take real time, whatever the clock of the program.
const wall = Context.get(Context.empty(), Clock.Clock)

const withoutPrincipal = (call: Extract<Message, { 0: "call" }>): Message => {
  const [kind, id, target, payload, crossing] = call
  if (crossing.principal === undefined) return call
  return [kind, id, target, payload, Object.assign({}, crossing, { principal: undefined })]
}
