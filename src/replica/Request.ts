/**
 * One request on its way through a deployment.
 *
 * A request is a small state machine, `Queued -> Reserved -> Running -> Settled`, and it is itself the element of the
 * router's queue and of its deadlines: a request that waits costs no object beyond this one. Its times are milliseconds
 * since the router started: small integers, which V8 keeps inside the object, and `Date.now()` is not one.
 *
 * @since 0.1.0
 */
import type { Exit, Fiber, Tracer } from "effect"
import type { CallOptions, Priority, RequestContext } from "../core/RequestContext.ts"
import type { Relay } from "./Relay.ts"

/**
 * Where a request is. `Reserved` has a place on a replica, and its handler has not begun.
 *
 * @category models
 * @since 0.1.0
 */
export type State = "Queued" | "Reserved" | "Running" | "Settled"

/**
 * Why running work is made to stop before it ends by itself.
 *
 * @category models
 * @since 0.1.0
 */
export type StopReason = "cancelled" | "expired" | "lost"

export class Request {
  state: State = "Queued"
  /** Why the work was told to stop; it still holds its permit until it has. */
  stopping: StopReason | undefined = undefined
  /** The replica's place in the router, from `Reserved` on. */
  place: number = -1
  /** The fiber in which the handler runs. */
  fiber: Fiber.Fiber<unknown, unknown> | undefined = undefined
  startedAt: number = 0

  /** When the router gives up. */
  deadline: number
  /** When the router looks after it next: its deadline, or when it has waited for too long. */
  due: number
  /** Whether the router watches that time. */
  timed: boolean = false
  laterDeadline: Request | undefined = undefined
  earlierDeadline: Request | undefined = undefined

  /** Its number among the requests of its router. */
  turn: number = 0
  /** Where it stands in the queue, or among those that run. */
  spot: number = 0
  /** Whether it was taken back from a replica that left before starting it. */
  rerouted: boolean = false

  readonly method: number
  readonly payload: unknown
  /** What the caller said about this call. */
  readonly options: CallOptions | undefined
  /** The request that the caller serves itself, from which this one inherits. */
  readonly outer: RequestContext
  readonly arrivedAt: number
  /** Where the elements of a stream method go. */
  readonly relay: Relay | undefined
  readonly trace: Trace | undefined
  /** Tells the caller how the request ended, and whether its handler may have begun. Later calls than the first one are ignored. */
  private readonly answer: (exit: Exit.Exit<unknown, unknown>, begun: boolean) => void

  constructor(fields: {
    readonly method: number
    readonly payload: unknown
    readonly options: CallOptions | undefined
    readonly outer: RequestContext
    readonly arrivedAt: number
    readonly deadline: number
    readonly relay: Relay | undefined
    readonly trace: Trace | undefined
    readonly answer: (exit: Exit.Exit<unknown, unknown>, begun: boolean) => void
  }) {
    this.method = fields.method
    this.payload = fields.payload
    this.options = fields.options
    this.outer = fields.outer
    this.arrivedAt = fields.arrivedAt
    this.relay = fields.relay
    this.trace = fields.trace
    this.answer = fields.answer
    this.deadline = fields.deadline
    this.due = fields.deadline
  }

  get priority(): Priority {
    return this.options?.priority ?? this.outer.priority
  }

  get tenant(): string | undefined {
    return this.options?.tenant ?? this.outer.tenant
  }

  /** Whether its caller knows how it ends, and doesn't wait until the work has stopped. */
  get isAnswered(): boolean {
    return this.stopping === "expired" || this.stopping === "lost"
  }

  /** Answers the caller. */
  end(exit: Exit.Exit<unknown, unknown>): void {
    this.answer(exit, this.place !== -1)
  }

  /** How far it has come on its replica. */
  get stage(): "handler" | "stream" {
    return this.relay?.started === true ? "stream" : "handler"
  }

  /**
   * What the handler reads, with times counted from `origin` turned into times on the clock. Made when the handler
   * starts and not on arrival, because requests that wait must be small.
   */
  contextAs(requestId: string, origin: number): RequestContext {
    const { options, outer, priority, tenant } = this
    return {
      requestId,
      deadline: origin + (this.relay?.deadline ?? this.deadline),
      priority,
      tenant,
      modelId: options?.modelId ?? outer.modelId,
      sessionId: options?.sessionId ?? outer.sessionId,
      route: outer.route,
      principal: outer.principal,
      lastEventId: outer.lastEventId
    }
  }
}

/**
 * The caller's trace, present only while there is one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Trace {
  readonly tracer: Tracer.Tracer | undefined
  readonly parent: Tracer.AnySpan | undefined
}
