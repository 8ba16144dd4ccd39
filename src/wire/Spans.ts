/**
 * Traces that span threads: a span that is opened in a replica's thread belongs to the trace of its caller, and the tracer of the
 * app gets it.
 *
 * A thread can't use the app's tracer, so its spans send word when they begin and end, and the app opens and closes one for each of
 * them. Only requests that are traced pay for this.
 *
 * @since 0.1.0
 */
import { Cause, Context, Exit, type Fiber, Formatter, Option, Tracer } from "effect"

/**
 * A span as it is sent.
 *
 * @category models
 * @since 0.1.0
 */
export interface SentSpan {
  readonly traceId: string
  readonly spanId: string
  readonly sampled: boolean
}

/**
 * What a link does about traces.
 *
 * @category models
 * @since 0.1.0
 */
export interface Spans {
  /** The span in which a call leaves, if it is traced. */
  readonly leave: (fiber: Fiber.Fiber<unknown, unknown>) => SentSpan | undefined
  /** That call has ended. */
  readonly back: (span: SentSpan | undefined) => void
  /** Adds what a call that arrives in `span` needs to be traced. */
  readonly under: (context: Context.Context<never>, span: SentSpan | undefined) => Context.Context<never>
}

/** A span of a thread, when it begins. */
interface Opened {
  readonly spanId: string
  readonly name: string
  readonly parent: SentSpan | undefined
  readonly startTime: bigint
  readonly kind: Tracer.SpanKind
  readonly sampled: boolean
}

/** The same span, when it ends. */
interface Closed {
  readonly spanId: string
  readonly endTime: bigint
  readonly attributes: ReadonlyMap<string, unknown>
  readonly events: ReadonlyArray<readonly [name: string, time: bigint, attributes: Record<string, unknown>]>
  /** What it failed with, in words. */
  readonly failure: string | undefined
}

/**
 * What threads tell of their spans.
 *
 * @category models
 * @since 0.1.0
 */
export type SpanNote = readonly ["opened", Opened] | readonly ["closed", Closed]

const toSent = ({ sampled, spanId, traceId }: Tracer.AnySpan): SentSpan => ({ traceId, spanId, sampled })

const spanOf = ({ cache: { span, tracerEnabled } }: Fiber.Fiber<unknown, unknown>) =>
  tracerEnabled && span?.sampled === true ? span : undefined

/** Also one that is not sampled, or the other side would begin a trace of its own. */
const anySpanOf: Spans["leave"] = ({ cache: { span, tracerEnabled } }) =>
  tracerEnabled && span !== undefined ? toSent(span) : undefined

/** The side of a thread: `tell` sends a note to the app. */
export const ofThread = (tell: (note: SpanNote) => void): Spans => {
  const tracer = Tracer.make({ span: (options) => new ToldSpan(options, tell) })
  return {
    leave: anySpanOf,
    back: () => {},
    under: (context, span) =>
      span === undefined
        ? context
        : context.pipe(Context.add(Tracer.Tracer, tracer), Context.add(Tracer.ParentSpan, Tracer.externalSpan(span)))
  }
}

/** Between two processes, each of which has a tracer: spans of one have parents in the other, and both collect their own. */
export const ofPeer: Spans = {
  leave: anySpanOf,
  back: () => {},
  under: (context, span) =>
    span === undefined ? context : Context.add(context, Tracer.ParentSpan, Tracer.externalSpan(span))
}

/**
 * Lets traces pass a thread that stands between others and has no spans of its own: what leaves it is in the span in which it came.
 */
export const passing: Spans["under"] = (context, span) =>
  span === undefined
    ? context
    : context.pipe(Context.add(Tracer.Tracer, passingTracer), Context.add(Tracer.ParentSpan, Tracer.externalSpan(span)))

class PassingSpan extends Tracer.NativeSpan {
  override get spanId(): string {
    return Option.isSome(this.parent) ? this.parent.value.spanId : super.spanId
  }
}

const passingTracer = Tracer.make({ span: (options) => new PassingSpan(options) })

class ToldSpan extends Tracer.NativeSpan {
  private readonly tell: (note: SpanNote) => void

  constructor(options: ConstructorParameters<typeof Tracer.NativeSpan>[0], tell: (note: SpanNote) => void) {
    super(options)
    this.tell = tell
    const { kind, name, sampled, spanId, startTime } = this
    const parent = Option.getOrUndefined(this.parent)
    if (!sampled) return
    tell(["opened", { spanId, name, startTime, kind, sampled, parent: parent && toSent(parent) }])
  }

  override end(endTime: bigint, exit: Exit.Exit<unknown, unknown>): void {
    super.end(endTime, exit)
    if (!this.sampled) return
    const { events, spanId } = this
    const attributes = new Map(Array.from(this.attributes, ([key, value]) => [key, plain(value)]))
    const failure = Exit.isFailure(exit) ? Cause.pretty(exit.cause) : undefined
    this.tell(["closed", { spanId, endTime, attributes, events, failure }])
  }
}

const plain = (value: unknown): unknown =>
  typeof value === "object" || typeof value === "function" ? Formatter.format(value) : value

interface Live {
  readonly span: Tracer.AnySpan
  readonly tracer: Tracer.Tracer
}

/** The side of the app, whose tracer it is if it has one, with what it does when a note arrives. */
export const ofApp = (tracer: Tracer.Tracer | undefined): Spans & { readonly told: (note: SpanNote) => void } => {
  const calls = new Map<string, Live & { count: number }>()
  const spans = new Map<string, Live & { readonly span: Tracer.Span }>()
  const find = (spanId: string): Live | undefined => spans.get(spanId) ?? calls.get(spanId)
  // A thread that takes requests from outside has spans whose parents are not of this app.
  const parentOf = ({ parent }: Opened): Live | undefined =>
    parent && (find(parent.spanId) ?? (tracer && { span: Tracer.externalSpan(parent), tracer }))
  return {
    leave: (fiber) => {
      const span = spanOf(fiber)
      if (span === undefined) return undefined
      const before = calls.get(span.spanId)
      if (before === undefined) calls.set(span.spanId, { span, tracer: fiber.getRef(Tracer.Tracer), count: 1 })
      else before.count++
      return toSent(span)
    },
    back: (span) => {
      const call = span && calls.get(span.spanId)
      if (call && --call.count === 0) calls.delete(span.spanId)
    },
    under: (context, sent) => {
      if (sent === undefined) return context
      const live = find(sent.spanId)
      return live === undefined
        ? Context.add(context, Tracer.ParentSpan, Tracer.externalSpan(sent))
        : context.pipe(Context.add(Tracer.Tracer, live.tracer), Context.add(Tracer.ParentSpan, live.span))
    },
    told: ([what, note]) => {
      if (what === "opened") {
        const parent = parentOf(note)
        if (parent === undefined) return
        const { kind, name, sampled, spanId, startTime } = note
        const span = parent.tracer.span({
          name,
          startTime,
          kind,
          sampled,
          links: [],
          root: false,
          parent: Option.some(parent.span),
          annotations: Context.empty()
        })
        spans.set(spanId, { span, tracer: parent.tracer })
        return
      }
      const live = spans.get(note.spanId)
      if (live === undefined) return
      spans.delete(note.spanId)
      for (const [key, value] of note.attributes) live.span.attribute(key, value)
      for (const [name, time, attributes] of note.events) live.span.event(name, time, attributes)
      live.span.end(note.endTime, note.failure === undefined ? Exit.void : Exit.die(new Error(note.failure)))
    }
  }
}
