/**
 * Seen red for each of these mutations. `negotiate`: the header's order or the last of the offered counts; a refusal, `*`, or what
 * isn't named is overlooked; `identity` is overlooked, is not matched by `*`, or wins a tie; of a name that is there twice, the last
 * one counts; a malformed member is passed over, or a name, a weight, or a further parameter isn't checked; case, spaces or empty
 * members matter. `worthIt`: the size isn't looked at, or is off by one; parameters or case of the type matter; no suffixes; types are
 * prefixes. `label`: `vary` is replaced, or is there only for what is compressed; other headers are lost. `compress` blocks ("leaves
 * the event loop free"). Options: none, or the same one twice.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Schema } from "effect"
import * as Zlib from "node:zlib"
import { decode } from "../../src/core/Options.ts"
import * as Compression from "../../src/exchange/Compression.ts"

type Encoding = Compression.Encoding
const all: ReadonlyArray<Encoding> = ["br", "zstd", "gzip"]
const negotiate = (header: string | undefined, ...encodings: ReadonlyArray<Encoding>) =>
  Compression.negotiate(header, { encodings: encodings.length === 0 ? all : encodings })

const decompress = {
  br: Zlib.brotliDecompressSync,
  zstd: Zlib.zstdDecompressSync,
  gzip: Zlib.gunzipSync
}

const refusal = (options: unknown) =>
  Effect.map(Effect.exit(decode(Compression.Options, options, "HttpIngress")), (exit) => {
    assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), "the options are refused")
    return Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : ""
  })

const Thousandths = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1000 }))
const Members = Schema.Array(
  Schema.Struct({
    name: Schema.Literals(["br", "gzip", "zstd", "identity", "*", "deflate", "GZIP"]),
    weight: Schema.Union([Schema.Literals([0, 1000]), Thousandths, Schema.Undefined]),
    space: Schema.Literals(["", " ", "\t "])
  })
).check(Schema.isMaxLength(8))
const Offer = Schema.Array(Compression.Encoding).check(Schema.isMinLength(1), Schema.isMaxLength(3))
const runs = { arbitrary: { runs: 1000, seed: 1 } }

const headerOf = (members: typeof Members.Type) =>
  members
    .map(({ name, space, weight }) =>
      weight === undefined ? name : `${name}${space};${space}Q=${(weight / 1000).toFixed(3)}`
    )
    .join(", ")

/** How much an encoding is liked, in thousandths; nothing where it isn't named. */
const likingOf = (members: typeof Members.Type, encoding: string) => {
  const weights = (of: string) =>
    members.filter(({ name }) => name.toLowerCase() === of).map(({ weight }) => weight ?? 1000)
  const own = weights(encoding)
  return Math.min(...(own.length > 0 ? own : weights("*")))
}

describe("Compression", () => {
  describe("Options", () => {
    it.effect("have defaults", () =>
      Effect.gen(function* () {
        const options = yield* decode(Compression.Options, {}, "HttpIngress")
        assert.deepStrictEqual(options, { minSize: 1024, encodings: ["br", "gzip"] })
      })
    )

    it.effect("refuse no encodings, unknown ones and the same twice", () =>
      Effect.gen(function* () {
        for (const encodings of [[], ["deflate"], ["gzip", "br", "gzip"]]) {
          assert.include(yield* refusal({ encodings }), `at ["encodings"]`)
        }
        assert.include(yield* refusal({ encodings: ["gzip", "gzip"] }), "each encoding once")
      })
    )
  })

  describe("negotiate", () => {
    it("chooses the first encoding of those that are liked equally well", () => {
      assert.strictEqual(negotiate("gzip, deflate, br, zstd"), "br")
      assert.strictEqual(negotiate("gzip, deflate, br, zstd", "zstd", "gzip"), "zstd")
      assert.strictEqual(negotiate("gzip, deflate"), "gzip")
      assert.strictEqual(negotiate("*"), "br")
    })

    it("chooses what is liked best, whatever comes first", () => {
      assert.strictEqual(negotiate("br;q=0.5, gzip;q=0.8, zstd;q=0.7"), "gzip")
      assert.strictEqual(negotiate("br;q=0.1, *;q=0.9"), "zstd")
      assert.strictEqual(negotiate("br;q=0.999, gzip"), "gzip")
    })

    it("chooses nothing that is refused or not named", () => {
      assert.isUndefined(negotiate("deflate"))
      assert.isUndefined(negotiate("*;q=0"))
      assert.isUndefined(negotiate("br;q=0, gzip;q=0.0, zstd;q=0.000"))
      assert.strictEqual(negotiate("*, br;q=0"), "zstd")
      assert.strictEqual(negotiate("*;q=0, gzip"), "gzip")
      assert.isUndefined(negotiate("gzip, br;q=0", "br"))
      assert.isUndefined(negotiate("br, *, br;q=0", "br"))
    })

    it("leaves the body as it is where the client likes that better", () => {
      assert.isUndefined(negotiate("identity, gzip;q=0.5"))
      assert.isUndefined(negotiate("gzip;q=0.5, *", "gzip"))
      assert.strictEqual(negotiate("identity, gzip"), "gzip")
      assert.strictEqual(negotiate("identity;q=0.5, gzip;q=0.5"), "gzip")
      assert.strictEqual(negotiate("identity;q=0, gzip;q=0.1"), "gzip")
      assert.isUndefined(negotiate("identity;q=0"))
      assert.isUndefined(negotiate("identity"))
    })

    it("leaves the body as it is without a header, and with one that is empty or there twice", () => {
      for (const header of [undefined, "", " ", ",", " , ,"]) assert.isUndefined(negotiate(header))
      assert.isUndefined(Compression.negotiate(["gzip", "br"], { encodings: all }))
    })

    it("takes names in any case, with spaces where they may be, and passes over empty members", () => {
      assert.strictEqual(negotiate(" GZip\t;\tQ=1.000 ,, "), "gzip")
      assert.strictEqual(negotiate("gzip;q=0., br;q=1."), "br")
    })

    it("leaves the body as it is where any member is malformed", () => {
      for (const member of [
        "br;q=2",
        "br;q=-1",
        "br;q=",
        "br;q=.5",
        "br;q=1.001",
        "br;q=0.1234",
        "br;q=a",
        "br;q",
        "br;q = 1"
      ]) {
        assert.isUndefined(negotiate(`gzip, ${member}`), member)
      }
      for (const member of [
        "br;q=1;q=1",
        "br;level=1",
        "br;",
        ";q=1",
        ";",
        "b r",
        "br gzip",
        '"br"',
        "br=1",
        "q=1;br"
      ]) {
        assert.isUndefined(negotiate(`gzip, ${member}`), member)
      }
    })

    it("takes no longer than one look at a long header", () => {
      const start = performance.now()
      for (const piece of [",", ";", " ", "a", "*,", "gzip;q=0.1,", "q=0"]) negotiate(piece.repeat(20_000))
      assert.isBelow(performance.now() - start, 1000)
    })

    it.prop(
      "never chooses what is refused, nor what is liked less than another or than the body as it is",
      [Members, Offer],
      ([members, offered]) => {
        const chosen = negotiate(headerOf(members), ...offered)
        const likings = offered
          .map((encoding) => likingOf(members, encoding))
          .map((liking) => (liking === Infinity ? 0 : liking))
        const identity = likingOf(members, "identity")
        const best = Math.max(...likings)
        if (best === 0 || (identity !== Infinity && identity > best)) return assert.isUndefined(chosen)
        assert.strictEqual(chosen, offered[likings.indexOf(best)])
      },
      runs
    )

    it.prop("takes any text", [Schema.String, Offer], ([header, offered]) => {
      const chosen = negotiate(header, ...offered)
      assert.isTrue(chosen === undefined || offered.includes(chosen))
    })
  })

  describe("worthIt", () => {
    const minSize = 1024

    it("says so of text of any kind", () => {
      for (const type of [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/problem+json",
        "application/vnd.oai.openapi+json;version=3.1",
        "application/x-ndjson",
        "text/html",
        "text/plain;charset=utf-8",
        "image/svg+xml"
      ]) {
        assert.isTrue(Compression.worthIt(type, minSize, { minSize }), type)
      }
    })

    it("says no of what is compressed already, or unknown", () => {
      for (const type of [
        "image/png",
        "audio/wav",
        "video/mp4",
        "application/zip",
        "application/gzip",
        "application/octet-stream",
        "application/pdf",
        "application/jsonish",
        "multipart/form-data; boundary=text/",
        "image/png;a=+json",
        ""
      ]) {
        assert.isFalse(Compression.worthIt(type, 1e6, { minSize }), type)
      }
    })

    it("says no of a body that is too small, and never of a stream of text", () => {
      assert.isFalse(Compression.worthIt("text/plain", 1023, { minSize }))
      assert.isTrue(Compression.worthIt("text/plain", Infinity, { minSize }))
      assert.isTrue(Compression.worthIt("text/plain", 0, { minSize: 0 }))
    })
  })

  describe("label", () => {
    it("tells clients how to read the body, and caches that it depends on what a client takes", () => {
      assert.deepStrictEqual(Compression.label(undefined, "br"), { vary: "accept-encoding", "content-encoding": "br" })
      const encoded = { allow: "GET", vary: "accept-encoding", "content-encoding": "br" }
      assert.deepStrictEqual(Compression.label({ allow: "GET" }, "br"), encoded)
      assert.deepStrictEqual(Compression.label({ allow: "GET" }, undefined), { allow: "GET", vary: "accept-encoding" })
    })

    it("keeps what the answer depends on already", () => {
      const headers = { vary: "origin" }
      const labelled = { vary: "origin, accept-encoding", "content-encoding": "gzip" }
      assert.deepStrictEqual(Compression.label(headers, "gzip"), labelled)
      assert.deepStrictEqual(headers, { vary: "origin" })
    })
  })

  describe("compress", () => {
    for (const encoding of all) {
      it.effect.prop(
        `${encoding} gives back any text and any bytes`,
        [Schema.String, Schema.Array(Thousandths)],
        ([text, numbers]) =>
          Effect.gen(function* () {
            const bytes = Uint8Array.from(numbers)
            assert.strictEqual(
              decompress[encoding](yield* Compression.compress(text, encoding)).toString(),
              text.toWellFormed()
            )
            assert.deepStrictEqual(
              Uint8Array.from(decompress[encoding](yield* Compression.compress(bytes, encoding))),
              bytes
            )
          })
      )

      it.effect(`${encoding} makes a large body of JSON much smaller`, () =>
        Effect.gen(function* () {
          const body = JSON.stringify(
            Array.from({ length: 5000 }, (_, id) => ({ id, label: "ä label", score: id % 7 }))
          )
          const compressed = yield* Compression.compress(body, encoding)
          assert.isBelow(compressed.length, Buffer.byteLength(body) / 5)
          assert.strictEqual(decompress[encoding](compressed).toString(), body)
        })
      )

      it.live(`${encoding} leaves the event loop free meanwhile`, () =>
        Effect.gen(function* () {
          const body = Buffer.from(Array.from({ length: 300_000 }, (_, i) => Math.sin(i)).join())
          let turns = 0
          const count = Effect.forever(
            Effect.andThen(
              Effect.sleep(1),
              Effect.sync(() => turns++)
            )
          )
          yield* Effect.raceFirst(Compression.compress(body, encoding), count)
          assert.isAbove(turns, 2)
        })
      )
    }
  })
})
