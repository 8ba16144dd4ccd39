/**
 * What a test needs to see how deployments behave: the package's `effect-serve/testing`.
 *
 * @since 0.1.0
 */
import type { Effect } from "effect"
import { type Report, reportsOf } from "../watch/BlockingDetector.ts"

export type { Report } from "../watch/BlockingDetector.ts"
export type { Method } from "../watch/Pulse.ts"

/**
 * Runs an effect, and gives with its result what held an event loop for longer than `SERVE_BLOCKING_THRESHOLD` meanwhile, by default
 * 100 milliseconds of real time. Takes some 50 milliseconds longer than the effect, to have seen all, and some more when no
 * deployment has been started before. Dies when the threshold says that no loop is watched.
 *
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Rpc } from "effect/rpc"
 * import { pbkdf2Sync } from "node:crypto"
 * import { Deployment } from "effect-serve"
 * import * as TestServe from "effect-serve/testing"
 *
 * class Passwords extends Deployment.Service<Passwords>()("Passwords", [
 *   Rpc.make("hash", { payload: { password: Schema.String }, success: Schema.String })
 * ]) {}
 *
 * const PasswordsLive = Passwords.toLayer({
 *   hash: ({ password }) => Effect.sync(() => pbkdf2Sync(password, "salt", 1_000_000, 32, "sha256").toString("hex"))
 * })
 *
 * const program = Effect.gen(function*() {
 *   const { hash } = yield* Passwords
 *   const [, reports] = yield* TestServe.blocked(hash({ password: "hunter2" }))
 *   return reports.map(({ deployment, method }) => `${deployment}.${method}`)
 * })
 *
 * console.log(await Effect.runPromise(Effect.provide(program, PasswordsLive))) // => ["Passwords.hash"]
 * ```
 *
 * @category assertions
 * @since 0.1.0
 */
export const blocked: <A, E, R>(
  effect: Effect.Effect<A, E, R>
) => Effect.Effect<readonly [A, ReadonlyArray<Report>], E, R> = reportsOf
