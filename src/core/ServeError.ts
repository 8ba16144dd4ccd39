/**
 * The one error of the runtime: every way in which a request can fail for a reason that is not its handler's.
 *
 * A caller gets `ServeError` beside the declared errors of the method and handles one reason with
 * `Effect.catchReason("ServeError", "QueueFull", (reason) => ...)`. Every class here is a schema, so the same error
 * crosses threads and HTTP.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"

/**
 * The deployment has as many requests running and waiting as it may; this one was refused without waiting.
 *
 * @category reasons
 * @since 0.1.0
 */
export class QueueFull extends Schema.TaggedError<QueueFull>("effect-serve/ServeError/QueueFull")("QueueFull", {
  deployment: Schema.String,
  /** Requests running now, on all replicas. */
  ongoing: Schema.Int,
  /** Most requests that may run at once, on all replicas; `Infinity` where that is not decided here (`toLayerRemote`). */
  maxOngoingRequests: Schema.Number,
  /** Requests waiting now. */
  queued: Schema.Int,
  /** Most requests that may wait; `0` never queues. */
  maxQueuedRequests: Schema.Number,
  /** When a new attempt is likely to be admitted; milliseconds when encoded. */
  retryAfter: Schema.DurationFromMillis
}) {
  override get message(): string {
    return (
      `Deployment "${this.deployment}" is full: ${this.ongoing} of ${this.maxOngoingRequests} requests running, ` +
      `${this.queued} of ${this.maxQueuedRequests} waiting. ` +
      `Try again later, add replicas, or raise maxOngoingRequests or maxQueuedRequests.`
    )
  }
}

/**
 * The request was dropped to keep the service useful under overload.
 *
 * @category reasons
 * @since 0.1.0
 */
export class Shed extends Schema.TaggedError<Shed>("effect-serve/ServeError/Shed")("Shed", {
  deployment: Schema.String,
  /** What was overloaded. */
  why: Schema.String,
  /** When a new attempt is likely to be admitted; milliseconds when encoded. */
  retryAfter: Schema.DurationFromMillis
}) {
  override get message(): string {
    return `Deployment "${this.deployment}" dropped the request under overload: ${this.why}. Try again later.`
  }
}

/**
 * How far a request had come when its deadline passed.
 *
 * @category models
 * @since 0.1.0
 */
export const Stage = Schema.Literals(["admission", "queue", "batch", "handler", "stream"])

/**
 * The deadline passed before the request was done, or it was clear beforehand that it would.
 *
 * @category reasons
 * @since 0.1.0
 */
export class DeadlineExceeded extends Schema.TaggedError<DeadlineExceeded>("effect-serve/ServeError/DeadlineExceeded")(
  "DeadlineExceeded",
  {
    deployment: Schema.String,
    stage: Stage,
    /** When a new attempt is likely to be in time, if it was too much load that made this one too late; milliseconds when encoded. */
    retryAfter: Schema.optionalKey(Schema.DurationFromMillis)
  }
) {
  override get message(): string {
    return (
      `The deadline of a request to deployment "${this.deployment}" passed or can't be met, stage: ${this.stage}. ` +
      `Give it a longer timeout, or the deployment more replicas.`
    )
  }
}

/**
 * The replica that had the request stopped before the request was done.
 *
 * @category reasons
 * @since 0.1.0
 */
export class ReplicaLost extends Schema.TaggedError<ReplicaLost>("effect-serve/ServeError/ReplicaLost")("ReplicaLost", {
  replica: Schema.String,
  /** Whether the handler had started: if not, the request is safe to send again. */
  started: Schema.Boolean
}) {
  override get message(): string {
    return `Replica "${this.replica}" stopped ${this.started ? "while it ran the request" : "before it ran the request"}`
  }
}

/**
 * The deployment takes no requests now.
 *
 * @category reasons
 * @since 0.1.0
 */
export class Unavailable extends Schema.TaggedError<Unavailable>("effect-serve/ServeError/Unavailable")("Unavailable", {
  deployment: Schema.String,
  why: Schema.Literals(["draining", "noReplicas", "failed"]),
  /** When a new attempt may find it available; milliseconds when encoded. */
  retryAfter: Schema.optionalKey(Schema.DurationFromMillis)
}) {
  override get message(): string {
    return `Deployment "${this.deployment}" is unavailable: ${this.why}`
  }
}

/**
 * The `run` function of a batch returned a different number of results than it was given items.
 *
 * @category reasons
 * @since 0.1.0
 */
export class BatchContract extends Schema.TaggedError<BatchContract>("effect-serve/ServeError/BatchContract")(
  "BatchContract",
  {
    expected: Schema.Int,
    received: Schema.Int
  }
) {
  override get message(): string {
    return `A batch of ${this.expected} items got ${this.received} results: run must return one result per item, in order`
  }
}

/**
 * An item is larger than a whole batch may be.
 *
 * @category reasons
 * @since 0.1.0
 */
export class ItemTooLarge extends Schema.TaggedError<ItemTooLarge>("effect-serve/ServeError/ItemTooLarge")(
  "ItemTooLarge",
  {
    /** The size of the item alone. */
    size: Schema.Number,
    maxBatchSize: Schema.Number
  }
) {
  override get message(): string {
    return `An item has size ${this.size}, and a batch may have ${this.maxBatchSize}. Send a smaller one, or raise maxBatchSize.`
  }
}

/**
 * The worker thread that ran the task ended.
 *
 * @category reasons
 * @since 0.1.0
 */
export class WorkerCrashed extends Schema.TaggedError<WorkerCrashed>("effect-serve/ServeError/WorkerCrashed")(
  "WorkerCrashed",
  {
    exitCode: Schema.Int,
    /** What ended it, if anything is known. */
    description: Schema.optionalKey(Schema.String)
  }
) {
  override get message(): string {
    const why = this.description === undefined ? "" : `: ${this.description}`
    return `The worker thread that ran the task ended with exit code ${this.exitCode}${why}`
  }
}

/**
 * The reader of a stream took too long to take what it was sent.
 *
 * @category reasons
 * @since 0.1.0
 */
export class SlowConsumer extends Schema.TaggedError<SlowConsumer>("effect-serve/ServeError/SlowConsumer")(
  "SlowConsumer",
  {}
) {
  override get message(): string {
    return "The reader of the stream was too slow"
  }
}

/**
 * The body that a handler was reading did not arrive as it should.
 *
 * @category reasons
 * @since 0.1.0
 */
export class BadUpload extends Schema.TaggedError<BadUpload>("effect-serve/ServeError/BadUpload")("BadUpload", {
  why: Schema.Literals(["tooLarge", "malformed", "stalled", "brokenOff"]),
  description: Schema.String
}) {
  override get message(): string {
    return `The body of the request could not be read: ${this.description}`
  }
}

/**
 * The connection to a deployment in another process failed.
 *
 * @category reasons
 * @since 0.1.0
 */
export class TransportError extends Schema.TaggedError<TransportError>("effect-serve/ServeError/TransportError")(
  "TransportError",
  {
    deployment: Schema.String,
    /** Whether the call may have begun: if not, it is safe to make it again. */
    started: Schema.Boolean,
    description: Schema.String
  }
) {
  override get message(): string {
    const call = this.started ? "was lost, and nobody knows how it ended" : "has not begun"
    return `A call to deployment "${this.deployment}" in another process ${call}: ${this.description}`
  }
}

/**
 * Every reason of a {@link ServeError}.
 *
 * @category models
 * @since 0.1.0
 */
export const Reason = Schema.Union([
  QueueFull,
  Shed,
  DeadlineExceeded,
  ReplicaLost,
  Unavailable,
  BatchContract,
  ItemTooLarge,
  WorkerCrashed,
  SlowConsumer,
  BadUpload,
  TransportError
])

/**
 * One of the reasons of a {@link ServeError}.
 *
 * @category models
 * @since 0.1.0
 */
export type Reason = typeof Reason.Type

/**
 * A request failed for a reason that is the runtime's, not its handler's.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { ServeError } from "effect-serve"
 *
 * const call = Effect.fail(
 *   new ServeError.ServeError({
 *     reason: new ServeError.Unavailable({ deployment: "Sentiment", why: "draining" })
 *   })
 * )
 * const answer = call.pipe(Effect.catchReason("ServeError", "Unavailable", (reason) => Effect.succeed(reason.why)))
 * console.log(Effect.runSync(answer)) // => "draining"
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class ServeError extends Schema.TaggedError<ServeError>("effect-serve/ServeError")("ServeError", {
  reason: Reason
}) {
  override get message(): string {
    return this.reason.message
  }
}

/**
 * Makes a {@link ServeError} without a stack trace: where in the runtime a request was refused says nothing to anyone, and
 * taking the trace is the most expensive part of refusing, which has to be cheap when there is too much to do.
 *
 * @example
 * ```ts
 * import { Duration } from "effect"
 * import { ServeError } from "effect-serve"
 *
 * const error = ServeError.because(
 *   () => new ServeError.Shed({ deployment: "Chat", why: "the budget is spent", retryAfter: Duration.seconds(5) })
 * )
 * console.log(error.reason._tag) // => "Shed"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const because = (reason: () => Reason): ServeError => {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return new ServeError({ reason: reason() })
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}
