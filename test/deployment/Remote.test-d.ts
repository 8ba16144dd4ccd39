// The errors that are expected here are the compiler's own.
// @effect-diagnostics floatingEffect:off missingEffectError:off missingEffectContext:off
import { Deployment, ServeError } from "effect-serve"
import { Context, Effect, Layer, Redacted, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { describe, expectTypeOf, it } from "vitest"

class ModelError extends Schema.TaggedError<ModelError>()("ModelError", { part: Schema.String }) {}
class Tokens extends Context.Service<Tokens, { readonly next: Effect.Effect<string> }>()("Tokens") {}

class Sentiment extends Deployment.Service<Sentiment>()("Sentiment", [
  Rpc.make("classify", { payload: { text: Schema.String }, success: Schema.Number, error: ModelError }),
  Rpc.make("tokens", { payload: { text: Schema.String }, success: Schema.String, error: ModelError, stream: true })
]) {}

describe("toLayerRemote", () => {
  it("gives the deployment, needs nothing, and fails when it is refused", () => {
    const layer = Sentiment.toLayerRemote({ url: "http://localhost:8000" })
    expectTypeOf(layer).toEqualTypeOf<Layer.Layer<Sentiment, Deployment.ConnectionRefused>>()
    // Where the servers are may come from the environment alone.
    expectTypeOf(Sentiment.toLayerRemote()).toEqualTypeOf<typeof layer>()
    expectTypeOf(Sentiment.toLayerRemote({ urls: ["http://a", "http://b"] })).toEqualTypeOf<typeof layer>()
  })

  it("gives a handle as any other, whose errors are the same", () => {
    const program = Effect.gen(function* () {
      const sentiment = yield* Sentiment
      expectTypeOf(sentiment.tokens({ text: "" })).toEqualTypeOf<
        Stream.Stream<string, ModelError | ServeError.ServeError>
      >()
      return yield* sentiment.classify({ text: "" }, { timeout: "1 second" })
    })
    const provided = Effect.provide(program, Sentiment.toLayerRemote({ url: "http://localhost:8000" }))
    expectTypeOf(provided).toEqualTypeOf<
      Effect.Effect<number, ModelError | ServeError.ServeError | Deployment.ConnectionRefused>
    >()
  })

  it("lets a refusal be handled, by its status", () => {
    const layer = Sentiment.toLayerRemote({ url: "http://localhost:8000" }).pipe(
      Layer.catchTag("Refused", (error) => {
        expectTypeOf(error.status).toEqualTypeOf<number>()
        expectTypeOf(error.url).toEqualTypeOf<string>()
        return Layer.empty
      })
    )
    expectTypeOf<Layer.Error<typeof layer>>().toEqualTypeOf<never>()
  })

  it("lets a lost call be handled", () => {
    program.pipe(
      Effect.catchReason("ServeError", "TransportError", (reason) => {
        expectTypeOf(reason).toEqualTypeOf<ServeError.TransportError>()
        expectTypeOf(reason.started).toEqualTypeOf<boolean>()
        return Effect.void
      })
    )
  })

  it("takes a token that is not shown, or an effect that gives headers", () => {
    Sentiment.toLayerRemote({ auth: Redacted.make("token") })
    Sentiment.toLayerRemote({ auth: Effect.succeed({ authorization: "Bearer token" }) })
    expectTypeOf<Deployment.Credentials>().toEqualTypeOf<
      Redacted.Redacted | Effect.Effect<Readonly<Record<string, string>>>
    >()
    // @ts-expect-error: a token that is shown
    Sentiment.toLayerRemote({ auth: "token" })
    // @ts-expect-error: headers are texts
    Sentiment.toLayerRemote({ auth: Effect.succeed({ authorization: 1 }) })
    // @ts-expect-error: nobody hears of how it fails
    Sentiment.toLayerRemote({ auth: Effect.fail(new ModelError({ part: "" })) })
    // @ts-expect-error: nobody provides what it needs
    Sentiment.toLayerRemote({ auth: Effect.map(Tokens, () => ({})) })
  })

  it("refuses unknown options, values that are none, and those of a deployment that runs here", () => {
    Sentiment.toLayerRemote({ url: "http://a", connections: 2, unreachableTimeout: "5 seconds", maxQueuedRequests: 0 })
    Sentiment.toLayerRemote({ url: "http://a", tls: { ca: "", cert: "", key: "" }, requestTimeout: Infinity })
    // @ts-expect-error: no such option
    Sentiment.toLayerRemote({ uri: "http://a" })
    // @ts-expect-error: a number
    Sentiment.toLayerRemote({ url: "http://a", connections: "2" })
    // @ts-expect-error: no duration
    Sentiment.toLayerRemote({ url: "http://a", pingTimeout: "soon" })
    // @ts-expect-error: decided over there
    Sentiment.toLayerRemote({ url: "http://a", replicas: 2 })
    // @ts-expect-error: decided over there
    Sentiment.toLayerRemote({ url: "http://a", maxOngoingRequests: 2 })
  })
})

declare const program: Effect.Effect<number, ModelError | ServeError.ServeError, Sentiment>
