/** The links of Markdown files, and what is wrong with them. */
import { posix } from "node:path"

/** The anchors that GitHub gives to headings, in their order on a page. */
export const slugs = (headings: ReadonlyArray<string>): ReadonlyArray<string> => {
  const taken = new Map<string, number>()
  return headings.map((heading) => {
    const slug = heading
      .toLowerCase()
      .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, "$1")
      .replaceAll(/[^\p{L}\p{N}\p{M}_\- ]/gu, "")
      .replaceAll(" ", "-")
    const times = taken.get(slug) ?? 0
    taken.set(slug, times + 1)
    return times === 0 ? slug : `${slug}-${times}`
  })
}

const withoutFences = (text: string) =>
  text.replaceAll(/^ *(```+|~~~+)[^]*?^ *\1 *$/gm, "").replaceAll(/<!--[^]*?-->/g, "")

const anchorsOf = (text: string): ReadonlyArray<string> =>
  slugs(Array.from(withoutFences(text).matchAll(/^#{1,6} +(.*?)(?: +#+)? *$/gm), ([, heading]) => heading!))

/** Inline links and pictures, definitions of references, and those of HTML. */
const targetsIn = (text: string): ReadonlyArray<string> => {
  const prose = withoutFences(text).replaceAll(/(`+)(?!`).*?[^`]\1(?!`)/g, "")
  const patterns = [
    /\]\(\s*<?([^)\s>]*)>?(?:\s+"[^"]*")?\s*\)/g,
    /^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)/gm,
    /<(?:a|img)\s[^>]*?(?:href|src)="([^"]*)"/g
  ]
  return patterns.flatMap((pattern) => Array.from(prose.matchAll(pattern), ([, target]) => target!))
}

/**
 * The links in `files`, which are texts by their paths, that lead nowhere. What is not among them is asked of `exists`. Of URLs only the
 * form is looked at.
 */
export const deadLinks = (
  files: Readonly<Record<string, string>>,
  exists: (path: string) => boolean
): ReadonlyArray<string> =>
  Object.entries(files).flatMap(([file, text]) =>
    targetsIn(text)
      .filter((target) => !isAlive(file, target, files, exists))
      .map((target) => `${file} links to ${target}`)
  )

const isAlive = (
  file: string,
  target: string,
  files: Readonly<Record<string, string>>,
  exists: (path: string) => boolean
): boolean => {
  if (/^[a-z][a-z\d+.-]*:/i.test(target))
    return /^https?:\/\/[^\s/]+\.[^\s]+$|^mailto:\S+@\S+$/.test(target) && URL.canParse(target)
  const [path = "", anchor] = target.split("#")
  const to = path === "" ? file : posix.join(posix.dirname(file), decodeURIComponent(path))
  if (to.startsWith("..") || path.startsWith("/")) return false
  const page = files[to] ?? files[posix.join(to, "README.md")]
  if (page === undefined) return anchor === undefined && exists(to)
  return anchor === undefined || anchorsOf(page).includes(anchor)
}
