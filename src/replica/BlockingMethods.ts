/**
 * The blocking methods of one replica, on threads of their own.
 *
 * Each thread builds the deployment's module for itself, because functions can't be sent, and runs one call at a time.
 *
 * @since 0.1.0
 */
import { Duration, Effect, Exit, type Fiber, type Scope, Stream } from "effect"
import type * as Rpc from "effect/rpc/Rpc"
import type { ResourceLimits } from "../core/Options.ts"
import { empty, RequestContext } from "../core/RequestContext.ts"
import type { ServeError } from "../core/ServeError.ts"
import * as Crossing from "../wire/Crossing.ts"
import * as MethodCodec from "../wire/MethodCodec.ts"
import { type ModuleFailed, resolveModule } from "../core/ModuleFile.ts"
import type { TaskError } from "../worker/Call.ts"
import * as ThreadPool from "../worker/ThreadPool.ts"
import type { SentElement } from "./Blocking.ts"
import type { Handlers } from "./LoopReplica.ts"
import * as ModuleThreads from "./ModuleThreads.ts"

const entry = resolveModule(new URL("./blockingThread.ts", import.meta.url))

/**
 * Starts the threads, and returns handlers that run there. Those of methods that don't block must not be called.
 */
export const handlers = Effect.fnUntraced(function* (
  options: ModuleThreads.ModuleOptions & {
    readonly methods: ReadonlyArray<Rpc.AnyWithProps>
    readonly size: number
    readonly cancelGrace: Duration.Duration
    readonly resourceLimits: typeof ResourceLimits.Type
  }
): Effect.fn.Return<Handlers, ModuleFailed, Scope.Scope> {
  const { cancelGrace, methods, replica, resourceLimits, size } = options
  const { data, makeEnd } = yield* ModuleThreads.parts(options)
  const pool = yield* ThreadPool.make({
    name: replica,
    entry,
    data: undefined,
    attach: () => {
      const { link, start } = makeEnd(() => {})
      link.closeWithPeer(() => () => Exit.die(new Error(`A thread of replica "${replica}" ended`)))
      return { data: { ...data, ...start }, transfer: [start.port] }
    },
    size,
    minSize: size,
    cancelGrace,
    resourceLimits,
    transfer: "marked",
    // What waits has a permit of the replica, and the router watches its time.
    maxQueuedTasks: Infinity,
    taskTimeout: Duration.infinity,
    idleTimeout: Duration.infinity
  })
  return methods.map((rpc) => {
    const codec = MethodCodec.make(rpc)
    return codec.stream ? streamOf(pool, codec) : callOf(pool, codec)
  })
})

const callOf =
  (pool: ThreadPool.ThreadPool, codec: MethodCodec.MethodCodec): Handlers[number] =>
  (payload) =>
    Effect.flatMap(send(codec, payload), (args) =>
      Effect.matchEffect(untimed(pool.call(codec.method, args)), {
        onFailure: failed,
        onSuccess: (exit) => codec.decodeExit(exit as MethodCodec.SentExit)
      })
    )

const streamOf =
  (pool: ThreadPool.ThreadPool, codec: MethodCodec.MethodCodec): Handlers[number] =>
  (payload) =>
    Stream.unwrap(
      Effect.map(send(codec, payload), (args) =>
        pool.stream(codec.method, args).pipe(
          Stream.provideService(RequestContext, empty),
          Stream.catch((error) => Stream.fromEffect(failed(error))),
          Stream.mapEffect((element) => receive(codec, element as SentElement))
        )
      )
    )

const send = (codec: MethodCodec.MethodCodec, payload: unknown) =>
  Effect.withFiber((fiber: Fiber.Fiber<unknown, unknown>) =>
    Effect.sync(() => [codec.payload.encode(payload), Crossing.leave(fiber, undefined)])
  )

// The router ends a call that is too late, and keeps its permit until the thread has stopped.
const untimed = Effect.provideService(RequestContext, empty)

// Handlers run as tasks that never throw, so a task that failed is a defect.
const failed = (error: ServeError | TaskError): Effect.Effect<never, ServeError> =>
  error._tag === "ServeError" ? Effect.fail(error) : Effect.die(error)

const receive = (codec: MethodCodec.MethodCodec, element: SentElement): Effect.Effect<unknown, unknown> =>
  element[0] === "element" ? Effect.sync(() => codec.element.decode(element[1])) : codec.decodeExit(element)
