import { resourceLimits, threadId } from "node:worker_threads"
import { Block } from "./Work.ts"

export default Block.module({
  thread: () => threadId,
  memory: () => resourceLimits.maxOldGenerationSizeMb,
  numbers: () => [1, 2, 3]
})
