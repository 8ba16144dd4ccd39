/**
 * The page for people who know Ray Serve: what it points to is there, and no cell of its tables is empty.
 *
 * Seen red for each of these changes of the page: a name with a comma less, a link to a heading that isn't there, an empty cell, a row of a
 * test of Ray with neither test nor reason, a test of ours that no row names.
 */
import { assert, describe, it } from "@effect/vitest"
import { existsSync, globSync, readFileSync } from "node:fs"
import { deadLinks } from "./links.ts"

const page = "docs/ray-serve.md"
const text = readFileSync(page, "utf8")

interface Row {
  readonly line: number
  readonly cells: ReadonlyArray<string>
}

/** The rows of all tables but their second ones, which are lines. */
const rowsOf = (markdown: string): ReadonlyArray<Row> =>
  markdown
    .split("\n")
    .map((row, i) => ({ row: row.trim(), line: i + 1 }))
    .filter(({ row }) => row.startsWith("|") && !/^\|[-:|\s]+\|$/.test(row))
    .map(({ row, line }) => ({
      line,
      cells: row
        .slice(1, -1)
        .split(/(?<!\\)\|/)
        .map((cell) => cell.trim())
    }))

/** Rows that have another number of cells than the ones before them, or a cell that says nothing. */
const incomplete = (markdown: string): ReadonlyArray<number> => {
  const rows = rowsOf(markdown)
  return rows
    .filter(({ cells, line }, i) => {
      const before = rows[i - 1]
      const isOdd = before !== undefined && line - before.line <= 2 && before.cells.length !== cells.length
      return isOdd || cells.some((cell) => /^[-–—?.\s]*$/.test(cell))
    })
    .map(({ line }) => line)
}

/** The tests that a cell names: a link to a file, and names in quotes behind it. */
const namedIn = (cell: string): ReadonlyArray<{ readonly file: string; readonly name: string }> => {
  const found: Array<{ readonly file: string; readonly name: string }> = []
  let file = ""
  for (const [, path, name] of cell.replaceAll(/`[^`]*`/g, "").matchAll(/\]\(\.\.\/(test\/[^)]+)\)|"([^"]+)"/g)) {
    if (path !== undefined) file = path
    else found.push({ file, name: name! })
  }
  return found
}

/** Whether a file has a test of that name. */
const has = (source: string, name: string) => [`"${name}"`, `\`${name}\``].some((title) => source.includes(title))

const missing = (markdown: string, read: (path: string) => string | undefined): ReadonlyArray<string> =>
  rowsOf(markdown)
    .flatMap(({ cells }) => namedIn(cells.at(-1)!))
    .filter(({ file, name }) => !has(read(file) ?? "", name))
    .map(({ file, name }) => `${file}: ${name}`)

const heading = "## What Ray's tests check"
const afterHeading = (markdown: string) => markdown.slice(markdown.indexOf(heading))

/** Rows that name no test and give no reason. */
const unanswered = (markdown: string): ReadonlyArray<string> =>
  rowsOf(afterHeading(markdown))
    .filter(({ cells }) => cells[0] !== "Ray's test")
    .map(({ cells }) => cells.at(-1)!)
    .filter((cell) => namedIn(cell).length === 0 && !/^(does not apply|not yet|not read)/.test(cell))

/** A table with these rows, and a file that has two tests. */
const table = (...rows: ReadonlyArray<string>) => ["# A", "| Ray's test | here |", "|---|---|", ...rows].join("\n")
const read = (path: string) => (path === "test/a.test.ts" ? 'it("is so", f)\nit(`is ${n}`, f)\n// is not' : undefined)

describe("docs/ray-serve.md", () => {
  it("names tests that there are", () => {
    assert.isAtLeast(rowsOf(text).flatMap(({ cells }) => namedIn(cells.at(-1)!)).length, 80)
    assert.deepStrictEqual(
      missing(text, (path) => (existsSync(path) ? readFileSync(path, "utf8") : undefined)),
      []
    )
  })

  it("answers every test of Ray by one of ours, or by the reason why there is none", () => {
    assert.include(text, heading)
    assert.deepStrictEqual(unanswered(text), [])
  })

  it("points to every test that was written for it", () => {
    const mine = globSync("test/acceptance/ray-parity/*.test.ts")
    assert.isAtLeast(mine.length, 8)
    const named = rowsOf(text).flatMap(({ cells }) => namedIn(cells.at(-1)!))
    for (const file of mine) {
      const titles = Array.from(
        readFileSync(file, "utf8").matchAll(/\bit\.\w+\(\s*(["`])(.+?)\1,/g),
        ([, , name]) => name!
      )
      assert.isNotEmpty(titles, file)
      for (const title of titles) {
        assert.isTrue(
          named.some((one) => one.file === file && one.name === title),
          `${file}: ${title}`
        )
      }
    }
  })

  it("has something to say in every cell", () => {
    assert.isAtLeast(rowsOf(text).length, 150)
    assert.deepStrictEqual(incomplete(text), [])
  })

  it("has links that lead somewhere", () => {
    const pages = globSync(["README.md", "docs/**/*.md"])
    const files = Object.fromEntries(pages.map((path) => [path, readFileSync(path, "utf8")]))
    assert.deepStrictEqual(
      deadLinks(files, existsSync).filter((link) => link.startsWith(page)),
      []
    )
  })

  it("would not be believed without them", () => {
    const link = "[a](../test/a.test.ts)"

    assert.deepStrictEqual(missing(table(`| a | ${link}: "is so", "is \${n}" |`), read), [])
    assert.deepStrictEqual(missing(table(`| a | ${link}: "is so", "is not" |`), read), ["test/a.test.ts: is not"])
    assert.deepStrictEqual(missing(table('| a | [b](../test/b.test.ts): "is so" |'), read), ["test/b.test.ts: is so"])
    assert.deepStrictEqual(missing(table('| a | "is so" |'), read), [": is so"])

    for (const cell of ["", " ", "-", "--", "?"])
      assert.deepStrictEqual(incomplete(table(`| a | ${cell} |`)), [4], cell)
    assert.deepStrictEqual(incomplete(table("| a | b | c |")), [4])
    assert.deepStrictEqual(incomplete(table("| a | `b` \\| c |")), [])

    const answer = (cell: string) => unanswered(`${heading}\n${table(`| a | ${cell} |`)}`)
    for (const cell of [`${link}: "is so"`, "not yet", "does not apply: why"]) assert.deepStrictEqual(answer(cell), [])
    for (const cell of [link, "yes"]) assert.deepStrictEqual(answer(cell), [cell])
  })
})
