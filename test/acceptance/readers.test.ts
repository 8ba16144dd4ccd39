/**
 * Streams as those read them who will: curl, undici, fetch, and EventSource in Chromium where there is one.
 */
import { assert, describe, it } from "@effect/vitest"
import { HttpIngress } from "effect-serve"
import { Effect, Layer, Schedule } from "effect"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { request } from "undici"
import { ingresses, Quiet } from "../ingress/http.ts"
import { Feed, feed, has, outputOf, program, slowReader } from "./readers.ts"

const count = 300
const expected = Array.from({ length: count }, (_, i) => ({ n: i + 1, text: `ä\n${i + 1}` }))
const body = JSON.stringify({ to: count })
const json = { "content-type": "application/json" }
const lines = { ...json, accept: "application/x-ndjson" }

/** The data of events, written as the standard has them. */
const dataOf = (text: string) =>
  text
    .split("\n\n")
    .filter((event) => event !== "")
    .map((event) => {
      const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/s)))
      const data = JSON.parse(fields["data"])
      assert.deepStrictEqual({ id: fields["id"], event: fields["event"] }, { id: String(data.n), event: "number" })
      return data
    })

const linesOf = (text: string) =>
  text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line).data)

const chromium = "/usr/bin/chromium"

/** Opens a page that reads the stream with EventSource, and resolves to what it has read. */
const readInChromium = (url: string, pages: string, served: Promise<unknown>) =>
  Effect.gen(function* () {
    const profile = mkdtempSync(join(tmpdir(), "chromium-"))
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => rmSync(profile, { recursive: true, force: true, maxRetries: 9 }))
    )
    const quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    const offline = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    const payload = encodeURIComponent(body)
    yield* program(
      chromium,
      ...quiet,
      ...offline,
      `--user-data-dir=${profile}`,
      `${pages}/#${url}/feed/count?payload=${payload}`
    )
    return yield* Effect.promise(() => served)
  })

/** A server for a page of another origin, which tells it what it has read. */
const pageServer = Effect.acquireRelease(
  Effect.promise(async () => {
    const read = Promise.withResolvers<unknown>()
    const server = createServer((request, response) => {
      if (request.method === "GET") return void response.setHeader("content-type", "text/html").end(page)
      let text = ""
      request.on("data", (chunk) => (text += chunk))
      request.on("end", () => {
        read.resolve(JSON.parse(text))
        response.end()
      })
    })
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    return { server, url, read: read.promise }
  }),
  ({ server }) => Effect.sync(() => (server.closeAllConnections(), server.close()))
)

const page = `<!doctype html><script>
  const read = []
  const source = new EventSource(location.hash.slice(1))
  source.addEventListener("number", ({ data, lastEventId }) => read.push({ ...JSON.parse(data), id: lastEventId }))
  // The stream is over: before it connects again, which is how EventSource goes on.
  source.onerror = () => { source.close(); fetch("/", { method: "POST", body: JSON.stringify(read) }) }
</script>`

const routes = { "/feed": Feed } as const
const onServer = (server: "layerNode" | "layer", options: typeof HttpIngress.Options.Encoded = {}) =>
  Layer.provide(feed(ingresses(routes, options)[server]), Quiet)

for (const server of ["layerNode", "layer"] as const) {
  describe(`a stream of HttpIngress.${server}`, () => {
    it.live("is read by fetch", () =>
      Effect.gen(function* () {
        const { url } = yield* HttpIngress.Address
        const read = (headers: Record<string, string>) =>
          Effect.promise(async () => (await fetch(`${url}/feed/count`, { method: "POST", headers, body })).text())
        assert.deepStrictEqual(dataOf(yield* read(json)), expected)
        assert.deepStrictEqual(linesOf(yield* read(lines)), expected)
      }).pipe(Effect.provide(onServer(server)))
    )

    it.live("is read by undici", () =>
      Effect.gen(function* () {
        const { url } = yield* HttpIngress.Address
        const read = (headers: Record<string, string>) =>
          Effect.promise(async () => {
            const { body: stream } = await request(`${url}/feed/count`, { method: "POST", headers, body })
            return stream.text()
          })
        assert.deepStrictEqual(dataOf(yield* read(json)), expected)
        assert.deepStrictEqual(linesOf(yield* read(lines)), expected)
      }).pipe(Effect.provide(onServer(server)))
    )

    describe.runIf(has("curl"))("with curl", () => {
      it.live("is read", () =>
        Effect.gen(function* () {
          const { url } = yield* HttpIngress.Address
          const read = (headers: Record<string, string>) => {
            const parameters = Object.entries(headers).flatMap(([name, value]) => ["-H", `${name}: ${value}`])
            return Effect.flatMap(program("curl", "-sN", ...parameters, "-d", body, `${url}/feed/count`), outputOf)
          }
          assert.deepStrictEqual(dataOf(yield* read(json)), expected)
          assert.deepStrictEqual(linesOf(yield* read(lines)), expected)
        }).pipe(Effect.scoped, Effect.provide(onServer(server)))
      )

      // On a machine that others use too, what takes 5 ms may take 100.
      it.live(
        "that reads slowly waits for it, holds up no other, and is gone within 50 ms of it",
        () =>
          slowReader(2).pipe(
            Effect.filterOrFail(
              (millis) => millis <= 50,
              (millis) => new Error(`took ${millis} ms`)
            ),
            Effect.retry(Schedule.recurs(3)),
            Effect.scoped,
            Effect.provide(onServer(server, { stallTimeout: "10 minutes" }))
          ),
        60_000
      )
    })

    it.live.runIf(existsSync(chromium))(
      "is read by EventSource in Chromium",
      () =>
        Effect.gen(function* () {
          const { read, url: pages } = yield* pageServer
          const found = yield* Effect.gen(function* () {
            const { url } = yield* HttpIngress.Address
            return yield* readInChromium(url, pages, read)
          }).pipe(Effect.provide(onServer(server, { cors: { origins: [pages] } })))
          assert.deepStrictEqual(
            found,
            expected.map((data) => ({ ...data, id: String(data.n) }))
          )
        }).pipe(Effect.scoped),
      60_000
    )
  })
}
