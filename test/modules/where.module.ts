import { Batching } from "effect-serve"
import { Effect, Stream } from "effect"
import { threadId } from "node:worker_threads"
import { Where } from "./Where.ts"

const now = () => performance.timeOrigin + performance.now()

const spin = (millis: number) => {
  const from = now()
  while (now() < from + millis);
  return { thread: threadId, from, to: now() }
}

export default Where.module(
  Effect.gen(function* () {
    const builder = threadId
    let turns = 0
    yield* Effect.forkScoped(
      Effect.forever(
        Effect.andThen(
          Effect.sleep("5 millis"),
          Effect.sync(() => turns++)
        )
      )
    )
    const batch = yield* Batching.make({
      maxBatchSize: 1,
      run: (items: ReadonlyArray<null>) => Effect.sync(() => items.map(() => threadId))
    })
    return Where.of({
      builder: () => Effect.succeed(builder),
      handler: () => Effect.sync(() => threadId),
      elements: () => Stream.fromEffect(Effect.sync(() => threadId)),
      batch: () => batch(null),
      turns: () => Effect.sync(() => turns),
      compute: ({ millis }) => Effect.sync(() => spin(millis)),
      steps: ({ count, millis }) =>
        Stream.range(1, count).pipe(
          Stream.rechunk(1),
          Stream.mapEffect((n) =>
            Effect.as(
              Effect.sync(() => spin(millis)),
              n
            )
          )
        ),
      block: ({ millis }) => spin(millis),
      blockingSteps: function* ({ count, millis }) {
        for (let n = 1; n <= count; n++) {
          spin(millis)
          yield n
        }
      }
    })
  })
)
