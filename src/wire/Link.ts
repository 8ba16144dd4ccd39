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
import { Clock, Context, type Cause, type Duration, Effect, Exit, type Fiber, Pull, type Scope, Stream } from "effect"
import { RequestContext } from "../core/RequestContext.ts"
import { ServeError } from "../core/ServeError.ts"
import * as Crossing from "./Crossing.ts"
import { type Elements, Inflow } from "./Inflow.ts"
import { encodeFailure, type Form, type MethodCodec, Misfit, type SentExit } from "./MethodCodec.ts"
import type { Message, Port } from "./Port.ts"
import type { SentSpan, Spans } from "./Spans.ts"

/** Bytes of the elements of a stream that may be on their way, or wait for their reader, where the port knows their sizes. */
const WINDOW_BYTES = 64 * 1024
/** Bytes of values that are not kept until the end of a turn, so that the other side can begin with them. */
const ENOUGH = 8 * 1024

/**
 * Where the elements of a stream come from: see `Relay`.
 *
 * @category models
 * @since 0.1.0
 */
interface Source {
  readonly pull: Pull.Pull<Elements, unknown>
  readonly attach: (sink: (elements: Elements) => Effect.Effect<void>) => void
}

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
  /** The same for a stream method whose elements come by a relay. */
  readonly open?: (payload: unknown) => Effect.Effect<Source, never, Scope.Scope>
  /** The same for a method that answers once, without a fiber, for calls that are not traced: see `Handle.Direct`. */
  readonly direct?: (
    payload: unknown,
    request: RequestContext,
    answer: (exit: Exit.Exit<unknown, unknown>) => void
  ) => Effect.Effect<void> | undefined
  /** Changes what is known of a request that arrives, or refuses it. */
  readonly admit?: (request: RequestContext) => RequestContext | ServeError
  /** Is told of failures. */
  readonly onFailure?: (cause: Cause.Cause<unknown>, request: RequestContext) => void
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
  readonly size: number
  onExit: (exit: Exit.Exit<unknown, unknown>) => void
  readonly onElements: (sent: unknown) => void
}

/** A call from the other side that is running here. */
interface Incoming {
  readonly size: number
  stop: (() => void) | undefined
  /** Elements that were sent and not taken yet, and their bytes. */
  ahead: number
  bytesAhead: number
  /** How many of them are likely to fit into one message. */
  fitting: number
  resume: (() => void) | undefined
}

const failed = Exit.fail as (error: unknown) => Exit.Failure<never, unknown>
const died = Exit.die as (error: unknown) => Exit.Failure<never, unknown>

export class Link {
  /** What the other side may call, by target. */
  readonly served = new Map<string, Served>()
  private readonly port: Port
  private readonly form: Form
  private readonly clock: Clock.Clock
  private readonly spans: Spans
  private readonly runner: Runner
  private readonly patience: Duration.Duration | undefined
  private readonly onNote: (name: string, value: unknown) => void
  private onIdle: (() => void) | undefined = undefined
  private readonly outgoing = new Map<number, Outgoing>()
  private readonly incoming = new Map<number, Incoming>()
  private outbox: Array<Message> = []
  private outboxSize = 0
  private lastId = 0
  private sizeOut = 0
  private sizeIn = 0
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
    this.clock = options.clock
    this.spans = options.spans
    this.runner = options.runner
    this.patience = options.patience
    this.onNote = options.onNote
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

  /** Waits until nothing runs here that the other side has called. */
  readonly idle: Effect.Effect<void> = Effect.callback((resume) => {
    if (this.incoming.size === 0) return resume(Effect.void)
    this.onIdle = () => resume(Effect.void)
  })

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
    for (const { stop } of this.incoming.values()) stop?.()
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
        const inflow = new Inflow((count, bytes) => this.send(["credit", id, count, bytes]))
        const onElements = (sent: unknown) => {
          try {
            inflow.add(codec.elements.decode(sent) as ReadonlyArray<unknown>, this.port.sizeOf(sent))
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
      if (message[0] === "exit" || message[0] === "elements") {
        this.incoming.get(message[1])?.stop?.()
        this.port.post([["exit", message[1], this.failure(exit)]])
      }
    }
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
        return this.incoming.get(message[1])?.stop?.()
      case "credit": {
        const call = this.incoming.get(message[1])
        if (call === undefined) return
        call.ahead = Math.max(call.ahead - message[2], 0)
        call.bytesAhead = Math.max(call.bytesAhead - message[3], 0)
        const { resume } = call
        call.resume = undefined
        return resume?.()
      }
      case "note":
        return this.onNote(message[1], message[2])
    }
  }

  private serve(id: number, target: string, sent: unknown, crossing: Crossing.Crossing): void {
    this.port.begin(id)
    const served = this.served.get(target)
    if (served === undefined)
      return this.send(["exit", id, this.failure(died(new Misfit(`Nothing is served as "${target}"`)))])
    if (this.incoming.has(id)) throw new Error(`There is a call ${id} already`)
    const arrived = Crossing.arrive(crossing, this.clock)
    const request = served.admit === undefined ? arrived : served.admit(arrived)
    if (request instanceof ServeError) return this.send(["exit", id, served.codec.encodeExit(Exit.fail(request))])
    const call: Incoming = {
      size: this.port.sizeOf(sent),
      stop: undefined,
      ahead: 0,
      bytesAhead: 0,
      fitting: 16,
      resume: undefined
    }
    let isOver = false
    const finish = (exit: Exit.Exit<unknown, unknown>) => {
      if (isOver) return
      isOver = true
      if (Exit.isFailure(exit)) served.onFailure?.(exit.cause, request)
      const ended = served.codec.encodeExit(exit)
      this.send(["exit", id, ended], this.port.sizeOf(ended[1]))
      if (!this.incoming.delete(id)) return
      this.carry(-call.size)
      if (this.incoming.size === 0) this.onIdle?.()
    }
    const stop =
      served.direct === undefined || crossing.span !== undefined
        ? this.fork(served, sent, request, crossing.span, id, call, finish)
        : this.direct(served, sent, request, finish)
    if (stop === undefined) return
    call.stop = stop
    this.incoming.set(id, call)
    this.carry(call.size)
  }

  /** Runs a call in a fiber. Returns what stops it, unless it has ended. */
  private fork(
    served: Served,
    sent: unknown,
    request: RequestContext,
    span: SentSpan | undefined,
    id: number,
    call: Incoming,
    finish: (exit: Exit.Exit<unknown, unknown>) => void
  ): (() => void) | undefined {
    const fiber = this.runner.fork(
      this.spans.under(Context.add(served.context, RequestContext, request), span),
      Effect.suspend(() => {
        const payload = served.codec.payload.decode(sent)
        const offer = (elements: Elements) => this.offer(id, call, served.codec, elements, 0)
        if (served.open !== undefined) return Effect.scoped(Effect.flatMap(served.open(payload), pour(offer)))
        const work = served.run(payload)
        return Stream.isStream(work) ? Stream.runForEachArray(work, offer) : work
      })
    )
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return void finish(exit)
    this.runner.whenEnded(fiber, finish)
    return () => fiber.interruptUnsafe()
  }

  /** The same without a fiber. */
  private direct(
    served: Served,
    sent: unknown,
    request: RequestContext,
    finish: (exit: Exit.Exit<unknown, unknown>) => void
  ): (() => void) | undefined {
    let payload: unknown
    try {
      payload = served.codec.payload.decode(sent)
    } catch (mismatch) {
      return void finish(Exit.die(mismatch))
    }
    const cancel = served.direct!(payload, request, finish)
    if (cancel === undefined) return undefined
    return () => Effect.runForkWith(served.context)(cancel).addObserver(() => finish(Exit.interrupt()))
  }

  private failure({ cause }: Exit.Failure<never, unknown>): SentExit {
    return encodeFailure(cause, this.form)
  }

  private carry(bytes: number): void {
    if (bytes === 0) return
    this.sizeIn += bytes
    this.port.carry(this.sizeIn)
  }

  /** Sends elements, as many as the reader and the port let come, and waits for them with the rest. */
  private offer(id: number, call: Incoming, codec: MethodCodec, elements: Elements, from: number): Effect.Effect<void> {
    let next = from
    while (next < elements.length && this.maySend(call)) next += this.sendSome(id, call, codec, elements, next)
    if (next === elements.length && this.maySend(call)) return Effect.void
    return Effect.callback<void>((resume) => {
      call.resume = () => resume(this.offer(id, call, codec, elements, next))
      if (!this.port.isFull()) return
      this.port.whenRoom(() => {
        const { resume } = call
        call.resume = undefined
        resume?.()
      })
    })
  }

  private maySend({ ahead, bytesAhead }: Incoming): boolean {
    return ahead < this.port.window && bytesAhead < WINDOW_BYTES && !this.port.isFull()
  }

  /** Sends as many elements as there is room for, of which only the sizes of those before tell how many that is. */
  private sendSome(id: number, call: Incoming, codec: MethodCodec, elements: Elements, from: number): number {
    let count = Math.min(elements.length - from, this.port.window - call.ahead, call.fitting, codec.elements.most)
    let sent = codec.elements.encode(elements.slice(from, from + count))
    let size = this.port.sizeOf(sent)
    while (size > WINDOW_BYTES && count > 1) {
      count = Math.ceil(count / 4)
      sent = codec.elements.encode(elements.slice(from, from + count))
      size = this.port.sizeOf(sent)
    }
    call.ahead += count
    call.bytesAhead += size
    call.fitting = Math.max(Math.floor((count * WINDOW_BYTES) / (2 * size)), 1)
    this.send(["elements", id, sent], size)
    return count
  }
}

/** Ends well with what ends a stream well. */
const untilDone = (pulling: Effect.Effect<never, unknown>): Effect.Effect<void, unknown> =>
  Effect.catchCause(pulling, (cause) => (Pull.isDoneCause(cause) ? Effect.void : Effect.failCause(cause)))

/** Gives the elements of a source to `sink`: the first ones, and then all that come. */
const pour = (sink: (elements: Elements) => Effect.Effect<void>) => (source: Source) =>
  untilDone(
    Effect.flatMap(source.pull, (first) => {
      source.attach(sink)
      const rest = Effect.forever(Effect.flatMap(source.pull, sink), { disableYield: true })
      return Effect.andThen(sink(first), rest)
    })
  )
