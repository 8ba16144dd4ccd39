/**
 * The side of a link that is called: it runs what the other side asks for, and sends elements no faster than they are taken.
 *
 * @since 0.1.0
 */
import { type Cause, type Clock, Context, Effect, Exit, type Fiber, type Pull, type Scope, Stream } from "effect"
import { RequestContext } from "../core/RequestContext.ts"
import { ServeError } from "../core/ServeError.ts"
import * as Crossing from "./Crossing.ts"
import { type Elements, untilDone } from "./Inflow.ts"
import { asRefusal, type MethodCodec } from "./MethodCodec.ts"
import type { Message, Port } from "./Port.ts"
import type { SentSpan, Spans } from "./Spans.ts"

/** Bytes of the elements of a stream that may be on their way, or wait for their reader, where the port knows their sizes. */
export const WINDOW_BYTES = 64 * 1024

/**
 * Where the elements of a stream come from: see `Relay`.
 *
 * @category models
 * @since 0.1.0
 */
interface Source {
  /** Whether the call has ended before it began. */
  readonly isUnbegun: boolean
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
    answer: (exit: Exit.Exit<unknown, unknown>, begun: boolean) => void
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

export class Serving {
  private readonly port: Port
  private readonly clock: Clock.Clock
  private readonly spans: Spans
  private readonly runner: Runner
  private readonly send: (message: Message, size: number) => void
  private readonly calls = new Map<number, Incoming>()
  private size = 0
  private onIdle: (() => void) | undefined = undefined

  /** `send` sends a message that has a value of `size` bytes. */
  constructor(options: {
    readonly port: Port
    readonly clock: Clock.Clock
    readonly spans: Spans
    readonly runner: Runner
    readonly send: (message: Message, size: number) => void
  }) {
    this.port = options.port
    this.clock = options.clock
    this.spans = options.spans
    this.runner = options.runner
    this.send = options.send
  }

  /** Waits until nothing runs. */
  readonly idle: Effect.Effect<void> = Effect.callback((resume) => {
    if (this.calls.size === 0) return resume(Effect.void)
    this.onIdle = () => resume(Effect.void)
  })

  stop(id: number): void {
    this.calls.get(id)?.stop?.()
  }

  stopAll(): void {
    for (const { stop } of this.calls.values()) stop?.()
  }

  /** The other side has taken elements, of so many bytes. */
  credit(id: number, elements: number, bytes: number): void {
    const call = this.calls.get(id)
    if (call === undefined) return
    call.ahead = Math.max(call.ahead - elements, 0)
    call.bytesAhead = Math.max(call.bytesAhead - bytes, 0)
    const { resume } = call
    call.resume = undefined
    resume?.()
  }

  /** Begins a call, or answers why not. */
  begin(id: number, served: Served, sent: unknown, crossing: Crossing.Crossing): void {
    if (this.calls.has(id)) throw new Error(`There is a call ${id} already`)
    const arrived = Crossing.arrive(crossing, this.clock)
    const request = served.admit === undefined ? arrived : served.admit(arrived)
    if (request instanceof ServeError)
      return this.send(["exit", id, asRefusal(served.codec.encodeExit(Exit.fail(request)))], 0)
    const call: Incoming = {
      size: this.port.sizeOf(sent),
      stop: undefined,
      ahead: 0,
      bytesAhead: 0,
      fitting: 16,
      resume: undefined
    }
    let isOver = false
    const finish = (exit: Exit.Exit<unknown, unknown>, begun: boolean) => {
      if (isOver) return
      isOver = true
      if (Exit.isFailure(exit)) served.onFailure?.(exit.cause, request)
      const encoded = served.codec.encodeExit(exit)
      const ended = begun ? encoded : asRefusal(encoded)
      this.send(["exit", id, ended], this.port.sizeOf(ended[1]))
      if (!this.calls.delete(id)) return
      this.carry(-call.size)
      if (this.calls.size === 0) this.onIdle?.()
    }
    const stop =
      served.direct === undefined || crossing.span !== undefined
        ? this.fork(served, sent, request, crossing.span, id, call, finish)
        : this.direct(served, sent, request, finish)
    if (stop === undefined) return
    call.stop = stop
    this.calls.set(id, call)
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
    finish: (exit: Exit.Exit<unknown, unknown>, begun: boolean) => void
  ): (() => void) | undefined {
    let source: Source | undefined
    const fiber = this.runner.fork(
      this.spans.under(Context.add(served.context, RequestContext, request), span),
      Effect.suspend(() => {
        const payload = served.codec.payload.decode(sent)
        const offer = (elements: Elements) => this.offer(id, call, served.codec, elements, 0)
        if (served.open !== undefined) {
          const opened = Effect.tap(served.open(payload), (opened) => Effect.sync(() => (source = opened)))
          return Effect.scoped(Effect.flatMap(opened, pour(offer)))
        }
        const work = served.run(payload)
        return Stream.isStream(work) ? Stream.runForEachArray(work, offer) : work
      })
    )
    const ended = (exit: Exit.Exit<unknown, unknown>) => finish(exit, source?.isUnbegun !== true)
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) {
      ended(exit)
      return undefined
    }
    this.runner.whenEnded(fiber, ended)
    return () => fiber.interruptUnsafe()
  }

  /** The same without a fiber. */
  private direct(
    served: Served,
    sent: unknown,
    request: RequestContext,
    finish: (exit: Exit.Exit<unknown, unknown>, begun: boolean) => void
  ): (() => void) | undefined {
    let payload: unknown
    try {
      payload = served.codec.payload.decode(sent)
    } catch (mismatch) {
      finish(Exit.die(mismatch), true)
      return undefined
    }
    const cancel = served.direct!(payload, request, finish)
    if (cancel === undefined) return undefined
    return () => Effect.runForkWith(served.context)(cancel).addObserver(() => finish(Exit.interrupt(), true))
  }

  private carry(bytes: number): void {
    if (bytes === 0) return
    this.size += bytes
    this.port.carry(this.size)
  }

  /** Sends elements, as many as the reader and the port let come, and waits for them with the rest. */
  private offer(id: number, call: Incoming, codec: MethodCodec, elements: Elements, from: number): Effect.Effect<void> {
    let next = from
    while (next < elements.length && this.maySend(call)) next += this.sendSome(id, call, codec, elements, next)
    if (next === elements.length && this.maySend(call)) return Effect.void
    return Effect.callback<void>((resume) => {
      // In the fiber of the work, which is the one to die of an element that is not of its type.
      call.resume = () => resume(Effect.suspend(() => this.offer(id, call, codec, elements, next)))
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
    if (count === 1 && codec.elements.most > 1) return this.sendOne(id, call, codec, elements[from])
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

  /** The same for one, without what it costs that there may be several. */
  private sendOne(id: number, call: Incoming, codec: MethodCodec, element: unknown): number {
    const sent = codec.element.encode(element)
    const size = this.port.sizeOf(sent)
    call.ahead++
    call.bytesAhead += size
    this.send(["element", id, sent], size)
    return 1
  }
}

/** Gives the elements of a source to `sink`: the first ones, and then all that come. */
const pour = (sink: (elements: Elements) => Effect.Effect<void>) => (source: Source) =>
  untilDone(
    Effect.flatMap(source.pull, (first) => {
      source.attach(sink)
      const rest = Effect.forever(Effect.flatMap(source.pull, sink), { disableYield: true })
      return Effect.andThen(sink(first), rest)
    })
  )
