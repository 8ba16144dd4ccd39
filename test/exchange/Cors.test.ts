/**
 * Seen red for each of these mutations. Options: an origin may have a slash, a pattern or no host; `"*"` and credentials go together,
 * or only the origins are looked at; names of headers aren't checked. No origins, and yet something is said. `vary` is missing, or
 * there for `"*"` too, or without the headers that were asked for. Any origin is echoed, in an answer or in a preflight, or is told the
 * methods. Credentials or exposed headers are missing; an empty list makes an empty header; what was asked for is repeated unread, or
 * although the options say otherwise. The age is rounded up, or has no bound. Any verb, no origin, or no method makes a preflight.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit } from "effect"
import { decode } from "../../src/core/Options.ts"
import * as Cors from "../../src/exchange/Cors.ts"

const APP = "https://app.example.com"
const ADMIN = "http://localhost:5173"
const EVIL = "https://evil.example.com"

const cors = (options: typeof Cors.Options.Encoded) =>
  Effect.map(decode(Cors.Options, options, "HttpIngress"), Cors.make)

const asking = (origin: string, headers?: string) => ({
  origin,
  "access-control-request-method": "POST",
  ...(headers === undefined ? {} : { "access-control-request-headers": headers })
})

/** The message with which options are refused. */
const refusal = (options: unknown) =>
  Effect.map(Effect.exit(decode(Cors.Options, options, "HttpIngress")), (exit) => {
    assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), "the options are refused")
    return Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : ""
  })

const exposed = { "access-control-expose-headers": "x-request-id, retry-after" }

describe("Cors", () => {
  describe("Options", () => {
    it.effect("have defaults", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* decode(Cors.Options, {}, "HttpIngress"), {
          origins: [],
          exposeHeaders: ["x-request-id", "retry-after"],
          credentials: false,
          maxAge: Duration.minutes(10)
        })
      })
    )

    it.effect("take origins as browsers send them, of any scheme", () =>
      Effect.gen(function* () {
        const origins = [APP, ADMIN, "http://[::1]:8080", "capacitor://localhost", "chrome-extension://abcdefgh"]
        assert.deepStrictEqual((yield* decode(Cors.Options, { origins }, "HttpIngress")).origins, origins)
      })
    )

    it.effect("refuse what no browser sends as an origin, and say what one looks like", () =>
      Effect.gen(function* () {
        const none = [
          `${APP}/`,
          `${APP}/app`,
          `${APP}:443`,
          "http://a:80",
          "HTTPS://app.example.com",
          "https://App.example.com"
        ]
        const neither = [
          "app.example.com",
          "https://*.example.com",
          "*",
          "",
          "null",
          "file://",
          "https://me@example.com"
        ]
        for (const origin of [...none, ...neither]) {
          const message = yield* refusal({ origins: [APP, origin] })
          assert.include(message, 'such as "https://app.example.com"', origin)
          assert.include(message, `at ["origins"][1]`, origin)
        }
      })
    )

    it.effect("refuse credentials together with everybody or everything, which browsers don't take", () =>
      Effect.gen(function* () {
        const message = yield* refusal({ origins: "*", credentials: true })
        assert.include(message, `at ["credentials"]`)
        assert.include(message, `Expected false while origins has "*"`)
        const allowAll = yield* refusal({ origins: [APP], credentials: true, allowHeaders: ["*"] })
        assert.include(allowAll, `while allowHeaders has "*"`)
        const exposeAll = yield* refusal({ origins: [APP], credentials: true, exposeHeaders: ["*"] })
        assert.include(exposeAll, `while exposeHeaders has "*"`)
        yield* decode(Cors.Options, { origins: "*", allowHeaders: ["*"], exposeHeaders: ["*"] }, "HttpIngress")
      })
    )

    it.effect("refuse names of headers that are none", () =>
      Effect.gen(function* () {
        for (const name of ["", "x y", "x\r\ny", "x:", "ä"]) {
          assert.include(yield* refusal({ allowHeaders: [name] }), "the name of a header", name)
          assert.include(yield* refusal({ exposeHeaders: [name] }), "the name of a header", name)
        }
      })
    )
  })

  describe("without origins", () => {
    it.effect("says nothing, and takes a preflight for a request like any other", () =>
      Effect.gen(function* () {
        const { headers, preflight } = yield* cors({})
        assert.deepStrictEqual(headers(APP), {})
        assert.isUndefined(preflight("OPTIONS", asking(APP)))
      })
    )
  })

  describe("headers", () => {
    it.effect("let a page of an origin in the list read the answer, and keep caches from giving it to another", () =>
      Effect.gen(function* () {
        const { headers } = yield* cors({ origins: [APP, ADMIN] })
        assert.deepStrictEqual(headers(APP), { vary: "origin", "access-control-allow-origin": APP, ...exposed })
        assert.deepStrictEqual(headers(ADMIN), { vary: "origin", "access-control-allow-origin": ADMIN, ...exposed })
      })
    )

    it.effect("say nothing but vary to anybody else", () =>
      Effect.gen(function* () {
        const { headers } = yield* cors({ origins: [APP], credentials: true })
        const others = [
          EVIL,
          "null",
          `${APP}.evil.example.com`,
          APP.toUpperCase(),
          `${APP}/`,
          "",
          undefined,
          [APP, APP]
        ]
        for (const origin of others) assert.deepStrictEqual(headers(origin), { vary: "origin" }, String(origin))
      })
    )

    it.effect("say the same to all pages, sandboxed ones too, when all may call", () =>
      Effect.gen(function* () {
        const { headers } = yield* cors({ origins: "*" })
        for (const origin of [APP, EVIL, "null", undefined]) {
          assert.deepStrictEqual(headers(origin), { "access-control-allow-origin": "*", ...exposed })
        }
      })
    )

    it.effect("allow credentials to the origins in the list only", () =>
      Effect.gen(function* () {
        const { headers } = yield* cors({ origins: [APP], credentials: true, exposeHeaders: [] })
        assert.deepStrictEqual(headers(APP), {
          vary: "origin",
          "access-control-allow-origin": APP,
          "access-control-allow-credentials": "true"
        })
      })
    )
  })

  describe("preflight", () => {
    it.effect("allows the methods of the ingress, and the headers that are asked for", () =>
      Effect.gen(function* () {
        const { preflight } = yield* cors({ origins: [APP], credentials: true })
        assert.deepStrictEqual(preflight("OPTIONS", asking(APP, "authorization,content-type")), {
          vary: "origin, access-control-request-headers",
          "access-control-allow-origin": APP,
          "access-control-allow-credentials": "true",
          "access-control-allow-methods": "POST, GET, HEAD",
          "access-control-allow-headers": "authorization,content-type",
          "access-control-max-age": "600"
        })
        assert.deepStrictEqual(preflight("OPTIONS", asking(APP)), {
          vary: "origin, access-control-request-headers",
          "access-control-allow-origin": APP,
          "access-control-allow-credentials": "true",
          "access-control-allow-methods": "POST, GET, HEAD",
          "access-control-max-age": "600"
        })
      })
    )

    it.effect("allows the headers of the options where there are any", () =>
      Effect.gen(function* () {
        const { preflight } = yield* cors({ origins: [APP], allowHeaders: ["content-type", "x-a"] })
        const allowed = preflight("OPTIONS", asking(APP, "x-b"))
        assert.strictEqual(allowed?.["access-control-allow-headers"], "content-type, x-a")
        assert.strictEqual(allowed?.["vary"], "origin")
        const { preflight: strict } = yield* cors({ origins: [APP], allowHeaders: [] })
        assert.notProperty(strict("OPTIONS", asking(APP, "x-b")), "access-control-allow-headers")
      })
    )

    it.effect("doesn't repeat what is no list of headers", () =>
      Effect.gen(function* () {
        const { preflight } = yield* cors({ origins: [APP] })
        for (const list of ["", "x-a\r\nset-cookie: a=b", "x-a; x-b", "<script>", "ä", `${"a,".repeat(8000)}:`]) {
          assert.notProperty(preflight("OPTIONS", asking(APP, list)), "access-control-allow-headers", list)
        }
      })
    )

    it.effect("allows nothing to an origin that is not in the list", () =>
      Effect.gen(function* () {
        const { preflight } = yield* cors({ origins: [APP], credentials: true })
        for (const origin of [EVIL, "null", ""]) {
          assert.deepStrictEqual(preflight("OPTIONS", asking(origin, "content-type")), { vary: "origin" }, origin)
        }
      })
    )

    it.effect("allows the same to all pages when all may call", () =>
      Effect.gen(function* () {
        const { preflight } = yield* cors({ origins: "*" })
        for (const origin of [APP, "null"]) {
          assert.deepStrictEqual(preflight("OPTIONS", asking(origin, "x-a")), {
            vary: "access-control-request-headers",
            "access-control-allow-origin": "*",
            "access-control-allow-methods": "POST, GET, HEAD",
            "access-control-allow-headers": "x-a",
            "access-control-max-age": "600"
          })
        }
      })
    )

    it.effect("is one only as OPTIONS with an origin and a method that is asked for", () =>
      Effect.gen(function* () {
        const { preflight } = yield* cors({ origins: [APP] })
        assert.isUndefined(preflight("POST", asking(APP)))
        assert.isUndefined(preflight("OPTIONS", { origin: APP }))
        assert.isUndefined(preflight("OPTIONS", { "access-control-request-method": "POST" }))
        assert.isDefined(preflight("OPTIONS", asking(APP)))
      })
    )

    it.effect("says for how many whole seconds it holds, and at most a day", () =>
      Effect.gen(function* () {
        for (const [maxAge, seconds] of [
          ["1999 millis", "1"],
          [0, "0"],
          ["1 hour", "3600"],
          [Infinity, "86400"]
        ] as const) {
          const { preflight } = yield* cors({ origins: [APP], maxAge })
          assert.strictEqual(preflight("OPTIONS", asking(APP))?.["access-control-max-age"], seconds)
        }
      })
    )
  })
})
