/**
 * Who makes a request: decided once, by the headers and by what is known of the connection, before the body is read.
 *
 * The option `authorize` of an ingress is a function of this kind. Here are two, for bearer tokens and for client certificates; one
 * of your own is a function of the same type. What it finds out, handlers read in `RequestContext.principal`.
 *
 * @since 0.1.0
 */
import { Clock, DateTime, Effect, Option, Redacted, Schema } from "effect"
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto"
import type { PeerCertificate } from "node:tls"
import type { Principal } from "../core/RequestContext.ts"
import type { Incoming } from "./Reception.ts"

export type { Principal } from "../core/RequestContext.ts"

/**
 * Nobody knows who makes the request; answered with 401. The client sees `why`, so it must not tell what was presented.
 *
 * @category errors
 * @since 0.1.0
 */
export class Unauthorized extends Schema.TaggedError<Unauthorized>("effect-serve/Auth/Unauthorized")("Unauthorized", {
  /** What was wrong, and what to do about it. */
  why: Schema.String,
  /** What the answer asks for, in its header `www-authenticate`. Default `"Bearer"`. */
  challenge: Schema.String.check(
    Schema.isPattern(/^[\x21-\x7e][\t\x20-\x7e]*$/, { expected: "the value of a header: visible ASCII characters" })
  ).pipe(Schema.withConstructorDefault(Effect.succeed("Bearer")))
}) {
  override get message(): string {
    return `The request is not authorized: ${this.why}`
  }
}

/**
 * It is known who makes the request, and they may not; answered with 403. The client sees `why`.
 *
 * @category errors
 * @since 0.1.0
 */
export class Forbidden extends Schema.TaggedError<Forbidden>("effect-serve/Auth/Forbidden")("Forbidden", {
  /** What they may not, and who can change that. */
  why: Schema.String
}) {
  override get message(): string {
    return `The request is forbidden: ${this.why}`
  }
}

/**
 * A name in a certificate, by the short names of its parts, such as `CN` and `O`. A part that is there several times is a list.
 *
 * @category models
 * @since 0.1.0
 */
export type DistinguishedName = Readonly<Record<string, string | ReadonlyArray<string>>>

/**
 * A certificate that the client has shown, and that the ingress has verified against its `ca`.
 *
 * @category models
 * @since 0.1.0
 */
export interface ClientCertificate {
  readonly subject: DistinguishedName
  readonly issuer: DistinguishedName
  /** The SHA-256 of the certificate: 32 bytes in hexadecimal, in upper case, with colons between them. */
  readonly fingerprint256: string
  /** When it expires, in milliseconds since 1970. */
  readonly validTo: number
  /** Its other names, each with its kind: `"DNS:api.example.com"`, `"URI:spiffe://example.com/billing"`. */
  readonly altNames: ReadonlyArray<string>
}

/**
 * What a connection says about its other end. It is plain data.
 *
 * @category models
 * @since 0.1.0
 */
export interface Peer {
  /** The address that the connection comes from, which may be that of a proxy; `undefined` when it is gone. */
  readonly remoteAddress: string | undefined
  /** `undefined` without TLS, without a certificate, and with one that is not of the `ca`. */
  readonly certificate: ClientCertificate | undefined
}

/**
 * Finds out who makes a request, before its body is read. Names of headers are in lower case. It fails with `Unauthorized` or
 * `Forbidden`; other failures are defects. It runs for every request, so what it looks up is better kept for a while.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Auth } from "effect-serve"
 *
 * // Behind a proxy that has checked who it is, and that nobody can go around.
 * const authorize: Auth.Authorize = (headers, peer) => {
 *   const user = headers["x-user"]
 *   if (peer.remoteAddress !== "10.0.0.1") return Effect.fail(new Auth.Forbidden({ why: "only the proxy may call" }))
 *   if (typeof user !== "string") return Effect.fail(new Auth.Unauthorized({ why: "header x-user is missing" }))
 *   return Effect.succeed({ id: user, tenant: user })
 * }
 *
 * const peer: Auth.Peer = { remoteAddress: "10.0.0.1", certificate: undefined }
 * console.log(Effect.runSync(authorize({ "x-user": "ada" }, peer))) // => { id: "ada", tenant: "ada" }
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export type Authorize<R = never> = (
  headers: Incoming,
  peer: Peer
) => Effect.Effect<Principal, Unauthorized | Forbidden, R>

/**
 * Tokens, and who has each of them: a principal, or its `id` alone. A map, or anything else that gives pairs, can have tokens that
 * are `Redacted`.
 *
 * @category models
 * @since 0.1.0
 */
export type Tokens =
  | Iterable<readonly [token: string | Redacted.Redacted, who: Principal | string]>
  | Readonly<Record<string, Principal | string>>

/**
 * Knows callers by the token in `authorization: Bearer <token>` (RFC 6750). Any other request fails with `Unauthorized`.
 *
 * Tokens are compared in constant time, and kept only as digests. Throws when there is none, when one is empty, is there twice or
 * has characters that such a header can't have, and when a principal has an empty `id`.
 *
 * @example
 * ```ts
 * import { Config, ConfigProvider, Effect } from "effect"
 * import { Auth } from "effect-serve"
 *
 * const program = Effect.gen(function*() {
 *   const token = yield* Config.Redacted("BILLING_TOKEN")
 *   const authorize = Auth.bearer([[token, { id: "billing", tenant: "finance" }]])
 *   const peer: Auth.Peer = { remoteAddress: "10.0.0.7", certificate: undefined }
 *   return yield* authorize({ authorization: "Bearer 2YotnFZFEjr1zCsicMWpAA" }, peer)
 * })
 *
 * const config = ConfigProvider.fromUnknown({ BILLING_TOKEN: "2YotnFZFEjr1zCsicMWpAA" })
 * const principal = Effect.runSync(Effect.provideService(program, ConfigProvider.ConfigProvider, config))
 * console.log(principal) // => { id: "billing", tenant: "finance" }
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const bearer = (tokens: Tokens): Authorize => {
  const digestOf = digester()
  const known: Array<{ readonly digest: Uint8Array; readonly found: Effect.Effect<Principal> }> = []
  for (const [token, who] of Symbol.iterator in tokens ? tokens : Object.entries(tokens)) {
    const principal = principalOf("Auth.bearer", who)
    const text = Redacted.isRedacted(token) ? Redacted.value(token) : token
    if (!TOKEN.test(text)) throw badToken(text, principal)
    const digest = digestOf(text)
    const twice = known.find((other) => timingSafeEqual(other.digest, digest))
    if (twice !== undefined)
      throw new Error(`Auth.bearer: the token of "${principal.id}" is there twice. Give each its own.`)
    known.push({ digest, found: Effect.succeed(principal) })
  }
  if (known.length === 0) throw new Error("Auth.bearer: there is no token, so nobody could call. Give at least one.")

  return ({ authorization }) => {
    if (authorization === undefined) return tokenMissing
    const [, token] = (typeof authorization === "string" && BEARER.exec(authorization)) || []
    if (token === undefined) return tokenMalformed
    const presented = digestOf(token)
    let answer: Effect.Effect<Principal, Unauthorized> = tokenUnknown
    // All of them are looked at, so that the time says nothing about which one it was, or was nearly.
    for (const { digest, found } of known) if (timingSafeEqual(digest, presented)) answer = found
    return answer
  }
}

// Classes that share no character, so that neither can be read in two ways.
const TOKEN = /^[A-Za-z0-9\-._~+/]+=*$/
const BEARER = /^bearer +([A-Za-z0-9\-._~+/]+=*)$/i

// A digest with a key that nobody knows: who sends tokens can't choose what is compared.
const digester = () => {
  const key = randomBytes(32)
  return (token: string): Uint8Array => createHmac("sha256", key).update(token).digest()
}

const badToken = (token: string, { id }: Principal) =>
  token === ""
    ? new Error(`Auth.bearer: the token of "${id}" is empty. Give it one, say, 32 random bytes in base64.`)
    : new Error(
        `Auth.bearer: the token of "${id}" has characters that can't be sent. ` +
          "Use letters, digits and -._~+/ alone, and = at its end."
      )

// The same for all, so that refusing costs no stack trace.
const tokenMissing = Effect.fail(
  new Unauthorized({ why: "header authorization is missing. Send it as: Bearer <token>." })
)
const tokenMalformed = Effect.fail(
  new Unauthorized({ why: "header authorization has another form than expected. Send it as: Bearer <token>." })
)
const tokenUnknown = Effect.fail(
  new Unauthorized({
    why: "the token is not known. Send one that is, or have this one added.",
    challenge: 'Bearer error="invalid_token"'
  })
)

/**
 * Whom {@link clientCertificate} knows: principals, or their `id` alone.
 *
 * @category options
 * @since 0.1.0
 */
export interface CertificateOptions {
  /** By the SHA-256 of the whole certificate, in hexadecimal, with or without colons. This comes first. Default none. */
  readonly byFingerprint?: Readonly<Record<string, Principal | string>>
  /** By the common name of its subject; for this, trust whom the `ca` gives names to. Default none. */
  readonly byCommonName?: Readonly<Record<string, Principal | string>>
}

/**
 * Knows callers by the certificate that they show (mutual TLS). Without one, or with one that has expired since, a request fails
 * with `Unauthorized`, and with one of somebody else with `Forbidden`.
 *
 * Throws when nobody is given, when a fingerprint is none or is there twice, and when a principal has an empty `id`.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Auth } from "effect-serve"
 *
 * const authorize = Auth.clientCertificate({ byCommonName: { "billing.internal": { id: "billing", tenant: "finance" } } })
 *
 * const certificate: Auth.ClientCertificate = {
 *   subject: { CN: "billing.internal" },
 *   issuer: { CN: "Our own CA" },
 *   fingerprint256: Array.from({ length: 32 }, () => "0F").join(":"),
 *   validTo: 2 ** 42,
 *   altNames: ["DNS:billing.internal"]
 * }
 * const principal = Effect.runSync(authorize({}, { remoteAddress: "10.0.0.7", certificate }))
 * console.log(principal) // => { id: "billing", tenant: "finance" }
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const clientCertificate = ({ byCommonName = {}, byFingerprint = {} }: CertificateOptions): Authorize => {
  const of = "Auth.clientCertificate"
  const fingerprints = new Map<string, Principal>()
  for (const [written, who] of Object.entries(byFingerprint)) {
    const fingerprint = plainHex(written)
    if (!FINGERPRINT.test(fingerprint)) {
      throw new Error(
        `${of}: "${written}" is no fingerprint. Expected the SHA-256 of a certificate: 64 hexadecimal digits, ` +
          "as `openssl x509 -fingerprint -sha256` prints them."
      )
    }
    if (fingerprints.has(fingerprint))
      throw new Error(`${of}: the fingerprint "${written}" is there twice. Leave one out.`)
    fingerprints.set(fingerprint, principalOf(of, who))
  }
  const names = new Map(Object.entries(byCommonName).map(([name, who]) => [name, principalOf(of, who)]))
  if (fingerprints.size + names.size === 0) {
    throw new Error(`${of}: nobody is given, so nobody could call. Give byFingerprint or byCommonName.`)
  }

  return (_, { certificate }) => {
    if (certificate === undefined) return certificateMissing
    const { CN } = certificate.subject
    // With several names it is not clear whose it is.
    const named = typeof CN === "string" ? names.get(CN) : undefined
    const principal = fingerprints.get(plainHex(certificate.fingerprint256)) ?? named
    return Effect.flatMap(Clock.currentTimeMillis, (now): Effect.Effect<Principal, Unauthorized | Forbidden> => {
      // The handshake has looked at that too, but a connection may be older than the certificate is valid.
      if (!(certificate.validTo >= now)) return certificateExpired
      return principal === undefined ? certificateUnknown : Effect.succeed(principal)
    })
  }
}

const FINGERPRINT = /^[0-9A-F]{64}$/
const plainHex = (fingerprint: string) => fingerprint.replaceAll(":", "").toUpperCase()

// There is no registered scheme for certificates, and a 401 must have one.
const challenge = "ClientCertificate"
const certificateMissing = Effect.fail(
  new Unauthorized({ why: "there is no client certificate of a known CA. Connect by TLS, and show one.", challenge })
)
const certificateExpired = Effect.fail(
  new Unauthorized({ why: "the client certificate has expired. Connect again, with a new one.", challenge })
)
const certificateUnknown = Effect.fail(
  new Forbidden({ why: "the client certificate is nobody's who may call. Use another one, or have it added." })
)

const principalOf = (of: string, who: Principal | string): Principal => {
  const principal = typeof who === "string" ? { id: who } : who
  if (principal.id === "") throw new Error(`${of}: a principal has an empty id. Give it one.`)
  return principal
}

/** A socket, with TLS or without, as far as it is looked at here. */
interface Connection {
  readonly remoteAddress?: string | undefined
  readonly authorized?: boolean
  readonly getPeerCertificate?: () => PeerCertificate
}

/**
 * What a connection says about its other end.
 *
 * @internal
 */
export const peerOf = (socket: Connection): Peer => ({
  remoteAddress: socket.remoteAddress,
  certificate: socket.authorized === true ? verified(socket) : undefined
})

// Reading a certificate is slow, and a connection keeps the one it has.
const certificates = new WeakMap<Connection, ClientCertificate>()

const verified = (socket: Connection): ClientCertificate | undefined => {
  const known = certificates.get(socket)
  if (known !== undefined) return known
  const certificate = certificateOf(socket.getPeerCertificate?.())
  if (certificate !== undefined) certificates.set(socket, certificate)
  return certificate
}

// Node gives an empty object, or nothing, for no certificate.
const certificateOf = (shown: PeerCertificate | undefined): ClientCertificate | undefined =>
  shown?.fingerprint256 === undefined
    ? undefined
    : {
        subject: nameOf(shown.subject),
        issuer: nameOf(shown.issuer),
        fingerprint256: shown.fingerprint256,
        validTo: Option.match(DateTime.make(shown.valid_to), { onNone: () => NaN, onSome: DateTime.toEpochMillis }),
        altNames: shown.subjectaltname?.match(ALT_NAME) ?? []
      }

// Copied to plain objects: Node's have no prototype.
const nameOf = (name: PeerCertificate["subject"]): DistinguishedName => ({ ...name }) as DistinguishedName

// Names stand between commas; one that has a comma itself is in quotes, as in JSON.
const ALT_NAME = /[^", ](?:[^",]|"(?:[^"\\]|\\.)*")*/g
