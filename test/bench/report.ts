/**
 * Runs a benchmark some rounds, all its cases in each round, and prints the medians and whether the budgets hold.
 */
import { Console, Effect } from "effect"

export interface Bench {
  readonly name: string
  readonly rounds: number
  /** One round: a number for each case. */
  readonly run: Effect.Effect<Record<string, number>, unknown>
  readonly unit: string
  readonly verdicts: (median: (name: string) => number) => ReadonlyArray<Verdict>
}

/** A benchmark that says by itself what it measured. */
export interface Study {
  readonly name: string
  readonly measure: Effect.Effect<ReadonlyArray<Verdict>, unknown>
}

export interface Verdict {
  readonly text: string
  readonly holds: boolean
}

/** A rate that must reach `budget`, from nanoseconds per call. */
export const perSecond = (name: string, nanos: number, budget: number): Verdict => ({
  text: `${name}: ${Math.round(1e6 / nanos)}k/s, budget ${budget / 1000}k/s`,
  holds: 1e9 / nanos >= budget
})

/** A ratio that must stay at or below `budget`. */
export const ratio = (name: string, value: number, budget: number): Verdict => ({
  text: `${name}: ${value.toFixed(2)}x, budget at most ${budget}x`,
  holds: value <= budget
})

/** A ratio that must reach `budget`. */
export const atLeast = (name: string, value: number, budget: number): Verdict => ({
  text: `${name}: ${value.toFixed(2)}x, budget at least ${budget}x`,
  holds: value >= budget
})

export const medianOf = (numbers: ReadonlyArray<number>) =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]!

/** Whether the budgets of a benchmark hold. */
export const report = Effect.fnUntraced(function* (bench: Bench | Study) {
  const verdicts = "run" in bench ? yield* medians(bench) : yield* bench.measure
  for (const { holds, text } of verdicts) yield* Console.log(`  ${holds ? "holds" : "MISSED"}  ${text}`)
  return verdicts.every(({ holds }) => holds)
})

const medians = Effect.fnUntraced(function* (bench: Bench) {
  const rounds: Array<Record<string, number>> = []
  for (let i = 0; i < bench.rounds; i++) rounds.push(yield* bench.run)
  const values = (name: string) => rounds.map((round) => round[name]!)
  yield* Console.log(`${bench.name}, ${bench.unit}: median (lowest to highest) of ${bench.rounds} rounds`)
  for (const name of Object.keys(rounds[0]!)) {
    const all = values(name)
    const [median, low, high] = [medianOf(all), Math.min(...all), Math.max(...all)].map((value) => value.toFixed(0))
    yield* Console.log(`  ${name.padEnd(24)} ${median} (${low} to ${high})`)
  }
  return bench.verdicts((name) => medianOf(values(name)))
})
