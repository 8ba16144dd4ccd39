/**
 * Draws charts as SVG, without any dependency: lines in panels, bars in groups, and a bar of parts.
 *
 * The background is transparent and the colours are of middle brightness, so they can be read on light and on dark pages; lines differ in
 * their dashes too, and bars have their values written beside them.
 */

/** An axis: where its ends and its marks are, and what is written at a mark. */
export interface Axis {
  readonly label: string
  readonly from: number
  readonly to: number
  readonly marks: ReadonlyArray<number>
  readonly isLogarithmic?: boolean
  readonly write: (value: number) => string
}

interface Line {
  readonly name: string
  readonly points: ReadonlyArray<readonly [x: number, y: number]>
}

export interface Panel {
  readonly title: string
  readonly x: Axis
  readonly y: Axis
  readonly lines: ReadonlyArray<Line>
  /** What would be reached by something perfect. */
  readonly ideal?: Line["points"]
}

export interface Group {
  readonly title: string
  readonly bars: ReadonlyArray<{ readonly name: string; readonly value: number }>
}

const COLUMNS = 3
const PANEL = { width: 300, height: 210, left: 50, right: 14, top: 34, bottom: 38 }
const HEAD = 64
const GREY = "#7d8794"
const colours = ["#2c83dd", "#dd5a3c", "#3a9d5d", "#a06bd0", "#c08a1e", "#4aa6a6", "#d0628f", "#8a8f3c", "#5f7fbf"]
const dashes = ["", "6 3", "2 2", "8 3 2 3", "4 4"]

const round = (value: number) => Math.round(value * 10) / 10

const escaped = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;")

const text = (x: number, y: number, content: string, attributes = "") =>
  `<text x="${round(x)}" y="${round(y)}" ${attributes}>${escaped(content)}</text>`

const drawing = (title: string, width: number, height: number, content: ReadonlyArray<string>) =>
  [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${round(height)}" role="img" aria-label="${escaped(title)}"`,
    `  font-family="system-ui, Helvetica, Arial, sans-serif" font-size="11" fill="${GREY}">`,
    text(14, 20, title, `font-size="14" font-weight="600"`),
    ...content,
    "</svg>\n"
  ].join("\n")

const strokeOf = (line: number) =>
  `fill="none" stroke="${colours[line % colours.length]}" stroke-width="2.2" stroke-linejoin="round" stroke-dasharray="${dashes[line % dashes.length]}"`

const ideal = `fill="none" stroke="${GREY}" stroke-width="1.2" stroke-dasharray="1 3"`

/** The places of an axis between two ends. */
const scale = ({ from, isLogarithmic, to }: Axis, start: number, end: number) => {
  const of = isLogarithmic === true ? Math.log : (value: number) => value
  return (value: number) => round(start + ((end - start) * (of(value) - of(from))) / (of(to) - of(from)))
}

/** Lines in panels that stand beside and below each other, all with the same names of lines. */
export const lines = (title: string, panels: ReadonlyArray<Panel>): string => {
  const columns = Math.min(COLUMNS, panels.length)
  const height = HEAD + PANEL.height * Math.ceil(panels.length / columns)
  const { ideal: perfect, lines } = panels[0]!
  const legend = [
    ...lines.map(({ name }, i) => ({ name, stroke: strokeOf(i) })),
    ...(perfect === undefined ? [] : [{ name: "ideal", stroke: ideal }])
  ].map(({ name, stroke }, i) => {
    const x = 14 + i * 150
    return `<path d="M${x} 42h24" ${stroke}/>${text(x + 30, 46, name)}`
  })
  return drawing(title, Math.max(PANEL.width * columns, 14 + 150 * legend.length), height, [
    ...legend,
    ...panels.map((panel, i) => {
      const at = [(i % columns) * PANEL.width, HEAD + Math.floor(i / columns) * PANEL.height]
      return `<g transform="translate(${at.join(" ")})">\n${drawn(panel)}\n</g>`
    })
  ])
}

const drawn = ({ ideal: perfect, lines, title, x, y }: Panel): string => {
  const right = PANEL.width - PANEL.right
  const bottom = PANEL.height - PANEL.bottom
  const [across, up] = [scale(x, PANEL.left, right), scale(y, bottom, PANEL.top)]
  const path = (points: Line["points"]) => `M${points.map(([a, b]) => `${across(a)} ${up(b)}`).join("L")}`
  return [
    text(PANEL.left, 20, title, `font-size="12" font-weight="600"`),
    ...y.marks.flatMap((mark) => [
      `<path d="M${PANEL.left} ${up(mark)}H${right}" stroke="${GREY}" stroke-opacity="0.3"/>`,
      text(PANEL.left - 6, up(mark) + 4, y.write(mark), `text-anchor="end"`)
    ]),
    ...x.marks.map((mark) => text(across(mark), bottom + 15, x.write(mark), `text-anchor="middle"`)),
    text((PANEL.left + right) / 2, bottom + 30, x.label, `text-anchor="middle"`),
    ...(y.label === "" ? [] : [text(PANEL.left, PANEL.top - 4, y.label)]),
    ...(perfect === undefined ? [] : [`<path d="${path(perfect)}" ${ideal}/>`]),
    ...lines.flatMap(({ points }, i) => [
      `<path d="${path(points)}" ${strokeOf(i)}/>`,
      ...points.map(
        ([a, b]) => `<circle cx="${across(a)}" cy="${up(b)}" r="2.4" fill="${colours[i % colours.length]}"/>`
      )
    ])
  ].join("\n")
}

const BAR = { height: 16, left: 190, width: 500, gap: 30 }

/** Bars in groups below each other, on a logarithmic scale from `from` on; a line stands where the value is 1. */
export const bars = (title: string, label: string, groups: ReadonlyArray<Group>, write: (value: number) => string) => {
  const values = groups.flatMap(({ bars }) => bars.map(({ value }) => value))
  const from = Math.min(0.5, ...values)
  const x = scale(
    { label, from, to: Math.max(2, ...values) * 1.2, marks: [], isLogarithmic: true, write },
    BAR.left,
    BAR.left + BAR.width
  )
  const names = [...new Set(groups.flatMap(({ bars }) => bars.map(({ name }) => name)))]
  let y = 52
  const content = groups.flatMap(({ bars, title }) => {
    const top = y + 18
    y = top + bars.length * BAR.height + BAR.gap - 18
    return [
      text(14, top - 6, title, `font-size="12" font-weight="600"`),
      ...bars.flatMap(({ name, value }, i) => {
        const at = top + i * BAR.height
        const [start, end] = [x(1), x(value)].toSorted((a, b) => a - b)
        const colour = colours[names.indexOf(name) % colours.length]!
        return [
          text(BAR.left - 8, at + 11, name, `text-anchor="end"`),
          `<rect x="${start}" y="${at + 2}" width="${round(Math.max(1, end! - start!))}" height="${BAR.height - 4}" fill="${colour}"/>`,
          text(end! + 5, at + 11, write(value))
        ]
      }),
      `<path d="M${x(1)} ${top}v${bars.length * BAR.height}" stroke="${GREY}"/>`
    ]
  })
  return drawing(title, BAR.left + BAR.width + 60, y + 6, [text(14, 40, label), ...content])
}

/** One bar, made of parts, with what each of them is below it. */
export const parts = (
  title: string,
  unit: string,
  rows: ReadonlyArray<{
    readonly name: string
    readonly parts: ReadonlyArray<{ readonly name: string; readonly value: number }>
  }>
) => {
  const names = [...new Set(rows.flatMap(({ parts }) => parts.map(({ name }) => name)))]
  const longest = Math.max(...rows.map(({ parts }) => parts.reduce((sum, { value }) => sum + value, 0)))
  const colourOf = (name: string) => colours[names.indexOf(name) % colours.length]!
  const content = rows.flatMap(({ name, parts }, row) => {
    const y = 40 + row * 52
    let at = 14
    const sum = parts.reduce((sum, { value }) => sum + value, 0)
    return [
      text(14, y + 8, `${name}: ${sum.toFixed(1)} ${unit}`),
      ...parts.flatMap((part) => {
        const width = (part.value / longest) * 720
        const x = at
        at += width
        return [
          `<rect x="${round(x)}" y="${y + 14}" width="${round(Math.max(0, width - 1))}" height="20" fill="${colourOf(part.name)}"/>`,
          ...(width < 26
            ? []
            : [text(x + width / 2, y + 28, part.value.toFixed(1), `text-anchor="middle" fill="#fff"`)])
        ]
      })
    ]
  })
  const top = 40 + rows.length * 52 + 10
  const legend = names.flatMap((name, i) => {
    const [x, y] = [14 + (i % 2) * 370, top + Math.floor(i / 2) * 18]
    return [`<rect x="${x}" y="${y}" width="10" height="10" fill="${colourOf(name)}"/>`, text(x + 16, y + 9, name)]
  })
  return drawing(title, 750, top + Math.ceil(names.length / 2) * 18 + 8, [...content, ...legend])
}
