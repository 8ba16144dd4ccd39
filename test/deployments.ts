import { Deployment, ServeError } from "effect-serve"
import { Context, Effect, Exit, Fiber, Layer, Schema, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"

/** The error that the methods below declare. */
export class Broken extends Schema.TaggedError<Broken>("test/Broken")("Broken", { part: Schema.String }) {}

type Failure = Broken | ServeError.ServeError
const Work = Schema.declare((u): u is Effect.Effect<unknown, Failure> => Effect.isEffect(u))
const Elements = Schema.declare((u): u is Stream.Stream<unknown, Failure> => Stream.isStream(u))

const run = Rpc.make("run", { payload: Work, success: Schema.Unknown, error: Broken })
const flow = Rpc.make("flow", { payload: Elements, success: Schema.Unknown, error: Broken, stream: true })

/** A deployment whose callers send along the work to do: `run` an Effect, or `flow` the elements of a Stream. */
export class Job extends Deployment.Service<Job>()("Job", [run, flow]) {}

/** Another one, for calls from deployment to deployment. */
export class Part extends Deployment.Service<Part>()("Part", [run, flow]) {}

const handlers = Job.of({ run: (work) => work, flow: (elements) => elements })

type Options = NonNullable<Parameters<typeof Job.toLayer>[1]>

// Closing a layer drains it, and virtual time doesn't pass by itself: a test whose work never ends must not wait for it.
const withDefaults = (options: Options): Options => ({ gracefulShutdownTimeout: 0, ...options })

export const jobLayer = (options: Options = {}) => Job.toLayer(handlers, withDefaults(options))
export const partLayer = (options: Options = {}) => Part.toLayer(handlers, withDefaults(options))

/** Builds a layer that the test closes by hand. */
export const open = Effect.fnUntraced(function* <I, S, E, R>(key: Context.Key<I, S>, layer: Layer.Layer<I, E, R>) {
  const scope = yield* Scope.make()
  const context = yield* Layer.buildWithScope(layer, scope)
  return { handle: Context.get(context, key), context, close: Scope.close(scope, Exit.void) }
})

/** Forks a caller and lets it come as far as it can at once. */
export const call = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

/** The reason of the `ServeError` with which an effect fails. */
export const reason = <A, R>(effect: Effect.Effect<A, unknown, R>): Effect.Effect<ServeError.Reason, never, R> =>
  effect.pipe(
    Effect.flip,
    Effect.flatMap((error) =>
      error instanceof ServeError.ServeError ? Effect.succeed(error.reason) : Effect.die(error)
    ),
    Effect.orDie
  )

/** The reason with which a caller was answered. */
export const answered = <A>(fiber: Fiber.Fiber<A, unknown>) => reason(Fiber.join(fiber))

export const isDone = (fiber: Fiber.Fiber<unknown, unknown>) => fiber.pollUnsafe() !== undefined

/** Gives every fiber that can run its turns. */
export const settle = Effect.forEach(Array.from({ length: 25 }), () => Effect.yieldNow, { discard: true })
