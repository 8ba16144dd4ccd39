/**
 * What an ingress serves: for every path the method behind it, with its codecs compiled once.
 *
 * @since 0.1.0
 */
import { Context, Effect, Schema, SchemaAST, type SchemaIssue, type Stream } from "effect"
import type * as Rpc from "effect/rpc/Rpc"
import * as RpcSchema from "effect/rpc/RpcSchema"
import * as SchemaJITCompiler from "effect/schema/SchemaJITCompiler"
import * as SchemaParser from "effect/SchemaParser"
import { markOf } from "../core/HttpSchema.ts"
import type * as Deployment from "../deployment/Deployment.ts"
import * as Handle from "../deployment/Handle.ts"
import * as Status from "./Status.ts"

/**
 * Which deployment answers below which path prefix. The longest prefix wins.
 *
 * @category models
 * @since 0.1.0
 */
export type Routes = Readonly<Record<string, Deployment.Any>>

/**
 * What the deployments of some routes, and the codecs of their methods, need from the context.
 *
 * @category models
 * @since 0.1.0
 */
export type Services<R extends Routes> = {
  [Prefix in keyof R]: Context.Service.Identifier<R[Prefix]> | Rpc.ServicesServer<R[Prefix]["methods"][number]>
}[keyof R]

/**
 * How the body of a request becomes a payload: parsed as JSON, whole as it is, or read by the handler as it comes. `contentTypes` are those
 * that a client may send; none means any.
 *
 * @category models
 * @since 0.1.0
 */
interface Takes {
  readonly form: "json" | "text" | "bytes" | "upload" | "multipart"
  readonly contentTypes: ReadonlyArray<string>
}

/**
 * What the body of an answer is made of: JSON values, or text or bytes as they are.
 *
 * @category models
 * @since 0.1.0
 */
export interface Gives {
  readonly form: "json" | "text" | "bytes" | "event"
  readonly contentType: string
}

type Codec = (input: unknown) => Effect.Effect<unknown, SchemaIssue.Issue>

/**
 * A method of a deployment, at its path.
 *
 * @category models
 * @since 0.1.0
 */
export interface Route {
  readonly path: string
  readonly deployment: string
  readonly method: string
  readonly stream: boolean
  readonly takes: Takes
  /** The answer, or each element of a stream. */
  readonly gives: Gives
  /** The status of a failure, whether the runtime's or the method's own. */
  readonly statusOf: (error: unknown) => number
}

/**
 * The same where it can be called.
 *
 * @category models
 * @since 0.1.0
 */
export interface Endpoint extends Route {
  readonly rpc: Rpc.AnyWithProps
  readonly call: (payload: unknown) => Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown>
  /** Calls a method that answers once, without a fiber; not there for handles that no layer made. */
  readonly direct: Handle.Direct | undefined
  /** Calls a stream method for who takes elements as they come; likewise. */
  readonly open: Handle.Open | undefined
  readonly decodePayload: Codec
  readonly encodeSuccess: Codec
  readonly encodeError: Codec
}

/**
 * The routes, by their paths.
 *
 * @category models
 * @since 0.1.0
 */
export interface RouteTable<R extends Route = Endpoint> {
  readonly endpoints: ReadonlyArray<R>
  readonly find: (path: string) => R | undefined
  /** Tells a client what it could have asked for. */
  readonly explain: (path: string) => string
  /** Whether every deployment can take requests. */
  readonly isReady: () => boolean
}

/** Resolves the routes against the context. Dies when a prefix is malformed. */
export const make = Effect.fnUntraced(function* <R extends Routes>(routes: R, choices: Status.Choices) {
  const handles = yield* handlesOf(routes)
  const endpoints = Object.entries(routes)
    .toSorted(([one], [other]) => one.length - other.length)
    .flatMap(([prefix, deployment]) => {
      assertPrefix(prefix)
      const handle = handles.get(deployment.deployment)!
      return (deployment.methods as ReadonlyArray<Rpc.AnyWithProps>).map((rpc) =>
        makeEndpoint(prefix, deployment.deployment, rpc, handle, choices)
      )
    })
  return of(endpoints, () => Array.from(handles.values()).every(Handle.isReady))
})

/** The handles of the deployments of some routes, by name. */
export const handlesOf = <R extends Routes>(routes: R) =>
  Effect.map(
    Effect.context<Services<R>>(),
    (context) =>
      new Map(
        Object.values(routes).map((deployment) => [
          deployment.deployment,
          Context.getUnsafe(context, deployment as Context.Key<Services<R>, Readonly<Record<string, Endpoint["call"]>>>)
        ])
      )
  )

/** Makes a table of routes. Where two have the same path, the last one counts. */
export const of = <R extends Route>(endpoints: ReadonlyArray<R>, isReady: () => boolean): RouteTable<R> => {
  const paths = new Map(endpoints.map((endpoint) => [endpoint.path, endpoint]))
  const prefixes = Map.groupBy(paths.values(), ({ path }) => path.slice(0, path.lastIndexOf("/")) || "/")
  const byLength = Array.from(prefixes).toSorted(([one], [other]) => one.length - other.length)
  return {
    endpoints: Array.from(paths.values()),
    isReady,
    find: (path) => paths.get(path),
    explain: (path) => {
      const nearest = byLength.findLast(([prefix]) => path.startsWith(withSlash(prefix)))
      return nearest === undefined
        ? `Nothing is served at this path. The prefixes are: ${byLength.map(([prefix]) => prefix).join(", ")}`
        : `Deployment "${nearest[1][0]!.deployment}" has no such method. ` +
            `Its methods are: ${nearest[1].map(({ method }) => method).join(", ")}`
    }
  }
}

const withSlash = (prefix: string) => (prefix.endsWith("/") ? prefix : `${prefix}/`)

const assertPrefix = (prefix: string) => {
  if (!/^\/$|^(\/[\w.~-]+)+$/.test(prefix) || /^\/-(\/|$)/.test(prefix)) {
    throw new Error(
      `Invalid route "${prefix}": a prefix is "/" or looks like "/name" or "/a/b", and "/-" is the ingress's own`
    )
  }
}

const makeEndpoint = (
  prefix: string,
  deployment: string,
  rpc: Rpc.AnyWithProps,
  handle: Readonly<Record<string, Endpoint["call"]>>,
  choices: Status.Choices
): Endpoint => {
  const { payloadSchema } = rpc
  const streaming = RpcSchema.isStreamSchema(rpc.successSchema) ? rpc.successSchema : undefined
  const success: Schema.Top = streaming?.success ?? rpc.successSchema
  const error: Schema.Top = streaming === undefined ? rpc.errorSchema : Schema.Union([streaming.error, rpc.errorSchema])
  const takes = takesOf(payloadSchema.ast)
  const gives = givesOf(success.ast)
  return {
    path: withSlash(prefix) + encodeURIComponent(rpc._tag),
    deployment,
    method: rpc._tag,
    stream: streaming !== undefined,
    takes,
    gives,
    rpc,
    call: handle[rpc._tag]!,
    direct: Handle.directOf(handle, rpc._tag),
    open: Handle.openOf(handle, rpc._tag),
    decodePayload: decoder(takes.form === "json" ? Schema.toCodecJson(payloadSchema) : payloadSchema),
    encodeSuccess: encoder(isJson(gives) ? Schema.toCodecJson(success) : success),
    encodeError: encoder(Schema.toCodecJson(error)),
    statusOf: Status.ofFailure(error, choices)
  }
}

// Compiled to functions when they are used first, where the process may do so (`new Function`), and interpreted elsewhere.
const decoder = (codec: Schema.Top): Codec => {
  SchemaJITCompiler.enable(codec.ast)
  return SchemaParser.decodeUnknownEffect(codec as Schema.Codec<unknown>)
}

const encoder = (codec: Schema.Top): Codec => {
  SchemaJITCompiler.enable(SchemaAST.flip(codec.ast))
  return SchemaParser.encodeUnknownEffect(codec as Schema.Codec<unknown>)
}

const isJson = ({ form }: Gives) => form === "json" || form === "event"

const takesOf = (ast: SchemaAST.AST): Takes => {
  const mark = markOf(ast)
  if (mark?._tag === "Upload") return { form: "upload", contentTypes: mark.contentTypes }
  if (mark?._tag === "Multipart") return { form: "multipart", contentTypes: ["multipart/form-data"] }
  const { _tag, contentType } = encodingOf(ast) ?? json
  if (_tag === "Uint8Array") return { form: "bytes", contentTypes: ifSaid(contentType) }
  if (_tag === "Text") return { form: "text", contentTypes: [contentType] }
  return { form: "json", contentTypes: ["application/json"] }
}

/** What effect's `HttpApiSchema.asUint8Array` and its like write on a schema. */
const encodingOf = SchemaAST.resolveAt<{ readonly _tag: string; readonly contentType: string }>("~httpApiEncoding")
const json = { _tag: "Json", contentType: "application/json" }

// It is what a schema has that says nothing more.
const ifSaid = (contentType: string) => (contentType === "application/octet-stream" ? [] : [contentType])

const givesOf = (ast: SchemaAST.AST): Gives => {
  if (markOf(ast)?._tag === "Event") return { form: "event", contentType: "application/json" }
  const { _tag, contentType } = encodingOf(ast) ?? json
  if (_tag === "Uint8Array") return { form: "bytes", contentType }
  if (_tag === "Text") return { form: "text", contentType }
  return { form: "json", contentType: "application/json" }
}
