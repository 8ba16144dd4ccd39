/**
 * Calls deployments over HTTP from programs without Effect: in browsers, Deno, Bun, edge workers and Node. It is the package's
 * `effect-serve/client`, it needs `fetch` and nothing else, and what it knows of a deployment it knows from its type.
 *
 * @since 0.1.0
 */
import type * as Deployment from "../deployment/Deployment.ts"
import { RetryBudget } from "./Attempts.ts"
import * as Call from "./Call.ts"
import type { Client } from "./Contract.ts"
import type { ClientOptions } from "./Options.ts"

export { CallError } from "./CallError.ts"
export type * from "./Contract.ts"
export type * from "./Options.ts"

/**
 * Makes a client of the deployment that is served at `url`, its prefix. Its methods are those of the class `D`, of which nothing but the
 * type is needed.
 *
 * What could not be run is tried again: requests that were refused (`QueueFull`, `Shed`, `Unavailable`), after the time that the server
 * says, and those that were surely not sent. Calls that are `idempotent` are also tried again when their connection was lost. No attempt
 * begins after the `timeout` of the call.
 *
 * What `headers` throws, and the error of a payload that can't be written as JSON, are passed on as they are.
 *
 * @example
 * ```ts
 * import { NodeRuntime } from "@effect/platform-node"
 * import { Effect, Layer, Schema, Stream } from "effect"
 * import { Rpc } from "effect/rpc"
 * import { Deployment, HttpIngress } from "effect-serve"
 * import { client } from "effect-serve/client"
 *
 * class Words extends Deployment.Service<Words>()("Words", [
 *   Rpc.make("count", { payload: { text: Schema.String }, success: Schema.Int }),
 *   Rpc.make("split", { payload: { text: Schema.String }, success: Schema.String, stream: true })
 * ]) {}
 *
 * const WordsLive = Words.toLayer({
 *   count: ({ text }) => Effect.succeed(text.split(" ").length),
 *   split: ({ text }) => Stream.fromIterable(text.split(" "))
 * })
 *
 * // In a browser this would be all, after `import type { Words }`.
 * const use = async (url: string) => {
 *   const words = client<typeof Words>(`${url}/words`, { timeout: 2000 })
 *   console.log(await words.count({ text: "to be or not" })) // => 4
 *   for await (const word of words.split({ text: "to be" })) console.log(word) // => to, be
 * }
 *
 * const Http = HttpIngress.layerNode({ "/words": Words }, { port: 0 })
 * const program = Effect.flatMap(HttpIngress.Address, ({ url }) => Effect.promise(() => use(url)))
 * NodeRuntime.runMain(Effect.provide(program, Http.pipe(Layer.provide(WordsLive))))
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const client = <D extends Deployment.Any = never>(
  url: string | URL,
  options: ClientOptions<D["deployment"]> = {}
): Client<D> => {
  const prefix = String(url).replace(/\/+$/, "")
  const { budget = 0.2 } = options.retry || {}
  const of = { options, budget: new RetryBudget(budget) }
  const methodOf =
    (name: string) =>
    (payload: unknown, call: Call.Options = {}) =>
      Call.make({ ...of, url: `${prefix}/${encodeURIComponent(name)}`, payload, call })
  const methods = new Map<string, unknown>()
  return new Proxy({} as Client<D>, {
    get: (_, name) => {
      // Promises ask everything for `then`, and JSON for `toJSON`.
      if (typeof name === "symbol" || name === "then" || name === "toJSON") return undefined
      if (!methods.has(name)) methods.set(name, methodOf(name))
      return methods.get(name)
    }
  })
}
