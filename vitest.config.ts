import { resolve } from "node:path"
import { defineConfig } from "vitest/config"

// Programs and threads that tests start have read the same files before: half of their start is compiling them.
process.env["NODE_COMPILE_CACHE"] ??= resolve("node_modules/.cache/node")

const separate = ["smoke", "soak", "bench"]
const conditions = ["effect-serve-source"]

export default defineConfig(({ mode }) => ({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    environment: "node",
    execArgv: conditions.map((condition) => `--conditions=${condition}`),
    include: separate.includes(mode) ? [`test/${mode}/**/*.test.ts`] : ["test/**/*.test.ts"],
    exclude: separate.filter((name) => name !== mode).map((name) => `test/${name}/**`),
    typecheck: { include: ["test/**/*.test-d.ts"], ignoreSourceErrors: true },
    maxWorkers: "100%",
    maxConcurrency: 2,
    testTimeout: mode === "soak" ? 600_000 : 10_000,
    reporters: ["default", ["json", { outputFile: `.reports/${mode}.json` }]]
  }
}))
