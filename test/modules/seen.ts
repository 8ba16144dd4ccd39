import { RequestContext } from "effect-serve"
import { Clock, Effect } from "effect"

/** What a handler can know of its request. */
export const seen = Effect.gen(function* () {
  const { deadline, ...rest } = yield* RequestContext.RequestContext
  const millisLeft = deadline - (yield* Clock.currentTimeMillis)
  return { ...rest, millisLeft }
})
