/**
 * Notices that something holds an event loop, and names the deployment and the method whose code it is.
 *
 * Each loop beats in shared memory, and one thread for all of them sees when a beat is late. What it finds is logged as a warning,
 * with what to do about it, and counted. How the time is spent makes no difference: the loop may compute, or wait in a call that
 * does not return, such as `readFileSync`.
 *
 * @since 0.1.0
 */
import { Clock, Config, Context, Duration, Effect, Exit, Scope } from "effect"
import { Worker } from "node:worker_threads"
import * as Metrics from "../core/Metrics.ts"
import { ADVICE, beat, here, idOf, type Method, nameOf, PERIOD, type Pulse, rest } from "./Pulse.ts"
import { resolveModule } from "../core/ModuleFile.ts"

/**
 * What held an event loop.
 *
 * @category models
 * @since 0.1.0
 */
export interface Report {
  /** `"main"`, or the replica whose loop it is. */
  readonly loop: string
  /** The method whose code ran; `undefined` when it was the code of none. */
  readonly deployment: string | undefined
  readonly method: string | undefined
  /** How late the heartbeat was: the loop was held for so many milliseconds, or for up to 25 more. */
  readonly millis: number
  /** When it was the code of no method, those whose requests waited for something, maybe for it. */
  readonly candidates: ReadonlyArray<Method>
}

/** To the thread that watches. */
export type ToWatcher =
  | {
      readonly type: "watch"
      readonly loop: number
      /** How the loop is called in a sentence. */
      readonly title: string
      readonly pulse: Pulse
      /** Milliseconds. */
      readonly threshold: number
    }
  | { readonly type: "unwatch"; readonly loop: number }
  | { readonly type: "look" }

/** From the thread that watches. */
export type ToMain = Blocked | { readonly type: "looked" }

interface Blocked {
  readonly type: "blocked"
  readonly loop: number
  /** The method's id in the loop's pulse; 0 for none. */
  readonly id: number
  readonly millis: number
  /** The ids of those that had requests waiting for something. */
  readonly waiting: ReadonlyArray<number>
}

/**
 * The time for which a loop may be held, in milliseconds: `SERVE_BLOCKING_THRESHOLD`, a duration such as `"1 second"` or a number
 * of milliseconds, by default 100. With 0 and with `Infinity` no loop is watched.
 */
const threshold = Config.Number("SERVE_BLOCKING_THRESHOLD").pipe(
  Config.orElse(() => Config.map(Config.Duration("SERVE_BLOCKING_THRESHOLD"), Duration.toMillis)),
  Config.withDefault(100),
  Config.map((millis) => (millis > 0 ? millis : Infinity)),
  Effect.orDie
)

/** Shows the loop of this thread until the scope closes. It gives what is to be sent to where the loop is watched. */
export const show = (deployment: string, methods: ReadonlyArray<string>): Effect.Effect<Pulse, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      for (const method of methods) idOf({ deployment, method })
      beat()
      return here
    }),
    () => Effect.sync(rest)
  )

/**
 * Watches the loop of this thread until the scope closes, for a deployment that has methods there. What they are to blame for is
 * logged and counted in the services of this effect.
 */
export const watch = Effect.fnUntraced(function* (deployment: string, methods: ReadonlyArray<string>) {
  yield* watchThread("main", yield* show(deployment, methods), deployment, methods)
})

/** The same for the loop of a replica that has a thread of its own and shows it. */
export const watchThread = Effect.fnUntraced(function* (
  name: string,
  pulse: Pulse,
  deployment: string,
  methods: ReadonlyArray<string>
): Effect.fn.Return<void, never, Scope.Scope> {
  const millis = yield* threshold
  if (millis === Infinity) return
  const context = yield* Effect.context()
  const watch: Watch = { deployment, log: (text) => Effect.runForkWith(context)(Effect.logWarning(text)) }
  const loop = yield* Effect.acquireRelease(
    Effect.sync(() => watcher.watch(name, pulse, millis, watch)),
    (loop) => watcher.unwatch(loop, watch)
  )
  yield* loop.show
  for (const method of methods) yield* loop.showMethod({ deployment, method })
})

/**
 * Runs an effect and gives, with its result, what held an event loop meanwhile. It waits until the thread that watches is there, and
 * after the effect until it has seen all. Dies when no loop is watched.
 */
export const reportsOf = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<readonly [A, ReadonlyArray<Report>], E, R> =>
  Effect.gen(function* () {
    if ((yield* threshold) === Infinity)
      return yield* Effect.die(new Error("SERVE_BLOCKING_THRESHOLD says that no event loop is watched"))
    yield* watch("", [])
    yield* watcher.looked
    const reports = yield* watcher.reports
    const result = yield* effect
    yield* pause
    yield* watcher.looked
    return [result, reports] as const
  }).pipe(Effect.scoped) as Effect.Effect<readonly [A, ReadonlyArray<Report>], E, R>

// A loop that was held shows it with its next beat, whatever the clock of the program.
const pause = Effect.provideService(Effect.sleep(2 * PERIOD), Clock.Clock, Context.get(Context.empty(), Clock.Clock))

const nobody: Method = { deployment: "unknown", method: "unknown" }

/** Milliseconds between two warnings about the same method. */
const QUIET = 10_000

/** The blocks of one loop that one method is to blame for. */
export class Blocks {
  private count = 0
  private readonly times = new Metrics.Histogram()
  private toldAt = -Infinity
  private untold = 0

  /** Counts a block. Returns how many there were before that nobody was told of, unless nobody is to be told of this one either. */
  add(millis: number, at: number): number | undefined {
    this.count++
    this.times.record(millis)
    if (at - this.toldAt < QUIET) {
      this.untold++
      return undefined
    }
    const { untold } = this
    this.toldAt = at
    this.untold = 0
    return untold
  }

  /** Shows the counts in the `Metric` registry until the scope closes. */
  show(loop: string, method: Method): Effect.Effect<void, never, Scope.Scope> {
    const tags = { ...method, loop }
    return Effect.andThen(
      Metrics.showCounter(Metrics.loopBlocked, tags, () => this.count),
      Metrics.showHistogram(Metrics.loopBlockedTime, tags, this.times)
    )
  }
}

/** Says what held a loop, and what to do about it. `untold` blocks by the same method came before. */
export const describe = ({ candidates, deployment, loop, method, millis }: Report, untold: number): string => {
  const names = candidates.map(nameOf).join(" or ")
  const who =
    deployment !== undefined && method !== undefined
      ? `Method ${nameOf({ deployment, method })}`
      : candidates.length > 0
        ? `Code outside of handlers, probably an async function of ${names},`
        : "Code that is none of a method"
  const before = untold === 0 ? "" : ` It is the last of ${untold + 1} times.`
  return `${who} held ${titleOf(loop)} for ${millis} ms, and nothing else ran there.${before} ${ADVICE}`
}

const titleOf = (loop: string) => (loop === "main" ? "the main event loop" : `the event loop of replica "${loop}"`)

/** For whom a loop is watched. */
interface Watch {
  readonly deployment: string
  readonly log: (text: string) => void
}

class Loop {
  readonly id: number
  readonly name: string
  readonly pulse: Pulse
  readonly threshold: number
  readonly watches = new Set<Watch>()
  /** Closed when it is watched for nobody any more. */
  readonly scope = Scope.makeUnsafe()
  private isShown = false
  private readonly blocks = new Map<string, Blocks>()

  constructor(id: number, name: string, pulse: Pulse, threshold: number) {
    this.id = id
    this.name = name
    this.pulse = pulse
    this.threshold = threshold
  }

  /** Shows the blocks that are nobody's, for all for whom it is watched. */
  readonly show: Effect.Effect<void> = Effect.suspend(() => {
    if (this.isShown) return Effect.void
    this.isShown = true
    return Scope.provide(this.showMethod(nobody), this.scope)
  })

  showMethod(method: Method): Effect.Effect<void, never, Scope.Scope> {
    return this.blocksOf(method).show(this.name, method)
  }

  reportOf({ id, millis, waiting }: Blocked): Report {
    const { methods } = this.pulse
    const { deployment, method } = methods[id - 1] ?? { deployment: undefined, method: undefined }
    const candidates = waiting.map((id) => methods[id - 1]!)
    return { loop: this.name, deployment, method, millis, candidates }
  }

  /** Counts a block, and warns of it unless that was done lately. */
  warn(report: Report): void {
    const { deployment, method, millis } = report
    const culprit = deployment === undefined || method === undefined ? nobody : { deployment, method }
    const untold = this.blocksOf(culprit).add(millis, performance.now())
    if (untold === undefined) return
    const watches = Array.from(this.watches)
    const watch = watches.find((watch) => watch.deployment === deployment) ?? watches[0]
    watch?.log(describe(report, untold))
  }

  private blocksOf(method: Method): Blocks {
    const name = nameOf(method)
    const known = this.blocks.get(name)
    if (known !== undefined) return known
    const blocks = new Blocks()
    this.blocks.set(name, blocks)
    return blocks
  }
}

/** The thread that watches, which there is while there are loops to watch and a little longer. */
class Watcher {
  private readonly loops = new Map<number, Loop>()
  private readonly listeners = new Set<Array<Report>>()
  private readonly looks: Array<(looked: Effect.Effect<void>) => void> = []
  private ids = 0
  private worker: Worker | undefined = undefined

  /** Watches a loop for one more, by the threshold of the first. */
  watch(name: string, pulse: Pulse, threshold: number, watch: Watch): Loop {
    const known = Array.from(this.loops.values()).find((loop) => loop.pulse.cells.buffer === pulse.cells.buffer)
    const loop = known ?? new Loop(this.ids++, name, pulse, threshold)
    this.loops.set(loop.id, loop)
    loop.watches.add(watch)
    if (this.worker === undefined) this.start()
    else this.tell(loop)
    return loop
  }

  unwatch(loop: Loop, watch: Watch): Effect.Effect<void> {
    return Effect.suspend(() => {
      loop.watches.delete(watch)
      if (loop.watches.size > 0) return Effect.void
      this.loops.delete(loop.id)
      this.send({ type: "unwatch", loop: loop.id })
      return Scope.close(loop.scope, Exit.void)
    })
  }

  /** Waits until the thread has looked at all loops once more. */
  readonly looked: Effect.Effect<void> = Effect.callback((resume) => {
    if (this.worker === undefined) return resume(noThread)
    this.looks.push(resume)
    // Else a process that waits for nothing else would end.
    this.worker.ref()
    this.send({ type: "look" })
  })

  /** What is reported until the scope closes. */
  readonly reports: Effect.Effect<ReadonlyArray<Report>, never, Scope.Scope> = Effect.acquireRelease(
    Effect.sync(() => {
      const reports: Array<Report> = []
      this.listeners.add(reports)
      return reports
    }),
    (reports) => Effect.sync(() => this.listeners.delete(reports))
  )

  private start(): void {
    let error: Error | undefined
    const worker = new Worker(entry, { name: "effect-serve watcher", execArgv: [], resourceLimits })
    worker.on("message", (message: ToMain) => (message.type === "looked" ? this.hasLooked() : this.blocked(message)))
    worker.on("error", (thrown: Error) => (error = thrown))
    worker.on("exit", () => this.ended(error))
    // After the listeners, because one for messages keeps the process alive.
    worker.unref()
    this.worker = worker
    for (const loop of this.loops.values()) this.tell(loop)
  }

  private tell({ id, name, pulse, threshold }: Loop): void {
    this.send({ type: "watch", loop: id, title: titleOf(name), pulse, threshold })
  }

  private send(message: ToWatcher): void {
    this.worker?.postMessage(message)
  }

  private blocked(blocked: Blocked): void {
    const loop = this.loops.get(blocked.loop)
    if (loop === undefined) return
    const report = loop.reportOf(blocked)
    for (const reports of this.listeners) reports.push(report)
    loop.warn(report)
  }

  private hasLooked(): void {
    this.looks.shift()?.(Effect.void)
    if (this.looks.length === 0) this.worker?.unref()
  }

  /** It had no loop to watch; unless it got one at the same moment, or has failed. */
  private ended(error: Error | undefined): void {
    this.worker = undefined
    for (const resume of this.looks.splice(0)) resume(noThread)
    if (error === undefined) {
      if (this.loops.size > 0) this.start()
      return
    }
    const [watch] = Array.from(this.loops.values(), ({ watches }) => Array.from(watches)).flat()
    watch?.log(`The thread that watches event loops ended, and none is watched any more: ${error.message}`)
  }
}

const noThread = Effect.die(new Error("The thread that watches event loops has ended"))

const entry = resolveModule(new URL("./watcher.ts", import.meta.url))

const resourceLimits = { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2 }

const watcher = new Watcher()
