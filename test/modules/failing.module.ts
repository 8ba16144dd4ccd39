/** Fails to start in the way that the query of its URL names. */
import { Deployment } from "effect-serve"
import { Effect } from "effect"
import { Broken, Part } from "./Probe.ts"

const how = new URL(import.meta.url).search.slice(1)

if (how === "throws") throw new RangeError("the weights don't fit")

const handlers = Part.of({
  double: () => Effect.succeed(0),
  seen: () => Effect.never,
  count: () => {
    throw new Error("not called")
  },
  never: () => Effect.never
})

const { never: _, ...tooFew } = handlers

export default Part.module(
  Effect.gen(function* () {
    const { id } = yield* Deployment.thisReplica
    if (how === "fails") return yield* new Broken({ part: "weights" })
    if (how === "dies") return yield* Effect.die(new TypeError("the weights are none"))
    if (how === "exits") return process.exit(9)
    if (how === "waits") return yield* Effect.never
    if (how === "second" && id === "Part#1") return yield* new Broken({ part: "second" })
    if (how === "tooFew") return tooFew as typeof handlers
    return handlers
  })
)
