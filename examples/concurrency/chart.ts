/**
 * What the programs print: charts of calls over time, and tables.
 */
import { Console, Effect } from "effect"
import type { Call } from "./calls.ts"

/** Calls under a title. */
export interface Group {
  readonly title: string
  readonly calls: ReadonlyArray<Call>
}

const WIDTH = 56

/** Calls of one group that are shown; of more there are the first and the last ones. */
const ROWS = 12

/** Prints calls, a row each, and all groups on one scale: `░` waits, `█` is the handler at work, `▌` an element of a stream. */
export const printChart = Effect.fnUntraced(function* (groups: ReadonlyArray<Group>) {
  const end = Math.max(...groups.flatMap(({ calls }) => calls.map(({ answered }) => answered)))
  const names = Math.max(...groups.flatMap(({ calls }) => calls.map(({ name }) => name.length)))
  for (const { calls, title } of groups) {
    const left = calls.length - ROWS
    const rows = left <= 1 ? calls : [...calls.slice(0, ROWS / 2), undefined, ...calls.slice(-ROWS / 2)]
    yield* Console.log(`\n${title}`)
    for (const call of rows) {
      yield* Console.log(call === undefined ? `  ... and ${left} more` : row(call, names, end))
    }
  }
})

const row = (call: Call, names: number, end: number) => {
  const thread = call.run === undefined ? "" : `thread ${call.run.thread}`
  return `  ${call.name.padEnd(names)}  ${thread.padEnd(10)} ${barOf(call, end)} ${ms(call.sent)} to ${ms(call.answered)}`
}

const barOf = ({ answered, elements, run, sent }: Call, end: number) => {
  const cell = (at: number) => Math.min(WIDTH - 1, Math.floor((at / end) * WIDTH))
  const bar = Array.from({ length: WIDTH }, () => " ")
  const fill = (mark: string, from: number, to: number) =>
    bar.fill(mark, cell(from), Math.max(cell(from) + 1, Math.round((to / end) * WIDTH)))
  fill("░", sent, answered)
  if (run !== undefined) fill("█", run.from, run.to)
  for (const at of elements ?? []) bar[cell(at)] = "▌"
  return bar.join("")
}

const ms = (millis: number) => `${Math.round(millis)}`.padStart(4)

/** Prints a table. Numbers are rounded, and stand on the right. */
export const printTable = (
  head: ReadonlyArray<string>,
  rows: ReadonlyArray<ReadonlyArray<string | number>>
): Effect.Effect<void> => {
  const cells = [head, ...rows.map((row) => row.map((cell) => (typeof cell === "number" ? rounded(cell) : cell)))]
  const widths = head.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)))
  const isNumber = head.map((_, column) => rows.every((row) => typeof row[column] === "number"))
  const lines = cells.map((row) =>
    row.map((cell, i) => (isNumber[i] ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!))).join("   ")
  )
  return Console.log(`\n${lines.map((line) => `  ${line.trimEnd()}`).join("\n")}`)
}

const rounded = (value: number) => `${value < 10 ? Math.round(value * 10) / 10 : Math.round(value)}`

/** Prints whom the blocking detector has named, and what is to be learnt. */
export const printEnd = (culprits: ReadonlyArray<string>, lesson: string): Effect.Effect<void> => {
  const names = Array.from(new Set(culprits)).join(", ") || "nobody"
  return Console.log(`\nThe blocking detector named: ${names}\n\n${lesson}\n`)
}
