import { subscribe } from "node:diagnostics_channel"
import type { Worker } from "node:worker_threads"
import { type Deployment, RequestContext } from "effect-serve"
import { Cause, Clock, Context, Effect, Layer, Logger, Metric, References, Stream } from "effect"
import { Broken, Part, Probe } from "./Probe.ts"
import { seen } from "./seen.ts"

/** The deployment that `Probe` calls, on the app's loop. */
export const PartLive = Part.toLayer({
  double: ({ x }) => (x < 0 ? Effect.fail(new Broken({ part: `${x}` })) : Effect.succeed(2 * x)),
  seen: () => seen,
  count: ({ to }) => Stream.range(1, to),
  never: () => Effect.never
})

export const probeLayer = (options: Deployment.DeploymentModuleOptions) =>
  Probe.toLayerModule<typeof import("./probe.module.ts")>(new URL("./probe.module.ts", import.meta.url), options)

/** Something that was logged. */
export interface Entry {
  readonly level: string
  readonly message: ReadonlyArray<unknown>
  readonly annotations: Readonly<Record<string, unknown>>
  readonly cause: string | undefined
}

/** What was logged. */
export class Logs extends Context.Service<Logs, Array<Entry>>()("test/modules/Logs") {
  /** Keeps what is logged and measured, apart from that of other tests. */
  static readonly layer = Layer.unwrap(
    Effect.sync(() => {
      const entries: Array<Entry> = []
      const logger = Logger.make(({ cause, fiber, logLevel, message }) => {
        entries.push({
          level: logLevel,
          message: Array.isArray(message) ? message : [message],
          annotations: fiber.getRef(References.CurrentLogAnnotations),
          cause: cause.reasons.length === 0 ? undefined : Cause.pretty(cause)
        })
      })
      return Layer.mergeAll(
        Logger.layer([logger]),
        Layer.succeed(Logs, entries),
        Layer.succeed(Metric.MetricRegistry, new Map())
      )
    })
  )
}

const isAbout = (text: string) => (entry: Entry) => `${entry.message.join(" ")} ${entry.cause}`.includes(text)

/** What was logged that has `text` in it. */
export const logged = (text: string) => Effect.map(Logs, (entries) => entries.filter(isAbout(text)))

/** Waits until something is logged that has `text` in it. */
export const whenLogged = Effect.fnUntraced(function* (text: string) {
  yield* until(Effect.map(logged(text), (entries) => entries.length > 0))
  return (yield* logged(text))[0]!
})

/** An app that has `Probe`, and what is logged in it. */
export const app = (options: Deployment.DeploymentModuleOptions) =>
  probeLayer(options).pipe(Layer.provideMerge(PartLive), Layer.provideMerge(Logs.layer))

/** What is known of a request, of which most is as outside of any. */
export const request = (known: Partial<RequestContext.RequestContext>): RequestContext.RequestContext =>
  Object.assign({}, RequestContext.empty, known)

const wall = Context.get(Context.empty(), Clock.Clock)

/** Waits until a condition holds, however the test's clock goes. */
export const until = <E, R>(condition: Effect.Effect<boolean, E, R>): Effect.Effect<void, E, R> => {
  const never = new Error("The test waits in vain")
  const loop: Effect.Effect<void, E, R> = Effect.flatMap(condition, (holds) =>
    holds ? Effect.void : Effect.andThen(Effect.sleep("2 millis"), loop)
  )
  return loop.pipe(
    Effect.timeoutOrElse({ duration: "6 seconds", orElse: () => Effect.die(never) }),
    Effect.provideService(Clock.Clock, wall)
  )
}

const threads = new Set<Worker>()
subscribe("worker_threads", (message) => {
  const { worker } = message as { readonly worker: Worker }
  threads.add(worker)
  worker.on("exit", () => threads.delete(worker))
})

/** The threads that have not ended, except the one that watches event loops. */
export const liveThreads = (): ReadonlyArray<Worker> =>
  Array.from(threads).filter(({ threadName }) => threadName !== "effect-serve watcher")

/** Their names. */
export const threadNames = () => liveThreads().map(({ threadName }) => threadName)

/** Waits until there is a thread of that name. */
export const started = Effect.fnUntraced(function* (name: string) {
  const find = () => liveThreads().find(({ threadName }) => threadName === name)
  yield* until(Effect.sync(() => find() !== undefined))
  return find()!
})
