// The errors that are expected here are the compiler's own.
// @effect-diagnostics floatingEffect:off missingEffectError:off missingEffectContext:off
import { Batching, Deployment, ServeError } from "effect-serve"
import { Context, Effect, Exit, type Layer, Option, Request, Schema, type Scope, Stream } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import { Rpc } from "effect/rpc"
import { describe, expectTypeOf, it } from "vitest"

class ModelError extends Schema.TaggedError<ModelError>()("ModelError", { part: Schema.String }) {}
class OtherError extends Schema.TaggedError<OtherError>()("OtherError", { part: Schema.String }) {}
class Model extends Context.Service<Model, { readonly name: string }>()("Model") {}

declare const give: <A>(a: A) => (items: ReadonlyArray<string>) => A
declare const run: (items: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<number>>
declare const lengths: ReadonlyArray<number>
declare const exits: ReadonlyArray<Exit.Exit<number, ModelError>>
declare const mixed: ReadonlyArray<number | Exit.Exit<number, ModelError>>
declare const rows: Stream.Stream<ReadonlyArray<Option.Option<number>>, ModelError, Model>

type Made<A> = Effect.Effect<A, never, Scope.Scope>
type Needing<A> = Effect.Effect<A, never, Model | Scope.Scope>

describe("make", () => {
  it("infers the item and the result from run", () => {
    const batched = Batching.make({ run: give(Effect.succeed(lengths)) })
    expectTypeOf(batched).toEqualTypeOf<Made<Batching.Batched<string, number, never>>>()
    const call = null as unknown as Effect.Success<typeof batched>
    expectTypeOf(call("")).toEqualTypeOf<Effect.Effect<number, ServeError.ServeError>>()
    // @ts-expect-error: an item is a string
    call(1)
    // @ts-expect-error: one item
    call()
  })

  it("takes a run for any list, a non-empty one, or one that is typed where the batcher is", () => {
    expectTypeOf(
      Batching.make({ run: (items: NonEmptyReadonlyArray<string>) => Effect.succeed([items[0].length]) })
    ).toEqualTypeOf<Made<Batching.Batched<string, number, never>>>()
    const annotated: Made<Batching.Batched<string, number, never>> = Batching.make({
      run: (items) => {
        expectTypeOf(items).toEqualTypeOf<NonEmptyReadonlyArray<string>>()
        return Effect.succeed(items.map(({ length }) => length))
      }
    })
    expectTypeOf(annotated).not.toBeAny()
  })

  it("has the errors of run, and those of the results that are Exits", () => {
    const run = give(Effect.as(Effect.fail(new ModelError({ part: "" })), lengths))
    expectTypeOf(Batching.make({ run })).toEqualTypeOf<Made<Batching.Batched<string, number, ModelError>>>()
    expectTypeOf(Batching.make({ run: give(Effect.succeed(exits)) })).toEqualTypeOf<
      Made<Batching.Batched<string, number, ModelError>>
    >()
    expectTypeOf(Batching.make({ run: give(Effect.succeed(mixed)) })).toEqualTypeOf<
      Made<Batching.Batched<string, number, ModelError>>
    >()
    const both = Batching.make({
      run: give(Effect.as(Effect.fail(new OtherError({ part: "" })), mixed))
    })
    expectTypeOf(both).toEqualTypeOf<Made<Batching.Batched<string, number, ModelError | OtherError>>>()
    const call = null as unknown as Effect.Success<typeof both>
    expectTypeOf(call("")).toEqualTypeOf<Effect.Effect<number, ModelError | OtherError | ServeError.ServeError>>()
  })

  it("has what Effect.partition or Effect.exit of single items gives", () => {
    const one = (text: string) =>
      text === "" ? Effect.fail(new ModelError({ part: "" })) : Effect.succeed(text.length)
    const run = (items: ReadonlyArray<string>) => Effect.forEach(items, (text) => Effect.exit(one(text)))
    expectTypeOf(Batching.make({ run })).toEqualTypeOf<Made<Batching.Batched<string, number, ModelError>>>()
  })

  it("needs the services of run, but for a scope", () => {
    const run = give(Effect.as(Model, lengths))
    const batched = Batching.make({ run })
    expectTypeOf(batched).toEqualTypeOf<Needing<Batching.Batched<string, number, never>>>()
    expectTypeOf(Effect.provideService(batched, Model, { name: "" })).toEqualTypeOf<
      Made<Batching.Batched<string, number, never>>
    >()
    const scoped = Batching.make({
      run: (items: ReadonlyArray<string>) =>
        Effect.as(
          Effect.addFinalizer(() => Effect.void),
          items.map(({ length }) => length)
        )
    })
    expectTypeOf(scoped).toEqualTypeOf<Made<Batching.Batched<string, number, never>>>()
    // @ts-expect-error: Model is missing
    Effect.runFork(Effect.scoped(batched))
  })

  it("types batchSize, the state of a cost, and key", () => {
    Batching.make({ run, batchSize: (items) => items.length, key: (text) => text.length })
    Batching.make({ run, batchSize: (items: ReadonlyArray<string>) => items[0]!.length })
    Batching.make({ run, batchSize: { empty: 0, add: (size: number, text: string) => size + text.length } })
    const longest = {
      empty: { count: 0, longest: 0 },
      add: (state: { readonly count: number; readonly longest: number }, text: string) => ({
        count: state.count + 1,
        longest: Math.max(state.longest, text.length)
      }),
      size: (state: { readonly count: number; readonly longest: number }) => state.count * state.longest
    }
    expectTypeOf(Batching.make({ run, batchSize: longest })).toEqualTypeOf<
      Made<Batching.Batched<string, number, never>>
    >()
    // @ts-expect-error: a size is a number
    Batching.make({ run, batchSize: () => "1" })
    // @ts-expect-error: the items are strings
    Batching.make({ run, batchSize: { empty: 0, add: (size: number, n: number) => size + n } })
    // @ts-expect-error: the items are strings
    Batching.make({ run, key: (n: number) => n })
  })

  it("bisects only what is declared idempotent", () => {
    Batching.make({ run, onFailure: "bisect", idempotent: true })
    Batching.make({ run, onFailure: "fail" })
    Batching.make({ run, onFailure: "fail", idempotent: false })
    // @ts-expect-error: not declared
    Batching.make({ run, onFailure: "bisect" })
    // @ts-expect-error: declared that it is not
    Batching.make({ run, onFailure: "bisect", idempotent: false })
    // @ts-expect-error: no such word
    Batching.make({ run, onFailure: "retry" })
  })

  it("refuses unknown options, values that are none, and results that are no list", () => {
    Batching.make({ run, maxBatchSize: 2, batchWaitTimeout: "adaptive", maxQueuedItems: Infinity, maxBatchWait: 5 })
    Batching.make({ run, batchWaitTimeout: "5 millis", gracefulShutdownTimeout: "1 second", name: "" })
    // @ts-expect-error: no such option
    Batching.make({ run, batchSizeMax: 2 })
    // @ts-expect-error: a number
    Batching.make({ run, maxBatchSize: "2" })
    // @ts-expect-error: no duration
    Batching.make({ run, batchWaitTimeout: "soon" })
    // @ts-expect-error: run is missing
    Batching.make({ maxBatchSize: 2 })
    // @ts-expect-error: one result for each item
    Batching.make({ run: give(Effect.succeed(1)) })
    // @ts-expect-error: an effect
    Batching.make({ run: give(lengths) })
  })

  it("has controls", () => {
    const batched = null as unknown as Batching.Batched<string, number, ModelError>
    expectTypeOf(batched.state).toEqualTypeOf<Effect.Effect<Batching.State>>()
    expectTypeOf(batched.update({ maxBatchSize: 2, batchWaitTimeout: "adaptive" })).toEqualTypeOf<Effect.Effect<void>>()
    // @ts-expect-error: no limit
    batched.update({ bufferSize: 2 })
    // @ts-expect-error: no limit
    batched.update({ run: () => Effect.succeed(lengths) })
  })
})

describe("makeStream", () => {
  it("infers the item, the element, the errors and the services from run", () => {
    const batched = Batching.makeStream({ run: give(rows) })
    expectTypeOf(batched).toEqualTypeOf<Needing<Batching.BatchedStream<string, number, ModelError>>>()
    const call = null as unknown as Effect.Success<typeof batched>
    expectTypeOf(call("")).toEqualTypeOf<Stream.Stream<number, ModelError | ServeError.ServeError>>()
    // @ts-expect-error: an item is a string
    call(1)
    expectTypeOf(call.state).toEqualTypeOf<Effect.Effect<Batching.State>>()
  })

  it("needs nothing for a run that needs nothing", () => {
    const batched = Batching.makeStream({
      bufferSize: 4,
      run: (items: ReadonlyArray<string>) => Stream.make(items.map(({ length }) => Option.some(length)))
    })
    expectTypeOf(batched).toEqualTypeOf<Made<Batching.BatchedStream<string, number, never>>>()
  })

  it("refuses rows whose cells are no Options, and options of the other forms", () => {
    // @ts-expect-error: a cell is an Option
    Batching.makeStream({ run: give(Stream.make(lengths)) })
    // @ts-expect-error: a stream
    Batching.makeStream({ run: give(Effect.succeed(lengths)) })
    // @ts-expect-error: a stream isn't run again
    Batching.makeStream({ run: give(rows), onFailure: "bisect", idempotent: true })
    // @ts-expect-error: a number
    Batching.makeStream({ run: give(rows), bufferSize: "4" })
  })
})

describe("continuous", () => {
  interface State {
    readonly at: number
  }
  const admit = (at: number) => Effect.succeed<State>({ at })
  const step = (active: ReadonlyArray<State>) =>
    Effect.succeed(active.map(({ at }) => ({ state: { at: at + 1 }, emit: [`${at}`], done: at > 3 })))

  it("infers the item, the state and the element", () => {
    const batched = Batching.continuous({ admit: (from: number) => Effect.succeed<State>({ at: from }), step })
    expectTypeOf(batched).toEqualTypeOf<Made<Batching.Continuous<number, string, never>>>()
    const call = null as unknown as Effect.Success<typeof batched>
    expectTypeOf(call(1)).toEqualTypeOf<Stream.Stream<string, ServeError.ServeError>>()
    expectTypeOf(call.state).toEqualTypeOf<Effect.Effect<Batching.ContinuousState>>()
    // @ts-expect-error: an item is a number
    call("1")
  })

  it("gives step and release the state that admit makes", () => {
    Batching.continuous({
      admit: (from: number) => Effect.succeed({ at: from }),
      step: (active) => {
        expectTypeOf(active).toEqualTypeOf<NonEmptyReadonlyArray<{ at: number }>>()
        return Effect.succeed(active.map((state) => ({ state, emit: [state.at], done: true })))
      },
      release: (state) => {
        expectTypeOf(state).toEqualTypeOf<{ at: number }>()
        return Effect.void
      }
    })
  })

  it("has the errors of admit, of step and of its results", () => {
    const admit = (from: number) =>
      from < 0 ? Effect.fail(new OtherError({ part: "" })) : Effect.succeed({ at: from })
    const batched = Batching.continuous<number, State, string, ModelError | OtherError>({
      admit,
      step: (active) =>
        Effect.map(step(active), (steps) =>
          steps.map((step) => (step.done ? Exit.fail(new ModelError({ part: "" })) : step))
        )
    })
    expectTypeOf(batched).toEqualTypeOf<Made<Batching.Continuous<number, string, ModelError | OtherError>>>()
    const inferred = Batching.continuous({
      admit: (from: number) => Effect.succeed<State>({ at: from }),
      step: (active) =>
        Effect.map(step(active), (steps) =>
          steps.map((step) => (step.done ? Exit.fail(new ModelError({ part: "" })) : Exit.succeed(step)))
        )
    })
    expectTypeOf(inferred).toEqualTypeOf<Made<Batching.Continuous<number, string, ModelError>>>()
  })

  it("needs the services of admit, step and release", () => {
    type Expected = Needing<Batching.Continuous<number, string, never>>
    expectTypeOf(
      Batching.continuous({ admit: (at: number) => Effect.as(Model, { at } as State), step })
    ).toEqualTypeOf<Expected>()
    expectTypeOf(
      Batching.continuous({ admit, step: (active) => Effect.andThen(Model, step(active)) })
    ).toEqualTypeOf<Expected>()
    expectTypeOf(Batching.continuous({ admit, step, release: () => Effect.asVoid(Model) })).toEqualTypeOf<Expected>()
  })

  it("refuses what isn't a step, a release that fails, and unknown options", () => {
    // @ts-expect-error: step is missing
    Batching.continuous({ admit })
    // @ts-expect-error: done is missing
    Batching.continuous({ admit, step: (active) => Effect.succeed(active.map((state) => ({ state, emit: [1] }))) })
    // @ts-expect-error: a release can't fail
    Batching.continuous({ admit, step, release: () => Effect.fail("no") })
    // @ts-expect-error: no such option
    Batching.continuous({ admit, step, maxBatchSize: 3 })
  })
})

describe("resolver", () => {
  class GetName extends Request.Class<{ readonly id: number }, string, ServeError.ServeError> {}
  class GetAge extends Request.Class<{ readonly id: number }, number, ModelError | ServeError.ServeError> {}
  class Bare extends Request.Class<{ readonly id: number }, string> {}
  class Other extends Request.Class<{ readonly id: number }, string, ModelError> {}

  const named = (requests: ReadonlyArray<GetName>) => Effect.succeed(requests.map(() => ""))

  it("infers the request from run, or takes it", () => {
    const inferred = Batching.resolver({
      run: (requests: ReadonlyArray<GetName>) => Effect.succeed(requests.map(({ id }) => `${id}`))
    })
    expectTypeOf(inferred).toEqualTypeOf<Made<Batching.BatchedResolver<GetName>>>()
    const given = Batching.resolver<GetName>({
      run: (requests) => {
        expectTypeOf(requests).toEqualTypeOf<NonEmptyReadonlyArray<GetName>>()
        return Effect.succeed(requests.map(({ id }) => `${id}`))
      }
    })
    expectTypeOf(given).toEqualTypeOf<Made<Batching.BatchedResolver<GetName>>>()
    const resolver = null as unknown as Effect.Success<typeof given>
    expectTypeOf(Effect.request(new GetName({ id: 1 }), resolver)).toEqualTypeOf<
      Effect.Effect<string, ServeError.ServeError>
    >()
  })

  it("takes results of the request's type, or Exits of it, and failures with its error", () => {
    Batching.resolver<GetAge>({
      run: () => Effect.succeed([1, Exit.succeed(2), Exit.fail(new ModelError({ part: "" }))])
    })
    Batching.resolver<GetAge>({ run: () => Effect.fail(new ModelError({ part: "" })) })
    // @ts-expect-error: an age is a number
    Batching.resolver<GetAge>({ run: () => Effect.succeed(["1"]) })
    // @ts-expect-error: not an error of the request
    Batching.resolver<GetAge>({ run: () => Effect.fail(new OtherError({ part: "" })) })
    // @ts-expect-error: not an error of the request
    Batching.resolver<GetName>({ run: () => Effect.succeed([Exit.fail(new ModelError({ part: "" }))]) })
  })

  it("refuses a request whose error doesn't include ServeError", () => {
    // @ts-expect-error: it has no error
    Batching.resolver<Bare>({ run: (requests) => Effect.succeed(requests.map(({ id }) => `${id}`)) })
    // @ts-expect-error: it has another one
    Batching.resolver<Other>({ run: (requests) => Effect.succeed(requests.map(({ id }) => `${id}`)) })
    // @ts-expect-error: it has no error
    Batching.resolver({ run: (requests: ReadonlyArray<Bare>) => Effect.succeed(requests.map(({ id }) => `${id}`)) })
  })

  it("takes requests of several classes", () => {
    const both = Batching.resolver<GetName | GetAge>({
      run: (requests) => Effect.succeed(requests.map((request) => (request instanceof GetName ? "" : 1)))
    })
    expectTypeOf(both).toEqualTypeOf<Made<Batching.BatchedResolver<GetName | GetAge>>>()
    // @ts-expect-error: one of them has no ServeError
    Batching.resolver<GetName | Other>({ run: (requests) => Effect.succeed(requests.map(() => "")) })
  })

  it("needs the services of run", () => {
    const resolver = Batching.resolver({
      run: (requests: ReadonlyArray<GetName>) =>
        Effect.as(
          Model,
          requests.map(() => "")
        )
    })
    expectTypeOf(resolver).toEqualTypeOf<Needing<Batching.BatchedResolver<GetName>>>()
    const needing = (requests: ReadonlyArray<GetName>) => Effect.andThen(Model, named(requests))
    // @ts-expect-error: run needs a service that the type parameters don't name
    Batching.resolver<GetName>({ run: needing })
    expectTypeOf(Batching.resolver<GetName, Model>({ run: needing })).toEqualTypeOf<
      Needing<Batching.BatchedResolver<GetName>>
    >()
  })

  it("bisects only what is declared idempotent", () => {
    Batching.resolver({ run: named, onFailure: "bisect", idempotent: true })
    // @ts-expect-error: not declared
    Batching.resolver({ run: named, onFailure: "bisect" })
  })
})

describe("in a deployment", () => {
  class Speech extends Deployment.Service<Speech>()("Speech", [
    Rpc.make("length", { payload: { text: Schema.String }, success: Schema.Number, error: ModelError }),
    Rpc.make("letters", { payload: { text: Schema.String }, success: Schema.Number, error: ModelError, stream: true })
  ]) {}

  it("fits the contract, and the layer needs the services of run alone", () => {
    const build = Effect.gen(function* () {
      const length = yield* Batching.make({ run: give(Effect.as(Model, mixed)) })
      const letters = yield* Batching.makeStream({ run: give(rows) })
      return Speech.of({ length: ({ text }) => length(text), letters: ({ text }) => letters(text) })
    })
    const layer = Speech.toLayer(build)
    expectTypeOf(layer).not.toBeAny()
    expectTypeOf(layer).toEqualTypeOf<Layer.Layer<Speech, never, Model>>()
  })
})
