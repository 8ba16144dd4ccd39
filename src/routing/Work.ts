/**
 * The work of a request: the fiber in which it runs on its replica, and what the end of that fiber says.
 *
 * @since 0.1.0
 */
import { Cause, Context, Effect, Exit, type Fiber, Option, Tracer } from "effect"
import { RequestContext } from "../core/RequestContext.ts"
import { type Reason, ServeError } from "../core/ServeError.ts"
import type { Replica } from "../replica/Replica.ts"
import type { Request } from "../replica/Request.ts"
import * as CurrentMethod from "../watch/CurrentMethod.ts"

/**
 * How work ended; `None` when the replica had no permit for it.
 *
 * @category models
 * @since 0.1.0
 */
export type End = Exit.Exit<Option.Option<unknown>, unknown>

export { whenEnded } from "../watch/CurrentMethod.ts"

/** Starts the work at once, in the replica's services and the caller's trace. `name` is that of its span. */
export const start = (
  request: Request,
  replica: Replica,
  context: RequestContext,
  name: string
): Fiber.Fiber<Option.Option<unknown>, unknown> =>
  CurrentMethod.fork(
    Context.add(replica.contexts[request.method]!, RequestContext, context),
    request.trace === undefined ? replica.call(request) : traced(request, replica, context.requestId, name)
  )

const traced = (request: Request, replica: Replica, requestId: string, name: string): ReturnType<Replica["call"]> => {
  const { parent, tracer } = request.trace!
  const work = replica.call(request)
  if (parent?.sampled === false) return Effect.provideService(work, Tracer.ParentSpan, parent)
  const span = Effect.withSpan(work, name, {
    ...(parent === undefined ? { root: true } : { parent }),
    attributes: { replica: replica.id, requestId }
  })
  return tracer === undefined ? span : Effect.provideService(span, Tracer.Tracer, tracer)
}

/** What the caller is told. A handler that interrupts itself must not look like an interruption of its caller. */
export const answerOf = (end: End): Exit.Exit<unknown, unknown> =>
  Exit.isSuccess(end)
    ? Exit.succeed(Option.getOrUndefined(end.value))
    : Cause.hasInterruptsOnly(end.cause)
      ? Exit.die(new Error("The handler interrupted itself"))
      : end

/** Why it failed when it was not its handler's doing: the runtime's own reason, or that of a call it made. */
export const reasonOf = (end: End): Reason["_tag"] | undefined => {
  if (Exit.isSuccess(end)) return undefined
  const error = Option.getOrUndefined(Cause.findErrorOption(end.cause))
  return error instanceof ServeError ? error.reason._tag : undefined
}
