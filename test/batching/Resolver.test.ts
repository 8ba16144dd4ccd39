/**
 * Seen red for each of these mutations: the request context is lost ("as DeadlineExceeded"); interruption isn't told, a caller isn't
 * found again, or one that left stays in the queue ("as QueueFull"); Effect makes batches too ("fibers that have nothing to do with
 * each other"); Exits are values ("a request's own Exit"); too few results are taken ("a typed BatchContract"); a run that is over is
 * waited for ("by the run itself of a caller of make"); an item that is too large runs ("as ItemTooLarge").
 */
import { assert, describe, it } from "@effect/vitest"
import { Batching, Deployment, RequestContext, ServeError } from "effect-serve"
import { Context, Deferred, Effect, Exit, Fiber, Option, Request, Schema, Scope } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { answered, Broken, call, isDone, open, reason, settle } from "../deployments.ts"

type Failure = Broken | ServeError.ServeError

class GetName extends Request.Class<{ readonly id: number }, string, Failure> {}
class GetAge extends Request.Class<{ readonly id: number }, number, ServeError.ServeError> {}

class Users extends Deployment.Service<Users>()("Users", [
  Rpc.make("name", { payload: { id: Schema.Int }, success: Schema.String, error: Broken })
]) {}

const get = (id: number) => new GetName({ id })
const idsOf = (requests: ReadonlyArray<GetName>) => requests.map(({ id }) => id)
const nameOf = ({ id }: GetName) => `user ${id}`

/** A resolver that waits for nothing at its end; it notes its batches, and those that were interrupted. */
const make = Effect.fnUntraced(function* (options: Partial<Batching.ResolverOptions<GetName, never>> = {}) {
  const notes = { batches: [] as Array<ReadonlyArray<number>>, interrupted: [] as Array<ReadonlyArray<number>> }
  const run = options.run ?? ((requests: ReadonlyArray<GetName>) => Effect.succeed(requests.map(nameOf)))
  const resolver = yield* Batching.resolver<GetName>({
    gracefulShutdownTimeout: 0,
    ...options,
    run: (requests) => {
      notes.batches.push(idsOf(requests))
      return Effect.onInterrupt(run(requests), () => Effect.sync(() => notes.interrupted.push(idsOf(requests))))
    }
  })
  return { notes, fetch: (id: number) => Effect.request(get(id), resolver) }
})

/** Answers after some time. */
const lasting = (millis: number) => (requests: ReadonlyArray<GetName>) =>
  Effect.as(Effect.sleep(millis), requests.map(nameOf))

const fetchAll = (fetch: (id: number) => Effect.Effect<string, Failure>, ...ids: ReadonlyArray<number>) =>
  Effect.forEach(ids, (id) => call(fetch(id)))

const within = (deadline: number) =>
  Effect.provideService(RequestContext.RequestContext, Object.assign({}, RequestContext.empty, { deadline }))

describe("Batching", () => {
  describe("resolver", () => {
    it.effect("batches the requests of fibers that have nothing to do with each other", () =>
      Effect.gen(function* () {
        const { fetch, notes } = yield* make({ maxBatchSize: 3, batchWaitTimeout: 10 })
        const context = yield* Effect.context()
        const fibers = [1, 2, 3, 4].map((id) => Effect.runForkWith(context)(fetch(id)))
        yield* settle
        assert.deepStrictEqual(notes.batches, [[1, 2, 3]])
        assert.strictEqual(yield* Fiber.join(fibers[2]!), "user 3")
        yield* TestClock.adjust(9)
        assert.isFalse(isDone(fibers[3]!))
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* Fiber.join(fibers[3]!), "user 4")
        assert.deepStrictEqual(notes.batches, [[1, 2, 3], [4]])
      })
    )

    it.effect("works with Effect.forEach, however many at once", () =>
      Effect.gen(function* () {
        const ids = Array.from({ length: 10 }, (_, i) => i)
        for (const [concurrency, sizes] of [
          ["unbounded", [4, 4, 2]],
          [2, [2, 2, 2, 2, 2]],
          [1, ids.map(() => 1)]
        ] as const) {
          const { fetch, notes } = yield* make({ maxBatchSize: 4, batchWaitTimeout: 1 })
          const all = yield* call(Effect.forEach(ids, fetch, { concurrency }))
          for (let i = 0; i < 12; i++) yield* TestClock.adjust(1)
          assert.deepStrictEqual(
            yield* Fiber.join(all),
            ids.map((id) => `user ${id}`)
          )
          assert.deepStrictEqual(
            notes.batches.map((ids) => ids.length),
            sizes
          )
        }
      })
    )

    it.effect("answers each request, whichever class it is of, by position", () =>
      Effect.gen(function* () {
        const resolver = yield* Batching.resolver<GetName | GetAge>({
          maxBatchSize: 2,
          run: (requests) =>
            Effect.succeed(requests.map((request) => (request instanceof GetName ? nameOf(request) : 10 * request.id)))
        })
        const answers = yield* Effect.all(
          [Effect.request(get(1), resolver), Effect.request(new GetAge({ id: 2 }), resolver)],
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(answers, ["user 1", 20])
      })
    )

    it.effect("lets more items come while all slots are taken, and runs as many batches at once as it may", () =>
      Effect.gen(function* () {
        const { fetch, notes } = yield* make({
          maxBatchSize: 3,
          batchWaitTimeout: 1,
          maxConcurrentBatches: 2,
          run: lasting(100)
        })
        yield* fetchAll(fetch, 1)
        yield* TestClock.adjust(1)
        yield* fetchAll(fetch, 2)
        yield* TestClock.adjust(1)
        for (const id of [3, 4, 5, 6]) {
          yield* fetchAll(fetch, id)
          yield* TestClock.adjust(10)
        }
        assert.deepStrictEqual(notes.batches, [[1], [2]])
        yield* TestClock.adjust(200)
        assert.deepStrictEqual(notes.batches, [[1], [2], [3, 4, 5], [6]])
      })
    )

    describe("outcomes", () => {
      it.effect("are those of a request's own Exit", () =>
        Effect.gen(function* () {
          const { fetch } = yield* make({
            maxBatchSize: 3,
            run: (requests) =>
              Effect.succeed(
                requests.map((request) => {
                  if (request.id === 1) return Exit.succeed("one")
                  return request.id === 2 ? Exit.fail(new Broken({ part: "two" })) : nameOf(request)
                })
              )
          })
          const fibers = yield* fetchAll(fetch, 1, 2, 3)
          yield* settle
          assert.deepStrictEqual(
            fibers.map((fiber) => fiber.pollUnsafe()),
            [Exit.succeed("one"), Exit.fail(new Broken({ part: "two" })), Exit.succeed("user 3")]
          )
        })
      )

      it.effect("are the failure of run for every request of the batch, and the next batch works", () =>
        Effect.gen(function* () {
          const failures: ReadonlyArray<readonly [() => Effect.Effect<ReadonlyArray<string>, Broken>, unknown]> = [
            [() => Effect.fail(new Broken({ part: "run" })), Exit.fail(new Broken({ part: "run" }))],
            [() => Effect.die("boom"), Exit.die("boom")],
            [
              () => {
                throw new Error("thrown")
              },
              Exit.die(new Error("thrown"))
            ]
          ]
          for (const [fail, expected] of failures) {
            const { fetch } = yield* make({
              maxBatchSize: 2,
              run: (requests) => (requests[0].id === 1 ? fail() : lasting(0)(requests))
            })
            const fibers = yield* fetchAll(fetch, 1, 2)
            yield* settle
            for (const fiber of fibers) assert.deepStrictEqual<unknown>(fiber.pollUnsafe(), expected)
            const next = yield* fetchAll(fetch, 3, 4)
            yield* TestClock.adjust(1)
            assert.strictEqual(yield* Fiber.join(next[1]!), "user 4")
          }
        })
      )

      it.effect("are a typed BatchContract when the number of results is wrong", () =>
        Effect.gen(function* () {
          const { fetch } = yield* make({ maxBatchSize: 2, run: () => Effect.succeed(["only one"]) })
          const fibers = yield* fetchAll(fetch, 1, 2)
          for (const fiber of fibers) {
            assert.deepStrictEqual(yield* answered(fiber), new ServeError.BatchContract({ expected: 2, received: 1 }))
          }
        })
      )

      it.effect("of bisection single out the request that makes run fail", () =>
        Effect.gen(function* () {
          const { fetch, notes } = yield* make({
            maxBatchSize: 4,
            onFailure: "bisect",
            idempotent: true,
            run: (requests) =>
              requests.some(({ id }) => id === 3)
                ? Effect.fail(new Broken({ part: "three" }))
                : Effect.succeed(requests.map(nameOf))
          })
          const fibers = yield* fetchAll(fetch, 1, 2, 3, 4)
          yield* settle
          assert.deepStrictEqual(
            fibers.map((fiber) => Exit.isSuccess(fiber.pollUnsafe()!)),
            [true, true, false, true]
          )
          assert.deepStrictEqual(yield* Effect.flip(Fiber.join(fibers[2]!)), new Broken({ part: "three" }))
          assert.deepStrictEqual(notes.batches, [[1, 2, 3, 4], [1, 2], [3, 4], [3], [4]])
        })
      )
    })

    describe("refusals reach the caller typed", () => {
      it.effect("as QueueFull when as many wait as may", () =>
        Effect.gen(function* () {
          const { fetch } = yield* make({ maxBatchSize: 1, maxQueuedItems: 1, run: () => Effect.never })
          const [, waiting] = yield* fetchAll(fetch, 1, 2)
          const handled = fetch(3).pipe(
            Effect.catchReason("ServeError", "QueueFull", ({ queued }) => Effect.succeed(`${queued} wait`))
          )
          assert.strictEqual(yield* handled, "1 wait")
          yield* Fiber.interrupt(waiting!)
          assert.isFalse(isDone(yield* call(fetch(4))))
        })
      )

      it.effect("as DeadlineExceeded when the deadline of the request's fiber passes while it waits", () =>
        Effect.gen(function* () {
          const { fetch, notes } = yield* make({ maxBatchSize: 2, batchWaitTimeout: 20 })
          const [late, patient] = yield* Effect.forEach([within(10)(fetch(1)), within(30)(fetch(2))], call)
          yield* TestClock.adjust(20)
          // Both were there, so the batch was full at once.
          assert.deepStrictEqual(notes.batches, [[1, 2]])
          assert.isTrue(isDone(late!) && isDone(patient!))
          const tooLate = yield* call(within(30)(fetch(3)))
          yield* TestClock.adjust(20)
          assert.deepStrictEqual(
            yield* answered(tooLate),
            new ServeError.DeadlineExceeded({ deployment: "batcher", stage: "batch" })
          )
          assert.deepStrictEqual(
            yield* reason(within(40)(fetch(4))),
            new ServeError.DeadlineExceeded({ deployment: "batcher", stage: "batch" })
          )
          assert.deepStrictEqual(notes.batches, [[1, 2]])
        })
      )

      it.effect("as ItemTooLarge, which leaves the others alone", () =>
        Effect.gen(function* () {
          const { fetch } = yield* make({
            maxBatchSize: 10,
            batchSize: { empty: 0, add: (size: number, { id }: GetName) => size + id }
          })
          const [large, small] = yield* fetchAll(fetch, 11, 10)
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(yield* answered(large!), new ServeError.ItemTooLarge({ size: 11, maxBatchSize: 10 }))
          assert.strictEqual(yield* Fiber.join(small!), "user 10")
        })
      )

      it.effect("as Unavailable after the scope has closed, which runs what waits", () =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const { fetch } = yield* Scope.provide(
            make({ batchWaitTimeout: "1 hour", gracefulShutdownTimeout: 50 }),
            scope
          )
          const { fetch: slow } = yield* Scope.provide(
            make({ maxBatchSize: 1, run: lasting(1000), gracefulShutdownTimeout: 50 }),
            scope
          )
          const [waiting] = yield* fetchAll(fetch, 1)
          const [running, queued] = yield* fetchAll(slow, 2, 3)
          const closing = yield* call(Scope.close(scope, Exit.void))
          yield* TestClock.adjust(50)
          yield* settle
          assert.strictEqual(yield* Fiber.join(waiting!), "user 1")
          const unavailable = new ServeError.Unavailable({ deployment: "batcher", why: "draining" })
          assert.deepStrictEqual(yield* answered(running!), unavailable)
          assert.deepStrictEqual(yield* answered(queued!), unavailable)
          assert.isTrue(isDone(closing))
          assert.deepStrictEqual(yield* reason(fetch(4)), unavailable)
        })
      )
    })

    describe("interruption", () => {
      it.effect("of a caller that waits takes its request out of the batch, and out of the queue at once", () =>
        Effect.gen(function* () {
          const { fetch, notes } = yield* make({ batchWaitTimeout: 10, maxQueuedItems: 3 })
          const fibers = yield* fetchAll(fetch, 1, 2, 3)
          yield* Fiber.interrupt(fibers[0]!)
          const [next] = yield* fetchAll(fetch, 4)
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(notes.batches, [[2, 3, 4]])
          assert.isTrue([fibers[1]!, fibers[2]!, next!].every((fiber) => Exit.isSuccess(fiber.pollUnsafe()!)))
        })
      )

      it.effect("of all that wait leaves nothing to run", () =>
        Effect.gen(function* () {
          const { fetch, notes } = yield* make({ batchWaitTimeout: 10 })
          yield* Fiber.interruptAll(yield* fetchAll(fetch, 1, 2))
          yield* TestClock.adjust("1 hour")
          assert.deepStrictEqual(notes.batches, [])
          const [next] = yield* fetchAll(fetch, 3)
          yield* TestClock.adjust(10)
          assert.strictEqual(yield* Fiber.join(next!), "user 3")
        })
      )

      it.effect("of some that run returns at once and lets the others have their answers", () =>
        Effect.gen(function* () {
          const { fetch, notes } = yield* make({ maxBatchSize: 3, run: lasting(100) })
          const [a, b, c] = yield* fetchAll(fetch, 1, 2, 3)
          yield* TestClock.adjust(50)
          yield* Fiber.interruptAll([a!, c!])
          yield* TestClock.adjust(50)
          assert.strictEqual(yield* Fiber.join(b!), "user 2")
          assert.deepStrictEqual(notes.interrupted, [])
        })
      )

      it.effect("of all that run interrupts the run, and frees the slot", () =>
        Effect.gen(function* () {
          const { fetch, notes } = yield* make({ maxBatchSize: 2, run: lasting(100) })
          const fibers = yield* fetchAll(fetch, 1, 2)
          yield* TestClock.adjust(50)
          yield* Fiber.interruptAll(fibers)
          yield* settle
          assert.deepStrictEqual(notes.interrupted, [[1, 2]])
          const next = yield* fetchAll(fetch, 3, 4)
          yield* TestClock.adjust(100)
          assert.strictEqual(yield* Fiber.join(next[0]!), "user 3")
        })
      )

      it.effect("after the answer, or by the run itself, disturbs nothing", () =>
        Effect.gen(function* () {
          const callers: Array<Fiber.Fiber<string, Failure>> = []
          const { fetch } = yield* make({
            batchWaitTimeout: 10,
            run: (requests) =>
              Effect.sync(() => {
                for (const caller of callers.splice(0)) caller.interruptUnsafe()
                return requests.map(nameOf)
              })
          })
          callers.push(...(yield* fetchAll(fetch, 1, 2)))
          const fibers = [...callers]
          yield* TestClock.adjust(10)
          yield* settle
          assert.isTrue(fibers.every((fiber) => Exit.hasInterrupts(fiber.pollUnsafe()!)))
          const [next] = yield* fetchAll(fetch, 3)
          yield* TestClock.adjust(10)
          assert.strictEqual(yield* Fiber.join(next!), "user 3")
        })
      )

      it.effect("by the run itself of a caller of make is over at once, and leaves nothing spinning", () =>
        Effect.gen(function* () {
          const callers: Array<Fiber.Fiber<number, ServeError.ServeError>> = []
          const batched = yield* Batching.make({
            batchWaitTimeout: 10,
            run: (items: ReadonlyArray<number>) =>
              Effect.sync(() => {
                for (const caller of callers) caller.interruptUnsafe()
                return items
              })
          })
          callers.push(yield* call(batched(1)))
          yield* TestClock.adjust(10)
          yield* settle
          assert.isTrue(isDone(callers[0]!))
        })
      )
    })

    it.effect("runs in the services of the layer that makes it, with the request context of its callers", () =>
      Effect.gen(function* () {
        class Model extends Context.Service<Model, { readonly name: string }>()("Model") {}
        const resolver = yield* Batching.resolver<GetName, Model>({
          maxBatchSize: 1,
          run: (requests) =>
            Effect.gen(function* () {
              const { name } = yield* Model
              const { tenant } = yield* RequestContext.RequestContext
              return requests.map(() => `${name} for ${tenant}`)
            })
        }).pipe(Effect.provideService(Model, { name: "one" }))
        const answer = yield* Effect.request(get(1), resolver).pipe(
          Effect.provideService(Model, { name: "other" }),
          Effect.provideService(
            RequestContext.RequestContext,
            Object.assign({}, RequestContext.empty, { tenant: "acme" })
          )
        )
        assert.strictEqual(answer, "one for acme")
      })
    )

    it.effect("keeps requests apart whose keys differ", () =>
      Effect.gen(function* () {
        const { fetch, notes } = yield* make({ maxBatchSize: 2, key: ({ id }: GetName) => id % 2 })
        yield* fetchAll(fetch, 1, 2, 3, 4)
        yield* settle
        assert.deepStrictEqual(notes.batches, [
          [1, 3],
          [2, 4]
        ])
      })
    )

    it.effect("refuses options that are out of range", () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(make({ maxBatchSize: 0 }))
        assert.isTrue(Exit.isFailure(exit))
        assert.match(String(Option.getOrUndefined(Exit.getCause(exit))), /maxBatchSize/)
      })
    )

    it.effect("runs in a deployment's handler, where calls of different requests share a batch", () =>
      Effect.gen(function* () {
        const batches: Array<ReadonlyArray<number>> = []
        const gate = Deferred.makeUnsafe<void>()
        const layer = Users.toLayer(
          Effect.gen(function* () {
            const resolver = yield* Batching.resolver<GetName>({
              name: "names",
              maxBatchSize: 3,
              gracefulShutdownTimeout: 0,
              run: (requests) => {
                batches.push(idsOf(requests))
                return Effect.as(
                  Deferred.await(gate),
                  requests.map((request) =>
                    request.id === 0 ? Exit.fail(new Broken({ part: "zero" })) : nameOf(request)
                  )
                )
              }
            })
            const name = ({ id }: { readonly id: number }) => Effect.request(get(id), resolver)
            return { name }
          }),
          { gracefulShutdownTimeout: 0, maxOngoingRequests: 8 }
        )
        const { context, handle } = yield* open(Users, layer)
        const state = Effect.provideContext(Users.state, context)
        const fibers = yield* Effect.forEach([0, 1, 2, 3], (id) => call(handle.name({ id }, { timeout: 50 })))
        yield* settle
        assert.deepStrictEqual(batches, [[0, 1, 2]])
        assert.deepInclude((yield* state).replicas[0]!.batchers[0], { name: "Users.names", running: 1, queued: 1 })
        yield* TestClock.adjust(20)
        yield* Deferred.succeed(gate, undefined)
        yield* settle
        assert.deepStrictEqual(yield* Effect.flip(Fiber.join(fibers[0]!)), new Broken({ part: "zero" }))
        assert.deepStrictEqual(yield* Fiber.join(fibers[2]!), "user 2")
        assert.deepStrictEqual(yield* Fiber.join(fibers[3]!), "user 3")
        assert.deepInclude(yield* state, { running: 0, completed: 3, failed: 1 })
      })
    )

    it.effect("shows its state, and takes other limits while it runs", () =>
      Effect.gen(function* () {
        const sizes: Array<number> = []
        const resolver = yield* Batching.resolver<GetName>({
          maxBatchSize: 2,
          run: (requests) =>
            Effect.sync(() => {
              sizes.push(requests.length)
              return requests.map(({ id }) => `user ${id}`)
            })
        })
        const ask = Effect.forEach([1, 2, 3, 4], (id) => call(Effect.request(get(id), resolver)))
        for (const fiber of yield* ask) yield* Fiber.join(fiber)
        yield* resolver.update({ maxBatchSize: 4 })
        for (const fiber of yield* ask) yield* Fiber.join(fiber)
        assert.deepStrictEqual(sizes, [2, 2, 4])
        assert.deepInclude(yield* resolver.state, { maxBatchSize: 4, queued: 0, items: 8 })
      })
    )

    it.effect("hears of a deployment's callers whose time is over", () =>
      Effect.gen(function* () {
        const interrupted: Array<ReadonlyArray<number>> = []
        const layer = Users.toLayer(
          Effect.gen(function* () {
            const resolver = yield* Batching.resolver<GetName>({
              maxBatchSize: 2,
              gracefulShutdownTimeout: 0,
              run: (requests) =>
                Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted.push(idsOf(requests))))
            })
            const name = ({ id }: { readonly id: number }) => Effect.request(get(id), resolver)
            return { name }
          }),
          { gracefulShutdownTimeout: 0, maxOngoingRequests: 8 }
        )
        const { handle } = yield* open(Users, layer)
        const fibers = yield* Effect.forEach([1, 2], (id) => call(handle.name({ id }, { timeout: 10 * id })))
        yield* TestClock.adjust(10)
        assert.deepInclude(yield* answered(fibers[0]!), { _tag: "DeadlineExceeded" })
        yield* settle
        assert.deepStrictEqual(interrupted, [])
        yield* TestClock.adjust(10)
        yield* settle
        assert.deepStrictEqual(interrupted, [[1, 2]])
      })
    )
  })
})
