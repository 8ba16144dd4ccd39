/**
 * When a call is tried again, and how long it waits before.
 *
 * @since 0.1.0
 */
// @effect-diagnostics globalRandom:off -- for programs without Effect
import type { CallError } from "./CallError.ts"
import type { ServeFailure } from "./Contract.ts"

/** Milliseconds, at most, before the second attempt; twice as many before the third. */
const FIRST_WAIT = 100
const LONGEST_WAIT = 10_000

/** Attempts beyond the first that a client may make without having made calls. */
const RESERVE = 10

/**
 * How often failed calls may be tried again: every call pays for a part of a retry, and of what has been paid 10 retries are kept, which are
 * there from the start. So when all goes wrong, the load is at most `1 + ratio` times what it would be.
 *
 * Calls pay as in Finagle's [retry budgets](https://finagle.github.io/blog/2016/02/08/retry-budgets/); what is kept is bounded as in gRPC's
 * [retry throttling](https://github.com/grpc/proposal/blob/master/A6-client-retries.md), so that a long time without failures does not pay
 * for a storm.
 */
export class RetryBudget {
  private tokens = RESERVE
  private readonly ratio: number

  constructor(ratio: number) {
    this.ratio = ratio
  }

  /** Takes note of a call. */
  call(): void {
    this.tokens = Math.min(this.tokens + this.ratio, RESERVE)
  }

  /** Whether there may be another attempt, which this pays for. */
  withdraw(): boolean {
    if (this.tokens < 1) return false
    this.tokens--
    return true
  }
}

const refusals: ReadonlyArray<string> = ["QueueFull", "Shed", "Unavailable"]
const proxyFailures: ReadonlyArray<number | undefined> = [429, 502, 503, 504]

/**
 * Whether a call may be tried again: nothing has been done for it, or it may be done twice. With the name of its `deployment`, a refusal
 * that its handler got from another one, and passed on, is told from its own: then the handler has begun.
 */
export const mayRepeat = ({ error, status }: CallError, isIdempotent: boolean, deployment?: string): boolean => {
  switch (error._tag) {
    case "NetworkError":
      return isIdempotent || !error.sent
    case "BadAnswer":
      return isIdempotent && proxyFailures.includes(status)
    case "ServeError": {
      const { reason } = error
      if (isIdempotent) return "started" in reason || refusals.includes(reason._tag)
      const hasBegun = "started" in reason ? reason.started : !refusals.includes(reason._tag)
      return !hasBegun && (deployment === undefined || ownerOf(reason) === deployment)
    }
    default:
      return false
  }
}

const ownerOf = (reason: ServeFailure["reason"]): string | undefined =>
  "replica" in reason ? reason.replica.split("#")[0] : "deployment" in reason ? reason.deployment : undefined

/**
 * Milliseconds before the next attempt: what the server says and up to a quarter more, or else anything up to a bound that doubles
 * ([full jitter](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)).
 */
export const waitBefore = (attempt: number, retryAfter: number | undefined): number =>
  retryAfter === undefined
    ? Math.random() * Math.min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT)
    : retryAfter * (1 + Math.random() / 4)
