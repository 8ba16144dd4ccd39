/**
 * A replica whose handlers run on this event loop.
 *
 * @since 0.1.0
 */
import { Context, Effect, Exit, Latch, type Option, Schedule, Scope, Semaphore, Stream, Tracer } from "effect"
import { Host } from "../batching/Host.ts"
import { ReplicaLost, ServeError } from "../core/ServeError.ts"
import * as CurrentMethod from "../watch/CurrentMethod.ts"
import type { Replica } from "./Replica.ts"
import type { Request } from "./Request.ts"

/**
 * The handlers of a deployment, in the order of its methods.
 *
 * @category models
 * @since 0.1.0
 */
export type Handlers = ReadonlyArray<
  (payload: unknown, request: Request) => Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown>
>

/** Three tries in all, with half a second and then a second between them. */
const retries = Schedule.exponential("500 millis").pipe(Schedule.upTo({ times: 2 }))

/**
 * Starts a replica: builds its handlers in a scope of the replica's own, up to three times. The replica leaves when the
 * surrounding scope closes, or when its own does, which its builder can bring about (`Host.leave`).
 */
export const make = <E, R>(options: {
  readonly id: string
  readonly methods: ReadonlyArray<string>
  readonly permits: number
  readonly build: Effect.Effect<Handlers, E, R>
}): Effect.Effect<Replica, E, Exclude<R, Scope.Scope> | Scope.Scope> =>
  start(options).pipe(Effect.sandbox, Effect.retry(retries), Effect.catch(Effect.failCause))

const start = Effect.fnUntraced(function* <E, R>(options: {
  readonly id: string
  readonly methods: ReadonlyArray<string>
  readonly permits: number
  readonly build: Effect.Effect<Handlers, E, R>
}) {
  const parent = yield* Effect.scope
  const scope = yield* Scope.fork(parent)
  // In a fiber of its own, because who calls it may be one of those that the scope stops and waits for; and at once, so that from
  // then on nothing is sent there.
  const leave = Effect.asVoid(Effect.forkDetach(Scope.close(scope, Exit.void), { startImmediately: true }))
  return yield* fromHandlers(options, leave).pipe(
    Scope.provide(scope),
    Effect.onExit((exit) => (Exit.isFailure(exit) ? Scope.close(scope, exit) : Effect.void))
  )
})

const fromHandlers = Effect.fnUntraced(function* <E, R>(
  {
    build,
    id,
    methods,
    permits
  }: {
    readonly id: string
    readonly methods: ReadonlyArray<string>
    readonly permits: number
    readonly build: Effect.Effect<Handlers, E, R>
  },
  leave: Effect.Effect<void>
) {
  const batchers: Host["batchers"] = new Set()
  const endings: Host["endings"] = new Set()
  const deployment = id.slice(0, id.lastIndexOf("#"))
  const host: Host = {
    deployment,
    replica: id,
    maxOngoingRequests: permits,
    leave,
    endings,
    batchers
  }
  const handlers = yield* Effect.provideService(build, Host, host)
  // A handler gets the services its builder had, except the replica's scope, in which what it opens would pile up, and
  // the span of the start.
  const context = Context.omit(Scope.Scope, Tracer.ParentSpan)(yield* Effect.context<R>())
  const semaphore = yield* Semaphore.make(permits)
  const withPermit = semaphore.withPermitsIfAvailable(1)
  const left = Latch.makeUnsafe()
  const lost = Effect.fail(new ServeError({ reason: new ReplicaLost({ replica: id, started: false }) }))
  yield* Effect.addFinalizer(() => left.open)

  const run = (request: Request, onFirst: Effect.Effect<void> = Effect.void): Effect.Effect<unknown, unknown> =>
    Effect.suspend(() => {
      if (left.isOpen()) return lost
      request.state = "Running"
      const work = handlers[request.method]!(request.payload, request)
      const { relay } = request
      return relay === undefined
        ? (work as Effect.Effect<unknown, unknown>)
        : Stream.runForEachArray(work as Stream.Stream<unknown, unknown>, (chunk) =>
            relay.started ? relay.offer(chunk) : Effect.andThen(onFirst, relay.offer(chunk))
          )
    })

  /** Runs a stream inside a permit, which it gives back with its first element. */
  const runAhead = (request: Request): Effect.Effect<Option.Option<unknown>, unknown> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(semaphore.takeIfAvailable(1), (isTaken) => {
        if (!isTaken) return Effect.succeedNone
        let isHeld = true
        const release = Effect.suspend(() => {
          if (!isHeld) return Effect.void
          isHeld = false
          return Effect.asVoid(semaphore.release(1))
        })
        return Effect.ensuring(restore(Effect.asSome(run(request, release))), release)
      })
    )

  const replica: Replica = {
    id,
    contexts: methods.map((method) => CurrentMethod.contextOf(context, { deployment, method })),
    call: (request) => (request.relay?.releasesEarly === true ? runAhead(request) : withPermit(run(request))),
    batchers: () => Array.from(batchers, (state) => state()),
    hasLeft: () => left.isOpen(),
    left: left.await,
    end: Effect.suspend(() => Effect.all(endings, { concurrency: "unbounded", discard: true })),
    whenFree: semaphore.withPermit(Effect.void),
    resize: semaphore.resize.bind(semaphore)
  }
  return replica
})
