/**
 * What a call of a worker pool costs, against Piscina with the same functions; and, without a peer, a call of a replica on a thread.
 */
import { WorkerPool } from "effect-serve"
import { Effect, Layer, Stream } from "effect"
import { Piscina } from "piscina"
import { measureCases } from "../harness/cases.ts"
import { atLeast, promised, type Study } from "../harness/Study.ts"
import { quantile } from "../harness/table.ts"
import { Replica } from "../peers/Replica.ts"

const module = new URL("../peers/tasks.ts", import.meta.url)
const THREADS = 2
const MEGABYTE = 2 ** 20
const MILLIS = 5
const SLICES = 24

class Tasks extends WorkerPool.Service<Tasks, typeof import("../peers/tasks.ts")>()("Tasks", { module }) {}

/** The same calls of both pools. */
interface Pool {
  readonly nothing: (x: number) => Effect.Effect<unknown, unknown>
  readonly bounce: (bytes: Uint8Array<ArrayBuffer>) => Effect.Effect<Uint8Array<ArrayBuffer>, unknown>
  readonly compute: () => Effect.Effect<unknown, unknown>
}

const ours = Effect.map(Tasks, ({ bounce, compute, nothing }): Pool => ({
  nothing,
  bounce: (bytes) => bounce(WorkerPool.move(bytes)),
  compute: () => compute(MILLIS)
}))

const piscina = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => new Piscina({ filename: module.href, minThreads: THREADS, maxThreads: THREADS })),
    (pool) => Effect.promise(() => pool.destroy())
  ),
  (pool): Pool => ({
    nothing: (x) => Effect.promise(() => pool.run(x, { name: "nothing" })),
    bounce: (bytes) => Effect.promise(() => pool.run(Piscina.move(bytes), { name: "bouncePiscina" })),
    compute: () => Effect.promise(() => pool.run(MILLIS, { name: "compute" }))
  })
)

/** Runs something so often, so many at once, and gives the latencies in microseconds and the time for each. */
const timed = (calls: number, inFlight: number, call: (i: number) => Effect.Effect<unknown, unknown>) =>
  Effect.gen(function* () {
    const latencies: Array<number> = []
    let next = 0
    const caller = Effect.gen(function* () {
      while (next < calls) {
        const start = performance.now()
        yield* call(next++)
        latencies.push((performance.now() - start) * 1000)
      }
    })
    const start = performance.now()
    const callers = Array.from({ length: inFlight }, () => caller)
    yield* Effect.all(callers, { concurrency: "unbounded", discard: true })
    return { each: ((performance.now() - start) * 1000) / calls, latencies }
  })

const bouncing = (pool: Pool) => {
  let bytes = new Uint8Array(MEGABYTE)
  return () =>
    Effect.map(pool.bounce(bytes), (back) => {
      if (bytes.byteLength !== 0 || back.byteLength !== MEGABYTE) throw new Error("The bytes were copied")
      bytes = back
    })
}

const cases = {
  sequential: (pool: Pool) => timed(250, 1, pool.nothing),
  "64 in flight": (pool: Pool) => timed(1500, 64, pool.nothing),
  "1 MB": (pool: Pool) => timed(75, 1, bouncing(pool)),
  "5 ms": (pool: Pool) => timed(16, 2 * THREADS, pool.compute)
}

type Case = keyof typeof cases

/** A case in slices, in which the pools take turns: microseconds for each call. */
const compare = Effect.fnUntraced(function* (name: Case, pools: Record<string, Pool>) {
  const results: Record<string, number> = {}
  const latencies: Record<string, Array<number>> = {}
  for (let slice = 0; slice < SLICES; slice++) {
    const entries = Object.entries(pools)
    for (const [of, pool] of slice % 2 === 0 ? entries : entries.toReversed()) {
      const { each, latencies: more } = yield* cases[name](pool)
      results[`${name}, ${of}`] = (results[`${name}, ${of}`] ?? 0) + each / SLICES
      latencies[of] = [...(latencies[of] ?? []), ...more]
    }
  }
  if (name !== "5 ms") return results
  for (const [of, values] of Object.entries(latencies)) results[`${name} p99, ${of}`] = quantile(0.99, values)
  return results
})

const ReplicaLive = Replica.toLayerModule<typeof import("../peers/replica.module.ts")>(
  new URL("../peers/replica.module.ts", import.meta.url),
  { isolation: "thread", maxOngoingRequests: 64 }
)

const ELEMENTS = 20_000

const replica = Effect.gen(function* () {
  const { count, nothing } = yield* Replica
  const call = (x: number) => nothing({ x })
  yield* timed(6000, 64, call)
  const { each: sequential } = yield* timed(3000, 1, call)
  const { each: many } = yield* timed(12_000, 64, call)
  const start = performance.now()
  yield* Stream.runDrain(count({ to: ELEMENTS }))
  return {
    "replica, sequential": sequential,
    "replica, 64 in flight": many,
    "replica, an element": ((performance.now() - start) * 1000) / ELEMENTS
  }
})

const names = Object.keys(cases) as Array<Case>

/** One round. */
const run = Effect.gen(function* () {
  const pools = { ours: yield* ours, piscina: yield* piscina }
  // Both are compiled before they are measured.
  for (const pool of Object.values(pools)) yield* timed(20_000, 64, pool.nothing)
  const results = yield* Effect.forEach(names, (name) => compare(name, pools))
  return Object.assign({}, ...results, yield* replica) as Record<string, number>
}).pipe(Effect.scoped, Effect.provide(Layer.merge(Tasks.layer({ size: THREADS }), ReplicaLive)))

const text = `What a call of a worker pool costs, against Piscina with [the same functions](../../test/bench/peers/tasks.ts), ${THREADS} threads each: the round trip of
a call that does nothing, with one ("sequential") and with 64 in flight; a megabyte that is moved to the thread and back without a copy;
and a task that computes for ${MILLIS} ms, with ${2 * THREADS} in flight, as the time for each task and as the 99th percentile of the latency.

Both pools take turns within a round, in ${SLICES} short slices, so that both have the same share of what else happens on the machine, and of
the two ways in which the kernel may place threads: on the core of the main thread, where a round trip takes 10 us, or on one that has to
be woken for it, where it takes 70.

The last three rows have no peer: a call of [a replica on a thread](../../test/bench/peers/replica.module.ts), one at a time and 64 in flight, and an element of a
stream of ${ELEMENTS} that comes from there one by one.`

export const worker: Study = {
  name: "worker",
  measure: measureCases({
    title: "Worker pools",
    rounds: 7,
    unit: "us per call",
    run,
    text,
    verdicts: (median) => {
      const against = (name: string) =>
        [`${name}, Piscina's time of ours`, median(`${name}, piscina`) / median(`${name}, ours`)] as const
      return [
        atLeast(...against("sequential"), 1.5),
        promised.atLeast(...against("64 in flight"), 1.5),
        atLeast(...against("1 MB"), 1),
        atLeast(...against("5 ms"), 1),
        atLeast(...against("5 ms p99"), 1)
      ]
    }
  })
}
