/**
 * How many bytes of the heap a request needs that waits: so many callers, the argument, join the queue of a deployment whose only permit
 * is taken. The same number of fibers that wait for something else are what they are compared with.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Deployment } from "effect-serve"
import { Deferred, Effect } from "effect"
import { Rpc } from "effect/rpc"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc") as () => void

class Turn extends Deployment.Service<Turn>()("Turn", [Rpc.make("run"), Rpc.make("hold")]) {}

const gate = Deferred.makeUnsafe<void>()

const TurnLive = Turn.toLayer(
  { run: () => Effect.void, hold: () => Deferred.await(gate) },
  { maxOngoingRequests: 1, maxQueuedRequests: Infinity }
)

const used = () => {
  collect()
  const { arrayBuffers, heapUsed } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

/** Bytes for each of so many fibers that run an effect. */
const bytesEach = (fibers: number, effect: Effect.Effect<unknown, unknown>) => {
  const before = used()
  const all = Array.from({ length: fibers }, () => Effect.runFork(effect))
  const bytes = (used() - before) / all.length
  return { all, bytes }
}

const program = Effect.gen(function* () {
  const fibers = Number(process.argv[2])
  const { hold, run } = yield* Turn
  yield* Effect.forkChild(hold(), { startImmediately: true })
  const parked = bytesEach(fibers, Effect.never)
  const queued = bytesEach(
    fibers,
    Effect.suspend(() => run())
  )
  process.send!({ queued: queued.bytes, parked: parked.bytes })
  process.exit()
})

NodeRuntime.runMain(Effect.provide(program, TurnLive))
