/** A deployment whose handlers say what they see, on every server of an ingress, and remote handles of it. */
import { Deployment, HttpIngress, RequestContext } from "effect-serve"
import { Cause, Clock, Context, Deferred, Effect, Exit, Layer, Option, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { Broken } from "../deployments.ts"
import { Logs } from "../modules/app.ts"

const text = Schema.UndefinedOr(Schema.String)
const Seen = Schema.Struct({
  requestId: Schema.String,
  /** Milliseconds that are left. */
  left: Schema.Number,
  priority: Schema.String,
  tenant: text,
  modelId: text,
  sessionId: text,
  route: text,
  lastEventId: text,
  principal: Schema.UndefinedOr(
    Schema.Struct({
      id: Schema.String,
      tenant: Schema.optionalKey(Schema.String),
      claims: Schema.optionalKey(Schema.Json)
    })
  )
})
const Span = Schema.UndefinedOr(Schema.Struct({ traceId: Schema.String, spanId: Schema.String }))

export class Desk extends Deployment.Service<Desk>()("Desk", [
  Rpc.make("seen", { success: Seen }),
  Rpc.make("seenMany", { success: Seen, stream: true }),
  Rpc.make("span", { success: Span }),
  Rpc.make("spans", { success: Span, stream: true }),
  /** Says which of the desks it is. */
  Rpc.make("name", { success: Schema.String }),
  Rpc.make("echo", { payload: Schema.Uint8Array, success: Schema.Uint8Array }),
  Rpc.make("grow", { payload: Schema.Int, success: Schema.Uint8Array }),
  /** Waits until it is told to end. */
  Rpc.make("hold", { payload: Schema.Uint8Array, success: Schema.Int }),
  Rpc.make("holdMany", { success: Schema.Int, stream: true }),
  Rpc.make("fail", { success: Schema.Void, error: Broken }),
  /** Elements of that size, which come together or one by one. */
  Rpc.make("elements", {
    payload: { count: Schema.Int, size: Schema.Int, together: Schema.Boolean },
    success: Schema.Uint8Array,
    stream: true
  })
]) {}

/** What the handlers do and have done. */
export class Desks extends Context.Service<
  Desks,
  { gate: Deferred.Deferred<void>; held: number; heldBytes: number; made: number; calls: number }
>()("test/remote/Desks") {
  static readonly layer = Layer.sync(Desks, () => ({
    gate: Deferred.makeUnsafe<void>(),
    held: 0,
    heldBytes: 0,
    made: 0,
    calls: 0
  }))
}

const seen = Effect.gen(function* () {
  const { deadline, ...request } = yield* RequestContext.RequestContext
  return { ...request, left: deadline - (yield* Clock.currentTimeMillis) } as typeof Seen.Type
})

const span = Effect.map(Effect.option(Effect.currentParentSpan), (span) =>
  Option.isNone(span) ? undefined : { traceId: span.value.traceId, spanId: span.value.spanId }
)

export const deskLayer = (name = "desk", options: Deployment.DeploymentOptions = {}, broken = false) =>
  Desk.toLayer(
    Effect.map(Desks, (desks) => {
      const hold = (size: number) =>
        Effect.suspend(() => {
          desks.held++
          desks.heldBytes = Math.max(desks.heldBytes, desks.held * size)
          return Effect.ensuring(
            Effect.as(Deferred.await(desks.gate), size),
            Effect.sync(() => desks.held--)
          )
        })
      const handlers = Desk.of({
        seen: () => seen,
        seenMany: () => Stream.fromEffect(seen),
        span: () => span,
        spans: () => Stream.fromEffect(span),
        name: () =>
          Effect.suspend(() => {
            desks.calls++
            return broken ? Effect.die(new Error("broken")) : Effect.succeed(name)
          }),
        echo: (bytes) => Effect.succeed(bytes),
        grow: (size) => Effect.succeed(new Uint8Array(size)),
        hold: (bytes) => hold(bytes.length),
        holdMany: () => Stream.fromEffect(hold(0)),
        fail: () => Effect.fail(new Broken({ part: "wheel" })),
        elements: ({ count, size, together }) => {
          const make = () => {
            desks.made++
            return new Uint8Array(size)
          }
          return together
            ? Stream.fromArray(Array.from({ length: count }, make))
            : Stream.range(1, count).pipe(Stream.rechunk(1), Stream.map(make))
        }
      })
      return handlers
    }),
    { maxOngoingRequests: 1000, gracefulShutdownTimeout: 0, ...options }
  )

/** An ingress, the deployment that it serves, what its handlers tell, and what is logged. */
export const appOf = <E, A = never>(
  ingress: Layer.Layer<HttpIngress.Address, E, Desk | A>,
  options: Deployment.DeploymentOptions = {}
) =>
  ingress.pipe(
    Layer.provideMerge(deskLayer("desk", options)),
    Layer.provideMerge(Desks.layer),
    Layer.provideMerge(Logs.layer)
  )

type Remote = NonNullable<Parameters<typeof Desk.toLayerRemote>[0]>

/** A remote handle to what is at these options' URLs, with its state. */
export const dialTo = (options: Remote) =>
  Effect.map(Layer.build(Desk.toLayerRemote({ gracefulShutdownTimeout: 0, ...options })), (context) => ({
    desk: Context.get(context, Desk),
    state: Effect.provide(Desk.state, context)
  }))

/** The same to the ingress in the context. */
export const dial = (options: Remote = {}) =>
  Effect.flatMap(HttpIngress.Address, ({ url }) => dialTo({ url, ...options }))

/** The error with which the server in the context refuses the client. */
export const refusal = (options: Remote = {}) => refusalOf(dial(options))

/** The error with which a server refuses a client. */
export const refusalOf = <A, E, R>(dialing: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.exit(dialing), (exit) => {
    const error = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined
    if (error instanceof Deployment.ConnectionRefused) return error
    throw new Error(`It was not refused: ${String(exit)}`)
  })

/** The message with which it dies. */
export const defect = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.exit(effect), (exit) => {
    if (Exit.isSuccess(exit) || !Cause.hasDies(exit.cause)) throw new Error(`It has not died: ${String(exit)}`)
    return (Cause.squash(exit.cause) as Error).message
  })

/** Milliseconds that something takes. */
export const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const from = performance.now()
    return Effect.map(effect, (value) => [value, performance.now() - from] as const)
  })
