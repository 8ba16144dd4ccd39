/**
 * What the ingress does for methods of deployments, done for an application's own endpoints.
 *
 * @since 0.1.0
 */
import { Cause, Clock, Duration, Effect, Option, Schema } from "effect"
import { HttpEffect, HttpRouter, HttpServerRequest, HttpServerRespondable, HttpServerResponse } from "effect/http"
import { decode, orElse } from "../core/Options.ts"
import type { RequestContext } from "../core/RequestContext.ts"
import { because, DeadlineExceeded, ServeError } from "../core/ServeError.ts"
import { ofFailure, ofServeError, type Place } from "../exchange/Answer.ts"
import type { Authorize } from "../exchange/Auth.ts"
import * as Reception from "../exchange/Reception.ts"
import * as Status from "../exchange/Status.ts"
import * as Tally from "../exchange/Tally.ts"
import { peerOf, toResponse } from "./EffectServer.ts"

/**
 * What can be chosen for an application's own endpoints; see `HttpIngress.Options`.
 *
 * @category options
 * @since 0.1.0
 */
export const Options = Schema.Struct({
  /** Default `503`. */
  refusalStatus: Schema.Literals([503, 429]).pipe(Schema.withDecodingDefaultTypeKey(orElse(503 as const))),
  /** Default `504`. */
  timeoutStatus: Schema.Literals([504, 408]).pipe(Schema.withDecodingDefaultTypeKey(orElse(504 as const))),
  /** Default `true`. */
  processGate: Schema.Boolean.pipe(Schema.withDecodingDefaultTypeKey(orElse(true)))
})

/** Makes the middleware. */
export const make = <A>(options: typeof Options.Encoded, authorize: Authorize<A> | undefined) =>
  HttpRouter.middleware<{ handles: ServeError }>()(
    Effect.gen(function* () {
      const chosen = yield* decode(Options, options, "HttpIngress.middleware")
      const services = yield* Effect.context<A>()
      const reception = yield* Reception.make(
        authorize && ((headers, peer) => Effect.provideContext(authorize(headers, peer), services))
      )
      const count = yield* Tally.make
      const statusOf = Status.ofFailure(Schema.Never, chosen)
      yield* Effect.addFinalizer(() => Effect.sync(reception.drain))

      return (endpoint) =>
        Effect.gen(function* () {
          const request = yield* HttpServerRequest.HttpServerRequest
          const { route } = yield* HttpRouter.RouteContext
          const { headers, method } = request
          const place: Place = { path: route.path, deployment: route.path, method, statusOf }
          const requestId = reception.requestIdOf(headers)
          // Whatever the response will be: the endpoint's own, one made of its failure, or none, for a client that has left.
          yield* HttpEffect.appendPreResponseHandler((_, response) => {
            count(place.path, response.status)
            return Effect.succeed(HttpServerResponse.setHeader(response, "x-request-id", requestId))
          })
          const outlivesClient = headers["x-request-disconnect-disabled"] === "?1"
          const answered = Effect.gen(function* () {
            const admitted = reception.admit(place, headers, requestId)
            if ("status" in admitted) return toResponse(admitted)
            const asked = reception.authorize?.(place, admitted, headers, peerOf(request)) ?? Effect.succeed(admitted)
            return yield* Effect.matchEffect(asked, {
              onFailure: (reply) => Effect.succeed(toResponse(reply)),
              onSuccess: (context) =>
                Effect.provideContext(run(endpoint, place, context), reception.contextFor(context, headers))
            })
          })
          const work = outlivesClient ? Effect.uninterruptible(answered) : answered
          return yield* Effect.onInterrupt(work, () => reception.clientLeft(place, requestId))
        })
    })
  )

/** Runs an endpoint until its deadline. What the runtime has to say about its failure becomes a response; the rest is the application's. */
const run = <E, R>(
  endpoint: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>,
  place: Place,
  context: RequestContext
): Effect.Effect<HttpServerResponse.HttpServerResponse, Exclude<E, ServeError>, R> =>
  Effect.catchCause(untilDeadline(endpoint, place, context), (cause) => {
    const error = Option.getOrElse(Cause.findErrorOption(cause), () => Cause.squash(cause))
    if (error instanceof ServeError) return Effect.succeed(toResponse(ofServeError(place, error, context.requestId)))
    const isDefect = Cause.hasDies(cause) && !HttpServerRespondable.isRespondable(error)
    return isDefect
      ? Effect.map(ofFailure(place, context, cause), toResponse)
      : Effect.failCause(cause as Cause.Cause<Exclude<E, ServeError>>)
  })

const untilDeadline = <A, E, R>(
  endpoint: Effect.Effect<A, E, R>,
  { deployment }: Place,
  { deadline }: RequestContext
): Effect.Effect<A, E | ServeError, R> => {
  if (deadline === Infinity) return endpoint
  const late = because(() => new DeadlineExceeded({ deployment, stage: "handler" }))
  return Effect.flatMap(Clock.currentTimeMillis, (now) =>
    Effect.timeoutOrElse(endpoint, {
      duration: Duration.millis(Math.max(deadline - now, 0)),
      orElse: () => Effect.fail(late)
    })
  )
}
