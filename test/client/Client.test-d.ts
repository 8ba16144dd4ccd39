import { Deployment, HttpSchema } from "effect-serve"
import { type Call, type CallError, client, type ErrorOf, type Failure, type StreamCall } from "effect-serve/client"
import { Schema } from "effect"
import { HttpApiSchema } from "effect/http-api"
import { Rpc } from "effect/rpc"
import { describe, expectTypeOf, it } from "vitest"

class Label extends Schema.Class<Label>("Label")({ name: Schema.String, at: Schema.Date }) {}
class ModelError extends Schema.TaggedError<ModelError>()("ModelError", { since: Schema.Date }) {}
class Lost extends Schema.TaggedError<Lost>()("Lost", { id: Schema.Int }) {}

const Png = Schema.Uint8Array.pipe(HttpApiSchema.asUint8Array({ contentType: "image/png" }))
const Csv = Schema.String.pipe(HttpApiSchema.asText({ contentType: "text/csv" }))

interface Tree {
  readonly at: Date
  readonly children: ReadonlyArray<Tree>
}
const Tree: Schema.Codec<Tree> = Schema.Struct({
  at: Schema.Date,
  children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
})

class Sentiment extends Deployment.Service<Sentiment>()("Sentiment", [
  Rpc.make("classify", { payload: { text: Schema.String, at: Schema.Date }, success: Label, error: ModelError }),
  Rpc.make("tokens", { payload: { text: Schema.String }, success: Schema.Date, error: ModelError, stream: true }),
  Rpc.make("either", { success: Schema.Boolean, error: Schema.Union([ModelError, Lost]) }),
  Rpc.make("ping"),
  Rpc.make("anything", { payload: Schema.Unknown, success: Schema.Unknown }),
  Rpc.make("tree", { payload: Tree, success: Tree }),
  Rpc.make("invert", { payload: Png, success: Png }),
  Rpc.make("csv", { payload: Csv, success: Csv }),
  Rpc.make("upload", { payload: HttpSchema.Upload(), success: Schema.Int }),
  Rpc.make("form", { payload: HttpSchema.Multipart(), success: Schema.Int }),
  Rpc.make("speech", { success: Png, stream: true }),
  Rpc.make("feed", { payload: { to: Schema.Int }, success: HttpSchema.Event(Schema.Date), stream: true }),
  Deployment.Blocking(Rpc.make("hash", { payload: { text: Schema.String }, success: Schema.BigInt }))
]) {}

const sentiment = client<typeof Sentiment>("http://localhost:8000/sentiment")
const payload = { text: "good", at: "2026-01-01T00:00:00.000Z" }

const Values = Schema.Struct({
  bytes: Schema.Uint8Array,
  url: Schema.URL,
  big: Schema.BigInt,
  map: Schema.ReadonlyMap(Schema.String, Schema.Date),
  set: Schema.ReadonlySet(Schema.BigInt),
  pair: Schema.Tuple([Schema.Date, Schema.Number]),
  many: Schema.Array(Schema.UndefinedOr(Schema.Date)),
  record: Schema.Record(Schema.String, Schema.Date),
  none: Schema.UndefinedOr(Schema.String),
  may: Schema.optional(Schema.Date),
  key: Schema.optionalKey(Schema.Date),
  other: Schema.Duration,
  choice: Schema.NullOr(Schema.Literals(["a", "b"])),
  inner: Schema.Struct({ at: Schema.Date }),
  decoded: Schema.FiniteFromString
})
class Types extends Deployment.Service<Types>()("Types", [Rpc.make("echo", { payload: Values, success: Values })]) {}

describe("client", () => {
  it("takes payloads in their JSON form", () => {
    expectTypeOf(sentiment.classify).parameter(0).toEqualTypeOf<{ readonly text: string; readonly at: string }>()
    expectTypeOf(sentiment.hash).parameter(0).toEqualTypeOf<{ readonly text: string }>()
    // @ts-expect-error a date travels as a string
    sentiment.classify({ text: "good", at: new Date() })
    // @ts-expect-error there is no such method
    sentiment.clasify(payload)
    // @ts-expect-error it takes a payload
    sentiment.classify()
    // @ts-expect-error the class is asked for
    client("http://localhost:8000/sentiment").classify(payload)
  })

  it("needs no payload where the method takes none", () => {
    expectTypeOf(sentiment.ping).toBeCallableWith()
    expectTypeOf(sentiment.ping).toBeCallableWith(undefined, { timeout: 5 })
    expectTypeOf(sentiment.anything).toBeCallableWith({ any: 1 })
    expectTypeOf(sentiment.ping()).resolves.toEqualTypeOf<null>()
  })

  it("gives results in their JSON form", () => {
    expectTypeOf(sentiment.classify(payload)).resolves.toEqualTypeOf<{ readonly name: string; readonly at: string }>()
    expectTypeOf(sentiment.hash({ text: "" })).resolves.toEqualTypeOf<string>()
    expectTypeOf(sentiment.anything()).resolves.toEqualTypeOf<unknown>()
    expectTypeOf(sentiment.classify(payload)).not.toExtend<AsyncIterable<unknown>>()
  })

  it("knows the JSON form of what a schema can be made of", () => {
    const types = client<typeof Types>("")
    expectTypeOf(types.echo).parameter(0).toEqualTypeOf<{
      readonly bytes: string
      readonly url: string
      readonly big: string
      readonly map: ReadonlyArray<readonly [string, string]>
      readonly set: ReadonlyArray<string>
      readonly pair: readonly [string, number]
      readonly many: ReadonlyArray<string | null>
      readonly record: { readonly [x: string]: string }
      readonly none: string | null
      readonly may?: string | null
      readonly key?: string
      readonly other: unknown
      readonly choice: "a" | "b" | null
      readonly inner: { readonly at: string }
      readonly decoded: string
    }>()
    interface TreeJson {
      readonly at: string
      readonly children: ReadonlyArray<TreeJson>
    }
    expectTypeOf(sentiment.tree).parameter(0).toExtend<TreeJson>()
    expectTypeOf<TreeJson>().toExtend<Parameters<typeof sentiment.tree>[0]>()
  })

  it("gives the elements of a stream, which can't be awaited for", () => {
    type Tokens = StreamCall<string, Failure<{ readonly _tag: "ModelError"; readonly since: string }>>
    expectTypeOf(sentiment.tokens({ text: "" })).toEqualTypeOf<Tokens>()
    expectTypeOf(sentiment.tokens({ text: "" })).not.toExtend<PromiseLike<unknown>>()
    expectTypeOf(sentiment.tokens({ text: "" })).not.toHaveProperty("result")
  })

  it("asks whether elements are events where they may be", () => {
    type Event = { readonly data: string; readonly id?: string; readonly event?: string }
    expectTypeOf(sentiment.feed({ to: 1 }, { events: true })).toExtend<AsyncIterable<Event>>()
    // @ts-expect-error the answer does not say it
    sentiment.feed({ to: 1 })
    // @ts-expect-error nor does it matter for others
    sentiment.tokens({ text: "" }, { events: true })
  })

  it("takes bodies that are not JSON as fetch does", () => {
    expectTypeOf(sentiment.upload).toBeCallableWith(new Blob([]))
    expectTypeOf(sentiment.upload).toBeCallableWith(new ReadableStream<Uint8Array>())
    expectTypeOf(sentiment.upload).toBeCallableWith(new Uint8Array(1), { contentType: "audio/wav" })
    expectTypeOf(sentiment.form).toBeCallableWith(new FormData())
    expectTypeOf(sentiment.csv).toBeCallableWith("a,b", { contentType: "text/csv" })
    expectTypeOf(sentiment.invert).toBeCallableWith(new Blob([]))
    // @ts-expect-error a form is one
    sentiment.form({ title: "Summer" })
    // @ts-expect-error an upload is no JSON
    sentiment.upload({ bytes: 1 })
  })

  it("does not tell bytes in base64 from bytes as they are", () => {
    expectTypeOf(sentiment.invert(new Blob([]))).resolves.toEqualTypeOf<string | Uint8Array<ArrayBuffer>>()
    expectTypeOf(sentiment.speech()).toExtend<AsyncIterable<string | Uint8Array<ArrayBuffer>>>()
  })

  it("knows how a call can fail, by the tag", async () => {
    const found = await sentiment.either().result()
    if (found.ok) return expectTypeOf(found.value).toEqualTypeOf<boolean>()
    const { error } = found
    switch (error._tag) {
      case "Lost":
        return expectTypeOf(error.id).toEqualTypeOf<number>()
      case "ModelError":
        return expectTypeOf(error.since).toEqualTypeOf<string>()
      case "BadRequest":
        return expectTypeOf(error.issues?.[0]?.path).toEqualTypeOf<string | undefined>()
      case "ServeError":
        if (error.reason._tag === "QueueFull") expectTypeOf(error.reason.retryAfter).toEqualTypeOf<number>()
        return expectTypeOf<Extract<typeof error.reason._tag, "Shed" | "WorkerCrashed" | "BadUpload">>().toEqualTypeOf<
          "Shed" | "WorkerCrashed" | "BadUpload"
        >()
      case "NetworkError":
        return expectTypeOf(error.sent).toEqualTypeOf<boolean>()
      default:
        return expectTypeOf(error._tag).toExtend<string>()
    }
  })

  it("gives the type of the error that is thrown", () => {
    type Lose = { readonly _tag: "Lost"; readonly id: number } | { readonly _tag: "ModelError"; readonly since: string }
    expectTypeOf<ErrorOf<typeof sentiment.either>>().toEqualTypeOf<Failure<Lose>>()
    expectTypeOf<Exclude<ErrorOf<typeof sentiment.tokens>, Failure>>().toEqualTypeOf<{
      readonly _tag: "ModelError"
      readonly since: string
    }>()
    expectTypeOf<ErrorOf<typeof sentiment.ping>>().toEqualTypeOf<Failure>()
    expectTypeOf<CallError<ErrorOf<typeof sentiment.ping>>["error"]>().toEqualTypeOf<Failure>()
  })

  it("takes the name of no other deployment", () => {
    client<typeof Sentiment>("", { deployment: "Sentiment" })
    // @ts-expect-error it is another one's
    client<typeof Sentiment>("", { deployment: "Other" })
    expectTypeOf<Call<string, never>>().toExtend<PromiseLike<string>>()
  })
})
