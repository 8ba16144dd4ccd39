/**
 * A thread of a test's own pool. It gets a cell in which it counts its starts, and what it was attached; it cannot be loaded while
 * another cell says so.
 */
import { workerData } from "node:worker_threads"
import { fail, serve } from "../../../src/worker/TaskThread.ts"
import type { Cells } from "./tasks.ts"

const { attached, data } = workerData as { readonly attached: unknown; readonly data: Cells }

Atomics.add(data, 0, 1)
if (Atomics.load(data, 1) === 1) fail(new Error("not now"))
else serve({ attached: () => attached, die: () => process.exit(1), live: () => 1, elements: function* () {}, five: 5 })
