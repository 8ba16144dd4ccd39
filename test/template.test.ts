/** `examples/template`, copied out of the repository, with this package as it is packed and the other packages as they are here. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, dirname, join } from "node:path"
import { promisify } from "node:util"
import template from "../examples/template/package.json" with { type: "json" }
import manifest from "../package.json" with { type: "json" }
import { command, run } from "./program.ts"

const folder = realpathSync(mkdtempSync(join(tmpdir(), "effect-serve-template-")))
const packed = join(folder, "packed")
const project = join(folder, "project")

/** Packs the package without touching `dist`, which another test packs. */
const pack = async () => {
  mkdirSync(packed)
  await command(".", "tsc", "-p", ".config/tsconfig.build.json", "--outDir", join(packed, "dist"))
  for (const file of ["package.json", ...manifest.files.filter((file) => file !== "dist")]) {
    cpSync(file, join(packed, file), { recursive: true })
  }
  await command(packed, "npm", "pack", "--ignore-scripts", "--pack-destination", folder)
  return join(folder, `${manifest.name}-${manifest.version}.tgz`)
}

/** Installs the packed package from its file, and links what else the template depends on. */
const install = async (tarball: string) => {
  mkdirSync(project)
  writeFileSync(join(project, "package.json"), JSON.stringify({ private: true }))
  await command(project, "npm", "install", "--offline", "--legacy-peer-deps", "--no-package-lock", tarball)
  for (const name of Object.keys({ ...template.dependencies, ...template.devDependencies })) {
    if (name === manifest.name) continue
    const link = join(project, "node_modules", name)
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(realpathSync(join("node_modules", name)), link)
  }
}

const textOf = (file: string) => readFileSync(join("examples/template", file), "utf8")
const commandOf = (line: RegExp): ReadonlyArray<string> => JSON.parse(line.exec(textOf("Dockerfile"))![1]!)
const start = template.scripts.start.split(" ")

describe.concurrent("the template", { timeout: 60_000 }, () => {
  beforeAll(async () => {
    await install(await pack())
    cpSync("examples/template", project, {
      recursive: true,
      filter: (source) => !["node_modules", "package-lock.json"].includes(basename(source))
    })
  }, 60_000)
  afterAll(() => rmSync(folder, { recursive: true }))

  it("depends on this version, and on what this version is tested with", () => {
    const tested: Record<string, string> = { ...manifest.devDependencies, [manifest.name]: manifest.version }
    for (const [name, range] of Object.entries({ ...template.dependencies, ...template.devDependencies })) {
      assert.strictEqual(range, `^${tested[name]}`, name)
    }
    assert.strictEqual(template.engines.node, manifest.engines.node)
  })

  it("type-checks", () => command(project, "npm", "run", "check"))

  it("passes its tests", () => command(project, "npm", "test"))

  it("serves, is healthy, and ends well at Ctrl-C", async () => {
    const { exitCode, output } = await run(project, start.slice(1), async (origin) => {
      const [, body] = /^curl -s \S+\/writer\/write .* -d '(.*)'$/m.exec(textOf("README.md"))!
      const headers = { "content-type": "application/json" }
      const response = await fetch(`${origin}/writer/write`, { method: "POST", headers, body: body! })
      assert.deepStrictEqual([response.status, await response.json()], [200, "to be or not to be"])
      const [, ...check] = commandOf(/^HEALTHCHECK .*\\\n *CMD (.*)$/m)
      await promisify(execFile)(process.execPath, check, { env: { PORT: new URL(origin).port } })
    })
    assert.strictEqual(exitCode, 0, output)
    assert.include(output, "The model is unloaded")
  })

  it("has an image that starts it, not as root", () => {
    assert.deepStrictEqual(commandOf(/^CMD (.*)$/m), start)
    assert.match(textOf("Dockerfile"), /^USER node$/m)
    const scripts = Array.from(textOf("Dockerfile").matchAll(/npm run (\w+)/g), ([, script]) => script!)
    assert.deepStrictEqual(scripts, ["check"])
    assert.containsAllKeys(template.scripts, scripts)
  })
})
