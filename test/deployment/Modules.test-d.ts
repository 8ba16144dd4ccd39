// The errors that are expected here are the compiler's own.
// @effect-diagnostics floatingEffect:off missingEffectError:off missingEffectContext:off
import { Deployment, RequestContext, ServeError, WorkerPool } from "effect-serve"
import { Context, Effect, Layer, Schema, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { describe, expectTypeOf, it } from "vitest"

class ModelError extends Schema.TaggedError<ModelError>()("ModelError", { part: Schema.String }) {}
class Model extends Context.Service<Model, { readonly classify: (text: string) => Effect.Effect<number> }>()("Model") {}

class Words extends Deployment.Service<Words>()("Words", [
  Rpc.make("split", { payload: { text: Schema.String }, success: Schema.Array(Schema.String) })
]) {}
class Index extends Deployment.Service<Index>()("Index", [Rpc.make("size", { success: Schema.Number })]) {}

class Sentiment extends Deployment.Service<Sentiment>()("Sentiment", [
  Rpc.make("classify", { payload: { text: Schema.String }, success: Schema.Number, error: ModelError }),
  Rpc.make("tokens", { payload: { text: Schema.String }, success: Schema.String, error: ModelError, stream: true })
]) {}

class Hashes extends Deployment.Service<Hashes>()("Hashes", [
  Deployment.Blocking(
    Rpc.make("hash", { payload: { text: Schema.String }, success: Schema.String, error: ModelError })
  ),
  Deployment.Blocking(Rpc.make("lines", { payload: { text: Schema.String }, success: Schema.String, stream: true })),
  Rpc.make("ping")
]) {}

const classify = ({ text }: { readonly text: string }) => Effect.succeed(text.length)
const tokens = ({ text }: { readonly text: string }) => Stream.make(text)
const plain = { classify, tokens }

const hash = ({ text }: { readonly text: string }) => text
const lines = ({ text }: { readonly text: string }) => text.split("\n")
const ping = () => Effect.void

const url = new URL("file:///sentiment.ts")

describe("module", () => {
  it("uses nothing for handlers that need nothing", () => {
    expectTypeOf(Sentiment.module(plain)).toEqualTypeOf<Deployment.DeploymentModule<Sentiment, never>>()
    expectTypeOf(Sentiment.module(Effect.succeed(plain))).toEqualTypeOf<Deployment.DeploymentModule<Sentiment, never>>()
    expectTypeOf(Sentiment.module(plain)).not.toBeAny()
  })

  it("has the deployments that it names, and a scope", () => {
    const build = Effect.gen(function* () {
      const words = yield* Words
      yield* Effect.addFinalizer(() => Effect.void)
      return Sentiment.of({
        classify: ({ text }) => Effect.map(words.split({ text }), ({ length }) => length),
        tokens
      })
    })
    const made = Sentiment.module(build, { uses: [Words, Index] })
    expectTypeOf(made).not.toBeAny()
    expectTypeOf(made).toEqualTypeOf<Deployment.DeploymentModule<Sentiment, Words | Index>>()
  })

  it("has those that its handlers call", () => {
    const handlers = Sentiment.of({
      classify: ({ text }) =>
        Effect.flatMap(Words, (words) => Effect.map(words.split({ text }), ({ length }) => length)),
      tokens
    })
    expectTypeOf(Sentiment.module(handlers, { uses: [Words] })).toEqualTypeOf<
      Deployment.DeploymentModule<Sentiment, Words>
    >()
    // @ts-expect-error: Words is not among those it uses
    Sentiment.module(handlers)
    // @ts-expect-error: Words is not among those it uses
    Sentiment.module(handlers, { uses: [Index] })
  })

  it("refuses what it is not given", () => {
    const build = Effect.map(Words, () => plain)
    // @ts-expect-error: Words is not among those it uses
    Sentiment.module(build)
    // @ts-expect-error: Words is not among those it uses
    Sentiment.module(build, { uses: [Index] })
    // @ts-expect-error: a module can't get Model from the app
    Sentiment.module(Effect.map(Model, () => plain))
    // @ts-expect-error: a module can't get Model from the app
    Sentiment.module({ ...plain, classify: ({ text }) => Effect.flatMap(Model, (model) => model.classify(text)) })
    Sentiment.module(
      Effect.provideService(
        Effect.map(Model, () => plain),
        Model,
        { classify: () => Effect.succeed(1) }
      )
    )
    // @ts-expect-error: Model is no deployment
    Sentiment.module(plain, { uses: [Model] })
  })

  it("refuses handlers that don't fit the contract", () => {
    // @ts-expect-error: tokens is missing
    Sentiment.module({ classify })
    // @ts-expect-error: a number is the answer
    Sentiment.module({ ...plain, classify: () => Effect.succeed("1") })
    // @ts-expect-error: the error isn't declared
    Sentiment.module({ ...plain, classify: () => Effect.fail("undeclared") })
    // @ts-expect-error: a stream is the answer
    Sentiment.module(Effect.succeed({ ...plain, tokens: () => Effect.succeed("1") }))
    Sentiment.module({ ...plain, classify: () => Effect.fail(new ModelError({ part: "" })) })
  })

  it("gives handlers the types of their payloads", () => {
    Sentiment.module({
      classify: (payload) => {
        expectTypeOf(payload).toEqualTypeOf<{ readonly text: string }>()
        return Effect.succeed(1)
      },
      tokens
    })
  })
})

describe("toLayerModule", () => {
  interface File {
    readonly default: Deployment.DeploymentModule<Sentiment, Words | Index>
  }

  it("needs the deployments that the file uses", () => {
    const layer = Sentiment.toLayerModule<File>(url)
    expectTypeOf(layer).not.toBeAny()
    expectTypeOf(layer).toEqualTypeOf<Layer.Layer<Sentiment, WorkerPool.ModuleFailed, Words | Index>>()
  })

  it("needs those of a file as it is", () => {
    const probe = import("../modules/Probe.ts").then(({ Probe }) =>
      Probe.toLayerModule<typeof import("../modules/probe.module.ts")>(url)
    )
    type Needs<L> = L extends Layer.Layer<infer _A, infer _E, infer R> ? R : never
    expectTypeOf<Needs<Awaited<typeof probe>>>().not.toBeAny()
    expectTypeOf<Needs<Awaited<typeof probe>>>().toEqualTypeOf<import("../modules/Probe.ts").Part>()
  })

  it("needs nothing when it isn't told of the file, or that uses nothing", () => {
    type Alone = Layer.Layer<Sentiment, WorkerPool.ModuleFailed>
    expectTypeOf(Sentiment.toLayerModule(url)).toEqualTypeOf<Alone>()
    expectTypeOf(
      Sentiment.toLayerModule<{ readonly default: Deployment.DeploymentModule<Sentiment, never> }>(url)
    ).toEqualTypeOf<Alone>()
  })

  it("refuses the file of another deployment", () => {
    // @ts-expect-error: it is that of Sentiment
    Words.toLayerModule<File>(url)
    // @ts-expect-error: it has no default export
    Sentiment.toLayerModule<{ readonly module: File["default"] }>(url)
    // @ts-expect-error: that is no module
    Sentiment.toLayerModule<{ readonly default: typeof plain }>(url)
  })

  it("refuses a missing deployment where the layer is launched", () => {
    const layer = Sentiment.toLayerModule<File>(url)
    // @ts-expect-error: Words and Index are missing
    Effect.runFork(Layer.launch(layer))
    const others = Layer.mergeAll(
      Words.toLayer({ split: () => Effect.succeed([]) }),
      Index.toLayer({ size: () => Effect.succeed(1) })
    )
    expectTypeOf(Layer.provide(layer, others)).toEqualTypeOf<Layer.Layer<Sentiment, WorkerPool.ModuleFailed>>()
  })

  it("has the options of toLayer and some more, and no others", () => {
    Sentiment.toLayerModule(url, {
      replicas: 2,
      isolation: "loop",
      runSyncInThreadpool: false,
      runRouterInSeparateLoop: 1,
      poolSize: 2,
      cancelGrace: "1 second",
      resourceLimits: { maxOldGenerationSizeMb: 512 }
    })
    // @ts-expect-error: no such place
    Sentiment.toLayerModule(url, { isolation: "process" })
    // @ts-expect-error: no such option
    Sentiment.toLayerModule(url, { threads: 2 })
    // @ts-expect-error: an option of modules only
    Sentiment.toLayer(plain, { isolation: "loop" })
    // @ts-expect-error: a URL
    Sentiment.toLayerModule("sentiment.ts")
  })
})

describe("Blocking", () => {
  it("makes handlers plain functions, which get the request after the payload", () => {
    const handlers = Hashes.of({
      hash: (payload, request) => {
        expectTypeOf(payload).toEqualTypeOf<{ readonly text: string }>()
        expectTypeOf(request).toEqualTypeOf<RequestContext.RequestContext>()
        return payload.text
      },
      lines: function* ({ text }, request) {
        expectTypeOf(request).not.toBeAny()
        yield text
      },
      ping
    })
    expectTypeOf(Hashes.module(handlers)).toEqualTypeOf<Deployment.DeploymentModule<Hashes, never>>()
    expectTypeOf(Hashes.toLayer(handlers)).toEqualTypeOf<Layer.Layer<Hashes>>()
    expectTypeOf(Hashes.toLayer({ hash, lines, ping })).toEqualTypeOf<Layer.Layer<Hashes>>()
  })

  it("refuses Effects for them, and plain functions for the others", () => {
    // @ts-expect-error: hash is a plain function
    Hashes.of({ hash: ({ text }: { readonly text: string }) => Effect.succeed(text), lines, ping })
    // @ts-expect-error: lines gives something to iterate over
    Hashes.of({ hash, lines: ({ text }: { readonly text: string }) => Stream.make(text), ping })
    // @ts-expect-error: strings are the elements
    Hashes.of({ hash, lines: () => [1, 2], ping })
    // @ts-expect-error: a string is the answer
    Hashes.of({ hash: () => 1, lines, ping })
    // @ts-expect-error: a promise is no string
    Hashes.of({ hash: async () => "", lines, ping })
    // @ts-expect-error: ping gives an Effect
    Hashes.of({ hash, lines, ping: () => {} })
    // @ts-expect-error: hash is missing
    Hashes.module({ lines, ping })
  })

  it("does not show on the handle", () => {
    const hashes = {} as Context.Service.Shape<typeof Hashes>
    expectTypeOf(hashes.hash).not.toBeAny()
    expectTypeOf(hashes.hash({ text: "" })).toEqualTypeOf<Effect.Effect<string, ModelError | ServeError.ServeError>>()
    expectTypeOf(hashes.lines({ text: "" })).toEqualTypeOf<Stream.Stream<string, ServeError.ServeError>>()
  })

  it("needs what the other handlers need, and its builder", () => {
    const layer = Hashes.toLayer({ hash, lines, ping: () => Effect.asVoid(Model) })
    expectTypeOf(layer).toEqualTypeOf<Layer.Layer<Hashes, never, Model>>()
    const build = Effect.map(Effect.andThen(Words, Effect.scope), () => ({ hash, lines, ping }))
    expectTypeOf(build).toEqualTypeOf<
      Effect.Effect<{ hash: typeof hash; lines: typeof lines; ping: typeof ping }, never, Words | Scope.Scope>
    >()
    expectTypeOf(Hashes.module(build, { uses: [Words] })).toEqualTypeOf<Deployment.DeploymentModule<Hashes, Words>>()
  })
})
