/**
 * A replica in another process, of which this one knows a connection: how many run there, and in which order, is decided over there.
 *
 * @since 0.1.0
 */
import { Cause, type Context, Effect, Exit, Option, type Scope } from "effect"
import { because, ServeError, TransportError } from "../core/ServeError.ts"
import * as Connection from "../wire/Connection.ts"
import { isRefusal, type MethodCodec, Misfit } from "../wire/MethodCodec.ts"
import type { Replica } from "./Replica.ts"
import type { Request } from "./Request.ts"

/**
 * A replica, and what is known of its connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface RemoteReplica {
  readonly replica: Replica
  /** Waits until it has ended all that it was asked, and may be forgotten. */
  readonly done: Effect.Effect<void>
  /** Why it has left, in words. */
  readonly why: () => string
  /** Whether it did so in good order. */
  readonly isPlanned: () => boolean
}

/** Connects to a replica. Calls over a connection that is lost fail with `TransportError`. */
export const connect = Effect.fnUntraced(function* (
  id: string,
  target: Connection.Target,
  codecs: ReadonlyArray<MethodCodec>,
  contexts: ReadonlyArray<Context.Context<never>>
): Effect.fn.Return<RemoteReplica, Connection.Refused | Connection.Unreachable, Scope.Scope> {
  const { deployment } = target
  const failed = (started: boolean, description: string) =>
    because(() => new TransportError({ deployment, started, description }))
  const unbegun = failed(false, "the connection was lost")
  const refused = failed(false, "the other side takes no calls")
  let lost = 0
  const connection = yield* Connection.open(target, (begun, why) => {
    if (begun) lost++
    return Exit.fail(begun ? failed(true, why) : unbegun)
  })
  const { closed, hello, isLeaving, leaving, link, why } = connection
  let hasLeft = false
  const offered = new Set(hello.methods)
  const isOffered = codecs.map((codec) => offered.has(Connection.methodName(codec)))
  /** Lets the router know that a call has not begun over there, so that it may go to another replica. */
  const unbegunAgain = (request: Request) => (cause: Cause.Cause<unknown>) => {
    const error = Option.getOrUndefined(Cause.findErrorOption(cause))
    if (error !== unbegun && !isRefused(error)) return Effect.failCause(cause)
    request.state = "Reserved"
    return Effect.fail(error === unbegun ? unbegun : refused)
  }

  const run = (request: Request): Effect.Effect<unknown, unknown> => {
    const { method, payload, relay } = request
    const codec = codecs[method]!
    if (!isOffered[method]) return Effect.die(missing(codec))
    request.state = "Running"
    return relay === undefined
      ? link.call(codec.method, codec, payload)
      : link.read(codec.method, codec, payload, (elements) => relay.offer(elements))
  }

  yield* Effect.addFinalizer(() => Effect.sync(() => (hasLeft = true)))
  const left = Effect.tap(leaving, () =>
    Effect.sync(() => {
      hasLeft = true
      link.note("left", undefined)
    })
  )
  const replica: Replica = {
    id,
    contexts,
    batchers: () => [],
    call: (request) =>
      Effect.suspend(() => {
        if (hasLeft) return Effect.fail(unbegun)
        if (link.isFull(hello.window)) return Effect.succeedNone
        return Effect.asSome(Effect.catchCause(run(request), unbegunAgain(request)))
      }),
    whenFree: link.whenRoom(hello.window),
    hasLeft: () => hasLeft,
    left,
    end: Effect.void,
    resize: () => Effect.void
  }
  return {
    replica,
    done: closed,
    isPlanned: isLeaving,
    why: () => (lost === 0 ? why() : `${why()}; calls lost with it: ${lost}`)
  }
})

const missing = ({ method, stream }: MethodCodec) =>
  new Misfit(
    `The other side has no method "${method}" that ${stream ? "streams" : "answers once"}: is it of another version?`
  )

/** Whether a call was refused for a reason that another replica may not have. */
const isRefused = (error: unknown) =>
  isRefusal(error) && error instanceof ServeError && error.reason._tag === "Unavailable"
