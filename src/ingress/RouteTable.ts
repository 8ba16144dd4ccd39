/**
 * What an ingress serves: for every path the method behind it, with its codecs compiled once.
 *
 * @since 0.1.0
 */
import { Context, Effect, Schema, SchemaIssue } from "effect"
import type * as Rpc from "effect/rpc/Rpc"
import * as RpcSchema from "effect/rpc/RpcSchema"
import * as SchemaParser from "effect/SchemaParser"
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

type Codec = (input: unknown) => Effect.Effect<unknown, SchemaIssue.Issue>

/**
 * A method of a deployment, at its path.
 *
 * @category models
 * @since 0.1.0
 */
export interface Endpoint {
  readonly path: string
  readonly deployment: string
  readonly method: string
  readonly stream: boolean
  readonly call: (payload: unknown) => Effect.Effect<unknown, unknown>
  readonly decodePayload: Codec
  readonly encodeSuccess: Codec
  readonly encodeError: Codec
  /** The status of a failure, whether the runtime's or the method's own. */
  readonly statusOf: (error: unknown) => number
}

export interface RouteTable {
  readonly endpoints: ReadonlyArray<Endpoint>
  readonly find: (path: string) => Endpoint | undefined
  /** Tells a client what it could have asked for. */
  readonly explain: (path: string) => string
  /** Whether every deployment can take requests. */
  readonly isReady: () => boolean
}

/** Resolves the routes against the context. Dies when a prefix is malformed. */
export const make = Effect.fnUntraced(function* <R extends Routes>(routes: R, choices: Status.Choices) {
  const context = yield* Effect.context<Services<R>>()
  const byLength = Object.entries(routes).toSorted(([one], [other]) => one.length - other.length)
  const paths = new Map<string, Endpoint>()
  const handles: Array<object> = []
  for (const [prefix, deployment] of byLength) {
    assertPrefix(prefix)
    const handle = Context.getUnsafe(context, deployment as Context.Key<Services<R>, Record<string, Endpoint["call"]>>)
    handles.push(handle)
    for (const rpc of deployment.methods as ReadonlyArray<Rpc.AnyWithProps>) {
      const endpoint = makeEndpoint(prefix, deployment.deployment, rpc, handle[rpc._tag]!, choices)
      paths.set(endpoint.path, endpoint)
    }
  }
  const table: RouteTable = {
    endpoints: Array.from(paths.values()),
    find: (path) => paths.get(path),
    explain: (path) => {
      const nearest = byLength.findLast(([prefix]) => path.startsWith(withSlash(prefix)))
      return nearest === undefined
        ? `Nothing is served at this path. The prefixes are: ${byLength.map(([prefix]) => prefix).join(", ")}`
        : `Deployment "${nearest[1].deployment}" has no such method. ` +
            `Its methods are: ${nearest[1].methods.map(({ _tag }) => _tag).join(", ")}`
    },
    isReady: () => handles.every(Handle.isReady)
  }
  return table
})

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
  call: Endpoint["call"],
  choices: Status.Choices
): Endpoint => ({
  path: withSlash(prefix) + encodeURIComponent(rpc._tag),
  deployment,
  method: rpc._tag,
  stream: RpcSchema.isStreamSchema(rpc.successSchema),
  call,
  decodePayload: SchemaParser.decodeUnknownEffect(Schema.toCodecJson(rpc.payloadSchema)) as Codec,
  encodeSuccess: SchemaParser.encodeUnknownEffect(Schema.toCodecJson(rpc.successSchema)) as Codec,
  encodeError: SchemaParser.encodeUnknownEffect(Schema.toCodecJson(rpc.errorSchema)) as Codec,
  statusOf: Status.ofFailure(rpc.errorSchema, choices)
})
