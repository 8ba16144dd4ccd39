/**
 * What the schemas of a method can say about its HTTP form, beyond JSON in and JSON out.
 *
 * Bytes and text are marked with effect's own `HttpApiSchema.asUint8Array({ contentType })` and `asText`: a payload or a result that
 * is, or a stream of them, is the body as it is. Here are the forms that effect has no word for: a body that the handler reads as it
 * comes, and an event of a stream that has a name or an id.
 *
 * @since 0.1.0
 */
import { Schema, type SchemaAST, Stream } from "effect"
import type { ServeError } from "./ServeError.ts"

const KEY = "~effect-serve/HttpSchema"

/**
 * What is written on a schema.
 *
 * @category models
 * @since 0.1.0
 */
export type Mark =
  | { readonly _tag: "Upload"; readonly contentTypes: ReadonlyArray<string> }
  | { readonly _tag: "Multipart" }
  | { readonly _tag: "Event" }

/**
 * What is written on a schema by the constructors of this module.
 *
 * @internal
 */
export const markOf = (ast: SchemaAST.AST): Mark | undefined => ast.annotations?.[KEY] as Mark | undefined

/**
 * Whether a payload is a body that is read while it comes.
 *
 * @internal
 */
export const takesStream = (payload: SchemaAST.AST): boolean => {
  const tag = markOf(payload)?._tag
  return tag === "Upload" || tag === "Multipart"
}

/**
 * A body while it arrives: bytes in pieces of any size. It can be read once. It fails with `BadUpload` when it grows too large, stalls or
 * breaks off; a handler may let that failure pass.
 *
 * @category models
 * @since 0.1.0
 */
export type Body = Stream.Stream<Uint8Array, ServeError>

/**
 * One part of a form.
 *
 * @category models
 * @since 0.1.0
 */
export type Part = Field | File

/**
 * A value of a form, in one piece: at most 1 MiB.
 *
 * @category models
 * @since 0.1.0
 */
export interface Field {
  readonly _tag: "Field"
  readonly name: string
  readonly value: string
  readonly contentType: string
}

/**
 * A file of a form, while it arrives. Its content must be read, or left unread, before the next part is asked for.
 *
 * @category models
 * @since 0.1.0
 */
export interface File {
  readonly _tag: "File"
  /** The name of the field. */
  readonly name: string
  /** As the client says it: never a path to be trusted. */
  readonly filename: string
  readonly contentType: string
  readonly content: Body
}

const declareStream = <A>(mark: Mark): Schema.declare<Stream.Stream<A, ServeError>> =>
  Schema.declare(Stream.isStream as (u: unknown) => u is Stream.Stream<A, ServeError>, {
    expected: "a Stream",
    [KEY]: mark
  })

/**
 * A payload that is the body of the request, read while it arrives: nothing of it is kept, and a handler that doesn't read stops the
 * client. Callers in the same process give a `Stream`. A method that takes one can't run on a thread.
 *
 * `contentType` is what the client must say the body is: one or several, where `audio/*` is any audio. Default: anything.
 *
 * @example
 * ```ts
 * import { Effect, Schema, Stream } from "effect"
 * import { Rpc } from "effect/rpc"
 * import { Deployment, HttpSchema } from "effect-serve"
 *
 * class Sizes extends Deployment.Service<Sizes>()("Sizes", [
 *   // curl localhost:8000/sizes/measure -H 'content-type: image/png' -T picture.png -X POST
 *   Rpc.make("measure", { payload: HttpSchema.Upload({ contentType: "image/*" }), success: Schema.Int })
 * ]) {}
 *
 * const SizesLive = Sizes.toLayer({
 *   measure: (body) => Stream.runFold(body, () => 0, (size, bytes) => size + bytes.length)
 * })
 * const size = Effect.flatMap(Sizes, (sizes) => sizes.measure(Stream.make(new Uint8Array(3), new Uint8Array(4))))
 * console.log(await Effect.runPromise(Effect.provide(size, SizesLive))) // => 7
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const Upload = (options?: { readonly contentType?: string | ReadonlyArray<string> }): Schema.declare<Body> =>
  declareStream<Uint8Array>({ _tag: "Upload", contentTypes: [options?.contentType ?? []].flat() })

/**
 * A payload that is a form (`multipart/form-data`), part by part while it arrives. See {@link Upload}.
 *
 * @example
 * ```ts
 * import { Effect, Schema, Stream } from "effect"
 * import { Rpc } from "effect/rpc"
 * import { Deployment, HttpSchema } from "effect-serve"
 *
 * class Albums extends Deployment.Service<Albums>()("Albums", [
 *   // curl localhost:8000/albums/add -F title=Summer -F photo=@one.png -F photo=@two.png
 *   Rpc.make("add", { payload: HttpSchema.Multipart(), success: Schema.Record(Schema.String, Schema.Int) })
 * ]) {}
 *
 * const sizeOf = (part: HttpSchema.Part) =>
 *   part._tag === "Field"
 *     ? Effect.succeed(part.value.length)
 *     : Stream.runFold(part.content, () => 0, (size, bytes) => size + bytes.length)
 *
 * const AlbumsLive = Albums.toLayer({
 *   add: (parts) =>
 *     parts.pipe(
 *       Stream.mapEffect((part) => Effect.map(sizeOf(part), (size) => [part.name, size] as const)),
 *       Stream.runCollect,
 *       Effect.map(Object.fromEntries)
 *     )
 * })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const Multipart = (): Schema.declare<Stream.Stream<Part, ServeError>> =>
  declareStream<Part>({ _tag: "Multipart" })

const oneLine = Schema.String.check(Schema.isPattern(/^[^\r\n\0]*$/, { expected: "one line" }))

/**
 * An element of a stream that says more than its data: as a server-sent event it has a name (`event`), by which the reader's
 * listeners are chosen, and an `id`, which the reader gives back when it connects again: the handler finds it in
 * `RequestContext.lastEventId`.
 *
 * @example
 * ```ts
 * import { Effect, Schema, Stream } from "effect"
 * import { Rpc } from "effect/rpc"
 * import { Deployment, HttpSchema, RequestContext } from "effect-serve"
 *
 * class Counter extends Deployment.Service<Counter>()("Counter", [
 *   Rpc.make("count", { success: HttpSchema.Event(Schema.Int), stream: true })
 * ]) {}
 *
 * // id: 6, event: even, data: 6
 * const CounterLive = Counter.toLayer({
 *   count: () =>
 *     Stream.unwrap(
 *       Effect.map(RequestContext.RequestContext, ({ lastEventId }) =>
 *         Stream.iterate(Number(lastEventId ?? 0) + 1, (n) => n + 1).pipe(
 *           Stream.map((n) => ({ id: String(n), event: n % 2 === 0 ? "even" : "odd", data: n }))
 *         )
 *       )
 *     )
 * })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const Event = <Data extends Schema.Top>(data: Data) =>
  Schema.Struct({ data, id: Schema.optionalKey(oneLine), event: Schema.optionalKey(oneLine) }).annotate({
    [KEY]: { _tag: "Event" } satisfies Mark
  })
