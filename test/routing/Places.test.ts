/**
 * Seen red for each of these mutations: a place that is out of service has a limit; the permits of those
 * out of service count; no panic, panic with a third out, panic that uses those that have left; a place that comes back or
 * joins is warm at once, or wakes no one; waiting twice for one permit, for one of a replica that has left, or on after it
 * was replaced; an ejection that is shorter, never ends, outlives its replica, or isn't forgotten with it; a replica that
 * joins keeps its own permits; resizes that overlap; a better limit that doesn't reach the replica, or wakes no one.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit } from "effect"
import type { Replica } from "../../src/replica/Replica.ts"
import { Places, type Rules } from "../../src/routing/Places.ts"
import { fake, makeWorld, smooth } from "./routers.ts"

/** Places over replicas that note how often they are resized, and to what. */
const over = (
  count: number,
  rules: Partial<Rules> = {},
  replicaOf: (place: number) => Partial<Replica> = () => ({})
) => {
  const { clock, fork, now, perform, turns } = makeWorld(smooth)
  const resizes: Array<string> = []
  let rooms = 0
  const replica = (place: number, name = `#${place}`) =>
    fake(place, () => Effect.succeedNone, {
      id: name,
      resize: (permits) => Effect.sync(() => resizes.push(`${name} ${permits}`)),
      ...replicaOf(place)
    })
  const places = new Places({
    replicas: Array.from({ length: count }, (_, place) => replica(place)),
    rules: { maxOngoingRequests: 2, minOngoingRequests: 1, concurrencyLimit: "fixed", outlierEjection: true, ...rules },
    random: random(),
    fork,
    onRoom: () => rooms++
  })
  perform(places.open)
  const pass = (millis: number) => {
    clock.advance(millis)
    turns.takeAll()
  }
  /** The place at `failing` fails, and the others don't. */
  const eject = (failing: number) => {
    for (let i = 0; i < 20; i++) {
      for (let place = 0; place < count; place++) {
        if (place === failing) places.failed(place, now())
        else places.succeeded(place, now(), 1)
      }
    }
  }
  const statuses = () => places.state.map(({ status }) => status)
  /** Which places so many requests would be brought to. */
  const choices = (times = 200) => new Set(Array.from({ length: times }, () => places.choose(now())))
  return { fork, perform, places, replica, resizes, pass, eject, statuses, choices, now, turns, rooms: () => rooms }
}

const random = () => {
  let seed = 1
  return () => (seed = (seed * 48_271) % 2_147_483_647) / 2_147_483_647
}

const blocked = () => {
  const gates = [0, 1].map(() => Deferred.makeUnsafe<void>())
  let waits = 0
  const world = over(2, {}, (place) => ({
    end: Effect.void,
    whenFree: Effect.andThen(
      Effect.sync(() => waits++),
      Deferred.await(gates[place]!)
    )
  }))
  const free = (place: number) => {
    Deferred.doneUnsafe(gates[place]!, Exit.void)
    world.turns.takeAll()
  }
  return { ...world, free, waits: () => waits }
}

describe("Places", () => {
  it("gives every replica as many permits as its place has", () => {
    assert.deepStrictEqual(over(2).resizes, ["#0 2", "#1 2"])
    assert.deepStrictEqual(over(1, { concurrencyLimit: "adaptive", maxOngoingRequests: 64 }).resizes, ["#0 20"])
  })

  it("counts the permits of those that are in service", () => {
    const { eject, pass, perform, places, replica } = over(4)
    assert.strictEqual(places.permits, 8)
    places.leave(0)
    assert.strictEqual(places.permits, 6)
    eject(1)
    assert.strictEqual(places.permits, 4)
    perform(places.resize(3))
    assert.strictEqual(places.permits, 6)
    perform(places.join(0, replica(0), 0))
    assert.strictEqual(places.permits, 9)
    pass(6000)
    assert.strictEqual(places.permits, 12)
  })

  it("counts how long a replica takes to answer, where that counts, and not how long its streams are", () => {
    const { choices, now, places } = over(2, { byLatency: true, outlierEjection: false, maxOngoingRequests: Infinity })
    for (const place of [0, 1]) places.answered(place, now(), 5)
    // What a minute of a chat says of its replica.
    places.succeeded(0, now(), 60_000)
    assert.deepStrictEqual(choices(), new Set([0, 1]))
    places.answered(0, now(), 50)
    assert.deepStrictEqual(choices(), new Set([1]))
  })

  it("forgets how long the one before took when another one joins", () => {
    const { choices, now, pass, perform, places, replica } = over(2, { byLatency: true, outlierEjection: false })
    places.answered(0, now(), 50_000)
    assert.deepStrictEqual(choices(), new Set([1]))
    places.leave(0)
    perform(places.join(0, replica(0), now()))
    // It is warm by then.
    pass(10_000)
    places.answered(1, now(), 5)
    assert.deepStrictEqual(choices(), new Set([0]))
  })

  it("brings nothing to a replica that has left, whatever happens to its requests", () => {
    const { choices, places, statuses } = over(2)
    places.reserve(0)
    places.leave(0)
    places.release(0)
    assert.deepStrictEqual(statuses(), ["Left", "Ready"])
    assert.deepStrictEqual(choices(), new Set([1]))
    places.leave(1)
    assert.deepStrictEqual(choices(), new Set([-1]))
  })

  it("brings nothing to an ejected one for 5 to 6 seconds", () => {
    const { choices, eject, pass, rooms, statuses } = over(3)
    eject(1)
    assert.deepStrictEqual(statuses(), ["Ready", "Ejected", "Ready"])
    pass(4999)
    assert.deepStrictEqual(statuses(), ["Ready", "Ejected", "Ready"])
    assert.deepStrictEqual(choices(), new Set([0, 2]))
    assert.strictEqual(rooms(), 0)
    pass(1001)
    assert.deepStrictEqual(statuses(), ["Ready", "Ready", "Ready"])
    assert.strictEqual(rooms(), 1)
  })

  it("uses the ejected ones, and not those that have left, when most are out", () => {
    const { choices, eject, perform, places, replica } = over(4)
    eject(0)
    eject(1)
    assert.deepStrictEqual(choices(), new Set([2, 3]))
    assert.strictEqual(places.permits, 4)
    places.leave(2)
    assert.deepStrictEqual(choices(), new Set([0, 1, 3]))
    assert.strictEqual(places.permits, 6)
    perform(places.join(2, replica(2), -10_000))
    assert.deepStrictEqual(choices(), new Set([2, 3]))
  })

  it("brings little to one that has come back or joined until it is warm", () => {
    const { choices, eject, now, pass, perform, places, replica } = over(2)
    eject(0)
    pass(6000)
    // Both are idle, and the warm one is taken.
    assert.deepStrictEqual(choices(), new Set([1]))
    pass(10_000)
    assert.deepStrictEqual(choices(), new Set([0, 1]))
    places.leave(1)
    perform(places.join(1, replica(1), now()))
    assert.deepStrictEqual(choices(), new Set([0]))
    pass(10_000)
    assert.deepStrictEqual(choices(), new Set([0, 1]))
  })

  describe("a place whose permits other routers hold", () => {
    it("gets nothing until one is free", () => {
      const { choices, free, places, rooms } = blocked()
      places.block(0)
      assert.deepStrictEqual(choices(), new Set([1]))
      free(0)
      assert.strictEqual(rooms(), 1)
      assert.deepStrictEqual(choices(), new Set([0, 1]))
    })

    it("is waited for once at a time", () => {
      const { free, places, rooms, waits } = blocked()
      places.block(0)
      places.block(0)
      assert.strictEqual(waits(), 1)
      free(0)
      assert.strictEqual(rooms(), 1)
      places.block(0)
      assert.strictEqual(waits(), 2)
    })

    it("is not waited for when its replica has left, or leaves, or all is over", () => {
      const { free, perform, places, replica, rooms, waits } = blocked()
      places.leave(0)
      places.block(0)
      assert.strictEqual(waits(), 0)
      places.block(1)
      places.leave(1)
      perform(places.join(1, replica(1), 0))
      assert.strictEqual(rooms(), 1)
      free(1)
      assert.strictEqual(rooms(), 1, "nobody waits for the permit of a replica that is gone")
      const other = blocked()
      other.places.block(0)
      other.places.close()
      other.turns.takeAll()
      other.free(0)
      assert.strictEqual(other.rooms(), 0)
    })
  })

  it("stops waiting for the end of an ejection when it is closed, or the replica replaced", () => {
    const one = over(2)
    one.eject(0)
    one.places.close()
    one.pass(10_000)
    assert.strictEqual(one.rooms(), 0)
    const other = over(2)
    other.eject(0)
    other.pass(1000)
    other.places.leave(0)
    other.perform(other.places.join(0, other.replica(0), other.now()))
    assert.deepStrictEqual(other.statuses(), ["Ready", "Ready"])
    other.eject(0)
    other.pass(4999)
    assert.deepStrictEqual(other.statuses(), ["Ejected", "Ready"], "its own ejection is as long as any first one")
    other.pass(1001)
    assert.deepStrictEqual(other.statuses(), ["Ready", "Ready"])
  })

  it("gives a replica that joins the permits that its place has by then", () => {
    const { perform, places, replica, resizes } = over(1)
    places.leave(0)
    perform(places.resize(5))
    perform(places.join(0, replica(0, "next"), 0))
    assert.deepStrictEqual(resizes, ["#0 2", "#0 5", "next 5"])
    assert.deepInclude(places.state[0], { id: "next", status: "Ready", maxOngoingRequests: 5 })
  })

  it("resizes a replica once at a time, and to the last number in the end", () => {
    const log: Array<string> = []
    let pause = 0
    const { fork, pass, places } = over(1, {}, () => ({
      resize: (permits) =>
        Effect.sync(() => log.push(`begin ${permits}`)).pipe(
          Effect.andThen(Effect.suspend(() => (pause === 0 ? Effect.void : Effect.sleep(pause)))),
          Effect.andThen(Effect.sync(() => log.push(`end ${permits}`)))
        )
    }))
    log.length = 0
    pause = 10
    fork(places.resize(4))
    fork(places.resize(3))
    fork(places.resize(1))
    assert.strictEqual(places.permits, 1)
    for (let i = 0; i < 5; i++) pass(10)
    assert.deepStrictEqual(log, ["begin 4", "end 4", "begin 1", "end 1", "begin 1", "end 1"])
  })

  it("changes the permits of a replica when it has found a better limit", () => {
    const { pass, now, places, resizes, turns } = over(1, { concurrencyLimit: "adaptive", maxOngoingRequests: 64 })
    for (let i = 0; i < 20; i++) places.reserve(0)
    for (let i = 0; i < 250; i++) {
      pass(5)
      places.succeeded(0, now(), 100)
      turns.takeAll()
    }
    assert.deepStrictEqual(resizes, ["#0 20", "#0 21"])
    assert.strictEqual(places.permits, 21)
    assert.deepInclude(places.state[0], { running: 20, maxOngoingRequests: 21 })
    assert.strictEqual(places.choose(now()), 0)
  })
})
