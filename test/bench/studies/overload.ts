/**
 * What overload does to a deployment and to a hand-written FIFO line: goodput from half to ten times the capacity.
 *
 * Measures in virtual time, with the harness of the acceptance tests. Takes less than a minute.
 */
import { Console, Effect } from "effect"
import { fifo } from "../../acceptance/control.ts"
import { called, capacityOf, DEADLINE, matrix } from "../../acceptance/load.ts"
import { deployment, type Server, simulate } from "../../acceptance/plant.ts"
import type { Report } from "../../acceptance/report.ts"
import { type Axis, lines, type Panel } from "../harness/chart.ts"
import { atLeast, promised, type Study, type Verdict } from "../harness/Study.ts"
import { percent, table } from "../harness/table.ts"

const loads = [0.5, 0.8, 1, 1.5, 2, 3, 5, 7, 10]
/** Those of which the design promises something. */
const promisedLoads = [2, 5, 10]
const ours = deployment()
const servers = [ours, fifo]

interface Cell {
  readonly plant: (typeof matrix)[number]
  readonly server: Server
  readonly load: number
  readonly report: Report
}

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
    return {
      title: "Overload, in virtual time",
      text: written(cells),
      verdicts: verdicts(cells.filter(({ server }) => server === ours)),
      data: dataOf(cells),
      charts: { "overload-goodput.svg": lines("Useful answers as a part of capacity", panels(cells)) }
    }
  })
}

const goodputs = (cells: ReadonlyArray<Cell>, plant: Cell["plant"], server: Server) =>
  row(cells, plant, server).map(({ report }) => percent(report.ofCapacity))

const row = (cells: ReadonlyArray<Cell>, plant: Cell["plant"], server: Server) =>
  cells.filter((cell) => cell.plant === plant && cell.server === server)

const x: Axis = {
  label: "offered load / capacity",
  from: loads[0]!,
  to: loads.at(-1)!,
  marks: [0.5, 1, 2, 5, 10],
  isLogarithmic: true,
  write: (load) => `${load}x`
}

/** The axis of goodput, as high as the highest of the points. */
const yOf = (points: ReadonlyArray<readonly [load: number, goodput: number]>): Axis => {
  const to = Math.max(1.2, ...points.map(([, goodput]) => goodput + 0.1))
  return { label: "", from: 0, to, marks: [0, 0.5, 1, 1.5, 2].filter((mark) => mark <= to), write: percent }
}

const panels = (cells: ReadonlyArray<Cell>): ReadonlyArray<Panel> =>
  matrix
    .toSorted((a, b) => Number(a.interruptible) - Number(b.interruptible))
    .map((plant) => {
      const lines = servers.map((server) => ({
        name: server.name,
        points: row(cells, plant, server).map(({ load, report }) => [load, report.ofCapacity] as const)
      }))
      const ideal = [
        [x.from, x.from],
        [1, 1],
        [x.to, 1]
      ] as const
      return { title: called(plant), x, y: yOf(lines.flatMap(({ points }) => points)), lines, ideal }
    })

const dataOf = (cells: ReadonlyArray<Cell>) => ({
  loads,
  rows: matrix.flatMap((plant) =>
    servers.map((server) => {
      const reports = row(cells, plant, server).map(({ report }) => report)
      return {
        plant: called(plant),
        server: server.name,
        ofOffered: reports.map(({ ofOffered }) => ofOffered),
        ofCapacity: reports.map(({ ofCapacity }) => ofCapacity),
        p99: reports.map(({ p99 }) => p99)
      }
    })
  )
})

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
  return `10 permits, service times of 100 ms in the mean, a deadline of ${DEADLINE} ms, requests
that arrive at random and do not wait for each other. FIFO is a semaphore with a timeout around it. What capacity and load are is
said in [load.ts](../../test/acceptance/load.ts); useful answers per second at capacity: ${capacities.join(", ")}.

## Useful answers, as a part of capacity

${rows(({ ofCapacity }) => percent(ofCapacity))}

Work that can be interrupted gives its permit back at its deadline. FIFO starts all requests late, so it gets permits back from
those that could not be met sooner than capacity counts on; where those take most of the time, that is more than 100 %.

## 99th percentile of the times to a useful answer, in milliseconds

${rows(({ p99 }) => (Number.isNaN(p99) ? "none" : p99.toFixed(0)))}
`
}

/** The plant that is nearest to its budget, at each load. */
const verdicts = (cells: ReadonlyArray<Cell>): ReadonlyArray<Verdict> =>
  loads.flatMap((load) => {
    const some = cells.filter((cell) => cell.load === load)
    const worst = (value: (report: Report) => number) => some.toSorted((a, b) => value(a.report) - value(b.report))[0]!
    const part = ({ ofCapacity, ofOffered }: Report) => (load < 1 ? ofOffered : ofCapacity)
    const { plant, report } = worst(part)
    const name = `${load}x, ${called(plant)}, the worst: useful answers`
    if (load < 1) return [atLeast(name, part(report), 0.98, "of what is offered")]
    if (load < 2) return [atLeast(name, part(report), 0.92, "of capacity")]
    if (!promisedLoads.includes(load)) return [atLeast(name, part(report), 0.95, "of capacity")]
    const slowest = worst(({ p99 }) => -p99)
    return [
      promised.atLeast(name, part(report), 0.95, "of capacity"),
      promised.atMost(
        `${load}x, ${called(slowest.plant)}, the worst: p99 of the times to a useful answer`,
        slowest.report.p99,
        0.7 * DEADLINE,
        "ms"
      )
    ]
  })
