/**
 * Hands the rows of a streaming batch to its callers: a column for each.
 *
 * @since 0.1.0
 */
import { type Cause, Effect, Exit, Option, Queue } from "effect"
import { because, BatchContract, type ServeError } from "../core/ServeError.ts"
import type { Ticket } from "./Ticket.ts"

/**
 * What one caller has not read yet.
 *
 * @category models
 * @since 0.1.0
 */
export type Outbox<B, E> = Queue.Queue<B, E | ServeError | Cause.Done>

/**
 * Gives each caller its cell of a row, and waits until the slowest of them has room for it. `None` ends a caller's stream. A row
 * of another length fails them all. Returns whether anyone wants another row.
 */
export const deliver = Effect.fnUntraced(function* <A, B, E>(
  tickets: ReadonlyArray<Ticket<A>>,
  outboxes: ReadonlyArray<Outbox<B, E>>,
  row: ReadonlyArray<Option.Option<B>>
) {
  if (row.length !== tickets.length) {
    return yield* Effect.fail(because(() => new BatchContract({ expected: tickets.length, received: row.length })))
  }
  for (let i = 0; i < row.length; i++) {
    const ticket = tickets[i]!
    const cell = row[i]!
    if (!ticket.isLive) continue
    if (Option.isNone(cell)) ticket.answer(Exit.void)
    else yield* Queue.offer(outboxes[i]!, cell.value)
  }
  return tickets.some(({ isLive }) => isLive)
})
