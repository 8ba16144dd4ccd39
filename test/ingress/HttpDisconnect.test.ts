/**
 * A client that hangs up, at each stage of its request: what works for it stops within 50 ms, and nothing of it is left.
 *
 * The machine may be busy with other things for longer than that, so each time is the shortest of three tries.
 *
 * Seen red for each of these mutations. Conversation: it doesn't stop what works, or it does although the work is to go on.
 * EffectServer: what went on is counted as an answer.
 */
import { assert, describe, it } from "@effect/vitest"
import { Batching, Deployment, HttpSchema } from "effect-serve"
import { Context, Effect, Exit, Layer, Schema, type Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { cells, Tasks } from "../worker/pools.ts"
import { ask, chunk, type Client, ingresses, Quiet, until, untilCounted, untilRunning } from "./http.ts"

const methods = [
  Rpc.make("wait"),
  Rpc.make("fast"),
  Rpc.make("stream", { success: Schema.Int, stream: true }),
  Rpc.make("upload", { payload: HttpSchema.Upload() }),
  Rpc.make("unsent", { success: Schema.Int }),
  Rpc.make("batched", { success: Schema.Int }),
  Rpc.make("nested"),
  Rpc.make("task"),
  Rpc.make("cooperative")
] as const

class Outer extends Deployment.Service<Outer>()("Outer", methods) {}
/** One request at a time. */
class Narrow extends Deployment.Service<Narrow>()("Narrow", [Rpc.make("wait")]) {}
class Inner extends Deployment.Service<Inner>()("Inner", [Rpc.make("wait")]) {}

/** What the handlers of a test have begun, and what of it was interrupted. */
class Seen extends Context.Service<Seen, { begun: number; interrupted: number; finished: number; released: boolean }>()(
  "test/HttpDisconnect/Seen"
) {
  static readonly layer = Layer.sync(Seen, () => ({ begun: 0, interrupted: 0, finished: 0, released: false }))
}

const watched = Effect.fnUntraced(function* <A, E, R>(work: Effect.Effect<A, E, R>) {
  const seen = yield* Seen
  seen.begun++
  return yield* Effect.onExit(work, (exit) =>
    Effect.sync(() => {
      if (Exit.hasInterrupts(exit)) seen.interrupted++
      else seen.finished++
    })
  )
})

/** Waits for the test, or for ever. */
const wait = watched(
  Effect.gen(function* () {
    const seen = yield* Seen
    while (!seen.released) yield* Effect.sleep(1)
  })
)

const shared = cells()

const OuterLive = Outer.toLayer(
  Effect.gen(function* () {
    const inner = yield* Inner
    const tasks = yield* Tasks
    const seen = yield* Seen
    const unsent = yield* Batching.make({
      batchWaitTimeout: "1 hour",
      run: (items: ReadonlyArray<number>) => Effect.succeed(items)
    })
    const batched = yield* Batching.make({
      batchWaitTimeout: 0,
      run: (items: ReadonlyArray<number>) => Effect.as(watched(Effect.never), items)
    })
    return Outer.of({
      wait: () => wait,
      fast: () => Effect.void,
      stream: () =>
        Stream.fromEffectRepeat(Effect.delay(Effect.succeed(1), "1 millis")).pipe(
          Stream.takeWhile(() => !seen.released),
          Stream.onStart(Effect.sync(() => void seen.begun++)),
          Stream.onExit((exit) =>
            Effect.sync(() => {
              if (Exit.hasInterrupts(exit)) seen.interrupted++
              else seen.finished++
            })
          )
        ),
      upload: (body) => watched(Stream.runDrain(body)),
      unsent: () => Effect.orDie(watched(unsent(1))),
      batched: () => Effect.orDie(batched(1)),
      nested: () => inner.wait(),
      task: () => Effect.orDie(watched(tasks.runaway(shared))),
      cooperative: () => Effect.asVoid(Effect.orDie(watched(tasks.cooperative(shared))))
    })
  }),
  { maxOngoingRequests: 20, gracefulShutdownTimeout: 0 }
)

const Deployments = OuterLive.pipe(
  Layer.provideMerge(
    Layer.mergeAll(
      Inner.toLayer({ wait: () => wait }, { gracefulShutdownTimeout: 0 }),
      Narrow.toLayer({ wait: () => wait }, { maxOngoingRequests: 1, gracefulShutdownTimeout: 0 }),
      Tasks.layer({ size: 1, cancelGrace: "10 millis" })
    )
  ),
  Layer.provideMerge(Seen.layer),
  Layer.provideMerge(Quiet)
)

const routes = { "/outer": Outer, "/narrow": Narrow } as const

const state = Effect.gen(function* () {
  const [outer, narrow, inner] = [yield* Outer.state, yield* Narrow.state, yield* Inner.state]
  return {
    running: outer.running + narrow.running + inner.running,
    queued: outer.queued + narrow.queued + inner.queued
  }
})

const untilSeen = (condition: (seen: Seen["Service"]) => boolean) =>
  Effect.flatMap(Seen, (seen) => until(() => condition(seen)))

/** Milliseconds from hanging up until nothing of the request is left. */
const hangUp = (client: Client, isGone: Effect.Effect<boolean, never, Outer | Narrow | Inner | Seen | Tasks>) =>
  Effect.gen(function* () {
    const start = performance.now()
    client.socket.destroy()
    while (!(yield* isGone)) {
      if (performance.now() - start > 5000) return yield* Effect.die(new Error("it is never gone"))
      yield* Effect.sleep(1)
    }
    return performance.now() - start
  })

/** Nothing runs and nothing waits. */
const isIdle = Effect.map(state, ({ queued, running }) => queued === 0 && running === 0)

const post = (path: string, headers: Record<string, string> = {}) => ask(path, { headers })

for (const [name, Ingress] of Object.entries(ingresses(routes))) {
  const App = Ingress.pipe(Layer.provideMerge(Deployments))
  type Services = Layer.Success<typeof App>

  const live = (title: string, test: Effect.Effect<void, unknown, Services | Scope.Scope>) =>
    it.live(title, () => test.pipe(Effect.scoped, Effect.provide(App)), 30_000)

  describe(`a client of HttpIngress.${name} that hangs up`, () => {
    const onThread = name.includes("thread")
    /** It is counted as 499. A server on a thread tells its counts once a second, so that is waited for where little else is. */
    const untilTold = (path: string, count: number) =>
      onThread && path !== "/outer/wait" && path !== "/narrow/wait" ? Effect.void : untilCounted(path, { 499: count })

    /** Hangs up three times, each time when the request is where it should be. */
    const soonGone = (
      path: string,
      isThere: (round: number) => Effect.Effect<unknown, unknown, Services>,
      begin: Effect.Effect<Client, never, Services | Scope.Scope> = post(path)
    ) =>
      Effect.gen(function* () {
        const times: Array<number> = []
        for (const round of [1, 2, 3]) {
          const client = yield* begin
          yield* isThere(round)
          times.push(yield* hangUp(client, isIdle))
        }
        assert.isAtMost(Math.min(...times), 50, `milliseconds, ${times.map(Math.round).join(", ")}`)
        yield* untilTold(path, 3)
      })

    live(
      "leaves the queue",
      Effect.gen(function* () {
        const first = yield* post("/narrow/wait")
        yield* untilSeen(({ begun }) => begun === 1)
        const times: Array<number> = []
        for (const _ of [1, 2, 3]) {
          const second = yield* post("/narrow/wait")
          // With a router in the server's thread it waits there, and the app hears nothing of it.
          if (onThread) yield* Effect.sleep("20 millis")
          else yield* untilQueued(1)
          times.push(
            yield* hangUp(
              second,
              Effect.map(Narrow.state, ({ queued }) => queued === 0)
            )
          )
        }
        assert.isAtMost(Math.min(...times), 50)
        yield* untilTold("/narrow/wait", 3)
        // The one before it is not disturbed, and the one behind it not held up.
        const third = yield* post("/narrow/wait")
        const seen = yield* Seen
        assert.deepInclude(seen, { begun: 1, interrupted: 0 })
        seen.released = true
        yield* until(() => first.answer.isComplete && third.answer.isComplete)
        assert.deepInclude(seen, { begun: 2, finished: 2 })
      })
    )

    live(
      "interrupts the handler",
      Effect.gen(function* () {
        yield* soonGone("/outer/wait", (round) => untilSeen(({ begun }) => begun === round))
        assert.deepInclude(yield* Seen, { interrupted: 3, finished: 0 })
      })
    )

    live(
      "interrupts the calls that the handler has made",
      Effect.gen(function* () {
        yield* soonGone("/outer/nested", (round) => untilSeen(({ begun }) => begun === round))
        assert.deepInclude(yield* Seen, { interrupted: 3, finished: 0 })
      })
    )

    live(
      "leaves a batch that has not been sent",
      Effect.gen(function* () {
        yield* soonGone("/outer/unsent", (round) => untilSeen(({ begun }) => begun === round))
        assert.deepInclude(yield* Seen, { interrupted: 3, finished: 0 })
      })
    )

    live(
      "interrupts a batch in which it is alone",
      Effect.gen(function* () {
        yield* soonGone("/outer/batched", (round) => untilSeen(({ begun }) => begun === round))
        assert.deepInclude(yield* Seen, { interrupted: 3, finished: 0 })
      })
    )

    live(
      "stops its task on a thread, with the thread if need be",
      Effect.gen(function* () {
        const { isRunning } = { isRunning: Effect.map(Tasks.state, ({ running }) => running === 1) }
        const there = Effect.repeat(Effect.delay(isRunning, "1 millis"), { until: (isTrue) => isTrue })
        yield* soonGone("/outer/cooperative", () => there)
        yield* soonGone("/outer/task", () => there)
        yield* Effect.repeat(Effect.delay(isRunning, "1 millis"), { until: (isTrue) => !isTrue })
      })
    )

    live(
      "ends its stream",
      Effect.gen(function* () {
        yield* soonGone("/outer/stream", (round) => untilSeen(({ begun }) => begun === round))
        assert.deepInclude(yield* Seen, { interrupted: 3, finished: 0 })
      })
    )

    live(
      "ends its upload",
      Effect.gen(function* () {
        const begin = Effect.map(ask("/outer/upload", { length: "chunked" }), (client) => {
          client.write(chunk("some bytes"))
          return client
        })
        yield* soonGone("/outer/upload", (round) => untilSeen(({ begun }) => begun === round), begin)
        assert.strictEqual((yield* Seen).finished, 0)
      })
    )

    live(
      "before its body has come starts nothing",
      Effect.gen(function* () {
        const client = yield* ask("/outer/wait", { length: 10, body: "{" })
        yield* Effect.sleep("20 millis")
        client.socket.destroy()
        yield* untilTold("/outer/wait", 1)
        assert.strictEqual((yield* Seen).begun, 0)
      })
    )

    live(
      "leaves others alone",
      Effect.gen(function* () {
        const waiting = yield* Effect.forEach([1, 2, 3, 4], () => post("/outer/wait"))
        yield* untilSeen(({ begun }) => begun === 4)
        waiting[0]!.socket.destroy()
        waiting[2]!.socket.destroy()
        yield* untilRunning(state, 2)
        const seen = yield* Seen
        seen.released = true
        yield* until(() => waiting[1]!.answer.isComplete && waiting[3]!.answer.isComplete)
        assert.deepStrictEqual([waiting[1]!.answer.status, waiting[3]!.answer.status], [200, 200])
        assert.deepInclude(seen, { interrupted: 2, finished: 2 })
      })
    )

    describe("and asked for the work to go on", () => {
      const headers = { "x-request-disconnect-disabled": "?1" }

      for (const method of ["wait", "stream"]) {
        live(
          `has its ${method === "wait" ? "handler" : "stream"} run to its end`,
          Effect.gen(function* () {
            const client = yield* post(`/outer/${method}`, headers)
            yield* untilSeen(({ begun }) => begun === 1)
            client.socket.destroy()
            // What a hang-up interrupts is interrupted by the time that another request has been answered.
            const other = yield* post("/outer/fast")
            yield* until(() => other.answer.isComplete)
            yield* Effect.sleep("20 millis")
            const seen = yield* Seen
            assert.deepInclude(seen, { interrupted: 0, finished: 0 })
            seen.released = true
            yield* until(() => seen.finished === 1)
            yield* untilRunning(state, 0)
            yield* untilTold(`/outer/${method}`, 1)
          })
        )
      }
    })
  })
}

const untilQueued = (count: number) =>
  Effect.repeat(Effect.delay(Narrow.state, "1 millis"), { until: ({ queued }) => queued === count })
