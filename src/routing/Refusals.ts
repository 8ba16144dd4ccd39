/**
 * The errors with which a router answers: why a request was refused, dropped or given up, and when to come back.
 *
 * @since 0.1.0
 */
import { Duration } from "effect"
import type { ShedReason } from "../admission/AdmissionQueue.ts"
import * as ServeError from "../core/ServeError.ts"
import type { Request } from "../replica/Request.ts"

const explanations: Record<ShedReason, string> = {
  queueTimeout: "it waited for too long while more requests came than were served",
  displaced: "the queue was full, and a request with more right to the place came"
}

export class Refusals {
  private readonly deployment: string
  private readonly drainTime: (request: Request, now: number) => number
  private readonly random: () => number

  /** `drainTime` is in how many milliseconds one more request like it would be served; `random` returns a number in [0, 1). */
  constructor(deployment: string, drainTime: (request: Request, now: number) => number, random: () => number) {
    this.deployment = deployment
    this.drainTime = drainTime
    this.random = random
  }

  full(
    request: Request,
    now: number,
    load: Pick<ServeError.QueueFull, "ongoing" | "maxOngoingRequests" | "queued" | "maxQueuedRequests">
  ): ServeError.ServeError {
    const { deployment } = this
    return ServeError.because(
      () => new ServeError.QueueFull({ deployment, ...load, retryAfter: this.retryAfter(request, now) })
    )
  }

  shed(request: Request, now: number, why: ShedReason): ServeError.ServeError {
    const { deployment } = this
    return ServeError.because(
      () => new ServeError.Shed({ deployment, why: explanations[why], retryAfter: this.retryAfter(request, now) })
    )
  }

  unavailable(request: Request, now: number, why: "draining" | "noReplicas"): ServeError.ServeError {
    return ServeError.because(
      () => new ServeError.Unavailable({ deployment: this.deployment, why, retryAfter: this.retryAfter(request, now) })
    )
  }

  /** There is so much to do that the deadline can't be met. */
  late(request: Request, now: number, stage: "admission" | "queue"): ServeError.ServeError {
    const { deployment } = this
    return ServeError.because(
      () => new ServeError.DeadlineExceeded({ deployment, stage, retryAfter: this.retryAfter(request, now) })
    )
  }

  /** The deadline has passed, and not because of others. */
  expired(stage: "admission" | "handler" | "stream"): ServeError.ServeError {
    return ServeError.because(() => new ServeError.DeadlineExceeded({ deployment: this.deployment, stage }))
  }

  lost(replica: string, started: boolean): ServeError.ServeError {
    return ServeError.because(() => new ServeError.ReplicaLost({ replica, started }))
  }

  // Jitter of up to as much again, so that callers refused together don't come back together.
  private retryAfter(request: Request, now: number): Duration.Duration {
    return Duration.millis(Math.ceil(this.drainTime(request, now) * (1 + this.random())))
  }
}
