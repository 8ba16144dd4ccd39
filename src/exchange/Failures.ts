/**
 * Every failure that an ingress answers with: its status, what it is about, and the schema of its body.
 *
 * @since 0.1.0
 */
import { Duration, Record, Schema, SchemaAST } from "effect"
import * as ServeError from "../core/ServeError.ts"
import * as Status from "./Status.ts"

/**
 * One failure.
 *
 * @category models
 * @since 0.1.0
 */
export interface Failure {
  readonly status: number
  readonly about: string
  /** The schema of the body. */
  readonly ast: SchemaAST.AST
  /** Names of the headers that come with it. */
  readonly headers: ReadonlyArray<string>
}

/**
 * The failures of the runtime.
 *
 * @category models
 * @since 0.1.0
 */
export interface Failures {
  /** Those that every method can have, one for each status. */
  readonly ofMethods: ReadonlyArray<Failure>
  /** Those of a method that reads its body while it arrives. */
  readonly ofUploads: ReadonlyArray<Failure>
  /** The schema of any of them, for when the status is already sent. */
  readonly any: SchemaAST.AST
}

type Tag = ServeError.Reason["_tag"]
type Fields = Schema.Struct.Fields

const message = { message: Schema.String }

const bodyOf = (identifier: string, tag: string, fields: Fields): SchemaAST.AST =>
  Schema.Struct({ _tag: Schema.tag(tag), requestId: Schema.String, ...fields }).annotate({ identifier }).ast

const problem = (
  status: number,
  tag: string,
  about: string,
  { fields = message, headers = [] }: { readonly fields?: Fields; readonly headers?: ReadonlyArray<string> } = {}
): Failure => ({ status, about, ast: bodyOf(tag, tag, fields), headers })

const Issue = Schema.Struct({ path: Schema.String, message: Schema.String })

/** The requests that are wrong, and the methods that are. */
export const problems = {
  BadRequest: problem(400, "BadRequest", "The body or a header is not as it should be.", {
    fields: {
      ...message,
      issues: Schema.optionalKey(
        Schema.Array(Issue).annotate({ description: "What is wrong with which fields of the body." })
      )
    }
  }),
  Unauthorized: problem(401, "Unauthorized", "The request does not say who sends it.", {
    headers: ["WWW-Authenticate"]
  }),
  Forbidden: problem(403, "Forbidden", "Who sends the request may not do this."),
  NotFound: problem(404, "NotFound", "Nothing is served at this path."),
  MethodNotAllowed: problem(405, "MethodNotAllowed", "The path takes another verb.", { headers: ["Allow"] }),
  NotAcceptable: problem(406, "NotAcceptable", "`Accept` asks for no form that the stream has."),
  RequestTimeout: problem(408, "RequestTimeout", "The body took too long."),
  PayloadTooLarge: problem(413, "PayloadTooLarge", "The body is too large."),
  UnsupportedMediaType: problem(415, "UnsupportedMediaType", "The body is of another type."),
  InternalServerError: problem(500, "InternalServerError", "The method has a defect; the log says which.", {
    fields: {}
  })
}

/** The declared errors of a method, each with its status. */
export const declared = (schema: Schema.Top): ReadonlyArray<Failure> =>
  Status.declared(schema).map(({ ast, status }) => ({
    ast,
    status,
    about: SchemaAST.resolveDescription(ast) ?? SchemaAST.resolveIdentifier(ast) ?? "An error of the method.",
    headers: []
  }))

/** Makes the failures of the runtime, with the statuses that were chosen for them. */
export const make = (choices: Status.Choices): Failures => {
  const statusOf = Status.ofFailure(Schema.Never, choices)
  const outcomes = Object.entries(rows).flatMap(([tag, { samples }]) =>
    samples.map((reason) => ({ tag: tag as Tag, status: statusOf(ServeError.because(() => reason)) }))
  )
  // Nobody is there to be told.
  const told = outcomes.filter(({ status }) => status !== Status.CLIENT_CLOSED_REQUEST)
  const [ofUploads = [], ofMethods = []] = [true, false].map((isUpload) =>
    told.filter(({ tag }) => (tag === "BadUpload") === isUpload)
  )
  return {
    ofMethods: byStatus("ServeError", ofMethods),
    ofUploads: byStatus("UploadError", ofUploads),
    any: serveErrorOf("ServeError", Array.from(new Set(told.map(({ tag }) => tag))))
  }
}

interface Outcome {
  readonly tag: Tag
  readonly status: number
}

const byStatus = (prefix: string, outcomes: ReadonlyArray<Outcome>): ReadonlyArray<Failure> =>
  Array.from(
    Map.groupBy(outcomes, ({ status }) => status),
    ([status, group]) => {
      const tags = Array.from(new Set(group.map(({ tag }) => tag)))
      return {
        status,
        about: tags.map((tag) => `\`${tag}\`: ${rows[tag].about}`).join("\n\n"),
        ast: serveErrorOf(`${prefix}${status}`, tags),
        headers: tags.some((tag) => "retryAfter" in rows[tag].reason.fields) ? ["Retry-After"] : []
      }
    }
  )

const serveErrorOf = (identifier: string, tags: ReadonlyArray<Tag>): SchemaAST.AST => {
  const reasons = tags.map((tag) => encoded[tag])
  const reason = reasons.length === 1 ? reasons[0]! : Schema.Union(reasons)
  return bodyOf(identifier, "ServeError", { ...message, reason })
}

interface Row<T extends Tag> {
  readonly reason: Schema.Top & { readonly fields: Fields }
  readonly about: string
  /** As many as it has statuses. */
  readonly samples: ReadonlyArray<Extract<ServeError.Reason, { readonly _tag: T }>>
}

const some = { deployment: "", retryAfter: Duration.zero }

const rows: { readonly [T in Tag]: Row<T> } = {
  QueueFull: {
    reason: ServeError.QueueFull,
    about: "as many requests are running and waiting as may.",
    samples: [new ServeError.QueueFull({ ...some, ongoing: 0, maxOngoingRequests: 0, queued: 0, maxQueuedRequests: 0 })]
  },
  Shed: {
    reason: ServeError.Shed,
    about: "it was dropped under overload.",
    samples: [new ServeError.Shed({ ...some, why: "" })]
  },
  Unavailable: {
    reason: ServeError.Unavailable,
    about: "the deployment takes no requests now.",
    samples: [new ServeError.Unavailable({ ...some, why: "failed" })]
  },
  DeadlineExceeded: {
    reason: ServeError.DeadlineExceeded,
    about: "it was too late, or was going to be.",
    samples: [new ServeError.DeadlineExceeded({ ...some, stage: "queue" })]
  },
  ReplicaLost: {
    reason: ServeError.ReplicaLost,
    about: "the replica that had it stopped.",
    samples: [true, false].map((started) => new ServeError.ReplicaLost({ replica: "", started }))
  },
  WorkerCrashed: {
    reason: ServeError.WorkerCrashed,
    about: "the thread that ran it ended.",
    samples: [new ServeError.WorkerCrashed({ exitCode: 1 })]
  },
  BatchContract: {
    reason: ServeError.BatchContract,
    about: "its batch returned the wrong number of results.",
    samples: [new ServeError.BatchContract({ expected: 0, received: 0 })]
  },
  ItemTooLarge: {
    reason: ServeError.ItemTooLarge,
    about: "it is larger than a batch may be.",
    samples: [new ServeError.ItemTooLarge({ size: 0, maxBatchSize: 0 })]
  },
  SlowConsumer: {
    reason: ServeError.SlowConsumer,
    about: "its reader was too slow.",
    samples: [new ServeError.SlowConsumer({})]
  },
  BadUpload: {
    reason: ServeError.BadUpload,
    about: "its body did not arrive as it should.",
    samples: (["tooLarge", "malformed", "stalled", "brokenOff"] as const).map(
      (why) => new ServeError.BadUpload({ why, description: "" })
    )
  },
  TransportError: {
    reason: ServeError.TransportError,
    about: "the connection to the deployment failed.",
    samples: [true, false].map((started) => new ServeError.TransportError({ deployment: "", started, description: "" }))
  }
}

// In their JSON form, with names as short as they are in the code.
const encoded = Record.map(rows, ({ reason }, identifier) =>
  Schema.toEncoded(Schema.toCodecJson(reason)).annotate({ identifier })
)
