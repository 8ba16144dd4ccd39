/** A replica of `Hasher`. */
import { Effect } from "effect"
import { Hasher } from "./Hasher.ts"
import { hash } from "./tasks.ts"

export default Hasher.module({
  hash: ({ password }) => Effect.sync(() => hash(password)),
  hashBlocking: ({ password }) => hash(password)
})
