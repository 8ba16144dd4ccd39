/**
 * The replicas as one router sees them: how many of its requests each one runs, and which of them can take one more.
 *
 * A place can be out of service: its replica has left and is being replaced, or it was ejected because it fails while the
 * others don't. When most places are out, ejected ones are used all the same, because to fail some requests is better than
 * to overload the few replicas that are left.
 *
 * @since 0.1.0
 */
import { Duration, Effect, type Fiber, type Scope, Semaphore } from "effect"
import type { BatcherState } from "../batching/Host.ts"
import * as Metrics from "../core/Metrics.ts"
import type { Replica } from "../replica/Replica.ts"
import { Balancer, type Load } from "./Balancer.ts"
import { ConcurrencyLimit } from "./ConcurrencyLimit.ts"
import { Ejection } from "./Ejection.ts"
import { PeakEwma } from "./PeakEwma.ts"

/**
 * How the replicas are used.
 *
 * @category options
 * @since 0.1.0
 */
export interface Rules {
  readonly maxOngoingRequests: number
  /** The least that an adaptive limit may allow. */
  readonly minOngoingRequests: number
  readonly concurrencyLimit: "fixed" | "adaptive"
  readonly outlierEjection: boolean
  /** Whether the time counts that a replica takes, beside how many requests it runs: for those that are not alike. */
  readonly byLatency?: boolean
}

/**
 * A replica, as a state shows it.
 *
 * @category models
 * @since 0.1.0
 */
export interface PlaceState {
  readonly id: string
  /** `Ejected` is out of service because it fails while others don't, `Left` until it is replaced. */
  readonly status: "Ready" | "Ejected" | "Left"
  readonly running: number
  /** Requests that it may run at the moment. */
  readonly maxOngoingRequests: number
  readonly batchers: ReadonlyArray<BatcherState>
}

class Place implements Load {
  replica: Replica
  hasLeft = false
  /** Whether it is in service, or used although it is out. */
  isUsed = true
  ongoing = 0
  /** The replica's permits. */
  permits: number
  /** Requests of this router that may run there: the replica's permits, or fewer while other routers hold some. */
  limit: number
  warmFrom = -Infinity
  /** Waits for a permit that another router holds. */
  waiting: Fiber.Fiber<void> | undefined = undefined
  /** Waits until the ejection is over. */
  ejection: Fiber.Fiber<void> | undefined = undefined
  readonly adaptive: ConcurrencyLimit | undefined
  latency: PeakEwma | undefined
  readonly resizing = Semaphore.makeUnsafe(1)

  constructor(
    replica: Replica,
    permits: number,
    adaptive: ConcurrencyLimit | undefined,
    latency: PeakEwma | undefined
  ) {
    this.replica = replica
    this.latency = latency
    this.permits = permits
    this.limit = permits
    this.adaptive = adaptive
  }
}

export class Places {
  /** Permits of all places that are in service. */
  permits = 0
  private readonly places: ReadonlyArray<Place>
  private readonly balancer: Balancer
  private readonly ejection: Ejection | undefined
  private readonly fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>
  private readonly onRoom: () => void

  /**
   * `random` returns a number in [0, 1); `onRoom` is called when there may be room that did not come from a request that
   * ended: a place is back in service, or has another limit.
   */
  constructor(options: {
    readonly replicas: ReadonlyArray<Replica>
    readonly rules: Rules
    readonly random: () => number
    readonly fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>
    readonly onRoom: () => void
  }) {
    const { random, replicas, rules } = options
    const bounds = { min: rules.minOngoingRequests, max: rules.maxOngoingRequests, random }
    this.fork = options.fork
    this.onRoom = options.onRoom
    this.ejection = rules.outlierEjection && replicas.length > 1 ? new Ejection(replicas.length, random) : undefined
    this.places = replicas.map((replica) => {
      const adaptive = rules.concurrencyLimit === "adaptive" ? new ConcurrencyLimit(bounds) : undefined
      const latency = rules.byLatency === true ? new PeakEwma() : undefined
      return new Place(replica, adaptive?.current ?? rules.maxOngoingRequests, adaptive, latency)
    })
    this.balancer = new Balancer(this.places, random)
    this.refresh()
  }

  /** Gives every replica as many permits as its place says. */
  get open(): Effect.Effect<void> {
    return Effect.forEach(this.places, ({ permits }, index) => this.resizeOne(index, permits), { discard: true })
  }

  get size(): number {
    return this.places.length
  }

  get state(): ReadonlyArray<PlaceState> {
    return this.places.map(({ hasLeft, ongoing, permits, replica }, index) => ({
      id: replica.id,
      status: hasLeft ? "Left" : this.isEjected(index) ? "Ejected" : "Ready",
      running: ongoing,
      maxOngoingRequests: permits,
      batchers: replica.batchers()
    }))
  }

  /** Shows the limits of the replicas, and who is in service, in the `Metric` registry until the scope closes. */
  show(deployment: string): Effect.Effect<void, never, Scope.Scope> {
    return Effect.forEach(
      this.places,
      (place, index) => {
        const tags = { deployment, replica: place.replica.id }
        return Effect.all([
          Metrics.showGauge(Metrics.limit, tags, () => place.permits),
          Metrics.showGauge(Metrics.inService, tags, () => (this.isOut(index) ? 0 : 1))
        ])
      },
      { discard: true }
    )
  }

  /** The replica for the next request, or -1 when none has room. */
  choose(now: number): number {
    return this.balancer.choose(now)
  }

  replica(index: number): Replica {
    return this.places[index]!.replica
  }

  reserve(index: number): void {
    this.places[index]!.ongoing++
    this.balancer.update(index)
  }

  release(index: number): void {
    this.places[index]!.ongoing--
    this.update(index)
  }

  /** Takes note of a success after `runTime` milliseconds, before its place is released. */
  succeeded(index: number, now: number, runTime: number): void {
    this.ejection?.record(index, false, now)
    const place = this.places[index]!
    if (place.adaptive?.record(now, runTime, place.ongoing) !== true) return
    this.fork(this.resizeOne(index, place.adaptive.current))
  }

  /** Takes note that an answer, or the first element of a stream, has come after `time` milliseconds. */
  answered(index: number, now: number, time: number): void {
    this.places[index]!.latency?.record(time, now)
  }

  /** Takes note of a failure that may be the replica's. */
  failed(index: number, now: number): void {
    const millis = this.ejection?.record(index, true, now) ?? 0
    if (millis === 0) return
    this.refresh()
    const readmit = Effect.sync(() => this.readmit(index, now + millis))
    this.places[index]!.ejection = this.fork(Effect.delay(readmit, Duration.millis(millis)))
  }

  /**
   * A replica had no permit left: other routers hold them. What this router runs there is all it may run there, until
   * a permit comes free.
   */
  block(index: number): void {
    const place = this.places[index]!
    place.limit = place.ongoing
    this.balancer.update(index)
    if (place.waiting !== undefined || place.hasLeft) return
    const unblock = Effect.sync(() => {
      place.waiting = undefined
      this.update(index)
      this.onRoom()
    })
    const waiting = this.fork(Effect.andThen(place.replica.whenFree, unblock))
    if (waiting.pollUnsafe() === undefined) place.waiting = waiting
  }

  /** A replica has left: nothing more is sent there. */
  leave(index: number): void {
    this.places[index]!.hasLeft = true
    this.refresh()
  }

  /** Another replica takes the place of one that has left. */
  join(index: number, replica: Replica, now: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      const place = this.places[index]!
      this.stopWaiting(place)
      this.ejection?.renew(index)
      place.replica = replica
      place.hasLeft = false
      place.warmFrom = now
      if (place.latency !== undefined) place.latency = new PeakEwma()
      this.refresh()
      this.onRoom()
      return this.resizeOne(index, place.permits)
    })
  }

  /** Gives every replica another number of permits. Requests that run keep theirs. */
  resize(permits: number): Effect.Effect<void> {
    return Effect.forEach(this.places, (_, index) => this.resizeOne(index, permits), { discard: true })
  }

  /** Ends the work on all replicas that goes on although it was interrupted, where that is possible. */
  get end(): Effect.Effect<void> {
    return Effect.forEach(this.places, ({ replica }) => replica.end, { concurrency: "unbounded", discard: true })
  }

  /** Stops waiting for anything. */
  close(): void {
    for (const place of this.places) this.stopWaiting(place)
  }

  // One at a time, each with the number that is right by then, so that place and replica agree in the end.
  private resizeOne(index: number, permits: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      const place = this.places[index]!
      place.permits = permits
      this.refresh()
      return place.resizing.withPermit(Effect.suspend(() => place.replica.resize(place.permits)))
    })
  }

  private readmit(index: number, now: number): void {
    const place = this.places[index]!
    place.ejection = undefined
    place.warmFrom = now
    this.ejection?.readmit(index, now)
    this.refresh()
    this.onRoom()
  }

  private stopWaiting(place: Place): void {
    place.waiting?.interruptUnsafe()
    place.ejection?.interruptUnsafe()
    place.waiting = undefined
    place.ejection = undefined
  }

  private isEjected(index: number): boolean {
    return this.ejection?.has(index) === true
  }

  private isOut(index: number): boolean {
    return this.places[index]!.hasLeft || this.isEjected(index)
  }

  /** Who is in service, or how much one may run, has changed. */
  private refresh(): void {
    const out = this.places.filter((_, index) => this.isOut(index)).length
    const mostAreOut = out * 2 > this.places.length
    this.permits = 0
    this.places.forEach((place, index) => {
      place.isUsed = !this.isOut(index) || (mostAreOut && !place.hasLeft)
      // Where there is no limit, what waits is not waiting for requests to end.
      if (place.isUsed || place.permits === Infinity) this.permits += place.permits
      this.update(index)
    })
  }

  private update(index: number): void {
    const place = this.places[index]!
    place.limit = place.isUsed ? place.permits : 0
    this.balancer.update(index)
  }
}
