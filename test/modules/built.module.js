import { Effect, Stream } from "effect"
import { Part } from "./Probe.ts"

export default Part.module({
  double: ({ x }) => Effect.succeed(20 * x),
  seen: () => Effect.never,
  count: () => Stream.empty,
  never: () => Effect.never
})
