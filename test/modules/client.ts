/** A client of an ingress that has a thread of its own, for when this one is blocked. */
import { HttpIngress } from "effect-serve"
import { Effect } from "effect"
import { Worker } from "node:worker_threads"

/** Requests, with the millisecond at which each is sent. */
type Plan = ReadonlyArray<{
  readonly at: number
  readonly path: string
  readonly body?: object
  readonly timeout?: number
}>

export interface Answer {
  readonly status: number
  readonly body: string
  readonly retryAfter: string | null
  readonly millis: number
}

const client = `
const { parentPort, workerData: { url, plan } } = require("node:worker_threads")
const send = async ({ at, path, body, timeout }) => {
  await new Promise((resolve) => setTimeout(resolve, at))
  const from = performance.now()
  const headers = { "content-type": "application/json", ...(timeout && { "x-request-timeout-ms": String(timeout) }) }
  const init = path.startsWith("/-/") ? {} : { method: "POST", headers, body: JSON.stringify(body) ?? "" }
  const response = await fetch(url + path, init)
  const text = await response.text()
  const millis = performance.now() - from
  return { status: response.status, body: text, retryAfter: response.headers.get("retry-after"), millis }
}
fetch(url + "/-/healthz").then((response) => response.text()).then(() => Promise.all(plan.map(send))).then((answers) =>
  parentPort.postMessage(answers))
`

/** Sends the requests, and gives the answers in their order. */
export const play = (plan: Plan) =>
  Effect.flatMap(HttpIngress.Address, ({ url }) =>
    Effect.callback<ReadonlyArray<Answer>>((resume) => {
      new Worker(client, { eval: true, workerData: { url, plan } }).once("message", (answers) =>
        resume(Effect.succeed(answers))
      )
    })
  )
