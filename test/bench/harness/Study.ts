/**
 * What a benchmark gives: a page with tables, its numbers, charts, and verdicts.
 */
import { Data, type Effect } from "effect"

/** A comparison of what was measured with what it has to be. */
export interface Verdict {
  readonly what: string
  readonly value: number
  readonly unit: string
  readonly sense: "at least" | "at most"
  readonly budget: number
  /** Whether it is a budget of the project's design: those are what `--check` watches. */
  readonly isPromise: boolean
}

export interface Report {
  readonly title: string
  /** Markdown: how it was measured, and the tables. */
  readonly text: string
  readonly verdicts: ReadonlyArray<Verdict>
  /** The numbers of each round. */
  readonly data: unknown
  /** SVG, by the names of the files. */
  readonly charts?: Record<string, string>
  /** Versions of what took part. */
  readonly versions?: Record<string, string>
}

/** Why a study can't be measured here. */
export class Skipped extends Data.TaggedError("Skipped")<{ readonly why: string }> {}

export interface Study {
  readonly name: string
  readonly measure: Effect.Effect<Report, unknown>
}

type Comparison = (what: string, value: number, budget: number, unit?: string) => Verdict

const comparison =
  (sense: Verdict["sense"], isPromise: boolean): Comparison =>
  (what, value, budget, unit = "x") => ({ what, value, unit, sense, budget, isPromise })

export const atLeast = comparison("at least", false)
export const atMost = comparison("at most", false)
/** Budgets of the project's design. */
export const promised = { atLeast: comparison("at least", true), atMost: comparison("at most", true) }

/** Whether a verdict holds, or would with so much slack: 0.1 is a tenth. */
export const holds = ({ budget, sense, value }: Verdict, slack = 0) =>
  value !== null &&
  !Number.isNaN(value) &&
  (sense === "at least" ? value >= budget * (1 - slack) : value <= budget * (1 + slack))

// What is none is null in JSON.
const shown = (value: number | null) =>
  value === null || Number.isNaN(value)
    ? "none"
    : `${Math.abs(value) >= 100 ? value.toFixed(0) : Number(value.toPrecision(3))}`

export const inWords = (verdict: Verdict) =>
  `${verdict.what}: ${shown(verdict.value)} ${verdict.unit}, ${verdict.sense} ${shown(verdict.budget)}`

/** What was measured, the budget, and whether it holds, for a table. */
export const cellsOf = (verdict: Verdict) => [
  verdict.what,
  `${shown(verdict.value)} ${verdict.unit}`,
  `${verdict.sense} ${shown(verdict.budget)}`,
  holds(verdict) ? "holds" : "**missed**"
]
