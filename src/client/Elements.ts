/**
 * Takes the body of a stream apart: server-sent events, lines of JSON, text or bytes. Nothing is read before it is asked for.
 *
 * @since 0.1.0
 */
// @effect-diagnostics asyncFunction:off -- for programs without Effect
import { ofAnswer, ofBadAnswer } from "./CallError.ts"

/** Streams are asked for as events: `fetch` drops what it has not given out when a connection breaks off, and so the error that lines end with. */
export const ACCEPT = "text/event-stream, application/x-ndjson;q=0.9, */*;q=0.8"

/** The type of an answer, without its parameters. */
export const typeOf = (response: Response): string =>
  (response.headers.get("content-type") ?? "").split(";")[0]!.trim().toLowerCase()

/** Whether bytes of a type are text. */
export const isText = (type: string): boolean => /^text\/|[/+](xml|json|yaml|javascript)$/.test(type)

/** Whether a type is one of those in which elements of JSON come. */
export const isFramed = (type: string): boolean => type === "text/event-stream" || type === "application/x-ndjson"

interface Found {
  readonly element: unknown
  /** Of lines, only what the connection breaks off after is one. */
  readonly isFailure: "surely" | "perhaps" | false
}

interface Parser {
  /** Takes the next line of the body, which may end an element. */
  readonly take: (line: string) => Found | undefined
  /** Whether an element has begun and not ended. */
  readonly isOpen: () => boolean
}

const lines: Parser = {
  take: (line) => ({ element: JSON.parse(line), isFailure: line.startsWith('{"error":') && "perhaps" }),
  isOpen: () => false
}

/** As the HTML standard has them, section 9.2. With `isNamed` an element is an event with its name and id, and not only its data. */
const events = (isNamed: boolean): Parser => {
  let fields: Record<string, string> = {}
  return {
    isOpen: () => "data" in fields,
    take: (line) => {
      const [, name = "", value = ""] = /^([^:\r]*):? ?([^\r]*)/.exec(line)!
      fields[name] = name === "data" && name in fields ? `${fields[name]}\n${value}` : value
      if (!/^\r?$/.test(line)) return undefined
      const { data, event, id } = fields
      fields = {}
      if (data === undefined) return undefined
      const json: unknown = JSON.parse(data)
      const named = { data: json, ...(id !== undefined && { id }), ...(event !== undefined && { event }) }
      return { element: isNamed && event !== "error" ? named : json, isFailure: event === "error" && "surely" }
    }
  }
}

/** The elements of a stream, one by one. Throws what the body fails with, or a `CallError`. */
export const elementsOf = (response: Response, isNamed: boolean): AsyncGenerator<unknown, undefined> => {
  const type = typeOf(response)
  if (!isFramed(type)) return piecesOf(response, isText(type))
  return parsed(response, type === "text/event-stream" ? events(isNamed) : lines)
}

async function* piecesOf(response: Response, areText: boolean): AsyncGenerator<unknown, undefined> {
  const decoder = new TextDecoder()
  for await (const value of chunksOf(response)) {
    const piece = areText ? decoder.decode(value, { stream: value !== undefined }) : (value ?? "")
    if (piece.length > 0) yield piece
  }
}

async function* parsed(response: Response, parser: Parser): AsyncGenerator<unknown, undefined> {
  const decoder = new TextDecoder()
  let rest = ""
  let last: Found | undefined
  try {
    for await (const value of chunksOf(response)) {
      if (last !== undefined) yield last.element
      last = undefined
      const found = decoder.decode(value, { stream: value !== undefined }).split("\n")
      found[0] = rest + found[0]
      rest = found.pop()!
      for (const [i, line] of found.entries()) {
        const next = take(parser, line, response)
        if (next?.isFailure === "surely") throw ofAnswer(next.element, response)
        if (next?.isFailure === "perhaps" && i === found.length - 1 && rest === "") last = next
        else if (next !== undefined) yield next.element
      }
    }
  } catch (cause) {
    throw last === undefined ? cause : ofAnswer((last.element as { readonly error: unknown }).error, response, cause)
  }
  if (rest !== "" || parser.isOpen()) throw new Error("the stream ends in the middle of an element")
}

/** The chunks of a body, and `undefined` at its end. Browsers don't all iterate over a body by themselves. */
async function* chunksOf(response: Response) {
  const reader = response.body!.getReader()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      yield value
      if (done) return
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

const take = (parser: Parser, line: string, response: Response): Found | undefined => {
  try {
    return parser.take(line)
  } catch {
    throw ofBadAnswer("an element is not JSON", response, line)
  }
}
