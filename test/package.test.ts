import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import manifest from "../package.json" with { type: "json" }
import { fences } from "./fences.ts"
import { command, run } from "./program.ts"

const project = realpathSync(mkdtempSync(join(tmpdir(), "effect-serve-")))
const tarball = join(project, `effect-serve-${manifest.version}.tgz`)
const peers = ["effect", "@effect/platform-node", "@types/node"]

/** A program whose code runs on threads, in four files. */
const threads = {
  "tasks.ts": `
    import { isCancelled } from "effect-serve/task"
    export const add = (a: number, b: number) => isCancelled() ? 0 : a + b
  `,
  "Echo.ts": `
    import { Schema } from "effect"
    import { Rpc } from "effect/rpc"
    import { Deployment } from "effect-serve"
    export class Echo extends Deployment.Service<Echo>()("Echo", [
      Rpc.make("shout", { payload: { text: Schema.String }, success: Schema.String }),
      Deployment.Blocking(Rpc.make("whisper", { payload: { text: Schema.String }, success: Schema.String }))
    ]) {}
  `,
  "echo.module.ts": `
    import { Effect } from "effect"
    import { Echo } from "./Echo.ts"
    export default Echo.module({
      shout: ({ text }) => Effect.succeed(text.toUpperCase()),
      whisper: ({ text }) => text.toLowerCase()
    })
  `,
  "app.ts": `
    import { Effect, Layer } from "effect"
    import { WorkerPool } from "effect-serve"
    import { Echo } from "./Echo.ts"
    class Tasks extends WorkerPool.Service<Tasks, typeof import("./tasks.ts")>()("Tasks", {
      module: new URL("./tasks.ts", import.meta.url)
    }) {}
    const EchoLive = Echo.toLayerModule<typeof import("./echo.module.ts")>(new URL("./echo.module.ts", import.meta.url))
    const program = Effect.gen(function*() {
      const tasks = yield* Tasks
      const echo = yield* Echo
      const sum: number = yield* tasks.add(40, 2)
      return [sum, yield* echo.shout({ text: "Hello" }), yield* echo.whisper({ text: "Hello" })]
    })
    const App = Layer.merge(Tasks.layer({ size: 1 }), EchoLive)
    console.log(JSON.stringify(await Effect.runPromise(Effect.provide(program, App))))
  `
}
const [example] = fences("README.md", readFileSync("README.md", "utf8"))

describe("the packed package", { timeout: 60_000 }, () => {
  beforeAll(() => command(".", "npm", "pack", "--pack-destination", project), 60_000)
  afterAll(() => rmSync(project, { recursive: true }))

  it("passes publint", () => command(".", "publint", "run", tarball, "--strict"))

  it("has right types", () => command(".", "attw", tarball, "--profile", "esm-only"))

  describe("in an empty project", () => {
    beforeAll(async () => {
      writeFileSync(join(project, "package.json"), JSON.stringify({ private: true, type: "module" }))
      writeFileSync(
        join(project, "tsconfig.json"),
        JSON.stringify({
          compilerOptions: {
            module: "nodenext",
            strict: true,
            noEmit: true,
            allowImportingTsExtensions: true,
            types: ["node"]
          }
        })
      )
      await command(project, "npm", "install", "--offline", "--legacy-peer-deps", tarball)
      for (const name of peers) {
        const link = join(project, "node_modules", name)
        mkdirSync(dirname(link), { recursive: true })
        symlinkSync(realpathSync(join("node_modules", name)), link)
      }
      writeFileSync(join(project, "main.ts"), example!.code)
      for (const [name, code] of Object.entries(threads)) writeFileSync(join(project, name), code)
    }, 60_000)

    it("type-checks the README's example and code for threads", () =>
      command(project, "tsc", "--noEmit", "false", "--outDir", "out", "--rewriteRelativeImportExtensions"))

    it("runs code on threads, from TypeScript and from what tsc makes of it", async () => {
      const fromSource = await run(project, ["app.ts"])
      assert.include(fromSource.output, `[42,"HELLO","hello"]`)
      const built = await run(project, ["out/app.js"])
      assert.deepStrictEqual(built, fromSource)
    })

    it("runs the README's example", async () => {
      const { exitCode, output } = await run(project, ["main.ts"], async (origin) => {
        assert.strictEqual((await fetch(`${origin}/-/healthz`)).status, 200)
      })
      // 130 is what `NodeRuntime.runMain` exits with after it was interrupted.
      assert.include([0, 130], exitCode, output)
    })
  })
})
