/**
 * Calls between two threads, both ways, over a `MessagePort`.
 *
 * Either side serves methods and calls those of the other: an app calls the handlers in a replica's thread, and these call other
 * deployments through the app. A call ends when its work has ended over there: whoever is interrupted waits for it. Messages of
 * one turn travel together. A stream is sent ahead of its reader by at most {@link WINDOW} elements, then its producer waits.
 *
 * @since 0.1.0
 */
import { Cause, Clock, Context, Effect, Exit, type Fiber, Pull, Stream } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import { type MessagePort, receiveMessageOnPort } from "node:worker_threads"
import { RequestContext } from "../core/RequestContext.ts"
import * as Crossing from "./Crossing.ts"
import { encodeDefect, type MethodCodec, type SentExit } from "./MethodCodec.ts"
import type { SentSpan, Spans } from "./Spans.ts"

/** Elements of a stream that may be on their way, or wait for their reader. */
export const WINDOW = 16

type Message =
  | readonly ["call", id: number, target: string, payload: unknown, crossing: Crossing.Crossing]
  | readonly ["exit", id: number, exit: SentExit]
  | readonly ["cancel", id: number]
  | readonly ["elements", id: number, elements: ReadonlyArray<unknown>]
  | readonly ["credit", id: number, elements: number]
  | readonly ["note", name: string, value: unknown]

/**
 * A method that the other side may call, and the services in which it runs.
 *
 * @category models
 * @since 0.1.0
 */
export interface Served {
  readonly codec: MethodCodec
  readonly run: (payload: unknown) => Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown>
  readonly context: Context.Context<never>
}

/**
 * Memory that both sides share: the id of the last call that each has begun. Calls arrive in order, so all before it have begun too.
 *
 * @category models
 * @since 0.1.0
 */
export interface Begun {
  readonly here: Int32Array
  readonly there: Int32Array
}

/**
 * Starts the work of calls, at once, and tells when work that waits for something has ended.
 *
 * @category models
 * @since 0.1.0
 */
export interface Runner {
  readonly fork: <A, E>(context: Context.Context<never>, work: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  readonly whenEnded: <A, E>(fiber: Fiber.Fiber<A, E>, onEnd: (exit: Exit.Exit<A, E>) => void) => void
}

/** Does no more than that. */
export const runner: Runner = {
  fork: (context, work) => Effect.runForkWith(context)(work),
  whenEnded: (fiber, onEnd) => fiber.addObserver(onEnd)
}

/** A call to the other side. */
interface Outgoing {
  readonly codec: MethodCodec
  readonly span: SentSpan | undefined
  onExit: (exit: Exit.Exit<unknown, unknown>) => void
  readonly onElements: (elements: ReadonlyArray<unknown>) => void
}

/** A call from the other side that is running here. */
interface Incoming {
  fiber: Fiber.Fiber<unknown, unknown> | undefined
  /** Elements that were sent and not taken yet. */
  ahead: number
  resume: (() => void) | undefined
}

type Elements = NonEmptyReadonlyArray<unknown>

export class Link {
  /** What the other side may call, by target. */
  readonly served = new Map<string, Served>()
  private readonly port: MessagePort
  private readonly clock: Clock.Clock
  private readonly spans: Spans
  private readonly begun: Begun
  private readonly runner: Runner
  private readonly onNote: (name: string, value: unknown) => void
  private onIdle: (() => void) | undefined = undefined
  private readonly outgoing = new Map<number, Outgoing>()
  private readonly incoming = new Map<number, Incoming>()
  private outbox: Array<Message> = []
  private lastId = 0
  private lost: ((begun: boolean) => Exit.Exit<never, unknown>) | undefined = undefined

  /**
   * `onNote` gets what the other side sends with {@link Link.note}. `runner` starts what the other side calls.
   */
  constructor(options: {
    readonly port: MessagePort
    readonly clock: Clock.Clock
    readonly spans: Spans
    readonly begun: Begun
    readonly runner: Runner
    readonly onNote: (name: string, value: unknown) => void
  }) {
    this.port = options.port
    this.clock = options.clock
    this.spans = options.spans
    this.begun = options.begun
    this.runner = options.runner
    this.onNote = options.onNote
    this.port.on("message", this.receiveAll)
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

  /** Takes what has arrived at once, and not when this loop comes to it. */
  drain(): void {
    for (let next = receiveMessageOnPort(this.port); next !== undefined; next = receiveMessageOnPort(this.port)) {
      this.receiveAll(next.message)
    }
  }

  /** Waits until nothing runs here that the other side has called. */
  readonly idle: Effect.Effect<void> = Effect.callback((resume) => {
    if (this.incoming.size === 0) return resume(Effect.void)
    this.onIdle = () => resume(Effect.void)
  })

  /**
   * Sees to it that all ends with the thread of the other side: `onClose` is called, calls to it end with what its result makes of
   * whether they had begun, and calls from it are interrupted.
   */
  closeWithPeer(onClose: () => (begun: boolean) => Exit.Exit<never, unknown>): void {
    this.port.on("close", () => this.close(onClose()))
  }

  private close(lost: (begun: boolean) => Exit.Exit<never, unknown>): void {
    this.lost = lost
    this.outbox = []
    const last = Atomics.load(this.begun.there, 0)
    for (const id of Array.from(this.outgoing.keys())) this.end(id, lost(((last - id) | 0) >= 0))
    for (const { fiber } of this.incoming.values()) fiber?.interruptUnsafe()
  }

  private call(target: string, codec: MethodCodec, payload: unknown): Effect.Effect<unknown, unknown> {
    return Effect.withFiber((fiber) =>
      Effect.callback<unknown, unknown>((resume) => {
        const id = this.begin(fiber, target, codec, payload, resume, () => {})
        return Effect.suspend(() => this.cancel(id))
      })
    )
  }

  private stream(target: string, codec: MethodCodec, payload: unknown): Stream.Stream<unknown, unknown> {
    const open = Effect.withFiber((fiber) =>
      Effect.sync(() => {
        const inflow = new Inflow((count) => this.send(["credit", id, count]))
        const onElements = (elements: ReadonlyArray<unknown>) => {
          try {
            inflow.add(elements.map(codec.success.decode))
          } catch (mismatch) {
            inflow.end(Exit.die(mismatch))
            this.send(["cancel", id])
          }
        }
        const id: number = this.begin(fiber, target, codec, payload, (exit) => inflow.end(exit), onElements)
        return { id, inflow }
      })
    )
    return Stream.unwrap(
      Effect.map(
        Effect.acquireRelease(open, ({ id }) => this.cancel(id)),
        ({ inflow }) => Stream.fromPull(Effect.succeed(inflow.pull))
      )
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
    this.outgoing.set(id, { codec, span, onExit, onElements })
    this.send(["call", id, target, sent, Crossing.leave(fiber, span)])
    return id
  }

  /** Stops a call and waits until it has. */
  private cancel(id: number): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const call = this.outgoing.get(id)
      if (call === undefined) return resume(Effect.void)
      call.onExit = () => resume(Effect.void)
      this.send(["cancel", id])
    })
  }

  private end(id: number, exit: Exit.Exit<unknown, unknown>): void {
    const call = this.outgoing.get(id)!
    this.outgoing.delete(id)
    this.spans.back(call.span)
    call.onExit(exit)
  }

  private send(message: Message): void {
    if (this.lost !== undefined) return
    this.outbox.push(message)
    if (this.outbox.length === 1) queueMicrotask(() => this.flush())
  }

  private flush(): void {
    const messages = this.outbox
    this.outbox = []
    if (messages.length === 0) return
    try {
      this.port.postMessage(messages)
    } catch {
      for (const message of messages) this.sendAlone(message)
    }
  }

  /** Sends a message that may not be clonable, as one whose schema lets anything pass; then its call ends. */
  private sendAlone(message: Message): void {
    try {
      this.port.postMessage([message])
    } catch (error) {
      const why = new Error(`A value can't be sent to another thread: ${String(error)}`)
      if (message[0] === "call") return this.end(message[1], Exit.die(why))
      if (message[0] === "exit" || message[0] === "elements") {
        const exit: Message = ["exit", message[1], encodeDefect(why)]
        this.incoming.get(message[1])?.fiber?.interruptUnsafe()
        this.port.postMessage([exit])
      }
    }
  }

  private readonly receiveAll = (messages: ReadonlyArray<Message>): void => {
    for (const message of messages) this.receive(message)
  }

  private receive(message: Message): void {
    switch (message[0]) {
      case "call":
        return this.serve(message[1], message[2], message[3], message[4])
      case "exit": {
        const call = this.outgoing.get(message[1])
        if (call !== undefined) this.end(message[1], call.codec.decodeExit(message[2]))
        return
      }
      case "elements":
        return this.outgoing.get(message[1])?.onElements(message[2])
      case "cancel":
        return this.incoming.get(message[1])?.fiber?.interruptUnsafe()
      case "credit": {
        const call = this.incoming.get(message[1])
        if (call === undefined) return
        call.ahead -= message[2]
        const { resume } = call
        call.resume = undefined
        return resume?.()
      }
      case "note":
        return this.onNote(message[1], message[2])
    }
  }

  private serve(id: number, target: string, sent: unknown, crossing: Crossing.Crossing): void {
    Atomics.store(this.begun.here, 0, id)
    const served = this.served.get(target)
    if (served === undefined)
      return this.send(["exit", id, encodeDefect(new Error(`Nothing is served as "${target}"`))])
    const call: Incoming = { fiber: undefined, ahead: 0, resume: undefined }
    const request = Context.add(served.context, RequestContext, Crossing.arrive(crossing, this.clock))
    const fiber = this.runner.fork(
      this.spans.under(request, crossing.span),
      Effect.suspend(() => {
        const work = served.run(served.codec.payload.decode(sent))
        return Stream.isStream(work)
          ? Stream.runForEachArray(work, (elements) => this.offer(id, call, served.codec, elements, 0))
          : work
      })
    )
    const finish = (exit: Exit.Exit<unknown, unknown>) => {
      this.incoming.delete(id)
      this.send(["exit", id, served.codec.encodeExit(exit)])
      if (this.incoming.size === 0) this.onIdle?.()
    }
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return finish(exit)
    call.fiber = fiber
    this.incoming.set(id, call)
    this.runner.whenEnded(fiber, finish)
  }

  /** Sends elements, as many as the reader lets come, and waits for it with the rest. */
  private offer(id: number, call: Incoming, codec: MethodCodec, elements: Elements, from: number): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      const count = Math.min(elements.length - from, WINDOW - call.ahead)
      if (count > 0) {
        this.send(["elements", id, elements.slice(from, from + count).map(codec.success.encode)])
        call.ahead += count
      }
      const rest = from + count
      if (rest === elements.length && call.ahead < WINDOW) return resume(Effect.void)
      call.resume = () => resume(rest === elements.length ? Effect.void : this.offer(id, call, codec, elements, rest))
    })
  }
}

/** The elements of a stream that have arrived and not been taken. */
class Inflow {
  private elements: Array<unknown> = []
  private ended: Exit.Exit<never, unknown> | undefined = undefined
  private reader: ((effect: Effect.Effect<Elements, unknown>) => void) | undefined = undefined
  private readonly onTaken: (count: number) => void

  constructor(onTaken: (count: number) => void) {
    this.onTaken = onTaken
  }

  add(elements: ReadonlyArray<unknown>): void {
    this.elements.push(...elements)
    this.tell()
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

  private tell(): void {
    const { elements, reader } = this
    if (reader === undefined || (elements.length === 0 && this.ended === undefined)) return
    this.reader = undefined
    if (elements.length === 0) return reader(this.ended!)
    this.elements = []
    this.onTaken(elements.length)
    reader(Effect.succeed(elements as unknown as Elements))
  }
}
