import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { start } from "./server.ts"

describe("semantic search behind an API of its own", { timeout: 90_000 }, () => {
  let program: Awaited<ReturnType<typeof start>>
  beforeAll(async () => {
    program = await start("semantic-search/api.ts")
    await program.printed("Ctrl-C to stop")
  }, 90_000)
  afterAll(() => program.kill())

  const login = async (password: string) => {
    const headers = { "content-type": "application/json", "x-request-priority": "critical" }
    const body = JSON.stringify({ user: "ada", password })
    const response = await fetch(`${program.url}/login`, { method: "POST", headers, body })
    return { status: response.status, body: (await response.json()) as any }
  }

  const search = async (headers: Record<string, string>) => {
    const url = `${program.url}/passages?text=I%20cannot%20log%20in%20to%20my%20account&top=2`
    const response = await fetch(url, { headers: { "x-request-priority": "critical", ...headers } })
    return { status: response.status, headers: response.headers, body: (await response.json()) as any }
  }

  it("finds passages for those who have logged in", async () => {
    const { body, status } = await login("lovelace")
    assert.strictEqual(status, 200)
    const found = await search({ authorization: `Bearer ${body.token}`, "x-request-id": "r-1" })
    assert.strictEqual(found.status, 200)
    assert.strictEqual(found.headers.get("x-request-id"), "r-1")
    assert.strictEqual(found.body.for, "ada")
    assert.lengthOf(found.body.passages, 2)
    assert.include(found.body.passages[0].text, "password")
  })

  it("turns others away", async () => {
    assert.deepStrictEqual(await login("byron"), { status: 401, body: { _tag: "WrongPassword" } })
    const refused = await search({})
    assert.strictEqual(refused.status, 401)
    assert.include(refused.body.message, "log in first")
  })

  it("gives up a search at its deadline", async () => {
    const { body } = await login("lovelace")
    const late = await search({ authorization: `Bearer ${body.token}`, "x-request-timeout-ms": "1" })
    assert.strictEqual(late.status, 504)
    assert.strictEqual(late.body.reason._tag, "DeadlineExceeded")
  })

  it("stops at Ctrl-C", async () => {
    assert.strictEqual(await program.interrupt(), 0)
  })
})
