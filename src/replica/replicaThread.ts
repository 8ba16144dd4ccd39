/**
 * The thread of a replica: it builds the deployment's module and serves its methods to the app until it is told to stop.
 */
import { Cause, Effect } from "effect"
import { workerData } from "node:worker_threads"
import type { Start } from "../wire/AppEnd.ts"
import * as MethodCodec from "../wire/MethodCodec.ts"
import * as Telemetry from "../wire/Telemetry.ts"
import * as ThreadEnd from "../wire/ThreadEnd.ts"
import * as BlockingDetector from "../watch/BlockingDetector.ts"
import * as CurrentMethod from "../watch/CurrentMethod.ts"
import * as ModuleHost from "./ModuleHost.ts"
import type { ModuleData } from "./ModuleThreads.ts"

const end = ThreadEnd.open(workerData as Start, CurrentMethod)

const serve = Effect.gen(function* () {
  const { batchers, context, handlers, module } = yield* ModuleHost.build(workerData as ModuleData, end)
  const { deployment, methods } = module
  methods.forEach((rpc, i) =>
    end.link.served.set(rpc._tag, {
      codec: MethodCodec.make(rpc),
      run: handlers.onLoop[i]!,
      context: CurrentMethod.contextOf(context, { deployment, method: rpc._tag })
    })
  )
  const pulse = yield* BlockingDetector.show(
    deployment,
    methods.map(({ _tag }) => _tag)
  )
  const report = Effect.map(Telemetry.metrics, (metrics) => {
    end.link.note("metrics", metrics)
    end.link.note(
      "batchers",
      Array.from(batchers, (state) => state())
    )
  })
  yield* Effect.forkScoped(Effect.forever(Effect.andThen(report, Effect.sleep("1 second"))))
  end.link.note("ready", pulse)
})

ThreadEnd.runMain(end, serve, Cause.pretty)
