import { assert, beforeAll, describe, it } from "@effect/vitest"
import { globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { fences } from "./fences.ts"
import { command, run } from "./program.ts"

const directory = ".docs"
// docs/api is made of the comments in src.
const examples = globSync(["README.md", "docs/**/*.md", "examples/*/README.md", "src/**/*.ts"], {
  exclude: ["docs/api/**"]
})
  .toSorted()
  .flatMap((path) => fences(path, readFileSync(path, "utf8")))
  .map((example) => ({ ...example, file: `${example.name.replaceAll(/\W+/g, "-")}.ts` }))

// What serves and calls itself is done by then, and what only serves is interrupted.
const moment = () => new Promise<void>((resolve) => setTimeout(resolve, 400))

describe("examples in the docs", () => {
  beforeAll(() => {
    rmSync(directory, { recursive: true, force: true })
    mkdirSync(directory)
    writeFileSync(`${directory}/tsconfig.json`, JSON.stringify({ extends: "../tsconfig.json", include: ["*.ts"] }))
    for (const { code, file } of examples) writeFileSync(`${directory}/${file}`, code)
  })

  it("are found in Markdown and in comments", () => {
    const code = `import "effect"\n`
    const markdown = `# A\n\`\`\`ts\n${code}\`\`\`\n\`\`\`ts no-run\n${code}\`\`\`\n\`\`\`ts\nf()\n\`\`\`\n`
    const found = (path: string) => [
      { name: `${path} #1`, code, runs: true },
      { name: `${path} #2`, code, runs: false }
    ]
    assert.deepStrictEqual(fences("a.md", markdown), found("a.md"))
    assert.deepStrictEqual(
      fences("a.ts", `/**\n${markdown.trimEnd().replaceAll(/^/gm, " * ")}\n */\nf()`),
      found("a.ts")
    )
  })

  it.runIf(examples.length > 0)("type-check", { timeout: 60_000 }, () => command(".", "tsc", "-p", directory))

  describe.concurrent("run", { timeout: 30_000 }, () => {
    for (const { file, name } of examples.filter(({ runs }) => runs)) {
      it(name, async () => {
        const { exitCode, output } = await run(
          ".",
          ["--conditions=effect-serve-source", `${directory}/${file}`],
          moment
        )
        // 130 is what `NodeRuntime.runMain` exits with after it was interrupted.
        assert.include([0, 130], exitCode, output)
      })
    }
  })
})
