import { expect, it } from "vitest"

it("tests run on the pinned Node 24", () => {
  expect(process.version).toMatch(/^v24\./)
})
