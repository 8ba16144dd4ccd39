/**
 * The ingress on a thread of its own, for deployments whose handlers may hold the app's event loop.
 *
 * The thread has the server, and for each deployment a router that admits, queues and refuses. It answers health checks and says no
 * in time while the app is blocked. What it admits goes to the app, which decodes it, calls the handle and encodes the answer.
 *
 * @since 0.1.0
 */
import { Duration, Effect, Exit, Schema, type Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import type { AddressInfo } from "node:net"
import type { Body } from "../core/HttpSchema.ts"
import { RequestContext } from "../core/RequestContext.ts"
import { BadUpload, because } from "../core/ServeError.ts"
import type { DeploymentOptions } from "../deployment/DeploymentOptions.ts"
import * as Handle from "../deployment/Handle.ts"
import * as AppEnd from "../wire/AppEnd.ts"
import { LinkedThread } from "../wire/LinkedThread.ts"
import * as MethodCodec from "../wire/MethodCodec.ts"
import * as Telemetry from "../wire/Telemetry.ts"
import { resolveModule } from "../core/ModuleFile.ts"
import * as Answer from "../exchange/Answer.ts"
import { type Bounds, ListenFailed } from "./NodeServer.ts"
import { type Authorize, Forbidden, Unauthorized } from "../exchange/Auth.ts"
import type { Settings } from "../exchange/Exchange.ts"
import { type Frames, named } from "../exchange/Frames.ts"
import type { Endpoint, Route, RouteTable } from "../exchange/RouteTable.ts"
import * as RemoteCalls from "../exchange/RemoteCalls.ts"
import type * as Status from "../exchange/Status.ts"
import { isWhole } from "../exchange/Terms.ts"

const entry = resolveModule(new URL("./serverThread.ts", import.meta.url))

/** Milliseconds after which the thread knows at the latest that the deployments are ready, or are not any more. */
const READINESS = 250

/**
 * What the thread is started with.
 *
 * @category models
 * @since 0.1.0
 */
export interface ServerData {
  readonly routes: ReadonlyArray<Omit<Route, "statusOf">>
  readonly deployments: ReadonlyArray<{ readonly name: string; readonly options: DeploymentOptions }>
  /** In milliseconds where they are times. */
  readonly bounds: Readonly<Record<keyof Bounds | keyof Settings["bounds"], unknown>>
  readonly choices: Status.Choices
  readonly processGate: boolean
  /** What is the same in the app, except for who may call: that is asked there. */
  readonly settings: Pick<Settings, "protectOwnPaths" | "cors" | "compression" | "rpc">
  readonly asks: boolean
  /** Whether every deployment is ready: its one number is 1 then. */
  readonly ready: SharedArrayBuffer
}

/** How a payload and its answer travel: as they are. */
const plain = Rpc.make("answer", { payload: Schema.Any, success: Schema.Any })
/** The same for a stream, whose failure is an answer too. */
const plainStream = Rpc.make("stream", { payload: Schema.Any, success: Schema.Any, error: Schema.Any, stream: true })

/** How the calls of a method travel. */
export const codecOf = ({ stream }: Route | Omit<Route, "statusOf">) => MethodCodec.make(stream ? plainStream : plain)

/** The method by which the app reads a body that is still coming, from its number. */
export const body = { target: "body", codec: MethodCodec.make(plainStream) }

/** The method by which the app is asked for its OpenAPI document. */
export const document = { target: "document", codec: MethodCodec.make(plain) }

/** The method by which the app is asked who makes a request. */
export const authorization = {
  target: "authorize",
  codec: MethodCodec.make(
    Rpc.make("authorize", { payload: Schema.Any, success: Schema.Any, error: Schema.Union([Unauthorized, Forbidden]) })
  )
}

/**
 * What stands for a body that is still coming.
 *
 * @category models
 * @since 0.1.0
 */
export interface SentBody {
  readonly id: number
  /** Of a form. */
  readonly contentType: string | undefined
}

/**
 * A call of a stream method, and the form that its elements are to have.
 *
 * @category models
 * @since 0.1.0
 */
export interface SentStream {
  readonly payload: unknown
  readonly frames: Frames["name"]
}

/**
 * The payload of a remote handle's call, in the form in which it came.
 *
 * @category models
 * @since 0.1.0
 */
interface SentCall {
  readonly rpc: Uint8Array
}

/** What goes to the app: a copy, because it is part of a frame, all of which would be copied. */
export const toApp = (sent: unknown): SentCall => ({ rpc: Uint8Array.from(sent as Uint8Array) })

const isCall = (sent: unknown): sent is SentCall => (sent as Partial<SentCall> | null)?.rpc instanceof Uint8Array

/** Serves until the scope closes, as `NodeServer` does. Returns its address. */
export const serve = Effect.fnUntraced(function* (
  table: RouteTable,
  handles: ReadonlyMap<string, object>,
  settings: Settings,
  options: Bounds & Status.Choices & { readonly processGate: boolean }
): Effect.fn.Return<AddressInfo, ListenFailed, Scope.Scope> {
  const context = yield* Effect.context()
  const ready = new Int32Array(new SharedArrayBuffer(4))
  const look = Effect.sync(() => Atomics.store(ready, 0, table.isReady() ? 1 : 0))
  yield* look
  yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(READINESS), look)))
  const showMetrics = yield* Telemetry.mirror({ thread: "ingress" })
  const thread = yield* LinkedThread.start({
    name: "ingress",
    entry,
    data: yield* dataOf(table, handles, settings, options, ready),
    makeEnd: yield* AppEnd.make,
    resourceLimits: {},
    // It lets open requests finish, which takes as long as it may, and closes.
    stopTimeout: Duration.sum(options.gracefulShutdownTimeout, Duration.seconds(5)),
    onNote: (name, value) => {
      if (name === "metrics") showMetrics(value as Telemetry.Metrics)
    }
  })
  const fork = Effect.runForkWith(context)
  thread.onLoss = (why) => fork(Effect.logFatal(`The thread of the ingress ended ${why}. Nothing is served any more.`))
  const brokenOff = new BadUpload({ why: "brokenOff", description: "the ingress has ended" })
  thread.closeWithThread(() => () => Exit.fail(because(() => brokenOff)))
  const read = thread.link.method(body.target, body.codec) as (id: unknown) => Body
  for (const endpoint of table.endpoints)
    thread.link.served.set(endpoint.path, { codec: codecOf(endpoint), run: answer(endpoint, read), context })
  thread.link.served.set(document.target, { codec: document.codec, run: () => settings.document, context })
  if (settings.authorize !== undefined) {
    const run = (question: unknown) =>
      Effect.catch(settings.authorize!(...(question as Parameters<Authorize>)), (error) =>
        error instanceof Unauthorized || error instanceof Forbidden ? Effect.fail(error) : Effect.die(error)
      )
    thread.link.served.set(authorization.target, { codec: authorization.codec, run, context })
  }
  return yield* Effect.catch(thread.ready, (why) =>
    why instanceof Object
      ? Effect.fail(new ListenFailed(why as ListenFailed))
      : Effect.die(new Error(`The ingress: ${String(why)}`))
  ) as Effect.Effect<AddressInfo, ListenFailed>
})

const answer = (endpoint: Endpoint, read: (id: unknown) => Body) => {
  const whole = (sent: unknown) => {
    if (isWhole(endpoint.takes)) return sent
    const { contentType, id } = sent as SentBody
    return contentType === undefined ? read(id) : { body: read(id), contentType }
  }
  const callable = isWhole(endpoint.takes) ? RemoteCalls.ofEndpoint(endpoint) : undefined
  return (sent: unknown) => {
    if (callable !== undefined && isCall(sent)) return RemoteCalls.pass(callable, sent.rpc)
    if (!endpoint.stream) {
      return Effect.flatMap(RequestContext, (request) => Answer.ofCall(endpoint, request, whole(sent)))
    }
    const { frames, payload } = sent as SentStream
    const form = named(frames, endpoint.gives)
    return Stream.unwrap(
      Effect.map(RequestContext, (request) => Answer.ofStream(endpoint, request, whole(payload), form))
    )
  }
}

const dataOf = Effect.fnUntraced(function* (
  table: RouteTable,
  handles: ReadonlyMap<string, object>,
  settings: Settings,
  options: Parameters<typeof serve>[3],
  ready: Int32Array<SharedArrayBuffer>
) {
  const { processGate, refusalStatus, timeoutStatus } = options
  const { compression, cors, protectOwnPaths, rpc } = settings
  const data: ServerData = {
    routes: table.endpoints.map(({ deployment, gives, method, path, stream, takes }) => ({
      deployment,
      gives,
      method,
      path,
      stream,
      takes
    })),
    deployments: yield* Effect.forEach(handles, ([name, handle]) =>
      Effect.map(Handle.stateOf(handle), (state) => ({ name, options: optionsOf(state) }))
    ),
    bounds: millisOf({ ...settings.bounds, ...options }) as ServerData["bounds"],
    settings: { compression, protectOwnPaths, cors: millisOf(cors) as typeof cors, rpc: millisOf(rpc) as typeof rpc },
    asks: settings.authorize !== undefined,
    choices: { refusalStatus, timeoutStatus },
    processGate,
    ready: ready.buffer
  }
  return data
})

/** The options of the router before the app: it has one replica, the app, which runs as much as all replicas do. */
const optionsOf = ({ options }: Handle.DeploymentState): DeploymentOptions => {
  const { fairness, gracefulShutdownTimeout, maxQueuedRequests, queueDiscipline, releasePermit, requestTimeout } =
    options
  return {
    fairness,
    maxQueuedRequests,
    queueDiscipline,
    releasePermit,
    gracefulShutdownTimeout: Duration.toMillis(gracefulShutdownTimeout),
    requestTimeout: Duration.toMillis(requestTimeout),
    replicas: Math.min(options.replicas, 1),
    // What runs in another process has no limit of its own here.
    maxOngoingRequests: Math.min(Math.max(options.replicas, 1) * options.maxOngoingRequests, Number.MAX_SAFE_INTEGER)
  }
}

const millisOf = (fields: object) =>
  Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [name, Duration.isDuration(value) ? Duration.toMillis(value) : value])
  )
