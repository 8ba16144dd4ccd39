/**
 * What a method takes and gives, in a form that can be sent to another thread.
 *
 * Values go through the method's schemas, so that classes, dates and the like are themselves again on the other side. The form is
 * the JSON one, which the structured clone of a message copies fastest; where a schema holds bytes it is the binary one, because
 * JSON would turn them into text. The schemas must not need services or wait for anything.
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
export type SentExit = readonly [how: "success" | "error" | "serveError" | "defect" | "interrupted", value: unknown]

/** Turns values into the form that is sent, and back. Both throw an `Error` that says what does not match its schema. */
interface Codec {
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
  /** An answer, or an element of a stream. */
  readonly success: Codec
  readonly encodeExit: (exit: Exit.Exit<unknown, unknown>) => SentExit
  readonly decodeExit: (sent: SentExit) => Exit.Exit<unknown, unknown>
}

/** Makes the codecs of a method. */
export const make = (rpc: Rpc.AnyWithProps): MethodCodec => {
  const streaming = RpcSchema.isStreamSchema(rpc.successSchema) ? rpc.successSchema : undefined
  const of = (part: string) => `The ${part} of method "${rpc._tag}"`
  const success = codec(streaming?.success ?? rpc.successSchema, of(streaming === undefined ? "result" : "element"))
  const failure = streaming === undefined ? rpc.errorSchema : Schema.Union([streaming.error, rpc.errorSchema])
  const error = codec(failure, of("error"))

  const encodeFailure = (cause: Cause.Cause<unknown>): SentExit => {
    if (Cause.hasInterruptsOnly(cause)) return ["interrupted", undefined]
    const died = Cause.findDefect(cause)
    if (Result.isSuccess(died)) return encodeDefect(died.success)
    const failure = Cause.squash(cause)
    return failure instanceof ServeError ? ["serveError", serveError.encode(failure)] : ["error", error.encode(failure)]
  }

  return {
    method: rpc._tag,
    stream: streaming !== undefined,
    payload: codec(rpc.payloadSchema, of("payload")),
    success,
    encodeExit: (exit) => {
      try {
        if (Exit.isFailure(exit)) return encodeFailure(exit.cause)
        return ["success", streaming === undefined ? success.encode(exit.value) : undefined]
      } catch (mismatch) {
        return encodeDefect(mismatch)
      }
    },
    decodeExit: ([how, value]) => {
      try {
        if (how === "success") return streaming === undefined ? Exit.succeed(success.decode(value)) : Exit.void
        if (how === "error") return Exit.fail(error.decode(value))
        if (how === "serveError") return Exit.fail(serveError.decode(value))
        if (how === "defect") return Exit.die(defect.decode(value))
        return Exit.die(new Error("The handler interrupted itself"))
      } catch (mismatch) {
        return Exit.die(mismatch)
      }
    }
  }
}

/** How a call ends that can't be answered. */
export const encodeDefect = (error: unknown): SentExit => ["defect", defect.encode(error)]

const codec = (schema: Schema.Constraint, what: string): Codec => {
  const sent = (holdsBytes(schema.ast)
    ? SchemaBinary.toCodec(schema)
    : Schema.toCodecJson(schema)) as unknown as Schema.ConstraintCodec<unknown, unknown>
  const encode = SchemaParser.encodeUnknownExit(sent)
  const decode = SchemaParser.decodeUnknownExit(sent)
  const valueOf = <A>(exit: Exit.Exit<A, unknown>): A => {
    if (Exit.isSuccess(exit)) return exit.value
    const issue = Cause.squash(exit.cause)
    throw new Error(`${what} doesn't match its schema: ${SchemaIssue.isIssue(issue) ? format(issue) : String(issue)}`)
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

const serveError = codec(ServeError, "The error of the runtime")
const defect = codec(Schema.Defect({ includeStack: true }), "A defect")
