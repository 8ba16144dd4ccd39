import { describe, expectTypeOf, it } from "@effect/vitest"
import { type ServeError, WorkerPool } from "effect-serve"
import { type Context, Effect, Layer, type Stream } from "effect"

interface Module {
  readonly add: (a: number, b: number) => number
  readonly fetch: (url: string) => Promise<Uint8Array>
  readonly nothing: () => void
  readonly either: (n: number) => number | Promise<string>
  readonly last: (...values: ReadonlyArray<string>) => string | undefined
  readonly maybe: (n?: number) => number
  readonly fail: () => never
  readonly anything: () => any
  readonly words: (text: string) => Generator<string>
  readonly lines: (path: string) => AsyncGenerator<string, number, unknown>
  readonly version: string
  readonly Model: new () => { readonly run: () => void }
}

class Tasks extends WorkerPool.Service<Tasks, Module>()("Tasks", { module: new URL("file:///tasks.ts") }) {}

type Failure = ServeError.ServeError | WorkerPool.TaskError
declare const tasks: Context.Service.Shape<typeof Tasks>

describe("the handle", () => {
  it("has an Effect for a function, sync or async", () => {
    expectTypeOf(tasks.add).toEqualTypeOf<(a: number, b: number) => Effect.Effect<number, Failure>>()
    expectTypeOf(tasks.fetch("")).toEqualTypeOf<Effect.Effect<Uint8Array, Failure>>()
    expectTypeOf(tasks.nothing()).toEqualTypeOf<Effect.Effect<void, Failure>>()
    expectTypeOf(tasks.either(1)).toEqualTypeOf<Effect.Effect<number | string, Failure>>()
    expectTypeOf(tasks.last("a", "b")).toEqualTypeOf<Effect.Effect<string | undefined, Failure>>()
    expectTypeOf(tasks.maybe()).toEqualTypeOf<Effect.Effect<number, Failure>>()
  })

  it("has a Stream for a generator, sync or async", () => {
    expectTypeOf(tasks.words).toEqualTypeOf<(text: string) => Stream.Stream<string, Failure>>()
    expectTypeOf(tasks.lines("")).toEqualTypeOf<Stream.Stream<string, Failure>>()
  })

  it("takes a function that returns nothing or anything for one with a result", () => {
    expectTypeOf(tasks.fail()).toEqualTypeOf<Effect.Effect<never, Failure>>()
    expectTypeOf(tasks.anything()).toEqualTypeOf<Effect.Effect<any, Failure>>()
  })

  it("has what can be called, and nothing else", () => {
    expectTypeOf<Exclude<keyof Module, keyof typeof tasks>>().toEqualTypeOf<"version" | "Model">()
    // @ts-expect-error: no such function
    void tasks.subtract
    // @ts-expect-error: not a function
    void tasks.version
  })

  it("refuses wrong arguments", () => {
    // @ts-expect-error: a number is missing
    void tasks.add(1)
    // @ts-expect-error: a number
    void tasks.add(1, "2")
    // @ts-expect-error: a text
    void tasks.words(1)
  })

  it("is what the class gives as a service", () => {
    const program = Effect.flatMap(Tasks, ({ add }) => add(1, 2))
    expectTypeOf(program).toEqualTypeOf<Effect.Effect<number, Failure, Tasks>>()
  })

  it("has the functions of a module by its type alone", () => {
    const Real = WorkerPool.Service<Tasks, typeof import("./tasks/tasks.ts")>()("Tasks", {
      module: new URL("file:///")
    })
    type Real = Context.Service.Shape<typeof Real>
    expectTypeOf<ReturnType<Real["double"]>>().toEqualTypeOf<Effect.Effect<number, Failure>>()
    expectTypeOf<ReturnType<Real["later"]>>().toEqualTypeOf<Effect.Effect<number, Failure>>()
    expectTypeOf<ReturnType<Real["words"]>>().toEqualTypeOf<Stream.Stream<string, Failure>>()
    expectTypeOf<ReturnType<Real["asyncNumbers"]>>().toEqualTypeOf<Stream.Stream<number, Failure>>()
    expectTypeOf<Extract<keyof Real, "notAFunction" | "Refused">>().toEqualTypeOf<never>()
  })

  it("can be made by hand", () => {
    // @ts-expect-error: functions are missing
    Layer.succeed(Tasks, { add: (a: number, b: number) => Effect.succeed(a + b) })
  })
})

describe("the layer", () => {
  it("can fail to load the module, and needs nothing", () => {
    expectTypeOf(Tasks.layer()).toEqualTypeOf<Layer.Layer<Tasks, WorkerPool.ModuleFailed>>()
    expectTypeOf(Tasks.state).toEqualTypeOf<Effect.Effect<WorkerPool.PoolState, never, Tasks>>()
  })

  it("takes its options, and refuses others", () => {
    Tasks.layer({ size: 2, maxQueuedTasks: Infinity, taskTimeout: "5 seconds", transfer: "all" })
    Tasks.layer({ resourceLimits: { maxOldGenerationSizeMb: 512 } })
    // @ts-expect-error: no such option
    Tasks.layer({ threads: 2 })
    // @ts-expect-error: no such transfer
    Tasks.layer({ transfer: "none" })
    // @ts-expect-error: no duration
    Tasks.layer({ taskTimeout: "soon" })
  })
})

describe("move", () => {
  it("gives what it is given", () => {
    expectTypeOf(WorkerPool.move(new Float64Array(1))).toEqualTypeOf<Float64Array<ArrayBuffer>>()
  })
})
