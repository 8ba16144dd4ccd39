/**
 * A `MessagePort` as what carries a link to another thread.
 *
 * @since 0.1.0
 */
import { type MessagePort, receiveMessageOnPort } from "node:worker_threads"
import type { Message, Port } from "./Port.ts"

/**
 * Memory that both sides share: the id of the last call that each has begun. Calls arrive in order, so all before it have begun too.
 *
 * @category models
 * @since 0.1.0
 */
export interface Begun {
  readonly here: Int32Array
  readonly there: Int32Array
}

export class ThreadPort implements Port {
  readonly window = 16
  readonly largest = Infinity
  private readonly port: MessagePort
  private readonly begun: Begun
  private receive: (messages: ReadonlyArray<Message>) => void = () => {}

  constructor(port: MessagePort, begun: Begun) {
    this.port = port
    this.begun = begun
  }

  listen(receive: (messages: ReadonlyArray<Message>) => void, onClose: () => void): void {
    this.receive = receive
    this.port.on("message", receive)
    this.port.on("close", onClose)
  }

  post(messages: ReadonlyArray<Message>): void {
    try {
      this.port.postMessage(messages.map(owned))
    } catch (error) {
      throw new Error(`A value can't be sent to another thread: ${String(error)}`, { cause: error })
    }
  }

  /** Takes what has arrived at once, and not when this loop comes to it. */
  drain(): void {
    for (let next = receiveMessageOnPort(this.port); next !== undefined; next = receiveMessageOnPort(this.port)) {
      this.receive(next.message)
    }
  }

  begin(id: number): void {
    Atomics.store(this.begun.here, 0, id)
  }

  hasBegun(id: number): boolean {
    return ((Atomics.load(this.begun.there, 0) - id) | 0) >= 0
  }

  /** That of bytes and texts, and of arrays of them; the structured clone doesn't say what others have. */
  sizeOf(sent: unknown): number {
    if (!Array.isArray(sent)) return ofOne(sent)
    let size = 0
    for (const value of sent) size += ofOne(value)
    return size
  }

  isFull(): boolean {
    return false
  }

  whenRoom(resume: () => void): void {
    resume()
  }

  carry(): void {}
}

const ofOne = (value: unknown): number =>
  typeof value === "string" ? value.length : value instanceof Uint8Array ? value.byteLength : 0

/** The same message, of which no bytes are part of something larger: all of that would be copied. */
const owned = (message: Message): Message => {
  switch (message[0]) {
    case "call": {
      const [kind, id, target, payload, crossing] = message
      return [kind, id, target, alone(payload), crossing]
    }
    case "exit": {
      const [kind, id, [how, value]] = message
      return [kind, id, [how, alone(value)]]
    }
    case "elements":
    case "element":
      return [message[0], message[1], alone(message[2])]
    default:
      return message
  }
}

const alone = (value: unknown): unknown => (Array.isArray(value) ? value.map(oneAlone) : oneAlone(value))

const oneAlone = (value: unknown): unknown =>
  value instanceof Uint8Array && value.byteLength < value.buffer.byteLength
    ? Uint8Array.prototype.slice.call(value)
    : value
