/**
 * An HTTP client that blocks, as a library does that is written for scripts.
 *
 * Node has none, so those that there are do what this one does: a thread fetches, and the caller's thread stands still until the
 * answer is there.
 */
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads"

const fetcher = `
const { workerData: { bell, port } } = require("node:worker_threads")
port.on("message", async (url) => {
  port.postMessage(await (await fetch(url)).text())
  Atomics.store(bell, 0, 1)
  Atomics.notify(bell, 0)
})`

const bell = new Int32Array(new SharedArrayBuffer(4))
let line: MessagePort | undefined

const connect = () => {
  const { port1, port2 } = new MessageChannel()
  port1.unref()
  new Worker(fetcher, { eval: true, workerData: { bell, port: port2 }, transferList: [port2] }).unref()
  return port1
}

/** The text at a URL. Nothing else runs on this thread before it is there. */
export const getSync = (url: string): string => {
  line ??= connect()
  Atomics.store(bell, 0, 0)
  line.postMessage(url)
  Atomics.wait(bell, 0, 0)
  return receiveMessageOnPort(line)!.message
}
