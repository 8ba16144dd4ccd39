import { assert, beforeAll, describe, it } from "@effect/vitest"
import * as Serve from "effect-serve"
import { Duration, Schema } from "effect"
import { globSync, readFileSync } from "node:fs"
import { type Comment, type Declaration, type Member, type Module, read } from "./api.ts"
import { defaultIn, pages } from "./pages.ts"
import { silentFailures, undocumented, vagueOptions } from "./rules.ts"

const commentOf = (text: string, category = "options"): Comment => ({
  text,
  category,
  since: "0.1.0",
  examples: [],
  isInternal: false
})

const member = (text: string, change: Partial<Member> = {}): Member => ({
  name: "wait",
  isOptional: true,
  isMethod: false,
  type: "Duration.Input",
  comment: commentOf(text),
  failures: [],
  ...change
})

/** A module `Line` that exports `Options`. */
const planted = (change: Partial<Declaration>): ReadonlyArray<Module> => [
  {
    name: "Line",
    importing: `import { Line } from "effect-serve"`,
    file: "src/core/Line.ts",
    comment: commentOf("Lines. They wait."),
    exports: [
      {
        name: "Options",
        file: "src/core/Line.ts",
        at: 0,
        declarations: [
          {
            kind: "schema",
            signature: "const Options = Schema.Struct({ ... })",
            comment: commentOf("The options."),
            members: [],
            failures: [],
            ...change
          }
        ]
      }
    ]
  }
]

const wrong = (text: string, change?: Partial<Member>) => vagueOptions(planted({ members: [member(text, change)] }))

describe("the reference in docs/api", () => {
  let modules: ReadonlyArray<Module> = []
  beforeAll(() => {
    modules = read()
  })

  it("is what `npm run docs:api` writes", () => {
    const committed = globSync("docs/api/*").map((path) => [path, readFileSync(path, "utf8")] as const)
    const written = Array.from(pages(modules), ([name, text]) => [`docs/api/${name}`, text] as const)
    const advice = "Run `npm run docs:api`, and commit what it writes"
    assert.sameMembers(
      committed.map(([path]) => path),
      written.map(([path]) => path),
      advice
    )
    for (const [path, text] of committed) assert.strictEqual(text, Object.fromEntries(written)[path], advice)
  })

  it("says of an export what it is, and of options their defaults", () => {
    const members = [member('Time that one waits | sleeps.\nDefault `"5 seconds"`, as {@link Options} say.')]
    const page = pages(planted({ members })).get("Line.md")!
    assert.include(page, "### Options\n\n*schema · since 0.1.0 · [source](../../src/core/Line.ts)*")
    assert.include(
      page,
      '| `wait` | `Duration.Input` | `"5 seconds"`, as [`Options`](#options-1) say | Time that one waits \\| sleeps. |'
    )
    assert.include(
      pages(planted({})).get("README.md")!,
      '| [Line](Line.md) | `import { Line } from "effect-serve"` | Lines. |'
    )
  })

  it("every export has a comment", () => {
    assert.deepStrictEqual(undocumented(modules), [])
    assert.deepStrictEqual(undocumented(planted({})), [])
    assert.deepStrictEqual(undocumented(planted({ comment: undefined })), ["Line.Options has no comment"])
    assert.deepStrictEqual(undocumented(planted({ comment: commentOf("") })), ["Line.Options has no comment"])
    const members = [member("", { isMethod: true })]
    assert.deepStrictEqual(undocumented(planted({ members })), ["Line.Options.wait has no comment"])
    const untagged = { ...commentOf("The options."), category: undefined, since: undefined }
    assert.deepStrictEqual(undocumented(planted({ comment: untagged })), [
      "Line.Options has no @category",
      "Line.Options has no @since"
    ])
  })

  it("every option says its default, and what it counts", () => {
    assert.deepStrictEqual(vagueOptions(modules), [])
    assert.deepStrictEqual(wrong('Time that one waits. Default `"5 seconds"`.'), [])
    assert.deepStrictEqual(wrong("Requests that wait. Default: all.", { type: "number" }), [])
    assert.deepStrictEqual(wrong("Time that one waits.", { isOptional: false }), [])
    assert.deepStrictEqual(wrong(""), ["Line.Options: option wait has no comment"])
    assert.deepStrictEqual(wrong("Time that one waits."), ["Line.Options: option wait does not say its default"])
    assert.deepStrictEqual(wrong("Default `5`.", { type: "string" }), [
      "Line.Options: option wait says nothing but its default"
    ])
    assert.deepStrictEqual(wrong("How patient. Default `5`."), [
      "Line.Options: option wait does not say what it is the time of"
    ])
    assert.deepStrictEqual(wrong("How many. Default `5`.", { type: "number" }), [
      "Line.Options: option wait does not say its unit"
    ])
  })

  it("what options say of their defaults is so", () => {
    let compared = 0
    for (const { exports, name } of modules) {
      for (const { declarations, name: exported } of exports) {
        const schema = (Serve as any)[name]?.[exported]
        if (schema?.fields === undefined || declarations[0]!.comment?.category !== "options") continue
        const { members } = declarations[0]!
        const given = Object.entries({ url: "http://localhost:8000", compression: {} })
        const decoded = Schema.decodeUnknownSync(schema as Schema.Codec<any>)(
          Object.fromEntries(given.filter(([option]) => option in schema.fields))
        )
        for (const { comment, name: option } of members) {
          const { value } = defaultIn(comment!.text)
          const [, code] = /^`([^`]+)`/.exec(value ?? "") ?? []
          const actual = option.split(".").reduce((at: any, key) => at?.[key], decoded)
          const isStruct = members.some((member) => member.name.startsWith(`${option}.`))
          if (actual === undefined || isStruct || (code === undefined && value !== "none")) continue
          compared++
          const said = value === "none" ? [] : code === "Infinity" ? Infinity : JSON.parse(code!)
          const expected = Duration.isDuration(actual) ? Duration.fromInputUnsafe(said) : said
          assert.deepStrictEqual(actual, expected, `${name}.${exported}.${option}`)
        }
      }
    }
    assert.isAbove(compared, 80)
  })

  it("what can fail says with what", () => {
    assert.deepStrictEqual(silentFailures(modules), [])
    const failures = [{ name: "QueueFull", isParameter: false }]
    const silent = (text: string) => silentFailures(planted({ failures, comment: commentOf(text) }))
    assert.deepStrictEqual(silent("Waits, unless it is `QueueFull`."), [])
    assert.deepStrictEqual(silent("Waits. Fails when too many do."), [])
    assert.deepStrictEqual(silent("Waits."), ["Line.Options does not say that it fails with QueueFull"])
    const members = [member("Waits.", { isMethod: true, failures })]
    assert.deepStrictEqual(silentFailures(planted({ members })), [
      "Line.Options.wait does not say that it fails with QueueFull"
    ])
  })
})
