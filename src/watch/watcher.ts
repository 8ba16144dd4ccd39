/**
 * The thread that watches event loops. It does nothing but wait and compare times, so it does not load Effect.
 *
 * A loop is blocked when its heartbeat is late. The thread looks as often as loops beat; what it sees of whose code runs while a
 * beat is late is what a block is blamed on. When it has itself been late, as after the process was stopped or on a machine with too
 * much to do, the others may have been so for the same reason, and that time counts for none of them.
 *
 * @since 0.1.0
 */
// @effect-diagnostics globalTimers:off -- this thread has no Effect runtime
import { writeSync } from "node:fs"
import { parentPort } from "node:worker_threads"
import type { ToMain, ToWatcher } from "./BlockingDetector.ts"
import { ADVICE, BEAT, CURRENT, nameOf, now, PERIOD, waitingCell } from "./Pulse.ts"

/** Milliseconds without a loop to watch, after which the thread ends. */
const LINGER = 1000

/** Milliseconds after which a line is written about a loop that is still blocked: it can't do so itself. */
const OUTCRIES = [1000, 10_000, 60_000]

const port = parentPort!

type Watched = Extract<ToWatcher, { readonly type: "watch" }>

class Loop {
  /** What is watched; there can be more methods later. */
  watched: Watched
  private beat: number
  /** Milliseconds since the last beat in which nothing may have run. */
  private lost = 0
  /** How often each method was seen while the beat is late. */
  private readonly seen = new Map<number, number>()
  /** The methods that had requests waiting when no method was seen. */
  private waiting: ReadonlyArray<number> = []
  private outcries = 0

  constructor(watched: Watched) {
    this.watched = watched
    this.beat = Atomics.load(watched.pulse.cells, BEAT)
  }

  /** Looks at the beat, after a time of which so many milliseconds count for nobody. */
  look(now: number, lost: number): void {
    this.lost += lost
    const beat = Atomics.load(this.watched.pulse.cells, BEAT)
    if (beat === this.beat) {
      const late = this.lateness(now)
      if (late > 0) this.observe(late)
      return
    }
    const late = this.lateness(beat)
    if (late >= this.watched.threshold) this.report(late)
    this.beat = beat
    // They may also have been after this beat.
    this.lost = Math.min(lost, (now - beat) | 0)
    this.seen.clear()
    this.outcries = 0
  }

  private lateness(at: number): number {
    return ((at - this.beat) | 0) - PERIOD - this.lost
  }

  private observe(late: number): void {
    const { cells, methods } = this.watched.pulse
    const id = Atomics.load(cells, CURRENT)
    if (id === 0) this.waiting = idsOf(methods).filter((id) => Atomics.load(cells, waitingCell(id)) > 0)
    this.seen.set(id, (this.seen.get(id) ?? 0) + 1)
    if (!(late >= OUTCRIES[this.outcries]!)) return
    this.outcries++
    const method = methods[this.culprit - 1]
    const who = method === undefined ? "Code that is none of a method" : nameOf(method)
    const seconds = (late / 1000).toFixed(1)
    writeSync(2, `effect-serve: ${who} has been holding ${this.watched.title} for ${seconds} s. ${ADVICE}\n`)
  }

  private report(millis: number): void {
    const { loop } = this.watched
    const id = this.culprit
    port.postMessage({ type: "blocked", loop, id, millis, waiting: id === 0 ? this.waiting : [] } satisfies ToMain)
  }

  /** The method that was seen most often. */
  private get culprit(): number {
    let culprit = 0
    let most = 0
    for (const [id, times] of this.seen) if (times > most) [culprit, most] = [id, times]
    return culprit
  }
}

const idsOf = (methods: ReadonlyArray<unknown>) => methods.map((_, i) => i + 1)

const loops = new Map<number, Loop>()
let looking: NodeJS.Timeout | undefined
let ending: NodeJS.Timeout | undefined
let last = now()

const look = () => {
  const time = now()
  const late = ((time - last) | 0) - PERIOD
  last = time
  for (const loop of loops.values()) loop.look(time, late > PERIOD ? late : 0)
}

const watch = (watched: Watched) => {
  const known = loops.get(watched.loop)
  if (known === undefined) loops.set(watched.loop, new Loop(watched))
  else known.watched = watched
  clearTimeout(ending)
  if (looking !== undefined) return
  last = now()
  looking = setInterval(look, PERIOD)
}

const unwatch = (loop: number) => {
  loops.delete(loop)
  if (loops.size > 0) return
  clearInterval(looking)
  looking = undefined
  ending = setTimeout(() => port.close(), LINGER)
}

port.on("message", (message: ToWatcher) => {
  switch (message.type) {
    case "watch":
      return watch(message)
    case "unwatch":
      return unwatch(message.loop)
    case "look":
      look()
      return port.postMessage({ type: "looked" } satisfies ToMain)
  }
})
