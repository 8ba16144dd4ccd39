import { Batching, Deployment } from "effect-serve"
import { Effect, Metric, Stream } from "effect"
import { resourceLimits, threadId } from "node:worker_threads"
import { Broken, Part, Point, Probe } from "./Probe.ts"
import { seen } from "./seen.ts"

const measured = Metric.counter("test_measured")

const spin = (millis: number) => {
  const until = performance.now() + millis
  while (performance.now() < until);
}

/** Builds a replica, wherever that is. */
export const build = Effect.gen(function* () {
  const part = yield* Part
  const { id, leave } = yield* Deployment.thisReplica
  const batch = yield* Batching.make({
    name: "batch",
    batchWaitTimeout: 0,
    run: (items: ReadonlyArray<number>) => Effect.succeed(items.map((n) => n * 10))
  })
  yield* Effect.acquireRelease(Effect.logInfo("opened"), () => Effect.logInfo("closed"))
  let begun = 0
  let stopped = 0
  let produced = 0
  let pausing = 0
  const begin = Effect.sync(() => {
    begun++
  })
  const stop = Effect.sync(() => {
    stopped++
  })
  const produce = (n: number, failAt: number) =>
    Effect.suspend(() => (n === failAt ? Effect.fail(new Broken({ part: `${n}` })) : Effect.succeed((produced = n))))
  return Probe.of({
    move: ({ at, point }) => Effect.succeed(new Point({ x: point.x + at.getUTCFullYear(), y: point.y })),
    reverse: ({ bytes }) => Effect.succeed(bytes.toReversed()),
    seen: () => seen,
    thread: () => Effect.succeed(threadId),
    memory: () => Effect.succeed(resourceLimits.maxOldGenerationSizeMb),
    replica: () => Effect.succeed(id),
    fail: ({ part }) => Effect.fail(new Broken({ part })),
    die: ({ message }) => Effect.die(new TypeError(message)),
    wrong: () => Effect.succeed("not a number" as unknown as number),
    never: () =>
      Effect.andThen(
        begin,
        Effect.onInterrupt(Effect.never, () => stop)
      ),
    linger: ({ millis }) =>
      Effect.andThen(
        Effect.log("lingers"),
        Effect.onInterrupt(Effect.never, () => Effect.all([Effect.sleep(millis), stop, Effect.log("stopped")]))
      ),
    pause: ({ millis }) =>
      Effect.suspend(() => {
        let most = ++pausing
        const look = Effect.sync(() => {
          most = Math.max(most, pausing)
        })
        return Effect.sleep(millis).pipe(
          Effect.andThen(look),
          Effect.ensuring(Effect.sync(() => pausing--)),
          Effect.map(() => most)
        )
      }),
    begun: () => Effect.sync(() => begun),
    stopped: () => Effect.sync(() => stopped),
    count: ({ failAt, to }) =>
      Stream.range(1, to).pipe(
        Stream.rechunk(1),
        Stream.mapEffect((n) => produce(n, failAt)),
        Stream.ensuring(stop)
      ),
    chunk: ({ size }) => Stream.fromArray(Array.from({ length: size }, (_, i) => i)),
    hang: ({ after }) => Stream.concat(Stream.range(1, after), Stream.ensuring(Stream.never, stop)),
    produced: () => Effect.sync(() => produced),
    double: ({ x }) => part.double({ x }),
    partSeen: () => part.seen(undefined, { priority: "sheddable", tenant: "inner", timeout: "5 seconds" }),
    partCount: ({ to }) => part.count({ to }),
    partLate: () => part.never(undefined, { timeout: "20 millis" }),
    partNever: () => part.never(),
    log: ({ message }) =>
      Effect.logWarning(message, { n: 1 }).pipe(
        Effect.annotateLogs("from", "probe"),
        Effect.andThen(Effect.logDebug("quiet"))
      ),
    span: () =>
      Effect.withSpan(part.double({ x: 1 }).pipe(Effect.asVoid, Effect.orDie), "inner", { attributes: { a: 1 } }),
    measure: () => Metric.update(measured, 1),
    batch: ({ n }) => batch(n),
    leave: () => leave,
    exit: ({ code }) => Effect.sync(() => process.exit(code)),
    callAndExit: () =>
      Effect.andThen(
        Effect.orDie(part.double({ x: 1 })),
        Effect.sync(() => process.exit(2))
      ),
    spin: ({ millis }) => Effect.sync(() => spin(millis)),
    spinAndExit: ({ millis }) =>
      Effect.sync(() => {
        spin(millis)
        process.exit(7)
      }),
    throwLater: ({ message }) =>
      Effect.sync(() => {
        setTimeout(() => {
          throw new RangeError(message)
        })
      }),
    hog: () =>
      Effect.sync(() => {
        const kept: Array<Array<number>> = []
        for (;;) kept.push(Array.from({ length: 100_000 }, (_, i) => i + 0.5))
      })
  })
})

export default Probe.module(build, { uses: [Part] })
