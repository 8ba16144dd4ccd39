// The errors that are expected here are the compiler's own.
// @effect-diagnostics floatingEffect:off missingEffectError:off missingEffectContext:off
import { Deployment, type RequestContext, ServeError } from "effect-serve"
import { Context, Effect, Layer, Schema, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { describe, expectTypeOf, it } from "vitest"

class ModelError extends Schema.TaggedError<ModelError>()("ModelError", { part: Schema.String }) {}
class Model extends Context.Service<Model, { readonly classify: (text: string) => Effect.Effect<number> }>()("Model") {}
class Vocabulary extends Context.Service<Vocabulary, { readonly size: number }>()("Vocabulary") {}

class Sentiment extends Deployment.Service<Sentiment>()("Sentiment", [
  Rpc.make("classify", { payload: { text: Schema.String }, success: Schema.Number, error: ModelError }),
  Rpc.make("tokens", { payload: { text: Schema.String }, success: Schema.String, error: ModelError, stream: true }),
  Rpc.make("ping")
]) {}

const classify = ({ text }: { readonly text: string }) => Effect.succeed(text.length)
const tokens = ({ text }: { readonly text: string }) => Stream.make(text)
const ping = () => Effect.void
const plain = { classify, tokens, ping }

declare const sentiment: Context.Service.Shape<typeof Sentiment>

describe("the handle", () => {
  it("has an Effect for a method with one answer", () => {
    expectTypeOf(sentiment.classify).not.toBeAny()
    expectTypeOf(sentiment.classify({ text: "" })).toEqualTypeOf<
      Effect.Effect<number, ModelError | ServeError.ServeError>
    >()
    expectTypeOf(sentiment.ping).toEqualTypeOf<
      (payload: void, options?: RequestContext.CallOptions) => Effect.Effect<void, ServeError.ServeError>
    >()
    expectTypeOf(sentiment.ping()).toEqualTypeOf<Effect.Effect<void, ServeError.ServeError>>()
  })

  it("has a Stream for a streaming method", () => {
    expectTypeOf(sentiment.tokens).not.toBeAny()
    expectTypeOf(sentiment.tokens({ text: "" })).toEqualTypeOf<
      Stream.Stream<string, ModelError | ServeError.ServeError>
    >()
  })

  it("is what the class gives as a service", () => {
    const program = Effect.gen(function* () {
      const handle = yield* Sentiment
      expectTypeOf(handle).toEqualTypeOf<typeof sentiment>()
      return yield* handle.classify({ text: "" })
    })
    expectTypeOf(program).toEqualTypeOf<Effect.Effect<number, ModelError | ServeError.ServeError, Sentiment>>()
  })

  it("has the methods of the contract and no others", () => {
    expectTypeOf<keyof typeof sentiment>().toEqualTypeOf<"classify" | "tokens" | "ping">()
    // @ts-expect-error: no such method
    void sentiment.clasify
  })

  it("refuses a wrong payload", () => {
    // @ts-expect-error: text is a string
    sentiment.classify({ text: 1 })
    // @ts-expect-error: text is missing
    sentiment.classify({})
    // @ts-expect-error: the payload is missing
    sentiment.classify()
    // @ts-expect-error: text is a string
    sentiment.tokens({ text: 1 })
    // @ts-expect-error: no such field
    sentiment.classify({ text: "", length: 1 })
  })

  it("takes call options, and refuses unknown ones and wrong values", () => {
    sentiment.classify(
      { text: "" },
      { timeout: "1 second", priority: "critical", tenant: "", modelId: "", sessionId: "" }
    )
    sentiment.ping(undefined, { timeout: 1000 })
    // @ts-expect-error: no such option
    sentiment.classify({ text: "" }, { timeOut: "1 second" })
    // @ts-expect-error: no such priority
    sentiment.classify({ text: "" }, { priority: "urgent" })
    // @ts-expect-error: no duration
    sentiment.classify({ text: "" }, { timeout: "soon" })
  })

  it("lets one reason be handled", () => {
    const handled = sentiment.ping().pipe(
      Effect.catchReason("ServeError", "QueueFull", (reason) => {
        expectTypeOf(reason).toEqualTypeOf<ServeError.QueueFull>()
        return Effect.void
      })
    )
    expectTypeOf(handled).not.toBeAny()
  })

  it("can be made by hand", () => {
    const double = Layer.succeed(Sentiment, {
      classify: () => Effect.succeed(1),
      tokens: () => Stream.make(""),
      ping: () => Effect.void
    })
    expectTypeOf(double).toEqualTypeOf<Layer.Layer<Sentiment>>()
    // @ts-expect-error: a method is missing
    Layer.succeed(Sentiment, { classify: () => Effect.succeed(1), tokens: () => Stream.make("") })
  })
})

describe("state", () => {
  it("is read from the context", () => {
    expectTypeOf(Sentiment.state).toEqualTypeOf<Effect.Effect<Deployment.DeploymentState, never, Sentiment>>()
    expectTypeOf<Deployment.DeploymentState["replicas"]>().not.toBeAny()
    expectTypeOf<Deployment.DeploymentState["running"]>().toEqualTypeOf<number>()
  })
})

describe("toLayer", () => {
  it("needs nothing for handlers that need nothing", () => {
    expectTypeOf(Sentiment.toLayer(plain)).toEqualTypeOf<Layer.Layer<Sentiment>>()
    expectTypeOf(Sentiment.toLayer(Effect.succeed(plain))).toEqualTypeOf<Layer.Layer<Sentiment>>()
    expectTypeOf(Sentiment.toLayer(Sentiment.of(plain), { replicas: 2 })).toEqualTypeOf<Layer.Layer<Sentiment>>()
  })

  it("needs what its build needs, but for the replica's scope, and what its handlers need", () => {
    const build = Effect.gen(function* () {
      const vocabulary = yield* Vocabulary
      yield* Effect.addFinalizer(() => Effect.void)
      if (vocabulary.size === 0) return yield* new ModelError({ part: "vocabulary" })
      return Sentiment.of({
        classify: ({ text }) => Effect.flatMap(Model, (model) => model.classify(text)),
        tokens,
        ping
      })
    })
    expectTypeOf(build).not.toBeAny()
    expectTypeOf(Sentiment.toLayer(build)).toEqualTypeOf<Layer.Layer<Sentiment, ModelError, Vocabulary | Model>>()
  })

  it("needs what a streaming handler needs", () => {
    const layer = Sentiment.toLayer({
      classify,
      tokens: () => Stream.fromEffect(Effect.map(Vocabulary, ({ size }) => String(size))),
      ping
    })
    expectTypeOf(layer).toEqualTypeOf<Layer.Layer<Sentiment, never, Vocabulary>>()
  })

  it("needs nothing for a handler that never returns", () => {
    const layer = Sentiment.toLayer({
      ...plain,
      ping: () => {
        throw new Error("not yet")
      }
    })
    expectTypeOf(layer).toEqualTypeOf<Layer.Layer<Sentiment>>()
  })

  it("needs a scope for a handler that opens one", () => {
    const layer = Sentiment.toLayer({ ...plain, ping: () => Effect.addFinalizer(() => Effect.void) })
    expectTypeOf(layer).toEqualTypeOf<Layer.Layer<Sentiment, never, Scope.Scope>>()
  })

  it("gives handlers the types of their payloads", () => {
    Sentiment.toLayer({
      classify: (payload) => {
        expectTypeOf(payload).toEqualTypeOf<{ readonly text: string }>()
        return Effect.succeed(1)
      },
      tokens: (payload) => {
        expectTypeOf(payload).toEqualTypeOf<{ readonly text: string }>()
        return Stream.empty
      },
      ping
    })
  })

  it("takes handlers that fail with a declared error or a ServeError", () => {
    const layer = Sentiment.toLayer({
      classify: () => Effect.fail(new ModelError({ part: "" })),
      tokens: () => Stream.fail(new ModelError({ part: "" })),
      ping: () => Effect.fail(new ServeError.ServeError({ reason: new ServeError.SlowConsumer({}) }))
    })
    expectTypeOf(layer).toEqualTypeOf<Layer.Layer<Sentiment>>()
  })

  it("refuses handlers that don't fit the contract", () => {
    // @ts-expect-error: ping is missing
    Sentiment.toLayer({ classify, tokens })
    // @ts-expect-error: ping is missing
    Sentiment.toLayer(Effect.succeed({ classify, tokens }))
    // @ts-expect-error: ping is missing
    Sentiment.of({ classify, tokens })
    // @ts-expect-error: a number is the answer
    Sentiment.toLayer({ ...plain, classify: () => Effect.succeed("1") })
    // @ts-expect-error: a number is the answer
    Sentiment.toLayer(Effect.succeed({ ...plain, classify: () => Effect.succeed("1") }))
    // @ts-expect-error: strings are the elements
    Sentiment.toLayer({ ...plain, tokens: () => Stream.make(1) })
    // @ts-expect-error: a stream is the answer
    Sentiment.toLayer({ ...plain, tokens: () => Effect.succeed("1") })
    // @ts-expect-error: an effect is the answer
    Sentiment.toLayer({ ...plain, classify: () => Stream.make(1) })
    // @ts-expect-error: the error isn't declared
    Sentiment.toLayer({ ...plain, classify: () => Effect.fail("undeclared") })
    // @ts-expect-error: ping declares no error
    Sentiment.toLayer({ ...plain, ping: () => Effect.fail(new ModelError({ part: "" })) })
    // @ts-expect-error: the payload has a text
    Sentiment.toLayer({ ...plain, classify: ({ words }: { readonly words: string }) => Effect.succeed(words.length) })
  })

  it("refuses a missing requirement where the layer is launched", () => {
    const layer = Sentiment.toLayer({ ...plain, ping: () => Effect.asVoid(Model) })
    // @ts-expect-error: Model is missing
    Effect.runFork(Layer.launch(layer))
    expectTypeOf(Layer.provide(layer, Layer.succeed(Model, { classify: () => Effect.succeed(1) }))).toEqualTypeOf<
      Layer.Layer<Sentiment>
    >()
  })

  it("refuses unknown options and values that are none", () => {
    Sentiment.toLayer(plain, { requestTimeout: Infinity, gracefulShutdownTimeout: "5 seconds", maxQueuedRequests: 0 })
    // @ts-expect-error: no such option
    Sentiment.toLayer(plain, { maxOngoing: 1 })
    // @ts-expect-error: a number
    Sentiment.toLayer(plain, { replicas: "2" })
    // @ts-expect-error: no duration
    Sentiment.toLayer(plain, { requestTimeout: "soon" })
  })
})
