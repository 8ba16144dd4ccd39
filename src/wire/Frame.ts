/**
 * The messages of a link as bytes: what a WebSocket carries to another process.
 *
 * A frame is one message after another. Each begins with its kind (1 byte) and the id of its call (4 bytes); numbers are little-endian,
 * texts and values have their length before them (4 bytes). Deadlines travel as the time that is left, because clocks of machines
 * differ. What arrives may come from anybody, so a reader throws at the first byte that is not as it should be.
 *
 * @since 0.1.0
 */
import { Clock, Context } from "effect"
import type { Principal, Priority } from "../core/RequestContext.ts"
import type { Crossing } from "./Crossing.ts"
import type { Message } from "./Port.ts"
import { Misfit, type SentExit } from "./MethodCodec.ts"

const kinds = ["call", "exit", "cancel", "elements", "credit", "note", "element"] as const
const endings: ReadonlyArray<SentExit[0]> = ["success", "error", "serveError", "refusal", "defect", "interrupted"]
const priorities: ReadonlyArray<Priority> = ["critical", "default", "sheddable"]
const optional = ["tenant", "modelId", "sessionId", "route", "lastEventId"] as const

/** Bytes that a frame has at most before another one is begun; a message that is larger has one to itself. */
export const FRAME = 64 * 1024
/** Bytes that the messages of {@link FRAME} may have beyond the largest payload, for what goes along with it. */
export const HEAD = 128 * 1024
/** Bytes of a text that is not a value. */
const TEXT = 8 * 1024
const NOTHING = new Uint8Array(0)

const wall = Context.get(Context.empty(), Clock.Clock)

export class FrameWriter {
  size = 0
  private buffer = Buffer.allocUnsafeSlow(FRAME)

  write(message: Message): void {
    const [kind, id] = message
    this.uint8(kinds.indexOf(kind))
    this.uint32(typeof id === "number" ? id : 0)
    switch (message[0]) {
      case "call":
        this.text(message[2])
        this.bytes(message[3] as Uint8Array)
        return this.crossing(message[4])
      case "exit":
        this.uint8(endings.indexOf(message[2][0]))
        return this.bytes((message[2][1] ?? NOTHING) as Uint8Array)
      case "elements":
      case "element":
        return this.bytes(message[2] as Uint8Array)
      case "credit":
        this.uint32(message[2])
        return this.uint32(message[3])
      case "note":
        this.text(message[1])
        return this.bytes(Buffer.from(JSON.stringify(message[2] ?? null)))
    }
  }

  /** Takes back what was written after it had that size. */
  truncate(size: number): void {
    this.size = size
  }

  /** What has been written since the last time. */
  take(): Uint8Array {
    const frame = this.buffer.subarray(0, this.size)
    this.size = 0
    if (frame.length <= this.buffer.length / 4) return Buffer.from(frame)
    this.buffer = Buffer.allocUnsafeSlow(FRAME)
    return frame
  }

  private crossing(crossing: Crossing): void {
    const { deadline, principal, priority, requestId, span } = crossing
    this.text(requestId)
    this.float64(deadline === Infinity ? Infinity : deadline - wall.currentTimeMillisUnsafe())
    let present = 0
    optional.forEach((name, i) => {
      if (crossing[name] !== undefined) present |= 1 << i
    })
    if (principal !== undefined) present |= 32
    if (span !== undefined) present |= 64
    this.uint8(priorities.indexOf(priority))
    this.uint8(present)
    for (const name of optional) if (crossing[name] !== undefined) this.text(crossing[name])
    if (principal !== undefined) this.text(JSON.stringify(principal))
    if (span !== undefined) {
      this.text(span.traceId)
      this.text(span.spanId)
      this.uint8(span.sampled ? 1 : 0)
    }
  }

  private uint8(value: number): void {
    this.ensure(1)
    this.buffer[this.size++] = value
  }

  private uint32(value: number): void {
    this.ensure(4)
    this.size = this.buffer.writeUInt32LE(value >>> 0, this.size)
  }

  private float64(value: number): void {
    this.ensure(8)
    this.size = this.buffer.writeDoubleLE(value, this.size)
  }

  private text(value: string): void {
    this.ensure(4 + 3 * value.length)
    const length = this.buffer.write(value, this.size + 4)
    if (length > TEXT) throw new Misfit(`A text that goes along with a call has ${length} bytes, and may have ${TEXT}`)
    this.buffer.writeUInt32LE(length, this.size)
    this.size += 4 + length
  }

  private bytes(value: Uint8Array): void {
    this.uint32(value.byteLength)
    this.ensure(value.byteLength)
    this.buffer.set(value, this.size)
    this.size += value.byteLength
  }

  private ensure(more: number): void {
    const needed = this.size + more
    if (needed <= this.buffer.length) return
    const larger = Buffer.allocUnsafeSlow(Math.max(2 * this.buffer.length, needed))
    larger.set(this.buffer.subarray(0, this.size))
    this.buffer = larger
  }
}

/** Reads the messages of a frame. Throws when it is not one. */
export const read = (frame: Uint8Array): ReadonlyArray<Message> => {
  const reader = new FrameReader(frame)
  const messages: Array<Message> = []
  while (!reader.isAtEnd) messages.push(reader.message())
  return messages
}

class FrameReader {
  private readonly buffer: Buffer
  private at = 0

  constructor({ buffer, byteLength, byteOffset }: Uint8Array) {
    this.buffer = Buffer.from(buffer, byteOffset, byteLength)
  }

  get isAtEnd(): boolean {
    return this.at === this.buffer.length
  }

  message(): Message {
    const kind = this.oneOf(kinds)
    const id = this.uint32() | 0
    switch (kind) {
      case "call":
        return [kind, id, this.text(), this.bytes(), this.crossing()]
      case "exit":
        return [kind, id, [this.oneOf(endings), this.bytes()]]
      case "cancel":
        return [kind, id]
      case "elements":
      case "element":
        return [kind, id, this.bytes()]
      case "credit":
        return [kind, id, this.uint32(), this.uint32()]
      case "note":
        return [kind, this.text(), JSON.parse(this.buffer.toString("utf8", ...this.span()))]
    }
  }

  private crossing(): Crossing {
    const requestId = this.text()
    const timeout = this.float64()
    if (Number.isNaN(timeout)) throw new Error("A frame has no time")
    const priority = this.oneOf(priorities)
    const present = this.uint8()
    const [tenant, modelId, sessionId, route, lastEventId] = optional.map((_, i) =>
      (present & (1 << i)) === 0 ? undefined : this.text()
    )
    const principal = (present & 32) === 0 ? undefined : principalOf(JSON.parse(this.text()))
    const span =
      (present & 64) === 0 ? undefined : { traceId: this.text(), spanId: this.text(), sampled: this.uint8() === 1 }
    const deadline = timeout === Infinity ? Infinity : wall.currentTimeMillisUnsafe() + timeout
    return { requestId, deadline, priority, tenant, modelId, sessionId, route, lastEventId, principal, span }
  }

  private oneOf<A>(values: ReadonlyArray<A>): A {
    const value = values[this.uint8()]
    if (value === undefined) throw new Error("A frame has an unknown byte")
    return value
  }

  private uint8(): number {
    return this.buffer.readUInt8(this.move(1))
  }

  private uint32(): number {
    return this.buffer.readUInt32LE(this.move(4))
  }

  private float64(): number {
    return this.buffer.readDoubleLE(this.move(8))
  }

  private text(): string {
    const length = this.uint32()
    if (length > TEXT) throw new Error("A frame has a text that is too long")
    const from = this.move(length)
    return this.buffer.toString("utf8", from, this.at)
  }

  private bytes(): Uint8Array {
    return this.buffer.subarray(...this.span())
  }

  /** From where to where the next value is. */
  private span(): [from: number, to: number] {
    const from = this.move(this.uint32())
    return [from, this.at]
  }

  private move(by: number): number {
    const from = this.at
    if (by > this.buffer.length - from) throw new Error("A frame ends too early")
    this.at = from + by
    return from
  }
}

const isText = (value: unknown): value is string => typeof value === "string"

const principalOf = (value: unknown): Principal => {
  const { claims, id, tenant } = Object(value) as Partial<Record<keyof Principal, unknown>>
  if (!isText(id) || (tenant !== undefined && !isText(tenant)) || (claims !== undefined && Object(claims) !== claims)) {
    throw new Error("A frame has no principal where it says so")
  }
  return value as Principal
}
