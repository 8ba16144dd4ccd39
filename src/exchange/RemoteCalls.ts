/**
 * What other processes may call over a connection (`/-/rpc`): every method of the deployments of an ingress, through the same handles as
 * HTTP.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import { Cause, Duration, Effect, Exit, Option, Result, Schema, Stream } from "effect"
import { takesStream } from "../core/HttpSchema.ts"
import { count, orElse, Time } from "../core/Options.ts"
import type { Principal, RequestContext } from "../core/RequestContext.ts"
import type { Served } from "../wire/Serving.ts"
import {
  binary,
  encodeFailure,
  make as makeCodec,
  type MethodCodec,
  Misfit,
  type SentExit
} from "../wire/MethodCodec.ts"
import { type Reception, REQUEST_ID } from "./Reception.ts"
import type { Endpoint, Route } from "./RouteTable.ts"

/**
 * The option `rpc` of an ingress.
 *
 * @category options
 * @since 0.1.0
 */
export const Options = Schema.Struct({
  /** Whether remote handles may connect at all. Default `true`. */
  enabled: Schema.Boolean.pipe(Schema.withDecodingDefaultTypeKey(orElse(true))),
  /**
   * Bytes that the payloads of all calls of one connection may have which have not ended; further ones wait at their callers. Default
   * `16777216` (16 MiB).
   */
  maxInFlightSize: count(1).pipe(Schema.withDecodingDefaultTypeKey(orElse(16 * 1024 ** 2))),
  /** Time after which a connection is dead on which nothing is heard, not even the answer to a ping. Default `"20 seconds"`. */
  pingTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(20)))),
  /**
   * Whether those who connect may say on whose behalf they call: the principal of the request that they serve then counts as if `authorize`
   * had found it. For callers that are parts of the same application. Default `false`.
   */
  trustPrincipals: Schema.Boolean.pipe(Schema.withDecodingDefaultTypeKey(orElse(false)))
})

/**
 * A method as a connection calls it.
 *
 * @category models
 * @since 0.1.0
 */
export type Callable = Pick<Served, "codec" | "run" | "direct" | "open">

/** A method, unless its payload is one that can't be sent. */
export const ofEndpoint = ({ call, direct, open, rpc }: Endpoint): Callable | undefined =>
  takesStream(rpc.payloadSchema.ast)
    ? undefined
    : {
        codec: makeCodec(rpc, binary),
        run: call,
        ...(direct === undefined ? {} : { direct }),
        ...(open === undefined ? {} : { open })
      }

/**
 * Where the ingress has a thread of its own, values pass it as they come, and the app makes something of them ({@link pass}). What it has made
 * of the end of a call is an answer here, or what a stream fails with.
 */
export const passing = (method: string, stream: boolean): MethodCodec => {
  const asIs = { encode: (value: unknown) => value, decode: (sent: unknown) => sent }
  return {
    method,
    stream,
    payload: asIs,
    success: asIs,
    element: asIs,
    // Each of them is several elements, as the app has sent them.
    elements: { encode: (elements) => (elements as ReadonlyArray<unknown>)[0], decode: (sent) => [sent], most: 1 },
    encodeExit: (exit) => {
      if (Exit.isSuccess(exit)) return stream ? ["success", undefined] : (exit.value as SentExit)
      const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
      return isSentExit(error) ? error : encodeFailure(exit.cause, binary)
    },
    decodeExit: () => Exit.die(new Error("Nothing is called through it"))
  }
}

const isSentExit = (value: unknown): value is SentExit => Array.isArray(value)

/** Does in the app what a call asks that came by a thread. */
export const pass = (
  { codec, run }: Callable,
  sent: Uint8Array
): Effect.Effect<SentExit> | Stream.Stream<unknown, SentExit> => {
  const fail = (cause: Cause.Cause<unknown>) => codec.encodeExit(Exit.failCause(cause))
  const work = () => run(codec.payload.decode(sent))
  return codec.stream
    ? Stream.suspend(() => work() as Stream.Stream<unknown, unknown>).pipe(
        Stream.mapArray((elements) => inParts(codec, elements)),
        Stream.catchCause((cause) => Stream.fail(fail(cause)))
      )
    : Effect.map(Effect.exit(Effect.suspend(() => work() as Effect.Effect<unknown, unknown>)), codec.encodeExit)
}

/** Bytes that elements which are sent together have at most, unless it is one. */
const TOGETHER = 64 * 1024

/** Encodes elements, as many together as may be. */
const inParts = (codec: MethodCodec, elements: NonEmptyReadonlyArray<unknown>): NonEmptyReadonlyArray<unknown> => {
  const sent = codec.elements.encode(elements) as Uint8Array
  if (sent.byteLength <= TOGETHER || elements.length === 1) return [sent]
  const half = elements.length >> 1
  const halves = [elements.slice(0, half), elements.slice(half)] as unknown as [typeof elements, typeof elements]
  const [first, ...more] = inParts(codec, halves[0])
  return [first, ...more, ...inParts(codec, halves[1])]
}

/**
 * Who is at the other end of a connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface Caller {
  readonly principal: Principal | undefined
  /** Whether it may say on whose behalf it calls. */
  readonly mayNamePrincipals: boolean
}

/** The methods of a deployment, by name, as that caller may call them. */
export const make = <R extends Route>(
  endpoints: ReadonlyArray<R>,
  callableOf: (endpoint: R) => Callable | undefined,
  { isTraced, overload, services: context }: Reception,
  { mayNamePrincipals, principal }: Caller
): ReadonlyMap<string, Served> => {
  const admitted = (request: RequestContext): RequestContext => {
    const named = mayNamePrincipals ? (request.principal ?? principal) : principal
    return Object.assign({}, request, {
      requestId: REQUEST_ID.test(request.requestId) ? request.requestId : "",
      principal: named,
      tenant: named?.tenant ?? request.tenant
    })
  }
  return new Map(
    endpoints.flatMap((endpoint) => {
      const { deployment, method } = endpoint
      const found = callableOf(endpoint)
      if (found === undefined) return []
      const { direct, ...callable } = found
      const onFailure = (cause: Cause.Cause<unknown>, { requestId }: RequestContext) => {
        const died = Cause.findDefect(cause)
        if (Result.isFailure(died) || died.success instanceof Misfit) return
        const log = Effect.logError(`Defect in ${deployment}.${method}`, cause)
        Effect.runForkWith(context)(Effect.annotateLogs(log, { requestId }))
      }
      const admit: Served["admit"] = (request) => overload(deployment, request.priority) ?? admitted(request)
      const fiberless = direct === undefined || isTraced ? {} : { direct }
      return [[method, { ...callable, ...fiberless, context, onFailure, admit }]]
    })
  )
}
