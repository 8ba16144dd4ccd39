/**
 * A deployment's module in a thread of its own: it finds there what it would find in the app.
 *
 * Its logs, spans and metrics go to the app, and its calls to other deployments go through the handles that the app has.
 *
 * @since 0.1.0
 */
import { Context, Effect, Scope, Stream, Tracer } from "effect"
import { Host } from "../batching/Host.ts"
import { type CallOptions, derive, RequestContext } from "../core/RequestContext.ts"
import type { Link } from "../wire/Link.ts"
import * as MethodCodec from "../wire/MethodCodec.ts"
import { clock, type ThreadEnd } from "../wire/ThreadEnd.ts"
import * as Module from "./Module.ts"
import type { ModuleData } from "./ModuleThreads.ts"

/** Loads and builds the module. */
export const build = Effect.fnUntraced(function* (data: ModuleData, end: ThreadEnd) {
  const batchers: Host["batchers"] = new Set()
  const endings: Host["endings"] = new Set()
  const host: Host = { ...data, batchers, endings, leave: Effect.sync(() => end.link.note("leave", undefined)) }
  const module = yield* Module.load(new URL(data.module), data.deployment)
  yield* ask(end, module)
  const services = module.uses.reduce(
    (context, used) => Context.add(context, used, handleOf(end.link, used)),
    Context.make(Host, host) as Context.Context<unknown>
  )
  const { context, written } = yield* Effect.provideContext(withContext(module.build), services)
  return { module, context, batchers, handlers: Module.inOrder(module, written) }
})

/** Asks the app for the deployments that the module uses. */
const ask = Effect.fnUntraced(function* ({ hear, link }: ThreadEnd, { deployment, uses }: Module.Module) {
  if (uses.length === 0) return
  link.note(
    "uses",
    uses.map((used) => used.deployment)
  )
  const missing = (yield* hear("missing")) as ReadonlyArray<string>
  if (missing.length === 0) return
  const names = missing.map((name) => `"${name}"`).join(", ")
  return yield* Effect.die(`Deployment "${deployment}" uses ${names}, which its layer was not given: add Layer.provide`)
})

/** Runs a builder, and keeps the services that its handlers get: all but the scope, and the span of the start. */
const withContext = (build: Module.Module["build"]) =>
  Effect.gen(function* () {
    const written = yield* build
    return { written, context: Context.omit(Scope.Scope, Tracer.ParentSpan)(yield* Effect.context<Scope.Scope>()) }
  })

/** A handle that calls through the app's. */
const handleOf = (link: Link, { deployment, methods }: Module.Used) =>
  Object.fromEntries(
    methods.map((rpc) => {
      const call = link.method(`${deployment}.${rpc._tag}`, MethodCodec.make(rpc))
      return [
        rpc._tag,
        (payload: unknown, options?: CallOptions) =>
          options === undefined ? call(payload) : withOptions(call(payload), options)
      ]
    })
  )

const withOptions = (
  call: Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown>,
  options: CallOptions
): typeof call => {
  const request = Effect.map(RequestContext, (outer) => derive(outer, options, clock.currentTimeMillisUnsafe()))
  return Stream.isStream(call)
    ? Stream.unwrap(Effect.map(request, (request) => Stream.provideService(call, RequestContext, request)))
    : Effect.flatMap(request, (request) => Effect.provideService(call, RequestContext, request))
}
