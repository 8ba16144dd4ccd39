/**
 * The thread of an ingress: its server, and a router for each deployment, before an app that may be blocked.
 */
import { Cause, Context, Effect, Option, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { workerData } from "node:worker_threads"
import type { Body } from "../core/HttpSchema.ts"
import { decode } from "../core/Options.ts"
import type { RequestContext } from "../core/RequestContext.ts"
import { ServeError } from "../core/ServeError.ts"
import { type DeploymentOptions, Options } from "../deployment/DeploymentOptions.ts"
import * as Handle from "../deployment/Handle.ts"
import * as LoopReplica from "../replica/LoopReplica.ts"
import * as Router from "../routing/Router.ts"
import type { Start } from "../wire/AppEnd.ts"
import * as Telemetry from "../wire/Telemetry.ts"
import { passing } from "../wire/Spans.ts"
import * as ThreadEnd from "../wire/ThreadEnd.ts"
import * as Answer from "../exchange/Answer.ts"
import type { Authorize } from "../exchange/Auth.ts"
import * as Exchange from "../exchange/Exchange.ts"
import { type Bounds, ListenFailed, serve } from "./NodeServer.ts"
import { type Piece, sourceOf } from "../exchange/Outlet.ts"
import type { Form } from "../exchange/Payload.ts"
import * as RemoteCalls from "../exchange/RemoteCalls.ts"
import * as ProcessGate from "../exchange/ProcessGate.ts"
import { of, type Route } from "../exchange/RouteTable.ts"
import * as Status from "../exchange/Status.ts"
import * as Tally from "../exchange/Tally.ts"
import { isWhole } from "../exchange/Terms.ts"
import {
  authorization,
  body,
  codecOf,
  document,
  type SentBody,
  type SentStream,
  type ServerData,
  toApp
} from "./ThreadServer.ts"

const data = workerData as ServerData & Start
const end = ThreadEnd.open(data)

interface Endpoint extends Route {
  readonly call: (payload: unknown) => Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown>
}

const bodies = new Map<number, Body>()
let lastBody = 0
end.link.served.set(body.target, {
  codec: body.codec,
  context: Context.empty(),
  run: (id) => bodies.get(id as number) ?? Effect.die(new Error("The body has been read"))
})

/** The methods of a deployment, through a router whose one replica is the app. */
const handle = Effect.fnUntraced(function* (deployment: string, written: DeploymentOptions) {
  const options = yield* decode(Options, written, `deployment "${deployment}"`)
  const routes = data.routes.filter((route) => route.deployment === deployment)
  const build = Effect.succeed(routes.map((route) => end.link.method(route.path, codecOf(route))))
  const methods = routes.map(({ method }) => method)
  const app = LoopReplica.make({ id: `${deployment}#app`, methods, permits: options.maxOngoingRequests, build })
  const replicas = options.replicas === 0 ? [] : [yield* app]
  const router = yield* Router.make({ ...options, deployment, methods, replicas })
  const handle = Handle.make(
    routes.map(({ path, stream }) => Rpc.make(path, { payload: Schema.Any, success: Schema.Any, stream })),
    router,
    options
  )
  const statusOf = Status.ofFailure(Schema.Never, data.choices)
  return routes.map((route): Endpoint => ({ ...route, statusOf, call: handle[route.path] }))
})

/** Keeps a body that is still coming for as long as the call lasts that may read it, which gets its number. */
const withBody = <A>(
  endpoint: Endpoint,
  payload: unknown,
  bracket: (acquire: Effect.Effect<unknown>, release: Effect.Effect<void>) => A
): A => {
  if (isWhole(endpoint.takes)) return bracket(Effect.succeed(payload), Effect.void)
  const id = lastBody++
  const { body, contentType } = Stream.isStream(payload)
    ? { body: payload as Body, contentType: undefined }
    : (payload as Form)
  return bracket(
    Effect.sync((): SentBody => {
      bodies.set(id, body)
      return { id, contentType }
    }),
    Effect.sync(() => void bodies.delete(id))
  )
}

const answering: Exchange.Answering<Endpoint> = {
  callable: ({ call, method, stream, takes }) =>
    isWhole(takes) ? { codec: RemoteCalls.passing(method, stream), run: (sent) => call(toApp(sent)) } : undefined,
  call: (endpoint, context, payload) =>
    withBody(endpoint, payload, (acquire, release) =>
      Effect.matchCauseEffect(
        Effect.ensuring(
          Effect.flatMap(acquire, (sent) => endpoint.call(sent) as Effect.Effect<Answer.Reply, unknown>),
          release
        ),
        { onFailure: (cause) => Answer.ofFailure(endpoint, context, cause), onSuccess: Effect.succeed }
      )
    ),
  stream: (endpoint, context, payload, { name }) =>
    withBody(endpoint, payload, (acquire, release) => {
      const stream = Effect.map(acquire, (payload) => {
        const sent: SentStream = { payload, frames: name }
        return endpoint.call(sent) as Stream.Stream<Piece, unknown>
      })
      return Effect.succeed({
        source: sourceOf(Stream.ensuring(Stream.unwrap(stream), release)),
        // The app has done that.
        frame: (pieces) => Effect.succeed(pieces as ReadonlyArray<Piece>),
        fail: (cause) => Effect.flatMap(failureOf(endpoint, context, cause), Effect.fail)
      })
    })
}

/** The answer to a failure: the app's own, or one of this thread. */
const failureOf = (endpoint: Endpoint, context: RequestContext, cause: Cause.Cause<unknown>) => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  return error === undefined || error instanceof ServeError
    ? Answer.ofFailure(endpoint, context, cause)
    : Effect.succeed(error as Answer.Reply)
}

const program = Effect.gen(function* () {
  const endpoints = (yield* Effect.forEach(data.deployments, ({ name, options }) => handle(name, options))).flat()
  const ready = new Int32Array(data.ready)
  const table = of(endpoints, () => Atomics.load(ready, 0) === 1)
  const ask = end.link.method(authorization.target, authorization.codec)
  const settings: Exchange.Settings = {
    ...data.settings,
    under: passing,
    bounds: data.bounds as unknown as Exchange.Bounds,
    choices: data.choices,
    authorize: data.asks ? (...question) => ask(question) as ReturnType<Authorize> : undefined,
    document: end.link.method(document.target, document.codec)(undefined) as Exchange.Settings["document"]
  }
  const exchange = yield* Exchange.make(table, settings, answering)
  const address = yield* serve(exchange, data.bounds as unknown as Bounds, yield* Tally.make)
  const report = Effect.map(Telemetry.metrics, (metrics) => end.link.note("metrics", metrics))
  yield* Effect.forkScoped(Effect.forever(Effect.andThen(report, Effect.sleep("1 second"))))
  end.link.note("ready", address)
})

const partsOf = ({ code, description, host, port, reusePort }: ListenFailed) => ({
  code,
  description,
  host,
  port,
  reusePort
})

const gate = data.processGate ? ProcessGate.layer : ProcessGate.layerNoop

const describe = (cause: Cause.Cause<unknown>) => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  return error instanceof ListenFailed ? partsOf(error) : Cause.pretty(cause)
}

// The app reads bodies as long as their clients send. The server itself knows how long it waits for these.
ThreadEnd.runMain(end, Effect.provide(program, gate), describe, Effect.void)
