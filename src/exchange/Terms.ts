/**
 * On which terms a method takes a request: its verb, and the type and the size of its body.
 *
 * @since 0.1.0
 */
import { problem, type Reply } from "./Answer.ts"
import type { Incoming } from "./Reception.ts"
import type { Route } from "./RouteTable.ts"

/**
 * Bytes that a body may have: one that is read before its method is called, and one that the method reads.
 *
 * @category options
 * @since 0.1.0
 */
export interface Sizes {
  readonly maxBodySize: number
  readonly maxUploadSize: number
}

/** The answer to a request that does not meet the terms of a method. */
export const refuse = (
  endpoint: Route,
  verb: string,
  headers: Incoming,
  bounds: Sizes,
  requestId: string
): Reply | undefined => {
  if (verb !== "POST" && !(verb === "GET" && isEventSource(endpoint, headers))) {
    return wrongVerb(requestId, takesGet(endpoint) ? "GET, POST" : "POST")
  }
  const size = Number(headers["content-length"])
  if ((size > 0 || "transfer-encoding" in headers) && !mayBe(endpoint, headers["content-type"])) {
    const expected = endpoint.takes.contentTypes.join(" or ")
    return problem(415, "UnsupportedMediaType", `Send the body as content-type: ${expected}`, requestId)
  }
  return size > maxSizeOf(endpoint, bounds) ? tooLarge(endpoint, bounds, requestId) : undefined
}

const maxSizeOf = ({ takes }: Route, { maxBodySize, maxUploadSize }: Sizes) =>
  isWhole(takes) ? maxBodySize : maxUploadSize

/** The answer to a body that is too large. */
export const tooLarge = (endpoint: Route, bounds: Sizes, requestId: string): Reply => ({
  ...problem(413, "PayloadTooLarge", `The body may have at most ${maxSizeOf(endpoint, bounds)} bytes`, requestId),
  close: true
})

/** Whether a body is read before the method is called, and not by it. */
export const isWhole = ({ form }: Route["takes"]): boolean => form !== "upload" && form !== "multipart"

const mayBe = ({ takes }: Route, type: Incoming[string]): boolean => {
  if (takes.form === "json") return type === "application/json" || (typeof type === "string" && JSON_TYPE.test(type))
  if (takes.contentTypes.length === 0) return true
  if (typeof type !== "string") return false
  const semicolon = type.indexOf(";")
  const name = (semicolon === -1 ? type : type.slice(0, semicolon)).trim().toLowerCase()
  return takes.contentTypes.some((taken) =>
    taken.endsWith("/*") ? name.startsWith(taken.slice(0, -1)) : name === taken.toLowerCase()
  )
}

const JSON_TYPE = /^application\/json\s*(;\s*charset="?utf-?8"?\s*)?$/i

// A browser's EventSource can send nothing but a GET, so a method whose stream it can read takes its payload from the URL too. The
// header keeps other elements of a foreign page from calling it.
const takesGet = ({ gives, stream, takes }: Route) =>
  stream && takes.form === "json" && (gives.form === "json" || gives.form === "event")

const isEventSource = (endpoint: Route, { accept }: Incoming) =>
  takesGet(endpoint) && typeof accept === "string" && accept.includes("text/event-stream")

/** The payload that a URL has, whose question mark is at `question`. */
export const queryOf = (url: string, question: number): string =>
  question === -1 ? "" : (new URLSearchParams(url.slice(question)).get("payload") ?? "")

/** The answer to a client that takes a stream in no form that there is. */
export const notAcceptable = (requestId: string): Reply =>
  problem(406, "NotAcceptable", "Accept text/event-stream or application/x-ndjson", requestId)

/** The answer to another verb than `allow` has. */
export const wrongVerb = (requestId: string, allow: string): Reply => ({
  ...problem(405, "MethodNotAllowed", `Use ${allow}`, requestId),
  headers: { allow }
})
