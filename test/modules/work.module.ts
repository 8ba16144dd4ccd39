import { Effect } from "effect"
import { Part } from "./Probe.ts"
import { Work } from "./Work.ts"
import { handlers } from "./workHandlers.ts"

export default Work.module(
  Effect.gen(function* () {
    const part = yield* Part
    yield* Effect.acquireRelease(Effect.logInfo("opened"), () => Effect.logInfo("closed"))
    return handlers(yield* part.double({ x: 21 }))
  }),
  { uses: [Part] }
)
