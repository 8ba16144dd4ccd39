/**
 * Seen red for each of these mutations: one more takes part than may ("in the step after a place is free"); a late one keeps its
 * place for another step, or is never late ("also when the place is free because"); the state of one that left isn't kept ("during a
 * step goes on at once"); a step counts for one unread element ("may be behind by"), a read for one ("makes its sequence sit out"),
 * a read doesn't wake the loop, or one more may be unread ("leaves those alone that sat it out"); done is ignored, ended ones stay, or
 * the loop spins ("gives each caller what its own sequence emits"); a failed Exit fails all ("ends that one only"); too few or too many
 * results are taken, or a step's own interruption reaches callers ("that ... fails those that took part"); a step goes on for those that
 * sit it out ("though others sit it out"), is interrupted by the first who leaves ("also when"), or by those of an earlier step ("that
 * leaves gives its place"); a release that throws isn't caught ("that throws stops neither"), or comes one step late ("may end a
 * sequence without"); an admission goes on for nobody ("holds nobody up"), or holds up a close ("an admission that never ends"); those
 * are refused for whom there is a place ("refuses nobody"); deadlines wait for a step ("though no step is taken"), have the wrong stage
 * ("fails it before it is admitted"), or leave a timer ("does nothing while"); a drain takes new items ("takes nothing new"), or never
 * ends; one that left stays in the queue ("while it waits is never admitted").
 */
import { assert, describe, it } from "@effect/vitest"
import { Batching, Deployment, RequestContext, ServeError } from "effect-serve"
import { Cause, Clock, Context, Effect, Exit, Fiber, Option, Schema, Scheduler, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { TestClock } from "effect/testing"
import { answered, Broken, call, isDone, open, reason, settle } from "../deployments.ts"

/** An item whose sequence takes so many steps, and has an element of each. */
interface Word {
  readonly name: string
  readonly length: number
}

/** How far a sequence has come. */
interface Spelling {
  readonly word: Word
  readonly at: number
}

type Options<E> = Batching.ContinuousOptions<Word, Spelling, string, E, never>
type Active = Parameters<Options<never>["step"]>[0]

const word = (name: string, length: number): Word => ({ name, length })

const letters = ({ length, name }: Word) => Array.from({ length }, (_, i) => `${name}${i + 1}`)

const admit = (word: Word): Effect.Effect<Spelling> => Effect.succeed({ word, at: 0 })

const advance = ({ at, word }: Spelling): Batching.Step<Spelling, string> => ({
  state: { word, at: at + 1 },
  emit: [`${word.name}${at + 1}`],
  done: at + 1 >= word.length
})

const namesOf = (active: ReadonlyArray<Spelling>) => active.map(({ word }) => word.name).join("")

/** A batcher whose steps take ten milliseconds, and which waits for nothing at its end; it notes what is called. */
const make = Effect.fnUntraced(function* <E = never>(
  options: Partial<Options<E>> & { readonly before?: (active: Active) => Effect.Effect<unknown, E> } = {}
) {
  const { before = () => Effect.sleep(10), ...rest } = options
  const notes = { steps: [] as Array<string>, admitted: [] as Array<string>, released: [] as Array<string> }
  const step =
    rest.step ??
    ((active: Active) =>
      Effect.map(
        Effect.suspend(() => before(active)),
        () => active.map(advance)
      ))
  const spell = yield* Batching.continuous<Word, Spelling, string, E>({
    gracefulShutdownTimeout: 0,
    ...rest,
    admit: (word) => Effect.tap((rest.admit ?? admit)(word), () => Effect.sync(() => notes.admitted.push(word.name))),
    step: (active) => {
      notes.steps.push(namesOf(active))
      return step(active)
    },
    release: (state) => {
      notes.released.push(`${state.word.name}${state.at}`)
      return rest.release?.(state) ?? Effect.void
    }
  })
  return { spell, notes }
})

/** Starts to read a stream, and keeps what was read. */
const read = Effect.fnUntraced(function* <A, E>(stream: Stream.Stream<A, E>) {
  const seen: Array<A> = []
  const fiber = yield* call(Stream.runForEach(stream, (element) => Effect.sync(() => seen.push(element))))
  return { seen, fiber }
})

const readAll = <A, E>(streams: ReadonlyArray<Stream.Stream<A, E>>) => Effect.forEach(streams, read)

/** Starts to read a stream, and stops after the first elements without leaving. */
const stall = (stream: Stream.Stream<unknown, unknown>) => call(Stream.runForEach(stream, () => Effect.never))

const within = (deadline: number) =>
  Stream.provideService(RequestContext.RequestContext, Object.assign({}, RequestContext.empty, { deadline }))

const late = (stage: "batch" | "stream") => new ServeError.DeadlineExceeded({ deployment: "batcher", stage })
const draining = new ServeError.Unavailable({ deployment: "batcher", why: "draining" })

const failure = (fiber: Fiber.Fiber<unknown, unknown>) => {
  const exit = fiber.pollUnsafe()
  assert.isTrue(exit !== undefined && Exit.isFailure(exit))
  const error = Cause.squash((exit as Exit.Failure<unknown, unknown>).cause)
  return error instanceof ServeError.ServeError ? error.reason : error
}

/** Steps of which each does what the plan says. */
const emitting = (plan: ReadonlyArray<readonly [emit: ReadonlyArray<string>, done: boolean]>) =>
  make({
    before: () => Effect.void,
    step: (active) =>
      Effect.succeed(
        active.map(({ at, word }) => {
          const [emit, done] = plan[at]!
          return { state: { word, at: at + 1 }, emit, done }
        })
      )
  })

const pause = (millis: number) => (millis === 0 ? Effect.void : Effect.sleep(millis))

const small = (maximum: number, minimum = 0) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

describe("Batching", () => {
  describe("continuous", () => {
    it.effect("gives each caller what its own sequence emits, in order, until that is done", () =>
      Effect.gen(function* () {
        for (const before of [() => Effect.void, () => Effect.yieldNow]) {
          const { notes, spell } = yield* make({ before })
          const words = [3, 1, 200, 2].map((length, i) => word("abcd"[i]!, length))
          const all = yield* Effect.forEach(words, (word) => Stream.runCollect(spell(word)), {
            concurrency: "unbounded"
          })
          assert.deepStrictEqual(all, words.map(letters))
          yield* settle
          assert.deepStrictEqual(notes.released.toSorted(), ["a3", "b1", "c200", "d2"])
        }
      })
    )

    it.effect("hands elements on after each step", () =>
      Effect.gen(function* () {
        const { spell } = yield* make()
        const [a, b] = yield* readAll([spell(word("a", 2)), spell(word("b", 3))])
        for (let n = 1; n <= 3; n++) {
          yield* TestClock.adjust(9)
          assert.strictEqual(b!.seen.length, n - 1)
          yield* TestClock.adjust(1)
          assert.deepStrictEqual([a!.seen.length, b!.seen.length], [Math.min(n, 2), n])
        }
        assert.isTrue(isDone(a!.fiber) && isDone(b!.fiber))
      })
    )

    it.effect("submits nothing until a stream is read, and an item each time that it is", () =>
      Effect.gen(function* () {
        const { notes, spell } = yield* make({ before: () => Effect.void })
        const stream = spell(word("a", 2))
        yield* TestClock.adjust("1 minute")
        assert.deepInclude(yield* spell.state, { queued: 0, active: 0, steps: 0 })
        assert.deepStrictEqual(yield* Stream.runCollect(stream), ["a1", "a2"])
        assert.deepStrictEqual(yield* Stream.runCollect(stream), ["a1", "a2"])
        assert.deepStrictEqual(notes.admitted, ["a", "a"])
      })
    )

    describe("joining", () => {
      it.effect("happens in the step after an item came, and leaving in the step after the last one", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make()
          yield* read(spell(word("a", 4)))
          yield* TestClock.adjust(15)
          yield* read(spell(word("b", 1)))
          yield* TestClock.adjust(100)
          assert.deepStrictEqual(notes.steps, ["a", "a", "ab", "a"])
        })
      )

      it.effect("happens in the step after a place is free, in the order in which items came", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make({ maxActive: 2 })
          const lengths = [1, 3, 2, 1, 1]
          const readers = yield* readAll(lengths.map((length, i) => spell(word("abcde"[i]!, length))))
          yield* TestClock.adjust(100)
          assert.deepStrictEqual(notes.steps, ["ab", "bc", "bc", "de"])
          assert.deepStrictEqual(notes.admitted, ["a", "b", "c", "d", "e"])
          assert.deepStrictEqual(
            readers.map(({ seen }) => seen.length),
            lengths
          )
          assert.deepInclude(yield* spell.state, { steps: 4, sequenceSteps: 8, active: 0, queued: 0 })
        })
      )

      it.effect("happens in the next step also when the place is free because a caller left or was late", () =>
        Effect.gen(function* () {
          for (const leave of [(fiber: Fiber.Fiber<unknown, unknown>) => Fiber.interrupt(fiber), () => Effect.void]) {
            const { notes, spell } = yield* make({ maxActive: 2 })
            const now = yield* Clock.currentTimeMillis
            const [a] = yield* readAll([within(now + 15)(spell(word("a", 9))), spell(word("b", 3))])
            yield* read(spell(word("c", 1)))
            yield* TestClock.adjust(15)
            yield* leave(a!.fiber)
            yield* TestClock.adjust(100)
            assert.deepStrictEqual(notes.steps, ["ab", "ab", "bc"])
          }
        })
      )

      it.effect("never makes more than maxActive take part, which is 8 by default", () =>
        Effect.gen(function* () {
          for (const maxActive of [undefined, 1, 3]) {
            const { notes, spell } = yield* make(maxActive === undefined ? {} : { maxActive })
            const readers = yield* readAll(Array.from({ length: 30 }, (_, i) => spell(word("x", (i % 4) + 1))))
            yield* TestClock.adjust("1 second")
            assert.isTrue(readers.every(({ fiber }) => isDone(fiber)))
            assert.strictEqual(Math.max(...notes.steps.map((names) => names.length)), maxActive ?? 8)
          }
        })
      )

      it.effect("waits until admit has made the state", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make({ admit: (word) => Effect.delay(admit(word), 100) })
          const [a] = yield* readAll([spell(word("a", 1)), spell(word("b", 1))])
          yield* TestClock.adjust(99)
          assert.deepStrictEqual(notes.steps, [])
          yield* TestClock.adjust(11)
          assert.deepStrictEqual(notes.steps, ["ab"])
          assert.deepStrictEqual(a!.seen, ["a1"])
        })
      )
    })

    describe("a step", () => {
      it.effect("may emit several elements, or none", () =>
        Effect.gen(function* () {
          const { spell } = yield* emitting([
            [["1", "2", "3"], false],
            [[], false],
            [["4"], false],
            [["5", "6"], true]
          ])
          assert.deepStrictEqual(yield* Stream.runCollect(spell(word("a", 0))), ["1", "2", "3", "4", "5", "6"])
        })
      )

      it.effect("may end a sequence without an element, at once too", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* emitting([[[], true]])
          assert.deepStrictEqual(yield* Stream.runCollect(spell(word("a", 0))), [])
          yield* settle
          assert.deepStrictEqual(notes.released, ["a1"])
        })
      )

      it.effect("hands each sequence the state that the one before it left", () =>
        Effect.gen(function* () {
          const seen: Array<number> = []
          const { spell } = yield* make({ before: (active) => Effect.sync(() => seen.push(active[0].at)) })
          yield* Stream.runDrain(spell(word("a", 4)))
          assert.deepStrictEqual(seen, [0, 1, 2, 3])
        })
      )

      it.effect("whose result is a failed Exit for one sequence ends that one only", () =>
        Effect.gen(function* () {
          for (const exit of [Exit.fail(new Broken({ part: "b" })), Exit.die("boom"), Exit.interrupt()]) {
            const { notes, spell } = yield* make<Broken>({
              step: (active) =>
                Effect.as(
                  Effect.sleep(10),
                  active.map((state) =>
                    state.word.name === "b" && state.at === 1 ? exit : Exit.succeed(advance(state))
                  )
                )
            })
            const readers = yield* readAll(["a", "b", "c"].map((name) => spell(word(name, 3))))
            yield* TestClock.adjust(100)
            assert.deepStrictEqual(
              readers.map(({ seen }) => seen.length),
              [3, 1, 3]
            )
            assert.deepStrictEqual(notes.steps, ["abc", "abc", "ac"])
            const own = readers[1]!.fiber.pollUnsafe()!
            // An interruption that is the outcome of a sequence isn't one of its caller.
            if (Exit.hasInterrupts(exit)) assert.isFalse(Exit.hasInterrupts(own))
            else assert.deepStrictEqual<Exit.Exit<unknown, unknown>>(own, exit)
            assert.isTrue(Exit.isFailure(own))
            assert.sameMembers(notes.released, ["a3", "b1", "c3"])
          }
        })
      )

      const failures: ReadonlyArray<readonly [string, () => ReturnType<Options<Broken>["step"]>, unknown]> = [
        ["fails", () => Effect.fail(new Broken({ part: "wheel" })), new Broken({ part: "wheel" })],
        [
          "fails later",
          () => Effect.delay(Effect.fail(new Broken({ part: "wheel" })), 10),
          new Broken({ part: "wheel" })
        ],
        ["has a defect", () => Effect.die("boom"), "boom"],
        [
          "throws",
          () => {
            throw new Error("thrown")
          },
          new Error("thrown")
        ],
        ["gives too few results", () => Effect.succeed([]), new ServeError.BatchContract({ expected: 2, received: 0 })],
        [
          "gives too many results",
          () => Effect.succeed(["x", "y", "z"].map((name) => advance({ word: word(name, 1), at: 0 }))),
          new ServeError.BatchContract({ expected: 2, received: 3 })
        ],
        ["interrupts itself", () => Effect.interrupt, undefined],
        [
          "is interrupted from inside",
          () =>
            Effect.withFiber((fiber) => {
              fiber.interruptUnsafe()
              return Effect.never
            }),
          undefined
        ],
        ["gives no list", () => Effect.succeed(null as unknown as []), undefined],
        ["gives nothing at all", () => Effect.succeed(undefined as unknown as []), undefined],
        ["gives results that are none", () => Effect.succeed([null, null] as unknown as []), undefined]
      ]

      for (const [how, fail, expected] of failures) {
        it.effect(`that ${how} fails those that took part, and the loop goes on with the others`, () =>
          Effect.gen(function* () {
            let steps = 0
            const { notes, spell } = yield* make<Broken>({
              maxActive: 2,
              step: (active) => {
                if (steps++ === 1) return fail()
                return Effect.as(Effect.sleep(10), active.map(advance))
              }
            })
            const readers = yield* readAll(["a", "b", "c"].map((name) => spell(word(name, 3))))
            yield* TestClock.adjust(100)
            assert.deepStrictEqual(
              readers.map(({ seen }) => seen),
              [["a1"], ["b1"], ["c1", "c2", "c3"]]
            )
            const errors = readers.slice(0, 2).map(({ fiber }) => failure(fiber))
            assert.deepStrictEqual(errors[0], errors[1])
            if (expected === undefined) assert.instanceOf(errors[0], Error)
            else assert.deepStrictEqual(errors[0], expected)
            assert.isFalse(readers.some(({ fiber }) => Exit.hasInterrupts(fiber.pollUnsafe()!)))
            assert.deepStrictEqual(notes.steps, ["ab", "ab", "c", "c", "c"])
            assert.deepStrictEqual(notes.released, ["a1", "b1", "c3"])
            assert.deepInclude(yield* spell.state, { active: 0, queued: 0 })
          })
        )
      }

      it.effect("that fails leaves those alone that sat it out", () =>
        Effect.gen(function* () {
          let fails = false
          const { spell } = yield* make<Broken>({
            bufferSize: 1,
            before: () => (fails ? Effect.fail(new Broken({ part: "" })) : Effect.sleep(10))
          })
          const pull = yield* Stream.toPull(spell(word("a", 3)))
          const first = yield* call(pull)
          yield* TestClock.adjust(20)
          assert.deepStrictEqual(yield* Fiber.join(first), ["a1"])
          fails = true
          const b = yield* read(spell(word("b", 1)))
          yield* settle
          assert.deepStrictEqual(failure(b.fiber), new Broken({ part: "" }))
          fails = false
          assert.deepStrictEqual(yield* pull, ["a2"])
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(yield* pull, ["a3"])
        })
      )
    })

    it.effect("fails only the caller whose item can't be admitted, and releases nothing for it", () =>
      Effect.gen(function* () {
        const refusals: Record<string, () => Effect.Effect<Spelling, Broken>> = {
          fail: () => Effect.fail(new Broken({ part: "word" })),
          late: () => Effect.delay(Effect.fail(new Broken({ part: "word" })), 10),
          die: () => Effect.die("boom"),
          interrupt: () => Effect.interrupt,
          inside: () =>
            Effect.withFiber((fiber) => {
              fiber.interruptUnsafe()
              return Effect.never
            }),
          throw: () => {
            throw new Error("thrown")
          }
        }
        for (const alone of [true, false]) {
          for (const [name, refuse] of Object.entries(refusals)) {
            const { notes, spell } = yield* make({
              admit: (word) => (word.name === name ? refuse() : admit(word)) as Effect.Effect<Spelling>
            })
            const others = yield* readAll(alone ? [] : ["a", "b"].map((name) => spell(word(name, 2))))
            const refused = yield* read(spell(word(name, 2)))
            yield* TestClock.adjust(50)
            const exit = refused.fiber.pollUnsafe()!
            assert.isTrue(Exit.isFailure(exit) && !Exit.hasInterrupts(exit))
            assert.isTrue(others.every(({ seen }) => seen.length === 2))
            const next = yield* read(spell(word("c", 1)))
            yield* TestClock.adjust(10)
            assert.deepStrictEqual(next.seen, ["c1"])
            assert.deepStrictEqual(notes.released, alone ? ["c1"] : ["a2", "b2", "c1"])
          }
        }
      })
    )

    describe("a slow reader", () => {
      it.effect("makes its sequence sit out until it has read, and no other", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make({ bufferSize: 2 })
          const pull = yield* Stream.toPull(spell(word("a", 6)))
          const first = yield* call(pull)
          const fast = yield* read(spell(word("b", 6)))
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(yield* Fiber.join(first), ["a1"])
          yield* TestClock.adjust(50)
          assert.deepStrictEqual(fast.seen, letters(word("b", 6)))
          assert.deepStrictEqual(notes.steps, ["ab", "ab", "ab", "b", "b", "b"])
          assert.deepInclude(yield* spell.state, { active: 1, steps: 6, sequenceSteps: 9 })
          assert.deepStrictEqual(yield* pull, ["a2", "a3"])
          yield* TestClock.adjust("1 minute")
          assert.deepStrictEqual(notes.steps.slice(6), ["a", "a"])
          assert.deepStrictEqual(yield* pull, ["a4", "a5"])
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(yield* pull, ["a6"])
          assert.deepStrictEqual(notes.released, ["b6", "a6"])
        })
      )

      it.effect("rejoins in the step after it has read", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make({ bufferSize: 1 })
          const pull = yield* Stream.toPull(spell(word("a", 3)))
          const first = yield* call(pull)
          yield* read(spell(word("b", 6)))
          yield* TestClock.adjust(35)
          yield* Fiber.join(first)
          assert.deepStrictEqual(notes.steps, ["ab", "ab", "b", "b"])
          yield* pull
          yield* TestClock.adjust(30)
          assert.deepStrictEqual(notes.steps.slice(4), ["ab", "b"])
        })
      )

      it.effect("may be behind by bufferSize elements, 16 by default, and what one step emits", () =>
        Effect.gen(function* () {
          for (const { bufferSize, each, lag } of [
            { bufferSize: undefined, each: 1, lag: 16 },
            { bufferSize: 4, each: 1, lag: 4 },
            { bufferSize: 4, each: 3, lag: 6 }
          ]) {
            let made = 0
            const { spell } = yield* make({
              ...(bufferSize === undefined ? {} : { bufferSize }),
              step: (active) =>
                Effect.as(
                  Effect.sleep(10),
                  active.map((state) => {
                    made += each
                    return { state, emit: Array.from({ length: each }, () => "x"), done: false }
                  })
                )
            })
            const pull = yield* Stream.toPull(spell(word("a", 0)))
            const first = yield* call(pull)
            yield* TestClock.adjust("1 minute")
            assert.strictEqual(made, (yield* Fiber.join(first)).length + lag)
            yield* pull
            yield* TestClock.adjust("1 minute")
            assert.strictEqual(made, each + 2 * lag)
          }
        })
      )

      it.effect("whose sequence is done frees its place, and still gets the rest", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make({ maxActive: 1 })
          const pull = yield* Stream.toPull(spell(word("a", 3)))
          const first = yield* call(pull)
          const next = yield* read(spell(word("b", 1)))
          yield* TestClock.adjust(40)
          assert.deepStrictEqual(next.seen, ["b1"])
          assert.deepStrictEqual(notes.released, ["a3", "b1"])
          assert.deepInclude(yield* spell.state, { active: 0 })
          assert.deepStrictEqual(yield* Fiber.join(first), ["a1"])
          assert.deepStrictEqual(yield* pull, ["a2", "a3"])
        })
      )

      it.effect("that leaves gives its place to one who waits", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make({ maxActive: 1, bufferSize: 1 })
          const slow = yield* stall(spell(word("a", 9)))
          const next = yield* read(spell(word("b", 1)))
          yield* TestClock.adjust("1 minute")
          assert.deepStrictEqual(notes.steps, ["a", "a"])
          assert.deepInclude(yield* spell.state, { active: 1, queued: 1 })
          yield* Fiber.interrupt(slow)
          yield* settle
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(next.seen, ["b1"])
          assert.deepStrictEqual(notes.released, ["a2", "b1"])
        })
      )
    })

    describe("a caller that leaves", () => {
      it.effect("while it waits is never admitted", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make({ maxActive: 1 })
          const [, b] = yield* readAll(["a", "b", "c"].map((name) => spell(word(name, 2))))
          yield* TestClock.adjust(5)
          assert.deepInclude(yield* spell.state, { active: 1, queued: 2 })
          yield* Fiber.interrupt(b!.fiber)
          assert.deepInclude(yield* spell.state, { active: 1, queued: 1 })
          yield* TestClock.adjust(100)
          assert.deepStrictEqual(notes.steps, ["a", "a", "c", "c"])
          assert.deepStrictEqual(notes.admitted, ["a", "c"])
        })
      )

      it.effect("after some elements takes part in no further step", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make()
          const [a, b] = yield* readAll([Stream.take(spell(word("a", 9)), 2), spell(word("b", 4))])
          yield* TestClock.adjust(100)
          assert.deepStrictEqual([a!.seen, b!.seen], [["a1", "a2"], letters(word("b", 4))])
          // It left when it had the second element, while the third step might have begun.
          assert.deepStrictEqual(notes.steps.slice(0, 2), ["ab", "ab"])
          assert.strictEqual(notes.steps.length, 4)
          assert.strictEqual(notes.steps[3], "b")
          assert.strictEqual(notes.released.length, 2)
        })
      )

      it.effect(
        "during a step goes on at once; the step goes on for the others, and what it emits for it is lost",
        () =>
          Effect.gen(function* () {
            const { notes, spell } = yield* make()
            const [a, b] = yield* readAll(["a", "b"].map((name) => spell(word(name, 3))))
            yield* TestClock.adjust(15)
            const leaving = yield* call(Fiber.interrupt(a!.fiber))
            assert.isTrue(isDone(leaving))
            assert.deepStrictEqual(notes.released, [])
            yield* TestClock.adjust(15)
            assert.deepStrictEqual([a!.seen, b!.seen], [["a1"], ["b1", "b2", "b3"]])
            assert.deepStrictEqual(notes.steps, ["ab", "ab", "b"])
            // The state that the step left, not the one before it, is given back.
            assert.deepStrictEqual(notes.released, ["a2", "b3"])
          })
      )

      it.effect("as the last one during a step interrupts it, and the loop takes what comes next", () =>
        Effect.gen(function* () {
          let interrupted = 0
          const { notes, spell } = yield* make({
            before: () => Effect.onInterrupt(Effect.sleep(1000), () => Effect.sync(() => interrupted++))
          })
          const [a, b] = yield* readAll(["a", "b"].map((name) => spell(word(name, 3))))
          yield* TestClock.adjust(10)
          yield* Fiber.interrupt(a!.fiber)
          yield* settle
          assert.strictEqual(interrupted, 0)
          yield* Fiber.interrupt(b!.fiber)
          yield* settle
          assert.strictEqual(interrupted, 1)
          assert.deepStrictEqual(notes.released, ["a0", "b0"])
          assert.deepInclude(yield* spell.state, { active: 0, queued: 0, steps: 1 })
          const c = yield* read(spell(word("c", 1)))
          yield* TestClock.adjust(1000)
          assert.deepStrictEqual(c.seen, ["c1"])
        })
      )

      it.effect("as the last one of those that take part in a step interrupts it, though others sit it out", () =>
        Effect.gen(function* () {
          let interrupted = 0
          const { notes, spell } = yield* make({
            bufferSize: 1,
            before: (active) =>
              Effect.onInterrupt(Effect.sleep(active[0].word.name === "a" ? 10 : 1000), () =>
                Effect.sync(() => interrupted++)
              )
          })
          const pull = yield* Stream.toPull(spell(word("a", 3)))
          const first = yield* call(pull)
          yield* TestClock.adjust(20)
          yield* Fiber.join(first)
          const b = yield* read(spell(word("b", 3)))
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(notes.steps, ["a", "a", "b"])
          yield* Fiber.interrupt(b.fiber)
          yield* settle
          assert.strictEqual(interrupted, 1)
          assert.deepStrictEqual(notes.released, ["b0"])
          assert.deepStrictEqual(yield* pull, ["a2"])
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(yield* pull, ["a3"])
        })
      )

      it.effect("while its item is admitted takes part in no step, and what was admitted is released", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make({ admit: (word) => Effect.delay(admit(word), 100) })
          const [a, b] = yield* readAll(["a", "b"].map((name) => spell(word(name, 1))))
          yield* TestClock.adjust(50)
          yield* Fiber.interrupt(a!.fiber)
          yield* TestClock.adjust(60)
          assert.deepStrictEqual(b!.seen, ["b1"])
          assert.deepStrictEqual(notes.steps, ["b"])
          assert.sameMembers(
            notes.released,
            notes.admitted.map((name) => (name === "a" ? "a0" : "b1"))
          )
        })
      )

      it.effect("while its item is admitted holds nobody up, should that never end", () =>
        Effect.gen(function* () {
          const { spell } = yield* make({ admit: (word) => (word.name === "a" ? Effect.never : admit(word)) })
          const a = yield* read(spell(word("a", 1)))
          const b = yield* read(spell(word("b", 1)))
          yield* TestClock.adjust(10)
          yield* Fiber.interrupt(a.fiber)
          yield* TestClock.adjust(50)
          assert.deepStrictEqual(b.seen, ["b1"])
        })
      )
    })

    describe("release", () => {
      it.effect("is called once for each admitted state, with the last one, however its sequence ended", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make<Broken>({
            step: (active) =>
              Effect.andThen(
                Effect.sleep(10),
                Effect.suspend(() =>
                  active.some(({ at, word }) => word.name === "all" && at === 1)
                    ? Effect.fail(new Broken({ part: "all" }))
                    : Effect.succeed(
                        active.map((state) =>
                          state.word.name === "one" && state.at === 1
                            ? Exit.fail(new Broken({ part: "one" }))
                            : advance(state)
                        )
                      )
                )
              )
          })
          yield* readAll([
            spell(word("done", 1)),
            spell(word("one", 9)),
            within(35)(spell(word("late", 9))),
            Stream.take(spell(word("left", 9)), 2)
          ])
          const stalled = yield* stall(spell(word("stalled", 99)))
          yield* TestClock.adjust(100)
          assert.deepStrictEqual(notes.released.slice(0, 2), ["done1", "one1"])
          assert.deepInclude(yield* spell.state, { active: 1 })
          yield* Fiber.interrupt(stalled)
          yield* readAll([spell(word("all", 9)), spell(word("with", 9))])
          yield* settle
          yield* TestClock.adjust(100)
          assert.sameMembers(
            notes.released.map((name) => name.replace(/\d+$/, "")),
            notes.admitted
          )
          assert.strictEqual(notes.admitted.length, 7)
          assert.includeMembers(notes.released, ["all1", "with1"])
          assert.deepInclude(yield* spell.state, { active: 0, queued: 0 })
        })
      )

      const bad: Record<string, () => Effect.Effect<void>> = {
        "has a defect": () => Effect.die("boom"),
        "fails against its type": () => Effect.fail("boom") as unknown as Effect.Effect<void>,
        "interrupts itself": () => Effect.interrupt,
        throws: () => {
          throw new Error("thrown")
        }
      }
      for (const [how, release] of Object.entries(bad)) {
        it.effect(`that ${how} stops neither the loop nor the release of the others`, () =>
          Effect.gen(function* () {
            const { notes, spell } = yield* make({ release })
            const readers = yield* readAll([1, 1, 2].map((length, i) => spell(word("abc"[i]!, length))))
            yield* TestClock.adjust(100)
            assert.deepStrictEqual(
              readers.map(({ seen }) => seen.length),
              [1, 1, 2]
            )
            assert.deepStrictEqual(notes.released, ["a1", "b1", "c2"])
            const next = yield* read(spell(word("d", 1)))
            yield* TestClock.adjust(10)
            assert.deepStrictEqual(next.seen, ["d1"])
          })
        )
      }
    })

    describe("a deadline", () => {
      it.effect("that has passed refuses an item at once", () =>
        Effect.gen(function* () {
          yield* TestClock.adjust(100)
          const { notes, spell } = yield* make()
          assert.deepStrictEqual(yield* reason(Stream.runDrain(within(100)(spell(word("a", 1))))), late("batch"))
          assert.deepStrictEqual(notes.admitted, [])
        })
      )

      it.effect("that passes while an item waits fails it before it is admitted", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make({ maxActive: 1 })
          const [, b, c] = yield* readAll([spell(word("a", 3)), within(25)(spell(word("b", 1))), spell(word("c", 1))])
          yield* TestClock.adjust(30)
          assert.deepStrictEqual(yield* answered(b!.fiber), late("batch"))
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(c!.seen, ["c1"])
          assert.deepStrictEqual(notes.admitted, ["a", "c"])
        })
      )

      it.effect("that passes while a sequence takes part ends it before the next step, after its elements", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make()
          const [a, b] = yield* readAll([within(25)(spell(word("a", 9))), spell(word("b", 4))])
          yield* TestClock.adjust(30)
          assert.deepStrictEqual(a!.seen, ["a1", "a2", "a3"])
          assert.deepStrictEqual(yield* answered(a!.fiber), late("stream"))
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(b!.seen, letters(word("b", 4)))
          assert.deepStrictEqual(notes.steps, ["ab", "ab", "ab", "b"])
        })
      )

      it.effect("ends a sequence whose reader doesn't read, though no step is taken", () =>
        Effect.gen(function* () {
          const { notes, spell } = yield* make({ maxActive: 1, bufferSize: 1 })
          yield* stall(within(100)(spell(word("a", 9))))
          const b = yield* read(spell(word("b", 1)))
          yield* TestClock.adjust("1 minute")
          assert.deepStrictEqual(b.seen, ["b1"])
          assert.deepStrictEqual(notes.released, ["a2", "b1"])
        })
      )

      it.effect("fails an item that waits, though no step is taken", () =>
        Effect.gen(function* () {
          const { spell } = yield* make({ maxActive: 1, bufferSize: 1 })
          yield* stall(spell(word("a", 9)))
          const b = yield* read(within(100)(spell(word("b", 1))))
          yield* TestClock.adjust("1 minute")
          assert.isTrue(isDone(b.fiber), "it still waits")
          assert.deepStrictEqual(yield* answered(b.fiber), late("batch"))
        })
      )
    })

    it.effect("refuses with QueueFull when as many wait as may", () =>
      Effect.gen(function* () {
        const { spell } = yield* make({ maxActive: 1, maxQueuedItems: 2 })
        yield* read(spell(word("a", 2)))
        yield* settle
        const [b] = yield* readAll(["b", "c"].map((name) => spell(word(name, 1))))
        assert.deepInclude(yield* reason(Stream.runDrain(spell(word("d", 1)))), {
          _tag: "QueueFull",
          deployment: "batcher",
          ongoing: 1,
          maxOngoingRequests: 1,
          queued: 2,
          maxQueuedRequests: 2
        })
        yield* Fiber.interrupt(b!.fiber)
        const e = yield* read(spell(word("e", 1)))
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(e.seen, ["e1"])
      })
    )

    it.effect("refuses nobody for whom there is a place, however few may wait", () =>
      Effect.gen(function* () {
        const { notes, spell } = yield* make({ maxActive: 3, maxQueuedItems: 0 })
        const readers = yield* readAll(["a", "b", "c", "d"].map((name) => spell(word(name, 1))))
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(notes.steps, ["abc"])
        assert.deepInclude(yield* answered(readers[3]!.fiber), { _tag: "QueueFull" })
      })
    )

    describe("when its scope closes", () => {
      const opened = Effect.fnUntraced(function* (options: Partial<Options<never>>) {
        const scope = yield* Scope.make()
        const made = yield* Scope.provide(make({ maxActive: 1, ...options }), scope)
        return { ...made, close: Scope.close(scope, Exit.void) }
      })

      it.effect("takes nothing new, and lets sequences end, those that wait too", () =>
        Effect.gen(function* () {
          const { close, notes, spell } = yield* opened({ gracefulShutdownTimeout: "1 second" })
          const [a, b] = yield* readAll(["a", "b"].map((name) => spell(word(name, 2))))
          yield* TestClock.adjust(5)
          const closing = yield* call(close)
          assert.deepStrictEqual(yield* reason(Stream.runDrain(spell(word("c", 1)))), draining)
          assert.deepInclude(yield* spell.state, { status: "Draining", active: 1, queued: 1 })
          yield* TestClock.adjust(34)
          assert.isFalse(isDone(closing))
          yield* TestClock.adjust(1)
          assert.isTrue(isDone(closing))
          assert.deepStrictEqual(
            [a!.seen, b!.seen],
            [
              ["a1", "a2"],
              ["b1", "b2"]
            ]
          )
          assert.deepInclude(yield* spell.state, { status: "Stopped", active: 0, queued: 0 })
          assert.deepStrictEqual(notes.released, ["a2", "b2"])
          assert.deepStrictEqual(yield* reason(Stream.runDrain(spell(word("c", 1)))), draining)
        })
      )

      it.effect("fails after gracefulShutdownTimeout what still waits or takes part, and releases it", () =>
        Effect.gen(function* () {
          const { close, notes, spell } = yield* opened({ gracefulShutdownTimeout: 25 })
          const [a, b] = yield* readAll(["a", "b"].map((name) => spell(word(name, 9))))
          const closing = yield* call(close)
          yield* TestClock.adjust(24)
          assert.isFalse(isDone(a!.fiber))
          yield* TestClock.adjust(1)
          assert.isTrue(isDone(closing))
          assert.deepStrictEqual([a!.seen, b!.seen], [["a1", "a2"], []])
          assert.deepStrictEqual(yield* answered(a!.fiber), draining)
          assert.deepStrictEqual(yield* answered(b!.fiber), draining)
          assert.deepStrictEqual(notes.released, ["a2"])
        })
      )

      it.effect("is closed at once when nothing is there", () =>
        Effect.gen(function* () {
          const { close, spell } = yield* opened({ gracefulShutdownTimeout: "1 second" })
          yield* close
          assert.strictEqual((yield* spell.state).status, "Stopped")
        })
      )

      it.effect("doesn't wait longer for a reader that doesn't read, who still gets what is there", () =>
        Effect.gen(function* () {
          const { close, notes, spell } = yield* opened({ gracefulShutdownTimeout: 100, bufferSize: 1 })
          const pull = yield* Stream.toPull(spell(word("a", 9)))
          const first = yield* call(pull)
          yield* TestClock.adjust(20)
          yield* Fiber.join(first)
          const closing = yield* call(close)
          yield* TestClock.adjust(100)
          assert.isTrue(isDone(closing))
          assert.deepStrictEqual(notes.released, ["a2"])
          assert.deepStrictEqual(yield* pull, ["a2"])
          assert.deepStrictEqual(yield* reason(pull), draining)
        })
      )

      it.effect("doesn't wait longer for an admission that never ends", () =>
        Effect.gen(function* () {
          const { close, spell } = yield* opened({ gracefulShutdownTimeout: 100, admit: () => Effect.never })
          const a = yield* read(spell(word("a", 1)))
          yield* TestClock.adjust(1)
          const closing = yield* call(close)
          yield* TestClock.adjust("1 minute")
          assert.isTrue(isDone(closing), "it isn't closed")
          assert.deepStrictEqual(yield* answered(a.fiber), draining)
        })
      )
    })

    it.effect("does nothing while there is nothing to do: no step, no timer", () =>
      Effect.gen(function* () {
        let sleeps = 0
        const clock = yield* Clock.Clock
        const counting: Clock.Clock = {
          currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe(),
          currentTimeMillis: clock.currentTimeMillis,
          monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
          monotonicTimeNanos: clock.monotonicTimeNanos,
          currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
          currentTimeNanos: clock.currentTimeNanos,
          sleep: (duration) => {
            sleeps++
            return clock.sleep(duration)
          }
        }
        let turns = 0
        class Turns extends Scheduler.MixedScheduler {
          override shouldYield(fiber: Fiber.Fiber<unknown, unknown>) {
            turns++
            return super.shouldYield(fiber)
          }
        }
        const { notes, spell } = yield* make({ before: () => Effect.void }).pipe(
          Effect.provideService(Clock.Clock, counting),
          Effect.provideService(Scheduler.Scheduler, new Turns())
        )
        yield* Stream.runDrain(within(1_000_000)(spell(word("a", 3))))
        yield* settle
        const before = { steps: notes.steps.length, sleeps, turns }
        yield* TestClock.adjust("1 hour")
        yield* settle
        assert.deepStrictEqual({ steps: notes.steps.length, sleeps, turns }, before)
        assert.deepInclude(before, { steps: 3, sleeps: 0 })
        assert.isAbove(turns, 0)
        const b = yield* read(spell(word("b", 1)))
        yield* settle
        assert.deepStrictEqual(b.seen, ["b1"])
      })
    )

    it.effect("runs in the services of the layer that makes it, not in those of its callers", () =>
      Effect.gen(function* () {
        class Model extends Context.Service<Model, { readonly name: string }>()("Model") {}
        const used: Array<string> = []
        const use = (what: string) => Effect.map(Model, ({ name }) => void used.push(`${what} ${name}`))
        const batched = yield* Batching.continuous({
          admit: (n: number) => Effect.as(use("admit"), n),
          step: (active) =>
            Effect.as(
              use("step"),
              active.map((n) => ({ state: n, emit: [n], done: true }))
            ),
          release: () => use("release")
        }).pipe(Effect.provideService(Model, { name: "one" }))
        const caller = Stream.runCollect(batched(1))
        assert.deepStrictEqual(yield* Effect.provideService(caller, Model, { name: "other" }), [1])
        yield* settle
        assert.deepStrictEqual(used, ["admit one", "step one", "release one"])
      })
    )

    it.effect("refuses options that are out of range, by name", () =>
      Effect.gen(function* () {
        const wrong: ReadonlyArray<Partial<Options<never>>> = [
          { maxActive: 0 },
          { maxActive: 1.5 },
          { bufferSize: 0 },
          { maxQueuedItems: -1 },
          { gracefulShutdownTimeout: -1 }
        ]
        for (const options of wrong) {
          const exit = yield* Effect.exit(make({ name: "words", ...options }))
          const [name] = Object.keys(options)
          assert.isTrue(Exit.isFailure(exit))
          assert.match(
            String(Cause.squash((exit as Exit.Failure<never, never>).cause)),
            new RegExp(`Invalid options of words: [^]*${name}`)
          )
        }
      })
    )

    it.effect("shows what it does in its state", () =>
      Effect.gen(function* () {
        const { spell } = yield* make({ name: "words", maxActive: 2, maxQueuedItems: 7 })
        const idle = { name: "words", status: "Ready", maxActive: 2, maxQueuedItems: 7, queued: 0, active: 0 }
        assert.deepStrictEqual<object>(yield* spell.state, { ...idle, steps: 0, sequenceSteps: 0 })
        yield* readAll(["a", "b", "c"].map((name) => spell(word(name, 2))))
        assert.deepInclude(yield* spell.state, { queued: 3, active: 0 })
        yield* TestClock.adjust(5)
        assert.deepInclude(yield* spell.state, { queued: 1, active: 2, steps: 1, sequenceSteps: 2 })
        yield* TestClock.adjust(20)
        assert.deepInclude(yield* spell.state, { queued: 0, active: 1, steps: 3, sequenceSteps: 5 })
        yield* TestClock.adjust(20)
        assert.deepStrictEqual<object>(yield* spell.state, { ...idle, steps: 4, sequenceSteps: 6 })
      })
    )

    describe("in a deployment", () => {
      class Speller extends Deployment.Service<Speller>()("Speller", [
        Rpc.make("spell", {
          payload: { name: Schema.String, length: Schema.Int },
          success: Schema.String,
          stream: true
        })
      ]) {}
      const opened = Effect.gen(function* () {
        const made: Array<Effect.Success<ReturnType<typeof make>>> = []
        const layer = Speller.toLayer(
          Effect.map(make({ name: "words" }), ({ notes, spell }) => {
            made.push({ notes, spell })
            return { spell }
          }),
          { gracefulShutdownTimeout: 0, maxOngoingRequests: 8 }
        )
        const { context, handle } = yield* open(Speller, layer)
        return { handle, notes: made[0]!.notes, state: Effect.provideContext(Speller.state, context) }
      })

      it.effect("takes steps with the calls of a streaming method, and is shown in the state of its replica", () =>
        Effect.gen(function* () {
          const { handle, notes, state } = yield* opened
          const [a, b] = yield* readAll([handle.spell(word("a", 3)), handle.spell(word("b", 1))])
          yield* TestClock.adjust(5)
          assert.deepInclude((yield* state).replicas[0]!.batchers[0], {
            name: "Speller.words",
            status: "Ready",
            active: 2
          })
          yield* TestClock.adjust(30)
          assert.deepStrictEqual([a!.seen, b!.seen], [["a1", "a2", "a3"], ["b1"]])
          assert.deepStrictEqual(notes.steps, ["ab", "a", "a"])
          assert.deepInclude(yield* state, { running: 0, completed: 2 })
        })
      )

      it.effect("hears of callers that leave and of timeouts", () =>
        Effect.gen(function* () {
          const { handle, notes, state } = yield* opened
          const [a, b] = yield* readAll([
            handle.spell(word("a", 99), { timeout: 25 }),
            Stream.take(handle.spell(word("b", 99)), 1)
          ])
          yield* TestClock.adjust(25)
          assert.deepInclude(yield* answered(a!.fiber), { _tag: "DeadlineExceeded", stage: "stream" })
          assert.isTrue(isDone(b!.fiber))
          yield* TestClock.adjust(100)
          assert.isAtMost(notes.steps.length, 3)
          assert.deepInclude((yield* state).replicas[0]!.batchers[0], { active: 0, queued: 0 })
          assert.deepInclude(yield* state, { running: 0, expired: 1, cancelled: 1 })
        })
      )
    })

    const NEVER = 99
    const Caller = Schema.Struct({
      length: small(6, 1),
      /** Elements that each step emits. */
      each: small(3),
      arrival: small(60),
      /** Milliseconds that it takes for each element. */
      pace: Schema.Literals([0, 0, 0, 7, 25]),
      leaves: Schema.Literals(["never", "never", "never", "after some", "at some time", "too late"]),
      leavesAt: small(80),
      /** The step at which its sequence fails, alone or with the others. */
      failsAt: Schema.Literals([NEVER, NEVER, NEVER, NEVER, 0, 2, 4]),
      how: Schema.Literals(["exit", "fail", "die", "length", "admit"])
    })
    const World = Schema.Struct({
      callers: Schema.Array(Caller).check(Schema.isMinLength(1), Schema.isMaxLength(9)),
      maxActive: small(4, 1),
      bufferSize: small(4, 1),
      maxQueuedItems: Schema.Literals([2, NEVER]),
      stepTime: Schema.Literals([0, 5]),
      admitTime: Schema.Literals([0, 0, 3]),
      /** How seldom fibers yield. */
      ops: Schema.Literals([3, 7, 2048])
    })
    type Place = { readonly id: number; readonly at: number }

    /** Runs callers to their ends; gives what each saw, and what became of what was admitted. */
    const play = Effect.fnUntraced(function* (world: typeof World.Type) {
      const { admitTime, bufferSize, callers, maxActive, maxQueuedItems, stepTime } = world
      const held = new Set<number>()
      const taken = new Map<number, number>()
      const broken: Array<string> = []
      let most = 0
      let admitted = 0
      let released = 0
      let stepping = false
      const advance = ({ at, id }: Place): Batching.Step<Place, number> => {
        const { each, length } = callers[id]!
        return {
          state: { id, at: at + 1 },
          emit: Array.from({ length: each }, (_, i) => at * each + i),
          done: at + 1 === length
        }
      }
      const result = (place: Place) => {
        const { failsAt, how } = callers[place.id]!
        return how === "exit" && place.at === failsAt ? Exit.fail(new Broken({ part: "exit" })) : advance(place)
      }
      const step = (active: ReadonlyArray<Place>) => {
        if (stepping) broken.push("two steps at once")
        stepping = true
        most = Math.max(most, active.length)
        for (const { at, id } of active) {
          if (!held.has(id)) broken.push(`a step with ${id}, which isn't held`)
          if ((taken.get(id) ?? 0) !== at) broken.push(`step ${at} of ${id} after ${taken.get(id)}`)
        }
        const poison = active.map(({ at, id }) => (callers[id]!.failsAt === at ? callers[id]!.how : undefined))
        return Effect.andThen(
          pause(stepTime),
          Effect.suspend(() => {
            if (poison.includes("fail")) return Effect.fail(new Broken({ part: "step" }))
            if (poison.includes("die")) return Effect.die("boom")
            if (poison.includes("length")) return Effect.succeed([])
            for (const { at, id } of active) taken.set(id, at + 1)
            return Effect.succeed(active.map(result))
          })
        ).pipe(Effect.ensuring(Effect.sync(() => (stepping = false))))
      }
      const batched = yield* Batching.continuous({
        maxActive,
        bufferSize,
        maxQueuedItems,
        admit: (id: number) =>
          Effect.andThen(
            pause(admitTime),
            Effect.suspend(() => {
              if (callers[id]!.how === "admit" && callers[id]!.failsAt < NEVER) {
                return Effect.fail(new Broken({ part: "admit" }))
              }
              admitted++
              held.add(id)
              return Effect.succeed<Place>({ id, at: 0 })
            })
          ),
        step,
        release: ({ id }) =>
          Effect.sync(() => {
            released++
            if (!held.delete(id)) broken.push(`${id} released twice`)
          })
      })
      const act = (caller: typeof Caller.Type, id: number) =>
        Effect.gen(function* () {
          const { arrival, leaves, leavesAt, pace } = caller
          const seen: Array<number> = []
          yield* Effect.sleep(arrival)
          const stream = leaves === "too late" ? within(arrival + leavesAt)(batched(id)) : batched(id)
          const fiber = yield* call(
            Stream.runForEach(leaves === "after some" ? Stream.take(stream, leavesAt % 9) : stream, (element) => {
              seen.push(element)
              return pause(pace)
            })
          )
          if (leaves === "at some time") {
            yield* Effect.sleep(leavesAt)
            yield* Fiber.interrupt(fiber)
          }
          return { seen, exit: yield* Fiber.await(fiber) }
        })
      const fibers = yield* Effect.forEach(callers, (caller, id) => call(act(caller, id)))
      for (let i = 0; i < 500 && !fibers.every(isDone); i++) yield* TestClock.adjust(10)
      assert.isTrue(fibers.every(isDone), "someone still waits")
      for (let i = 0; i < 3; i++) yield* TestClock.adjust(10)
      const outcomes = yield* Effect.forEach(fibers, Fiber.join)
      return { outcomes, broken, most, admitted, released, state: yield* batched.state }
    })

    it.effect.prop(
      "gives each caller its own elements in order, all unless it left or failed, and leaves nothing behind",
      [World],
      ([world]) =>
        Effect.scoped(
          Effect.gen(function* () {
            const { admitted, broken, most, outcomes, released, state } = yield* Effect.provideService(
              play(world),
              Scheduler.MaxOpsBeforeYield,
              world.ops
            )
            assert.deepStrictEqual(broken, [])
            for (const [id, { exit, seen }] of outcomes.entries()) {
              const { each, failsAt, how, leaves, leavesAt, length } = world.callers[id]!
              assert.deepStrictEqual(
                seen,
                seen.map((_, i) => i)
              )
              if (Exit.isSuccess(exit)) {
                const all = length * each
                assert.strictEqual(seen.length, leaves === "after some" ? Math.min(all, leavesAt % 9) : all)
                continue
              }
              if (Cause.hasInterrupts(exit.cause)) {
                assert.strictEqual(leaves, "at some time")
                continue
              }
              const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
              if (error instanceof Broken && error.part === "exit") {
                assert.deepStrictEqual([how, seen.length], ["exit", failsAt * each])
              } else if (error instanceof Broken && error.part === "admit") {
                assert.deepStrictEqual([how, seen.length], ["admit", 0])
              } else if (error instanceof ServeError.ServeError && error.reason._tag === "DeadlineExceeded") {
                assert.strictEqual(leaves, "too late")
              } else if (error instanceof ServeError.ServeError && error.reason._tag === "QueueFull") {
                assert.notStrictEqual(world.maxQueuedItems, NEVER)
              } else {
                // A step failed: its own, or that of one that took part with it.
                assert.isTrue(
                  world.callers.some((caller) => caller.failsAt < NEVER && !["exit", "admit"].includes(caller.how))
                )
                assert.isTrue(seen.length % Math.max(each, 1) === 0)
              }
            }
            assert.deepInclude(state, { queued: 0, active: 0 })
            assert.strictEqual(released, admitted)
            assert.isAtMost(most, world.maxActive)
          })
        ),
      { arbitrary: { runs: 300, size: 40, seed: 1 } }
    )
  })
})
