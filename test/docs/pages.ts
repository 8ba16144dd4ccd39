/** The pages of `docs/api`: one for each module, and an index. */
import type { Comment, Declaration, Export, Member, Module } from "./api.ts"
import { slugs } from "./links.ts"

const order = [
  "constructors",
  "layers",
  "services",
  "references",
  "accessors",
  "annotations",
  "assertions",
  "models",
  "options",
  "errors",
  "reasons"
]

const notice = "<!-- Written by `npm run docs:api` from the comments in `src`. Change those. -->"

/** The text of each page, by the name of its file. */
export const pages = (modules: ReadonlyArray<Module>): ReadonlyMap<string, string> =>
  new Map([
    ["README.md", index(modules)],
    ...modules.map((module) => [`${module.name}.md`, pageOf(module, modules)] as const)
  ])

const index = (modules: ReadonlyArray<Module>) =>
  [
    notice,
    "# API reference",
    "What each module exports, from the comments in its source. The pages beside this folder explain how it fits together.",
    table(
      ["module", "import", "what it is"],
      modules.map(({ comment, importing, name }) => [
        `[${name}](${name}.md)`,
        `\`${importing.replace(/\{.*\}/, (names) => (names.length > 40 ? "{ ... }" : names))}\``,
        firstSentence(comment)
      ])
    )
  ].join("\n\n") + "\n"

const firstSentence = (comment: Comment | undefined) => {
  const [paragraph = ""] = (comment?.text ?? "").split("\n\n")
  const text = paragraph.replaceAll(/\s+/g, " ")
  return /^.*?\.(?= |$)/.exec(text)?.[0] ?? text
}

const pageOf = (module: Module, modules: ReadonlyArray<Module>): string => {
  const link = linksOf(module, modules)
  const anchors = anchorsOf(module)
  return (
    [
      notice,
      `# ${module.name}`,
      link(module.comment?.text ?? ""),
      fence(module.importing),
      table(
        ["", ""],
        groupsOf(module).map(([category, group]) => [
          category,
          group.map(({ name }) => `[\`${name}\`](${anchors.get(name)})`).join(", ")
        ])
      ),
      ...groupsOf(module).flatMap(([category, group]) => [
        `## ${titleOf(category)}`,
        ...group.flatMap((exported) => sectionOf(exported, module, modules, link))
      ])
    ].join("\n\n") + "\n"
  )
}

const groupsOf = (module: Module) =>
  Array.from(
    Map.groupBy(module.exports, ({ declarations }) => declarations[0]?.comment?.category ?? "others")
  ).toSorted(([a], [b]) => order.indexOf(a) - order.indexOf(b))

const titleOf = (category: string) => category.charAt(0).toUpperCase() + category.slice(1)

/** The anchors of a page, by the headings of exports and of their methods. */
const anchorsOf = (module: Module): ReadonlyMap<string, string> => {
  const sections = groupsOf(module).flatMap(([category, group]) => [
    { heading: titleOf(category), isName: false },
    ...group.flatMap((exported) => [
      { heading: exported.name, isName: true },
      ...methodsOf(exported).map(({ name }) => ({ heading: `${exported.name}.${name}`, isName: true }))
    ])
  ])
  const anchors = slugs([module.name, ...sections.map(({ heading }) => heading)]).slice(1)
  return new Map(sections.flatMap(({ heading, isName }, i) => (isName ? [[heading, `#${anchors[i]}`] as const] : [])))
}

const methodsOf = ({ declarations }: Export) =>
  declarations.flatMap(({ members }) => members.filter(({ isMethod }) => isMethod))

/** The module that declares an export in its own file, when that is another one. */
const homeOf = (exported: Export, module: Module, modules: ReadonlyArray<Module>) =>
  exported.file === module.file ? undefined : modules.find(({ file }) => file === exported.file)

const sectionOf = (
  exported: Export,
  module: Module,
  modules: ReadonlyArray<Module>,
  link: Link
): ReadonlyArray<string> => {
  const heading = `### ${exported.name}`
  const home = homeOf(exported, module, modules)
  return home === undefined
    ? [heading, ...exported.declarations.flatMap((declaration) => declarationOf(exported, declaration, link))]
    : [heading, `The same as ${link(`{@link ${home.name}.${exported.name}}`)}.`]
}

const declarationOf = ({ file, name }: Export, declaration: Declaration, link: Link): ReadonlyArray<string> => {
  const { comment, kind, members, signature } = declaration
  const isOptions = comment?.category === "options" || kind === "function"
  const fields = members.filter(({ isMethod }) => !isMethod)
  const [, schema] = /= typeof (\w+)\.Encoded$/.exec(signature) ?? []
  return [
    `*${kind} · since ${comment?.since} · [source](../../${file})*`,
    fence(signature),
    link(comment?.text ?? ""),
    ...(schema === undefined ? [] : [link(`Its fields are those of {@link ${schema}}.`)]),
    ...(fields.length === 0 ? [] : [isOptions ? optionsTable(fields, link) : fieldsTable(fields, link)]),
    ...examples(comment),
    ...members
      .filter(({ isMethod }) => isMethod)
      .flatMap(({ comment, name: method, type }) => [
        `#### ${name}.${method}`,
        fence(dedent(type)),
        link(comment?.text ?? ""),
        ...examples(comment)
      ])
  ].filter((part) => part !== "")
}

const examples = (comment: Comment | undefined) => (comment?.examples ?? []).flatMap((example) => ["Example:", example])

const optionsTable = (members: ReadonlyArray<Member>, link: Link) =>
  table(
    ["option", "type", "default", "meaning"],
    members.map(({ comment, isOptional, name, type }) => {
      const { meaning, value } = defaultIn(comment?.text ?? "")
      return [`\`${name}\``, `\`${type}\``, isOptional ? link(value ?? "") : "required", link(meaning)]
    })
  )

const fieldsTable = (members: ReadonlyArray<Member>, link: Link) =>
  table(
    ["field", "type", "meaning"],
    members.map(({ comment, isOptional, name, type }) => [
      `\`${name}${isOptional ? "?" : ""}\``,
      `\`${type}\``,
      link(comment?.text ?? "")
    ])
  )

/** What a comment says the default is, and the rest of it. */
export const defaultIn = (text: string): { readonly value: string | undefined; readonly meaning: string } => {
  const line = text.replaceAll(/\s+/g, " ")
  const found = /(?:^|(?<=[.!] ))Default:? (.+?)\.(?= |$)/.exec(line)
  return {
    value: found?.[1],
    meaning: line
      .replace(found?.[0] ?? "", "")
      .replaceAll("  ", " ")
      .trim()
  }
}

type Link = (text: string) => string

/** Makes links of `{@link Name}`: to this page, to another one, or, of what is not exported, none. */
const linksOf = (module: Module, modules: ReadonlyArray<Module>): Link => {
  const here = anchorsOf(module)
  const targetOf = (name: string) => {
    const [, first, second] = /^(\w+)\.(\w+)$/.exec(name) ?? []
    const other = modules.find((other) => other.name === first)
    const anchor = other === undefined ? undefined : anchorsOf(other).get(second!)
    if (anchor !== undefined) return `${first}.md${anchor}`
    return here.get(name) ?? Array.from(here).find(([heading]) => heading.endsWith(`.${name}`))?.[1]
  }
  return (text) =>
    text.replaceAll(/\{@link ([\w.]+)\}/g, (_, name: string) => {
      const target = targetOf(name)
      return target === undefined ? `\`${name}\`` : `[\`${name}\`](${target})`
    })
}

const fence = (code: string) => `\`\`\`ts\n${code}\n\`\`\``

/** Takes away what the lines after the first are indented by, with what they have in common. */
const dedent = (code: string) => {
  const [, ...rest] = code.split("\n")
  const indents = rest.filter((line) => line.trim() !== "").map((line) => /^ */.exec(line)![0].length)
  return rest.length === 0 ? code : code.replaceAll(new RegExp(`^ {${Math.min(...indents)}}`, "gm"), "")
}

const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>) =>
  [head, head.map(() => "---"), ...rows]
    .map((cells) => `| ${cells.map((cell) => cell.replaceAll(/\s*\n\s*/g, " ").replaceAll("|", "\\|")).join(" | ")} |`)
    .join("\n")
