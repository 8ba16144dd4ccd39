/**
 * Where a thread of a `WorkerPool` starts: it loads the module of tasks and serves what that exports.
 *
 * @since 0.1.0
 */
import { workerData } from "node:worker_threads"
import { fail, serve } from "./TaskThread.ts"

import(workerData.data.module).then(serve, fail)
