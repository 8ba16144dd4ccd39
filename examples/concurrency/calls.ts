/**
 * Calls that are made at given times, and what they show together.
 */
import { Effect, Schema } from "effect"
import type { Report } from "effect-serve/testing"
import { threadId } from "node:worker_threads"
import { now, type Run } from "./clock.ts"

/** A {@link Run} as the result of a method, so that the chart knows when its handler ran, and on which thread. */
export const Ran = Schema.Struct({ thread: Schema.Int, from: Schema.Number, to: Schema.Number })

/** A call as its caller saw it. The milliseconds count from the first call. */
export interface Call {
  readonly name: string
  readonly sent: number
  readonly answered: number
  /** What the handler said, if it said something. */
  readonly run?: Run
  /** When the elements of a stream came. */
  readonly elements?: ReadonlyArray<number>
}

/** Runs an effect and says when and where it ran. */
export const ran = <A, E, R>(work: Effect.Effect<A, E, R>): Effect.Effect<Run, E, R> =>
  Effect.suspend(() => {
    const from = now()
    return Effect.map(work, () => ({ thread: threadId, from, to: now() }))
  })

/** A call that is to be made `after` so many milliseconds, or at once. */
export interface Planned<E, R> {
  readonly name: string
  readonly call: Effect.Effect<Run, E, R>
  readonly after?: number
}

/** So many calls of the same, named by their numbers. */
export const times = <E, R>(count: number, name: string, call: Effect.Effect<Run, E, R>): Array<Planned<E, R>> =>
  Array.from({ length: count }, (_, i) => ({ name: `${name} ${i + 1}`, call }))

/** So many calls of the same, `every` so many milliseconds: the first after as long as that. */
export const paced = <E, R>(count: number, every: number, name: string, call: Effect.Effect<Run, E, R>) =>
  times(count, name, call).map((planned, i) => ({ ...planned, after: (i + 1) * every }))

/** Makes calls side by side. One that can't be made in time, because the loop is held, counts from when it was due. */
export const together = <E, R>(planned: ReadonlyArray<Planned<E, R>>): Effect.Effect<Array<Call>, E, R> =>
  Effect.suspend(() => {
    const start = now()
    return Effect.forEach(
      planned,
      ({ after = 0, call, name }) =>
        Effect.sleep(after).pipe(
          Effect.andThen(call),
          Effect.map((run) => ({
            name,
            sent: after,
            answered: now() - start,
            run: { ...run, from: run.from - start, to: run.to - start }
          }))
        ),
      { concurrency: "unbounded" }
    )
  })

/** Makes calls one after the other. */
export const oneByOne = <E, R>(planned: ReadonlyArray<Planned<E, R>>): Effect.Effect<Array<Call>, E, R> =>
  Effect.suspend(() => {
    const start = now()
    return Effect.forEach(planned, (one) =>
      Effect.suspend(() => {
        const sent = now() - start
        return Effect.map(together([one]), ([call]) => moved(call!, sent))
      })
    )
  })

const moved = (call: Call, by: number): Call => ({
  ...call,
  sent: call.sent + by,
  answered: call.answered + by,
  ...(call.run && { run: { ...call.run, from: call.run.from + by, to: call.run.to + by } })
})

/** Milliseconds from the first call to the last answer. */
export const took = (calls: ReadonlyArray<Call>): number => Math.max(...calls.map(({ answered }) => answered))

/** The longest that a call waited for its answer. */
export const slowest = (calls: ReadonlyArray<Call>): number =>
  Math.max(...calls.map(({ answered, sent }) => answered - sent))

/** How many ran at once, at most. */
export const peak = (runs: ReadonlyArray<Run>): number =>
  Math.max(0, ...runs.map(({ from }) => runs.filter((other) => other.from <= from && from < other.to).length))

/** The runs of calls that have told of them. */
export const runsOf = (calls: ReadonlyArray<Call>): Array<Run> => calls.flatMap(({ run }) => run ?? [])

/** On which threads calls ran. */
export const threadsOf = (calls: ReadonlyArray<Call>): Array<number> =>
  Array.from(new Set(runsOf(calls).map(({ thread }) => thread)))

/** The calls of one name. */
export const named = (calls: ReadonlyArray<Call>, name: string): Array<Call> =>
  calls.filter((call) => call.name.startsWith(name))

/** Whom the blocking detector has named. */
export const culprits = (reports: ReadonlyArray<Report>): Array<string> =>
  Array.from(
    new Set(
      reports.map(({ deployment, method }) => (method ? `${deployment}.${method}` : "code that is none of a method"))
    )
  )
