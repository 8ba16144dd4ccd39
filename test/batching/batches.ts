import { Batching } from "effect-serve"
import { Cause, Duration, Effect, Exit, Fiber } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import { TestClock } from "effect/testing"
import { call } from "../deployments.ts"

type Items = NonEmptyReadonlyArray<number>
type Answers<E> = ReadonlyArray<number | Exit.Exit<number, E>>

/** Runs batches of numbers, and notes them. */
const noting = <E = never, R = never>(work: (items: Items) => Effect.Effect<Answers<E>, E, R> = Effect.succeed) => {
  const notes = { batches: [] as Array<ReadonlyArray<number>>, running: 0, most: 0, interrupted: 0 }
  const run = (items: Items): Effect.Effect<Answers<E>, E, R> =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        notes.batches.push(items)
        notes.most = Math.max(notes.most, ++notes.running)
      }),
      () => work(items),
      (_, exit) =>
        Effect.sync(() => {
          notes.running--
          if (Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)) notes.interrupted++
        })
    )
  return { notes, run }
}

/** Work that takes some time and answers with the items. */
export const lasting =
  (time: Duration.Input) =>
  (items: Items): Effect.Effect<Answers<never>> =>
    Effect.as(Effect.sleep(time), items)

/** Options of a batcher of numbers. */
export type Options<E = never, S = number> = Partial<Batching.Options<number, number, E, never, S, E>>

/** A batcher of numbers that notes its batches. It closes at once: virtual time doesn't pass by itself. */
export const batcher = Effect.fnUntraced(function* <E = never, S = number>(options: Options<E, S> = {}) {
  const { notes, run } = noting<E>(options.run)
  const batched = yield* Batching.make({ gracefulShutdownTimeout: 0, ...options, run })
  return { batched, notes }
})

/** Forks a caller for each item, in their order. */
export const send = <A, B, E>(batched: Batching.Batched<A, B, E>, ...items: ReadonlyArray<A>) =>
  Effect.forEach(items, (item) => call(batched(item)))

/** Forks a caller every few milliseconds: 0, 1, 2 and so on. */
export const sendEvery = Effect.fnUntraced(function* <B, E>(
  batched: Batching.Batched<number, B, E>,
  millis: number,
  count: number
) {
  const callers: Array<Fiber.Fiber<B, unknown>> = []
  for (let i = 0; i < count; i++) {
    if (i > 0) yield* TestClock.adjust(millis)
    callers.push(yield* call(batched(i)))
  }
  return callers
})

/** The answers of callers; fails when one of them is still waiting. */
export const answers = <A, E>(callers: ReadonlyArray<Fiber.Fiber<A, E>>) =>
  Effect.forEach(callers, (caller) => {
    const exit = caller.pollUnsafe()
    return exit === undefined ? Effect.die(new Error("A caller still waits")) : Effect.exit(exit)
  })

export const range = (count: number, from = 0) => Array.from({ length: count }, (_, i) => from + i)
