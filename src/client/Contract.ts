/**
 * What a client knows of a deployment by its type alone: what its methods take and give as JSON, and how calls of them fail.
 *
 * @since 0.1.0
 */
import type { Schema, Stream } from "effect"
import type * as Rpc from "effect/rpc/Rpc"
import type * as RpcSchema from "effect/rpc/RpcSchema"
import type * as ServeError from "../core/ServeError.ts"
import type * as Deployment from "../deployment/Deployment.ts"
import type { CallOptions, EventOptions } from "./Options.ts"

/**
 * The JSON form of a value that has the type `T` on the encoded side of a schema, as `Schema.toCodecJson` writes it: dates, URLs, bytes (in
 * base64), bigints and symbols are strings, maps and sets are arrays, and `undefined` is `null`.
 *
 * Not seen, because types don't show it: a `Schema.Number` that is not finite travels as `"NaN"`, `"Infinity"` or `"-Infinity"`. Of other
 * classes, such as `Duration` or `Option`, it says `unknown`. Without TypeScript's `exactOptionalPropertyTypes`, a key that may be missing
 * may seem to be `null` too.
 *
 * @category models
 * @since 0.1.0
 */
export type Json<T> = unknown extends T
  ? unknown
  : T extends string | number | boolean | null
    ? T
    : T extends undefined | void
      ? null
      : T extends bigint | symbol | Date | URL | Uint8Array
        ? string
        : T extends ReadonlyMap<infer K, infer V>
          ? ReadonlyArray<readonly [Json<K>, Json<V>]>
          : T extends ReadonlySet<infer V>
            ? ReadonlyArray<Json<V>>
            : T extends ReadonlyArray<unknown>
              ? { readonly [K in keyof T]: Json<T[K]> }
              : [Extract<T[keyof T], (...args: never) => unknown>] extends [never]
                ? { readonly [K in keyof T]: {} extends Pick<T, K> ? Optional<T, K> : Json<T[K]> }
                : unknown

type Optional<T, K extends keyof T> =
  | Json<Exclude<T[K], undefined>>
  | ({ [P in K]: undefined } extends Pick<T, K> ? null : never)

/**
 * A body that is sent as it is.
 *
 * @category models
 * @since 0.1.0
 */
export type Bytes = Uint8Array<ArrayBuffer> | ArrayBuffer | Blob

type Takes<Encoded> = [Encoded] extends [Stream.Stream<infer A, infer _E>]
  ? A extends Uint8Array
    ? Bytes | ReadableStream<Uint8Array>
    : FormData
  : unknown extends Encoded
    ? unknown
    : Json<Encoded> | ([Encoded] extends [Uint8Array] ? Bytes : never)

// Whether a schema of bytes is sent as base64 in JSON or as it is, its type does not tell.
type Gives<Encoded> =
  | Json<Encoded>
  | (unknown extends Encoded ? never : [Encoded] extends [Uint8Array] ? Uint8Array<ArrayBuffer> : never)

/** What `HttpSchema.Event` makes, and what can't be told from it. */
interface EventLike {
  readonly data: unknown
  readonly id?: string
  readonly event?: string
}

type IsEvent<Encoded> = unknown extends Encoded
  ? false
  : [keyof EventLike, Encoded] extends [keyof Encoded, EventLike]
    ? [keyof Encoded] extends [keyof EventLike]
      ? true
      : false
    : false

/**
 * A call that is answered once. It is sent at once, and is a promise of the result, which rejects with a `CallError`. A rejection that
 * nobody has asked for is not reported: only `then`, `catch`, `finally` and `result` make promises.
 *
 * @category models
 * @since 0.1.0
 */
export interface Call<A, E> extends Pick<Promise<A>, "then" | "catch" | "finally"> {
  /** The result or what went wrong, as a value. */
  result(): Promise<Result<A, E>>
  readonly "~failure"?: E
}

/**
 * What became of a call.
 *
 * @category models
 * @since 0.1.0
 */
export type Result<A, E> = { readonly ok: true; readonly value: A } | { readonly ok: false; readonly error: E }

/**
 * A call that is answered with a stream, which can be read once. It is sent at once. The server is asked for more as elements are taken;
 * leaving the loop ends the request and its work. It throws a `CallError` when it fails, also when it is cut off.
 *
 * @category models
 * @since 0.1.0
 */
export interface StreamCall<A, E> extends AsyncIterable<A, undefined, undefined> {
  readonly "~failure"?: E
}

type Arguments<Payload, Options> = undefined extends Payload
  ? [payload?: Payload, options?: Options]
  : null extends Payload
    ? [payload?: Payload | undefined, options?: Options]
    : [payload: Payload, options?: Options]

type Method<Current extends Rpc.Any> =
  Rpc.SuccessSchema<Current> extends RpcSchema.Stream<infer A extends Schema.Top, infer E extends Schema.Top>
    ? IsEvent<A["Encoded"]> extends true
      ? (
          payload: Takes<PayloadOf<Current>["Encoded"]>,
          options: EventOptions
        ) => StreamCall<Gives<A["Encoded"]>, Failure<Json<E["Encoded"]> | Json<Rpc.ErrorSchema<Current>["Encoded"]>>>
      : (
          ...args: Arguments<Takes<PayloadOf<Current>["Encoded"]>, CallOptions>
        ) => StreamCall<Gives<A["Encoded"]>, Failure<Json<E["Encoded"]> | Json<Rpc.ErrorSchema<Current>["Encoded"]>>>
    : (
        ...args: Arguments<Takes<PayloadOf<Current>["Encoded"]>, CallOptions>
      ) => Call<Gives<Rpc.SuccessSchema<Current>["Encoded"]>, Failure<Json<Rpc.ErrorSchema<Current>["Encoded"]>>>

type PayloadOf<Current extends Rpc.Any> =
  Current extends Rpc.Rpc<infer _Tag, infer Payload, infer _Success, infer _Error, infer _Middleware, infer _Requires>
    ? Payload
    : never

/**
 * The methods of a deployment, from the type of its class. `then` and `toJSON` can't be methods: JavaScript calls them unasked.
 *
 * @category models
 * @since 0.1.0
 */
export type Client<D extends Deployment.Any> = {
  readonly [Current in D["methods"][number] as Exclude<Current["_tag"], "then" | "toJSON">]: Method<Current>
}

/**
 * How calls of a method can fail: `ErrorOf<typeof sentiment.tokens>`.
 *
 * @category models
 * @since 0.1.0
 */
export type ErrorOf<M extends (...args: never) => { readonly "~failure"?: unknown }> = Exclude<
  ReturnType<M>["~failure"],
  undefined
>

/**
 * How a call can fail: with an error that its method declares (`E`, in its JSON form), the runtime's, an answer of the ingress that the
 * request is wrong, or for the client's own reasons. `_tag` tells them apart, as far as the declared errors have one.
 *
 * @category errors
 * @since 0.1.0
 */
export type Failure<E = never> = E | ServeFailure | InternalServerError | Problem | OwnFailure

/**
 * The runtime did not run the request, or not to its end. `retryAfter` in `reason` is in milliseconds.
 *
 * @category errors
 * @since 0.1.0
 */
export interface ServeFailure {
  readonly _tag: "ServeError"
  readonly reason: Json<(typeof ServeError.Reason)["Encoded"]>
  readonly requestId: string
  readonly message: string
}

/**
 * The method has a defect. The server's log says which, by the id of the request.
 *
 * @category errors
 * @since 0.1.0
 */
export interface InternalServerError {
  readonly _tag: "InternalServerError"
  readonly requestId: string
}

/**
 * The ingress turned the request away.
 *
 * @category errors
 * @since 0.1.0
 */
export type Problem =
  | BadRequest
  | {
      readonly _tag:
        | "Unauthorized"
        | "Forbidden"
        | "NotFound"
        | "MethodNotAllowed"
        | "NotAcceptable"
        | "RequestTimeout"
        | "PayloadTooLarge"
        | "UnsupportedMediaType"
      readonly requestId: string
      readonly message: string
    }

/**
 * A payload or a header is wrong.
 *
 * @category errors
 * @since 0.1.0
 */
export interface BadRequest {
  readonly _tag: "BadRequest"
  readonly requestId: string
  readonly message: string
  /** What is wrong with which fields of the payload. */
  readonly issues?: ReadonlyArray<{ readonly path: string; readonly message: string }>
}

/**
 * What the client itself finds.
 *
 * @category errors
 * @since 0.1.0
 */
export type OwnFailure = NetworkError | Aborted | TimedOut | BadAnswer

/**
 * There was no connection, or it was lost.
 *
 * @category errors
 * @since 0.1.0
 */
export interface NetworkError {
  readonly _tag: "NetworkError"
  readonly message: string
  /** Whether the server may have got the request. Browsers never say that it has not. */
  readonly sent: boolean
}

/**
 * The `signal` of the call ended it.
 *
 * @category errors
 * @since 0.1.0
 */
export interface Aborted {
  readonly _tag: "Aborted"
  readonly message: string
  /** That of the signal. */
  readonly reason: unknown
}

/**
 * The `timeout` of the call passed, and there was no answer that says so.
 *
 * @category errors
 * @since 0.1.0
 */
export interface TimedOut {
  readonly _tag: "TimedOut"
  readonly message: string
  /** In milliseconds. */
  readonly timeout: number
}

/**
 * What came is no answer of an ingress, such as the page of a proxy, or not the kind of answer that was asked for.
 *
 * @category errors
 * @since 0.1.0
 */
export interface BadAnswer {
  readonly _tag: "BadAnswer"
  readonly message: string
  /** Its beginning, as text; empty where there is none. */
  readonly body: string
}
