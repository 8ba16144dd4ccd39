/**
 * Seen red for each of these mutations. `OpenApi`: no server; a summary or description is left out, or undefined; names are taken
 * twice, or don't fit into a URL; the first of two methods counts; a body where there is no payload, or a required one where `null`
 * will do; schemas of the decoded side; no word for any value, or for more fields; headers of answers are missing, or
 * parameters are in no place that there is; the errors of streams, 406, those of uploads or of everything in events are missing, or those
 * of uploads are everywhere; limits are others; text like bytes; events like other elements; lines without errors; a health check
 * that is closed, no 401, no security or no scheme; components that nobody uses; a page of another document, with fonts from
 * elsewhere, that is not kept, or in which "<" is not escaped. `Failures`: annotations don't count, unions are one error, statuses are
 * not those that were chosen, 499 is sent, a reason has one status too few, no `Retry-After` or `Allow`, bodies have no names.
 */
import SwaggerParser from "@apidevtools/swagger-parser"
import { assert, describe, it } from "@effect/vitest"
import { Deployment, HttpSchema } from "effect-serve"
import { Duration, Effect, Schema } from "effect"
import { HttpApiSchema, OpenApi as Annotation } from "effect/http-api"
import { Rpc } from "effect/rpc"
import { execFile } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import * as ServeError from "../../src/core/ServeError.ts"
import * as DocsPage from "../../src/exchange/DocsPage.ts"
import * as OpenApi from "../../src/exchange/OpenApi.ts"
import * as Status from "../../src/exchange/Status.ts"

class Missing extends Schema.TaggedError<Missing>()("Missing", { id: Schema.String }, { httpApiStatus: 404 }) {}
class Busy extends Schema.TaggedError<Busy>()("Busy", {}, { httpApiStatus: 409, description: "Someone has it." }) {}
class Taken extends Schema.TaggedError<Taken>()("Taken", {}, { httpApiStatus: 409 }) {}
class Broken extends Schema.TaggedError<Broken>()("Broken", { part: Schema.String }) {}
const Paused = Schema.Struct({ _tag: Schema.tag("Paused") }).annotate({ httpApiStatus: 503 })

interface Tree {
  readonly value: number
  readonly children: ReadonlyArray<Tree>
}
const Tree = Schema.Struct({
  value: Schema.Int,
  children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
})
const Branch: Schema.Codec<Tree> = Schema.Struct({
  value: Schema.Int,
  children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Branch))
}).annotate({ identifier: "Branch" })

const Item = Schema.Struct({
  id: Schema.NonEmptyString,
  at: Schema.Date,
  tags: Schema.optional(Schema.Array(Schema.String.check(Schema.isMaxLength(20)))),
  size: Schema.NullOr(Schema.Number)
}).annotate({ identifier: "Item", description: "Ein Ding – 物 🚀" })
const OtherItem = Schema.Struct({ name: Schema.String }).annotate({ identifier: "Item" })

const evil = `</script><script>alert("1")</script><!-- \u2028 & ' "`
const png = Schema.Uint8Array.pipe(HttpApiSchema.asUint8Array({ contentType: "image/png" }))
const csv = Schema.String.pipe(HttpApiSchema.asText({ contentType: "text/csv" }))

class Store extends Deployment.Service<Store>()("Store", [
  Rpc.make("find", {
    payload: { id: Schema.String, priority: Schema.optionalKey(Schema.Literals(["a", "b"])) },
    success: Item,
    error: Schema.Union([Missing, Busy, Taken, Broken, Paused])
  })
    .annotate(Annotation.Summary, "Finds an item")
    .annotate(Annotation.Description, "Über *alles* hinweg: 日本語 🎉"),
  Rpc.make("count", { success: Schema.Int }),
  Rpc.make("clear"),
  Rpc.make("maybe", { payload: Schema.NullOr(Item), success: Schema.Option(Item), error: Missing }),
  Rpc.make("grow", {
    payload: Tree.annotate({ title: "Grows a tree", description: "All of it." }),
    success: Branch
  }),
  Rpc.make("größe/ß {x}", { payload: Item, success: Schema.Unknown, error: Schema.Unknown }),
  Rpc.make("odd", { payload: Schema.Any, success: Schema.Array(Schema.BigInt), error: Schema.Defect() })
]) {}

class Shop extends Deployment.Service<Shop>()("Shop №1", [
  Rpc.make("find", { payload: OtherItem, success: OtherItem, error: Missing })
]) {}

class Media extends Deployment.Service<Media>()("Media", [
  Rpc.make("resize", { payload: png, success: png }),
  Rpc.make("parse", { payload: csv, success: csv, error: Broken }),
  Rpc.make("measure", { payload: HttpSchema.Upload({ contentType: ["audio/*", "image/png"] }), success: Schema.Int }),
  Rpc.make("hash", { payload: HttpSchema.Upload(), success: Schema.String, error: Broken }),
  Rpc.make("add", { payload: HttpSchema.Multipart(), success: Schema.Record(Schema.String, Schema.Int) })
]) {}

class Streams extends Deployment.Service<Streams>()("Streams", [
  Rpc.make("tokens", { payload: { text: Schema.String }, success: Schema.String, error: Missing, stream: true }),
  Rpc.make("items", { success: Item, error: Schema.Union([Missing, Busy]), stream: true }),
  Rpc.make("events", { success: HttpSchema.Event(Item), stream: true }),
  Rpc.make("frames", { success: png, error: Broken, stream: true }),
  Rpc.make("rows", { success: csv, stream: true }),
  Rpc.make("echo", { payload: HttpSchema.Upload(), success: Branch, stream: true })
]) {}

const at = (
  prefix: string,
  service: Deployment.Any,
  deployment = service.deployment
): ReadonlyArray<OpenApi.Operation> =>
  (service.methods as ReadonlyArray<Rpc.AnyWithProps>).map((rpc) => ({
    path: `${prefix}/${encodeURIComponent(rpc._tag)}`,
    deployment,
    rpc
  }))

const operations = [
  ...at("/store", Store),
  ...at("/a/b", Shop),
  ...at("/media", Media),
  ...at("/streams", Streams),
  ...at("/again", Store)
]

const options: OpenApi.Options = {
  title: "Läden & <more>",
  version: "1.2.3",
  description: "Sells things – 売る",
  operations,
  choices: { refusalStatus: 503, timeoutStatus: 504 },
  maxBodySize: 1234,
  maxUploadSize: 567_890,
  secured: false,
  adminClosed: false
}

const documents: Readonly<Record<string, OpenApi.Document>> = {
  open: OpenApi.make(options),
  secured: OpenApi.make({ ...options, secured: true }),
  closed: OpenApi.make({ ...options, secured: true, adminClosed: true }),
  otherStatuses: OpenApi.make({ ...options, choices: { refusalStatus: 429, timeoutStatus: 408 } }),
  empty: OpenApi.make({
    title: "Nothing",
    version: "0",
    operations: [],
    choices: options.choices,
    maxBodySize: 1,
    secured: false,
    adminClosed: false
  }),
  evil: OpenApi.make({
    ...options,
    title: evil,
    description: evil,
    operations: at("/x", Store, evil)
  })
}

const document = documents["open"]!
const methodAt = (path: string, { paths } = document) => paths[path]!["post"]!
const okOf = (path: string) => methodAt(path)["responses"]["200"]
const schemasIn = ({ components } = document) => components["schemas"] as Readonly<Record<string, any>>

/** Follows a reference, if it is one. */
const resolved = (schema: any, { components } = document): any => {
  const [, kind, name] = /^#\/components\/(\w+)\/(.+)$/.exec(schema.$ref ?? "") ?? []
  return kind === undefined ? schema : (components[kind]![decodeURIComponent(name!)] as any)
}

const resultOf = (path: string) => okOf(path).content["application/json"].schema

const parametersOf = (path: string): Readonly<Record<string, any>> =>
  Object.fromEntries(
    methodAt(path)["parameters"].map((parameter: unknown) => {
      const { name, schema } = resolved(parameter)
      return [name, schema]
    })
  )

/** The `_tag`s that the body of an answer may have, and those of its reason. */
const tagsOf = (response: any, of = document): ReadonlyArray<string> => {
  const { schema } = response.content["application/json"]
  return (schema.anyOf ?? [schema]).flatMap((member: any) => {
    const { properties } = resolved(member, of)
    const reasons = properties?.reason === undefined ? [] : (properties.reason.anyOf ?? [properties.reason])
    return [properties?._tag.enum[0], ...reasons.map((reason: any) => resolved(reason, of).properties._tag.enum[0])]
  })
}

interface Problem {
  readonly ruleId: string
  readonly severity: "error" | "warn"
  readonly message: string
  readonly location: ReadonlyArray<{ readonly pointer?: string; readonly source: { readonly ref: string } }>
}

/** What `redocly lint` says, by its recommended rules. */
const lint = async (): Promise<ReadonlyArray<Problem>> => {
  const folder = mkdtempSync(join(tmpdir(), "effect-serve-openapi-"))
  const files = Object.entries(documents).map(([name, document]) => {
    writeFileSync(join(folder, `${name}.json`), JSON.stringify(document))
    return `${name}.json`
  })
  const env = { ...process.env, REDOCLY_TELEMETRY: "off", REDOCLY_SUPPRESS_UPDATE_NOTICE: "true" }
  const args = [
    fileURLToPath(import.meta.resolve("@redocly/cli/bin/cli.js")),
    "lint",
    ...files,
    "--extends=recommended"
  ]
  const run = promisify(execFile)(process.execPath, [...args, "--format=json", "--max-problems=1000"], {
    cwd: folder,
    env
  })
  const { stderr, stdout } = await run
    .catch((failure: { stdout: string; stderr: string }) => failure)
    .finally(() => rmSync(folder, { recursive: true }))
  assert.match(stdout, /^\{/, stderr)
  return stdout.split(/(?<=^\})/m).flatMap((report) => JSON.parse(report).problems)
}

describe("OpenApi", { timeout: 30_000 }, () => {
  describe("make", () => {
    it("passes redocly's recommended rules, all but that an application has a license", async () => {
      const problems = (await lint()).map(
        ({ location: [location], message, ruleId, severity }) =>
          `${severity} ${ruleId} in ${location?.source.ref} at ${location?.pointer}: ${message}`
      )
      // Of the documents, "evil" alone has HTML in what the application says of itself.
      const expected = /^warn (?:info-license in|no-unsafe-markdown in evil.json) /
      assert.deepStrictEqual(
        problems.filter((problem) => !expected.test(problem)),
        []
      )
      assert.isAtLeast(problems.length, Object.keys(documents).length)
    })

    for (const [name, document] of Object.entries(documents)) {
      it(`passes swagger-parser's validation: ${name}`, async () => {
        await SwaggerParser.validate(JSON.parse(JSON.stringify(document)))
      })

      it(`is JSON: ${name}`, () => assert.deepStrictEqual(JSON.parse(JSON.stringify(document)), document))
    }

    it("has every method, under its deployment, with a name of its own", () => {
      assert.deepStrictEqual(
        Object.keys(document.paths).filter((path) => !path.startsWith("/-/")),
        operations.map(({ path }) => path)
      )
      for (const { deployment, path } of operations) assert.deepStrictEqual(methodAt(path)["tags"], [deployment])
      assert.strictEqual(methodAt("/store/find")["operationId"], "Store.find")
      assert.strictEqual(methodAt("/again/find")["operationId"], "Store.find-2")
      const names = Object.values(document.paths).flatMap((verbs) =>
        Object.values(verbs).map((one) => one["operationId"])
      )
      assert.strictEqual(new Set(names).size, names.length)
      assert.deepStrictEqual(
        document.tags.map(({ name }) => name),
        ["Store", "Shop №1", "Media", "Streams", "ingress"]
      )
    })

    it("takes the later of two methods at one path", () => {
      const both = OpenApi.make({ ...options, operations: [...at("/x", Store), ...at("/x", Shop)] })
      assert.deepStrictEqual(methodAt("/x/find", both)["tags"], ["Shop №1"])
      assert.strictEqual(methodAt("/x/find", both)["operationId"], "Shop__1.find")
    })

    it("says of a method what its annotations say, or those of its payload", () => {
      assert.strictEqual(methodAt("/store/find")["summary"], "Finds an item")
      assert.strictEqual(methodAt("/store/find")["description"], "Über *alles* hinweg: 日本語 🎉")
      assert.strictEqual(methodAt("/store/grow")["summary"], "Grows a tree")
      assert.strictEqual(methodAt("/store/grow")["description"], "All of it.")
      assert.strictEqual(methodAt("/store/count")["summary"], "count")
      assert.notProperty(methodAt("/store/count"), "description")
    })

    it("describes payloads and results in their JSON form", () => {
      const { requestBody } = methodAt("/store/find") as any
      assert.isTrue(requestBody.required)
      assert.include(requestBody.description, "1234 bytes")
      const { schema } = requestBody.content["application/json"]
      assert.deepStrictEqual(schema.properties.id, { type: "string" })
      assert.deepStrictEqual(schema.required, ["id"])
      const result = resolved(resultOf("/store/find"))
      assert.strictEqual(result.description, "Ein Ding – 物 🚀")
      assert.deepStrictEqual(result.properties.at, { type: "string" })
      assert.notProperty(result, "additionalProperties")
    })

    it("asks for no body where there is no payload, and leaves it open where it may be null", () => {
      assert.notProperty(methodAt("/store/count"), "requestBody")
      assert.deepStrictEqual(resultOf("/store/clear"), { type: "null" })
      assert.isFalse(methodAt("/store/maybe")["requestBody"].required)
      assert.isTrue(methodAt("/media/resize")["requestBody"].required)
    })

    it("shares schemas, and refers to them where they are recursive", () => {
      assert.deepStrictEqual(resultOf("/store/grow"), { $ref: "#/components/schemas/Branch" })
      assert.deepStrictEqual(schemasIn()["Branch"].properties.children.items, { $ref: "#/components/schemas/Branch" })
      assert.deepStrictEqual(resultOf("/again/find"), resultOf("/store/find"))
      const tree = resolved((methodAt("/store/grow") as any).requestBody.content["application/json"].schema)
      const { children } = resolved(resolved(tree.properties.children).items).properties
      assert.strictEqual(resolved(children), resolved(tree.properties.children))
    })

    it("tells schemas with the same identifier apart", () => {
      assert.hasAllKeys(resolved(resultOf("/a/b/find")).properties, ["name"])
      assert.hasAllKeys(resolved(resultOf("/store/find")).properties, ["id", "at", "tags", "size"])
      const both = OpenApi.make({ ...options, operations: [...at("/a", Shop), ...at("/b", Shop)] })
      assert.deepStrictEqual(resolved(resultOf("/a/b/find")), schemasIn(both)["Item"])
    })

    it("names each status that a method's failures have, and their bodies", () => {
      const errors = [
        new Missing({ id: "" }),
        new Busy(),
        new Taken(),
        new Broken({ part: "" }),
        { _tag: "Paused" as const }
      ]
      const { rpc } = operations[0]!
      for (const [name, choices] of [
        ["open", options.choices],
        ["otherStatuses", { refusalStatus: 429, timeoutStatus: 408 }]
      ] as const) {
        const statusOf = Status.ofFailure(rpc.errorSchema, choices)
        const { responses } = methodAt("/store/find", documents[name])
        for (const error of errors) {
          assert.include(tagsOf(responses[statusOf(error)], documents[name]), error._tag)
        }
        for (const reason of reasons) {
          const status = statusOf(ServeError.because(() => reason))
          if (status !== 499 && reason._tag !== "BadUpload") {
            assert.include(tagsOf(responses[status], documents[name]), reason._tag, `${status}`)
          }
        }
      }
      const { responses } = methodAt("/store/find")
      assert.deepStrictEqual(tagsOf(responses["409"]), ["Busy", "Taken"])
      assert.include(responses["409"].description, "Someone has it.")
      assert.deepStrictEqual(
        Object.keys(responses).map(Number),
        [200, 400, 404, 405, 408, 409, 413, 415, 500, 502, 503, 504]
      )
    })

    it("has failures of the runtime where they were chosen to be", () => {
      const find = (name: string) => methodAt("/store/find", documents[name])["responses"]
      assert.includeMembers(
        [...tagsOf(find("open")["503"])],
        ["QueueFull", "Shed", "Unavailable", "ReplicaLost", "Paused"]
      )
      assert.notProperty(find("open"), "429")
      const refused = tagsOf(find("otherStatuses")["429"], documents["otherStatuses"])
      assert.deepStrictEqual(refused, ["ServeError", "QueueFull", "Shed", "Unavailable"])
      const rest = tagsOf(find("otherStatuses")["503"], documents["otherStatuses"])
      assert.sameMembers([...rest], ["Paused", "ServeError", "ReplicaLost", "TransportError"])
      assert.property(find("open"), "504")
      assert.notProperty(find("otherStatuses"), "504")
      assert.include(tagsOf(find("otherStatuses")["408"], documents["otherStatuses"]), "DeadlineExceeded")
    })

    it("shares the bodies of failures", () => {
      const { responses } = methodAt("/store/count")
      for (const [status, names] of Object.entries({
        400: ["BadRequest"],
        413: ["PayloadTooLarge", "ServeError413"]
      })) {
        const { schema } = responses[status].content["application/json"]
        assert.deepStrictEqual(
          schema.anyOf ?? [schema],
          names.map((name) => ({ $ref: `#/components/schemas/${name}` }))
        )
      }
    })

    it("says when to come back, what else to use, and the request's name, in headers", () => {
      const { responses } = methodAt("/store/find")
      assert.property(responses["405"].headers, "Allow")
      for (const [status, response] of Object.entries<any>(responses)) {
        assert.property(response.headers, "x-request-id")
        assert.strictEqual("Retry-After" in response.headers, ["503", "504"].includes(status), status)
        for (const header of Object.values(response.headers)) assert.property(resolved(header), "schema")
      }
      const { properties, required } = resolved(responses["400"].content["application/json"].schema)
      assert.deepStrictEqual(Object.keys(properties.issues.items.properties), ["path", "message"])
      assert.sameMembers(required, ["_tag", "requestId", "message"])
    })

    it("has the headers that a request may bring, with their limits", () => {
      const ofEvery = [
        "x-request-id",
        "x-request-timeout-ms",
        "x-request-timeout-seconds",
        "x-request-priority",
        "x-request-tenant",
        "x-request-disconnect-disabled",
        "traceparent"
      ]
      assert.deepStrictEqual(Object.keys(parametersOf("/store/count")), ofEvery)
      assert.deepStrictEqual(Object.keys(parametersOf("/streams/items")), [...ofEvery, "Last-Event-ID"])
      const schemas = parametersOf("/store/count")
      assert.strictEqual(schemas["x-request-tenant"].maxLength, 256)
      assert.strictEqual(schemas["x-request-id"].maxLength, 128)
      assert.deepStrictEqual(schemas["x-request-priority"].enum, ["critical", "default", "sheddable"])
      assert.deepStrictEqual(schemas["x-request-disconnect-disabled"].enum, ["?1"])
      assert.match("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", new RegExp(schemas.traceparent.pattern))
    })

    it("has a GET beside the POST of a stream that an EventSource can read, with the payload in the URL", () => {
      const { get, post } = document.paths["/streams/tokens"]!
      assert.strictEqual(get!["operationId"], "Streams.tokens.get")
      const [payload] = (get!["parameters"] as ReadonlyArray<any>).filter(({ name }) => name === "payload")
      assert.deepInclude(payload, { in: "query", required: true, content: post!["requestBody"].content })
      assert.deepStrictEqual(get!["responses"], post!["responses"])
      assert.isFalse("requestBody" in get!)
      assert.deepStrictEqual(Object.keys(document.paths["/store/count"]!), ["post"])
    })

    it("describes a stream as events and as lines, and how each tells of a failure", () => {
      const { content } = okOf("/streams/items")
      assert.hasAllKeys(content, ["text/event-stream", "application/x-ndjson"])
      const [event, failed] = content["text/event-stream"].schema.anyOf
      assert.strictEqual(resolved(event.properties.data.contentSchema), resolved(resultOf("/store/find")))
      assert.deepStrictEqual(failed.properties.event.enum, ["error"])
      const failures = tagsOf({ content: { "application/json": { schema: failed.properties.data.contentSchema } } })
      assert.includeMembers(
        [...failures],
        ["Missing", "Busy", "InternalServerError", "ServeError", "QueueFull", "BadUpload"]
      )
      const [line, error] = content["application/x-ndjson"].schema.anyOf
      assert.deepStrictEqual(line, event.properties.data.contentSchema)
      assert.deepStrictEqual(error.properties.error, failed.properties.data.contentSchema)
      const { responses } = methodAt("/streams/items")
      assert.include(tagsOf(responses["404"]), "Missing")
      assert.include(tagsOf(responses["409"]), "Busy")
      assert.deepStrictEqual(tagsOf(responses["406"]), ["NotAcceptable"])
    })

    it("puts the parts of an event into its fields, and into its line", () => {
      const { content } = okOf("/streams/events")
      const [event] = content["text/event-stream"].schema.anyOf
      assert.deepStrictEqual(event.required, ["data"])
      assert.hasAllKeys(event.properties, ["event", "id", "data"])
      assert.hasAllKeys(resolved(event.properties.data.contentSchema).properties, ["id", "at", "tags", "size"])
      assert.hasAllKeys(resolved(content["application/x-ndjson"].schema.anyOf[0]).properties, ["data", "event", "id"])
    })

    it("leaves bytes and text as they are, in and out, whole and in streams", () => {
      const bytes = { type: "string", format: "binary" }
      assert.deepStrictEqual(methodAt("/media/resize")["requestBody"].content, {
        "image/png": { schema: { ...bytes, maxLength: 1234 } }
      })
      assert.deepStrictEqual(okOf("/media/resize").content, { "image/png": { schema: bytes } })
      assert.deepStrictEqual(methodAt("/media/parse")["requestBody"].content, {
        "text/csv": { schema: { type: "string" } }
      })
      assert.deepStrictEqual(okOf("/media/parse").content, { "text/csv": { schema: { type: "string" } } })
      assert.deepStrictEqual(okOf("/streams/frames").content, { "image/png": { schema: bytes } })
      assert.deepStrictEqual(okOf("/streams/rows").content, { "text/csv": { schema: { type: "string" } } })
      assert.include(tagsOf(methodAt("/streams/frames")["responses"]["500"]), "Broken")
      assert.notProperty(methodAt("/streams/frames")["responses"], "406")
    })

    it("takes uploads and forms of any size that is allowed, and says how they can go wrong", () => {
      const schema = { type: "string", format: "binary", maxLength: 567_890 }
      const { requestBody, responses } = methodAt("/media/measure") as any
      assert.deepStrictEqual(requestBody.content, { "audio/*": { schema }, "image/png": { schema } })
      assert.include(requestBody.description, "567890 bytes")
      assert.deepStrictEqual(methodAt("/media/hash")["requestBody"].content, { "application/octet-stream": { schema } })
      assert.hasAllKeys(methodAt("/media/add")["requestBody"].content, ["multipart/form-data"])
      for (const status of ["400", "408", "413"]) assert.include(tagsOf(responses[status]), "BadUpload")
      assert.notInclude(tagsOf(methodAt("/media/resize")["responses"]["413"]), "BadUpload")
      const { maxUploadSize: _, ...unlimited } = options
      const without = methodAt("/media/measure", OpenApi.make(unlimited))["requestBody"]
      assert.notProperty(without.content["image/png"].schema, "maxLength")
      assert.notMatch(without.description, /\d/)
    })

    it("asks for a token where the methods, or the ingress's own paths, do", () => {
      const securityAt = (name: string) => ({
        method: methodAt("/store/find", documents[name])["security"],
        own: ["/-/healthz", "/-/routes", "/-/openapi.json", "/-/docs"].map(
          (path) => documents[name]!.paths[path]!["get"]!["security"].length
        )
      })
      assert.deepStrictEqual(securityAt("open"), { method: [], own: [0, 0, 0, 0] })
      assert.deepStrictEqual(securityAt("secured"), { method: [{ bearer: [] }], own: [0, 0, 0, 0] })
      assert.deepStrictEqual(securityAt("closed"), { method: [{ bearer: [] }], own: [0, 1, 1, 1] })
      assert.deepInclude(documents["secured"]!.components["securitySchemes"]!["bearer"], {
        type: "http",
        scheme: "bearer"
      })
      assert.notProperty(document.components, "securitySchemes")
      assert.containsAllKeys(methodAt("/store/find", documents["secured"])["responses"], ["401", "403"])
      assert.property(methodAt("/store/find", documents["secured"])["responses"]["401"].headers, "WWW-Authenticate")
      assert.doesNotHaveAnyKeys(methodAt("/store/find")["responses"], ["401", "403"])
      assert.containsAllKeys(documents["closed"]!.paths["/-/docs"]!["get"]!["responses"], ["401", "403"])
      assert.doesNotHaveAnyKeys(documents["closed"]!.paths["/-/healthz"]!["get"]!["responses"], ["401", "403"])
    })

    it("has the ingress's own paths", () => {
      const own = Object.entries(document.paths).filter(([path]) => path.startsWith("/-/"))
      assert.deepStrictEqual(
        own.map(([path, { get }]) => [path, ...Object.keys(get!["responses"])]),
        [
          ["/-/healthz", "200", "405", "503"],
          ["/-/routes", "200", "405"],
          ["/-/openapi.json", "200", "405"],
          ["/-/docs", "200", "405"]
        ]
      )
      assert.hasAllKeys(
        documents["empty"]!.paths,
        own.map(([path]) => path)
      )
    })
  })

  describe("DocsPage", () => {
    it.effect("shows the document without asking other hosts for anything", () =>
      Effect.gen(function* () {
        const html = yield* DocsPage.ofDocument(document)
        assert.deepStrictEqual(embedded(html), document)
        assert.include(html, "<title>Läden &amp; &lt;more&gt;</title>")
        assert.notMatch(html.slice(0, 2000), /(?:src|href)=/)
        assert.include(html, `"withDefaultFonts":false`)
        assert.include(html, `"preferredSecurityScheme":null`)
        assert.include(yield* DocsPage.ofDocument(documents["secured"]!), `"preferredSecurityScheme":"bearer"`)
      })
    )

    it.effect("can't be broken out of", () =>
      Effect.gen(function* () {
        const html = yield* DocsPage.ofDocument(documents["evil"]!)
        assert.deepStrictEqual(embedded(html), documents["evil"])
        const plain = yield* DocsPage.ofDocument(document)
        assert.deepStrictEqual(elementsOf(html), elementsOf(plain))
        assert.notInclude(html, `alert("1")</script>`)
      })
    )

    it.effect("is made once for a document", () =>
      Effect.gen(function* () {
        const changing = { ...document, info: { title: "One", version: "1" } }
        const html = yield* DocsPage.ofDocument(changing)
        changing.info.title = "Two"
        assert.strictEqual(yield* DocsPage.ofDocument(changing), html)
        assert.include(yield* DocsPage.ofDocument({ ...changing }), "<title>Two</title>")
      })
    )
  })
})

const reasons: ReadonlyArray<ServeError.Reason> = [
  new ServeError.QueueFull({
    deployment: "Store",
    ongoing: 1,
    maxOngoingRequests: 1,
    queued: 1,
    maxQueuedRequests: 1,
    retryAfter: Duration.seconds(1)
  }),
  new ServeError.Shed({ deployment: "Store", why: "", retryAfter: Duration.seconds(1) }),
  new ServeError.DeadlineExceeded({ deployment: "Store", stage: "handler" }),
  new ServeError.ReplicaLost({ replica: "Store#1", started: true }),
  new ServeError.ReplicaLost({ replica: "Store#1", started: false }),
  new ServeError.Unavailable({ deployment: "Store", why: "draining" }),
  new ServeError.BatchContract({ expected: 3, received: 2 }),
  new ServeError.ItemTooLarge({ size: 600, maxBatchSize: 512 }),
  new ServeError.WorkerCrashed({ exitCode: 137 }),
  new ServeError.SlowConsumer({}),
  new ServeError.BadUpload({ why: "tooLarge", description: "" }),
  new ServeError.TransportError({ deployment: "Store", started: true, description: "" }),
  new ServeError.TransportError({ deployment: "Store", started: false, description: "" })
]

const elementsOf = (html: string) => html.match(/<\/?(?:script|title|meta|body|head|html)[\s>]/g)

/** The document in the last script of a page, as a browser reads it: up to the first end tag. */
const embedded = (html: string): unknown => {
  const scripts = html.split("<script>")
  const script = scripts.at(-1)!.split("</script")[0]!
  const [, json] = /content: (\{.*\})$/m.exec(script) ?? []
  return JSON.parse(json!)
}
