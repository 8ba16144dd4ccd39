/**
 * An open loop: each request is sent when it is due, whatever became of the ones before it, and its latency counts from when it was due
 * and not from when it was sent. So a server that is slow to accept can't hide it (no coordinated omission).
 */
import { Effect, Fiber } from "effect"
import { Agent, request } from "node:http"

export interface Call {
  /** Milliseconds after the start at which it is due. */
  readonly at: number
  readonly path: string
  readonly body: string
  readonly headers?: Record<string, string | number>
  /** Milliseconds after which the client hangs up. */
  readonly patience?: number
}

export interface Answer<C> {
  readonly call: C
  /** 0 where there was none. */
  readonly status: number
  readonly retryAfter: string | undefined
  readonly body: string
  /** Milliseconds since it was due. */
  readonly latency: number
}

/** Milliseconds after which an answer counts for none. */
const LONGEST = 30_000

const agent = Effect.acquireRelease(
  Effect.sync(() => new Agent({ keepAlive: true, maxSockets: Infinity })),
  (agent) => Effect.sync(() => agent.destroy())
)

const send = <C extends Call>(port: number, agent: Agent, call: C, due: number) =>
  Effect.callback<Answer<C>>((resume) => {
    const answer = (status: number, retryAfter?: string, body = "") => {
      clearTimeout(hangUp)
      resume(Effect.sync(() => ({ call, status, retryAfter, body, latency: performance.now() - due })))
    }
    const { body, path } = call
    const headers = {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(body),
      ...call.headers
    }
    const options = { host: "127.0.0.1", port, path, agent, method: "POST", headers }
    const sent = request(options, (response) => {
      let body = ""
      response.setEncoding("utf8").on("data", (chunk) => (body += chunk))
      response.on("error", () => answer(0))
      response.on("end", () => answer(response.statusCode!, response.headers["retry-after"], body))
    })
    sent.on("error", () => answer(0)).end(body)
    const hangUp = setTimeout(() => sent.destroy(new Error("No answer")), call.patience ?? LONGEST)
  })

/** Sends all calls when they are due, and waits for the answers. */
export const openLoop = Effect.fnUntraced(function* <C extends Call>(port: number, calls: Iterable<C>) {
  const connections = yield* agent
  const answers: Array<Fiber.Fiber<Answer<C>>> = []
  const start = performance.now()
  for (const call of calls) {
    const due = start + call.at
    const wait = due - performance.now()
    if (wait > 0) yield* Effect.sleep(wait)
    answers.push(yield* Effect.forkChild(send(port, connections, call, due), { startImmediately: true }))
  }
  return yield* Effect.forEach(answers, Fiber.join)
}, Effect.scoped)
