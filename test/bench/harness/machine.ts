/**
 * Where a benchmark ran.
 */
import { spawnSync } from "node:child_process"
import { availableParallelism, cpus, release, totalmem } from "node:os"

/** Whether a process can be told its core. */
export const isPinned = availableParallelism() > 1 && spawnSync("taskset", ["-c", "0,1", "true"]).status === 0

export const machine = `${availableParallelism()} cores (${cpus()[0]!.model}), ${(totalmem() / 2 ** 30).toFixed(0)} GB, ${process.platform} ${release()}, Node ${process.versions.node}`
