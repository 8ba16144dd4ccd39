/**
 * The item of one caller on its way through a batcher.
 *
 * @since 0.1.0
 */
import { Context, type Exit, type Fiber, Option, Tracer } from "effect"
import { RequestContext } from "../core/RequestContext.ts"
import type { Entry, Group } from "./BatchQueue.ts"

/**
 * The trace of a caller.
 *
 * @category models
 * @since 0.1.0
 */
export interface Trace {
  readonly tracer: Tracer.Tracer | undefined
  readonly span: Tracer.AnySpan
}

/**
 * Where an item comes from.
 *
 * @category models
 * @since 0.1.0
 */
export interface Origin {
  readonly request: RequestContext
  readonly trace: Trace | undefined
}

/**
 * The item of one caller, and how to answer it.
 *
 * @category models
 * @since 0.1.0
 */
export class Ticket<A> implements Entry<A, Ticket<A>> {
  turn = 0
  spot = 0
  group: Group<Ticket<A>> | undefined = undefined
  batch: Running<A> | undefined = undefined
  hasLeft = false
  /** What the caller is told when its batch has given its slot to the next one. */
  outcome: Exit.Exit<unknown, unknown> | undefined = undefined
  private isAnswered = false

  readonly value: A
  readonly arrivedAt: number
  readonly deadline: number
  readonly request: RequestContext
  readonly trace: Trace | undefined
  private readonly onAnswer: (exit: Exit.Exit<any, any>) => void

  constructor(value: A, now: number, origin: Origin, onAnswer: (exit: Exit.Exit<any, any>) => void) {
    this.value = value
    this.arrivedAt = now
    this.request = origin.request
    this.deadline = origin.request.deadline
    this.trace = origin.trace
    this.onAnswer = onAnswer
  }

  /** Whether someone waits for the outcome. */
  get isLive(): boolean {
    return !this.isAnswered && !this.hasLeft
  }

  /** Tells the caller the outcome; only the first one counts. */
  answer(exit: Exit.Exit<unknown, unknown>): void {
    if (!this.isLive) return
    this.isAnswered = true
    this.onAnswer(exit)
  }
}

/**
 * A batch that runs.
 *
 * @category models
 * @since 0.1.0
 */
export interface Running<A> {
  readonly tickets: ReadonlyArray<Ticket<A>>
  readonly startedAt: number
  fiber: Fiber.Fiber<boolean, unknown> | undefined
}

/** The origin of an item that a fiber sends. */
export const originOf = (caller: Fiber.Fiber<unknown, unknown>): Origin => {
  const { span, tracer, tracerEnabled } = caller.cache
  return {
    request: caller.getRef(RequestContext),
    trace: tracerEnabled && span?.sampled === true ? { tracer, span } : undefined
  }
}

/** The origin of an item that comes with a context. */
export const originIn = (context: Context.Context<never>): Origin => {
  const span = Option.getOrUndefined(Context.getOption(context, Tracer.ParentSpan))
  const tracer = Option.getOrUndefined(Context.getOption(context, Tracer.Tracer))
  return { request: Context.get(context, RequestContext), trace: span?.sampled === true ? { tracer, span } : undefined }
}
