/**
 * What overload does to a deployment and to a hand-written FIFO line: goodput from half to ten times the capacity.
 *
 * Measures in virtual time, with the harness of the acceptance tests, and writes `docs/overload/matrix.md` and
 * `docs/overload/goodput.svg`. Takes less than a minute.
 */
import { Console, Effect } from "effect"
import { mkdirSync, writeFileSync } from "node:fs"
import { fifo } from "../acceptance/control.ts"
import { called, capacityOf, DEADLINE, matrix } from "../acceptance/load.ts"
import { deployment, type Server, simulate } from "../acceptance/plant.ts"
import type { Report } from "../acceptance/report.ts"
import { type Panel, plot } from "./plot.ts"
import { type Study, type Verdict } from "./report.ts"

const loads = [0.5, 0.8, 1, 1.5, 2, 3, 5, 7, 10]
const ours = deployment()
const servers = [ours, fifo]

interface Cell {
  readonly plant: (typeof matrix)[number]
  readonly server: Server
  readonly load: number
  readonly report: Report
}

/** Writes a file into `docs/overload`. */
export const write = (name: string, content: string) =>
  Effect.sync(() => {
    mkdirSync("docs/overload", { recursive: true })
    writeFileSync(`docs/overload/${name}`, content)
  })

/** A table in Markdown, its first row the head. */
export const table = ([head, ...rows]: ReadonlyArray<ReadonlyArray<string>>): string =>
  [head!, head!.map((_, column) => (column < 1 ? "---" : "---:")), ...rows]
    .map((cells) => `| ${cells.join(" | ")} |`)
    .join("\n")

export const percent = (part: number) => `${(part * 100).toFixed(0)} %`

export const overload: Study = {
  name: "overload",
  measure: Effect.gen(function* () {
    const cells: Array<Cell> = []
    for (const plant of matrix) {
      for (const server of servers) {
        // FIFO looks at everyone that waits for each permit; a third of the time says as much of it.
        const duration = server === fifo ? plant.duration / 3 : plant.duration
        for (const load of loads)
          cells.push({ plant, server, load, report: simulate(server, { ...plant, duration, load }) })
        yield* Console.log(`  ${called(plant)}, ${server.name}: ${goodputs(cells, plant, server).join(", ")}`)
      }
    }
    yield* write("matrix.md", written(cells))
    yield* write("goodput.svg", plot("Useful answers as a part of capacity", panels(cells)))
    return cells.filter(({ server }) => server === ours).flatMap(verdicts)
  })
}

const goodputs = (cells: ReadonlyArray<Cell>, plant: Cell["plant"], server: Server) =>
  row(cells, plant, server).map(({ report }) => percent(report.ofCapacity))

const row = (cells: ReadonlyArray<Cell>, plant: Cell["plant"], server: Server) =>
  cells.filter((cell) => cell.plant === plant && cell.server === server)

const panels = (cells: ReadonlyArray<Cell>): ReadonlyArray<Panel> =>
  matrix
    .toSorted((a, b) => Number(a.interruptible) - Number(b.interruptible))
    .map((plant) => ({
      title: called(plant),
      lines: servers.map((server) => ({
        name: server.name,
        points: row(cells, plant, server).map(({ load, report }) => [load, report.ofCapacity] as const)
      }))
    }))

const written = (cells: ReadonlyArray<Cell>) => {
  const rows = (value: (report: Report) => string) =>
    table([
      ["service times", "server", ...loads.map((load) => `${load}x`)],
      ...matrix.flatMap((plant) =>
        servers.map((server) => [
          called(plant),
          server.name,
          ...row(cells, plant, server).map(({ report }) => value(report))
        ])
      )
    ])
  const capacities = matrix.map((plant) => `${called(plant)} ${capacityOf({ ...plant, load: 1 }).toFixed(0)}`)
  return `# Overload, in virtual time

Written by \`npm run bench -- overload\`. 10 permits, service times of 100 ms in the mean, a deadline of ${DEADLINE} ms, requests
that arrive at random and do not wait for each other. FIFO is a semaphore with a timeout around it. What capacity and load are is
said in [load.ts](../../test/acceptance/load.ts); useful answers per second at capacity: ${capacities.join(", ")}.

![Goodput against offered load](goodput.svg)

## Useful answers, as a part of capacity

${rows(({ ofCapacity }) => percent(ofCapacity))}

Work that can be interrupted gives its permit back at its deadline. FIFO starts all requests late, so it gets permits back from
those that could not be met sooner than capacity counts on; where those take most of the time, that is more than 100 %.

## 99th percentile of the times to a useful answer, in milliseconds

${rows(({ p99 }) => (Number.isNaN(p99) ? "none" : p99.toFixed(0)))}
`
}

const verdicts = ({ load, plant, report }: Cell): ReadonlyArray<Verdict> => {
  const name = `${called(plant)}, ${load}x`
  const atLeast = (value: number, of: string, budget: number): Verdict => ({
    text: `${name}: ${percent(value)} of ${of}, budget ${percent(budget)}`,
    holds: value >= budget
  })
  if (load < 1) return [atLeast(report.ofOffered, "what is offered", 0.98)]
  return load < 2 ? [atLeast(report.ofCapacity, "capacity", 0.92)] : [atLeast(report.ofCapacity, "capacity", 0.95)]
}
