import { threadId } from "node:worker_threads"
import { Block } from "./Work.ts"

export default Block.module({
  thread: () => threadId,
  numbers: () => [1, 2, 3]
})
