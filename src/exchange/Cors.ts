/**
 * Which pages of other origins may read the answers: cross-origin resource sharing, as the Fetch standard defines it.
 *
 * It is the browser that obeys. A request of any other client is none of this, and is to be authorized all the same.
 *
 * @since 0.1.0
 */
import { Duration, Schema } from "effect"
import { orElse, Time } from "../core/Options.ts"
import type { Incoming } from "./Reception.ts"

// What `text` has to be to equal the origin that a browser sends.
const isOrigin = (text: string): boolean => {
  const url = URL.parse(text)
  // What looks like a pattern can be parsed as well, and no page would ever match it.
  return url !== null && url.host !== "" && !url.host.includes("*") && `${url.protocol}//${url.host}` === text
}

const Origin = Schema.String.check(
  Schema.makeFilter(isOrigin, {
    expected:
      'an origin as browsers send it, such as "https://app.example.com": scheme, host, and port unless it is the usual one, ' +
      "in lower case and without a slash at the end"
  })
)

const HeaderName = Schema.String.check(Schema.isPattern(/^[\w!#$%&'*+.^`|~-]+$/, { expected: "the name of a header" }))

interface Lists {
  readonly origins: "*" | ReadonlyArray<string>
  readonly allowHeaders?: ReadonlyArray<string>
  readonly exposeHeaders: ReadonlyArray<string>
  readonly credentials: boolean
}

const isOpen = (list: "*" | ReadonlyArray<string> | undefined) => list?.includes("*") === true

const noCredentialsForAll = Schema.makeFilter((options: Lists) => {
  const open = (["origins", "allowHeaders", "exposeHeaders"] as const).find((name) => isOpen(options[name]))
  if (!options.credentials || open === undefined) return undefined
  const issue = `Expected false while ${open} has "*", which browsers don't take together. List the ${open}, or leave credentials out`
  return { path: ["credentials"], issue }
})

/**
 * Which pages of other origins may call, and what they may see.
 *
 * @category options
 * @since 0.1.0
 */
export const Options = Schema.Struct({
  /**
   * The origins of the pages that may call, such as `["https://app.example.com"]`, or `"*"` for all. A page in a sandbox, whose
   * origin is `null`, may call only with `"*"`: any page can make itself one. Default none: nothing is said about other origins.
   */
  origins: Schema.Union([Schema.Literal("*"), Schema.Array(Origin)]).pipe(
    Schema.withDecodingDefaultTypeKey(orElse<"*" | ReadonlyArray<string>>([]))
  ),
  /** Headers that a page may send. Default: those that it asks for. */
  allowHeaders: Schema.optionalKey(Schema.Array(HeaderName)),
  /** Headers of an answer that a page may see, beside the few that it always may. Default `["x-request-id", "retry-after"]`. */
  exposeHeaders: Schema.Array(HeaderName).pipe(
    Schema.withDecodingDefaultTypeKey(orElse<ReadonlyArray<string>>(["x-request-id", "retry-after"]))
  ),
  /**
   * Whether a page may call with the cookies and the client certificate of its user. Not together with `"*"`, and not needed for
   * a header `authorization` that the page sets itself. Default `false`.
   */
  credentials: Schema.Boolean.pipe(Schema.withDecodingDefaultTypeKey(orElse(false))),
  /** Time for which a browser need not ask again, in whole seconds and at most a day. Default `"10 minutes"`. */
  maxAge: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.minutes(10))))
}).check(noCredentialsForAll)

type ResponseHeaders = Readonly<Record<string, string>>

/**
 * Decides what is said to pages of other origins.
 *
 * @category models
 * @since 0.1.0
 */
export interface Cors {
  /**
   * The headers of the answer to a preflight, which has status 204 and no body; those for an origin that may not call say nothing.
   * `undefined` when it is no preflight, and when there are no origins: then it is a request like any other.
   */
  readonly preflight: (verb: string, headers: Incoming) => ResponseHeaders | undefined
  /** Whether the pages of an origin may call. */
  readonly allows: (origin: Incoming[string]) => boolean
  /** The headers that any other answer has, errors too, besides its own; their `vary` is to be joined with the answer's. */
  readonly headers: (origin: Incoming[string]) => ResponseHeaders
}

const VERBS = "POST, GET, HEAD"
const MAX_AGE = 86_400
// The names of headers and what may stand between them: one class, so it is read in one way.
const HEADER_LIST = /^[\w!#$%&'*+.^`|~\-, \t]+$/
const nothing: ResponseHeaders = {}

/** Makes the decider. It needs no look at the options for each request. */
export const make = (options: typeof Options.Type): Cors => {
  const { allowHeaders, exposeHeaders, origins } = options
  if (origins.length === 0) return { preflight: () => undefined, allows: () => false, headers: () => nothing }

  const shared = options.credentials ? { "access-control-allow-credentials": "true" } : nothing
  const toAny = origins === "*" ? nothing : { vary: "origin" }
  const toPage = (origin: string): ResponseHeaders => ({ ...toAny, "access-control-allow-origin": origin, ...shared })
  const pages = new Map(origins === "*" ? [] : origins.map((origin) => [origin, toPage(origin)]))
  const toAll = toPage("*")
  /** What says that the page may call; `undefined` when it may not. */
  const allow = (origin: Incoming[string]) =>
    origins === "*" ? toAll : typeof origin === "string" ? pages.get(origin) : undefined

  const exposed = exposeHeaders.length === 0 ? nothing : { "access-control-expose-headers": exposeHeaders.join(", ") }
  const answers = new Map(Array.from(pages, ([origin, headers]) => [origin, { ...headers, ...exposed }]))
  const toAllExposed = { ...toAll, ...exposed }

  const seconds = Math.min(Math.floor(Duration.toSeconds(options.maxAge)), MAX_AGE)
  const permission = { "access-control-allow-methods": VERBS, "access-control-max-age": String(seconds) }
  const varyByRequest = { vary: [...Object.values(toAny), "access-control-request-headers"].join(", ") }
  const permitted = (asked: Incoming[string]): ResponseHeaders => {
    if (allowHeaders !== undefined) {
      return allowHeaders.length === 0 ? nothing : { "access-control-allow-headers": allowHeaders.join(", ") }
    }
    return typeof asked === "string" && HEADER_LIST.test(asked)
      ? { ...varyByRequest, "access-control-allow-headers": asked }
      : varyByRequest
  }

  return {
    preflight: (verb, headers) => {
      const { origin } = headers
      const isPreflight = verb === "OPTIONS" && origin !== undefined && "access-control-request-method" in headers
      if (!isPreflight) return undefined
      const allowed = allow(origin)
      return allowed === undefined
        ? toAny
        : { ...allowed, ...permission, ...permitted(headers["access-control-request-headers"]) }
    },
    allows: (origin) => allow(origin) !== undefined,
    headers: (origin) => {
      if (origins === "*") return toAllExposed
      return (typeof origin === "string" ? answers.get(origin) : undefined) ?? toAny
    }
  }
}
