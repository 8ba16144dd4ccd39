/**
 * Wakes a router when the first of its deadlines passes: the binding of `Deadlines` to the Effect `Clock`.
 *
 * There is one timer for all requests, and it is set anew only for a deadline that is nearer than the one it waits for.
 *
 * @since 0.1.0
 */
import { Duration, Effect, type Fiber } from "effect"
import { Deadlines, type Timed } from "./Deadlines.ts"

/**
 * What can be watched.
 *
 * @category models
 * @since 0.1.0
 */
export interface Watched<Self> extends Timed<Self> {
  timed: boolean
}

export class Alarm<A extends Watched<A>> {
  private readonly deadlines: Deadlines<A>
  private readonly now: () => number
  private readonly after: (delay: Duration.Duration, effect: Effect.Effect<void>) => Fiber.Fiber<void>
  private readonly strike: (element: A) => void
  private timer: Fiber.Fiber<void> | undefined = undefined
  private timerAt = Infinity

  /** `after` runs an effect later; `strike` is called for each element whose deadline passes. */
  constructor(options: {
    readonly now: () => number
    readonly after: (delay: Duration.Duration, effect: Effect.Effect<void>) => Fiber.Fiber<void>
    readonly strike: (element: A) => void
  }) {
    this.now = options.now
    this.after = options.after
    this.strike = options.strike
    this.deadlines = new Deadlines(options.now())
  }

  watch(element: A): void {
    if (element.timed || element.due === Infinity) return
    element.timed = true
    this.deadlines.add(element)
    this.wakeAt(element.due)
  }

  unwatch(element: A): void {
    if (!element.timed) return
    element.timed = false
    this.deadlines.remove(element)
  }

  close(): void {
    this.timer?.interruptUnsafe()
  }

  private wakeAt(time: number): void {
    if (time >= this.timerAt) return
    this.timerAt = time
    this.timer?.interruptUnsafe()
    this.timer = this.after(Duration.millis(Math.max(time - this.now(), 1)), this.ring)
  }

  private readonly ring = Effect.sync(() => {
    this.timer = undefined
    this.timerAt = Infinity
    this.deadlines.advance(this.now(), (element) => {
      element.timed = false
      this.strike(element)
    })
    this.wakeAt(this.deadlines.next)
  })
}
