/**
 * Makes the bodies of answers smaller, where the client can undo it: on Node's thread pool, not on the event loop.
 *
 * @since 0.1.0
 */
import { Effect, Schema } from "effect"
import * as Zlib from "node:zlib"
import { count, orElse } from "../core/Options.ts"
import type { Incoming } from "./Reception.ts"
import type { Piece } from "./Outlet.ts"

/**
 * A way to write a body in fewer bytes, by its name in HTTP.
 *
 * @category models
 * @since 0.1.0
 */
export const Encoding = Schema.Literals(["br", "zstd", "gzip"])

/**
 * A way to write a body in fewer bytes, by its name in HTTP.
 *
 * @category models
 * @since 0.1.0
 */
export type Encoding = typeof Encoding.Type

const noneTwice = Schema.makeFilter(
  (encodings: ReadonlyArray<Encoding>) => new Set(encodings).size === encodings.length,
  {
    expected: "each encoding once"
  }
)

/**
 * What is compressed, and how. An ingress that isn't given any options compresses nothing, and takes `{}` for the defaults.
 *
 * Where an answer holds a secret beside something that a stranger can choose, its size can give the secret away (the BREACH
 * attack): don't compress such answers.
 *
 * @category options
 * @since 0.1.0
 */
export const Options = Schema.Struct({
  /** Bytes that a body must have to be compressed, at least. Default `1024`. */
  minSize: count(0).pipe(Schema.withDecodingDefaultTypeKey(orElse(1024))),
  /**
   * What may be used; of those that a client likes equally well, the first one. `"br"` makes large bodies smallest.
   * `"zstd"` is fastest, and still an experiment of Node. Default `["br", "gzip"]`.
   */
  encodings: Schema.Array(Encoding)
    .check(Schema.isMinLength(1), noneTwice)
    .pipe(Schema.withDecodingDefaultTypeKey(orElse<ReadonlyArray<Encoding>>(["br", "gzip"])))
})

/**
 * Chooses how the answer to a request is written, from its header `accept-encoding`: what it likes best, and only what it has named
 * or matched with `*`. `undefined` is for as it is: when it likes that better or nothing else, and when the header is missing or
 * malformed.
 */
export const negotiate = (
  accepted: Incoming[string],
  { encodings }: Pick<typeof Options.Type, "encodings">
): Encoding | undefined => {
  if (typeof accepted !== "string") return undefined
  const qualities = qualitiesOf(accepted)
  if (qualities === undefined) return undefined
  const any = qualities.get("*")
  let best: Encoding | undefined = undefined
  let quality = 0
  for (const encoding of encodings) {
    const liked = qualities.get(encoding) ?? any ?? 0
    if (liked <= quality) continue
    best = encoding
    quality = liked
  }
  return quality >= (qualities.get("identity") ?? any ?? 0) ? best : undefined
}

const qualitiesOf = (accepted: string): ReadonlyMap<string, number> | undefined => {
  const qualities = new Map<string, number>()
  for (const member of accepted.split(",")) {
    const [name = "", weight = "q=1", ...rest] = member.split(";").map((part) => part.trim().toLowerCase())
    if (name === "" && !member.includes(";")) continue
    if (!NAME.test(name) || !WEIGHT.test(weight) || rest.length > 0) return undefined
    // Of what is named twice, the refusal counts.
    qualities.set(name, Math.min(Number(weight.slice(2)), qualities.get(name) ?? 1))
  }
  return qualities
}

// Each has bounds, or one class alone, so none takes longer than one look at each character.
const NAME = /^[\w!#$%&'*+.^`|~-]+$/
const WEIGHT = /^q=(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$/

/** Whether a body gets smaller enough: it is text of some kind, and has at least `minSize` bytes. */
export const worthIt = (
  contentType: string,
  size: number,
  { minSize }: Pick<typeof Options.Type, "minSize">
): boolean => size >= minSize && isText(contentType)

const isText = (contentType: string): boolean => {
  const semicolon = contentType.indexOf(";")
  const type = (semicolon === -1 ? contentType : contentType.slice(0, semicolon)).trim().toLowerCase()
  return type.startsWith("text/") || TEXTS.has(type) || SUFFIXES.some((suffix) => type.endsWith(suffix))
}

const SUFFIXES = ["+json", "+xml", "+yaml"]
const TEXTS = new Set(
  ["json", "x-ndjson", "ndjson", "jsonl", "json-seq", "javascript", "xml", "yaml", "x-yaml"].map(
    (name) => `application/${name}`
  )
)

/**
 * The headers of an answer that could have been compressed, from those it has: `vary` for caches, even when this client takes it as
 * it is, and `content-encoding`. The length of the body is not among them.
 */
export const label = (
  headers: Readonly<Record<string, string>> | undefined,
  encoding: Encoding | undefined
): Readonly<Record<string, string>> => {
  const vary = headers?.["vary"] === undefined ? "accept-encoding" : `${headers["vary"]}, accept-encoding`
  return encoding === undefined ? { ...headers, vary } : { ...headers, vary, "content-encoding": encoding }
}

/** Compresses a whole body. */
export const compress = (body: Piece, encoding: Encoding): Effect.Effect<Uint8Array> =>
  Effect.callback((resume) => {
    whole[encoding](body, (error, compressed) =>
      resume(error === null ? Effect.succeed(compressed) : Effect.die(error))
    )
  })

type Done = (error: Error | null, compressed: Uint8Array) => void

const { constants } = Zlib
// So much that twice the work would save some hundredths of the bytes.
const gzip = { level: 6 }
const zstd = { params: { [constants.ZSTD_c_compressionLevel]: 3 } }
const brotli = { [constants.BROTLI_PARAM_QUALITY]: 4 }

const whole: Record<Encoding, (body: Piece, done: Done) => void> = {
  br: (body, done) =>
    Zlib.brotliCompress(body, { params: { ...brotli, [constants.BROTLI_PARAM_SIZE_HINT]: body.length } }, done),
  zstd: (body, done) => Zlib.zstdCompress(body, zstd, done),
  gzip: (body, done) => Zlib.gzip(body, gzip, done)
}
