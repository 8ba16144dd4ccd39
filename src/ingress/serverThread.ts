/**
 * The thread of an ingress: its server, and a router for each deployment, before an app that may be blocked.
 */
import { Cause, Effect, Option, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { workerData } from "node:worker_threads"
import { decode } from "../core/Options.ts"
import { type DeploymentOptions, Options } from "../deployment/DeploymentOptions.ts"
import * as Handle from "../deployment/Handle.ts"
import * as LoopReplica from "../replica/LoopReplica.ts"
import * as Router from "../routing/Router.ts"
import type { Start } from "../wire/AppEnd.ts"
import * as Telemetry from "../wire/Telemetry.ts"
import * as ThreadEnd from "../wire/ThreadEnd.ts"
import * as Answer from "../exchange/Answer.ts"
import * as Exchange from "../exchange/Exchange.ts"
import { type Bounds, ListenFailed, serve } from "./NodeServer.ts"
import * as ProcessGate from "../exchange/ProcessGate.ts"
import { of, type Route } from "../exchange/RouteTable.ts"
import * as Status from "../exchange/Status.ts"
import * as Tally from "../exchange/Tally.ts"
import { plain, type ServerData } from "./ThreadServer.ts"

const data = workerData as ServerData & Start
const end = ThreadEnd.open(data)

interface Endpoint extends Route {
  readonly call: (payload: unknown) => Effect.Effect<unknown, unknown>
}

/** The methods of a deployment, through a router whose one replica is the app. */
const handle = Effect.fnUntraced(function* (deployment: string, written: DeploymentOptions) {
  const options = yield* decode(Options, written, `deployment "${deployment}"`)
  const routes = data.routes.filter((route) => route.deployment === deployment)
  const build = Effect.succeed(routes.map(({ path }) => end.link.method(path, plain)))
  const methods = routes.map(({ method }) => method)
  const app = LoopReplica.make({ id: `${deployment}#app`, methods, permits: options.maxOngoingRequests, build })
  const replicas = options.replicas === 0 ? [] : [yield* app]
  const router = yield* Router.make({ ...options, deployment, methods, replicas })
  const handle = Handle.make(
    routes.map(({ path }) => Rpc.make(path, { payload: Schema.Any, success: Schema.Any })),
    router,
    options
  )
  const statusOf = Status.ofFailure(Schema.Never, data.choices)
  return routes.map((route): Endpoint => ({ ...route, statusOf, call: handle[route.path] }))
})

const answer = (endpoint: Endpoint, context: Parameters<typeof Answer.ofFailure>[1], payload: unknown) =>
  Effect.matchCauseEffect(endpoint.call(payload) as Effect.Effect<Answer.Reply, unknown>, {
    onFailure: (cause) => Answer.ofFailure(endpoint, context, cause),
    onSuccess: Effect.succeed
  })

const program = Effect.gen(function* () {
  const endpoints = (yield* Effect.forEach(data.deployments, ({ name, options }) => handle(name, options))).flat()
  const ready = new Int32Array(data.ready)
  const table = of(endpoints, () => Atomics.load(ready, 0) === 1)
  const exchange = yield* Exchange.make(table, Number(data.bounds.maxBodySize), answer)
  const address = yield* serve(exchange, data.bounds as unknown as Bounds, yield* Tally.make)
  const report = Effect.map(Telemetry.metrics, (metrics) => end.link.note("metrics", metrics))
  yield* Effect.forkScoped(Effect.forever(Effect.andThen(report, Effect.sleep("1 second"))))
  end.link.note("ready", address)
})

const partsOf = ({ description, host, port }: ListenFailed) => ({ description, host, port })

const gate = data.processGate ? ProcessGate.layer : ProcessGate.layerNoop

ThreadEnd.runMain(end, Effect.provide(program, gate), (cause) => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  return error instanceof ListenFailed ? partsOf(error) : Cause.pretty(cause)
})
