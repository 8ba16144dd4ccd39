/**
 * What the servers of the kind `work` have in common: how long a step and a request may take, and the file that tells the benchmark
 * how much was done.
 */
import { openSync, writeSync } from "node:fs"

/** Milliseconds that a step waits. */
export const STEP = 10

/** Milliseconds in which a request must be done. */
export const DEADLINE = Number(process.env["DEADLINE_MS"] ?? 60_000)

const file = openSync(process.env["STEPS_FILE"] ?? "/dev/null", "a")

/** Notes a step, or the end of a request. */
export const note = (what: "s" | "e"): void => {
  writeSync(file, what)
}
