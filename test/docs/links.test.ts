import { assert, describe, it } from "@effect/vitest"
import { existsSync, globSync, readFileSync } from "node:fs"
import { deadLinks, slugs } from "./links.ts"

const pages = globSync(["README.md", "CHANGELOG.md", "docs/**/*.md", "examples/*/README.md"])

/** The dead links of `docs/a.md`, beside some other files. */
const dead = (text: string) =>
  deadLinks({ "docs/a.md": text, "docs/b.md": "# B\n## Two `words`, & more\n", "README.md": "# R\n" }, (path) =>
    ["docs/c.svg", "src"].includes(path)
  ).map((found) => found.replace("docs/a.md links to ", ""))

describe("links in Markdown", () => {
  it("lead somewhere", () => {
    assert.include(pages, "docs/architecture.md")
    const files = Object.fromEntries(pages.map((path) => [path, readFileSync(path, "utf8")]))
    assert.deepStrictEqual(deadLinks(files, existsSync), [])
  })

  it("are found, and followed to headings", () => {
    const alive = [
      "[b](b.md) [b](b.md#two-words--more) ![c](c.svg) [src](../src) [up](../README.md#r) <https://a.example>",
      "# Here\n[here](#here) [site](https://effect.website/docs?a=b#c) [mail](mailto:ada@a.example)",
      "[b][1]\n\n[1]: b.md\n",
      "```md\n[code](gone.md)\n```\n`[code](gone.md)`\n<!-- [comment](gone.md) -->"
    ]
    for (const text of alive) assert.deepStrictEqual(dead(text), [], text)
    for (const target of [
      "gone.md",
      "b.md#three",
      "#here",
      "/docs/b.md",
      "../../main/README.md",
      "c.svg#b",
      "http:/a.example",
      "https://",
      "file:///etc/hosts"
    ]) {
      assert.deepStrictEqual(dead(`a [link\nof two lines](${target})`), [target])
      assert.deepStrictEqual(dead(`[link]\n\n[link]: ${target}\n`), [target])
      assert.deepStrictEqual(dead(`<a href="${target}">link</a>`), [target])
    }
  })

  it("have GitHub's anchors", () => {
    assert.deepStrictEqual(slugs(["Over HTTP", "`a.b`: c_d", "Over HTTP", "[Link](x.md) – é"]), [
      "over-http",
      "ab-c_d",
      "over-http-1",
      "link--é"
    ])
  })
})
