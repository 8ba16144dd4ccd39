/**
 * How many requests were answered, by route and status.
 *
 * @since 0.1.0
 */
import { Effect, type Scope } from "effect"
import * as Metrics from "../core/Metrics.ts"

/** Takes note of an answer. */
export type Count = (route: string, status: number) => void

/** Counts answers by route and status, and shows the counts as metrics until the scope closes. */
export const make: Effect.Effect<Count, never, Scope.Scope> = Effect.gen(function* () {
  const context = yield* Effect.context<Scope.Scope>()
  const counts = new Map<string, Map<number, number>>()
  return (route: string, status: number): void => {
    let statuses = counts.get(route)
    if (statuses === undefined) counts.set(route, (statuses = new Map<number, number>()))
    const before = statuses.get(status)
    statuses.set(status, (before ?? 0) + 1)
    if (before !== undefined) return
    const tags = { route, status: String(status) }
    const read = () => statuses.get(status)!
    Effect.runSyncWith(context)(Metrics.showCounter(Metrics.httpRequests, tags, read))
  }
})
