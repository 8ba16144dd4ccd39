const comment = /\/\*\*[^]*?\*\//g
const fence = /^```ts( no-run)?\n([^]*?)^```$/gm

/** The `ts` fences of a Markdown or TypeScript file that begin with an import. */
export const fences = (path: string, text: string) => {
  const comments = (text.match(comment) ?? []).map((lines) => lines.replaceAll(/^[ \t]*\* ?/gm, ""))
  return (path.endsWith(".ts") ? comments : [text])
    .flatMap((page) =>
      Array.from(page.matchAll(fence), ([, noRun, code]) => ({ code: code!, runs: noRun === undefined }))
    )
    .filter(({ code }) => /^(\/\/.*\n|\n)*import /.test(code))
    .map((found, index) => ({ ...found, name: `${path} #${index + 1}` }))
}
