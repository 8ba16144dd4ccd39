import { Effect, Stream } from "effect"
import { Replica } from "./Replica.ts"

export default Replica.module({
  nothing: ({ x }) => Effect.succeed(x),
  // One element at a time, as a model gives them.
  count: ({ to }) => Stream.rechunk(Stream.range(1, to), 1)
})
