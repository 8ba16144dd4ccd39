/**
 * Seen red in "whatever comes, in any order" for each of these mutations: a batch is sealed without a slot; the wait counts from
 * the last item; a full batch stays ripe when its callers leave; maxBatchWait is forgotten; the item that doesn't fit is
 * lost; there is no bound on what waits while a slot is free; `update` resets what isn't said; the second half of a bisected
 * batch is chosen before the first has run.
 *
 * Others are red in the examples. "finds the size": a too large item is found only when its batch is cut; an item that throws
 * makes its group full; NaN is a size; what is left over keeps the old limits. "update": new limits count for the batch that
 * accumulates; nothing starts when slots are added. "when a caller leaves": a batch is stopped by the first who leaves, or by
 * nobody; the item stays in line; who left before counts as wasted; the fiber of a batch is known only once it waits. "with
 * deadlines": what is late on arrival or at the very millisecond runs. "gives each item one outcome": self-interruption
 * reaches the callers, from `run` or from an `Exit`; only too few results are noticed; the latest deadline is found with
 * arguments that overflow the stack. "bisects": the last item isn't alone with its failure; without `idempotent`. "runs in the
 * services": those of nobody; the earliest deadline, the lowest priority, the first one's tenant. "traces": always; without
 * links. "counts": failed batches teach the cost; the wait is that of the last item; run times aren't recorded; releases are
 * never "slot". "in a deployment": a warning at the bound, or none after `update`. "when its scope closes": more is taken; what
 * waits isn't released, or is taken out twice; nothing is stopped (hangs). "lets items wait": a fraction in `QueueFull`.
 */
import { assert, describe, it } from "@effect/vitest"
import { Batching, Deployment, RequestContext, ServeError } from "effect-serve"
import {
  Cause,
  Context,
  Data,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  Metric,
  Option,
  Schema,
  Scope,
  Tracer
} from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { Worker } from "node:worker_threads"
import { answered, Broken, call, isDone, open, reason, settle } from "../deployments.ts"
import { halting, makeWorld } from "../routing/routers.ts"
import { answers, batcher, lasting, type Options, range, send, sendEvery } from "./batches.ts"

const sizes = (batches: ReadonlyArray<ReadonlyArray<unknown>>) => batches.map(({ length }) => length)

const broken = new Broken({ part: "wheel" })

/** A deployment whose batches keep a worker thread each busy. */
class Spinner extends Deployment.Service<Spinner>()("Spinner", [
  Rpc.make("spin", { payload: Schema.Int, success: Schema.Struct({ n: Schema.Int, atOnce: Schema.Int }) }),
  Rpc.make("greet")
]) {}

/** Batches that run at once, batches that began, and other requests that were answered. */
const spins = new Int32Array(new SharedArrayBuffer(12))

// Computes until another batch has begun and other requests were answered, or for three seconds.
const spinning = `
  const { parentPort, workerData: spins } = require("node:worker_threads")
  parentPort.on("message", (items) => {
    const atOnce = Atomics.add(spins, 0, 1) + 1
    Atomics.add(spins, 1, 1)
    const until = performance.now() + 3000
    while ((Atomics.load(spins, 1) < 2 || Atomics.load(spins, 2) < 5) && performance.now() < until);
    Atomics.sub(spins, 0, 1)
    parentPort.postMessage(items.map((n) => ({ n, atOnce })))
  })`

const SpinnerLive = Spinner.toLayer(
  Effect.gen(function* () {
    const idle = yield* Effect.forEach([0, 1], () =>
      Effect.acquireRelease(
        Effect.sync(() => new Worker(spinning, { eval: true, workerData: spins, execArgv: [] })),
        (worker) => Effect.promise(() => worker.terminate())
      )
    )
    const spin = yield* Batching.make({
      maxBatchSize: 2,
      maxConcurrentBatches: 2,
      run: (items: ReadonlyArray<number>) => {
        const worker = idle.pop()!
        return Effect.callback<ReadonlyArray<{ readonly n: number; readonly atOnce: number }>>((resume) => {
          worker.once("message", (results) => resume(Effect.succeed(results)))
          // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
          worker.postMessage(items)
        }).pipe(Effect.ensuring(Effect.sync(() => idle.push(worker))))
      }
    })
    return Spinner.of({ spin: (n) => spin(n), greet: () => Effect.void })
  }),
  { maxOngoingRequests: 20 }
)

const requestOf = (request: Partial<RequestContext.RequestContext>): RequestContext.RequestContext =>
  Object.assign({}, RequestContext.empty, request)

/** What a histogram of the batcher named `counted` holds. */
const histogram = (name: string) =>
  Effect.map(
    Metric.snapshot,
    (metrics) => metrics.find(({ attributes, id }) => id === name && attributes?.["batcher"] === "counted")?.state
  )

/** Calls as the request that is given. */
const as = (request: Partial<RequestContext.RequestContext>) =>
  Effect.provideService(RequestContext.RequestContext, requestOf(request))

const message = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Error).message : ""

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Step = Schema.Struct({
  name: Schema.Literals([
    "send",
    "send",
    "send",
    "send",
    "burst",
    "end",
    "end",
    "end",
    "leave",
    "leave",
    "update",
    "advance",
    "advance",
    "turn",
    "turn",
    "turns"
  ]),
  at: upTo(9999)
})
const Plan = Schema.Struct({
  maxBatchSize: Schema.Literals([1, 2, 3, 5]),
  batchWaitTimeout: Schema.Literals([0, 3, 10, 10, "adaptive"]),
  maxConcurrentBatches: Schema.Literals([1, 1, 2, 3]),
  maxQueuedItems: Schema.Literals([0, 2, 1000, 1000]),
  cost: Schema.Literals(["none", "none", "function", "steps"]),
  keys: Schema.Literals([1, 1, 2, 3]),
  onFailure: Schema.Literals(["fail", "bisect"]),
  updates: Schema.Boolean,
  closing: Schema.Literals(["last", "last", "at once", "in time"]),
  lateStart: Schema.Literals([false, false, true]),
  maxOpsBeforeYield: Schema.Literals([3, 4, 5, 6, 7, 8, 9, 2048, 2048, 2048, 2048, 2048, 2048, 2048]),
  steps: Schema.Array(Step).check(Schema.isMinLength(5), Schema.isMaxLength(40))
})

type Mood = "good" | "fail" | "die" | "stop" | "short" | "exit" | "no key" | "no size"
const moods: ReadonlyArray<Mood> = [
  ...range(18).map(() => "good" as const),
  "fail",
  "fail",
  "die",
  "stop",
  "short",
  "exit",
  "exit",
  "no key",
  "no size"
]

/** An item of the model: what its caller and the batches have seen. */
interface Item {
  readonly number: number
  readonly key: number
  readonly cost: number
  readonly mood: Mood
  readonly arrivedAt: number
  readonly deadline: number
  offered: boolean
  left: boolean
  started: boolean
  /** The items that it was sealed with. */
  mates: ReadonlyArray<Item>
  /** What its caller must hear. */
  expected: string | undefined
  fiber: Fiber.Fiber<string, unknown> | undefined
}

interface Attempt {
  readonly items: ReadonlyArray<Item>
  readonly gate: Deferred.Deferred<void>
  readonly canStop: boolean
}

const wordFor = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return String(exit.value)
  if (Cause.hasInterruptsOnly(exit.cause)) return "interrupted"
  const error = Cause.squash(exit.cause)
  if (error instanceof ServeError.ServeError) return error.reason._tag
  return error instanceof Error ? error.message : String(error)
}

const SELF = "The run function of the batch interrupted itself"

/** Plays a plan against a batcher, and checks what must hold at every instant. */
const play = (plan: typeof Plan.Type): void => {
  const world = makeWorld(plan)
  const { turns } = world
  const isSmooth = !plan.lateStart && plan.maxOpsBeforeYield === 2048
  /** What went wrong where an assertion would only have failed a batch. */
  const wrong: Array<string> = []
  const items: Array<Item> = []
  const running = new Set<Attempt>()
  let isClosing = false

  const cost = ({ cost, mood, number }: Item) => {
    if (mood === "no size") throw new Error(`no size ${number}`)
    return cost
  }
  const sum = (list: ReadonlyArray<Item>) =>
    list.reduce((total, item) => total + (plan.cost === "none" ? 1 : item.cost), 0)

  const settleItems = (
    list: ReadonlyArray<Item>
  ): Effect.Effect<ReadonlyArray<string | Exit.Exit<string, string>>, string> => {
    const bad = list.find(({ mood }) => mood === "fail" || mood === "die" || mood === "stop" || mood === "short")
    const tell = (word: (item: Item) => string, to = list) => {
      for (const item of to) item.expected ??= word(item)
    }
    const live = list.filter(({ left }) => !left)
    switch (bad?.mood) {
      case "fail":
      case "die": {
        const word = `${bad.mood} ${bad.number}`
        if (plan.onFailure === "fail" || list.length === 1) tell(() => word, live)
        return bad.mood === "fail" ? Effect.fail(word) : Effect.die(word)
      }
      case "stop": {
        tell(() => SELF, bad.mates)
        return Effect.interrupt
      }
      case "short": {
        tell(() => "BatchContract")
        return Effect.succeed(list.slice(1).map(({ number }) => `good ${number}`))
      }
      default: {
        tell(({ mood, number }) => `${mood === "exit" ? "exit" : "good"} ${number}`)
        return Effect.succeed(
          list.map(({ mood, number }) => (mood === "exit" ? Exit.fail(`exit ${number}`) : `good ${number}`))
        )
      }
    }
  }

  const waiting = (key?: number) =>
    items.filter(
      (item) =>
        item.offered &&
        !item.left &&
        !item.started &&
        item.fiber?.pollUnsafe() === undefined &&
        (key === undefined || item.key === key)
    )

  const checkSeal = (list: ReadonlyArray<Item>) => {
    const now = world.now()
    if (new Set(list.map(({ key }) => key)).size > 1) wrong.push("a batch has one key")
    if (sum(list) > most.maxBatchSize) wrong.push("no batch is too large")
    if (running.size > (isSmooth ? limits : most).maxConcurrentBatches) wrong.push("too many batches run at once")
    if (!isSmooth) return
    if (list.some(({ left }) => left)) wrong.push("nobody runs who has left")
    if (list.some(({ deadline }) => deadline <= now)) wrong.push("nobody runs too late")
    // The one that is just being sent has no fiber yet.
    const line = [...waiting(list[0]!.key)]
    const late = line.filter(({ deadline }) => deadline <= now)
    const inLine = line.filter(
      (item) => !late.includes(item) && (plan.cost === "none" || item.cost <= most.maxBatchSize)
    )
    const fits = inLine.filter((item) => !plan.updates || list.includes(item)).slice(0, list.length)
    if (list.some((item, i) => item !== fits[i])) wrong.push("a batch takes those that came first, in their order")
    if (plan.updates || late.length > 0 || isClosing || plan.batchWaitTimeout === "adaptive") return
    const next = inLine[list.length]
    const isFull = sum(list) >= plan.maxBatchSize || (next !== undefined && sum([...list, next]) > plan.maxBatchSize)
    if (!isFull && now < list[0]!.arrivedAt + plan.batchWaitTimeout) wrong.push("no batch is sealed early")
  }

  const begin = (items: ReadonlyArray<Item>): Attempt => {
    const attempt: Attempt = { items, gate: Deferred.makeUnsafe(), canStop: items[0]!.number % 5 !== 0 }
    const again = items.filter(({ started }) => started)
    running.add(attempt)
    if (again.length === 0) {
      checkSeal(items)
      for (const item of items) item.mates = items
    } else {
      if (plan.onFailure === "fail" || again.length < items.length) wrong.push("nothing runs twice")
      if (isSmooth && items.some(({ left }) => left)) wrong.push("nothing runs again for nobody")
    }
    for (const item of items) item.started = true
    return attempt
  }

  const end = (attempt: Attempt, exit: Exit.Exit<unknown, unknown>) => {
    running.delete(attempt)
    const wasStopped = Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)
    const { mates } = attempt.items[0]!
    if (!wasStopped || isClosing || mates.some(({ mood }) => mood === "stop")) return
    if (mates.some(({ expected, left }) => !left && expected === undefined)) {
      wrong.push("a batch is stopped only when everyone has left")
    }
  }

  const run = (list: ReadonlyArray<Item>) =>
    Effect.acquireUseRelease(
      Effect.sync(() => begin(list)),
      ({ canStop, gate }) => {
        const { number } = list[0]!
        const wait = number % 7 === 0 ? Effect.void : number % 7 === 1 ? Effect.yieldNow : Deferred.await(gate)
        return Effect.flatMap(canStop ? wait : Effect.uninterruptible(wait), () => settleItems(list))
      },
      (attempt, exit) => Effect.sync(() => end(attempt, exit))
    )

  const sizing: Readonly<Record<string, object>> = {
    none: {},
    function: { batchSize: (list: ReadonlyArray<Item>) => list.reduce((total, item) => total + cost(item), 0) },
    steps: {
      batchSize: {
        empty: { total: 0 },
        add: ({ total }: { readonly total: number }, item: Item) => ({ total: total + cost(item) }),
        size: ({ total }: { readonly total: number }) => total
      }
    }
  }
  const limits = {
    maxBatchSize: plan.maxBatchSize as number,
    maxConcurrentBatches: plan.maxConcurrentBatches as number,
    maxQueuedItems: plan.maxQueuedItems as number,
    batchWaitTimeout: plan.batchWaitTimeout as number | "adaptive"
  }
  const patience = () => (limits.batchWaitTimeout === "adaptive" ? 20 : limits.batchWaitTimeout)
  const most = { ...limits, wait: patience() }
  const least = { ...limits }
  const scope = Scope.makeUnsafe()
  const options = {
    ...limits,
    ...sizing[plan.cost],
    ...(plan.keys > 1 || plan.steps.length % 2 === 0
      ? {
          key: ({ key, mood, number }: Item) => {
            if (mood === "no key") throw new Error(`no key ${number}`)
            return [key]
          }
        }
      : {}),
    ...(plan.onFailure === "bisect" ? { onFailure: "bisect", idempotent: true } : {}),
    maxBatchWait: 20,
    gracefulShutdownTimeout: plan.closing === "in time" ? 1000 : 0,
    run
  }
  const hasKeys = "key" in options
  const batched = world.perform(
    Scope.provide(Batching.make<Item, string, string>(options as Batching.Options<Item, string, string, never>), scope)
  )
  const state = () => Effect.runSync(batched.state)

  const submit = (at: number, deadline = Infinity) => {
    const item: Item = {
      number: items.length,
      key: hasKeys ? at % plan.keys : 0,
      cost: at % 23 === 0 ? 7 : 1 + (at % 3),
      mood: moods[Math.floor(at / 6) % moods.length]!,
      arrivedAt: world.now(),
      deadline,
      offered: false,
      left: false,
      started: false,
      mates: [],
      expected: undefined,
      fiber: undefined
    }
    items.push(item)
    item.fiber = world.fork(
      Effect.suspend(() => {
        item.offered = true
        return batched(item)
      }).pipe(as({ deadline }))
    )
  }

  const step = ({ at, name }: typeof Step.Type): void => {
    switch (name) {
      case "send":
        return submit(at, [Infinity, Infinity, Infinity, world.now() + 3, world.now(), world.now() + 15][at % 6])
      case "burst": {
        for (let i = 0; i < 6; i++) submit(at + 7 * i)
        return
      }
      case "end": {
        const attempts = Array.from(running)
        if (attempts.length > 0) Deferred.doneUnsafe(attempts[at % attempts.length]!.gate, Exit.void)
        return
      }
      case "leave": {
        const there = items.filter(({ fiber, left }) => !left && fiber?.pollUnsafe() === undefined)
        const item = there[at % there.length]
        if (item === undefined) return
        item.left = true
        item.fiber!.interruptUnsafe()
        return
      }
      case "update": {
        if (!plan.updates) return
        const change = [
          { maxBatchSize: 1 + (at % 5) },
          { maxConcurrentBatches: 1 + (at % 3) },
          { maxQueuedItems: at % 10 },
          { batchWaitTimeout: at % 20 },
          { maxConcurrentBatches: 0, maxBatchSize: 100 }
        ][Math.floor(at / 20) % 5]!
        const isWrong = "maxBatchSize" in change && change.maxBatchSize === 100
        if (!isWrong) {
          Object.assign(limits, change)
          for (const key of ["maxBatchSize", "maxConcurrentBatches", "maxQueuedItems"] as const) {
            most[key] = Math.max(most[key], limits[key])
            least[key] = Math.min(least[key], limits[key])
          }
          most.wait = Math.max(most.wait, patience())
        }
        turns.smoothly(() => {
          const exit = Effect.runSyncExit(batched.update(change))
          if (Exit.isSuccess(exit) === isWrong) wrong.push("only what is in range is taken")
        })
        return
      }
      case "advance":
        return world.clock.advance([1, 2, 3, 7, 10, 30][at % 6]!)
      case "turn":
        return turns.take(at)
      case "turns":
        return checkSettled()
    }
  }

  const check = () => {
    assert.isEmpty(wrong, wrong[0])
    assert.isAtMost(running.size, most.maxConcurrentBatches)
    const { queued } = state()
    // While it starts what is there, it may take a few more.
    assert.isAtMost(queued, most.maxQueuedItems, "no more wait than may")
  }

  /** Once every fiber has come as far as it can. */
  const checkSettled = () => {
    turns.takeAll()
    check()
    const { queued, running: batches } = state()
    assert.strictEqual(batches, running.size, "what runs is counted")
    assert.strictEqual(queued, waiting().length, "what waits is counted")
    for (const { canStop, items: list } of running) {
      const { mates } = list[0]!
      assert.isTrue(!canStop || isClosing || mates.some(({ left }) => !left), "nothing runs for nobody")
    }
    // Where a fiber yields before it sleeps, time can pass before the timer is set.
    if (batches >= limits.maxConcurrentBatches || isClosing || !isSmooth) return
    for (const key of range(plan.keys)) {
      const line = waiting(key)
      if (line.length === 0) continue
      assert.isBelow(
        world.now() - line[0]!.arrivedAt,
        most.wait,
        "nothing waits longer than it should while there is a slot"
      )
      assert.isBelow(sum(line), most.maxBatchSize, "no full batch waits while there is a slot")
    }
  }

  for (const each of plan.steps) {
    step(each)
    check()
  }
  checkSettled()

  // The clock alone releases everything that can run.
  for (const millis of [1, 3, 10, 20]) {
    world.clock.advance(millis)
    checkSettled()
  }
  const openAll = () => {
    for (let i = 0; i < 1000 && running.size > 0; i++) {
      for (const { gate } of running) Deferred.doneUnsafe(gate, Exit.void)
      turns.takeAll()
      world.clock.advance(20)
      turns.takeAll()
    }
  }

  const close = () => {
    isClosing = true
    const closing = world.fork(Scope.close(scope, Exit.void))
    turns.takeAll()
    if (plan.closing === "in time") openAll()
    world.clock.advance(plan.closing === "in time" ? 1000 : 1)
    turns.takeAll()
    // What can't stop ends at last.
    for (const { canStop, gate } of running) if (!canStop) Deferred.doneUnsafe(gate, Exit.void)
    turns.takeAll()
    for (let i = 0; i < 20 && running.size > 0; i++) {
      for (const { canStop, gate } of running) if (!canStop) Deferred.doneUnsafe(gate, Exit.void)
      turns.takeAll()
    }
    assert.deepStrictEqual(closing.pollUnsafe(), Exit.void, "closing ends")
    assert.deepInclude(state(), { status: "Stopped", running: 0, queued: 0 })
  }

  if (plan.closing === "last") {
    openAll()
    checkSettled()
    // The engine is alive.
    submit(3)
    turns.takeAll()
    world.clock.advance(most.wait + 1)
    turns.takeAll()
    openAll()
    const { fiber, number } = items.at(-1)!
    const word = wordFor(fiber!.pollUnsafe() ?? Exit.die("still waits"))
    if (limits.maxQueuedItems > 0) assert.strictEqual(word, `good ${number}`, "a fresh item works")
  }
  close()
  assert.isEmpty(wrong, wrong[0])
  checkOutcomes()

  if (isSmooth) {
    const gone = items.filter(({ fiber }) => wordFor(fiber!.pollUnsafe()!) === "interrupted")
    const counted = state()
    const of = (word: string) => items.filter(({ fiber }) => wordFor(fiber!.pollUnsafe()!) === word).length
    const started = items.filter((item) => item.started)
    assert.strictEqual(counted.items, started.length)
    assert.strictEqual(counted.wasted, gone.filter((item) => item.started).length, "who left while it ran is counted")
    assert.strictEqual(counted.dropped.left, gone.length - counted.wasted, "who left before is counted")
    assert.strictEqual(counted.dropped.expired, of("DeadlineExceeded"), "who was too late is counted")
    assert.strictEqual(
      Object.values(counted.batches).reduce((total, n) => total + n, 0),
      new Set(started.map(({ mates }) => mates)).size,
      "every batch is counted"
    )
  }

  /** Everyone has heard what they should have. */
  function checkOutcomes() {
    for (const item of items) {
      const exit = item.fiber!.pollUnsafe()
      assert.isDefined(exit, "every caller is answered")
      const word = wordFor(exit)
      if (item.left && word === "interrupted") continue
      assert.notStrictEqual(word, "interrupted", "nobody is interrupted who didn't leave")
      const allowed = new Set<string>()
      if (item.expected !== undefined) allowed.add(item.expected)
      if (plan.cost !== "none" && item.cost > least.maxBatchSize) allowed.add("ItemTooLarge")
      if (hasKeys && item.mood === "no key") allowed.add(`no key ${item.number}`)
      if (plan.cost !== "none" && item.mood === "no size") allowed.add(`no size ${item.number}`)
      if (isClosing && plan.closing !== "last") allowed.add("Unavailable")
      if (!item.started) {
        if (least.maxQueuedItems < 1000) allowed.add("QueueFull")
        if (item.deadline <= world.now()) allowed.add("DeadlineExceeded")
      }
      assert.isTrue(allowed.has(word), `${item.number} heard ${word}, not ${Array.from(allowed).join(" or ")}`)
      if (item.started && plan.closing === "last") assert.strictEqual(word, item.expected)
    }
  }
}

const outcomes = <E = never>(run: Options<E>["run"], options: Options<E> = {}) =>
  Effect.gen(function* () {
    const made = yield* batcher<E>({ maxBatchSize: 3, batchWaitTimeout: Infinity, ...options, run } as never)
    const callers = yield* send(made.batched, 1, 2, 3)
    yield* settle
    const exits = yield* answers(callers)
    // And the engine is alive.
    const next = yield* send(made.batched, 4, 5, 6)
    yield* settle
    assert.isTrue(next.every(isDone))
    assert.deepInclude(yield* made.batched.state, { running: 0, queued: 0 })
    return { ...made, exits }
  })

const thrice = <A>(value: A) => [value, value, value]

const bisecting = (
  poison: ReadonlyArray<number>,
  outcome: (n: number) => Effect.Effect<never, Broken> = () => Effect.fail(broken)
) =>
  batcher<Broken>({
    maxBatchSize: 8,
    onFailure: "bisect",
    idempotent: true,
    run: (items) =>
      Effect.gen(function* () {
        yield* Effect.sleep(10)
        const bad = items.find((n) => poison.includes(n))
        return bad === undefined ? items : yield* outcome(bad)
      })
  })

const collect = (sampled: boolean) => {
  const spans: Array<Tracer.Span> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan({ ...options, sampled })
      spans.push(span)
      return span
    }
  })
  return { spans, tracer }
}

const ended = (spans: ReadonlyArray<Tracer.Span>) =>
  spans.filter(({ status }) => status._tag === "Ended").map(({ name }) => name)

const warnings = () => {
  const lines: Array<string> = []
  return {
    lines,
    layer: Logger.layer([
      Logger.make(({ logLevel, message }) => {
        if (logLevel === "Warn") lines.push(String(message))
      })
    ])
  }
}

const adaptive = (options: Options = {}) =>
  batcher({
    batchWaitTimeout: "adaptive",
    maxBatchSize: 32,
    run: (items) => lasting(20 + items.length)(items),
    ...options
  })

/** Lets it learn what batches cost, and that items come every few milliseconds. */
const teach = Effect.fnUntraced(function* ({ batched }: Effect.Success<ReturnType<typeof adaptive>>, gap: number) {
  for (const count of [1, 5, 2, 9, 3, 14, 4]) {
    yield* send(batched, ...range(count))
    yield* TestClock.adjust(200)
  }
  for (let i = 0; i < 100; i++) {
    yield* send(batched, i)
    yield* TestClock.adjust(gap)
  }
  yield* TestClock.adjust(200)
})

/** How many items an adaptive batch has when they come every few milliseconds. */
const meanSize = Effect.fnUntraced(function* (gap: number) {
  const made = yield* adaptive({ maxConcurrentBatches: 4 })
  yield* teach(made, gap)
  const before = made.notes.batches.length
  yield* sendEvery(made.batched, gap, 200)
  yield* TestClock.adjust(500)
  return 200 / (made.notes.batches.length - before)
})

/** Five callers, batches of two, one slot; something happens after a number of turns. Returns whether all was over before. */
const interfere = (after: number, order: number, options: { readonly leaver?: number; readonly close?: boolean }) => {
  const world = makeWorld(halting)
  const scope = Scope.makeUnsafe()
  const runs: Array<number> = []
  let running = 0
  const batched = world.perform(
    Scope.provide(
      Batching.make({
        maxBatchSize: 2,
        batchWaitTimeout: 5,
        gracefulShutdownTimeout: 0,
        run: (items: ReadonlyArray<number>) =>
          Effect.acquireUseRelease(
            Effect.sync(() => {
              runs.push(...items)
              running++
            }),
            () => Effect.as(Effect.andThen(Effect.yieldNow, Effect.yieldNow), items),
            () => Effect.sync(() => running--)
          )
      }),
      scope
    )
  )
  const callers = range(5).map((n) => world.fork(batched(n)))
  for (let i = 0; i < after; i++) world.turns.take(i * order)
  const wasOver = callers.filter(isDone).length >= 4
  const closing = options.close === true ? world.fork(Scope.close(scope, Exit.void)) : undefined
  if (options.leaver !== undefined) callers[options.leaver]!.interruptUnsafe()
  for (const millis of [0, 1, 5]) {
    world.clock.advance(millis)
    world.turns.takeAll()
    assert.isAtMost(running, 1)
  }
  assert.strictEqual(running, 0)
  assert.deepInclude(Effect.runSync(batched.state), { running: 0, queued: 0 })
  assert.strictEqual(new Set(runs).size, runs.length, "nothing runs twice")
  callers.forEach((caller, n) => {
    const exit = caller.pollUnsafe()
    const word = exit === undefined ? "still waits" : Exit.isSuccess(exit) ? String(exit.value) : wordFor(exit)
    const others = [n === options.leaver ? "interrupted" : "", options.close === true ? "Unavailable" : ""]
    assert.include([String(n), ...others], word)
  })
  if (closing === undefined) {
    const next = world.fork(batched(9))
    world.turns.takeAll()
    world.clock.advance(5)
    world.turns.takeAll()
    assert.deepStrictEqual(next.pollUnsafe(), Exit.succeed(9), "the next one works")
    world.perform(Scope.close(scope, Exit.void))
  } else {
    assert.deepStrictEqual(closing.pollUnsafe(), Exit.void)
  }
  return wasOver
}

const sweep = (options: Parameters<typeof interfere>[2]) => {
  for (const order of [0, 1, 7]) {
    let after = 0
    while (!interfere(after, order, options)) assert.isBelow(after++, 500)
    assert.isAbove(after, 20)
  }
}

describe("Batching", () => {
  describe("releases a batch", () => {
    it.effect("as soon as it is full, and gives each caller its own result", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({
          maxBatchSize: 3,
          run: (items) => Effect.succeed(items.map((n) => 10 * n))
        })
        const callers = yield* send(batched, 1, 2)
        yield* settle
        assert.isEmpty(notes.batches)
        callers.push(...(yield* send(batched, 3)))
        assert.deepStrictEqual(notes.batches, [[1, 2, 3]])
        assert.deepStrictEqual(yield* answers(callers), [10, 20, 30].map(Exit.succeed))
      })
    )

    it.effect("that is not full when its first item has waited for batchWaitTimeout", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ batchWaitTimeout: "10 millis" })
        yield* send(batched, 1)
        yield* TestClock.adjust("9 millis")
        yield* send(batched, 2)
        assert.isEmpty(notes.batches)
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(notes.batches, [[1, 2]])
        assert.deepInclude(yield* batched.state, { queued: 0, running: 0 })
      })
    )

    it.effect("counting from its own first item, however long nothing came", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ batchWaitTimeout: "10 millis" })
        yield* TestClock.adjust("1 minute")
        yield* send(batched, ...range(9))
        yield* TestClock.adjust("9 millis")
        assert.isEmpty(notes.batches)
        yield* send(batched, 9)
        assert.deepStrictEqual(notes.batches, [range(10)])
      })
    )

    it.effect("of one item at once when more may not go together, and shows its failure", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({
          maxBatchSize: 1,
          batchWaitTimeout: Infinity,
          run: ([n]) => (n === 2 ? Effect.fail(broken) : Effect.succeed([n]))
        })
        const callers = yield* send(batched, 1, 2, 3)
        assert.deepStrictEqual(yield* answers(callers), [Exit.succeed(1), Exit.fail(broken), Exit.succeed(3)])
        assert.deepStrictEqual(sizes(notes.batches), [1, 1, 1])
      })
    )

    it.effect("at once when it waits for nothing, and those that came meanwhile together", () =>
      Effect.gen(function* () {
        const gate = yield* Deferred.make<never, Broken>()
        const { batched, notes } = yield* batcher({ batchWaitTimeout: 0, run: () => Deferred.await(gate) })
        const callers = yield* send(batched, 1, 2, 3)
        assert.deepStrictEqual(notes.batches, [[1]])
        yield* Deferred.fail(gate, broken)
        yield* settle
        assert.deepStrictEqual(notes.batches, [[1], [2, 3]])
        assert.deepStrictEqual(
          yield* answers(callers),
          [1, 2, 3].map(() => Exit.fail(broken))
        )
      })
    )

    it.effect("of the full size for each of many callers that come at once", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 2, batchWaitTimeout: "1 day", run: lasting(1) })
        const callers = yield* send(batched, ...range(10))
        yield* TestClock.adjust(5)
        assert.isTrue(callers.every(isDone))
        assert.deepStrictEqual(sizes(notes.batches), [2, 2, 2, 2, 2])
      })
    )

    it.effect("only when it is full when the wait has no end", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 3, batchWaitTimeout: Infinity })
        const first = yield* send(batched, 1, 2)
        yield* TestClock.adjust("365 days")
        assert.isEmpty(notes.batches)
        yield* send(batched, 3)
        assert.deepStrictEqual(yield* answers(first), [1, 2].map(Exit.succeed))
      })
    )

    it.effect("with the sizes that are written in the documentation by default", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher()
        assert.deepStrictEqual(yield* batched.state, {
          name: "batcher",
          status: "Ready",
          queued: 0,
          running: 0,
          maxBatchSize: 10,
          batchWaitTimeout: 10,
          maxBatchWait: 50,
          maxConcurrentBatches: 1,
          maxQueuedItems: 1000,
          fixedMillis: 0,
          millisPerItem: 0,
          batches: { full: 0, timeout: 0, slot: 0, deadline: 0, drain: 0 },
          items: 0,
          dropped: { left: 0, expired: 0 },
          wasted: 0
        })
      })
    )
  })

  describe("seals a batch late", () => {
    it.effect("so that ten items in turn, 15 ms apart, make 4 batches while each runs for 100 ms", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 4, batchWaitTimeout: 10, run: lasting(100) })
        const callers = yield* sendEvery(batched, 15, 10)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* answers(callers), range(10).map(Exit.succeed))
        assert.deepStrictEqual(sizes(notes.batches), [1, 4, 4, 1])
      })
    )

    it.effect("so that 100 items, 4 ms apart, make at most 15 batches where Ray Serve runs 50", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 8, batchWaitTimeout: 5, run: lasting(100) })
        const callers = yield* sendEvery(batched, 4, 100)
        yield* TestClock.adjust("2 seconds")
        assert.isTrue(callers.every(isDone))
        assert.deepStrictEqual(notes.batches.flat(), range(100))
        assert.isAtMost(notes.batches.length, 15)
        assert.strictEqual(notes.most, 1)
      })
    )

    it.effect("when its wait is over, as soon as a slot is free", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ batchWaitTimeout: 10, run: lasting(100) })
        yield* send(batched, 1)
        yield* TestClock.adjust(15)
        yield* send(batched, 2)
        yield* TestClock.adjust(94)
        yield* send(batched, 3)
        assert.deepStrictEqual(notes.batches, [[1]])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(notes.batches, [[1], [2, 3]])
      })
    )

    it.effect("and not early because a slot is free", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ batchWaitTimeout: 50, run: lasting(100) })
        yield* send(batched, 1)
        yield* TestClock.adjust(140)
        yield* send(batched, 2)
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(notes.batches, [[1]])
        yield* TestClock.adjust(39)
        assert.deepStrictEqual(notes.batches, [[1]])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(notes.batches, [[1], [2]])
      })
    )

    it.effect("and lets one that was full wait again when its callers have left", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 2, batchWaitTimeout: 1000, run: lasting(100) })
        yield* send(batched, 0, 1)
        const [, leaving] = yield* send(batched, 2, 3)
        yield* Fiber.interrupt(leaving!)
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(notes.batches, [[0, 1]])
        yield* send(batched, 4)
        assert.deepStrictEqual(notes.batches, [
          [0, 1],
          [2, 4]
        ])
      })
    )

    it.effect("counting from the next item when the first one's caller has left", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ batchWaitTimeout: 10, run: lasting(20) })
        const [leaving] = yield* send(batched, 1)
        yield* TestClock.adjust(5)
        yield* send(batched, 2)
        yield* Fiber.interrupt(leaving!)
        yield* TestClock.adjust(9)
        assert.isEmpty(notes.batches)
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(notes.batches, [[2]])
        // The same while it waits for a slot.
        const [late] = yield* send(batched, 3)
        yield* TestClock.adjust(15)
        yield* send(batched, 4)
        yield* Fiber.interrupt(late!)
        yield* TestClock.adjust(9)
        assert.strictEqual(notes.batches.length, 1)
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(notes.batches, [[2], [4]])
      })
    )
  })

  describe("runs batches at once", () => {
    it.effect("up to maxConcurrentBatches, and the next one as soon as one ends", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({
          maxBatchSize: 2,
          maxConcurrentBatches: 3,
          run: (items) => lasting(100 * items[0])(items)
        })
        yield* send(batched, 1, 1, 2, 2, 3, 3, 4, 4, 5)
        assert.deepInclude(yield* batched.state, { running: 3, queued: 3 })
        yield* TestClock.adjust(99)
        assert.strictEqual(notes.batches.length, 3)
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(notes.batches.at(-1), [4, 4])
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(notes.batches.at(-1), [5])
        yield* TestClock.adjust(1000)
        assert.strictEqual(notes.most, 3)
        assert.deepInclude(yield* batched.state, { running: 0, queued: 0 })
      })
    )

    it.effect("so that a slot is given on before the callers of its batch are told", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const batched = yield* Batching.make({
          maxBatchSize: 2,
          gracefulShutdownTimeout: 0,
          run: (items: ReadonlyArray<number>) =>
            Effect.suspend(() => {
              log.push(`run ${items.join()}`)
              return lasting(100)(items as [number])
            })
        })
        const told = (n: number) => Effect.map(batched(n), () => log.push(`told ${n}`))
        for (const n of [1, 2, 3, 4]) yield* call(told(n))
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(log, ["run 1,2", "run 3,4", "told 1", "told 2"])
      })
    )

    it.live("but callers are told first when a batch computes where it begins, and would keep them waiting", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const batched = yield* Batching.make({
          maxBatchSize: 2,
          run: (items: ReadonlyArray<number>) =>
            Effect.suspend(() => {
              log.push(`run ${items.join()}`)
              const until = performance.now() + 20
              while (performance.now() < until);
              return Effect.as(Effect.yieldNow, items)
            })
        })
        const told = (n: number) => Effect.map(batched(n), () => log.push(`told ${n}`))
        const callers = yield* Effect.forEach([1, 2, 3, 4], (n) => call(told(n)))
        for (const caller of callers) yield* Fiber.join(caller)
        assert.deepStrictEqual(log, ["run 1,2", "told 1", "told 2", "run 3,4", "told 3", "told 4"])
      })
    )

    it.live("while worker threads compute, and other requests go on", () =>
      Effect.gen(function* () {
        const { handle } = yield* open(Spinner, SpinnerLive)
        const callers = yield* Effect.forEach(range(8), (n) => call(handle.spin(n)))
        yield* handle
          .greet()
          .pipe(
            Effect.andThen(Effect.sync(() => Atomics.add(spins, 2, 1))),
            Effect.andThen(Effect.sleep(1)),
            Effect.forever,
            call
          )
        const results = yield* Effect.forEach(callers, Fiber.join)
        assert.deepStrictEqual(
          results.map(({ n }) => n),
          range(8)
        )
        assert.strictEqual(Math.max(...results.map(({ atOnce }) => atOnce)), 2)
        assert.isAtLeast(spins[2]!, 5)
      })
    )
  })

  describe("lets items wait", () => {
    it.effect("up to maxQueuedItems, and refuses more with the numbers", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher({
          maxBatchSize: 2,
          maxConcurrentBatches: 2,
          maxQueuedItems: 3,
          run: lasting(100)
        })
        yield* send(batched, ...range(7))
        const refused = yield* reason(batched(7))
        assert.deepInclude(refused, {
          _tag: "QueueFull",
          deployment: "batcher",
          ongoing: 4,
          maxOngoingRequests: 4,
          queued: 3,
          maxQueuedRequests: 3
        })
        assert.isAbove(Duration.toMillis((refused as ServeError.QueueFull).retryAfter), 0)
        assert.strictEqual((yield* batched.state).queued, 3)
        yield* TestClock.adjust(100)
        yield* send(batched, 8)
        assert.strictEqual((yield* batched.state).queued, 1)
      })
    )

    it.effect("no more than that also while a slot is free", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxQueuedItems: 2 })
        yield* send(batched, 1, 2)
        assert.deepInclude(yield* reason(batched(3)), { _tag: "QueueFull", ongoing: 0, queued: 2 })
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(notes.batches, [[1, 2]])
      })
    )

    it.effect("and tells when it is worth to come back, from what batches took", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher({ maxBatchSize: 1, maxQueuedItems: 4, run: lasting(100) })
        for (let i = 0; i < 5; i++) {
          yield* send(batched, i)
          yield* TestClock.adjust(100)
        }
        yield* send(batched, ...range(5))
        const { retryAfter } = (yield* reason(batched(9))) as ServeError.QueueFull
        // Five batches are before it, and the answer is spread so that they don't all come back together.
        const millis = Duration.toMillis(retryAfter)
        assert.isTrue(millis > 490 && millis < 1010, `${millis}`)
      })
    )

    it.effect("not at all with no places: what can't run at once is refused", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ batchWaitTimeout: 0, maxQueuedItems: 0, run: lasting(100) })
        yield* send(batched, 1)
        assert.deepInclude(yield* reason(batched(2)), { _tag: "QueueFull", queued: 0, maxQueuedRequests: 0 })
        yield* TestClock.adjust(100)
        yield* send(batched, 3)
        assert.deepStrictEqual(notes.batches, [[1], [3]])
      })
    )

    it.effect("but takes the last item of a batch that can run, even when all places are taken", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 4, maxQueuedItems: 3, batchWaitTimeout: Infinity })
        yield* send(batched, 1, 2, 3, 4)
        assert.deepStrictEqual(notes.batches, [[1, 2, 3, 4]])
      })
    )

    it.effect("without bound when maxQueuedItems is infinite", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher({ maxQueuedItems: Infinity, run: lasting(100) })
        yield* send(batched, ...range(5010))
        assert.strictEqual((yield* batched.state).queued, 5000)
      })
    )

    it.effect("and tells of a full queue also when the size of a batch is a fraction", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher({
          maxBatchSize: 2.5,
          batchSize: (items) => items.length * 1.25,
          maxQueuedItems: 1,
          run: lasting(100)
        })
        yield* send(batched, 1, 2, 3)
        assert.deepInclude(yield* reason(batched(5)), { _tag: "QueueFull", queued: 1 })
      })
    )
  })

  describe("finds the size of a batch", () => {
    const forms = {
      "with a function": (items: ReadonlyArray<number>) => items.reduce((sum, n) => sum + n, 0),
      "step by step": { empty: 0, add: (sum: number, n: number) => sum + n },
      "from a state": {
        empty: { sum: 0 },
        add: ({ sum }: { readonly sum: number }, n: number) => ({ sum: sum + n }),
        size: ({ sum }: { readonly sum: number }) => sum
      }
    }
    describe.each(Object.entries(forms))("%s", (_, batchSize) => {
      const by = <E = never>(options: Options<E, any> = {}) =>
        batcher<E, any>({ maxBatchSize: 10, batchSize, ...options })

      it.effect("and lets the item that doesn't fit be the first of the next batch", () =>
        Effect.gen(function* () {
          const { batched, notes } = yield* by({ run: lasting(100) })
          yield* send(batched, 6, 7, 1, 2, 1)
          assert.deepStrictEqual(notes.batches, [[6]])
          yield* TestClock.adjust(100)
          assert.deepStrictEqual(notes.batches, [[6], [7, 1, 2]])
          yield* TestClock.adjust(110)
          assert.deepStrictEqual(notes.batches, [[6], [7, 1, 2], [1]])
        })
      )

      it.effect("and fills it exactly", () =>
        Effect.gen(function* () {
          const { batched, notes } = yield* by({ batchWaitTimeout: Infinity })
          yield* send(batched, 3, 3, 4)
          assert.deepStrictEqual(notes.batches, [[3, 3, 4]])
        })
      )

      it.effect("and fails an item that is too large alone at once, and nothing else", () =>
        Effect.gen(function* () {
          const { batched, notes } = yield* by()
          const before = yield* send(batched, 4)
          assert.deepStrictEqual(
            yield* reason(batched(11)),
            new ServeError.ItemTooLarge({ size: 11, maxBatchSize: 10 })
          )
          yield* settle
          assert.isEmpty(notes.batches)
          const after = yield* send(batched, 5)
          yield* TestClock.adjust(9)
          assert.isEmpty(notes.batches)
          yield* TestClock.adjust(1)
          assert.deepStrictEqual(notes.batches, [[4, 5]])
          assert.deepStrictEqual(yield* answers([...before, ...after]), [4, 5].map(Exit.succeed))
        })
      )

      it.effect("and tells of one that is too large while all slots are taken", () =>
        Effect.gen(function* () {
          const { batched } = yield* by({ run: lasting(100) })
          yield* send(batched, 10, 10, 5)
          const [large] = yield* send(batched, 12)
          assert.isTrue(isDone(large!))
          assert.deepInclude(yield* answered(large!), { _tag: "ItemTooLarge", size: 12 })
        })
      )

      it.effect("and fails one that has become too large alone", () =>
        Effect.gen(function* () {
          const { batched, notes } = yield* by({ run: lasting(100) })
          yield* send(batched, 10)
          const [first, large, last] = yield* send(batched, 4, 9, 2)
          yield* batched.update({ maxBatchSize: 8 })
          yield* TestClock.adjust(300)
          assert.deepStrictEqual(notes.batches, [[10], [4], [2]])
          assert.deepInclude(yield* answered(large!), { _tag: "ItemTooLarge", size: 9, maxBatchSize: 8 })
          assert.isTrue(isDone(first!) && isDone(last!))
        })
      )
    })

    it.effect("and fails only the item for which that throws", () =>
      Effect.gen(function* () {
        const unlucky = new Error("13")
        const { batched, notes } = yield* batcher({
          maxBatchSize: 3,
          batchSize: (items) => {
            if (items.includes(13)) throw unlucky
            return items.length
          }
        })
        const callers = yield* send(batched, 1, 13, 2, 3)
        assert.deepStrictEqual(yield* answers(callers), [
          Exit.succeed(1),
          Exit.die(unlucky),
          Exit.succeed(2),
          Exit.succeed(3)
        ])
        assert.deepStrictEqual(notes.batches, [[1, 2, 3]])
      })
    )

    it.effect("and fails only that item when it throws no earlier than the batch is cut", () =>
      Effect.gen(function* () {
        let isUnlucky = false
        const { batched, notes } = yield* batcher({
          batchSize: (items) => {
            if (isUnlucky && items.includes(13)) throw new Error("13")
            return items.length
          }
        })
        const callers = yield* send(batched, 1, 13, 2)
        isUnlucky = true
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(notes.batches, [[1, 2]])
        const [one, unlucky, two] = yield* answers(callers)
        assert.deepStrictEqual([one, two], [Exit.succeed(1), Exit.succeed(2)])
        assert.strictEqual(message(unlucky!), "13")
      })
    )

    it.effect("and releases nothing early because it throws", () =>
      Effect.gen(function* () {
        let isUnlucky = false
        const { batched, notes } = yield* batcher({
          batchSize: (items) => {
            if (isUnlucky && items.includes(13)) throw new Error("13")
            return items.length
          }
        })
        const [leaving] = yield* send(batched, 1, 13)
        yield* TestClock.adjust(5)
        yield* send(batched, 2)
        isUnlucky = true
        yield* Fiber.interrupt(leaving!)
        yield* TestClock.adjust(4)
        assert.isEmpty(notes.batches)
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(notes.batches, [[2]])
      })
    )

    it.effect("and never stands still, however oddly that throws", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({
          batchWaitTimeout: Infinity,
          batchSize: (items) => {
            if (items[0] === 13) throw new Error("13 comes first")
            return items.length
          }
        })
        const [first, second] = yield* send(batched, 1, 13, 2)
        yield* Fiber.interrupt(first!)
        yield* settle
        yield* send(batched, ...range(9, 20))
        assert.isTrue(isDone(second!))
        assert.deepStrictEqual(notes.batches, [[2, ...range(9, 20)]])
      })
    )

    it.effect("and fails an item whose size is not a number", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({
          maxBatchSize: 2,
          batchSize: (items) => (items.includes(13) ? NaN : items.length)
        })
        const callers = yield* send(batched, 1, 13, 2)
        assert.deepStrictEqual(notes.batches, [[1, 2]])
        assert.isTrue(Exit.hasDies((yield* answers([callers[1]!]))[0]!))
      })
    )
  })

  describe("with keys", () => {
    it.effect("serves those that are ripe at one time in the order in which their items came", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ key: (n) => n, batchWaitTimeout: 10, run: lasting(100) })
        yield* send(batched, ...range(5))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(notes.batches, [[0], [1], [2], [3], [4]])
      })
    )

    class Model extends Data.Class<{ readonly name: string }> {}

    const keyed = (options: Partial<Batching.Options<string, string, never, never>> = {}) =>
      Effect.gen(function* () {
        const batches: Array<string> = []
        const batched = yield* Batching.make<string, string>({
          gracefulShutdownTimeout: 0,
          maxBatchSize: 2,
          key: (item) => new Model({ name: item.slice(0, 1) }),
          ...options,
          run: (items) =>
            Effect.sync(() => batches.push(items.join(" "))).pipe(
              Effect.andThen(options.run?.(items) ?? Effect.succeed(items))
            )
        })
        return { batched, batches }
      })

    it.effect("puts only items with equal ones together", () =>
      Effect.gen(function* () {
        const { batched, batches } = yield* keyed()
        const callers = yield* send(batched, "a1", "b1", "c1", "b2", "a2")
        assert.deepStrictEqual(batches, ["b1 b2", "a1 a2"])
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(batches.at(-1), "c1")
        assert.deepStrictEqual(yield* answers(callers), ["a1", "b1", "c1", "b2", "a2"].map(Exit.succeed))
      })
    )

    it.effect("of any kind: numbers that aren't, arrays, nothing", () =>
      Effect.gen(function* () {
        for (const make of [() => NaN, () => [1, 2], () => ({ a: 1 }), () => undefined, () => null, () => 0n]) {
          const { batched, batches } = yield* keyed({ key: make })
          yield* send(batched, "a", "b")
          assert.deepStrictEqual(batches, ["a b"])
        }
      })
    )

    it.effect("doesn't run a batch of one before it is full because another one is", () =>
      Effect.gen(function* () {
        const { batched, batches } = yield* keyed({ batchWaitTimeout: Infinity })
        yield* send(batched, "a1", "b1", "b2", "b3", "b4")
        assert.deepStrictEqual(batches, ["b1 b2", "b3 b4"])
        yield* send(batched, "a2")
        assert.deepStrictEqual(batches.at(-1), "a1 a2")
      })
    )

    it.effect("counts the wait of each by itself", () =>
      Effect.gen(function* () {
        const { batched, batches } = yield* keyed()
        yield* send(batched, "a1")
        yield* TestClock.adjust(6)
        yield* send(batched, "b1")
        yield* TestClock.adjust(4)
        assert.deepStrictEqual(batches, ["a1"])
        yield* TestClock.adjust(6)
        assert.deepStrictEqual(batches, ["a1", "b1"])
      })
    )

    it.effect("shares the slots among all", () =>
      Effect.gen(function* () {
        const { batched, batches } = yield* keyed({
          maxConcurrentBatches: 2,
          run: (items) => Effect.as(Effect.sleep(100), items)
        })
        yield* send(batched, "a1", "a2", "b1", "b2", "c1", "c2")
        assert.deepStrictEqual(batches, ["a1 a2", "b1 b2"])
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(batches.at(-1), "c1 c2")
      })
    )

    it.effect("lets a rare one have its turn between the batches of a busy one", () =>
      Effect.gen(function* () {
        const { batched, batches } = yield* keyed({ run: (items) => Effect.as(Effect.sleep(100), items) })
        yield* send(batched, ...range(40).map((i) => `a${i}`))
        yield* send(batched, "b", "c")
        yield* TestClock.adjust(400)
        // One runs when theirs come, and one of each other key has a turn before.
        assert.isAtMost(batches.indexOf("b"), 3)
        assert.isAtMost(batches.indexOf("c"), 4)
        yield* TestClock.adjust(2000)
        assert.strictEqual(batches.length, 22)
      })
    )

    it.effect("fails only the item for which key throws", () =>
      Effect.gen(function* () {
        const unlucky = new Error("no key")
        const { batched, batches } = yield* keyed({
          key: (item) => {
            if (item === "x") throw unlucky
            return item.slice(0, 1)
          }
        })
        const callers = yield* send(batched, "a1", "x", "a2")
        assert.deepStrictEqual(yield* answers(callers), [Exit.succeed("a1"), Exit.die(unlucky), Exit.succeed("a2")])
        assert.deepStrictEqual(batches, ["a1 a2"])
        assert.strictEqual((yield* batched.state).queued, 0)
      })
    )
  })

  describe("when a caller leaves", () => {
    it.effect("drops its item while it waits, and refills the batch", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 3, run: lasting(100) })
        yield* send(batched, 0, 0, 0)
        const callers = yield* send(batched, ...range(6))
        yield* Fiber.interruptAll([callers[0]!, callers[2]!])
        assert.deepInclude(yield* batched.state, { queued: 4, dropped: { left: 2, expired: 0 }, wasted: 0 })
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(notes.batches.at(-1), [1, 3, 4])
      })
    )

    it.effect("ends the wait of that one only, and runs later batches", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 2, batchWaitTimeout: Infinity })
        const [one] = yield* send(batched, 1)
        yield* Fiber.interrupt(one!)
        const [two] = yield* send(batched, 2)
        assert.isFalse(isDone(two!))
        yield* send(batched, 3)
        assert.deepStrictEqual(notes.batches, [[2, 3]])
      })
    )

    it.effect("lets its batch run on for the others, and returns at once", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({
          maxBatchSize: 2,
          run: (items) => Effect.uninterruptible(lasting(100)(items))
        })
        const [one, two] = yield* send(batched, 1, 2)
        yield* Fiber.interrupt(one!)
        assert.isFalse(isDone(two!))
        assert.deepInclude(yield* batched.state, { running: 1, wasted: 1, dropped: { left: 0, expired: 0 } })
        yield* TestClock.adjust(100)
        assert.strictEqual(yield* Fiber.join(two!), 2)
        assert.strictEqual(notes.interrupted, 0)
      })
    )

    it.effect("interrupts its batch when it was the last, waits until that has stopped, and gives the slot on", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({
          maxBatchSize: 2,
          run: (items) => lasting(100)(items).pipe(Effect.onInterrupt(() => Effect.sleep(30)))
        })
        const [one, two] = yield* send(batched, 1, 2, 3, 4)
        yield* Fiber.interrupt(one!)
        const leaving = yield* call(Fiber.interrupt(two!))
        yield* TestClock.adjust(29)
        assert.isFalse(isDone(leaving))
        assert.deepStrictEqual(sizes(notes.batches), [2])
        yield* TestClock.adjust(1)
        assert.isTrue(isDone(leaving))
        assert.strictEqual(notes.interrupted, 1)
        assert.deepStrictEqual(notes.batches.at(-1), [3, 4])
        assert.deepInclude(yield* batched.state, { running: 1, wasted: 2 })
        yield* TestClock.adjust(100)
      })
    )

    it.effect("interrupts no other batch", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 1, maxConcurrentBatches: 2, run: lasting(100) })
        const [one, two] = yield* send(batched, 1, 2)
        yield* Fiber.interrupt(one!)
        assert.strictEqual(notes.interrupted, 1)
        yield* TestClock.adjust(100)
        assert.isTrue(isDone(two!))
      })
    )

    it.effect("after a failure, nothing changes for the next batch", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher({
          maxBatchSize: 2,
          batchWaitTimeout: Infinity,
          run: (items) => (items.includes(13) ? Effect.fail(broken) : Effect.succeed(items))
        })
        const failing = yield* send(batched, 13, 1)
        yield* Fiber.interruptAll(failing)
        const callers = yield* send(batched, 2, 3)
        assert.deepStrictEqual(yield* answers(callers), [2, 3].map(Exit.succeed))
      })
    )

    it.effect("while its batch begins, doesn't hang", () =>
      Effect.gen(function* () {
        const started = yield* Deferred.make<number>()
        const { batched } = yield* batcher({ run: (items) => Effect.as(Deferred.succeed(started, 0), items) })
        const racing = yield* call(Effect.raceFirst(Deferred.await(started), batched(1)))
        yield* TestClock.adjust(10)
        yield* settle
        assert.deepStrictEqual(yield* answers([racing]), [Exit.succeed(0)])
        assert.deepInclude(yield* batched.state, { running: 0, wasted: 1 })
        const [next] = yield* send(batched, 2)
        yield* TestClock.adjust(10)
        assert.isTrue(isDone(next!))
      })
    )

    it.effect("and one of its batch is told of a failure, those that it takes along don't count as wasted", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher({ run: lasting(50) })
        yield* send(batched, 0)
        yield* TestClock.adjust(10)
        const all = yield* call(
          Effect.forEach(range(5), batched, { concurrency: "unbounded" }).pipe(as({ deadline: 30 }))
        )
        yield* TestClock.adjust(50)
        assert.deepInclude(yield* answered(all), { _tag: "DeadlineExceeded", stage: "batch" })
        const { dropped, wasted } = yield* batched.state
        assert.deepStrictEqual([dropped.left + dropped.expired, wasted], [5, 0])
      })
    )
  })

  describe("with deadlines", () => {
    it.effect("drops what is too late when it seals a batch, and refills it", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 2, run: lasting(100) })
        yield* send(batched, 0, 0)
        const [late] = yield* Effect.forEach([1], (n) => call(as({ deadline: 100 })(batched(n))))
        const [intime] = yield* Effect.forEach([2], (n) => call(as({ deadline: 101 })(batched(n))))
        yield* send(batched, 3)
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(notes.batches.at(-1), [2, 3])
        assert.deepStrictEqual(
          yield* answered(late!),
          new ServeError.DeadlineExceeded({ deployment: "batcher", stage: "batch" })
        )
        assert.isFalse(isDone(intime!))
        assert.deepInclude(yield* batched.state, { dropped: { left: 0, expired: 1 }, items: 4 })
      })
    )

    it.effect("refuses what comes too late", () =>
      Effect.gen(function* () {
        yield* TestClock.adjust(100)
        const { batched, notes } = yield* batcher()
        const late = yield* call(as({ deadline: 100 })(batched(1)))
        assert.isTrue(isDone(late))
        assert.deepInclude(yield* answered(late), { _tag: "DeadlineExceeded", stage: "batch" })
        assert.deepInclude(yield* batched.state, { dropped: { left: 0, expired: 1 } })
        assert.isEmpty(notes.batches)
      })
    )

    it.effect("runs nothing when everything is too late, and the next batch as ever", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 2, run: lasting(100) })
        yield* send(batched, 0, 0)
        yield* call(as({ deadline: 50 })(Effect.all([batched(1), batched(2)], { concurrency: "unbounded" })))
        yield* TestClock.adjust(100)
        assert.strictEqual(notes.batches.length, 1)
        assert.deepInclude(yield* batched.state, { running: 0, queued: 0 })
        yield* send(batched, 3, 4)
        assert.deepStrictEqual(notes.batches.at(-1), [3, 4])
      })
    )
  })

  describe("gives each item one outcome", () => {
    it.effect("when run fails", () =>
      Effect.gen(function* () {
        const { exits } = yield* outcomes<Broken>(() => Effect.fail(broken))
        assert.deepStrictEqual(exits, thrice(Exit.fail(broken)))
      })
    )

    it.effect("when run has a defect, throws, or doesn't return an effect", () =>
      Effect.gen(function* () {
        const boom = new Error("boom")
        const dying = yield* outcomes(() => Effect.andThen(Effect.yieldNow, Effect.die(boom)))
        assert.deepStrictEqual(dying.exits, thrice(Exit.die(boom)))
        const throwing = yield* outcomes(() => {
          throw boom
        })
        assert.deepStrictEqual(throwing.exits, thrice(Exit.die(boom)))
        const odd = yield* outcomes((() => 42) as never)
        assert.isTrue(odd.exits.every(Exit.hasDies))
      })
    )

    it.effect("when run interrupts itself, which doesn't interrupt its callers", () =>
      Effect.gen(function* () {
        for (const run of [() => Effect.interrupt, () => Effect.andThen(Effect.yieldNow, Effect.interrupt)]) {
          const { exits } = yield* outcomes(run)
          for (const exit of exits) {
            assert.isTrue(Exit.hasDies(exit) && !Exit.hasInterrupts(exit))
            assert.include(message(exit), "interrupted itself")
          }
        }
      })
    )

    it.effect("when run returns too few results, too many, or none at all", () =>
      Effect.gen(function* () {
        for (const received of [0, 2, 4]) {
          const { exits } = yield* outcomes(() => Effect.succeed(range(received)))
          const contract = new ServeError.BatchContract({ expected: 3, received })
          assert.deepStrictEqual(
            exits.map((exit) => Option.getOrThrow(Exit.findErrorOption(exit))),
            thrice(new ServeError.ServeError({ reason: contract }))
          )
        }
        const { exits } = yield* outcomes((() => Effect.void) as never)
        assert.include(message(exits[0]!), "A batch of 3 items got 0 results")
      })
    )

    it.effect("from its own Exit in the results", () =>
      Effect.gen(function* () {
        const { exits } = yield* outcomes<Broken>(() => Effect.succeed([Exit.succeed(10), Exit.fail(broken), 30]))
        assert.deepStrictEqual(exits, [Exit.succeed(10), Exit.fail(broken), Exit.succeed(30)])
        const { exits: others } = yield* outcomes(() => Effect.succeed([Exit.die("boom"), 20, Exit.interrupt()]))
        assert.deepStrictEqual(others.slice(0, 2), [Exit.die("boom"), Exit.succeed(20)])
        assert.isTrue(Exit.hasDies(others[2]!) && !Exit.hasInterrupts(others[2]!))
      })
    )

    it.effect("when one item spoils its batch", () =>
      Effect.gen(function* () {
        const { exits } = yield* outcomes<Broken>((items) =>
          items.includes(2) ? Effect.fail(broken) : Effect.succeed(items)
        )
        assert.deepStrictEqual(exits, thrice(Exit.fail(broken)))
      })
    )

    it.effect("in a batch of 150,000", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 150_000, maxQueuedItems: Infinity })
        const callers = yield* Effect.forEach(range(150_000), (n) => call(batched(n)))
        assert.isTrue(callers.every(isDone))
        assert.deepStrictEqual(sizes(notes.batches), [150_000])
      })
    )
  })

  describe("bisects a batch that fails", () => {
    it.effect("until the item that made it fail is alone", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* bisecting([5])
        const callers = yield* send(batched, ...range(8))
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(
          yield* answers(callers),
          range(8).map((n) => (n === 5 ? Exit.fail(broken) : Exit.succeed(n)))
        )
        assert.deepStrictEqual(notes.batches, [range(8), [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]])
        assert.strictEqual(notes.most, 1)
        assert.deepInclude(yield* batched.state, { items: 8, running: 0 })
      })
    )

    it.effect("with several bad ones, each with its own failure", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* bisecting([1, 2, 7], (n) =>
          n === 2 ? Effect.die("two") : Effect.fail(new Broken({ part: String(n) }))
        )
        const callers = yield* send(batched, ...range(8))
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(
          yield* answers(callers),
          range(8).map((n) =>
            n === 2
              ? Exit.die("two")
              : [1, 7].includes(n)
                ? Exit.fail(new Broken({ part: String(n) }))
                : Exit.succeed(n)
          )
        )
        // 2 k log2 n, and the first.
        assert.isAtMost(notes.batches.length, 1 + 2 * 3 * 3)
      })
    )

    it.effect("when it contains nothing good", () =>
      Effect.gen(function* () {
        const { batched } = yield* bisecting(range(8))
        const callers = yield* send(batched, ...range(8))
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(
          yield* answers(callers),
          range(8).map(() => Exit.fail(broken))
        )
      })
    )

    it.effect("without those whose callers have left", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* bisecting([5])
        const callers = yield* send(batched, ...range(8))
        yield* Fiber.interruptAll([0, 1, 2, 3, 5].map((n) => callers[n]!))
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(notes.batches, [range(8), [4, 6, 7]])
        assert.deepStrictEqual(yield* answers([4, 6, 7].map((n) => callers[n]!)), [4, 6, 7].map(Exit.succeed))
      })
    )

    it.effect("without those who leave while another part of it runs", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* bisecting([0])
        const callers = yield* send(batched, ...range(8))
        yield* TestClock.adjust(15)
        yield* Fiber.interruptAll([2, 4, 5].map((n) => callers[n]!))
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(notes.batches, [range(8), [0, 1, 2, 3], [0, 1], [0], [1], [3], [6, 7]])
      })
    )

    it.effect("no further when everyone has left", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* bisecting([0])
        const callers = yield* send(batched, ...range(8))
        yield* TestClock.adjust(15)
        yield* Fiber.interruptAll(callers)
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(notes.batches, [range(8), [0, 1, 2, 3]])
        assert.deepInclude(yield* batched.state, { running: 0, wasted: 8 })
      })
    )

    it.effect("not when its results are of the wrong number, which no half would mend", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({
          maxBatchSize: 2,
          onFailure: "bisect",
          idempotent: true,
          run: () => Effect.succeed([])
        })
        const callers = yield* send(batched, 1, 2)
        for (const caller of callers) assert.deepInclude(yield* answered(caller), { _tag: "BatchContract" })
        assert.strictEqual(notes.batches.length, 1)
      })
    )

    it.effect("only where run may be run twice", () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(batcher({ name: "twice", onFailure: "bisect" } as never))
        assert.include(message(exit), "Invalid options of twice")
        assert.include(message(exit), "needs idempotent: true")
      })
    )
  })

  describe("runs in the services", () => {
    class Model extends Context.Service<Model, string>()("test/Model") {}

    it.effect("of the layer that makes it, not in those of its callers", () =>
      Effect.gen(function* () {
        const batched = yield* Batching.make({
          maxBatchSize: 2,
          run: (items: ReadonlyArray<number>) => Effect.map(Model, (model) => items.map((n) => `${model} ${n}`))
        }).pipe(Effect.provideService(Model, "layer"))
        const callers = yield* send(batched, 1, 2).pipe(Effect.provideService(Model, "caller"))
        assert.deepStrictEqual(yield* answers(callers), ["layer 1", "layer 2"].map(Exit.succeed))
      })
    )

    it.effect("and as a request with the latest deadline, the highest priority, and what its callers share", () =>
      Effect.gen(function* () {
        const seen: Array<RequestContext.RequestContext> = []
        const batched = yield* Batching.make({
          maxBatchSize: 2,
          run: (items: ReadonlyArray<Partial<RequestContext.RequestContext>>) =>
            Effect.map(RequestContext.RequestContext, (request) => {
              seen.push(request)
              return items
            })
        })
        const runAs = (...requests: ReadonlyArray<Partial<RequestContext.RequestContext>>) =>
          Effect.forEach(requests, (request) => call(as(request)(batched(request)))).pipe(Effect.map(() => seen.pop()))
        assert.deepStrictEqual(
          yield* runAs(
            { requestId: "1", deadline: 100, priority: "sheddable", tenant: "one", modelId: "bert", route: "/a" },
            { requestId: "2", deadline: 300, priority: "critical", tenant: "two", modelId: "bert", route: "/a" }
          ),
          {
            requestId: "",
            deadline: 300,
            priority: "critical",
            tenant: undefined,
            modelId: "bert",
            sessionId: undefined,
            route: "/a",
            principal: undefined,
            lastEventId: undefined
          }
        )
        assert.deepInclude(yield* runAs({ deadline: 100, priority: "sheddable", tenant: "one" }, { tenant: "one" }), {
          deadline: Infinity,
          priority: "default",
          tenant: "one"
        })
        yield* batched.update({ maxBatchSize: 1 })
        const alone = { requestId: "3", deadline: 100, priority: "sheddable", sessionId: "s" } as const
        assert.deepStrictEqual(yield* runAs(alone), requestOf(alone))
      })
    )
  })

  describe("traces a batch", () => {
    it.effect("with a span that is linked to those of its callers", () =>
      Effect.gen(function* () {
        const { spans, tracer } = collect(true)
        const { batched } = yield* batcher({
          name: "embed",
          maxBatchSize: 3,
          run: (items) => Effect.withSpan(Effect.succeed(items), "inside")
        })
        const traced = (n: number) =>
          batched(n).pipe(Effect.withSpan(`caller ${n}`), Effect.provideService(Tracer.Tracer, tracer))
        yield* Effect.all([traced(1), batched(2), traced(3)], { concurrency: "unbounded" })
        const named = Object.fromEntries(spans.map((span) => [span.name, span]))
        assert.deepStrictEqual(Object.keys(named), ["caller 1", "caller 3", "embed.batch", "inside"])
        const batch = named["embed.batch"]!
        assert.isTrue(Option.isNone(batch.parent))
        assert.deepStrictEqual(
          batch.links.map(({ span }) => span.spanId),
          [named["caller 1"]!.spanId, named["caller 3"]!.spanId]
        )
        assert.deepStrictEqual(Object.fromEntries(batch.attributes), { size: 3, release: "full" })
        assert.strictEqual(Option.getOrUndefined(named["inside"]!.parent)?.spanId, batch.spanId)
        assert.strictEqual(ended(spans).length, 4)
      })
    )

    it.effect("not when no caller's span is sampled, or there is none", () =>
      Effect.gen(function* () {
        const { spans, tracer } = collect(false)
        const { batched } = yield* batcher({ maxBatchSize: 2 }).pipe(
          Effect.withSpan("start"),
          Effect.provideService(Tracer.Tracer, tracer)
        )
        yield* Effect.all([Effect.withSpan(batched(1), "caller"), batched(2)], { concurrency: "unbounded" }).pipe(
          Effect.provideService(Tracer.Tracer, tracer)
        )
        yield* Effect.all([batched(3), batched(4)], { concurrency: "unbounded" })
        assert.deepStrictEqual(ended(spans), ["start", "caller"])
      })
    )
  })

  describe("checks its options", () => {
    const wrong: ReadonlyArray<readonly [option: string, values: ReadonlyArray<unknown>]> = [
      ["maxBatchSize", [0, 0.5, -1, NaN, Infinity, "10"]],
      ["batchWaitTimeout", [-1, NaN, "soon", "a", null]],
      ["maxBatchWait", [-1, "adaptive"]],
      ["maxConcurrentBatches", [0, 1.5, Infinity, "1"]],
      ["maxQueuedItems", [-1, 1.5, NaN]],
      ["gracefulShutdownTimeout", [-1, "soon"]]
    ]
    for (const [option, values] of wrong) {
      it.effect(`and dies with the name of a wrong one: ${option}`, () =>
        Effect.gen(function* () {
          for (const value of values) {
            const exit = yield* Effect.exit(batcher({ name: "embed", [option]: value }))
            assert.isTrue(Exit.hasDies(exit), String(value))
            assert.include(message(exit), "Invalid options of embed")
            assert.include(message(exit), option)
          }
        })
      )
    }

    it.effect("and takes what is in range", () =>
      Effect.gen(function* () {
        for (const maxBatchSize of [1, 1.0, 1000]) yield* batcher({ maxBatchSize })
        for (const batchWaitTimeout of [0, 0.5, "0 millis", "1 second", Duration.zero, "adaptive"] as const) {
          yield* batcher({ batchWaitTimeout })
        }
      })
    )
  })

  describe("update", () => {
    it.effect("counts from the next batch on, and one that items wait for already keeps its values", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 3, batchWaitTimeout: 100 })
        yield* send(batched, 1)
        yield* batched.update({ maxBatchSize: 2, batchWaitTimeout: 10 })
        yield* send(batched, 2)
        yield* TestClock.adjust(50)
        assert.isEmpty(notes.batches)
        yield* send(batched, 3)
        assert.deepStrictEqual(notes.batches, [[1, 2, 3]])
        yield* send(batched, 4, 5)
        assert.deepStrictEqual(notes.batches.at(-1), [4, 5])
        yield* send(batched, 6)
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(notes.batches.at(-1), [6])
      })
    )

    it.effect("leaves what waits behind a running batch its values too, when that forms the next one", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 2, batchWaitTimeout: "1 day", run: lasting(100) })
        yield* send(batched, 1, 2, 3)
        yield* batched.update({ maxBatchSize: 4 })
        yield* send(batched, 4, 5, 6, 7, 8)
        yield* TestClock.adjust(200)
        assert.deepStrictEqual(notes.batches, [
          [1, 2],
          [3, 4],
          [5, 6, 7, 8]
        ])
      })
    )

    it.effect("lets more batches run at once", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* batcher({ maxBatchSize: 1, run: lasting(100) })
        yield* send(batched, 1, 2, 3, 4)
        yield* batched.update({ maxConcurrentBatches: 3 })
        assert.deepStrictEqual(notes.batches, [[1], [2], [3]])
        yield* batched.update({ maxConcurrentBatches: 1 })
        yield* send(batched, 5)
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(notes.batches.slice(3), [[4]])
        assert.deepInclude(yield* batched.state, { running: 1, queued: 1, maxConcurrentBatches: 1 })
      })
    )

    it.effect("changes how many may wait at once", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher({ maxBatchSize: 1, maxQueuedItems: 1, run: lasting(100) })
        yield* send(batched, 1, 2)
        assert.strictEqual((yield* reason(batched(3)))._tag, "QueueFull")
        yield* batched.update({ maxQueuedItems: 2 })
        yield* send(batched, 4)
        assert.strictEqual((yield* batched.state).queued, 2)
      })
    )

    it.effect("leaves out what isn't said", () =>
      Effect.gen(function* () {
        const options = {
          maxBatchSize: 7,
          batchWaitTimeout: "adaptive",
          maxBatchWait: 30,
          maxConcurrentBatches: 2,
          maxQueuedItems: Infinity
        } as const
        const { batched } = yield* batcher(options)
        yield* batched.update({})
        assert.deepInclude(yield* batched.state, options)
        yield* batched.update({ batchWaitTimeout: "3 millis" })
        assert.deepInclude(yield* batched.state, { ...options, batchWaitTimeout: 3 })
      })
    )

    it.effect("dies with the name of a wrong option, and then nothing has changed", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher({ name: "embed" })
        const before = yield* batched.state
        for (const wrong of [
          { maxBatchSize: 0, maxQueuedItems: 5 },
          { maxConcurrentBatches: 0, maxBatchSize: 5 },
          { batchWaitTimeout: -1 },
          { maxBatchWait: NaN },
          { maxQueuedItems: -1 },
          { run: () => Effect.succeed([]) }
        ]) {
          const exit = yield* Effect.exit(batched.update(wrong as never))
          assert.isTrue(Exit.hasDies(exit))
          assert.include(message(exit), "Invalid options of embed")
          assert.include(message(exit), Object.keys(wrong)[0]!)
          assert.deepStrictEqual(yield* batched.state, before)
        }
      })
    )
  })

  describe("counts", () => {
    const numbers = Effect.map(Metric.snapshot, (snapshot) =>
      Object.fromEntries(
        snapshot
          .filter(({ attributes }) => attributes?.["batcher"] === "counted")
          .map(({ attributes, id, state }) => {
            const { batcher: _, ...tags } = attributes!
            const value = "value" in state ? state.value : "count" in state ? state.count : undefined
            return [[id, ...Object.values(tags)].join(" "), value]
          })
          .filter(([, value]) => value !== 0)
      )
    )

    it.effect("what happens, in its state and in the metrics", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher({ name: "counted", maxBatchSize: 3, run: lasting(100) })
        // Full at 0, by the timeout at 110, and when a slot comes free at 210.
        yield* send(batched, 1, 2, 3)
        yield* TestClock.adjust(100)
        yield* send(batched, 4)
        yield* TestClock.adjust(20)
        const [, leaving] = yield* send(batched, 5, 6)
        yield* call(as({ deadline: 150 })(batched(7)))
        yield* Fiber.interrupt(leaving!)
        yield* TestClock.adjust(100)
        // One leaves while it runs, and one stays.
        const [wasting] = yield* send(batched, 8, 9, 10, 11)
        yield* TestClock.adjust(100)
        yield* Fiber.interrupt(wasting!)

        assert.deepInclude(yield* batched.state, {
          queued: 1,
          running: 1,
          batches: { full: 2, timeout: 1, slot: 1, deadline: 0, drain: 0 },
          items: 8,
          dropped: { left: 1, expired: 1 },
          wasted: 1
        })
        assert.deepStrictEqual(yield* numbers, {
          "serve_batch_items_queued none none": 1,
          "serve_batches_total none none full": 2,
          "serve_batches_total none none timeout": 1,
          "serve_batches_total none none slot": 1,
          "serve_batch_size none none": 4,
          "serve_batch_wait_ms none none": 4,
          "serve_batch_run_time_ms none none": 3,
          "serve_batch_items_dropped_total none none left": 1,
          "serve_batch_items_dropped_total none none expired": 1,
          "serve_batch_items_wasted_total none none": 1
        })
      })
    )

    it.effect("how many items go together, how long the first waits, and how long they run", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher({ name: "counted", maxBatchSize: 3, run: lasting(100) })
        yield* send(batched, 1, 2, 3, 4)
        yield* TestClock.adjust(50)
        yield* send(batched, 5)
        yield* TestClock.adjust("1 second")
        assert.deepInclude(yield* histogram("serve_batch_size"), { count: 2, min: 2, max: 3, sum: 5 })
        assert.deepInclude(yield* histogram("serve_batch_wait_ms"), { count: 2, min: 0, max: 100, sum: 100 })
        assert.deepInclude(yield* histogram("serve_batch_run_time_ms"), { count: 2, min: 100, max: 100, sum: 200 })
      })
    )

    it.effect("until its scope closes", () =>
      Effect.gen(function* () {
        yield* Effect.scoped(batcher({ name: "counted" }))
        assert.isEmpty(yield* numbers)
      })
    )

    it.effect("what was learnt of the run times", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher({
          batchWaitTimeout: 1,
          run: (items) => lasting(20 + 3 * items.length)(items)
        })
        for (const count of [1, 4, 7, 10, 2, 5]) {
          yield* send(batched, ...range(count))
          yield* TestClock.adjust(100)
        }
        const { fixedMillis, millisPerItem } = yield* batched.state
        assert.approximately(fixedMillis, 20, 0.5)
        assert.approximately(millisPerItem, 3, 0.1)
      })
    )

    it.effect("nothing of what failed as a run time", () =>
      Effect.gen(function* () {
        const { batched } = yield* batcher<Broken>({
          maxBatchSize: 1,
          run: () => Effect.andThen(Effect.sleep(50), Effect.fail(broken))
        })
        yield* send(batched, ...range(5))
        yield* TestClock.adjust(250)
        assert.deepInclude(yield* batched.state, { fixedMillis: 0, millisPerItem: 0, items: 5 })
      })
    )
  })

  describe("in a deployment", () => {
    class Embed extends Deployment.Service<Embed>()("Embed", [
      Rpc.make("embed", { payload: Schema.Int, success: Schema.Int })
    ]) {}
    const embedLayer = (batching: Options, options: Parameters<typeof Embed.toLayer>[1] = {}) =>
      Embed.toLayer(
        Effect.map(batcher(batching), ({ batched }) => Embed.of({ embed: (n) => batched(n) })),
        { gracefulShutdownTimeout: 0, ...options }
      )

    it.effect("shows in its state, under its replica", () =>
      Effect.gen(function* () {
        const embed = yield* Embed
        yield* Effect.forEach([1, 2, 3], (n) => call(embed.embed(n)))
        const { replicas } = yield* Embed.state
        assert.deepStrictEqual(
          replicas.map(({ batchers }) => batchers.map(({ name }) => name)),
          [["Embed.batcher"]]
        )
        assert.deepInclude(replicas[0]!.batchers[0], { status: "Ready", running: 1, queued: 1, items: 2 })
        const tags = (yield* Metric.snapshot)
          .filter(({ attributes }) => attributes?.["deployment"] === "Embed" && attributes["batcher"] === "batcher")
          .map(({ attributes }) => attributes!["replica"])
        assert.deepStrictEqual(new Set(tags), new Set(["Embed#0"]))
      }).pipe(Effect.provide(embedLayer({ maxBatchSize: 2, run: lasting(100) })))
    )

    it.effect("is gone when its scope closes before the replica", () =>
      Effect.gen(function* () {
        yield* Embed
        assert.deepStrictEqual((yield* Embed.state).replicas[0]!.batchers, [])
      }).pipe(Effect.provide(Embed.toLayer(Effect.as(Effect.scoped(batcher()), Embed.of({ embed: Effect.succeed })))))
    )

    it.effect("warns once for each replica when its batches can't fill, with the numbers", () =>
      Effect.gen(function* () {
        const { layer, lines } = warnings()
        yield* Effect.scoped(
          Layer.build(
            Layer.provide(
              embedLayer(
                { name: "embed", maxBatchSize: 4, maxConcurrentBatches: 2 },
                { maxOngoingRequests: 7, replicas: 2 }
              ),
              layer
            )
          )
        )
        assert.strictEqual(lines.length, 2)
        lines.forEach((line, i) => {
          for (const word of [
            '"embed"',
            `"Embed#${i}"`,
            "maxBatchSize 4",
            "maxConcurrentBatches 2",
            "maxOngoingRequests 7"
          ]) {
            assert.include(line, word)
          }
        })
      })
    )

    it.effect("doesn't warn when they can, nor outside a deployment", () =>
      Effect.gen(function* () {
        const { layer, lines } = warnings()
        yield* Effect.scoped(
          Layer.build(
            Layer.provide(embedLayer({ maxBatchSize: 4, maxConcurrentBatches: 2 }, { maxOngoingRequests: 8 }), layer)
          )
        )
        yield* Effect.provide(batcher({ maxBatchSize: 1000 }), layer)
        assert.isEmpty(lines)
      })
    )

    it.effect("warns when a change makes it so that they can't", () =>
      Effect.gen(function* () {
        const { layer, lines } = warnings()
        class Changing extends Deployment.Service<Changing>()("Changing", [
          Rpc.make("grow", { payload: Schema.Int })
        ]) {}
        const ChangingLive = Changing.toLayer(
          Effect.map(batcher({ maxBatchSize: 4 }), ({ batched }) =>
            Changing.of({ grow: (maxBatchSize) => batched.update({ maxBatchSize }) })
          ),
          { maxOngoingRequests: 8 }
        )
        yield* Effect.gen(function* () {
          const { grow } = yield* Changing
          yield* grow(8)
          assert.isEmpty(lines)
          yield* grow(9)
          assert.strictEqual(lines.length, 1)
          assert.include(lines[0], "maxBatchSize 9")
        }).pipe(Effect.provide(Layer.provideMerge(ChangingLive, layer)))
      })
    )

    it.effect("doesn't compare what items cost with how many there may be", () =>
      Effect.gen(function* () {
        const { layer, lines } = warnings()
        yield* Effect.scoped(
          Layer.build(
            Layer.provide(
              embedLayer({ maxBatchSize: 4096, batchSize: (items) => 512 * items.length }, { maxOngoingRequests: 8 }),
              layer
            )
          )
        )
        assert.isEmpty(lines)
      })
    )

    it.effect("is told of the deadline of a request, and of a caller that leaves", () =>
      Effect.gen(function* () {
        const { embed } = yield* Embed
        yield* Effect.forEach([1, 2], (n) => call(embed(n)))
        const late = yield* call(embed(3, { timeout: "50 millis" }))
        const leaving = yield* call(embed(4))
        yield* Fiber.interrupt(leaving)
        yield* TestClock.adjust("60 millis")
        assert.isTrue(isDone(late))
        const { dropped, queued } = (yield* Embed.state).replicas[0]!.batchers[0] as Batching.State
        assert.strictEqual(queued, 0)
        assert.strictEqual(dropped.left + dropped.expired, 2)
      }).pipe(Effect.provide(embedLayer({ maxBatchSize: 2, run: lasting(100) })))
    )
  })

  describe("when its scope closes", () => {
    const closable = Effect.fnUntraced(function* (options: Options) {
      const scope = yield* Scope.make()
      const made = yield* Scope.provide(batcher(options), scope)
      return { ...made, close: Scope.close(scope, Exit.void) }
    })

    it.effect("runs what waits at once, lets what runs finish, and takes nothing more", () =>
      Effect.gen(function* () {
        const { batched, close, notes } = yield* closable({
          maxBatchSize: 2,
          batchWaitTimeout: Infinity,
          gracefulShutdownTimeout: "1 second",
          run: lasting(100)
        })
        const callers = yield* send(batched, 1, 2, 3, 4, 5)
        const closing = yield* call(close)
        assert.deepInclude(yield* reason(batched(6)), { _tag: "Unavailable", why: "draining", deployment: "batcher" })
        assert.deepInclude(yield* batched.state, { status: "Draining", running: 1, queued: 3 })
        yield* TestClock.adjust(299)
        assert.isFalse(isDone(closing))
        yield* TestClock.adjust(1)
        assert.isTrue(isDone(closing))
        assert.deepStrictEqual(notes.batches, [[1, 2], [3, 4], [5]])
        assert.deepStrictEqual(yield* answers(callers), [1, 2, 3, 4, 5].map(Exit.succeed))
        assert.deepInclude(yield* batched.state, { status: "Stopped", running: 0, queued: 0 })
        assert.strictEqual((yield* reason(batched(7)))._tag, "Unavailable")
      })
    )

    it.effect("tells that it was the reason why a batch was released", () =>
      Effect.gen(function* () {
        const { batched, close } = yield* closable({ gracefulShutdownTimeout: 100 })
        yield* send(batched, 1)
        yield* close
        assert.deepInclude((yield* batched.state).batches, { drain: 1, timeout: 0 })
      })
    )

    it.effect("fails what waits and interrupts what runs after gracefulShutdownTimeout", () =>
      Effect.gen(function* () {
        const { batched, close, notes } = yield* closable({
          maxBatchSize: 2,
          gracefulShutdownTimeout: "50 millis",
          run: lasting(100)
        })
        const callers = yield* send(batched, 1, 2, 3)
        const closing = yield* call(close)
        yield* TestClock.adjust(49)
        assert.isFalse(callers.some(isDone))
        yield* TestClock.adjust(1)
        assert.isTrue(isDone(closing))
        for (const caller of callers) {
          assert.deepInclude(yield* answered(caller), { _tag: "Unavailable", why: "draining" })
        }
        assert.strictEqual(notes.interrupted, 1)
        assert.deepInclude(yield* batched.state, { status: "Stopped", running: 0, queued: 0 })
      })
    )

    it.effect("after 20 seconds, when nothing else is said", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const batched = yield* Scope.provide(
          Batching.make({ maxBatchSize: 1, run: (): Effect.Effect<ReadonlyArray<number>> => Effect.never }),
          scope
        )
        const [caller] = yield* send(batched, 1)
        yield* call(Scope.close(scope, Exit.void))
        yield* TestClock.adjust("19999 millis")
        assert.isFalse(isDone(caller!))
        yield* TestClock.adjust("1 millis")
        assert.isTrue(isDone(caller!))
      })
    )

    it.effect("doesn't hang when those who wait leave together", () =>
      Effect.gen(function* () {
        const { batched, close } = yield* closable({ maxBatchSize: 2, run: lasting(100) })
        yield* send(batched, 1, 2)
        const all = yield* call(Effect.forEach(range(5), batched, { concurrency: "unbounded" }))
        const closing = yield* call(close)
        yield* settle
        assert.deepStrictEqual(yield* answers([closing]), [Exit.void])
        assert.deepInclude(yield* answered(all), { _tag: "Unavailable" })
        assert.deepInclude(yield* batched.state, { status: "Stopped", running: 0, queued: 0 })
      })
    )

    it.effect("doesn't wait when everyone has left", () =>
      Effect.gen(function* () {
        const { batched, close } = yield* closable({
          maxBatchSize: 2,
          gracefulShutdownTimeout: "1 day",
          run: lasting(100)
        })
        const callers = yield* send(batched, 1, 2, 3)
        const closing = yield* call(close)
        yield* Fiber.interruptAll(callers)
        yield* settle
        assert.isTrue(isDone(closing))
      })
    )

    it.effect("closes at once when there is nothing to do, and twice", () =>
      Effect.gen(function* () {
        const { close } = yield* closable({ gracefulShutdownTimeout: "1 day" })
        yield* close
        yield* close
      })
    )

    it.effect("waits for work that can't stop", () =>
      Effect.gen(function* () {
        const { batched, close } = yield* closable({
          maxBatchSize: 1,
          run: (items) => Effect.uninterruptible(lasting(100)(items))
        })
        const [caller] = yield* send(batched, 1)
        const closing = yield* call(close)
        yield* TestClock.adjust(99)
        assert.isFalse(isDone(closing))
        yield* TestClock.adjust(1)
        assert.isTrue(isDone(closing) && isDone(caller!))
      })
    )
  })

  describe("adaptive", () => {
    it.effect("lets a single caller wait for nothing", () =>
      Effect.gen(function* () {
        const { batched, notes } = yield* adaptive()
        for (let i = 0; i < 50; i++) {
          const [caller] = yield* send(batched, i)
          yield* TestClock.adjust(21)
          assert.isTrue(isDone(caller!))
          yield* TestClock.adjust(200)
        }
        assert.strictEqual(notes.batches.length, 50)
      })
    )

    it.effect("lets a single caller that comes back at once wait for less than its batch takes", () =>
      Effect.gen(function* () {
        const { batched } = yield* adaptive()
        const caller = yield* call(Effect.forEach(range(50), (n) => batched(n)))
        yield* TestClock.adjust(50 * 21)
        assert.isTrue(isDone(caller))
      })
    )

    it.effect("makes larger batches the more comes", () =>
      Effect.gen(function* () {
        const means = [yield* meanSize(40), yield* meanSize(8), yield* meanSize(2)]
        assert.strictEqual(means[0], 1)
        assert.isAbove(means[1]!, 1.5)
        assert.isAbove(means[2]!, means[1]! * 1.5)
      })
    )

    it.effect("fills the batch when more comes than it can hold", () =>
      Effect.gen(function* () {
        const made = yield* adaptive({ maxBatchSize: 8 })
        yield* teach(made, 1)
        const before = made.notes.batches.length
        yield* sendEvery(made.batched, 1, 200)
        yield* TestClock.adjust(2000)
        assert.isAtMost(made.notes.batches.length - before, 200 / 8 + 4)
      })
    )

    it.effect("never waits longer than maxBatchWait", () =>
      Effect.gen(function* () {
        const made = yield* adaptive({
          maxBatchWait: "5 millis",
          maxConcurrentBatches: 100,
          run: (items) => lasting(500 + items.length)(items)
        })
        yield* teach(made, 1)
        const before = made.notes.batches.length
        yield* sendEvery(made.batched, 1, 5)
        assert.strictEqual(made.notes.batches.length, before)
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(made.notes.batches.slice(before), [range(5)])
      })
    )

    it.effect("releases a batch early when one of its items would be too late", () =>
      Effect.gen(function* () {
        const made = yield* adaptive({ maxBatchWait: "1 second", run: (items) => lasting(100 + items.length)(items) })
        yield* teach(made, 2)
        yield* TestClock.adjust(200)
        const { batched, notes } = made
        const before = notes.batches.length
        const now = yield* Effect.clockWith(({ currentTimeMillis }) => currentTimeMillis)
        const [first] = yield* send(batched, 1)
        const tight = yield* call(as({ deadline: now + 125 })(batched(2)))
        yield* TestClock.adjust(5)
        assert.strictEqual(notes.batches.length, before)
        yield* TestClock.adjust(9)
        assert.deepStrictEqual(notes.batches.slice(before), [[1, 2]])
        yield* TestClock.adjust(125 - 14)
        assert.deepStrictEqual(yield* answers([first!, tight]), [1, 2].map(Exit.succeed))
        assert.strictEqual((yield* batched.state).batches.deadline, 1)
      })
    )
  })

  describe("wherever fibers yield", () => {
    it.each(range(5))("caller %i of five can leave, and nothing is left behind", (leaver) => sweep({ leaver }))

    it("the batcher can close, and nothing is left behind", () => sweep({ close: true }))

    it("the batcher can close while a caller leaves", () => sweep({ close: true, leaver: 1 }))
  })

  describe("whatever comes, in any order", () => {
    it.prop("gives each item one outcome, keeps every bound, and is alive at the end", [Plan], ([plan]) => play(plan), {
      arbitrary: { runs: 10_000, size: 40, seed: 1 },
      timeout: 120_000
    })
  })
})
