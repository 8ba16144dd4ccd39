import SwaggerParser from "@apidevtools/swagger-parser"
import { assert, describe, it } from "@effect/vitest"
import { Auth, Deployment, HttpIngress, HttpSchema } from "effect-serve"
import { Effect, Layer, Schema, Stream } from "effect"
import { HttpApiSchema } from "effect/http-api"
import { Rpc } from "effect/rpc"
import { execFile } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { post, Quiet, send } from "./http.ts"
import { servers } from "./servers.ts"

class Missing extends Schema.TaggedError<Missing>()("Missing", { id: Schema.Int }, { httpApiStatus: 404 }) {}
class Busy extends Schema.TaggedError<Busy>()("Busy", {}) {}
class Taken extends Schema.TaggedError<Taken>()("Taken", {}) {}
class Broken extends Schema.TaggedError<Broken>()("Broken", {}) {}

const Conflict = Schema.Union([Busy, Taken]).annotate({ httpApiStatus: 409 })
const All = Schema.Union([Missing, Conflict, Broken])
const errors = { missing: new Missing({ id: 1 }), busy: new Busy(), taken: new Taken(), broken: new Broken() }
const how = { payload: { how: Schema.Literals(["missing", "busy", "taken", "broken"]) } }
const conflicting = { payload: { how: Schema.Literals(["busy", "taken"]) }, error: Conflict }

class Lab extends Deployment.Service<Lab>()("Lab", [
  Rpc.make("fail", { ...how, error: All }),
  Rpc.make("failLater", { ...how, success: Schema.Int, error: All, stream: true }),
  Rpc.make("conflict", conflicting),
  Rpc.make("conflictLater", { ...conflicting, success: Schema.Int, stream: true }),
  Rpc.make("hash", { payload: HttpSchema.Upload(), success: Schema.String }),
  Rpc.make("form", { payload: HttpSchema.Multipart(), success: Schema.Int }),
  Rpc.make("image", { success: Schema.Uint8Array.pipe(HttpApiSchema.asUint8Array({ contentType: "image/png" })) })
]) {}

const LabLive = Lab.toLayer({
  fail: ({ how }) => Effect.fail(errors[how]),
  failLater: ({ how }) => Stream.fail(errors[how]),
  conflict: ({ how }) => Effect.fail(errors[how]),
  conflictLater: ({ how }) => Stream.fail(errors[how]),
  hash: () => Effect.succeed(""),
  form: () => Effect.succeed(0),
  image: () => Effect.succeed(new Uint8Array())
})

const ingresses = servers(
  { "/lab": Lab, "/other/lab": Lab },
  {
    authorize: Auth.bearer({ t0: "ada" }),
    protectOwnPaths: false,
    openApi: { title: "The lab", version: "2.0.0", description: "What it does." }
  }
)
const authorization = { authorization: "Bearer t0" }

const onEach = <A>(effect: Effect.Effect<A, never, HttpIngress.Address>) =>
  Effect.forEach(Object.entries(ingresses), ([name, ingress]) =>
    Effect.map(
      Effect.provide(effect, ingress.pipe(Layer.provide(LabLive), Layer.provideMerge(Quiet))),
      (value) => [name, value] as const
    )
  )

/** The errors that `redocly lint` finds, by its recommended rules. */
const lint = async (texts: ReadonlyArray<string>): Promise<ReadonlyArray<string>> => {
  const folder = mkdtempSync(join(tmpdir(), "effect-serve-openapi-"))
  const files = texts.map((text, i) => {
    writeFileSync(join(folder, `${i}.json`), text)
    return `${i}.json`
  })
  const cli = fileURLToPath(import.meta.resolve("@redocly/cli/bin/cli.js"))
  const env = { ...process.env, REDOCLY_TELEMETRY: "off", REDOCLY_SUPPRESS_UPDATE_NOTICE: "true" }
  const run = promisify(execFile)(process.execPath, [cli, "lint", ...files, "--extends=recommended", "--format=json"], {
    cwd: folder,
    env
  })
  const { stderr, stdout } = await run
    .catch((failure: { stdout: string; stderr: string }) => failure)
    .finally(() => rmSync(folder, { recursive: true }))
  assert.match(stdout, /^\{/, stderr)
  return stdout
    .split(/(?<=^\})/m)
    .flatMap((report) => JSON.parse(report).problems)
    .filter(({ severity }) => severity === "error")
    .map(({ message, ruleId }) => `${ruleId}: ${message}`)
}

describe("HttpIngress", { timeout: 30_000 }, () => {
  it.live("serves a description of its methods that other tools read without errors, the same on each server", () =>
    Effect.gen(function* () {
      const answers = yield* onEach(send("/-/openapi.json"))
      for (const [name, { body, headers, status }] of answers) {
        assert.deepStrictEqual([status, headers.get("content-type")], [200, "application/json"], name)
        assert.deepInclude(body.info, { title: "The lab", version: "2.0.0", description: "What it does." })
        assert.deepStrictEqual(body, answers[0]![1].body, name)
        yield* Effect.promise(() => SwaggerParser.validate(structuredClone(body)))
        assert.deepStrictEqual(
          Object.keys(body.paths).filter((path) => path.startsWith("/lab/")),
          Lab.methods.map(({ _tag }) => `/lab/${_tag}`)
        )
      }
      assert.deepStrictEqual(yield* Effect.promise(() => lint(answers.map(([, { text }]) => text))), [])
    })
  )

  it.live("shows the description as a page", () =>
    Effect.gen(function* () {
      for (const [name, { headers, status, text }] of yield* onEach(send("/-/docs"))) {
        assert.deepStrictEqual([status, headers.get("content-type")], [200, "text/html; charset=utf-8"], name)
        assert.match(text, /^<!doctype html>/i, name)
        assert.include(text, "<title>The lab</title>", name)
        assert.include(text, "/lab/failLater", name)
      }
    })
  )

  it.live("answers a declared error with the status that is declared for it, or for its union, as described", () =>
    onEach(
      Effect.gen(function* () {
        const { body: document } = yield* send("/-/openapi.json")
        for (const [method, hows] of [
          ["fail", { missing: 404, busy: 409, taken: 409, broken: 500 }],
          ["failLater", { missing: 404, busy: 409, taken: 409, broken: 500 }],
          ["conflict", { busy: 409, taken: 409 }],
          ["conflictLater", { busy: 409, taken: 409 }]
        ] as const) {
          for (const [how, status] of Object.entries(hows)) {
            const answer = yield* post(`/lab/${method}`, { how }, authorization)
            assert.deepStrictEqual([answer.status, answer.body._tag.toLowerCase()], [status, how], method)
            const described = document.paths[`/lab/${method}`].post.responses[status].content["application/json"].schema
            assert.include(tagsOf(described, document), answer.body._tag, `${method} ${status}`)
          }
        }
      })
    )
  )
})

/** The tags that a body may have. */
const tagsOf = (schema: any, document: any): ReadonlyArray<string> => {
  const [, name] = /^#\/components\/schemas\/(.+)$/.exec(schema.$ref ?? "") ?? []
  if (name !== undefined) return tagsOf(document.components.schemas[decodeURIComponent(name)], document)
  return schema.anyOf === undefined
    ? schema.properties._tag.enum
    : schema.anyOf.flatMap((member: any) => tagsOf(member, document))
}
