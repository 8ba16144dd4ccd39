import { RequestContext } from "effect-serve"
import { Clock, Effect } from "effect"

/** What a handler can know of its request. */
export const seen = Effect.gen(function* () {
  const { deadline, modelId, priority, requestId, route, sessionId, tenant } = yield* RequestContext.RequestContext
  const millisLeft = deadline - (yield* Clock.currentTimeMillis)
  return { requestId, millisLeft, priority, tenant, modelId, sessionId, route }
})
