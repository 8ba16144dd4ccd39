/** What comments on exports must say, and which don't. Each rule gives one sentence for each that breaks it. */
import type { Comment, Declaration, Export, Member, Module } from "./api.ts"
import { defaultIn } from "./pages.ts"

type Rule = (modules: ReadonlyArray<Module>) => ReadonlyArray<string>

const declarationsOf = (modules: ReadonlyArray<Module>) =>
  modules.flatMap((module) =>
    module.exports.flatMap((exported: Export) =>
      exported.declarations.map((declaration) => ({ at: `${module.name}.${exported.name}`, declaration }))
    )
  )

/** Every export has a comment with a sentence, a category and a version; so has every method. */
export const undocumented: Rule = (modules) => [
  ...modules.filter(({ comment }) => !comment?.text).map(({ file }) => `${file} has no comment at its head`),
  ...declarationsOf(modules).flatMap(({ at, declaration: { comment, members } }) => [
    ...(comment?.text ? [] : [`${at} has no comment`]),
    ...(comment !== undefined && comment.category === undefined ? [`${at} has no @category`] : []),
    ...(comment !== undefined && comment.since === undefined ? [`${at} has no @since`] : []),
    ...members
      .filter((member) => member.isMethod && !member.comment?.text)
      .map(({ name }) => `${at}.${name} has no comment`)
  ])
]

/** Every option has a comment. It says the default, and of a number or a time, what it counts. */
export const vagueOptions: Rule = (modules) =>
  declarationsOf(modules).flatMap(({ at, declaration }) =>
    optionsOf(declaration).flatMap(({ comment, isOptional, name, type }) => {
      const text = comment?.text ?? ""
      if (text === "") return [`${at}: option ${name} has no comment`]
      const { meaning, value } = defaultIn(text)
      const wrong = [
        ...(meaning === "" ? ["says nothing but its default"] : []),
        ...(isOptional && value === undefined ? ["does not say its default"] : []),
        ...(/\bDuration\b/.test(type) && !time.test(text) ? ["does not say what it is the time of"] : []),
        ...(/\bnumber\b/.test(type) && !type.includes("=>") && !unit.test(text) ? ["does not say its unit"] : [])
      ]
      return wrong.map((what) => `${at}: option ${name} ${what}`)
    })
  )

/** The options of a schema or an interface of options, or those of a function's argument. */
const optionsOf = ({ comment, kind, members }: Declaration): ReadonlyArray<Member> =>
  comment?.category === "options" || kind === "function" ? members : []

const time = /\b(?:times?|waits?|\d+ (?:millis|seconds|minutes))\b/i

const units = [
  "attempts",
  "batches",
  "bytes",
  "calls",
  "connections",
  "copies",
  "elements",
  "items",
  "MiB",
  "milliseconds",
  "port",
  "requests",
  "retries",
  "sequences",
  "size",
  "status",
  "threads"
]
const unit = new RegExp(`\\b(?:${units.join("|")})\\b`, "i")

/** What can fail says with what: it names each class of error, or says that it fails. */
export const silentFailures: Rule = (modules) =>
  declarationsOf(modules).flatMap(({ at, declaration }) => {
    const { comment, failures, members } = declaration
    const methods = members.filter((member) => member.isMethod)
    return [
      ...unsaid(failures, comment).map((error) => `${at} does not say that it fails with ${error}`),
      ...methods.flatMap((method) =>
        unsaid(method.failures, method.comment).map(
          (error) => `${at}.${method.name} does not say that it fails with ${error}`
        )
      )
    ]
  })

const unsaid = (failures: Declaration["failures"], comment: Comment | undefined): ReadonlyArray<string> => {
  const text = comment?.text ?? ""
  return /\bfails?\b/i.test(text) ? [] : failures.map(({ name }) => name).filter((name) => !text.includes(name))
}
