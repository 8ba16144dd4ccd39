/**
 * A slow service that the programs call: a real HTTP server on a thread of its own, so that it answers whatever the main loop does.
 */
import { Effect, type Scope } from "effect"
import { once } from "node:events"
import { Worker } from "node:worker_threads"

export interface Upstream {
  /** Where it answers with "ok" after `millis`. */
  readonly slow: (millis: number) => string
  /** How many requests it had at once, at most, since it was asked last. */
  readonly peak: Effect.Effect<number>
}

/** Starts it until the scope closes. */
export const upstream: Effect.Effect<Upstream, never, Scope.Scope> = Effect.gen(function* () {
  const thread = yield* Effect.acquireRelease(
    Effect.sync(() => new Worker(new URL("./modules/upstream.ts", import.meta.url))),
    (thread) => Effect.promise(() => thread.terminate())
  )
  const [port] = yield* Effect.promise(() => once(thread, "message"))
  const url = `http://127.0.0.1:${port}`
  return {
    slow: (millis) => `${url}/slow?${millis}`,
    peak: Effect.promise(async () => Number(await (await fetch(`${url}/peak`)).text()))
  }
})
