/**
 * The replica that is being built, as what its builder makes can know it.
 *
 * @since 0.1.0
 */
import { Context, type Effect } from "effect"
import type { ContinuousState } from "./Continuous.ts"
import type { State } from "./Engine.ts"

/**
 * A replica that is being built.
 *
 * @category models
 * @since 0.1.0
 */
export interface Host {
  readonly deployment: string
  readonly replica: string
  readonly maxOngoingRequests: number
  /** Takes it out of service. */
  readonly leave: Effect.Effect<void>
  /** What ends work that goes on although it was interrupted. */
  readonly endings: Set<Effect.Effect<void>>
  /** Its batchers, which add and remove themselves. */
  readonly batchers: Set<() => BatcherState>
}

/**
 * What a batcher does at the moment.
 *
 * @category models
 * @since 0.1.0
 */
export type BatcherState = State | ContinuousState

/**
 * The replica that is being built.
 *
 * @category references
 * @since 0.1.0
 */
export const Host: Context.Reference<Host | undefined> = Context.Reference<Host | undefined>(
  "effect-serve/Batching/Host",
  { defaultValue: () => undefined }
)

/** The name of a batcher that was given none, or its own: those of one replica must be told apart. */
export const nameIn = (host: Host | undefined, name: string | undefined): string => {
  const others = host?.batchers.size ?? 0
  return name ?? (others === 0 ? "batcher" : `batcher-${others + 1}`)
}
