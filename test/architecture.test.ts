import { assert, describe, it } from "@effect/vitest"
import { globSync, readFileSync } from "node:fs"
import { posix } from "node:path"

type Sources = Readonly<Record<string, string>>

const rooms = [
  ["ingress"],
  ["exchange"],
  ["deployment"],
  ["routing"],
  ["replica"],
  ["batching", "worker", "wire", "watch"],
  ["admission"],
  ["core"]
] // outer to inner
const outside = ["index.ts", "testing", "client"] // may import any room; no room may import them
const bare = ["client"] // loads only its own files, and knows of others only types
const maxCodeLines = 400

const unstable: Readonly<Record<string, ReadonlyArray<string>>> = {
  cluster: [],
  http: ["exchange", "ingress"],
  "http-api": ["exchange", "ingress"],
  rpc: ["client", "deployment", "exchange", "ingress", "replica", "testing", "wire"],
  workers: ["worker"]
}

const room = (path: string) => path.split("/")[1]!
const rank = (path: string) => rooms.findIndex((names) => names.includes(room(path)))

const stringOrComment = /"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`|\/\/.*|\/\*[^]*?\*\//g
const code = (text: string) => text.replace(stringOrComment, (match) => (match.startsWith("/") ? "" : match))

const importPattern =
  /^(?:im|ex)port (type )?(?:[\w*]+(?: as \w+)?,? ?)?(?:\{[^}]*\} )?from "([^"]+)"|^import "([^"]+)"|\b(?:import|URL)\(\s*"([^"]+)"/gm

const imports = (sources: Sources) =>
  Object.entries(sources).flatMap(([file, text]) =>
    Array.from(code(text).matchAll(importPattern), ([match, type, from, bare, called]) => {
      const specifier = (from ?? bare ?? called)!
      const relative = specifier.startsWith(".")
      return {
        file,
        specifier,
        relative,
        target: relative ? posix.join(posix.dirname(file), specifier) : specifier,
        loads: type === undefined && !match.startsWith("URL")
      }
    })
  )

const direction = (sources: Sources) => [
  ...Object.keys(sources)
    .filter((file) => rank(file) === -1 && !outside.includes(room(file)))
    .map((file) => `${file} is in no known room`),
  ...imports(sources)
    .filter(({ file, relative, target }) => {
      if (!relative || outside.includes(room(file)) || room(file) === room(target)) return false
      return rank(target) <= rank(file)
    })
    .map(({ file, target }) => `${file} imports ${target}`)
]

const loaded = (sources: Sources) =>
  imports(sources)
    .filter(({ file, loads, target }) => loads && bare.includes(room(file)) && !target.startsWith(`src/${room(file)}/`))
    .map(({ file, specifier }) => `${file} loads ${specifier}`)

const cycles = (sources: Sources) => {
  const edges = Map.groupBy(
    imports(sources).filter(({ loads, relative }) => loads && relative),
    ({ file }) => file
  )
  const done = new Set<string>()
  const visit = (file: string, path: ReadonlyArray<string>): ReadonlyArray<string> => {
    if (path.includes(file)) return [[...path.slice(path.indexOf(file)), file].join(" -> ")]
    if (done.has(file)) return []
    done.add(file)
    return (edges.get(file) ?? []).flatMap(({ target }) => visit(target, [...path, file]))
  }
  return Object.keys(sources).flatMap((file) => visit(file, []))
}

const extensions = (sources: Sources) =>
  imports(sources)
    .filter(({ relative, specifier }) => relative && !specifier.endsWith(".ts"))
    .map(({ file, specifier }) => `${file} imports ${specifier}`)

const barrels = (sources: Sources) =>
  imports(sources)
    .filter(({ file, specifier }) => file !== "src/index.ts" && /(^effect-serve|\/index\.ts$)/.test(specifier))
    .map(({ file, specifier }) => `${file} imports ${specifier}`)

const unstableImports = (sources: Sources) =>
  imports(sources)
    .filter(({ file, specifier }) => {
      const [, subpath] = /^effect\/([^/]+)/.exec(specifier) ?? []
      return subpath !== undefined && unstable[subpath]?.includes(room(file)) === false
    })
    .map(({ file, specifier }) => `${file} imports ${specifier}`)

const size = (sources: Sources) =>
  Object.entries(sources).flatMap(([file, text]) => {
    const lines = code(text).match(/^.*\S.*$/gm)?.length ?? 0
    return lines > maxCodeLines ? [`${file} has ${lines} lines of code`] : []
  })

const sources = Object.fromEntries(globSync("src/**/*.ts").map((file) => [file, readFileSync(file, "utf8")]))

describe("architecture", () => {
  it("rooms import only inward", () => {
    assert.deepStrictEqual(direction(sources), [])
    for (const [file, target] of [
      ["src/core/A.ts", "../routing/B.ts"],
      ["src/batching/A.ts", "../worker/B.ts"],
      ["src/worker/A.ts", "../wire/B.ts"],
      ["src/routing/A.ts", "../index.ts"],
      ["src/ingress/A.ts", "../testing/B.ts"],
      ["src/replica/internal/a.ts", "../../routing/B.ts"]
    ] as const) {
      const expected = [`${file} imports ${posix.join(posix.dirname(file), target)}`]
      assert.deepStrictEqual(direction({ [file]: `import { b } from "${target}"` }), expected)
      assert.deepStrictEqual(direction({ [file]: `import type {\n  B\n} from "${target}"` }), expected)
      assert.deepStrictEqual(direction({ [file]: `export * as B from "${target}"` }), expected)
      assert.deepStrictEqual(direction({ [file]: `const b = await import("${target}")` }), expected)
      assert.deepStrictEqual(direction({ [file]: `new URL("${target}", import.meta.url)` }), expected)
    }
    assert.deepStrictEqual(direction({ "src/manager/A.ts": "" }), ["src/manager/A.ts is in no known room"])
    assert.deepStrictEqual(
      direction({
        "src/routing/A.ts": `import { b } from "./B.ts"\nimport { c } from "../core/C.ts"`,
        "src/testing/A.ts": `import { d } from "../ingress/D.ts"`,
        "src/core/C.ts": `/**\nimport { d } from "../ingress/D.ts"\n*/`
      }),
      []
    )
  })

  it("the client knows only types of what is not its own", () => {
    assert.deepStrictEqual(loaded(sources), [])
    const planted = (line: string) => loaded({ "src/client/A.ts": `${line}\nimport { b } from "./B.ts"` })
    for (const specifier of ["effect", "node:fs", "../core/C.ts"]) {
      assert.deepStrictEqual(planted(`import { c } from "${specifier}"`), [`src/client/A.ts loads ${specifier}`])
      assert.deepStrictEqual(planted(`const c = await import("${specifier}")`), [`src/client/A.ts loads ${specifier}`])
      assert.deepStrictEqual(planted(`import type { C } from "${specifier}"`), [])
      assert.deepStrictEqual(loaded({ "src/core/A.ts": `import { c } from "${specifier}"` }), [])
    }
    assert.deepStrictEqual(direction({ "src/ingress/A.ts": `import type { B } from "../client/B.ts"` }), [
      "src/ingress/A.ts imports src/client/B.ts"
    ])
  })

  it("files do not import each other in a circle", () => {
    assert.deepStrictEqual(cycles(sources), [])
    const planted = {
      "src/core/A.ts": `import { b } from "./B.ts"`,
      "src/core/B.ts": `export * from "./C.ts"`,
      "src/core/C.ts": `import { a } from "./A.ts"`
    }
    assert.deepStrictEqual(cycles(planted), ["src/core/A.ts -> src/core/B.ts -> src/core/C.ts -> src/core/A.ts"])
    assert.deepStrictEqual(cycles({ ...planted, "src/core/C.ts": `import type { a } from "./A.ts"` }), [])
  })

  it("relative imports end in .ts", () => {
    assert.deepStrictEqual(extensions(sources), [])
    assert.deepStrictEqual(extensions({ "src/core/A.ts": `import "./B.js"\nexport { c } from "./C"` }), [
      "src/core/A.ts imports ./B.js",
      "src/core/A.ts imports ./C"
    ])
  })

  it("nothing inside goes through a barrel", () => {
    assert.deepStrictEqual(barrels(sources), [])
    assert.deepStrictEqual(
      barrels({
        "src/routing/A.ts": `import { Names } from "../core/index.ts"\nimport { Batching } from "effect-serve"`,
        "src/index.ts": `export * from "./core/index.ts"`
      }),
      ["src/routing/A.ts imports ../core/index.ts", "src/routing/A.ts imports effect-serve"]
    )
  })

  it("unstable modules of effect stay in the rooms that need them", () => {
    assert.deepStrictEqual(unstableImports(sources), [])
    for (const [file, specifier] of [
      ["src/core/A.ts", "effect/http"],
      ["src/deployment/A.ts", "effect/http-api/HttpApi"],
      ["src/routing/A.ts", "effect/rpc"],
      ["src/replica/A.ts", "effect/workers"],
      ["src/ingress/A.ts", "effect/cluster"]
    ] as const) {
      const planted = { [file]: `import { X } from "${specifier}"` }
      assert.deepStrictEqual(unstableImports(planted), [`${file} imports ${specifier}`])
    }
    assert.deepStrictEqual(unstableImports({ "src/ingress/A.ts": `import { HttpServer } from "effect/http"` }), [])
  })

  it(`no file has more than ${maxCodeLines} lines of code`, () => {
    assert.deepStrictEqual(size(sources), [])
    const comments = `// one\n/**\n * two\n */\n\n`.repeat(maxCodeLines)
    const limit = `const accept = "*/*"\n`.repeat(maxCodeLines)
    assert.deepStrictEqual(size({ "src/core/A.ts": comments + limit }), [])
    assert.deepStrictEqual(size({ "src/core/A.ts": `${limit}f()` }), ["src/core/A.ts has 401 lines of code"])
  })
})
