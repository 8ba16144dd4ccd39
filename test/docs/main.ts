/** Writes `docs/api`: `npm run docs:api`. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { read } from "./api.ts"
import { pages } from "./pages.ts"

rmSync("docs/api", { recursive: true, force: true })
mkdirSync("docs/api")
for (const [name, text] of pages(read())) writeFileSync(`docs/api/${name}`, text)
