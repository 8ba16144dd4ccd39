/**
 * A thread for blocking methods: it builds the deployment's module and runs their handlers, one call at a time.
 */
import { Cause, Effect, Exit, Scope } from "effect"
import { workerData } from "node:worker_threads"
import type { Start } from "../wire/AppEnd.ts"
import * as MethodCodec from "../wire/MethodCodec.ts"
import * as ThreadEnd from "../wire/ThreadEnd.ts"
import * as TaskThread from "../worker/TaskThread.ts"
import { asTask, isBlocking } from "./Blocking.ts"
import * as ModuleHost from "./ModuleHost.ts"
import type { ModuleData } from "./ModuleThreads.ts"

const { attached } = workerData as { readonly attached: Start & ModuleData }
const end = ThreadEnd.open(attached)

const tasks = Effect.map(ModuleHost.build(attached, end), ({ handlers, module }) =>
  Object.fromEntries(
    module.methods
      .map((rpc, i) => [rpc, handlers.blocking[i]!] as const)
      .filter(([rpc]) => isBlocking(rpc))
      .map(([rpc, handler]) => [rpc._tag, asTask(rpc, MethodCodec.make(rpc), handler)])
  )
)

// What the builder opened stays open for as long as the thread is there.
Effect.runForkWith(end.context)(Scope.provide(tasks, Scope.makeUnsafe())).addObserver((exit) => {
  if (Exit.isSuccess(exit)) TaskThread.serve(exit.value)
  else TaskThread.fail(new Error(Cause.pretty(exit.cause)))
})
