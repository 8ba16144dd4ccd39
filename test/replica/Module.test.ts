/**
 * The file of a deployment, as it is loaded wherever the deployment is to run.
 *
 * Seen red for each of these mutations: any export is a module; any deployment will do; what a file throws is a
 * defect; the TypeScript is always taken.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Module from "../../src/replica/Module.ts"
import probe from "../modules/probe.module.ts"

const moduleUrl = (file: string) => new URL(file, new URL("../modules/", import.meta.url))

describe("Module", () => {
  it.effect("is what the file exports", () =>
    Effect.gen(function* () {
      const module = yield* Module.load(moduleUrl("probe.module.ts"), "Probe")
      assert.strictEqual<unknown>(module, probe)
      assert.deepStrictEqual(
        module.uses.map(({ deployment }) => deployment),
        ["Part"]
      )
    })
  )

  it.effect("is that of the JavaScript when there is no TypeScript, as after a build", () =>
    Effect.gen(function* () {
      assert.strictEqual((yield* Module.load(moduleUrl("built.module.ts"), "Part")).deployment, "Part")
    })
  )

  describe("can't be loaded, and says why, when", () => {
    const cases: Record<string, readonly [file: string, words: ReadonlyArray<string>]> = {
      "there is no such file": ["nowhere.ts", ["nowhere.ts"]],
      "it is not valid": ["data:text/javascript,export default )", ["SyntaxError", "Unexpected token"]],
      "it throws": ["data:text/javascript,throw new RangeError('it does not fit')", ["RangeError", "it does not fit"]],
      "it has no default export": ["Probe.ts", ["export default Part.module(...)"]],
      "it exports something else": ["data:text/javascript,export default {}", ["export default Part.module(...)"]],
      "it exports another deployment": ["probe.module.ts", [`exports deployment "Probe"`]]
    }
    for (const [what, [file, words]] of Object.entries(cases)) {
      it.effect(what, () =>
        Effect.gen(function* () {
          const url = moduleUrl(file)
          const { _tag, message } = yield* Effect.flip(Module.load(url, "Part"))
          assert.strictEqual(_tag, "ModuleFailed")
          for (const word of [url.href, ...words]) assert.include(message, word)
        })
      )
    }
  })
})
