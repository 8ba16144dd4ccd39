/**
 * The control: overload protection as one writes it by hand, a semaphore with a timeout around it.
 *
 * Callers wait for a permit in a line that is first in, first out and has no bound; a caller leaves it when its timeout
 * passes, and work that cannot be interrupted goes on and holds its permit.
 */
import { Effect, Semaphore } from "effect"
import type { Server } from "./plant.ts"

export const fifo: Server = {
  name: "FIFO",
  start: Effect.fnUntraced(function* ({ permits, replicas, work }) {
    const semaphore = yield* Semaphore.make(permits * replicas)
    let calls = 0
    return (serviceTime, { timeout }) =>
      semaphore.withPermit(Effect.suspend(() => work(calls++ % replicas, serviceTime))).pipe(Effect.timeout(timeout))
  })
}
