/**
 * What goes along with a call that crosses to another thread: its request, and the span that it is part of.
 *
 * Deadlines are sent as times on the wall clock, which all threads share; the clocks that programs and tests run on may differ.
 *
 * @since 0.1.0
 */
import { Clock, Context, type Fiber } from "effect"
import { RequestContext } from "../core/RequestContext.ts"
import type { SentSpan } from "./Spans.ts"

/**
 * A request's context as it is sent: its deadline is in milliseconds since 1970.
 *
 * @category models
 * @since 0.1.0
 */
export interface Crossing extends RequestContext {
  readonly span: SentSpan | undefined
}

const wall = Context.get(Context.empty(), Clock.Clock)

/** What of the calling fiber goes along. */
export const leave = (fiber: Fiber.Fiber<unknown, unknown>, span: SentSpan | undefined): Crossing => {
  const request = fiber.getRef(RequestContext)
  return Object.assign({ span }, request, { deadline: request.deadline + ahead(fiber.getRef(Clock.Clock)) })
}

/** What arrived, as the request of a fiber whose clock is `clock`. */
export const arrive = (crossing: Crossing, clock: Clock.Clock): RequestContext => ({
  requestId: crossing.requestId,
  deadline: crossing.deadline - ahead(clock),
  priority: crossing.priority,
  tenant: crossing.tenant,
  modelId: crossing.modelId,
  sessionId: crossing.sessionId,
  route: crossing.route,
  principal: crossing.principal,
  lastEventId: crossing.lastEventId
})

/** By how much the wall clock is ahead of another one. */
const ahead = (clock: Clock.Clock) =>
  clock === wall ? 0 : wall.currentTimeMillisUnsafe() - clock.currentTimeMillisUnsafe()
