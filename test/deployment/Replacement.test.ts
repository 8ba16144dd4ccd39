/**
 * Seen red for each of these mutations. LoopReplica: never leaves; has no scope of its own; runs on when it has left; no
 * request is ever running. Deployment: the router isn't told that a replica left, or of the next one; a build is tried once;
 * a replica is replaced once; pauses without a bound, or long ones at once; replacing goes on after the layer. Router:
 * leaving loses nothing, or what others run, or leaves the place in service; what is lost counts as expired, or as not
 * started; room wakes no one; successes, failures or deadlines that pass aren't recorded, calls that callers left or that
 * other deployments failed are. Places: ejection can't be switched off, is shorter, never ends, ends with that of the one
 * before, is shown but doesn't matter, is forgotten too late; no panic; `Left` or `Ejected` isn't shown, in the state or in
 * the metric. Handle: healthy without replicas.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deployment, HttpIngress, ServeError } from "effect-serve"
import { Clock, Deferred, Effect, Exit, Fiber, Layer, Metric, Random, Schema, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { answered, Broken, call, isDone, open, Part, partLayer, reason, settle } from "../deployments.ts"

/** What a request does on the replica that was built as the given one. */
type Work = (build: number) => Effect.Effect<unknown, Broken | ServeError.ServeError>
const Work = Schema.declare((u): u is Work => typeof u === "function")

/** A deployment whose callers send along what to do on which replica. */
class Site extends Deployment.Service<Site>()("Site", [
  Rpc.make("run", { payload: Work, success: Schema.Unknown, error: Broken }),
  Rpc.make("flow", { payload: Work, success: Schema.Unknown, error: Broken, stream: true })
]) {}

/** Replicas that the test takes out of service, and whose builds after the first ones it can hold up or let fail. */
const makeSite = (options: NonNullable<Parameters<typeof Site.toLayer>[1]> = {}) => {
  const log: Array<string> = []
  const scopes: Array<Scope.Closeable> = []
  const control: { later: Effect.Effect<void, Broken> } = { later: Effect.void }
  let builds = 0
  const build = Effect.gen(function* () {
    const number = builds++
    const note = (what: string) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        log.push(`${what} ${number} at ${now}`)
      })
    const scope = yield* Effect.scope
    yield* Effect.acquireRelease(note("open"), () => note("close"))
    if (number >= (options.replicas ?? 1)) yield* control.later
    scopes[number] = scope as Scope.Closeable
    return Site.of({
      run: (work) => work(number),
      flow: (work) => Stream.concat(Stream.make("first"), Stream.fromEffect(work(number)))
    })
  })
  /** Closes a replica's own scope, as its builder could. */
  const kill = (number: number) => Effect.suspend(() => Scope.close(scopes[number]!, Exit.void))
  const leave = (number: number) => Effect.andThen(kill(number), settle)
  const layer = Site.toLayer(build, { gracefulShutdownTimeout: 0, ...options })
  const started = Effect.map(open(Site, layer), ({ close, context, handle }) => ({
    ...handle,
    close,
    state: Effect.provideContext(Site.state, context),
    statuses: Effect.map(Effect.provideContext(Site.state, context), ({ replicas }) =>
      replicas.map(({ status }) => status)
    )
  }))
  return { control, kill, layer, leave, log, started }
}

const identify: Work = (build) => Effect.succeed(build)
const slow: Work = (build) => Effect.as(Effect.sleep("5 seconds"), build)
const fine: Work = () => Effect.sleep("5 millis")
const hang: Work = () => Effect.never

/** Three callers every 10 ms, for so many milliseconds; counts what each replica gets. */
const load = (run: (work: Work) => Effect.Effect<unknown, unknown>, millis: number, work: Work) =>
  Effect.gen(function* () {
    const counts: Record<number, number> = {}
    const counted: Work = (build) => {
      counts[build] = (counts[build] ?? 0) + 1
      return work(build)
    }
    for (let elapsed = 0; elapsed < millis; elapsed += 10) {
      for (let i = 0; i < 3; i++) yield* call(Effect.exit(run(counted)))
      yield* TestClock.adjust("10 millis")
    }
    return counts
  })

describe("Deployment", () => {
  describe("a replica whose own scope closes", () => {
    it.effect("loses what it runs, and is replaced at once", () =>
      Effect.gen(function* () {
        const site = makeSite({ replicas: 2, maxOngoingRequests: 1 })
        const { run, state } = yield* site.started
        const log: Array<string> = []
        const logged: Work = (build) =>
          Effect.onInterrupt(Effect.never, () => Effect.sync(() => log.push(`interrupt ${build}`)))
        const callers = [yield* call(run(logged)), yield* call(run(logged))]
        const waiting = yield* call(run(identify))
        yield* site.leave(1)
        assert.deepStrictEqual(log, ["interrupt 1"])
        const lost = callers.filter(isDone)
        assert.strictEqual(lost.length, 1)
        assert.deepInclude(yield* answered(lost[0]!), { _tag: "ReplicaLost", replica: "Site#1", started: true })
        assert.strictEqual(yield* Fiber.join(waiting), 2)
        const { replicas, ...counts } = yield* state
        assert.deepStrictEqual(
          replicas.map(({ id, running, status }) => `${id} ${status} ${running}`),
          ["Site#0 Ready 1", "Site#1 Ready 0"]
        )
        assert.deepInclude(counts, { accepted: 3, failed: 1, completed: 1, running: 1, queued: 0, rerouted: 0 })
        assert.deepStrictEqual(site.log, ["open 0 at 0", "open 1 at 0", "close 1 at 0", "open 2 at 0"])
      })
    )

    it.effect("fails the streams that it runs", () =>
      Effect.gen(function* () {
        const site = makeSite()
        const { flow, state } = yield* site.started
        const seen: Array<unknown> = []
        const reader = yield* call(
          Stream.runForEach(
            flow(() => Effect.never),
            (element) => Effect.sync(() => seen.push(element))
          )
        )
        yield* settle
        assert.deepStrictEqual(seen, ["first"])
        yield* site.leave(0)
        assert.deepInclude(yield* answered(reader), { _tag: "ReplicaLost", started: true })
        assert.deepInclude(yield* state, { running: 0, failed: 1 })
      })
    )

    it.effect("can be closed by its own handler", () =>
      Effect.gen(function* () {
        const site = makeSite()
        const { run, state } = yield* site.started
        const caller = yield* call(run((build) => Effect.andThen(site.kill(build), Effect.never)))
        yield* settle
        assert.deepInclude(yield* answered(caller), { _tag: "ReplicaLost", started: true })
        assert.strictEqual(yield* run(identify), 1)
        assert.deepInclude(yield* state, { running: 0, failed: 1, completed: 1 })
      })
    )

    it.effect("leaves what waits to the others while it is replaced", () =>
      Effect.gen(function* () {
        const site = makeSite({ replicas: 2, maxOngoingRequests: 1 })
        const { run, state, statuses } = yield* site.started
        const ready = yield* Deferred.make<void>()
        site.control.later = Deferred.await(ready)
        const gate = yield* Deferred.make<void>()
        yield* call(run((build) => Effect.as(Deferred.await(gate), build)))
        yield* call(run((build) => Effect.as(Deferred.await(gate), build)))
        const waiting = [yield* call(run(identify)), yield* call(run(identify))]
        yield* site.leave(0)
        assert.deepStrictEqual(yield* statuses, ["Left", "Ready"])
        assert.deepInclude(yield* state, { queued: 2, running: 1, failed: 1 })
        yield* Deferred.succeed(gate, undefined)
        for (const caller of waiting) assert.strictEqual(yield* Fiber.join(caller), 1)
        for (let i = 0; i < 20; i++) assert.strictEqual(yield* run(identify), 1)
        yield* Deferred.succeed(ready, undefined)
        yield* settle
        assert.deepStrictEqual(yield* statuses, ["Ready", "Ready"])
        const both = [yield* call(run(() => Effect.never)), yield* call(run(() => Effect.never))]
        assert.deepStrictEqual(
          (yield* state).replicas.map(({ running }) => running),
          [1, 1]
        )
        assert.isFalse(both.some(isDone))
      })
    )

    it.effect("lets everyone wait for its successor when it was the only one", () =>
      Effect.gen(function* () {
        const site = makeSite({ maxOngoingRequests: 2, maxQueuedRequests: 3 })
        const { run, state, statuses } = yield* site.started
        site.control.later = Effect.sleep("5 seconds")
        yield* site.leave(0)
        const waiting = yield* Effect.forEach([0, 1, 2], () => call(run(identify)))
        assert.strictEqual((yield* reason(run(identify)))._tag, "QueueFull")
        assert.deepStrictEqual(yield* statuses, ["Left"])
        assert.deepInclude(yield* state, { status: "Ready", queued: 3, running: 0 })
        yield* TestClock.adjust("5 seconds")
        for (const caller of waiting) assert.strictEqual(yield* Fiber.join(caller), 1)
        assert.deepStrictEqual(yield* statuses, ["Ready"])
      })
    )

    it.effect("keeps the deadlines of those who wait for its successor", () =>
      Effect.gen(function* () {
        const site = makeSite()
        const { run } = yield* site.started
        site.control.later = Effect.never
        yield* site.leave(0)
        const waiting = yield* call(run(identify, { timeout: "1 second" }))
        yield* TestClock.adjust("1 second")
        assert.deepInclude(yield* answered(waiting), { _tag: "DeadlineExceeded", stage: "queue" })
      })
    )

    it.effect("is built again for as long as it takes, with pauses that grow to 30 s", () =>
      Effect.gen(function* () {
        const site = makeSite()
        const { run, statuses } = yield* site.started
        site.control.later = Effect.fail(new Broken({ part: "model" }))
        yield* site.leave(0)
        yield* TestClock.adjust("150 seconds")
        // Three tries each time, half a second and a second apart, and then the pause.
        const times = site.log.filter((line) => line.startsWith("open")).map((line) => Number(line.split(" at ")[1]))
        const firstTries = times.slice(1).filter((_, i) => i % 3 === 0)
        const pauses = firstTries.slice(1).map((at, i) => (at - firstTries[i]! - 1500) / 1000)
        assert.deepStrictEqual(pauses, [1, 2, 4, 8, 16, 30, 30, 30])
        // What a try that failed had opened is closed again.
        assert.strictEqual(site.log.filter((line) => line.startsWith("close")).length, times.length)
        assert.deepStrictEqual(yield* statuses, ["Left"])
        site.control.later = Effect.void
        const waiting = yield* call(run(identify))
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(yield* Fiber.join(waiting), times.length)
        assert.deepStrictEqual(yield* statuses, ["Ready"])
      })
    )

    it.effect("is replaced every time, and no permit is lost or doubled", () =>
      Effect.gen(function* () {
        const site = makeSite({ replicas: 2, maxOngoingRequests: 2 })
        const { run, state, statuses } = yield* site.started
        const gate = yield* Deferred.make<void>()
        const bodies = [Effect.never, Effect.uninterruptible(Deferred.await(gate)), Effect.sleep("1 second")]
        let current = [0, 1]
        for (let round = 0; round < 12; round++) {
          for (let i = 0; i < 5; i++) yield* call(run(() => bodies[(round + i) % 3]!))
          yield* site.leave(current[round % 2]!)
          current = round % 2 === 0 ? [round + 2, current[1]!] : [current[0]!, round + 2]
          assert.deepStrictEqual(yield* statuses, ["Ready", "Ready"])
          const { accepted, cancelled, completed, expired, failed, queued, replicas, running } = yield* state
          assert.strictEqual(accepted, completed + failed + cancelled + expired + queued + running)
          assert.isTrue(replicas.every((replica) => replica.running <= 2))
        }
        yield* Deferred.succeed(gate, undefined)
        yield* settle
        // What still runs hangs, and its replicas leave as well.
        while ((yield* state).running > 0) {
          yield* TestClock.adjust("1 second")
          const builds = site.log.filter((line) => line.startsWith("open")).length
          for (let build = 0; build < builds; build++) yield* site.kill(build)
          yield* settle
        }
        const running: Array<number> = []
        const callers = yield* Effect.forEach([0, 1, 2, 3, 4], () =>
          call(
            run((build) =>
              Effect.andThen(
                Effect.sync(() => running.push(build)),
                Effect.never
              )
            )
          )
        )
        assert.isFalse(callers.some(isDone))
        assert.strictEqual(running.length, 4)
        assert.strictEqual(new Set(running).size, 2)
        assert.deepInclude(yield* state, { running: 4, queued: 1 })
      })
    )

    it.effect("shows in the metrics whether it is in service", () =>
      Effect.gen(function* () {
        const site = makeSite({ replicas: 2 })
        yield* site.started
        site.control.later = Effect.sleep("1 second")
        const inService = Effect.map(Metric.snapshot, (metrics) =>
          metrics
            .filter(({ attributes, id }) => id === "serve_replica_in_service" && attributes?.["deployment"] === "Site")
            .map(({ attributes, state }) => `${attributes!["replica"]} ${(state as { value: number }).value}`)
            .toSorted((one, other) => one.localeCompare(other))
        )
        yield* site.leave(1)
        assert.deepStrictEqual(yield* inService, ["Site#0 1", "Site#1 0"])
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* inService, ["Site#0 1", "Site#1 1"])
      })
    )

    it.effect("leaves when its builder says so, also from a fiber of its own scope", () =>
      Effect.gen(function* () {
        const ids: Array<string> = []
        const build = Effect.gen(function* () {
          const { id, leave } = yield* Deployment.thisReplica
          ids.push(id)
          if (ids.length === 1) yield* Effect.forkScoped(Effect.delay(leave, "10 seconds"))
          return Site.of({ run: () => Effect.succeed(ids.length), flow: () => Stream.empty })
        })
        const { handle } = yield* open(Site, Site.toLayer(build))
        const identify = handle.run(() => Effect.void)
        assert.strictEqual(yield* identify, 1)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* identify, 2)
        assert.deepStrictEqual(ids, ["Site#0", "Site#0"])
      })
    )

    it.effect("can be told to leave only by its builder", () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Deployment.thisReplica)
        assert.isTrue(Exit.hasDies(exit))
      })
    )

    it.effect("gets nothing more from the moment on in which it leaves", () =>
      Effect.gen(function* () {
        const site = makeSite({ replicas: 2 })
        const { run } = yield* site.started
        site.control.later = Effect.never
        yield* site.kill(0)
        // No other fiber has had a turn since.
        for (let i = 0; i < 30; i++) assert.strictEqual(yield* run(identify), 1)
      }).pipe(Random.withSeed("leave"))
    )

    it.effect("lets a request wait that arrives in the very moment in which the only one leaves", () =>
      Effect.gen(function* () {
        const site = makeSite()
        const { run } = yield* site.started
        site.control.later = Effect.sleep("1 second")
        yield* site.kill(0)
        const waiting = yield* call(run(identify))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(waiting), 1)
      })
    )

    it.live("fails health checks only while no replica is there", () =>
      Effect.gen(function* () {
        const site = makeSite({ replicas: 2 })
        const ready = yield* Deferred.make<void>()
        site.control.later = Deferred.await(ready)
        const Http = HttpIngress.layerNode({ "/site": Site }, { port: 0 }).pipe(Layer.provideMerge(site.layer))
        yield* Effect.gen(function* () {
          const { url } = yield* HttpIngress.Address
          const health = Effect.promise(() => fetch(`${url}/-/healthz`).then(({ status }) => status))
          assert.strictEqual(yield* health, 200)
          yield* site.leave(0)
          assert.strictEqual(yield* health, 200)
          yield* site.leave(1)
          assert.strictEqual(yield* health, 503)
          yield* Deferred.succeed(ready, undefined)
          yield* settle
          assert.strictEqual(yield* health, 200)
        }).pipe(Effect.provide(Http))
      })
    )
  })

  describe("shutdown", () => {
    it.effect("ends a replacement that is under way", () =>
      Effect.gen(function* () {
        const site = makeSite({ replicas: 2 })
        const { close, state } = yield* site.started
        site.control.later = Effect.never
        yield* site.leave(0)
        yield* close
        assert.deepStrictEqual(site.log, [
          "open 0 at 0",
          "open 1 at 0",
          "close 0 at 0",
          "open 2 at 0",
          "close 2 at 0",
          "close 1 at 0"
        ])
        assert.deepInclude(yield* state, { status: "Stopped", running: 0, queued: 0 })
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual(site.log.length, 6)
      })
    )

    it.effect("fails those who wait for a successor that never came", () =>
      Effect.gen(function* () {
        const site = makeSite({ gracefulShutdownTimeout: "20 seconds" })
        const { close, run, state } = yield* site.started
        site.control.later = Effect.fail(new Broken({ part: "model" }))
        yield* site.leave(0)
        const waiting = yield* call(run(identify))
        const closing = yield* call(close)
        yield* TestClock.adjust("20 seconds")
        assert.deepInclude(yield* answered(waiting), { _tag: "Unavailable", why: "draining" })
        yield* Fiber.join(closing)
        assert.deepInclude(yield* state, { status: "Stopped", failed: 1, queued: 0 })
        assert.strictEqual(
          site.log.filter((line) => line.startsWith("open")).length,
          site.log.filter((line) => line.startsWith("close")).length
        )
      })
    )

    it.effect("loses what a replica runs that leaves meanwhile, and runs the rest on the others", () =>
      Effect.gen(function* () {
        const site = makeSite({ replicas: 2, maxOngoingRequests: 1, gracefulShutdownTimeout: "20 seconds" })
        const { close, run } = yield* site.started
        const running = [yield* call(run(slow)), yield* call(run(slow))]
        const waiting = yield* Effect.forEach([0, 1, 2], () => call(run(slow)))
        const closing = yield* call(close)
        yield* site.leave(0)
        const lost = running.filter(isDone)
        assert.strictEqual(lost.length, 1)
        assert.deepInclude(yield* answered(lost[0]!), { _tag: "ReplicaLost", replica: "Site#0", started: true })
        yield* TestClock.adjust("20 seconds")
        for (const caller of waiting) assert.include([1, 2], yield* Fiber.join(caller))
        assert.isTrue(isDone(closing))
      })
    )

    it.effect("lets requests finish on a replica that has replaced another one, before it is closed", () =>
      Effect.gen(function* () {
        const site = makeSite({ gracefulShutdownTimeout: "20 seconds" })
        const { close, run } = yield* site.started
        yield* site.leave(0)
        const running = yield* call(run((build) => Effect.as(Effect.sleep("5 seconds"), build)))
        const closing = yield* call(close)
        yield* settle
        assert.deepStrictEqual(site.log.slice(2), ["open 1 at 0"])
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual(yield* Fiber.join(running), 1)
        yield* Fiber.join(closing)
        assert.deepStrictEqual(site.log.slice(3), ["close 1 at 5000"])
      })
    )
  })

  describe("outlierEjection", () => {
    const broken = Effect.die("broken")

    const failingAt =
      (...builds: ReadonlyArray<number>): Work =>
      (build) =>
        builds.includes(build) ? broken : fine(build)
    const threeSites = { replicas: 3, maxOngoingRequests: 1 } as const

    it.effect("takes a replica out that fails while the others don't, for 5 seconds, and then for longer", () =>
      Effect.gen(function* () {
        const { run, state, statuses } = yield* makeSite(threeSites).started
        yield* load(run, 300, failingAt(0))
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Ready", "Ready"])
        assert.isUndefined((yield* load(run, 4600, failingAt(0)))[0])
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Ready", "Ready"])
        let untilReady = 0
        for (; (yield* statuses)[0] === "Ejected"; untilReady += 50) yield* TestClock.adjust("50 millis")
        assert.isAtMost(untilReady, 1400)
        // It is tried again, and fails again.
        assert.isAtLeast((yield* load(run, 300, failingAt(0)))[0]!, 5)
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Ready", "Ready"])
        assert.isUndefined((yield* load(run, 9500, failingAt(0)))[0])
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Ready", "Ready"])
        yield* TestClock.adjust("2700 millis")
        assert.deepStrictEqual(yield* statuses, ["Ready", "Ready", "Ready"])
        // Healed, it stays.
        assert.isAtLeast((yield* load(run, 300, fine))[0]!, 5)
        assert.deepStrictEqual(yield* statuses, ["Ready", "Ready", "Ready"])
        assert.deepInclude(yield* state, { running: 0, queued: 0 })
      }).pipe(Random.withSeed("ejection"))
    )

    it.effect("takes none out when all fail alike, for the input or a database makes them", () =>
      Effect.gen(function* () {
        const { run, state, statuses } = yield* makeSite(threeSites).started
        yield* load(run, 1000, () => Effect.fail(new Broken({ part: "input" })))
        assert.deepStrictEqual(yield* statuses, ["Ready", "Ready", "Ready"])
        assert.strictEqual((yield* state).failed, 300)
      }).pipe(Random.withSeed("alike"))
    )

    it.effect("counts declared errors of one replica alone", () =>
      Effect.gen(function* () {
        const { run, statuses } = yield* makeSite(threeSites).started
        yield* load(run, 300, (build) => (build === 1 ? Effect.fail(new Broken({ part: "model" })) : fine(build)))
        assert.deepStrictEqual(yield* statuses, ["Ready", "Ejected", "Ready"])
      }).pipe(Random.withSeed("declared"))
    )

    it.effect("never takes out the only replica", () =>
      Effect.gen(function* () {
        const { run, statuses } = yield* makeSite({ maxOngoingRequests: 1 }).started
        yield* load(run, 300, fine)
        yield* load(run, 300, failingAt(0))
        assert.deepStrictEqual(yield* statuses, ["Ready"])
      })
    )

    it.effect("is off when it is switched off", () =>
      Effect.gen(function* () {
        const { run, statuses } = yield* makeSite({ ...threeSites, outlierEjection: false }).started
        assert.isAtLeast((yield* load(run, 1000, failingAt(0)))[0]!, 50)
        assert.deepStrictEqual(yield* statuses, ["Ready", "Ready", "Ready"])
      })
    )

    it.effect("takes out at most half of the replicas", () =>
      Effect.gen(function* () {
        const { run, statuses } = yield* makeSite({ replicas: 4, maxOngoingRequests: 1 }).started
        yield* load(run, 300, failingAt(0))
        yield* load(run, 300, failingAt(0, 1))
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Ejected", "Ready", "Ready"])
        yield* load(run, 3000, failingAt(0, 1, 2))
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Ejected", "Ready", "Ready"])
      }).pipe(Random.withSeed("half"))
    )

    it.effect("uses an ejected replica when most are out of service", () =>
      Effect.gen(function* () {
        const site = makeSite(threeSites)
        const { run, state, statuses } = yield* site.started
        yield* load(run, 300, failingAt(0))
        site.control.later = Effect.sleep("1 second")
        const callers = [yield* call(run(hang)), yield* call(run(hang)), yield* call(run(identify))]
        assert.deepInclude(yield* state, { running: 2, queued: 1 })
        yield* site.leave(1)
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Left", "Ready"])
        assert.strictEqual(yield* Fiber.join(callers[2]!), 0)
        assert.strictEqual(yield* run(identify), 0)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Ready", "Ready"])
        assert.strictEqual(yield* run(identify), 3)
      }).pipe(Random.withSeed("panic"))
    )

    it.effect("forgets a replica that is replaced", () =>
      Effect.gen(function* () {
        const site = makeSite(threeSites)
        const { run, statuses } = yield* site.started
        yield* load(run, 300, failingAt(0))
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Ready", "Ready"])
        yield* site.leave(0)
        assert.deepStrictEqual(yield* statuses, ["Ready", "Ready", "Ready"])
        assert.isAtLeast((yield* load(run, 300, failingAt(0)))[3]!, 5)
        // Nothing of the old one's ejection is left that would end one of its own.
        yield* load(run, 4200, failingAt(0))
        yield* load(run, 300, failingAt(3))
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Ready", "Ready"])
        yield* load(run, 4600, failingAt(3))
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Ready", "Ready"])
      }).pipe(Random.withSeed("renew"))
    )

    it.effect("counts deadlines that pass in the handler", () =>
      Effect.gen(function* () {
        const { run, statuses } = yield* makeSite(threeSites).started
        const timed = (work: Work) => run(work, { timeout: "20 millis" })
        yield* load(timed, 1000, (build) => (build === 0 ? Effect.never : fine(build)))
        assert.deepStrictEqual(yield* statuses, ["Ejected", "Ready", "Ready"])
      }).pipe(Random.withSeed("deadlines"))
    )

    it.effect("doesn't count callers that leave", () =>
      Effect.gen(function* () {
        const { run, state, statuses } = yield* makeSite(threeSites).started
        const impatient = (work: Work) => Effect.timeoutOption(run(work), "20 millis")
        yield* load(impatient, 1000, (build) => (build === 0 ? Effect.never : fine(build)))
        assert.isAtLeast((yield* state).cancelled, 20)
        assert.deepStrictEqual(yield* statuses, ["Ready", "Ready", "Ready"])
      }).pipe(Random.withSeed("cancelled"))
    )

    it.effect("doesn't count what a call to another deployment fails with", () =>
      Effect.gen(function* () {
        const { run, state, statuses } = yield* makeSite(threeSites).started
        const part = yield* Part
        yield* load(run, 1000, (build) => (build === 0 ? part.run(Effect.void) : fine(build)))
        assert.isAtLeast((yield* state).failed, 20)
        assert.deepStrictEqual(yield* statuses, ["Ready", "Ready", "Ready"])
      }).pipe(Effect.provide(partLayer({ replicas: 0 })), Random.withSeed("nested"))
    )
  })
})
