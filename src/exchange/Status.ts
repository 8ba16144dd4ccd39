/**
 * The one table that says which HTTP status an outcome has.
 *
 * @since 0.1.0
 */
import { Duration, Schema, SchemaAST } from "effect"
import { type Reason, ServeError } from "../core/ServeError.ts"

/** The client left before the answer; never sent, seen in the log and in metrics. nginx's number. */
export const CLIENT_CLOSED_REQUEST = 499

/**
 * What can be chosen in the table.
 *
 * @category options
 * @since 0.1.0
 */
export interface Choices {
  /** The status of `QueueFull`, `Shed` and `Unavailable`. */
  readonly refusalStatus: 503 | 429
  /** The status of `DeadlineExceeded`. */
  readonly timeoutStatus: 504 | 408
}

const table: Record<Reason["_tag"], (reason: never, choices: Choices) => number> = {
  QueueFull: (_, { refusalStatus }) => refusalStatus,
  Shed: (_, { refusalStatus }) => refusalStatus,
  Unavailable: (_, { refusalStatus }) => refusalStatus,
  DeadlineExceeded: (_, { timeoutStatus }) => timeoutStatus,
  ReplicaLost: ({ started }: Extract<Reason, { _tag: "ReplicaLost" }>) => (started ? 500 : 503),
  WorkerCrashed: () => 500,
  BatchContract: () => 500,
  ItemTooLarge: () => 413,
  SlowConsumer: () => CLIENT_CLOSED_REQUEST,
  BadUpload: ({ why }: Extract<Reason, { _tag: "BadUpload" }>) =>
    ({ tooLarge: 413, malformed: 400, stalled: 408, brokenOff: CLIENT_CLOSED_REQUEST })[why],
  TransportError: ({ started }: Extract<Reason, { _tag: "TransportError" }>) => (started ? 502 : 503)
}

/** The status of a failure: of the runtime's by the table, of a method's own by {@link declared}. */
export const ofFailure = (schema: Schema.Top, choices: Choices): ((error: unknown) => number) => {
  const ofDeclared = ofDeclaredError(schema)
  return (error) =>
    error instanceof ServeError ? table[error.reason._tag](error.reason as never, choices) : ofDeclared(error)
}

/** Seconds for `Retry-After`, 1 to 30; `undefined` when the reason doesn't know when to come back. */
export const retryAfter = ({ reason }: ServeError): number | undefined =>
  "retryAfter" in reason ? Math.min(Math.max(Math.ceil(Duration.toSeconds(reason.retryAfter)), 1), 30) : undefined

/**
 * A declared error and its status.
 *
 * @category models
 * @since 0.1.0
 */
export interface Declared {
  readonly ast: SchemaAST.AST
  readonly status: number
}

/**
 * The errors that a schema declares, unions taken apart. The status of each is its `httpApiStatus` annotation, or that of the nearest
 * union that it is in, or else 500.
 */
export const declared = (schema: Schema.Top): ReadonlyArray<Declared> => membersOf(schema.ast, 500)

const membersOf = (ast: SchemaAST.AST, inherited: number): ReadonlyArray<Declared> => {
  const status = statusOf(ast) ?? inherited
  if (SchemaAST.isUnion(ast)) return ast.types.flatMap((member) => membersOf(member, status))
  return SchemaAST.isNever(ast) ? [] : [{ ast, status }]
}

const ofDeclaredError = (schema: Schema.Top): ((error: unknown) => number) => {
  const members = declared(schema).map(({ ast, status }) => ({
    is: Schema.is(Schema.make<Schema.Codec<unknown>>(ast)),
    status
  }))
  return (error) => members.find(({ is }) => is(error))?.status ?? 500
}

const statusOf = SchemaAST.resolveAt<number>("httpApiStatus")
