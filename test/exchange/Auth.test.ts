/**
 * Seen red for each of these mutations. `bearer`: the scheme's case or a second space matters; a token may have any characters; the
 * last token is always right; a redacted one is taken as it prints; pairs are taken for a record; missing, malformed and unknown ones
 * are mixed up; the checks of tokens and ids are left out, one by one. `clientCertificate`: colons or case of a fingerprint matter;
 * the name comes first, or the first of several counts; the expiry isn't looked at, is off by one, or never comes when it is unknown;
 * a stranger gets 401; the checks are left out. `peerOf`: a certificate that isn't verified, or an empty one, is given; names aren't
 * copied; other names are split at every comma, or escapes aren't seen; it is read each time. `Unauthorized`: another default, or any
 * challenge. That the comparison takes the same time for all is not tested: on a shared machine it can't be measured well enough.
 */
import { assert, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Effect, Exit, Redacted, Schema } from "effect"
import { TestClock } from "effect/testing"
import type { PeerCertificate } from "node:tls"
import * as Auth from "../../src/exchange/Auth.ts"

const nobody: Auth.Peer = { remoteAddress: "10.0.0.7", certificate: undefined }
const TOKEN = "mF_9.B5f-4.1JqM"
const tokens = { [TOKEN]: "billing", "other-token~+/==": { id: "search", tenant: "web", claims: { plan: "free" } } }

/** What an authorizer says to a header `authorization`. */
const present = (authorize: Auth.Authorize, authorization?: string | ReadonlyArray<string>) =>
  Effect.exit(authorize({ authorization }, nobody))

const fingerprint = Array.from({ length: 32 }, (_, i) => (i + 160).toString(16).toUpperCase()).join(":")
const certificate: Auth.ClientCertificate = {
  subject: { CN: "billing.internal", O: "Example" },
  issuer: { CN: "Our own CA" },
  fingerprint256: fingerprint,
  validTo: 1000,
  altNames: []
}
/** What an authorizer says to a certificate. */
const show = (authorize: Auth.Authorize, differences: Partial<Auth.ClientCertificate> = {}) =>
  Effect.exit(authorize({}, { ...nobody, certificate: { ...certificate, ...differences } }))

const tagOf = (exit: Exit.Exit<Auth.Principal, Auth.Unauthorized | Auth.Forbidden>) => {
  const error = Exit.findErrorOption(exit)
  return error._tag === "Some" ? error.value._tag : exit._tag
}

const refusalOf = (exit: Exit.Exit<Auth.Principal, Auth.Unauthorized | Auth.Forbidden>) => {
  const error = Exit.findErrorOption(exit)
  if (error._tag === "None") throw new Error(`Not refused: ${String(exit)}`)
  return error.value
}

/** A certificate as Node gives it. */
const shown = (subjectaltname?: string) =>
  ({
    subject: Object.assign(Object.create(null), { CN: "billing.internal", OU: ["a", "b"] }),
    issuer: { CN: "Our own CA" },
    fingerprint256: fingerprint,
    valid_to: "Jan  2 03:04:05 2030 GMT",
    subjectaltname,
    raw: Buffer.alloc(1)
  }) as unknown as PeerCertificate
const connection = (authorized: boolean, certificate = shown()) => ({
  remoteAddress: "::1",
  authorized,
  getPeerCertificate: () => certificate
})
const altNames = (text: string) => Auth.peerOf(connection(true, shown(text))).certificate?.altNames

describe("Auth", () => {
  describe("bearer", () => {
    const authorize = Auth.bearer(tokens)

    it.effect("knows a principal by its token", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* present(authorize, `Bearer ${TOKEN}`), Exit.succeed({ id: "billing" }))
        const search = { id: "search", tenant: "web", claims: { plan: "free" } }
        assert.deepStrictEqual(yield* present(authorize, "Bearer other-token~+/=="), Exit.succeed(search))
      })
    )

    it.effect("takes the scheme in any case, and several spaces after it", () =>
      Effect.gen(function* () {
        for (const scheme of ["bearer", "BEARER", "bEaReR", "Bearer  "]) {
          assert.deepStrictEqual(
            yield* present(authorize, `${scheme} ${TOKEN}`),
            Exit.succeed({ id: "billing" }),
            scheme
          )
        }
      })
    )

    it.effect("asks for a token, without an error, where none is presented", () =>
      Effect.gen(function* () {
        const basic = `Basic ${btoa("billing:secret")}`
        const malformed = [
          "",
          "Bearer",
          "Bearer ",
          TOKEN,
          basic,
          `Bearer ${TOKEN} `,
          `Bearer ${TOKEN},`,
          `Bearer a b`,
          "Bearer ="
        ]
        const joined = [`Bearer ${TOKEN}, Bearer ${TOKEN}`, [`Bearer ${TOKEN}`, `Bearer ${TOKEN}`]]
        const missing = refusalOf(yield* present(authorize))
        assert.deepInclude(missing, { _tag: "Unauthorized", challenge: "Bearer" })
        assert.include(missing.message, "authorization is missing. Send it as: Bearer <token>")
        for (const authorization of [...malformed, ...joined]) {
          const refusal = refusalOf(yield* present(authorize, authorization))
          assert.deepInclude(refusal, { _tag: "Unauthorized", challenge: "Bearer" }, String(authorization))
          assert.include(refusal.message, "another form than expected. Send it as: Bearer <token>")
        }
      })
    )

    it.effect("refuses a token that it doesn't know, and doesn't repeat it", () =>
      Effect.gen(function* () {
        const near = [
          TOKEN.slice(1),
          TOKEN.slice(0, -1),
          `${TOKEN}=`,
          `${TOKEN}x`,
          TOKEN.toLowerCase(),
          "x".repeat(15_000)
        ]
        for (const token of near) {
          const refusal = refusalOf(yield* present(authorize, `Bearer ${token}`))
          assert.deepInclude(refusal, { _tag: "Unauthorized", challenge: 'Bearer error="invalid_token"' }, token)
          assert.notInclude(JSON.stringify([refusal, refusal.message, refusal.stack]), token)
        }
      })
    )

    it.effect("takes redacted tokens, from whatever gives pairs", () =>
      Effect.gen(function* () {
        const secret = yield* Config.Redacted("TOKEN")
        const pairs = [[secret, "billing"] as const]
        for (const tokens of [pairs, new Map(pairs), new Map(pairs).entries()]) {
          const authorize = Auth.bearer(tokens)
          assert.strictEqual(tagOf(yield* present(authorize, "Bearer s3cret")), "Success")
          assert.strictEqual(tagOf(yield* present(authorize, "Bearer <redacted>")), "Unauthorized")
        }
      }).pipe(Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ TOKEN: "s3cret" }))))
    )

    it("can't be made without tokens, or with one that is empty, can't be sent or is there twice", () => {
      assert.throws(() => Auth.bearer({}), /there is no token.*Give at least one/)
      assert.throws(() => Auth.bearer(new Map()), /there is no token/)
      assert.throws(() => Auth.bearer({ a: "one", "": "two" }), /the token of "two" is empty/)
      assert.throws(() => Auth.bearer([[Redacted.make(""), "one"]]), /the token of "one" is empty/)
      for (const token of ["with space", "ä", "a=b", "=", "a,b", "line\n", "line\r\nx: y"]) {
        assert.throws(
          () => Auth.bearer({ [token]: "one" }),
          /the token of "one" has characters that can't be sent/,
          token
        )
      }
      assert.throws(
        () =>
          Auth.bearer([
            ["a-token", "one"],
            ["b", "two"],
            [Redacted.make("a-token"), "three"]
          ]),
        /^Auth.bearer: the token of "three" is there twice. Give each its own.$/
      )
      assert.throws(() => Auth.bearer({ a: { id: "" } }), /empty id/)
    })
  })

  describe("clientCertificate", () => {
    const billing = { id: "billing", tenant: "finance" }

    it.effect("knows a principal by the fingerprint of the certificate, however it is written", () =>
      Effect.gen(function* () {
        for (const written of [fingerprint, fingerprint.toLowerCase(), fingerprint.replaceAll(":", "")]) {
          const authorize = Auth.clientCertificate({ byFingerprint: { [written]: billing } })
          assert.deepStrictEqual(yield* show(authorize), Exit.succeed(billing))
          const other = yield* show(authorize, { fingerprint256: fingerprint.replace("A0", "A1") })
          assert.strictEqual(tagOf(other), "Forbidden")
        }
      })
    )

    it.effect("knows a principal by the common name of the subject", () =>
      Effect.gen(function* () {
        const authorize = Auth.clientCertificate({
          byCommonName: { "billing.internal": "billing", O: "none", constructor: "c" }
        })
        assert.deepStrictEqual(yield* show(authorize), Exit.succeed({ id: "billing" }))
        for (const subject of [
          { CN: "Billing.internal" },
          { CN: "valueOf" },
          { O: "billing.internal" },
          {},
          { CN: ["billing.internal", "search.internal"] }
        ]) {
          assert.strictEqual(tagOf(yield* show(authorize, { subject })), "Forbidden", JSON.stringify(subject))
        }
      })
    )

    it.effect("looks at the fingerprint first", () =>
      Effect.gen(function* () {
        const byCommonName = { "billing.internal": "by name" }
        const authorize = Auth.clientCertificate({ byCommonName, byFingerprint: { [fingerprint]: "by fingerprint" } })
        assert.deepStrictEqual(yield* show(authorize), Exit.succeed({ id: "by fingerprint" }))
        assert.deepStrictEqual(yield* show(authorize, { fingerprint256: "" }), Exit.succeed({ id: "by name" }))
      })
    )

    it.effect("asks for a certificate where there is none, and for a new one once it has expired", () =>
      Effect.gen(function* () {
        const authorize = Auth.clientCertificate({ byCommonName: { "billing.internal": "billing" } })
        const missing = refusalOf(yield* Effect.exit(authorize({ authorization: `Bearer ${TOKEN}` }, nobody)))
        assert.deepInclude(missing, { _tag: "Unauthorized", challenge: "ClientCertificate" })
        assert.strictEqual(tagOf(yield* show(authorize, { validTo: NaN })), "Unauthorized")
        yield* TestClock.setTime(1000)
        assert.strictEqual(tagOf(yield* show(authorize)), "Success")
        yield* TestClock.setTime(1001)
        const expired = refusalOf(yield* show(authorize))
        assert.deepInclude(expired, { _tag: "Unauthorized", challenge: "ClientCertificate" })
        assert.include(expired.message, "has expired")
      })
    )

    it("can't be made for nobody, or with a fingerprint that is none or is there twice", () => {
      assert.throws(() => Auth.clientCertificate({}), /nobody is given.*Give byFingerprint or byCommonName/)
      for (const none of ["", "AB:CD", `${fingerprint}:00`, fingerprint.replace("A", "G")]) {
        assert.throws(() => Auth.clientCertificate({ byFingerprint: { [none]: "a" } }), /is no fingerprint/, none)
      }
      const twice = { [fingerprint]: "a", [fingerprint.toLowerCase()]: "b" }
      assert.throws(() => Auth.clientCertificate({ byFingerprint: twice }), /there twice/)
      assert.throws(() => Auth.clientCertificate({ byCommonName: { a: { id: "" } } }), /empty id/)
    })
  })

  describe("peerOf", () => {
    it("has the address, and no certificate without TLS", () => {
      assert.deepStrictEqual(Auth.peerOf({ remoteAddress: "::1" }), { remoteAddress: "::1", certificate: undefined })
    })

    it("has the certificate only when it has been verified", () => {
      const subject = { CN: "billing.internal", OU: ["a", "b"] }
      assert.deepStrictEqual(Auth.peerOf(connection(true)), {
        remoteAddress: "::1",
        certificate: {
          subject,
          issuer: { CN: "Our own CA" },
          fingerprint256: fingerprint,
          validTo: Date.UTC(2030, 0, 2, 3, 4, 5),
          altNames: []
        }
      })
      assert.strictEqual(Object.getPrototypeOf(Auth.peerOf(connection(true)).certificate?.subject), Object.prototype)
      assert.isUndefined(Auth.peerOf(connection(false)).certificate)
      assert.isUndefined(Auth.peerOf(connection(true, {} as PeerCertificate)).certificate)
    })

    it("reads a certificate once for each connection", () => {
      let reads = 0
      const socket = { ...connection(true), getPeerCertificate: () => (reads++, shown()) }
      assert.deepStrictEqual(Auth.peerOf(socket), Auth.peerOf(socket))
      assert.strictEqual(reads, 1)
      assert.deepStrictEqual(Auth.peerOf(connection(true, shown("DNS:b"))).certificate?.altNames, ["DNS:b"])
      assert.isUndefined(Auth.peerOf(Object.assign(socket, { authorized: false })).certificate)
    })

    it("can be sent to a thread", () => {
      const peer = Auth.peerOf(connection(true, shown("DNS:a")))
      assert.deepStrictEqual(structuredClone(peer), peer)
    })

    it("takes the other names apart, also those that have commas", () => {
      assert.deepStrictEqual(altNames("DNS:a.example, URI:spiffe://example/b, IP Address:10.0.0.1"), [
        "DNS:a.example",
        "URI:spiffe://example/b",
        "IP Address:10.0.0.1"
      ])
      assert.deepStrictEqual(altNames('URI:"http://a, DNS:b.example", DNS:c'), [
        'URI:"http://a, DNS:b.example"',
        "DNS:c"
      ])
      assert.deepStrictEqual(altNames('DNS:"a\\", DNS:b", DNS:c'), ['DNS:"a\\", DNS:b"', "DNS:c"])
    })
  })

  describe("Unauthorized", () => {
    it("asks for a bearer token unless it says otherwise", () => {
      assert.strictEqual(new Auth.Unauthorized({ why: "no" }).challenge, "Bearer")
      assert.strictEqual(new Auth.Unauthorized({ why: "no", challenge: "Basic realm=a" }).challenge, "Basic realm=a")
    })

    it("takes no challenge that could not be sent or would add a header", () => {
      for (const challenge of ["", " ", "Bearer\r\nset-cookie: a=b", "Bearer\n", "Bearer ä"]) {
        assert.throws(() => new Auth.Unauthorized({ why: "no", challenge }), /Schema validation failed/, challenge)
      }
    })

    it.effect("crosses to threads by its schema, as Forbidden does", () =>
      Effect.gen(function* () {
        const unauthorized = new Auth.Unauthorized({ why: "no", challenge: "Basic" })
        const sent = structuredClone(yield* Schema.encodeEffect(Auth.Unauthorized)(unauthorized))
        assert.deepStrictEqual(yield* Schema.decodeEffect(Auth.Unauthorized)(sent), unauthorized)
        const forbidden = new Auth.Forbidden({ why: "only the proxy may call" })
        assert.strictEqual(forbidden.message, "The request is forbidden: only the proxy may call")
        const encoded = yield* Schema.encodeEffect(Auth.Forbidden)(forbidden)
        assert.deepStrictEqual(yield* Schema.decodeEffect(Auth.Forbidden)(structuredClone(encoded)), forbidden)
      })
    )
  })
})
