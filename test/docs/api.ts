/**
 * What the package exports, as the compiler sees it: its names, types and comments. The reference in `docs/api` is made of it, and the
 * rules of `rules.ts` look at it.
 *
 * TypeScript 7 has its API under `unstable`: a version of it may change that, so `package.json` names the version exactly.
 */
import { posix, resolve } from "node:path"
import * as Ast from "typescript/unstable/ast"
import * as Is from "typescript/unstable/ast/is"
import {
  API,
  type Checker,
  type Project,
  SignatureKind,
  type Symbol,
  SymbolFlags,
  type Type
} from "typescript/unstable/sync"
import manifest from "../../package.json" with { type: "json" }

/** A comment above a declaration. `text` has no tags in it. */
export interface Comment {
  readonly text: string
  readonly examples: ReadonlyArray<string>
  readonly category: string | undefined
  readonly since: string | undefined
  readonly isInternal: boolean
}

/** An error that a value fails with: a class, or a type parameter. */
interface Failure {
  readonly name: string
  readonly isParameter: boolean
}

/** A field of an object, or a method of an interface. Of a struct in a struct it has the path. */
export interface Member {
  readonly name: string
  readonly isOptional: boolean
  readonly type: string
  readonly comment: Comment | undefined
  readonly isMethod: boolean
  readonly failures: ReadonlyArray<Failure>
}

/** One declaration of an export: a name may be a value and a type. */
export interface Declaration {
  readonly kind: string
  readonly signature: string
  readonly comment: Comment | undefined
  readonly members: ReadonlyArray<Member>
  readonly failures: ReadonlyArray<Failure>
}

export interface Export {
  readonly name: string
  /** The file that declares it, from the root of the repository. */
  readonly file: string
  /** Where in the file. */
  readonly at: number
  readonly declarations: ReadonlyArray<Declaration>
}

/** What is imported from one place: an entry point, or a namespace of the main one. */
export interface Module {
  readonly name: string
  /** The line that imports it. */
  readonly importing: string
  readonly file: string
  readonly comment: Comment | undefined
  readonly exports: ReadonlyArray<Export>
}

const UNTRUNCATED = 1

/** Reads the modules of the package in the current directory. */
export const read = (): ReadonlyArray<Module> => {
  const api = new API({ cwd: resolve() })
  try {
    const snapshot = api.updateSnapshot({ openProjects: [resolve(".config/tsconfig.build.json")] })
    return new Reader(snapshot.getProjects()[0]!).modules()
  } finally {
    api.close()
  }
}

/** What follows the name of the package, and the file that it stands for. */
const entries = Object.entries(manifest.exports).flatMap(([subpath, target]) =>
  typeof target === "string"
    ? []
    : [{ subpath: subpath.slice(1), file: posix.normalize(target["effect-serve-source"]) }]
)

const types = ["interface", "type"]

class Reader {
  readonly #project: Project
  readonly #checker: Checker

  constructor(project: Project) {
    this.#project = project
    this.#checker = project.checker
  }

  modules(): ReadonlyArray<Module> {
    return entries.flatMap(({ file, subpath }) => {
      const specifier = manifest.name + subpath
      const entry = this.#moduleAt(file)
      return subpath === ""
        ? this.#exportsOf(entry).map((name) => this.#module(name.name, specifier, this.#target(name), [name.name]))
        : [this.#module(subpath.slice(1), specifier, entry)]
    })
  }

  #module(name: string, specifier: string, module: Symbol, imported?: ReadonlyArray<string>): Module {
    const file = fileOf(module)
    const exports = this.#exportsOf(module)
      .map((symbol) => this.#export(symbol))
      .filter(({ declarations }) => !declarations.some(({ comment }) => comment?.isInternal))
      .toSorted((a, b) => Number(b.file === file) - Number(a.file === file) || compare(a.file, b.file) || a.at - b.at)
    const values = exports.filter(({ declarations }) => declarations.some(({ kind }) => !types.includes(kind)))
    const names = imported ?? values.map(({ name }) => name)
    return {
      name,
      importing: `import { ${names.join(", ")} } from "${specifier}"`,
      file,
      comment: commentIn(/^\/\*\*[^]*?\*\//.exec(this.#sourceOf(file).text)?.[0]),
      exports
    }
  }

  #sourceOf(file: string) {
    const source = this.#project.program.getSourceFile(resolve(file))
    if (source === undefined) throw new Error(`There is no ${file}`)
    return source
  }

  #moduleAt(file: string): Symbol {
    return this.#checker.getSymbolAtLocation(this.#sourceOf(file))!
  }

  #exportsOf(module: Symbol): ReadonlyArray<Symbol> {
    return this.#checker.getExportsOfModule(module)
  }

  #target(symbol: Symbol): Symbol {
    return symbol.flags & SymbolFlags.Alias ? this.#checker.getAliasedSymbol(symbol) : symbol
  }

  #export(exported: Symbol): Export {
    const symbol = this.#target(exported)
    const nodes = symbol.declarations.map((handle) => handle.resolve()!)
    return {
      name: exported.name,
      file: fileOf(symbol),
      at: nodes[0]!.pos,
      declarations: nodes
        .map((node) => this.#declaration(exported.name, symbol, node))
        .toSorted((a, b) => Number(types.includes(a.kind)) - Number(types.includes(b.kind)))
    }
  }

  #declaration(name: string, symbol: Symbol, node: Ast.Node): Declaration {
    const comment = commentOf(Is.isVariableDeclaration(node) ? node.parent.parent : node)
    const isOptions = comment?.category === "options"
    if (Is.isVariableDeclaration(node)) {
      const type = this.#checker.getTypeOfSymbol(symbol)!
      const isStruct = this.#checker.getPropertyOfType(type, "fields") !== undefined
      return {
        comment,
        kind: this.#kindOf(type),
        signature: this.#signatureOf(name, node, isStruct),
        members: isStruct ? this.#members(this.#encoded(type), node, isOptions) : this.#argumentMembers(node),
        failures: this.#failures(type)
      }
    }
    const type = this.#checker.getDeclaredTypeOfSymbol(symbol)
    const members = this.#members(type, node, isOptions)
    if (Is.isClassDeclaration(node)) {
      const heritage = node.heritageClauses?.[0]?.getText() ?? ""
      const isService = heritage.includes("Context.Service")
      const isError = /TaggedError|extends Error/.test(heritage)
      const extending = isService ? heritage : oneLine(withoutComments(heritage)).replace(/, \{.*\}\)$/, ", { ... })")
      return {
        comment,
        kind: isService ? "service" : isError ? "error" : "class",
        signature: `class ${name}${generics(node)} ${extending}`,
        members: members.filter(({ name }) => name !== "message" && name !== "name"),
        failures: []
      }
    }
    if (Is.isInterfaceDeclaration(node)) {
      const isListed = members.some((member) => member.comment !== undefined)
      return {
        comment,
        kind: "interface",
        signature: isListed ? interfaceHead(name, node) : renamed(name, withoutComments(node.getText())),
        members: isListed ? members : [],
        failures: this.#failures(type)
      }
    }
    if (!Is.isTypeAliasDeclaration(node)) throw new Error(`${name} is a ${Ast.SyntaxKind[node.kind]}`)
    const written = withoutComments(node.type.getText())
    return {
      comment,
      kind: "type",
      signature: `type ${name}${generics(node)} =${written.startsWith("|") ? "\n  " : " "}${written}`,
      // The fields of a schema are listed there.
      members: isOptions && !/^typeof \w+\.Encoded$/.test(written) ? members : [],
      failures: this.#failures(type)
    }
  }

  #kindOf(type: Type): string {
    if (this.#checker.getSignaturesOfType(type, SignatureKind.Call).length > 0) return "function"
    const text = this.#checker.typeToString(type)
    const [, kind] = /^(Effect|Layer|Stream|Reference)</.exec(text) ?? []
    if (kind !== undefined) return kind.toLowerCase()
    return this.#checker.getPropertyOfType(type, "ast") === undefined ? "constant" : "schema"
  }

  #print(type: Type, at: Ast.Node): string {
    return this.#checker.typeToString(type, at, UNTRUNCATED).replaceAll(/import\("[^"]*"\)\./g, "")
  }

  /** What is written in code for the values of a schema. */
  #encoded(schema: Type): Type {
    return this.#checker.getTypeOfSymbol(this.#checker.getPropertyOfType(schema, "Encoded")!)!
  }

  #signatureOf(name: string, { initializer, type }: Ast.VariableDeclaration, isStruct: boolean): string {
    if (type !== undefined) return `const ${name}: ${withoutComments(type.getText())}`
    if (isStruct) return `const ${name} = Schema.Struct({ ... })`
    if (initializer !== undefined && Is.isArrowFunction(initializer))
      return `const ${name}: ${this.#arrow(initializer)}`
    return `const ${name} = ${withoutComments(initializer!.getText())}`
  }

  #arrow(node: Ast.ArrowFunction): string {
    const parameters = node.parameters.map((parameter) => {
      const name = Is.isIdentifier(parameter.name) ? parameter.name.getText() : "options"
      const isOptional = parameter.questionToken !== undefined || parameter.initializer !== undefined
      return `${name}${isOptional ? "?" : ""}: ${oneLine(withoutComments(parameter.type!.getText()))}`
    })
    const body = node.body
    const returned =
      node.type !== undefined
        ? oneLine(node.type.getText())
        : Is.isArrowFunction(body)
          ? this.#arrow(body)
          : this.#print(this.#checker.getTypeAtLocation(body)!, node)
    const line = `${generics(node)}(${parameters.join(", ")}) => ${returned}`
    return line.length <= 100 || parameters.length === 0
      ? line
      : `${generics(node)}(\n  ${parameters.join(",\n  ")}\n) => ${returned}`
  }

  /** The fields of arguments whose type is written at the argument. */
  #argumentMembers({ initializer }: Ast.VariableDeclaration): ReadonlyArray<Member> {
    let found: ReadonlyArray<Member> = []
    for (let node = initializer; node !== undefined && Is.isArrowFunction(node); node = node.body as Ast.Expression) {
      for (const { name, type } of node.parameters) {
        if (type === undefined || !Is.isTypeLiteralNode(type)) continue
        const members = this.#members(this.#checker.getTypeFromTypeNode(type)!, type, true)
        found = [...found, ...members.map((member) => ({ ...member, name: `${name.getText()}.${member.name}` }))]
      }
    }
    return found.filter(({ comment }) => comment !== undefined)
  }

  /** The properties of a type that are declared in this package. With `deep`, those of objects in it too. */
  #members(type: Type, at: Ast.Node, deep: boolean, path = ""): ReadonlyArray<Member> {
    return this.#checker.getPropertiesOfType(type).flatMap((property) => {
      const nodes = property.declarations.map((handle) => handle.resolve()!)
      const [node] = nodes
      if (node === undefined || !fileOf(property).startsWith("src/") || property.name.startsWith("~")) return []
      const isOptional = (property.flags & SymbolFlags.Optional) !== 0
      const name = path + property.name
      const own = this.#checker.getTypeOfSymbol(property)!
      const value = isOptional ? this.#checker.getNonNullableType(own)! : own
      const written =
        nodes.length === 1 && Is.isPropertySignatureDeclaration(node) && node.type !== undefined
          ? oneLine(withoutComments(node.type.getText()))
          : this.#print(own, at).replace(isOptional ? / \| undefined$/ : "", "")
      const isMethod = Is.isMethodSignatureDeclaration(node)
      const inner = deep && this.#isPlainObject(value) ? this.#members(value, at, true, `${name}.`) : []
      return [
        {
          name,
          isOptional,
          isMethod,
          type: isMethod
            ? withoutComments(node.getText()).replace(/this: void(,\s*)?/, "")
            : inner.length > 0
              ? "object"
              : written,
          comment: nodes.map(commentOf).find((comment) => comment !== undefined),
          failures: this.#failures(value)
        },
        ...inner
      ]
    })
  }

  #isPlainObject(type: Type): boolean {
    return (
      type.isObjectType() &&
      (type.getSymbol()?.name.startsWith("__") ?? false) &&
      this.#checker.getSignaturesOfType(type, SignatureKind.Call).length === 0 &&
      !this.#checker.isArrayLikeType(type)
    )
  }

  /** The errors of an Effect, a Layer or a Stream, and of one that a function gives, or a function in it. */
  #failures(type: Type): ReadonlyArray<Failure> {
    const found = new Map<string, Failure>()
    const look = (type: Type, depth: number) => {
      if (depth > 3) return
      const name = type.getSymbol()?.name
      if (type.isTypeReference() && (name === "Effect" || name === "Layer" || name === "Stream")) {
        const [success, error] = this.#checker.getTypeArguments(type)
        for (const one of error?.isUnionType() ? error.getTypes() : error === undefined ? [] : [error]) {
          const name = one.getSymbol()?.name
          if (name !== undefined) found.set(name, { name, isParameter: one.isTypeParameter() })
        }
        if (success !== undefined && name === "Effect") look(success, depth + 1)
      }
      for (const signature of this.#checker.getSignaturesOfType(type, SignatureKind.Call)) {
        look(this.#checker.getReturnTypeOfSignature(signature)!, depth + 1)
      }
    }
    look(type, 0)
    return Array.from(found.values())
  }
}

const root = `${resolve()}/`.toLowerCase()

/** The file of the first declaration, from the root of the repository. */
const fileOf = (symbol: Symbol): string => {
  const [declaration] = symbol.declarations
  const path = declaration?.path ?? ""
  if (!path.toLowerCase().startsWith(root)) return path
  // Paths are in lower case where the file system takes them for the same.
  return declaration!.resolve()?.getSourceFile().fileName.slice(root.length) ?? path.slice(root.length)
}

const commentOf = (node: Ast.Node): Comment | undefined => {
  const trivia = node.getSourceFile().text.slice(node.pos, node.getStart())
  return commentIn(trivia.match(/\/\*\*[^]*?\*\//g)?.at(-1))
}

const commentIn = (comment: string | undefined): Comment | undefined => {
  if (comment === undefined) return undefined
  const lines = comment.slice(3, -2).replaceAll(/^[ \t]*\* ?/gm, "")
  const [text = "", ...tags] = lines.split(/^@(?=[a-z])/m)
  const valuesOf = (name: string) =>
    tags.filter((tag) => tag.split(/\s/)[0] === name).map((tag) => tag.slice(name.length).trim())
  return {
    text: text.trim(),
    examples: valuesOf("example"),
    category: valuesOf("category")[0],
    since: valuesOf("since")[0],
    isInternal: valuesOf("internal").length > 0
  }
}

const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0)

const withoutComments = (code: string) =>
  code
    .replaceAll(/^[ \t]*\/\*\*[^]*?\*\/\n/gm, "")
    .replaceAll(/\/\*\*[^]*?\*\/\s*/g, "")
    .replaceAll(/^[ \t]*\/\/.*\n/gm, "")
    .replaceAll(/\n\n+/g, "\n")

const oneLine = (code: string) =>
  code
    .replaceAll(/(?<=[\w>\])}"])\n\s*(?=readonly )/g, "; ")
    .replaceAll(/\s+/g, " ")
    .replaceAll(/([(<]) /g, "$1")
    .replaceAll(/ ([)>])(?!=)/g, "$1")

const generics = ({ typeParameters }: { readonly typeParameters?: ReadonlyArray<Ast.Node> | undefined }) =>
  typeParameters === undefined ? "" : `<${typeParameters.map((parameter) => oneLine(parameter.getText())).join(", ")}>`

/** Declarations can be exported by other names than their own. */
const renamed = (name: string, code: string) => code.replace(/^export /, "").replace(/^(interface) \w+/, `$1 ${name}`)

/** An interface without what is listed below it: its properties and methods. */
const interfaceHead = (name: string, node: Ast.InterfaceDeclaration) => {
  const extending = node.heritageClauses?.map((clause) => ` ${oneLine(clause.getText())}`).join("") ?? ""
  const calls = node.members
    .filter((member) => Is.isCallSignatureDeclaration(member))
    .map((call) => `  ${call.getText()}`)
  return `interface ${name}${generics(node)}${extending} {${calls.length === 0 ? " ... " : `\n${calls.join("\n")}\n  ...\n`}}`
}
