/**
 * What Ray's tests of streaming through a handle check, as far as no other test here does: see `docs/ray-serve.md`.
 *
 * Seen red for each of these mutations. Relay: the producer doesn't wait. Router: a stream keeps its permit when it has ended.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deployment } from "effect-serve"
import { Effect, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { Job, jobLayer, Part, partLayer } from "../../deployments.ts"

class Teller extends Deployment.Service<Teller>()("Teller", [
  Rpc.make("letters", { success: Schema.String, stream: true }),
  Rpc.make("handedOn", { success: Schema.String, stream: true }),
  Rpc.make("plain", { success: Schema.String })
]) {}

const letters = Stream.make("a", "b", "c")

const TellerLive = Teller.toLayer({
  letters: () => letters,
  // Finds out first which stream it is to give.
  handedOn: () =>
    Stream.unwrap(
      Effect.as(
        Effect.yieldNow,
        Stream.map(letters, (letter) => letter.toUpperCase())
      )
    ),
  plain: () => Effect.succeed("d")
})

describe("streaming through a handle", () => {
  it.effect("one handle has streams of two methods, one of them handed on, and a plain answer", () =>
    Effect.gen(function* () {
      const teller = yield* Teller
      assert.deepStrictEqual(yield* Stream.runCollect(teller.letters()), ["a", "b", "c"])
      assert.deepStrictEqual(yield* Stream.runCollect(teller.handedOn()), ["A", "B", "C"])
      assert.strictEqual(yield* teller.plain(), "d")
      assert.strictEqual((yield* Teller.state).completed, 3)
    }).pipe(Effect.provide(TellerLive))
  )

  it.effect("a stream without elements ends, and gives its permit back", () =>
    Effect.gen(function* () {
      const { flow } = yield* Job
      for (let i = 0; i < 3; i++) assert.deepStrictEqual(yield* Stream.runCollect(flow(Stream.empty)), [])
      assert.deepInclude(yield* Job.state, { running: 0, completed: 3 })
    }).pipe(Effect.provide(jobLayer({ maxOngoingRequests: 1, maxQueuedRequests: 0 })))
  )

  it.effect("a handler reads two streams in turns, and each ends by itself", () =>
    Effect.gen(function* () {
      const { run } = yield* Job
      const part = yield* Part
      const running: Array<number> = []
      const watched = Effect.map(Part.state, (state) => void running.push(state.running))
      const one = part.flow(Stream.rechunk(Stream.make(1, 2, 3, 4), 1)) as Stream.Stream<number>
      const two = part.flow(Stream.rechunk(Stream.make(10, 20), 1)) as Stream.Stream<number>
      const both = Stream.interleave(one, two).pipe(Stream.tap(() => Effect.provideService(watched, Part, part)))
      assert.deepStrictEqual(yield* run(Stream.runCollect(both)), [1, 10, 2, 20, 3, 4])
      assert.deepStrictEqual(running.slice(1, 4), [2, 2, 2])
      assert.strictEqual(running.at(-1), 1)
      assert.deepInclude(yield* Part.state, { running: 0, completed: 2 })
    }).pipe(Effect.provide([jobLayer(), partLayer()]))
  )
})
