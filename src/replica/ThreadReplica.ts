/**
 * The handlers of a replica that has a thread, and so an event loop, of its own.
 *
 * @since 0.1.0
 */
import { Cause, Duration, Effect, Exit, Option, type Scope, Stream } from "effect"
import type * as Rpc from "effect/rpc/Rpc"
import { type BatcherState, Host } from "../batching/Host.ts"
import type { ResourceLimits } from "../core/Options.ts"
import { because, ReplicaLost, type ServeError } from "../core/ServeError.ts"
import { LinkedThread } from "../wire/LinkedThread.ts"
import * as MethodCodec from "../wire/MethodCodec.ts"
import * as Telemetry from "../wire/Telemetry.ts"
import * as BlockingDetector from "../watch/BlockingDetector.ts"
import type { Pulse } from "../watch/Pulse.ts"
import { ModuleFailed, resolveModule } from "../core/ModuleFile.ts"
import type { Handlers } from "./LoopReplica.ts"
import * as ModuleThreads from "./ModuleThreads.ts"
import type { Request } from "./Request.ts"

const entry = resolveModule(new URL("./replicaThread.ts", import.meta.url))

/** Time that a thread gets to close the scope of its replica. */
const STOP_TIMEOUT = Duration.seconds(5)

/**
 * Starts a thread that builds the module, and returns handlers that call those over there. When the thread ends, calls that had
 * begun fail with `ReplicaLost`, others do so with `started: false`, and the replica leaves.
 */
export const handlers = Effect.fnUntraced(function* (
  options: ModuleThreads.ModuleOptions & {
    readonly methods: ReadonlyArray<Rpc.AnyWithProps>
    readonly resourceLimits: typeof ResourceLimits.Type
    readonly unresponsiveTimeout: Duration.Duration
  }
): Effect.fn.Return<Handlers, ModuleFailed, Scope.Scope> {
  const { methods, module, replica, resourceLimits, unresponsiveTimeout } = options
  const host = (yield* Host)!
  const fork = Effect.runForkWith(yield* Effect.context())
  const showMetrics = yield* Telemetry.mirror({ replica })
  const showBatchers = batchersOf(host.batchers)
  const thread = yield* LinkedThread.start({
    name: replica,
    entry,
    ...(yield* ModuleThreads.parts(options)),
    resourceLimits,
    stopTimeout: STOP_TIMEOUT,
    onNote: (name, value) => {
      if (name === "metrics") showMetrics(value as Telemetry.Metrics)
      else if (name === "batchers") showBatchers(value as ReadonlyArray<BatcherState>)
      else if (name === "leave") fork(host.leave)
    }
  })
  const unbegun = lost(replica, false)
  thread.closeWithThread((isLost) => {
    if (isLost) fork(host.leave)
    return (begun) => Exit.fail(begun ? lost(replica, true) : unbegun)
  })
  host.endings.add(thread.stop)
  thread.onLoss = (why) => fork(Effect.logError(`The thread of replica "${replica}" ended ${why}`))
  const pulse = yield* Effect.mapError(
    thread.ready,
    (why) => new ModuleFailed({ module: module.href, description: String(why) })
  )
  const names = methods.map(({ _tag }) => _tag)
  yield* BlockingDetector.watchThread(replica, pulse as Pulse, options.deployment, names)
  yield* Effect.forkScoped(thread.endWhenSilent(unresponsiveTimeout))
  return methods.map((rpc) => {
    const call = thread.link.method(rpc._tag, MethodCodec.make(rpc))
    return (payload, request) => marking(request, call(payload), unbegun)
  })
})

const lost = (replica: string, started: boolean) => because(() => new ReplicaLost({ replica, started }))

type Work = ReturnType<Handlers[number]>

/** Lets the router know that a call that was lost with its thread had not begun, so that it may go to another replica. */
const marking = (request: Request, work: Work, unbegun: ServeError): Work => {
  const mark = (cause: Cause.Cause<unknown>) =>
    Effect.sync(() => {
      if (Option.getOrUndefined(Cause.findErrorOption(cause)) === unbegun) request.state = "Reserved"
    })
  return Stream.isStream(work) ? Stream.tapCause(work, mark) : Effect.tapCause(work, mark)
}

/** Shows what a thread says of its batchers as if they were of this thread: as many as it has. */
const batchersOf = (shown: Host["batchers"]) => {
  let latest: ReadonlyArray<BatcherState> = []
  let count = 0
  return (states: ReadonlyArray<BatcherState>): void => {
    latest = states
    for (; count < states.length; count++) {
      const i = count
      shown.add(() => latest[i]!)
    }
  }
}
