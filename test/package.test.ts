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
        JSON.stringify({ compilerOptions: { module: "nodenext", strict: true, noEmit: true, types: ["node"] } })
      )
      await command(project, "npm", "install", "--offline", "--legacy-peer-deps", tarball)
      for (const name of peers) {
        const link = join(project, "node_modules", name)
        mkdirSync(dirname(link), { recursive: true })
        symlinkSync(realpathSync(join("node_modules", name)), link)
      }
      writeFileSync(join(project, "main.ts"), example!.code)
    }, 60_000)

    it("type-checks the README's example", () => command(project, "tsc"))

    it("runs the README's example", async () => {
      const { exitCode, output } = await run(project, ["main.ts"], async (origin) => {
        assert.strictEqual((await fetch(`${origin}/-/healthz`)).status, 200)
      })
      // 130 is what `NodeRuntime.runMain` exits with after it was interrupted.
      assert.include([0, 130], exitCode, output)
    })
  })
})
