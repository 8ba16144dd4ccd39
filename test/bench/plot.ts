/**
 * Draws goodput against offered load, as SVG without any dependency: a panel for each plant, a line for each server.
 *
 * The background is transparent and the colours are of middle brightness, so it can be read on light and on dark pages; the
 * lines differ in their dashes too.
 */

/** A line: goodput as a part of capacity, by offered load. */
interface Line {
  readonly name: string
  readonly points: ReadonlyArray<readonly [load: number, goodput: number]>
}

export interface Panel {
  readonly title: string
  readonly lines: ReadonlyArray<Line>
}

const COLUMNS = 3
const PANEL = { width: 300, height: 210, left: 42, right: 14, top: 34, bottom: 38 }
const HEAD = 64
const GREY = "#7d8794"
const styles = [
  { colour: "#2c83dd", dashes: "" },
  { colour: "#dd5a3c", dashes: "6 3" }
]

/** The whole drawing. */
export const plot = (title: string, panels: ReadonlyArray<Panel>): string => {
  const width = PANEL.width * COLUMNS
  const height = HEAD + PANEL.height * Math.ceil(panels.length / COLUMNS)
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-label="${title}"`,
    `  font-family="system-ui, Helvetica, Arial, sans-serif" font-size="11" fill="${GREY}">`,
    text(PANEL.left, 20, title, `font-size="14" font-weight="600"`),
    ...legend(panels[0]!.lines),
    ...panels.map((panel, i) => {
      const at = [(i % COLUMNS) * PANEL.width, HEAD + Math.floor(i / COLUMNS) * PANEL.height]
      return `<g transform="translate(${at.join(" ")})">\n${drawn(panel)}\n</g>`
    }),
    "</svg>\n"
  ].join("\n")
}

const legend = (lines: ReadonlyArray<Line>) =>
  [...lines.map(({ name }, i) => ({ name, stroke: strokeOf(i) })), { name: "ideal", stroke: ideal }].map(
    ({ name, stroke }, i) => {
      const x = PANEL.left + i * 120
      return `<path d="M${x} 42h24" ${stroke}/>${text(x + 30, 46, name)}`
    }
  )

const strokeOf = (line: number) => {
  const { colour, dashes } = styles[line % styles.length]!
  return `fill="none" stroke="${colour}" stroke-width="2.2" stroke-linejoin="round" stroke-dasharray="${dashes}"`
}

const ideal = `fill="none" stroke="${GREY}" stroke-width="1.2" stroke-dasharray="1 3"`

const drawn = ({ lines, title }: Panel): string => {
  const points = lines.flatMap(({ points }) => points)
  const loads = Array.from(new Set(points.map(([load]) => load))).toSorted((a, b) => a - b)
  const [first, last] = [loads[0]!, loads.at(-1)!]
  const highest = Math.max(1.2, ...points.map(([, goodput]) => goodput + 0.1))
  const right = PANEL.width - PANEL.right
  const bottom = PANEL.height - PANEL.bottom
  const x = (load: number) =>
    round(PANEL.left + ((right - PANEL.left) * Math.log(load / first)) / Math.log(last / first))
  const y = (goodput: number) => round(bottom - ((bottom - PANEL.top) * goodput) / highest)
  const path = (points: Line["points"]) => `M${points.map(([load, goodput]) => `${x(load)} ${y(goodput)}`).join("L")}`
  const shares = [0, 0.5, 1, 1.5, 2].filter((goodput) => goodput <= highest)
  return [
    text(PANEL.left, 20, title, `font-size="12" font-weight="600"`),
    ...shares.flatMap((goodput) => [
      `<path d="M${PANEL.left} ${y(goodput)}H${right}" stroke="${GREY}" stroke-opacity="0.3"/>`,
      text(PANEL.left - 6, y(goodput) + 4, `${goodput * 100} %`, `text-anchor="end"`)
    ]),
    ...[0.5, 1, 2, 5, 10].map((load) => text(x(load), bottom + 15, `${load}x`, `text-anchor="middle"`)),
    text((PANEL.left + right) / 2, bottom + 30, "offered load / capacity", `text-anchor="middle"`),
    `<path d="${path([
      [first, first],
      [1, 1],
      [last, 1]
    ])}" ${ideal}/>`,
    ...lines.map(({ points }, i) => `<path d="${path(points)}" ${strokeOf(i)}/>`)
  ].join("\n")
}

const round = (n: number) => Math.round(n * 10) / 10

const text = (x: number, y: number, content: string, attributes = "") =>
  `<text x="${x}" y="${y}" ${attributes}>${content}</text>`
