/**
 * From the body of a request to what its method takes.
 *
 * @since 0.1.0
 */
import { Duration, Effect, Stream } from "effect"
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

/** The parts of a form. */
export const parts = ({ body, contentType }: Form): Stream.Stream<Part, ServeError> => {
  let open: File | undefined
  // What a handler leaves unread of a file would be kept.
  const skip = Effect.suspend(() => (open === undefined ? Effect.void : Effect.ignore(Stream.runDrain(open.content))))
  return body.pipe(
    Stream.pipeThroughChannel(Multipart.makeChannel<ServeError>({ "content-type": contentType })),
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

const ofMultipart = (error: Multipart.MultipartError | ServeError): ServeError => {
  if (error._tag === "ServeError") return error
  const { _tag } = error.reason
  return _tag === "Parse" ? bad("malformed", "it is not a form as multipart/form-data has it") : bad("tooLarge", _tag)
}
