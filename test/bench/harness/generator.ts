/**
 * The load of a race, a process of its own: connections that are kept alive, of which each sends its next request when it has its answer,
 * or all of them when all have theirs.
 *
 * It speaks HTTP/1.1 on the socket, and reads into one buffer, because Node's client would need more CPU than the servers do. And it
 * never sleeps, unless the servers are to have its core too: who sends something to a process that sleeps has to wake it, and on a virtual
 * machine that took a server as much as a third of its CPU time, the more the slower it was. Each answer is checked: its status, its type, its length, and every byte of the
 * body. It ends with an error when one is wrong.
 */
import { connect, type Socket } from "node:net"

/** What a server is asked, and what it has to answer: each connection sends the request of its own, over and over. */
export interface Load {
  readonly port: number
  readonly path: string
  readonly exchanges: ReadonlyArray<{ readonly request: string; readonly answer: string }>
  /** How the type of the answers begins; empty where they have none. */
  readonly contentType: string
  /** What one answer counts for. */
  readonly units: number
  /** Bytes of the body after which an answer has begun, for the latency. */
  readonly head: number
  /** Whether all connections wait for each other before they send the next requests. */
  readonly inVolleys?: boolean
  /** Whether this process sleeps when nothing comes. */
  readonly sleeps?: boolean
}

/** What came since the last time that this was asked. */
export interface Count {
  readonly units: number
  /** Milliseconds until answers had begun. */
  readonly latency: { readonly p50: number; readonly p90: number; readonly p95: number; readonly p99: number }
  /** The share of the time in which this process had something to do. */
  readonly busy: number
  readonly millis: number
}

let units = 0
let latencies: Array<number> = []
let since = performance.now()

/** Milliseconds of the turns of the loop in which nothing came. */
let idle = 0
let lastTurn = performance.now()
let hasRead = false
let isSleeping = false

const turn = () => {
  const now = performance.now()
  if (!hasRead) idle += now - lastTurn
  hasRead = false
  lastTurn = now
  if (connections.length > 0 && !isSleeping) setImmediate(turn)
}

const count = (): Count => {
  const now = performance.now()
  const millis = now - since
  const sorted = Float64Array.from(latencies).toSorted()
  const at = (share: number) => sorted[Math.floor(share * sorted.length)] ?? NaN
  const latency = { p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99) }
  const count = { units, latency, busy: isSleeping ? 0 : 1 - idle / millis, millis }
  units = 0
  latencies = []
  idle = 0
  since = performance.now()
  return count
}

const fail = (why: string): never => {
  process.stderr.write(`The load generator got a wrong answer: ${why}\n`)
  process.exit(1)
}

const CR = 13
const LF = 10
const shared = Buffer.alloc(64 * 1024)

class Connection {
  private readonly load: Load
  private readonly request: Buffer
  private readonly answer: Buffer
  private readonly socket: Socket
  private sentAt = 0
  /** Bytes of the body that have come. */
  private received = 0
  private state: "head" | "body" | "size" | "chunk" | "afterChunk" | "end" = "head"
  /** Bytes that the chunk still has, or the digits of its size that were read. */
  private left = 0
  private head = ""

  constructor(load: Load, { answer, request }: Load["exchanges"][number]) {
    this.load = load
    this.answer = Buffer.from(answer)
    this.request = Buffer.from(
      `POST ${load.path} HTTP/1.1\r\nhost: 127.0.0.1:${load.port}\r\ncontent-type: application/json\r\n` +
        `content-length: ${Buffer.byteLength(request)}\r\n\r\n${request}`
    )
    const callback = (size: number, bytes: Uint8Array) => {
      this.read(bytes as Buffer, size)
      return true
    }
    this.socket = connect({ host: "127.0.0.1", port: load.port, noDelay: true, onread: { buffer: shared, callback } })
    this.socket.on("error", ({ message }) => fail(message))
    this.socket.on("end", () => fail("the connection was closed"))
    this.socket.once("connect", () => this.send())
  }

  destroy(): void {
    this.socket.destroy()
  }

  private send(): void {
    this.state = "head"
    this.received = 0
    this.sentAt = performance.now()
    this.socket.write(this.request)
  }

  private read(bytes: Buffer, size: number): void {
    hasRead = true
    let at = 0
    while (at < size) {
      if (this.state === "head") at = this.readHead(bytes, at, size)
      else if (this.state === "body") at = this.readBody(bytes, at, size)
      else if (this.state === "chunk") at = this.readChunk(bytes, at, size)
      else at = this.readBetween(bytes, at)
    }
  }

  private readHead(bytes: Buffer, at: number, size: number): number {
    const before = this.head.length
    this.head += bytes.toString("latin1", at, Math.min(size, at + 4096))
    const end = this.head.indexOf("\r\n\r\n")
    if (end === -1) return this.head.length < 4096 ? size : fail("its head has no end")
    const head = this.head.slice(0, end).toLowerCase()
    this.head = ""
    const { contentType } = this.load
    const isExpected =
      head.startsWith("http/1.1 200 ") && (contentType === "" || head.includes(`\r\ncontent-type: ${contentType}`))
    if (!isExpected) fail(bytes.toString("utf8", at, size))
    if (head.includes(`\r\ncontent-length: ${this.answer.length}`)) this.state = "body"
    else if (head.includes("\r\ntransfer-encoding: chunked")) this.state = "size"
    else fail(head)
    return at + end + 4 - before
  }

  private readBody(bytes: Buffer, at: number, size: number): number {
    const end = Math.min(size, at + this.answer.length - this.received)
    this.take(bytes, at, end)
    if (this.received === this.answer.length) this.finish(end < size)
    return end
  }

  private readChunk(bytes: Buffer, at: number, size: number): number {
    const end = Math.min(size, at + this.left)
    this.take(bytes, at, end)
    this.left -= end - at
    if (this.left === 0) this.state = "afterChunk"
    return end
  }

  private take(bytes: Buffer, start: number, end: number): void {
    const before = this.received
    const after = before + end - start
    if (after > this.answer.length || this.answer.compare(bytes, start, end, before, after) !== 0) {
      fail(`${bytes.toString("utf8", start, end)} instead of ${this.answer.toString("utf8", before, after)}`)
    }
    if (before < this.load.head && after >= this.load.head) latencies.push(performance.now() - this.sentAt)
    this.received = after
    units += ((after - before) / this.answer.length) * this.load.units
  }

  /** Reads one byte of what is around chunks: their sizes, the ends of lines, and the end of the last one. */
  private readBetween(bytes: Buffer, at: number): number {
    const byte = bytes[at]!
    if (byte === CR) return at + 1
    if (byte !== LF) {
      const digit = this.state === "size" ? hexOf(byte) : -1
      if (digit === -1) fail(`byte ${byte} where a chunk begins or ends`)
      this.left = this.left * 16 + digit
    } else if (this.state === "afterChunk") this.state = "size"
    else if (this.state === "end") this.finish(false)
    else this.state = this.left === 0 ? "end" : "chunk"
    return at + 1
  }

  private finish(isMore: boolean): void {
    if (isMore) fail("more than its length says")
    if (this.received !== this.answer.length) fail(`${this.received} bytes instead of ${this.answer.length}`)
    if (this.load.inVolleys !== true) return this.send()
    if (--inFlight > 0) return
    inFlight = connections.length
    for (const connection of connections) connection.send()
  }
}

const hexOf = (byte: number) =>
  byte >= 48 && byte <= 57
    ? byte - 48
    : byte >= 97 && byte <= 102
      ? byte - 87
      : byte >= 65 && byte <= 70
        ? byte - 55
        : -1

let connections: ReadonlyArray<Connection> = []
/** Requests of a volley that are not answered. */
let inFlight = 0

process.on("message", (message: Load | "count" | "stop") => {
  if (message === "count") return process.send!(count())
  for (const connection of connections) connection.destroy()
  connections = message === "stop" ? [] : message.exchanges.map((exchange) => new Connection(message, exchange))
  inFlight = connections.length
  isSleeping = message !== "stop" && message.sleeps === true
  if (connections.length > 0 && !isSleeping) setImmediate(turn)
  process.send!("ok")
})
process.on("disconnect", () => process.exit())
