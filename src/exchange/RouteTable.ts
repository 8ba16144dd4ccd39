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
export interface Route {
  readonly path: string
  readonly deployment: string
  readonly method: string
  readonly stream: boolean
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
  readonly call: (payload: unknown) => Effect.Effect<unknown, unknown>
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
        makeEndpoint(prefix, deployment.deployment, rpc, handle[rpc._tag]!, choices)
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
