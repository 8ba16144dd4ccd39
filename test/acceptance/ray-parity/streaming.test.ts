/**
 * What Ray's tests of streaming responses check, as far as no other test here does: see `docs/ray-serve.md`.
 *
 * Seen red for each of these mutations. Balancer: always the first replica. LoopReplica: the elements of a stream wait for its end.
 */
import { assert, describe, it } from "@effect/vitest"
import { HttpIngress } from "effect-serve"
import { Effect, Stream } from "effect"
import { TestClock } from "effect/testing"
import { call, Job, jobLayer, settle } from "../../deployments.ts"
import { family, made } from "./family.ts"

// Other programs may take the cores for longer than what is told apart here.
describe("streaming", { retry: 3 }, () => {
  for (const replicas of [1, 2]) {
    it.effect(`two streams come element by element beside each other, replicas: ${replicas}`, () =>
      Effect.gen(function* () {
        const { flow } = yield* Job
        const seen: Array<unknown> = []
        for (const name of ["a", "b"]) {
          const elements = Stream.range(1, 3).pipe(
            Stream.rechunk(1),
            Stream.mapEffect((n) => Effect.delay(Effect.succeed(`${name}${n}`), "1 second"))
          )
          yield* call(Stream.runForEach(flow(elements), (element) => Effect.sync(() => seen.push(element))))
        }
        const running = (yield* Job.state).replicas.map((replica) => replica.running)
        assert.deepStrictEqual(running, replicas === 1 ? [2] : [1, 1])
        for (let n = 1; n <= 3; n++) {
          yield* TestClock.adjust("1 second")
          yield* settle
          assert.lengthOf(seen, 2 * n)
          assert.sameMembers(seen.slice(-2), [`a${n}`, `b${n}`])
        }
        assert.deepInclude(yield* Job.state, { running: 0, completed: 2 })
      }).pipe(Effect.provide(jobLayer({ replicas })))
    )
  }

  it.live("a parent hands on the stream of its child, over HTTP, as it comes", () =>
    Effect.gen(function* () {
      const { url } = yield* HttpIngress.Address
      const seen = yield* Effect.promise(async () => {
        const response = await fetch(`${url}/parent/count`, {
          method: "POST",
          headers: { "content-type": "application/json", accept: "application/x-ndjson" },
          body: JSON.stringify({ to: 5 })
        })
        const lines: Array<string> = []
        let madeAtFirst = 0
        for await (const chunk of response.body!) {
          if (lines.length === 0) madeAtFirst = made.elements
          lines.push(...new TextDecoder().decode(chunk).trim().split("\n"))
        }
        return { lines, madeAtFirst }
      })
      assert.deepStrictEqual(seen.lines, ["1", "2", "3", "4", "5"])
      assert.isBelow(seen.madeAtFirst, 5)
    }).pipe(Effect.provide(family()))
  )
})
