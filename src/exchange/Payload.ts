/**
 * From the body of a request to what its method takes.
 *
 * @since 0.1.0
 */
import { ByteSize, Duration, Effect, Stream } from "effect"
import * as Multipart from "effect/http/Multipart"
import type { Body, Field, File, Part } from "../core/HttpSchema.ts"
import { BadUpload, because, type ServeError } from "../core/ServeError.ts"

/**
 * The bounds of a body that a handler reads while it comes.
 *
 * @category options
 * @since 0.1.0
 */
export interface UploadBounds {
  readonly maxUploadSize: number
  readonly receiveTimeout: Duration.Duration
}

/** What is wrong with a body. */
export class Unfit {
  readonly message: string

  constructor(message: string) {
    this.message = message
  }
}

/** Levels of arrays and objects in each other. Whoever goes through more of them, by calls in calls, runs out of stack some time. */
const DEPTH = 500

const notJson = new Unfit("The body is not JSON")
const tooDeep = new Unfit(`The body has more than ${DEPTH} levels of arrays and objects`)

/** Parses a body. No body at all is the payload of a method that takes none. */
export const json = (body: string): unknown => {
  if (body === "") return null
  if (body.length > DEPTH && isDeep(body)) return tooDeep
  try {
    return JSON.parse(body)
  } catch {
    return notJson
  }
}

// Most bodies have too few brackets to be deep, and to count them takes less time than to look at each character.
const isDeep = (body: string): boolean => count(body, "[") + count(body, "{") > DEPTH && depthOf(body) > DEPTH

/** How often a character is there; more than {@link DEPTH} are not counted. */
const count = (body: string, char: string): number => {
  let found = 0
  for (let i = body.indexOf(char); i !== -1 && found <= DEPTH; i = body.indexOf(char, i + 1)) found++
  return found
}

/** The most levels there are, or the first number above {@link DEPTH}. */
const depthOf = (body: string): number => {
  let depth = 0
  let deepest = 0
  for (let i = 0; i < body.length && deepest <= DEPTH; i++) {
    const char = body[i]
    if (char === '"') i = endOf(body, i)
    else if (char === "[" || char === "{") deepest = Math.max(deepest, ++depth)
    else if (char === "]" || char === "}") depth--
  }
  return deepest
}

/** Where the string ends that begins at a quote. */
const endOf = (body: string, quote: number): number => {
  let i = quote + 1
  for (; i < body.length && body[i] !== '"'; i++) if (body[i] === "\\") i++
  return i
}

const bad = (why: BadUpload["why"], description: string) => because(() => new BadUpload({ why, description }))

/** The body as its handler reads it: bounded in size and in time. */
export const upload = (bytes: Stream.Stream<Uint8Array, unknown>, bounds: UploadBounds): Body => {
  const { maxUploadSize, receiveTimeout } = bounds
  const stalled = bad("stalled", `nothing came for ${Duration.format(Duration.fromInputUnsafe(receiveTimeout))}`)
  const tooLarge = bad("tooLarge", `it has more than ${maxUploadSize} bytes`)
  return bytes.pipe(
    Stream.mapError(() => bad("brokenOff", "the connection broke off")),
    Stream.timeoutOrElse({ duration: receiveTimeout, orElse: () => Stream.fail(stalled) }),
    Stream.mapAccumEffect(
      () => 0,
      (size: number, piece: Uint8Array) =>
        size + piece.length > maxUploadSize
          ? Effect.fail(tooLarge)
          : Effect.succeed([size + piece.length, [piece]] as const)
    )
  )
}

/**
 * A form that has not been taken apart.
 *
 * @category models
 * @since 0.1.0
 */
export interface Form {
  readonly body: Body
  readonly contentType: string
}

/** A field is kept whole. */
const MAX_FIELD = ByteSize.mebibytes(1)

/** A boundary of no characters, on which a parser of forms would throw. */
const EMPTY_BOUNDARY = /;\s*boundary\s*=\s*""/i

/** The parts of a form. */
export const parts = ({ body, contentType }: Form): Stream.Stream<Part, ServeError> => {
  if (EMPTY_BOUNDARY.test(contentType)) return Stream.fail(notForm())
  let open: File | undefined
  // What a handler leaves unread of a file would be kept.
  const skip = Effect.suspend(() => (open === undefined ? Effect.void : Effect.ignore(Stream.runDrain(open.content))))
  return body.pipe(
    Stream.pipeThroughChannel(Multipart.makeChannel<ServeError>({ "content-type": contentType })),
    Stream.provideService(Multipart.MaxFieldSize, MAX_FIELD),
    Stream.mapError(ofMultipart),
    Stream.map((part): Part => {
      if (part._tag === "Field") return fieldOf(part)
      open = fileOf(part)
      return open
    }),
    (stream) => Stream.transformPull(stream, (pull) => Effect.succeed(Effect.andThen(skip, pull)))
  )
}

const fieldOf = ({ contentType, key, value }: Multipart.Field): Field => ({
  _tag: "Field",
  name: key,
  value,
  contentType
})

const fileOf = ({ content, contentType, key, name }: Multipart.File): File => ({
  _tag: "File",
  name: key,
  filename: name,
  contentType,
  content: Stream.mapError(content, ofMultipart)
})

const notForm = () => bad("malformed", "it is not a form as multipart/form-data has it")

const ofMultipart = (error: Multipart.MultipartError | ServeError): ServeError => {
  if (error._tag === "ServeError") return error
  const { _tag } = error.reason
  return _tag === "Parse" ? notForm() : bad("tooLarge", _tag)
}
