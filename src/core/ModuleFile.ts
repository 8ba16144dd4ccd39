/**
 * Files that are loaded in threads.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"
import { existsSync } from "node:fs"

/**
 * A module that a thread could not load: it does not exist, is not valid, or threw.
 *
 * @category errors
 * @since 0.1.0
 */
export class ModuleFailed extends Schema.TaggedError<ModuleFailed>("effect-serve/worker/ModuleFailed")("ModuleFailed", {
  /** Its URL. */
  module: Schema.String,
  /** What went wrong. */
  description: Schema.String
}) {
  override get message(): string {
    return `A thread could not load ${this.module}: ${this.description}`
  }
}

/**
 * The URL of a module that is written in TypeScript: its own, or that of the JavaScript beside which it does not exist any more.
 * `tasks.ts` stands for `tasks.js` in a build, and `tasks.mts` for `tasks.mjs`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const resolveModule = (url: URL): URL => {
  if (url.protocol !== "file:" || !/\.m?ts$/.test(url.pathname) || existsSync(url)) return url
  const built = new URL(url)
  built.pathname = url.pathname.replace(/ts$/, "js")
  return existsSync(built) ? built : url
}
