/**
 * An HTTP client on a thread of its own, which sends and measures in time whatever the main loop does.
 */
import type { Call } from "../calls.ts"
import { now } from "../clock.ts"

export interface Request {
  readonly name: string
  readonly url: string
  /** Sent as JSON, by POST. */
  readonly payload?: unknown
  /** Milliseconds after the start. */
  readonly after?: number
}

/** Sends requests at their times, and reads the answers to their ends. A stream is asked for in lines of JSON. */
export const send = async (requests: ReadonlyArray<Request>): Promise<Array<Call & { readonly status: number }>> => {
  // So that no request has to wait until the client is loaded.
  await fetch(new URL("/-/healthz", requests[0]!.url))
  const start = now()
  return Promise.all(
    requests.map(async ({ after = 0, name, payload, url }) => {
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, after + start - now())))
      const sent = now() - start
      const response = await fetch(url, payload === undefined ? {} : { ...post, body: JSON.stringify(payload) })
      const elements: Array<number> = []
      let text = ""
      const decoder = new TextDecoder()
      for await (const chunk of response.body ?? []) {
        text += decoder.decode(chunk, { stream: true })
        elements.push(now() - start)
      }
      const call = { name, sent, answered: now() - start, status: response.status }
      if (response.headers.get("content-type") === "application/x-ndjson") return { ...call, elements }
      const answer = text.startsWith("{") ? JSON.parse(text) : {}
      return "thread" in answer
        ? { ...call, run: { thread: answer.thread, from: answer.from - start, to: answer.to - start } }
        : call
    })
  )
}

const post = {
  method: "POST",
  headers: { "content-type": "application/json", accept: "application/x-ndjson, application/json" }
}
