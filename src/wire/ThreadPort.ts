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
      this.port.postMessage(messages)
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

  // The structured clone doesn't say, and what threads share is the memory of one process.
  sizeOf(): number {
    return 0
  }

  isFull(): boolean {
    return false
  }

  whenRoom(resume: () => void): void {
    resume()
  }

  carry(): void {}
}
