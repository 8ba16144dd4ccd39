/**
 * Writes what was measured into `docs/benchmarks/`: for each study a page, its numbers as JSON and its charts, and a page with the
 * verdicts of all studies that were ever measured.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { machine } from "./machine.ts"
import { cellsOf, type Report, type Study, type Verdict } from "./Study.ts"
import { table } from "./table.ts"

const folder = "docs/benchmarks"

/** What is kept of a study. */
interface Kept {
  readonly study: string
  readonly title: string
  readonly command: string
  readonly day: string
  readonly machine: string
  readonly versions: Record<string, string>
  readonly verdicts: ReadonlyArray<Verdict>
  readonly data: unknown
}

export const write = ({ name }: Pick<Study, "name">, report: Report) => {
  mkdirSync(folder, { recursive: true })
  const charts = Object.entries(report.charts ?? {})
  const kept: Kept = {
    study: name,
    title: report.title,
    command: `npm run bench -- ${name}`,
    day: new Date().toISOString().slice(0, 10),
    machine,
    versions: report.versions ?? {},
    verdicts: report.verdicts,
    data: report.data
  }
  writeFileSync(`${folder}/${name}.json`, `${JSON.stringify(kept, rounded)}\n`)
  writeFileSync(`${folder}/${name}.md`, pageOf(kept, report))
  for (const [file, svg] of charts) writeFileSync(`${folder}/${file}`, svg)
  writeFileSync(`${folder}/README.md`, overview())
}

/** Six digits are more than any of the numbers is worth. */
const rounded = (_: string, value: unknown) => (typeof value === "number" ? Number(value.toPrecision(6)) : value)

const versionsOf = (versions: Record<string, string>) =>
  Object.entries(versions)
    .map(([name, version]) => `${name} ${version}`)
    .join(", ")

const pageOf = ({ command, day, machine, verdicts, versions }: Kept, { charts, text, title }: Report) =>
  [
    `# ${title}`,
    `Written by \`${command}\` on ${day}: ${machine}.${Object.keys(versions).length > 0 ? ` ${versionsOf(versions)}.` : ""}`,
    text.trim(),
    ...Object.keys(charts ?? {}).map((file) => `![${title}](${file})`),
    ...(verdicts.length === 0 ? [] : [`## Verdicts\n\n${verdictsTable(verdicts)}`])
  ].join("\n\n") + "\n"

const verdictsTable = (verdicts: ReadonlyArray<Verdict>) =>
  table([["what", "measured", "has to be", ""], ...verdicts.map(cellsOf)])

const overview = () => {
  const all = readdirSync(folder)
    .filter((file) => file.endsWith(".json"))
    .map((file) => JSON.parse(readFileSync(`${folder}/${file}`, "utf8")) as Kept)
  const rows = (isPromise: boolean) =>
    all.flatMap(({ study, verdicts }) =>
      verdicts
        .filter((verdict) => verdict.isPromise === isPromise)
        .map((verdict) => [`[${study}](${study}.md)`, ...cellsOf(verdict)])
    )
  const head = ["study", "what", "measured", "has to be", ""]
  return `# Benchmarks

What effect-serve costs, beside what one would use instead. \`npm run bench -- <study>\` measures a study again and writes its page, its
numbers as JSON, and this page; \`npm run bench\` measures all of them, and \`--check\` makes it end with 1 when a budget of the design is missed by
more than a tenth. The peers that are written in Python are installed by \`npm run bench:peers\`.

[Performance](../performance.md) says where the time goes, and how to size a deployment.

${table([
  ["study", "command", "measured on", "where"],
  ...all.map(({ command, day, machine, study, title }) => [`[${title}](${study}.md)`, `\`${command}\``, day, machine])
])}

## The budgets of the design

${table([head, ...rows(true)])}

## Everything else

${table([head, ...rows(false)])}
`
}
