/**
 * One request on its way through a deployment.
 *
 * A request is a small state machine, `Queued -> Reserved -> Running -> Settled`, and it is itself the element of the
 * router's queue and of its deadlines: a request that waits costs no object beyond this one.
 *
 * @since 0.1.0
 */
import type { Exit, Fiber, Tracer } from "effect"
import type { RequestContext } from "../core/RequestContext.ts"
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

  /** When the router gives up: `context.deadline`, or sooner while a stream has no first element. */
  deadline: number
  /** Whether the router watches the deadline. */
  timed: boolean = false
  laterDeadline: Request | undefined = undefined
  earlierDeadline: Request | undefined = undefined

  ahead: Request | undefined = undefined
  behind: Request | undefined = undefined

  readonly method: number
  readonly payload: unknown
  readonly context: RequestContext
  readonly arrivedAt: number
  /** Where the elements of a stream method go. */
  readonly relay: Relay | undefined
  readonly trace: Trace | undefined
  /** Tells the caller how the request ended. Called at most once with effect; later calls are ignored. */
  readonly answer: (exit: Exit.Exit<unknown, unknown>) => void

  constructor(options: {
    readonly method: number
    readonly payload: unknown
    readonly context: RequestContext
    readonly deadline: number
    readonly arrivedAt: number
    readonly relay: Relay | undefined
    readonly trace: Trace | undefined
    readonly answer: (exit: Exit.Exit<unknown, unknown>) => void
  }) {
    this.method = options.method
    this.payload = options.payload
    this.context = options.context
    this.deadline = options.deadline
    this.arrivedAt = options.arrivedAt
    this.relay = options.relay
    this.trace = options.trace
    this.answer = options.answer
  }
}

/**
 * The caller's trace, present only while a tracer samples it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Trace {
  readonly tracer: Tracer.Tracer | undefined
  readonly parent: Tracer.AnySpan | undefined
}
