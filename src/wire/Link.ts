/**
 * Calls between two threads or two processes, both ways, over whatever carries messages.
 *
 * Either side serves methods and calls those of the other: an app calls the handlers in a replica's thread, and these call other
 * deployments through the app. A call ends when its work has ended over there: whoever is interrupted waits for it. Messages of
 * one turn travel together. A stream is sent ahead of its reader by at most a window of elements, and 64 KiB and one element
 * where their size is known; then its producer waits.
 *
 * @since 0.1.0
 */
import { type Clock, type Duration, Effect, Exit, type Fiber, Stream } from "effect"
import { ServeError } from "../core/ServeError.ts"
import * as Crossing from "./Crossing.ts"
import { type Elements, Inflow, untilDone } from "./Inflow.ts"
import { asRefusal, encodeFailure, type Form, type MethodCodec, Misfit, type SentExit } from "./MethodCodec.ts"
import { type Message, type Port, tooLarge } from "./Port.ts"
import { type Runner, type Served, Serving, WINDOW_BYTES } from "./Serving.ts"
import type { SentSpan, Spans } from "./Spans.ts"

/** Bytes of values that are not kept until the end of a turn, so that the other side can begin with them. */
const ENOUGH = 16 * 1024

/** A call to the other side. */
interface Outgoing {
  readonly codec: MethodCodec
  readonly span: SentSpan | undefined
  readonly size: number
  onExit: (exit: Exit.Exit<unknown, unknown>) => void
  readonly onElements: (sent: unknown, isOne: boolean) => void
}

const failed = Exit.fail as (error: unknown) => Exit.Failure<never, unknown>
const died = Exit.die as (error: unknown) => Exit.Failure<never, unknown>

export class Link {
  /** What the other side may call, by target. */
  readonly served = new Map<string, Served>()
  private readonly serving: Serving
  private readonly port: Port
  private readonly form: Form
  private readonly spans: Spans
  private readonly patience: Duration.Duration | undefined
  private readonly onNote: (name: string, value: unknown) => void
  private readonly outgoing = new Map<number, Outgoing>()
  private outbox: Array<Message> = []
  private outboxSize = 0
  private lastId = 0
  private sizeOut = 0
  private waiting: Array<() => void> = []
  /** Where elements have come that their readers have not heard of. */
  private readonly arrived = new Set<Inflow>()
  private onClose: () => (begun: boolean) => Exit.Exit<never, unknown> = () => () =>
    Exit.die(new Error("The link has closed"))
  private lost: ((begun: boolean) => Exit.Exit<never, unknown>) | undefined = undefined

  /**
   * `onNote` gets what the other side sends with {@link Link.note}. `runner` starts what the other side calls. `patience` is how long
   * a caller that leaves waits for its work to stop over there; for ever if there is none.
   */
  constructor(options: {
    readonly port: Port
    readonly form: Form
    readonly clock: Clock.Clock
    readonly spans: Spans
    readonly runner: Runner
    readonly onNote: (name: string, value: unknown) => void
    readonly patience?: Duration.Duration
  }) {
    this.port = options.port
    this.form = options.form
    this.spans = options.spans
    this.patience = options.patience
    this.onNote = options.onNote
    this.serving = new Serving({ ...options, send: (message, size) => this.send(message, size) })
    this.port.listen(
      (messages) => {
        for (const message of messages) this.receive(message)
        if (this.arrived.size === 0) return
        // All that came together goes to its reader together.
        for (const inflow of this.arrived) inflow.tell()
        this.arrived.clear()
      },
      () => this.close()
    )
  }

  /** A method of the other side, as a function. */
  method(
    target: string,
    codec: MethodCodec
  ): (payload: unknown) => Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown> {
    return codec.stream
      ? (payload) => this.stream(target, codec, payload)
      : (payload) => this.call(target, codec, payload)
  }

  /** Sends something that is not a call. */
  note(name: string, value: unknown): void {
    this.send(["note", name, value])
  }

  /** Waits until nothing runs here that the other side has called, and the port has what it is told of that. */
  readonly idle: Effect.Effect<void> = Effect.suspend(() =>
    Effect.andThen(
      this.serving.idle,
      Effect.sync(() => this.flush())
    )
  )

  /** Whether the calls to the other side that have not ended have `window` bytes, or the port is full. */
  isFull(window: number): boolean {
    return this.sizeOut >= window || this.port.isFull()
  }

  /** Waits until it is not {@link Link.isFull}. */
  whenRoom(window: number): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const look = (): void => {
        if (this.lost !== undefined || !this.isFull(window)) return resume(Effect.void)
        if (this.sizeOut < window) this.port.whenRoom(look)
        else this.waiting.push(look)
      }
      look()
    })
  }

  /**
   * Sees to it that all ends with the other side: `onClose` is called, calls to it end with what its result makes of
   * whether they had begun, and calls from it are interrupted.
   */
  closeWithPeer(onClose: () => (begun: boolean) => Exit.Exit<never, unknown>): void {
    this.onClose = onClose
  }

  private close(): void {
    const lost = this.onClose()
    this.lost = lost
    this.outbox = []
    for (const id of Array.from(this.outgoing.keys())) this.end(id, lost(this.port.hasBegun(id)))
    this.serving.stopAll()
    this.tellRoom()
  }

  private tellRoom(): void {
    const { waiting } = this
    this.waiting = []
    for (const look of waiting) look()
  }

  /** Calls a method that answers once. */
  call(target: string, codec: MethodCodec, payload: unknown): Effect.Effect<unknown, unknown> {
    return Effect.withFiber((fiber) =>
      Effect.callback<unknown, unknown>((resume) => {
        const id = this.begin(fiber, target, codec, payload, resume, () => {})
        return Effect.suspend(() => this.cancel(id))
      })
    )
  }

  private stream(target: string, codec: MethodCodec, payload: unknown): Stream.Stream<unknown, unknown> {
    return Stream.unwrap(
      Effect.map(
        Effect.acquireRelease(this.open(target, codec, payload), ({ id }) => this.cancel(id)),
        ({ inflow }) => Stream.fromPull(Effect.succeed(inflow.pull))
      )
    )
  }

  /** Calls a stream method, and gives its elements to `sink`, some at a time. Ends with the stream. */
  read(
    target: string,
    codec: MethodCodec,
    payload: unknown,
    sink: (elements: Elements) => Effect.Effect<void>
  ): Effect.Effect<void, unknown> {
    return Effect.acquireUseRelease(
      this.open(target, codec, payload),
      ({ inflow: { pull } }) => untilDone(Effect.forever(Effect.flatMap(pull, sink), { disableYield: true })),
      ({ id }) => this.cancel(id)
    )
  }

  private open(target: string, codec: MethodCodec, payload: unknown) {
    return Effect.withFiber((fiber) =>
      Effect.sync(() => {
        const inflow = new Inflow({ elements: this.port.window, bytes: WINDOW_BYTES }, (count, bytes) =>
          this.send(["credit", id, count, bytes])
        )
        const onElements = (sent: unknown, isOne: boolean) => {
          try {
            const size = this.port.sizeOf(sent)
            if (isOne) inflow.push(codec.element.decode(sent), size)
            else inflow.add(codec.elements.decode(sent) as ReadonlyArray<unknown>, size)
            this.arrived.add(inflow)
          } catch (mismatch) {
            inflow.end(Exit.die(mismatch))
            this.send(["cancel", id])
          }
        }
        const id: number = this.begin(fiber, target, codec, payload, (exit) => inflow.end(exit), onElements)
        return { id, inflow }
      })
    )
  }

  private begin(
    fiber: Fiber.Fiber<unknown, unknown>,
    target: string,
    codec: MethodCodec,
    payload: unknown,
    onExit: Outgoing["onExit"],
    onElements: Outgoing["onElements"]
  ): number {
    const id = (this.lastId = (this.lastId + 1) | 0)
    if (this.lost !== undefined) {
      onExit(this.lost(false))
      return id
    }
    let sent: unknown
    try {
      sent = codec.payload.encode(payload)
    } catch (mismatch) {
      onExit(Exit.die(mismatch))
      return id
    }
    const span = this.spans.leave(fiber)
    const size = this.port.sizeOf(sent)
    this.sizeOut += size
    this.outgoing.set(id, { codec, span, size, onExit, onElements })
    this.send(["call", id, target, sent, Crossing.leave(fiber, span)], size)
    return id
  }

  /** Stops a call and waits until it has, or until there is no patience left. */
  private cancel(id: number): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const call = this.outgoing.get(id)
      if (call === undefined) return resume(Effect.void)
      const timer = this.patience === undefined ? undefined : Effect.runFork(Effect.sleep(this.patience))
      timer?.addObserver(() => resume(Effect.void))
      call.onExit = () => {
        timer?.interruptUnsafe()
        resume(Effect.void)
      }
      this.send(["cancel", id])
    })
  }

  private end(id: number, exit: Exit.Exit<unknown, unknown>): void {
    const call = this.outgoing.get(id)!
    this.outgoing.delete(id)
    this.sizeOut -= call.size
    this.spans.back(call.span)
    call.onExit(exit)
    if (this.waiting.length > 0) this.tellRoom()
  }

  /** Sends a message that has a value of `size` bytes at the end of this turn, or sooner when there is enough to send. */
  private send(message: Message, size = 0): void {
    if (this.lost !== undefined) return
    this.outbox.push(message)
    this.outboxSize += size
    if (this.outboxSize >= ENOUGH) this.flush()
    else if (this.outbox.length === 1) queueMicrotask(() => this.flush())
  }

  private flush(): void {
    const messages = this.outbox
    this.outbox = []
    this.outboxSize = 0
    if (messages.length === 0) return
    try {
      this.port.post(messages)
    } catch {
      for (const message of messages) this.sendAlone(message)
    }
  }

  /** Sends a message that may be one that can't be sent, as when its schema lets anything pass; then its call ends. */
  private sendAlone(message: Message): void {
    try {
      this.port.post([message])
    } catch (error) {
      const exit: Exit.Failure<never, unknown> = error instanceof ServeError ? failed(error) : died(error)
      if (message[0] === "call") return this.end(message[1], exit)
      if (message[0] === "exit" || message[0] === "elements" || message[0] === "element") {
        this.serving.stop(message[1])
        this.port.post([["exit", message[1], this.failure(exit)]])
      }
    }
  }

  private receive(message: Message): void {
    switch (message[0]) {
      case "call": {
        const [, id, target, sent, crossing] = message
        this.port.begin(id)
        const size = this.port.sizeOf(sent)
        if (size > this.port.largest)
          return this.send(["exit", id, asRefusal(this.failure(failed(tooLarge(size, this.port.largest))))])
        const served = this.served.get(target)
        if (served !== undefined) return this.serving.begin(id, served, sent, crossing)
        return this.send(["exit", id, this.failure(died(new Misfit(`Nothing is served as "${target}"`)))])
      }
      case "exit": {
        const call = this.outgoing.get(message[1])
        if (call !== undefined) this.end(message[1], call.codec.decodeExit(message[2]))
        return
      }
      case "elements":
        return this.outgoing.get(message[1])?.onElements(message[2], false)
      case "element":
        return this.outgoing.get(message[1])?.onElements(message[2], true)
      case "cancel":
        return this.serving.stop(message[1])
      case "credit":
        return this.serving.credit(message[1], message[2], message[3])
      case "note":
        return this.onNote(message[1], message[2])
    }
  }

  private failure({ cause }: Exit.Failure<never, unknown>): SentExit {
    return encodeFailure(cause, this.form)
  }
}
