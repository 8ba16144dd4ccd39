/**
 * The answer to a call: from a payload to the method's result or failure, as status and body.
 *
 * @since 0.1.0
 */
import { Cause, Effect, Exit, Option, Schema, SchemaIssue, Stream } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as SchemaParser from "effect/SchemaParser"
import type { RequestContext } from "../core/RequestContext.ts"
import { ServeError } from "../core/ServeError.ts"
import type { Frames } from "./Frames.ts"
import { type Elements, type Flow, type Piece, sourceOf } from "./Outlet.ts"
import * as Payload from "./Payload.ts"
import type { Endpoint, Route } from "./RouteTable.ts"
import * as Status from "./Status.ts"

/**
 * What goes back to the client.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reply {
  readonly status: number
  readonly body: Piece | Flow<Reply>
  readonly contentType: string
  readonly requestId: string
  /** What else its head has. */
  readonly headers?: Readonly<Record<string, string>>
  /** Whether the connection is of no more use. */
  readonly close?: boolean
}

/**
 * What an answer is about: a method, or another thing that can be asked for.
 *
 * @category models
 * @since 0.1.0
 */
export type Place = Pick<Route, "path" | "deployment" | "method" | "statusOf">

/** Decodes the payload, calls the method, and answers with its result or its failure. Never fails. */
export const ofCall = (endpoint: Endpoint, context: RequestContext, payload: unknown): Effect.Effect<Reply> =>
  Effect.matchCauseEffectEager(decode(endpoint, payload), {
    onFailure: (cause) => rejectPayload(endpoint, context, cause),
    onSuccess: (decoded) => call(endpoint, context, decoded)
  })

/**
 * Does what {@link ofCall} does without a fiber: it gives `done` the answer, or what makes it, which then wants a fiber. Returns what ends
 * the call as long as it has not ended; `false`, with nothing done, when that needs a fiber from the start.
 */
export const directly = (
  endpoint: Endpoint,
  context: RequestContext,
  payload: unknown,
  done: (answer: Reply | Effect.Effect<Reply>) => void
): Effect.Effect<void> | undefined | false => {
  if (endpoint.direct === undefined) return false
  const decoded = decode(endpoint, payload)
  if (!isSuccess(decoded)) return false
  return endpoint.direct(decoded.value, context, (exit) => {
    if (Exit.isFailure(exit)) return done(ofFailure(endpoint, context, exit.cause, endpoint.encodeError))
    const encoded = endpoint.encodeSuccess(exit.value)
    const reply = isSuccess(encoded) ? ifWritable(endpoint, encoded.value, context) : undefined
    done(reply ?? answerOf(endpoint, context, exit))
  })
}

/** Whether an effect has ended well already, as a codec has that needs no service and waits for nothing. */
const isSuccess = <A, E>(effect: Effect.Effect<A, E>): effect is Exit.Success<A> =>
  Exit.isExit(effect) && Exit.isSuccess(effect)

const decode = (endpoint: Endpoint, payload: unknown) =>
  endpoint.decodePayload(endpoint.takes.form === "multipart" ? Payload.parts(payload as Payload.Form) : payload)

const call = (endpoint: Endpoint, context: RequestContext, payload: unknown): Effect.Effect<Reply> =>
  answerOf(endpoint, context, endpoint.call(payload) as Effect.Effect<unknown, unknown>)

const answerOf = (endpoint: Endpoint, context: RequestContext, result: Effect.Effect<unknown, unknown>) =>
  Effect.matchCauseEffect(
    Effect.flatMapEager(result, (value) =>
      Effect.map(encode(endpoint.encodeSuccess, value), (encoded) => success(endpoint, encoded, context))
    ),
    {
      onFailure: (cause) => ofFailure(endpoint, context, cause, endpoint.encodeError),
      onSuccess: Effect.succeed<Reply>
    }
  )

const success = (endpoint: Endpoint, encoded: unknown, { requestId }: RequestContext): Reply =>
  isJson(endpoint)
    ? json(200, JSON.stringify(encoded), requestId)
    : { status: 200, body: encoded as Piece, contentType: endpoint.gives.contentType, requestId }

// What has too many levels can't be written.
const ifWritable = (...answer: Parameters<typeof success>): Reply | undefined => {
  try {
    return success(...answer)
  } catch {
    return undefined
  }
}

const isJson = ({ gives: { form } }: Route) => form === "json" || form === "event"

/** Decodes the payload, and calls a stream method. Fails with the answer to a payload that is wrong. */
export const elementsOf = (
  endpoint: Endpoint,
  context: RequestContext,
  payload: unknown,
  frames: Frames
): Effect.Effect<Elements<Reply>, Reply> =>
  Effect.matchCauseEffectEager(decode(endpoint, payload), {
    onFailure: (cause) => Effect.flatMap(rejectPayload(endpoint, context, cause), Effect.fail),
    onSuccess: (decoded) =>
      Effect.succeed({
        source: endpoint.open?.(decoded) ?? sourceOf(endpoint.call(decoded) as Stream.Stream<unknown, unknown>),
        frame: framing(endpoint, frames),
        fail: (cause) => Effect.flatMap(ofFailure(endpoint, context, cause, endpoint.encodeError), Effect.fail)
      })
  })

/** The same as one stream, which can go to another thread: of pieces, and it fails with the answer that tells of a failure. */
export const ofStream = (...call: Parameters<typeof elementsOf>): Stream.Stream<Piece, Reply> =>
  Stream.unwrap(
    Effect.map(elementsOf(...call), ({ fail, frame, source }) =>
      Stream.unwrap(Effect.map(source, ({ pull }) => Stream.fromPull(Effect.succeed(pull)))).pipe(
        Stream.mapArrayEffect((elements) => frame(elements) as Effect.Effect<NonEmptyReadonlyArray<Piece>>),
        Stream.catchCause((cause) => Stream.fromEffect(fail(cause)))
      )
    )
  )

const framing = ({ encodeSuccess, gives }: Endpoint, frames: Frames) => {
  const toText = (encoded: unknown): string => {
    if (gives.form === "text") return encoded as string
    if (gives.form === "json") return frames.element(JSON.stringify(encoded))
    const { data, event, id } = encoded as { readonly data: unknown; readonly event?: string; readonly id?: string }
    return frames.element(JSON.stringify(frames.hasNames ? data : encoded), event, id)
  }
  const one = (element: unknown): Effect.Effect<Piece> => {
    const encoded = encode(encodeSuccess, element)
    return gives.form === "bytes" ? (encoded as Effect.Effect<Uint8Array>) : Effect.mapEager(encoded, toText)
  }
  return (elements: NonEmptyReadonlyArray<unknown>): Effect.Effect<ReadonlyArray<Piece>> => {
    const pieces: Array<Piece> = []
    for (const element of elements) {
      const piece = one(element)
      if (!isSuccess(piece)) return Effect.forEach(elements, one)
      pieces.push(piece.value)
    }
    return Effect.succeed(gives.form === "bytes" ? pieces : [pieces.join("")])
  }
}

// A value that its own schema can't encode is the handler's mistake, not the client's.
const encode = (codec: Endpoint["encodeSuccess"], value: unknown) =>
  Effect.catchEager(codec(value), (issue) => Effect.die(new Error(`Not encodable: ${formatIssue(issue)}`)))

/** The answer to a call that failed: with the runtime's error, with the method's own, which `encodeError` encodes, or a defect. */
export const ofFailure = (
  route: Place,
  context: RequestContext,
  cause: Cause.Cause<unknown>,
  encodeError?: Endpoint["encodeError"]
): Effect.Effect<Reply> => {
  const error = Cause.hasDies(cause) ? Option.none() : Cause.findErrorOption(cause)
  if (Option.isSome(error) && error.value instanceof ServeError) {
    return Effect.succeed(ofServeError(route, error.value, context.requestId))
  }
  if (Option.isNone(error) || encodeError === undefined) return defect(route, context, cause)
  return Effect.matchCauseEffect(encode(encodeError, error.value), {
    onFailure: (cause) => defect(route, context, cause),
    onSuccess: (encoded) =>
      Effect.succeed(json(route.statusOf(error.value), JSON.stringify(encoded), context.requestId))
  })
}

const defect = (route: Place, { requestId }: RequestContext, cause: Cause.Cause<unknown>): Effect.Effect<Reply> =>
  Effect.logError(`Defect in ${route.deployment}.${route.method}`, cause).pipe(
    Effect.annotateLogs({ requestId }),
    Effect.as(json(500, JSON.stringify({ _tag: "InternalServerError", requestId }), requestId))
  )

const rejectPayload = (
  endpoint: Endpoint,
  context: RequestContext,
  cause: Cause.Cause<SchemaIssue.Issue>
): Effect.Effect<Reply> => {
  const issue = Cause.findErrorOption(cause)
  if (Option.isNone(issue)) return defect(endpoint, context, cause)
  const { requestId } = context
  const issues = issuesOf(issue.value).issues.map(({ message, path }) => ({ path: pathOf(path ?? []), message }))
  const message = issues.map(({ message, path }) => (path === "" ? message : `${path}: ${message}`)).join("; ")
  return Effect.succeed(json(400, JSON.stringify({ _tag: "BadRequest", requestId, message, issues }), requestId))
}

const formatIssue = SchemaIssue.makeFormatterDefault()
const issuesOf = SchemaIssue.makeFormatterStandardSchemaV1()

const pathOf = (path: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }>): string =>
  path
    .map((segment) => (typeof segment === "object" ? segment.key : segment))
    .reduce<string>(
      (path, key) =>
        typeof key === "number" ? `${path}[${key}]` : path === "" ? String(key) : `${path}.${String(key)}`,
      ""
    )

const encodeServeError = SchemaParser.encodeUnknownExit(Schema.toCodecJson(ServeError))

/** The answer when the runtime did not run a request, or not to its end. */
export const ofServeError = (route: Place, error: ServeError, requestId: string): Reply => {
  const encoded = encodeServeError(error)
  const reason = Exit.isSuccess(encoded) ? encoded.value : { _tag: error._tag, reason: { _tag: error.reason._tag } }
  const retryAfter = Status.retryAfter(error)
  const body = JSON.stringify({ ...(reason as object), requestId, message: error.message })
  const reply = json(route.statusOf(error), body, requestId)
  return retryAfter === undefined ? reply : { ...reply, headers: { "retry-after": String(retryAfter) } }
}

/** The answer to a request that is wrong. */
export const problem = (status: number, tag: string, message: string, requestId: string): Reply =>
  json(status, JSON.stringify({ _tag: tag, requestId, message }), requestId)

export const json = (status: number, body: string, requestId: string): Reply => ({
  status,
  body,
  contentType: "application/json",
  requestId
})

/** The status of an answer that has no body, and so neither its type nor its length. */
export const NO_CONTENT = 204

export const text = (status: number, body: string, requestId: string): Reply => ({
  status,
  body,
  contentType: "text/plain",
  requestId
})
