/**
 * How the elements of a stream look on the wire: as server-sent events, as lines of JSON, or as they are.
 *
 * @since 0.1.0
 */
import type { Gives } from "./RouteTable.ts"

/**
 * A form of a stream.
 *
 * @category models
 * @since 0.1.0
 */
export interface Frames {
  readonly name: "sse" | "ndjson" | "raw"
  readonly contentType: string
  /** Whether an event has its name and id beside its data, and not in it. */
  readonly hasNames: boolean
  /** An element, from its JSON, and its name and id if it is an event. */
  readonly element: (json: string, event?: string, id?: string) => string
  /** Tells of a failure, from the JSON of its error; nothing where the form has no place for it. */
  readonly error: (json: string) => string
  /** What says that the connection is alive; empty where nothing may be said. */
  readonly heartbeat: string
  /** Whether a reader can tell a failure from the end by what it has read, or needs to see the connection break off. */
  readonly tellsErrors: boolean
}

/** Server-sent events, as the HTML standard defines them: section 9.2. JSON has no line breaks, so the data is one line. */
const sse: Frames = {
  name: "sse",
  contentType: "text/event-stream",
  hasNames: true,
  element: (json, event, id) => {
    const named = event === undefined ? "" : `event: ${event}\n`
    return `${id === undefined ? "" : `id: ${id}\n`}${named}data: ${json}\n\n`
  },
  error: (json) => `event: error\ndata: ${json}\n\n`,
  heartbeat: ": still here\n\n",
  tellsErrors: true
}

/** One JSON value per line; a failure is a last line `{"error":...}`, after which the connection breaks off. */
const ndjson: Frames = {
  name: "ndjson",
  contentType: "application/x-ndjson",
  hasNames: false,
  element: (json) => `${json}\n`,
  error: (json) => `{"error":${json}}\n`,
  heartbeat: "",
  tellsErrors: false
}

/** Text or bytes as they are. */
const raw = (contentType: string): Frames => ({
  name: "raw",
  contentType,
  hasNames: false,
  element: (json) => json,
  error: () => "",
  heartbeat: "",
  tellsErrors: false
})

/** The form with a name, which is what can be sent to another thread. */
export const named = (name: Frames["name"], { contentType }: Gives): Frames =>
  name === "sse" ? sse : name === "ndjson" ? ndjson : raw(contentType)

/** The form in which a client takes the stream of a method, from its `Accept` header: events unless it prefers lines. */
export const choose = ({ contentType, form }: Gives, accept: string | undefined): Frames | undefined => {
  if (form === "text" || form === "bytes") return raw(contentType)
  if (accept === undefined) return sse
  const ranges = accept.slice(0, 1000).split(",").map(rangeOf)
  const events = quality(ranges, ["text/event-stream", "text/*", "*/*"])
  const lines = quality(ranges, ["application/x-ndjson", "application/*", "*/*"])
  if (events === 0 && lines === 0) return undefined
  return lines > events ? ndjson : sse
}

const rangeOf = (range: string): readonly [type: string, quality: number] => {
  const [type = "", ...parameters] = range.split(";").map((part) => part.trim().toLowerCase())
  const q = parameters.find((parameter) => parameter.startsWith("q="))
  const value = q === undefined ? 1 : Number(q.slice(2))
  return [type, value >= 0 && value <= 1 ? value : 0]
}

/** That of the first of `types` that is named: the most specific one decides. */
const quality = (ranges: ReadonlyArray<readonly [string, number]>, types: ReadonlyArray<string>): number => {
  for (const type of types) {
    const found = ranges.find(([named]) => named === type)
    if (found !== undefined) return found[1]
  }
  return 0
}
