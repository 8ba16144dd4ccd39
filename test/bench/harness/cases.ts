/**
 * A study in this process: some cases, all of them in each round, and the medians.
 */
import { Console, Effect } from "effect"
import type { Report, Verdict } from "./Study.ts"
import { medianOf, spread, table } from "./table.ts"

export interface Cases {
  readonly title: string
  readonly rounds: number
  /** What the numbers are. */
  readonly unit: string
  /** One round: a number for each case. */
  readonly run: Effect.Effect<Record<string, number>, unknown>
  /** Markdown in front of the table. */
  readonly text: string
  readonly verdicts: (median: (name: string) => number) => ReadonlyArray<Verdict>
  readonly charts?: (median: (name: string) => number) => Record<string, string>
}

export const measureCases = Effect.fnUntraced(function* (cases: Cases) {
  /** What each case gave in each round. */
  const measured: Record<string, Array<number>> = {}
  for (let i = 0; i < cases.rounds; i++) {
    for (const [name, value] of Object.entries(yield* cases.run)) (measured[name] ??= []).push(value)
  }
  const rows = table([
    ["case", cases.unit],
    ...Object.entries(measured).map(([name, values]) => [
      name,
      spread(values, values.every((value) => value >= 100) ? 0 : 1)
    ])
  ])
  yield* Console.log(rows)
  const median = (name: string) => medianOf(measured[name]!)
  return {
    title: cases.title,
    text: `${cases.text}\n\nMedian of ${cases.rounds} rounds (lowest to highest), all cases in each round.\n\n${rows}`,
    verdicts: cases.verdicts(median),
    data: measured,
    ...(cases.charts === undefined ? {} : { charts: cases.charts(median) })
  } satisfies Report
})
