/**
 * How long a call goes on: until it is done, its signal ends it, its time is over, or its reader leaves.
 *
 * @since 0.1.0
 */
// @effect-diagnostics globalTimers:off newPromise:off -- for programs without Effect
import type { Aborted, TimedOut } from "./Contract.ts"

/** Milliseconds that the server's own answer has to arrive, when the time of a call is over. */
const GRACE = 500

/** Timers take no more. */
const LONGEST = 2 ** 31 - 1

/** The end of one call. */
export class Ending {
  /** What ended the call before it was done. */
  why: Aborted | TimedOut | "left" | undefined
  private readonly controller = new AbortController()
  private readonly until: number
  private readonly outer: AbortSignal | undefined
  private readonly timer: ReturnType<typeof setTimeout> | undefined

  constructor(outer: AbortSignal | undefined, timeout: number) {
    this.until = performance.now() + timeout
    this.outer = outer
    outer?.addEventListener("abort", this.onAbort)
    const whenLate = () => this.stop({ _tag: "TimedOut", message: `no end within ${timeout} ms`, timeout })
    if (timeout + GRACE <= LONGEST) this.timer = setTimeout(whenLate, timeout + GRACE)
    if (outer?.aborted === true) this.onAbort()
  }

  /** That of the request. */
  get signal(): AbortSignal {
    return this.controller.signal
  }

  /** Milliseconds that the call still has, for itself and for the server. */
  get left(): number {
    return this.until - performance.now()
  }

  /** Ends the call. */
  stop(why: NonNullable<Ending["why"]>): void {
    this.why = why
    this.done()
    this.controller.abort()
  }

  /** Nothing needs to be waited for any more. */
  done(): void {
    clearTimeout(this.timer)
    this.outer?.removeEventListener("abort", this.onAbort)
  }

  /** Waits, or less when the call is ended. */
  sleep(millis: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, millis)
      const wake = () => (clearTimeout(timer), resolve())
      this.signal.addEventListener("abort", wake, { once: true })
    })
  }

  private readonly onAbort = (): void => {
    const reason: unknown = this.outer?.reason
    this.stop({ _tag: "Aborted", message: "by the caller's signal", reason })
  }
}
