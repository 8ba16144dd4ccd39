/**
 * Numbers of several rounds in a few words, and tables in Markdown.
 */

/** A table in Markdown, its first row the head. */
export const table = ([head, ...rows]: ReadonlyArray<ReadonlyArray<string>>): string =>
  [head!, head!.map((_, column) => (column < 1 ? "---" : "---:")), ...rows]
    .map((cells) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`)
    .join("\n")

export const percent = (part: number) => `${(part * 100).toFixed(0)} %`

/** The value below which that share of the numbers lies. */
export const quantile = (share: number, numbers: ReadonlyArray<number>) =>
  numbers.toSorted((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor(share * numbers.length))] ?? Number.NaN

export const medianOf = (numbers: ReadonlyArray<number>) => quantile(0.5, numbers)

/** The median, and the lowest and the highest value. */
export const spread = (numbers: ReadonlyArray<number>, digits: number) => {
  const [median, low, high] = [medianOf(numbers), Math.min(...numbers), Math.max(...numbers)].map((number) =>
    number.toFixed(digits)
  )
  return `${median!} (${low!} to ${high!})`
}

export const megabytes = (bytes: number) => (bytes / 2 ** 20).toFixed(0)
