/**
 * What a method takes and gives, in a form that can be sent to another thread or process.
 *
 * Values go through the method's schemas, so that classes, dates and the like are themselves again on the other side. The schemas must
 * not need services or wait for anything.
 *
 * @since 0.1.0
 */
import { Cause, Exit, Result, Schema, type SchemaAST, SchemaIssue } from "effect"
import { SchemaBinary } from "effect/encoding"
import type * as Rpc from "effect/rpc/Rpc"
import * as RpcSchema from "effect/rpc/RpcSchema"
import * as SchemaParser from "effect/SchemaParser"
import { ServeError } from "../core/ServeError.ts"

/**
 * How a call ended, in the form that is sent.
 *
 * @category models
 * @since 0.1.0
 */
export type SentExit = readonly [
  how: "success" | "error" | "serveError" | "refusal" | "defect" | "interrupted",
  value: unknown
]

/**
 * Turns values into the form that is sent, and back. Both throw an `Error` that says what does not match its schema.
 *
 * @category models
 * @since 0.1.0
 */
export interface Codec {
  readonly encode: (value: unknown) => unknown
  readonly decode: (sent: unknown) => unknown
}

/**
 * The codecs of one method.
 *
 * @category models
 * @since 0.1.0
 */
export interface MethodCodec {
  readonly method: string
  readonly stream: boolean
  readonly payload: Codec
  /** An answer. */
  readonly success: Codec
  /** An element of a stream. */
  readonly element: Codec
  /** Several of them, in order: so many of them at most at once. */
  readonly elements: Codec & { readonly most: number }
  readonly encodeExit: (exit: Exit.Exit<unknown, unknown>) => SentExit
  readonly decodeExit: (sent: SentExit) => Exit.Exit<unknown, unknown>
}

/** Makes of the schema of a value that of its form. */
type Schemas = (schema: Schema.Constraint) => Schema.Constraint

/**
 * The form in which values are sent.
 *
 * @category models
 * @since 0.1.0
 */
export interface Form {
  readonly one: Schemas
  /** The same for several values in a row. */
  readonly all: Schemas
  readonly defect: Codec
}

/** What was sent doesn't match its schema, or names what is not there: the fault of who sent it, who may read the message. */
export class Misfit extends Error {}

/** Makes the codecs of a method, for a form that is {@link cloned} or {@link binary}. */
export const make = (rpc: Rpc.AnyWithProps, form: Form = cloned): MethodCodec => {
  const streaming = RpcSchema.isStreamSchema(rpc.successSchema) ? rpc.successSchema : undefined
  const of = (part: string) => `The ${part} of method "${rpc._tag}"`
  const success = codecOf(form.one, streaming === undefined ? rpc.successSchema : Schema.Void, of("result"))
  const element = codecOf(form.one, streaming?.success ?? Schema.Void, of("element"))
  const elements = codecOf(form.all, streaming?.success ?? Schema.Void, of("element"))
  const failure = streaming === undefined ? rpc.errorSchema : Schema.Union([streaming.error, rpc.errorSchema])
  const error = codecOf(form.one, failure, of("error"))
  const fail = failing(form, error)

  return {
    method: rpc._tag,
    stream: streaming !== undefined,
    payload: codecOf(form.one, rpc.payloadSchema, of("payload"), Misfit),
    success,
    element,
    elements: { ...elements, most: Infinity },
    encodeExit: (exit) => {
      try {
        if (Exit.isFailure(exit)) return fail(exit.cause)
        return ["success", streaming === undefined ? success.encode(exit.value) : undefined]
      } catch (mismatch) {
        return ["defect", form.defect.encode(mismatch)]
      }
    },
    decodeExit: ([how, value]) => {
      try {
        if (how === "success") return streaming === undefined ? Exit.succeed(success.decode(value)) : Exit.void
        if (how === "error") return Exit.fail(error.decode(value))
        if (how === "serveError" || how === "refusal") {
          const error = serveErrorOf(form).decode(value) as ServeError
          if (how === "refusal") refusals.add(error)
          return Exit.fail(error)
        }
        if (how === "defect") return Exit.die(form.defect.decode(value))
        return Exit.die(new Error("The handler interrupted itself"))
      } catch (mismatch) {
        return Exit.die(mismatch)
      }
    }
  }
}

const refusals = new WeakSet<ServeError>()

/** Whether an error that has come says that the call has not begun. */
export const isRefusal = (error: unknown): boolean => error instanceof ServeError && refusals.has(error)

/** Says of a `ServeError` that the call has not begun. */
export const asRefusal = (sent: SentExit): SentExit => (sent[0] === "serveError" ? ["refusal", sent[1]] : sent)

/** How a call fails that no method answers: with a defect or a `ServeError`. */
export const encodeFailure = (cause: Cause.Cause<unknown>, form: Form): SentExit => failing(form, never)(cause)

const never: Codec = { encode: (error) => error, decode: (sent) => sent }

const failing =
  (form: Form, error: Codec) =>
  (cause: Cause.Cause<unknown>): SentExit => {
    if (Cause.hasInterruptsOnly(cause)) return ["interrupted", undefined]
    const died = Cause.findDefect(cause)
    if (Result.isSuccess(died)) return ["defect", form.defect.encode(died.success)]
    const failure = Cause.squash(cause)
    return failure instanceof ServeError
      ? ["serveError", serveErrorOf(form).encode(failure)]
      : ["error", error.encode(failure)]
  }

const codecOf = (
  form: Schemas,
  schema: Schema.Constraint,
  what: string,
  Mismatch: new (message: string) => Error = Error
): Codec => {
  const sent = form(schema) as unknown as Schema.ConstraintCodec<unknown, unknown>
  const encode = SchemaParser.encodeUnknownExit(sent)
  const decode = SchemaParser.decodeUnknownExit(sent)
  const valueOf = <A>(exit: Exit.Exit<A, unknown>): A => {
    if (Exit.isSuccess(exit)) return exit.value
    const issue = Cause.squash(exit.cause)
    throw new Mismatch(
      `${what} doesn't match its schema: ${SchemaIssue.isIssue(issue) ? format(issue) : String(issue)}`
    )
  }
  return {
    encode: (value) => valueOf(encode(value)),
    decode: (value) => valueOf(decode(value))
  }
}

const format = SchemaIssue.makeFormatterDefault()

const holdsBytes = (root: SchemaAST.AST): boolean => {
  const seen = new Set<SchemaAST.AST>()
  const visit = (ast: SchemaAST.AST): boolean => {
    if (seen.has(ast)) return false
    seen.add(ast)
    return isBytes(ast) || partsOf(ast).some(visit) || (ast.encoding ?? []).some(({ to }) => visit(to))
  }
  return visit(root)
}

const partsOf = (ast: SchemaAST.AST): ReadonlyArray<SchemaAST.AST> => {
  switch (ast._tag) {
    case "Declaration":
      return ast.typeParameters
    case "Objects":
      return [...ast.propertySignatures, ...ast.indexSignatures].map(({ type }) => type)
    case "Arrays":
      return [...ast.elements, ...ast.rest]
    case "Union":
      return ast.types
    case "Suspend":
      return [ast.thunk()]
    default:
      return []
  }
}

// The type's name and not the schema itself, because annotations and checks make another schema of it.
const isBytes = ({ _tag, annotations }: SchemaAST.AST) =>
  _tag === "Declaration" && annotations?.["expected"] === Schema.Uint8Array.ast.annotations?.["expected"]

const cloneable: Schemas = (schema) =>
  holdsBytes(schema.ast) ? SchemaBinary.toCodec(schema) : Schema.toCodecJson(schema)

/**
 * The JSON form, which the structured clone of a message copies fastest; where a schema holds bytes it is the binary one, because JSON would
 * turn them into text. Defects are sent with their stacks.
 */
export const cloned: Form = {
  one: cloneable,
  all: (schema) => Schema.Array(cloneable(schema) as Schema.Top),
  defect: codecOf(cloneable, Schema.Defect({ includeStack: true }), "A defect")
}

const textEncoder = new TextEncoder()
const textDecoder = new TextDecoder()

/**
 * Bytes, in which two sides understand each other whose schemas differ in what may be left out (`SchemaBinary`). Of defects, only those
 * are told that are the sender's fault.
 */
export const binary: Form = {
  one: (schema) => SchemaBinary.toCodec(schema),
  all: (schema) => SchemaBinary.toCodec(Schema.Array(schema)),
  defect: {
    encode: (error) => textEncoder.encode(error instanceof Misfit ? error.message : ""),
    decode: (sent) => {
      const message = textDecoder.decode(sent as Uint8Array)
      return new Error(message === "" ? "The handler died in its process, whose log says why" : message)
    }
  }
}

const serveErrors = new Map<Form, Codec>()

const serveErrorOf = (form: Form): Codec => {
  const before = serveErrors.get(form)
  if (before !== undefined) return before
  const made = codecOf(form.one, ServeError, "The error of the runtime")
  serveErrors.set(form, made)
  return made
}
