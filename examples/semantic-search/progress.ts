/** A progress bar on stderr. */
import { Effect } from "effect"

/** Runs `step` over `items` in order and shows how far it is: a bar that fills on a terminal, one plain line elsewhere. */
export const withProgress = Effect.fnUntraced(function* <A, B, E, R>(
  label: string,
  items: ReadonlyArray<A>,
  step: (item: A) => Effect.Effect<B, E, R>
) {
  const show = (done: number) => Effect.sync(() => draw(label, done, items.length))
  yield* show(0)
  return yield* Effect.forEach(items, (item, i) => Effect.tap(step(item), show(i + 1)))
})

const width = 30

const draw = (label: string, done: number, total: number) => {
  if (process.stderr.isTTY) {
    const filled = Math.round((width * done) / total)
    const percent = Math.round((100 * done) / total)
    const bar = "█".repeat(filled) + "░".repeat(width - filled)
    process.stderr.write(`\r${label} ${bar} ${percent}%${done === total ? "\n" : ""}`)
  } else if (done === 0) process.stderr.write(`${label}\n`)
}
