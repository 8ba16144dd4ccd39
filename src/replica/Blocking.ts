/**
 * Methods whose handlers block: plain functions, which hold their thread until they return.
 *
 * In a module deployment they run on threads of their own. Elsewhere, or when that is switched off, they run on the event loop, and
 * nothing else does meanwhile.
 *
 * @since 0.1.0
 */
import { Cause, Clock, Context, Effect, Exit, Schema, Stream } from "effect"
import type * as Rpc from "effect/rpc/Rpc"
import * as RpcSchema from "effect/rpc/RpcSchema"
import { RequestContext } from "../core/RequestContext.ts"
import { ServeError } from "../core/ServeError.ts"
import * as Crossing from "../wire/Crossing.ts"
import type { MethodCodec, SentExit } from "../wire/MethodCodec.ts"
import type { Handlers } from "./LoopReplica.ts"

/**
 * Marks a method whose handler blocks.
 *
 * @category annotations
 * @since 0.1.0
 */
export const Blocking: Context.Reference<boolean> = Context.Reference<boolean>("effect-serve/Blocking", {
  defaultValue: () => false
})

/** Whether the handler of a method blocks. */
export const isBlocking = (rpc: Rpc.AnyWithProps): boolean => Context.get(rpc.annotations, Blocking)

/**
 * A handler that blocks: it returns what the method gives, or something to iterate over for a stream method, or throws.
 *
 * @category models
 * @since 0.1.0
 */
export type BlockingHandler = (payload: unknown, request: RequestContext) => unknown

/** What a handler threw: the method's error or one of the runtime's, or else a defect. */
const failure = (rpc: Rpc.AnyWithProps) => {
  const isDeclared = Schema.is(RpcSchema.isStreamSchema(rpc.successSchema) ? rpc.successSchema.error : rpc.errorSchema)
  return (error: unknown): Exit.Exit<never, unknown> =>
    error instanceof ServeError || isDeclared(error) ? Exit.fail(error) : Exit.die(error)
}

type Run = (payload: unknown) => ReturnType<Handlers[number]>

/** The handler as one that runs on this event loop, and says so when it is called first. */
export const onLoop = (name: string, rpc: Rpc.AnyWithProps, handler: BlockingHandler): Run => {
  const failed = failure(rpc)
  let warned = false
  const warn = Effect.suspend(() => {
    if (warned) return Effect.void
    warned = true
    return Effect.logWarning(
      `Blocking method "${name}.${rpc._tag}" runs on an event loop, where nothing else runs meanwhile. Put the handlers into a ` +
        `module (toLayerModule) and leave SERVE_RUN_SYNC_IN_THREADPOOL at 1, and it runs on threads of its own.`
    )
  })
  const run = (payload: unknown) =>
    Effect.withFiber((fiber): Exit.Exit<unknown, unknown> => {
      try {
        return Exit.succeed(handler(payload, fiber.getRef(RequestContext)))
      } catch (error) {
        return failed(error)
      }
    })
  if (!RpcSchema.isStreamSchema(rpc.successSchema)) return (payload) => Effect.andThen(warn, run(payload))
  return (payload) =>
    Stream.unwrap(Effect.map(Effect.andThen(warn, run(payload)), (elements) => iterate(elements, failed)))
}

/** One element at a time, because the next one may take long. */
const iterate = (elements: unknown, failed: (error: unknown) => Exit.Exit<never, unknown>) =>
  Stream.unwrap(
    Effect.map(
      Effect.acquireRelease(
        Effect.sync(() => (elements as Iterable<unknown>)[Symbol.iterator]()),
        (iterator) => Effect.sync(() => iterator.return?.())
      ),
      (iterator) =>
        Stream.fromPull(
          Effect.succeed(
            Effect.suspend(() => {
              try {
                const next = iterator.next()
                return next.done === true ? Cause.done() : Effect.succeed([next.value] as const)
              } catch (error) {
                return failed(error)
              }
            })
          )
        )
    )
  )

/**
 * What a stream method gives when it runs as a task.
 *
 * @category models
 * @since 0.1.0
 */
export type SentElement = SentExit | readonly ["element", unknown]

const clock = Context.get(Context.empty(), Clock.Clock)

/**
 * The handler as a task of a thread: it takes a payload and a request as they were sent, and gives how it ended as that is sent.
 * That of a stream method gives its elements, and at last how it failed if it did.
 */
export const asTask = (rpc: Rpc.AnyWithProps, codec: MethodCodec, handler: BlockingHandler) => {
  const failed = failure(rpc)
  const call = (payload: unknown, crossing: Crossing.Crossing) =>
    handler(codec.payload.decode(payload), Crossing.arrive(crossing, clock))
  if (codec.stream) {
    return function* (payload: unknown, crossing: Crossing.Crossing): Generator<SentElement> {
      try {
        for (const element of call(payload, crossing) as Iterable<unknown>) {
          yield ["element", codec.element.encode(element)]
        }
      } catch (error) {
        yield codec.encodeExit(failed(error))
      }
    }
  }
  return (payload: unknown, crossing: Crossing.Crossing): SentExit => {
    try {
      return codec.encodeExit(Exit.succeed(call(payload, crossing)))
    } catch (error) {
      return codec.encodeExit(failed(error))
    }
  }
}
