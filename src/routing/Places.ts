/**
 * The replicas as one router sees them: how many of its requests each one runs, and which have room for one more.
 *
 * @since 0.1.0
 */
import { Effect, type Fiber } from "effect"
import type { Replica } from "../replica/Replica.ts"
import { Balancer } from "./Balancer.ts"

interface Place {
  readonly replica: Replica
  ongoing: number
  /** Requests of this router that may run there: the replica's permits, or fewer while other routers hold some. */
  limit: number
  /** Waits for a permit that another router holds. */
  waiting: Fiber.Fiber<void> | undefined
}

export class Places {
  private readonly places: ReadonlyArray<Place>
  private readonly balancer: Balancer
  private permitsEach: number

  /** `permits` is what each replica has; `random` returns a number in [0, 1). */
  constructor(replicas: ReadonlyArray<Replica>, permits: number, random: () => number) {
    this.permitsEach = permits
    this.places = replicas.map((replica) => ({ replica, ongoing: 0, limit: permits, waiting: undefined }))
    this.balancer = new Balancer(this.places, random)
  }

  get size(): number {
    return this.places.length
  }

  /** Permits of all replicas. */
  get permits(): number {
    return this.places.length * this.permitsEach
  }

  get state(): ReadonlyArray<{ readonly id: string; readonly running: number; readonly maxOngoingRequests: number }> {
    return this.places.map(({ ongoing, replica }) => ({
      id: replica.id,
      running: ongoing,
      maxOngoingRequests: this.permitsEach
    }))
  }

  /** The replica for the next request, or -1 when none has room. */
  choose(): number {
    return this.balancer.choose()
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
    this.limit(index, this.permitsEach)
  }

  /**
   * A replica had no permit left: other routers hold them. What this router runs there is all it may run there, until
   * a permit comes free; then `onFree` is called.
   */
  block(index: number, fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>, onFree: () => void): void {
    const place = this.places[index]!
    this.limit(index, place.ongoing)
    if (place.waiting !== undefined) return
    const unblock = Effect.sync(() => {
      place.waiting = undefined
      this.limit(index, this.permitsEach)
      onFree()
    })
    const waiting = fork(Effect.andThen(place.replica.whenFree, unblock))
    if (waiting.pollUnsafe() === undefined) place.waiting = waiting
  }

  /** Gives every replica another number of permits. */
  resize(permits: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.permitsEach = permits
      for (let index = 0; index < this.places.length; index++) this.limit(index, permits)
      return Effect.forEach(this.places, ({ replica }) => replica.resize(permits), { discard: true })
    })
  }

  /** Stops waiting for permits. */
  close(): void {
    for (const { waiting } of this.places) waiting?.interruptUnsafe()
  }

  private limit(index: number, permits: number): void {
    this.places[index]!.limit = permits
    this.balancer.update(index)
  }
}
