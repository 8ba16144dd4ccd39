/**
 * The OpenAPI document of an ingress, made from the schemas of its methods.
 *
 * @since 0.1.0
 */
import { Context, JsonSchema, Option, Record, Schema, SchemaAST, SchemaRepresentation } from "effect"
import * as Annotation from "effect/http-api/OpenApi"
import type * as Rpc from "effect/rpc/Rpc"
import * as RpcSchema from "effect/rpc/RpcSchema"
import * as HttpSchema from "../core/HttpSchema.ts"
import * as Failures from "./Failures.ts"
import type * as Status from "./Status.ts"

/**
 * A method at its path.
 *
 * @category options
 * @since 0.1.0
 */
export interface Operation {
  readonly path: string
  readonly deployment: string
  readonly rpc: Rpc.AnyWithProps
}

/**
 * What {@link make} has to know of an ingress.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  readonly title: string
  readonly version: string
  readonly description?: string
  /** Where two have the same path, the last one counts. */
  readonly operations: ReadonlyArray<Operation>
  readonly choices: Status.Choices
  /** Bytes that the body of a request may have. */
  readonly maxBodySize: number
  /** The same for a body that a handler reads while it arrives. */
  readonly maxUploadSize?: number
  /** Whether the methods ask who calls them. */
  readonly secured: boolean
  /** Whether the ingress's own paths ask it too, except for the health check. */
  readonly adminClosed: boolean
}

type Described<A = Json> = Record.ReadonlyRecord<string, A>
type Json = Record.ReadonlyRecord<string, unknown>

/**
 * A document as OpenAPI 3.1 defines it. All of it is JSON.
 *
 * @category models
 * @since 0.1.0
 */
export interface Document {
  readonly openapi: "3.1.0"
  readonly info: { readonly title: string; readonly version: string; readonly description?: string }
  readonly servers: ReadonlyArray<{ readonly url: string }>
  readonly tags: ReadonlyArray<{ readonly name: string; readonly description: string }>
  /** By path, then by verb. */
  readonly paths: Described<Described<Described<any>>>
  readonly components: Described<Described>
}

/** Makes the document of an ingress. */
export const make = (options: Options): Document => {
  const failures = Failures.make(options.choices)
  // Made twice: the first time shows which schemas there are, and only together can they get names that don't collide.
  const found = new Set<SchemaAST.AST>()
  documentOf(options, failures, (ast) => (found.add(ast), {}), {})
  const { definitions, schemas } = compile(Array.from(found))
  return documentOf(options, failures, (ast) => schemas.get(ast)!, definitions)
}

type JsonOf = (ast: SchemaAST.AST) => Json

const compile = (asts: ReadonlyArray<SchemaAST.AST>) => {
  const [first, ...others] = asts.map((ast) => Schema.toCodecJson(Schema.make(ast)).ast)
  const { definitions, schemas } = JsonSchema.toMultiDocumentOpenApi3_1(
    SchemaRepresentation.toJsonSchemaMultiDocument(SchemaRepresentation.toRepresentations([first!, ...others]))
  )
  return {
    definitions: plain(definitions),
    schemas: new Map(asts.map((ast, index) => [ast, sayAny(plain(schemas[index]!))]))
  }
}

// To say of every object that it may have more fields would only fill the page with such fields.
const plain = <A>(json: A): A =>
  JSON.parse(JSON.stringify(json), (_, value) => {
    if (value?.additionalProperties !== true || value.properties === undefined) return value
    const { additionalProperties: _any, ...known } = value
    return known
  })

const sayAny = (schema: Json): Json => (Object.keys(schema).length === 0 ? { description: "Any JSON value." } : schema)

const documentOf = (options: Options, failures: Failures.Failures, jsonOf: JsonOf, schemas: Described): Document => {
  const { adminClosed, secured, title, version, description } = options
  const operations = Array.from(new Map(options.operations.map((operation) => [operation.path, operation])).values())
  const nameOf = unique()
  const methods = operations.map((operation) => {
    const post = { operationId: nameOf(operation), ...methodOf(operation, options, failures, jsonOf) }
    if (!isForEventSource(operation.rpc)) return [operation.path, { post }]
    return [operation.path, { post, get: { ...inUrl(post), operationId: nameOf(operation, ".get") } }]
  })
  const own = ownPaths.map(({ answers, open, path, summary }) => {
    const closed = adminClosed && open !== true
    const rejections = [problems.MethodNotAllowed, ...(closed ? rejectionsOf(true) : [])]
    const get = {
      operationId: nameOf({ deployment: OWN_TAG, rpc: { _tag: path.slice("/-/".length) } }),
      summary,
      tags: [OWN_TAG],
      security: securityOf(closed),
      parameters: [parameter("x-request-id")],
      responses: { ...answers, ...responsesOf(rejections, jsonOf) }
    }
    return [path, { get }]
  })
  const paths = Object.fromEntries([...methods, ...own])
  return {
    openapi: "3.1.0",
    info: { title, version, ...(description === undefined ? {} : { description }) },
    servers: [{ url: "/" }],
    tags: tagsOf(operations),
    paths,
    components: { ...usedIn(paths), schemas, ...(secured || adminClosed ? { securitySchemes } : {}) }
  }
}

const OWN_TAG = "ingress"

const tagsOf = (operations: ReadonlyArray<Operation>) => {
  const deployments = Array.from(new Set(operations.map(({ deployment }) => deployment)))
  return [
    ...deployments.filter((name) => name !== OWN_TAG).map((name) => ({ name, description: `The methods of ${name}.` })),
    { name: OWN_TAG, description: "What the ingress itself answers." }
  ]
}

// The same deployment can be served at two paths, and operations have to have different names that fit into a URL.
const unique = () => {
  const taken = new Set<string>()
  return (
    { deployment, rpc }: { readonly deployment: string; readonly rpc: { readonly _tag: string } },
    suffix = ""
  ): string => {
    const name = `${deployment}.${rpc._tag}${suffix}`.replace(/[^\w.~-]/gu, "_")
    let free = name
    for (let count = 2; taken.has(free); count++) free = `${name}-${count}`
    taken.add(free)
    return free
  }
}

const methodOf = (operation: Operation, options: Options, failures: Failures.Failures, jsonOf: JsonOf): Json => {
  const { deployment, rpc } = operation
  const { payloadSchema: payload, successSchema: success } = rpc
  const streaming = RpcSchema.isStreamSchema(success) ? success : undefined
  const declared = Failures.declared(streaming?.error ?? rpc.errorSchema)
  const description = annotationOf(rpc, Annotation.Description) ?? SchemaAST.resolveDescription(payload.ast)
  const body = bodyOf(payload, options, jsonOf)
  const answer =
    streaming === undefined
      ? { description: "The result.", content: contentOf(success.ast, jsonOf) }
      : streamOf(streaming.success.ast, [...astsOf([...declared, problems.InternalServerError]), failures.any], jsonOf)
  const responses = responsesOf(
    [
      ...declared,
      ...wrongRequests,
      ...(streaming !== undefined && rawOf(streaming.success.ast) === undefined ? [problems.NotAcceptable] : []),
      ...rejectionsOf(options.secured),
      ...failures.ofMethods,
      ...(HttpSchema.takesStream(payload.ast) ? failures.ofUploads : []),
      problems.InternalServerError
    ],
    jsonOf
  )
  return {
    summary: annotationOf(rpc, Annotation.Summary) ?? SchemaAST.resolveTitle(payload.ast) ?? rpc._tag,
    ...(description === undefined ? {} : { description }),
    tags: [deployment],
    security: securityOf(options.secured),
    parameters: Object.keys(streaming === undefined ? ofRequests : { ...ofRequests, ...ofStreams }).map(parameter),
    ...(body === undefined ? {} : { requestBody: body }),
    responses: { 200: { headers: headersOf([]), ...answer }, ...responses }
  }
}

const isForEventSource = ({ payloadSchema: { ast }, successSchema }: Rpc.AnyWithProps): boolean =>
  RpcSchema.isStreamSchema(successSchema) &&
  rawOf(successSchema.success.ast) === undefined &&
  rawOf(ast) === undefined &&
  !HttpSchema.takesStream(ast)

/** The same with the payload in the URL. */
const inUrl = ({ parameters, requestBody, ...post }: Json): Json => ({
  ...post,
  description:
    "For a browser's EventSource: only with `Accept: text/event-stream`, and from pages of origins that may call.",
  parameters: [
    ...(parameters as ReadonlyArray<Json>),
    ...(requestBody === undefined
      ? []
      : [{ name: "payload", in: "query", ...(requestBody as Json), description: "The payload, as JSON." }])
  ]
})

const { problems } = Failures

const wrongRequests = [
  problems.BadRequest,
  problems.NotFound,
  problems.MethodNotAllowed,
  problems.RequestTimeout,
  problems.PayloadTooLarge,
  problems.UnsupportedMediaType
]

const annotationOf = <I>(rpc: Rpc.AnyWithProps, key: Context.Key<I, string>): string | undefined =>
  Option.getOrUndefined(Context.getOption(rpc.annotations, key))

const rejectionsOf = (secured: boolean) => (secured ? [problems.Unauthorized, problems.Forbidden] : [])
const securityOf = (secured: boolean) => (secured ? [{ bearer: [] }] : [])

// Bodies and results

interface Encoding {
  readonly _tag: string
  readonly contentType: string
}

const encodingOf = SchemaAST.resolveAt<Encoding>("~httpApiEncoding")

const rawOf = (ast: SchemaAST.AST): Encoding | undefined => {
  const encoding = encodingOf(ast)
  return encoding?._tag === "Uint8Array" || encoding?._tag === "Text" ? encoding : undefined
}

const bytes = { type: "string", format: "binary" }
const content = (types: ReadonlyArray<string>, schema: Json) =>
  Object.fromEntries(types.map((type) => [type, { schema }]))
const json = (schema: Json) => content(["application/json"], schema)

const contentOf = (ast: SchemaAST.AST, jsonOf: JsonOf, ofBytes: Json = bytes): Json => {
  const raw = rawOf(ast)
  if (raw === undefined) return json(jsonOf(ast))
  return content([raw.contentType], raw._tag === "Text" ? jsonOf(ast) : ofBytes)
}

const bodyOf = (payload: Schema.Top, options: Options, jsonOf: JsonOf): Json | undefined => {
  const { ast } = payload
  if (SchemaAST.isVoid(SchemaAST.toEncoded(ast))) return undefined
  const { maxBodySize, maxUploadSize } = options
  if (HttpSchema.takesStream(ast)) {
    const limit = maxUploadSize === undefined ? "" : ` ${atMost(maxUploadSize)}`
    return { description: `Read while it arrives.${limit}`, required: true, content: uploadOf(ast, maxUploadSize) }
  }
  const ofBytes = { ...bytes, maxLength: maxBodySize }
  return {
    description: atMost(maxBodySize),
    required: !takesNothing(payload),
    content: contentOf(ast, jsonOf, ofBytes)
  }
}

const atMost = (size: number) => `It may have at most ${size} bytes.`

const uploadOf = (ast: SchemaAST.AST, maxUploadSize: number | undefined): Json => {
  const mark = HttpSchema.markOf(ast)
  if (mark?._tag !== "Upload") return content(["multipart/form-data"], { type: "object", additionalProperties: true })
  const types = mark.contentTypes.filter((type) => type !== "*/*")
  return content(
    types.length === 0 ? ["application/octet-stream"] : types,
    maxUploadSize === undefined ? bytes : { ...bytes, maxLength: maxUploadSize }
  )
}

// No body is the payload `null`.
const takesNothing = (payload: Schema.Top): boolean => Schema.is(Schema.toEncoded(Schema.toCodecJson(payload)))(null)

const streamOf = (element: SchemaAST.AST, failures: ReadonlyArray<SchemaAST.AST>, jsonOf: JsonOf): Json => {
  if (rawOf(element) !== undefined) {
    return { description: "The result, sent while it is made.", content: contentOf(element, jsonOf) }
  }
  const isEvent = HttpSchema.markOf(element)?._tag === "Event"
  const failure = anyOf(failures.map(jsonOf))
  const failed = inEvent(failure, { event: { type: "string", enum: ["error"] } })
  const line = { type: "object", properties: { error: failure }, required: ["error"] }
  return {
    description:
      "The elements, sent while they are made. As `text/event-stream` each is the `data` of an event, and an event " +
      "named `error` ends a stream that fails. As `application/x-ndjson`, if `Accept` prefers it, each is a line, and " +
      "one with the field `error` alone ends a stream that fails. The schemas are those of one event and of one line.",
    content: {
      ...content(["text/event-stream"], {
        anyOf: [isEvent ? eventOf(element, jsonOf) : inEvent(jsonOf(element)), failed]
      }),
      ...content(["application/x-ndjson"], { anyOf: [jsonOf(element), line] })
    }
  }
}

const inEvent = (data: Json, fields: Described = {}): Json => ({
  type: "object",
  properties: { ...fields, data: { type: "string", contentMediaType: "application/json", contentSchema: data } },
  required: [...Object.keys(fields), "data"]
})

const eventOf = (ast: SchemaAST.AST, jsonOf: JsonOf): Json => {
  const { propertySignatures } = ast as SchemaAST.Objects
  const { properties, ...event } = inEvent(jsonOf(propertySignatures.find(({ name }) => name === "data")!.type))
  return { ...event, properties: { ...strings(["event", "id"]), ...(properties as Json) } }
}

const responsesOf = (failures: ReadonlyArray<Failures.Failure>, jsonOf: JsonOf): Json =>
  Object.fromEntries(
    Array.from(
      Map.groupBy(failures, ({ status }) => status),
      ([status, group]) => [
        status,
        {
          description: Array.from(new Set(group.map(({ about }) => about))).join("\n\n"),
          headers: headersOf(group.flatMap(({ headers }) => headers)),
          content: json(anyOf(astsOf(group).map(jsonOf)))
        }
      ]
    )
  )

const astsOf = (failures: ReadonlyArray<Failures.Failure>) => failures.map(({ ast }) => ast)
const anyOf = (schemas: ReadonlyArray<Json>): Json => (schemas.length === 1 ? schemas[0]! : { anyOf: schemas })

// Headers

const ofRequests = {
  "x-request-id": {
    description: "Names the request in the answer, in the log and in traces. Otherwise it gets a name.",
    schema: { type: "string", minLength: 1, maxLength: 128, pattern: "^[!-~]+$" }
  },
  "x-request-timeout-ms": {
    description: "Time in which the answer is of use, in milliseconds. The shorter of the two timeouts counts.",
    example: 5000,
    schema: { type: "number", minimum: 0 }
  },
  "x-request-timeout-seconds": {
    description: "Time in which the answer is of use, in seconds. The shorter of the two timeouts counts.",
    example: 5,
    schema: { type: "number", minimum: 0 }
  },
  "x-request-priority": {
    description: "What goes first, and what is refused last, under overload.",
    schema: { type: "string", enum: ["critical", "default", "sheddable"], default: "default" }
  },
  "x-request-tenant": {
    description: "For whom the request is: under load, tenants get equal shares.",
    schema: { type: "string", maxLength: 256 }
  },
  "x-request-disconnect-disabled": {
    description: "With `?1` the method runs to its end even if the client leaves.",
    schema: { type: "string", enum: ["?1"] }
  },
  traceparent: {
    description: "The trace that the request belongs to, as W3C Trace Context has it.",
    schema: { type: "string", pattern: "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$" }
  }
}

const ofStreams = {
  "Last-Event-ID": {
    description: "The `id` of the last event that arrived before the connection broke off.",
    schema: { type: "string" }
  }
}

const ofAnswers = {
  "x-request-id": {
    description: "The name of the request: its own, or the one that it got.",
    required: true,
    schema: { type: "string" }
  },
  "Retry-After": {
    description: "Seconds after which a new attempt is likely to do better.",
    schema: { type: "integer", minimum: 1, maximum: 30 }
  },
  Allow: { description: "The verbs that the path takes.", schema: { type: "string" } },
  "WWW-Authenticate": { description: "How to say who sends the request.", schema: { type: "string" } }
}

const parameter = (name: string) => ({ $ref: `#/components/parameters/${name}` })
const headersOf = (names: ReadonlyArray<string>): Json =>
  Object.fromEntries(["x-request-id", ...names].map((name) => [name, { $ref: `#/components/headers/${name}` }]))

const components = {
  headers: ofAnswers,
  parameters: Record.map({ ...ofRequests, ...ofStreams }, (header, name) => ({ name, in: "header", ...header }))
}

const usedIn = (paths: Json): Described<Described> => {
  const text = JSON.stringify(paths)
  return Record.map(components, (group: Described, kind) =>
    Record.filter(group, (_, name) => text.includes(`"#/components/${kind}/${name}"`))
  )
}

const securitySchemes = {
  bearer: { type: "http", scheme: "bearer", description: "Checked by the application." }
}

// The ingress's own paths

interface OwnPath {
  readonly path: string
  readonly summary: string
  readonly answers: Json
  readonly open?: boolean
}

const answer = (description: string, content: Json) => ({ description, headers: headersOf([]), content })
const text = content(["text/plain"], { type: "string" })
const strings = (names: ReadonlyArray<string>) => Object.fromEntries(names.map((name) => [name, { type: "string" }]))

const ownPaths: ReadonlyArray<OwnPath> = [
  {
    path: "/-/healthz",
    summary: "Whether requests are taken",
    answers: { 200: answer("They are.", text), 503: answer("Not yet, or no longer.", text) },
    open: true
  },
  {
    path: "/-/routes",
    summary: "The methods and their paths",
    answers: {
      200: answer(
        "All methods.",
        json({
          type: "array",
          items: {
            type: "object",
            properties: { ...strings(["path", "deployment", "method"]), stream: { type: "boolean" } },
            required: ["path", "deployment", "method", "stream"]
          }
        })
      )
    }
  },
  {
    path: "/-/openapi.json",
    summary: "This document",
    answers: { 200: answer("An OpenAPI 3.1 document.", json({ type: "object" })) }
  },
  {
    path: "/-/docs",
    summary: "This document, to be read and tried out",
    answers: { 200: answer("A page.", content(["text/html"], { type: "string" })) }
  }
]
