/** Requests that nobody in their right mind would send, from a seed. */

/** Numbers that look random, and are the same for the same seed (mulberry32). */
export class Dice {
  private state: number

  constructor(seed: number) {
    this.state = seed >>> 0
  }

  /** At least 0, less than 1. */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0
    let t = this.state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }

  /** Less than `n`. */
  int(n: number): number {
    return Math.floor(this.next() * n)
  }

  /** True once in `n`. */
  once(n: number): boolean {
    return this.int(n) === 0
  }

  pick<A>(all: ReadonlyArray<A>): A {
    return all[this.int(all.length)]!
  }

  /** What one of the makers makes. */
  one<A>(makers: ReadonlyArray<() => A>): A {
    return this.pick(makers)()
  }

  text(most: number, alphabet: string): string {
    return Array.from({ length: this.int(most + 1) }, () => alphabet[this.int(alphabet.length)]).join("")
  }

  bytes(most: number): Buffer {
    return Buffer.from(Array.from({ length: this.int(most + 1) }, () => this.int(256)))
  }
}

export interface FuzzedRequest {
  readonly verb: string
  readonly path: string
  readonly bytes: Buffer
  /** Whether it is cut off, by closing the connection or by waiting. */
  readonly cut: "no" | "closed" | "waits"
}

const PRINTABLE = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i)).join("")
const WORD = "abcdefghijklmnopqrstuvwxyz-_.~0123456789"
const LATIN = PRINTABLE + "äöüßé\u00ff\u0080\u00a0"

const methods = [
  "echo",
  "strict",
  "tree",
  "record",
  "text",
  "bytes",
  "upload",
  "form",
  "tokens",
  "fail",
  "none"
] as const

const NAMES = ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "valueOf", "", "a", "how", "n"]
const NUMBERS = [
  "0",
  "-0",
  "1e400",
  "-1e400",
  "1e-400",
  "12345678901234567890",
  "-99999999999999999999",
  "9007199254740993",
  "0.1",
  "1E5",
  "1.7976931348623157e308"
]

const json = (dice: Dice, depth: number): string =>
  dice.one([
    () => dice.pick(NUMBERS),
    () => dice.pick(["null", "true", "false", '""', '"\\u0000"', '"\\ud800"', "{}", "[]"]),
    () => JSON.stringify(dice.text(20, LATIN)),
    () => (depth === 0 ? "1" : `[${list(dice, () => json(dice, depth - 1))}]`),
    () => (depth === 0 ? "{}" : `{${list(dice, () => `${JSON.stringify(dice.pick(NAMES))}:${json(dice, depth - 1)}`)}}`)
  ])

const list = (dice: Dice, make: () => string) => Array.from({ length: dice.int(4) }, make).join(",")

const POLLUTING = [
  '{"__proto__":{"polluted":true}}',
  '{"constructor":{"prototype":{"polluted":true}}}',
  '{"a":1,"__proto__":{"a":2,"polluted":true},"n":1}',
  '[{"__proto__":{"polluted":true}}]',
  '{"value":1,"children":[{"value":2,"children":[],"__proto__":{"polluted":true}}],"__proto__":{"polluted":true}}'
]

const VALID: Record<string, string> = {
  strict: '{"a":1,"n":2,"at":"2020-01-01T00:00:00.000Z","kind":"x","big":"123"}',
  tree: '{"value":1,"children":[{"value":2,"children":[]}]}',
  record: '{"x":1,"y":2}',
  tokens: '{"n":3}',
  none: ""
}

const deep = (dice: Dice): string => {
  const depth = dice.pick([50, 1000, 5000, 100_000])
  const [open, middle, close] = dice.pick([
    ["[", "", "]"],
    ['{"a":', "1", "}"],
    ['{"__proto__":', "1", "}"],
    ['{"value":1,"children":[', "", "]}"]
  ] as const)
  const length = Math.min(depth, Math.floor(290_000 / (open.length + close.length)))
  return open.repeat(length) + middle + (dice.once(3) ? "" : close.repeat(length))
}

/** Changes some characters. */
const mutate = (dice: Dice, text: string): string => {
  let changed = text
  for (let i = dice.int(3); i >= 0; i--) {
    const at = dice.int(changed.length + 1)
    const put = dice.pick(["", "", dice.pick(LATIN.split("")), '"', "{", "]", ",", "\u0000", "\ufeff", "e999", "\\"])
    changed = changed.slice(0, at) + put + changed.slice(at + dice.int(2))
  }
  return changed
}

const jsonBody = (dice: Dice, method: string): Buffer => {
  const valid = method === "fail" ? `{"how":"${dice.pick(["teapot", "declared"])}"}` : (VALID[method] ?? '{"a":1}')
  if (dice.once(120)) return Buffer.from(deep(dice))
  if (dice.once(100)) return Buffer.alloc(dice.pick([300_001, 400_000]), " ")
  return dice.one([
    () => Buffer.from(valid),
    () => Buffer.from(valid),
    () => Buffer.from(mutate(dice, valid)),
    () => Buffer.from(json(dice, 4)),
    () => Buffer.from(dice.pick(POLLUTING)),
    () => dice.bytes(200),
    () => Buffer.concat([Buffer.from('{"a":"'), dice.bytes(20), Buffer.from('"}')]),
    () => Buffer.from(dice.pick(["", " ", "null", "\ufeff{}", "undefined", "NaN", "{a:1}", "[1,]", "'a'", "\u0000"]))
  ])
}

const multipart = (dice: Dice): { readonly body: Buffer; readonly contentType: string } => {
  const boundary = dice.pick(["x", "----WebKitFormBoundaryABC", dice.text(70, WORD) || "y"])
  const parts = Array.from({ length: dice.int(4) }, () => {
    const disposition = dice.pick([
      'form-data; name="a"',
      'form-data; name="file"; filename="a.txt"',
      'form-data; name="__proto__"',
      'form-data; name="a"; filename="../../etc/passwd"',
      "form-data; name*=utf-8''%e2%82",
      `form-data; name="${dice.text(300, PRINTABLE)}"`,
      "attachment",
      ""
    ])
    const type = dice.pick(["", "content-type: text/plain\r\n", "content-type: ;;;\r\n", `${dice.text(40, LATIN)}\r\n`])
    const head = dice.once(5) ? "" : `content-disposition: ${disposition}\r\n${type}`
    return Buffer.concat([Buffer.from(`--${boundary}\r\n${head}\r\n`), dice.bytes(100), Buffer.from("\r\n")])
  })
  const end = dice.once(4) ? "" : `--${boundary}--${dice.pick(["\r\n", "", "x"])}`
  const whole = Buffer.concat([...parts, Buffer.from(end)])
  const body = dice.once(3) ? Buffer.concat([whole.subarray(0, dice.int(whole.length + 1)), dice.bytes(10)]) : whole
  const contentType = dice.pick([
    `multipart/form-data; boundary=${boundary}`,
    `multipart/form-data; boundary=${boundary}`,
    `multipart/form-data; boundary="${boundary}"`,
    "multipart/form-data",
    "multipart/form-data; boundary=",
    `multipart/form-data; boundary=${"z".repeat(100)}`,
    `multipart/form-data; boundary="${dice.text(20, LATIN)}`
  ])
  return { body, contentType }
}

const pathOf = (dice: Dice, method: string): string => {
  const plain = `/lab/${method}`
  if (!dice.once(5)) return plain
  return dice.one([
    () => `/lab/${dice.text(30, WORD)}`,
    () => `/${dice.text(60, `${WORD}/%?&=:@!$'()*+,;[]|\\^\`{}<>"`)}`,
    () => `/lab/%00${method}`,
    () => `/lab/../lab/${method}`,
    () => `/lab/%2e%2e/${method}`,
    () => `//lab/${method}`,
    () => `/lab/${method}/`,
    () => `/lab/${method}%`,
    () => `/lab/%e2%82`,
    () => `/lab/${"x".repeat(dice.pick([1000, 9000, 20_000]))}`,
    () => `/LAB/${method}`,
    () => `http://evil.example${plain}`,
    () => "*",
    () => dice.pick(["/-/healthz", "/-/routes", "/-/", "/-/openapi.json", "/-/nope", "/"]),
    () => `/__proto__/${dice.pick(NAMES)}`,
    () => `/lab/${dice.pick(NAMES)}`
  ])
}

const queryOf = (dice: Dice, method: string): string =>
  dice.one([
    () => "",
    () => `?payload=${encodeURIComponent(jsonBody(dice, method).toString().slice(0, 2000))}`,
    () => `?payload=${dice.text(40, `${WORD}%&=+{}"`)}`,
    () => `?${dice.text(40, `${WORD}%&=+?`)}`,
    () => "?payload=%ff%fe",
    () => "?payload=1&payload=2"
  ])

const HEADERS: ReadonlyArray<readonly [string, (dice: Dice) => string]> = [
  ["x-request-id", (dice) => dice.pick(["abc", dice.text(200, LATIN), "x".repeat(5000), "a\u0000b", "", "a b"])],
  [
    "x-request-timeout-ms",
    (dice) =>
      dice.pick([
        "5000",
        "1e400",
        "-5",
        "NaN",
        "",
        "0x10",
        "1e3",
        "Infinity",
        "5 ",
        "soon",
        "0",
        "99999999999999999999"
      ])
  ],
  ["x-request-timeout-seconds", (dice) => dice.pick(["5", "-1", "1e999", "", "1_000", "٣"])],
  [
    "x-request-priority",
    (dice) => dice.pick(["critical", "default", "sheddable", "CRITICAL", "", dice.text(30, LATIN)])
  ],
  ["x-request-tenant", (dice) => dice.pick(["acme", dice.text(300, LATIN), "t".repeat(9000), "__proto__", ""])],
  ["last-event-id", (dice) => dice.pick(["1", dice.text(300, LATIN)])],
  ["x-request-disconnect-disabled", (dice) => dice.pick(["?1", "?0", "1", dice.text(5, LATIN)])],
  [
    "traceparent",
    (dice) => dice.pick(["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", dice.text(60, LATIN)])
  ],
  ["b3", (dice) => dice.text(60, LATIN)],
  [
    "accept",
    (dice) =>
      dice.pick(["*/*", "text/event-stream", "application/x-ndjson", "text/html", ";q=2,,", dice.text(80, LATIN)])
  ],
  ["accept-encoding", (dice) => dice.pick(["gzip", "br", "*", "identity;q=0", "gzip;q=9", dice.text(80, LATIN)])],
  ["origin", (dice) => dice.pick(["https://app.example.com", "null", dice.text(80, LATIN)])],
  ["access-control-request-method", (dice) => dice.text(20, WORD)],
  ["access-control-request-headers", (dice) => dice.text(80, LATIN)],
  ["content-encoding", (dice) => dice.pick(["gzip", "br", dice.text(10, LATIN)])],
  ["cookie", (dice) => dice.text(100, LATIN)],
  ["expect", (dice) => dice.pick(["100-continue", "200-ok"])],
  ["upgrade", (dice) => dice.pick(["websocket", "h2c", dice.text(10, WORD)])],
  ["connection", (dice) => dice.pick(["keep-alive", "upgrade", "close", "keep-alive, upgrade"])],
  ["__proto__", (dice) => dice.text(20, LATIN)],
  ["constructor", (dice) => dice.text(20, LATIN)],
  ["x-giant", (dice) => "g".repeat(dice.pick([4000, 15_000, 40_000]))],
  ["x-control", (dice) => `a${dice.pick(["\u0000", "\u0001", "\u0007", "\u007f", "\n", "\r"])}b`]
]

const TYPES = ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "text/plain", ""]

const VERBS = [
  "GET",
  "HEAD",
  "PUT",
  "DELETE",
  "PATCH",
  "OPTIONS",
  "TRACE",
  "PROPFIND",
  "M-SEARCH",
  "CONNECT",
  "NOPE",
  "get"
]

/** Makes one request. */
export const fuzzed = (dice: Dice): FuzzedRequest => {
  const method = dice.pick(methods)
  const verb = dice.once(5) ? dice.pick(VERBS) : "POST"
  const path = pathOf(dice, method) + (dice.once(4) || verb === "GET" ? queryOf(dice, method) : "")
  const form = method === "form" && !dice.once(4) ? multipart(dice) : undefined
  const body =
    form?.body ??
    (method === "text" || method === "bytes" || method === "upload" ? dice.bytes(1000) : jsonBody(dice, method))
  const usual = method === "text" ? "text/plain" : method === "bytes" || method === "upload" ? "" : "application/json"
  const contentType =
    form?.contentType ?? (dice.once(10) ? dice.one([() => dice.pick(TYPES), () => dice.text(60, LATIN)]) : usual)
  const headers: Array<readonly [string, string]> = [["host", "x"]]
  if (!dice.once(30)) headers.push(["authorization", "Bearer t0"])
  if (contentType !== "") headers.push(["content-type", contentType])
  for (let i = dice.pick([0, 0, 1, 2, 4]); i > 0; i--) {
    const [name, make] = dice.pick(HEADERS)
    headers.push([name, make(dice)])
  }
  if (dice.once(50)) headers.push([dice.text(20, LATIN), dice.text(50, LATIN)])
  const isBare = (verb === "GET" || verb === "HEAD") && !dice.once(10)
  const isChunked = !isBare && dice.once(8)
  if (isChunked) headers.push(["transfer-encoding", "chunked"])
  else if (!isBare) headers.push(["content-length", String(body.length)])
  if (dice.once(200)) headers.push(["content-length", dice.pick(["-1", "1e3", "99999999999999999999", "5, 6", " "])])
  const line = `${verb} ${path} HTTP/1.${dice.once(50) ? dice.int(3) : 1}\r\n`
  const head = Buffer.from(`${line}${headers.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`, "latin1")
  const sent = isBare ? head : Buffer.concat([head, ...(isChunked ? chunked(dice, body) : [body])])
  if (!dice.once(25)) return { verb, path, bytes: sent, cut: "no" }
  const length = dice.int(sent.length)
  // Headers that never end are another test's, as they take long.
  return {
    verb,
    path,
    bytes: sent.subarray(0, length),
    cut: length > head.length && dice.once(10) ? "waits" : "closed"
  }
}

const chunked = (dice: Dice, body: Buffer): ReadonlyArray<Buffer> => {
  const pieces: Array<Buffer> = []
  for (let at = 0; at < body.length;) {
    const piece = body.subarray(at, (at += 1 + dice.int(body.length)))
    const size = dice.once(100) ? dice.pick(["", "-1", "zz", "ffffffffffffffff"]) : piece.length.toString(16)
    pieces.push(Buffer.from(`${size}${dice.once(20) ? ";x=y" : ""}\r\n`), piece, Buffer.from("\r\n"))
  }
  return [...pieces, Buffer.from("0\r\n\r\n")]
}
