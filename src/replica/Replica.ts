/**
 * One running copy of a deployment, as the router sees it.
 *
 * The port that every kind of replica implements: in this event loop, in a thread of its own, in another process.
 *
 * @since 0.1.0
 */
import type { Context, Effect, Option } from "effect"
import type { BatcherState } from "../batching/Host.ts"
import type { Request } from "./Request.ts"

export interface Replica {
  /** `<deployment>#<index>`. */
  readonly id: string
  /** What its batchers do at the moment. */
  readonly batchers: () => ReadonlyArray<BatcherState>
  /** The services in which its requests run, for each method. */
  readonly contexts: ReadonlyArray<Context.Context<never>>
  /**
   * Runs a request inside one of the replica's permits and releases the permit when the work has stopped. `None` means
   * that no permit was free and nothing ran. Fails with `ReplicaLost` when the replica has left and nothing ran. The
   * elements of a stream method go to the request's relay.
   */
  readonly call: (request: Request) => Effect.Effect<Option.Option<unknown>, unknown>
  /** Waits until a permit is free. Needed only where several routers share a replica; each waits at most once. */
  readonly whenFree: Effect.Effect<void>
  /** Whether the replica has left: it runs nothing more, and what it still runs is to be stopped. */
  readonly hasLeft: () => boolean
  /** Waits until it has. */
  readonly left: Effect.Effect<void>
  /**
   * Sees to it that its work ends, which was interrupted and goes on: that of a thread, which is ended after a time. Work in this
   * event loop can't be ended.
   */
  readonly end: Effect.Effect<void>
  /** Changes the number of permits. Requests that run keep theirs, so a lower number takes effect as they end. */
  readonly resize: (permits: number) => Effect.Effect<void>
}
