/**
 * One call: what is sent, and the object that its caller has, which can be asked for a result or for elements.
 *
 * @since 0.1.0
 */
// @effect-diagnostics asyncFunction:off globalFetch:off -- for programs without Effect
import { mayRepeat, type RetryBudget, waitBefore } from "./Attempts.ts"
import { CallError, ofAnswer, ofBadAnswer, ofStatus } from "./CallError.ts"
import type { Failure, Result } from "./Contract.ts"
import { ACCEPT, elementsOf, isFramed, isText, typeOf } from "./Elements.ts"
import { Ending } from "./Ending.ts"
import type { CallOptions, ClientOptions } from "./Options.ts"

/** What a caller says about a call of any method. */
export type Options = CallOptions & { readonly events?: boolean }

interface Request {
  readonly url: string
  readonly payload: unknown
  readonly call: Options
  readonly options: ClientOptions
  readonly budget: RetryBudget
}

/** An answer that is well. JSON is read at once; the rest waits, as it may be a stream. */
interface Answer {
  readonly response: Response
  readonly json?: { readonly value: unknown }
}

/** Sends a request. Only its caller knows whether the method streams, so what comes back can be asked for both. */
export const make = (request: Request) => {
  const { call, options } = request
  const ending = new Ending(call.signal, call.timeout ?? options.timeout ?? Infinity)
  const answer = sendUntil(request, ending)
  // Who asks for the result gets promises of their own, to reject.
  answer.catch(() => {})
  let value: Promise<unknown> | undefined
  let elements: AsyncIterator<unknown, undefined> | undefined
  const iterable = { [Symbol.asyncIterator]: () => (elements ??= iteratorOf(answer, ending, call.events === true)) }
  const result = () => (value ??= valueOf(answer, ending, iterable))
  return {
    ...iterable,
    // oxlint-disable-next-line unicorn/no-thenable -- it is a promise as well
    then: <A, B>(onValue?: (value: unknown) => A, onError?: (error: unknown) => B) => result().then(onValue, onError),
    catch: (onError?: (error: unknown) => unknown) => result().catch(onError),
    finally: (onEnd?: () => void) => result().finally(onEnd),
    result: (): Promise<Result<unknown, Failure>> =>
      result().then(
        (value) => ({ ok: true, value }),
        (error: unknown) => {
          if (error instanceof CallError) return { ok: false, error: (error as CallError).error }
          throw error
        }
      )
  }
}

const valueOf = async (answer: Promise<Answer>, ending: Ending, elements: AsyncIterable<unknown>): Promise<unknown> => {
  const { json, response } = await answer
  if (json !== undefined) return json.value
  const type = typeOf(response)
  // JavaScript asks for it, and nobody else, where an async function returns the call of a stream.
  if (isFramed(type)) return elements
  try {
    return isText(type) ? await response.text() : new Uint8Array(await response.arrayBuffer())
  } catch (cause) {
    throw failureOf(cause, ending, response)
  } finally {
    ending.done()
  }
}

const iteratorOf = (answer: Promise<Answer>, ending: Ending, areEvents: boolean): AsyncIterator<unknown, undefined> => {
  const elements = elementsFrom(answer, ending, areEvents)
  return {
    next: () => elements.next(),
    // Alone, the generator would end only after the element that it waits for.
    return: () => {
      ending.stop("left")
      return elements.return(undefined)
    }
  }
}

async function* elementsFrom(answer: Promise<Answer>, ending: Ending, areEvents: boolean) {
  try {
    const { json, response } = await answer
    if (json !== undefined) throw ofBadAnswer("the method answers once: await it", response)
    try {
      yield* elementsOf(response, areEvents)
    } catch (cause) {
      throw failureOf(cause, ending, response)
    }
  } catch (error) {
    if (ending.why !== "left") throw error
  } finally {
    ending.stop("left")
  }
  return undefined
}

/** Sends a request until it is answered well, or there is no point in it. */
const sendUntil = async (request: Request, ending: Ending): Promise<Answer> => {
  const { budget, call, options, payload } = request
  const most = options.retry === false || payload instanceof ReadableStream ? 1 : (options.retry?.attempts ?? 3)
  budget.call()
  for (let attempt = 1; ; attempt++) {
    try {
      return await send(request, ending)
    } catch (error) {
      const isWorthIt =
        attempt < most && error instanceof CallError && mayRepeat(error, call.idempotent === true, options.deployment)
      const wait = isWorthIt ? waitBefore(attempt, error.retryAfter) : Infinity
      if (wait >= ending.left || !budget.withdraw()) {
        ending.done()
        throw error
      }
      await ending.sleep(wait)
    }
  }
}

const send = async (request: Request, ending: Ending): Promise<Answer> => {
  const { call, options, payload, url } = request
  const init = { method: "POST", signal: ending.signal, ...bodyOf(payload, call.contentType) }
  const headers = new Headers({ accept: ACCEPT })
  const set = (fields: Readonly<Record<string, string | undefined>> = {}) => {
    for (const [name, value] of Object.entries(fields)) if (value !== undefined) headers.set(name, value)
  }
  set(init.headers)
  set(typeof options.headers === "function" ? await options.headers() : options.headers)
  set(call.headers)
  set({
    "x-request-id": call.requestId,
    "x-request-tenant": call.tenant,
    "x-request-priority": call.priority,
    "x-request-timeout-ms": ending.left === Infinity ? undefined : String(Math.max(Math.ceil(ending.left), 1))
  })
  if (ending.why !== undefined) throw failureOf(undefined, ending)
  let response: Response | undefined
  try {
    response = await (options.fetch ?? fetch)(url, { ...init, headers })
    if (!response.ok) throw await ofStatus(response)
    if (typeOf(response) !== "application/json") return { response }
    const json = { value: jsonOf(await response.text(), response) }
    ending.done()
    return { response, json }
  } catch (cause) {
    throw failureOf(cause, ending, response)
  }
}

const jsonOf = (text: string, response: Response): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    throw ofBadAnswer("it is not JSON", response, text)
  }
}

type Body = NonNullable<RequestInit["body"]>

interface Sent {
  readonly body?: Body
  readonly headers?: { readonly "content-type": string }
  readonly duplex?: "half"
}

const bodyOf = (payload: unknown, contentType: string | undefined): Sent => {
  if (payload === undefined) return {}
  if (payload instanceof FormData) return { body: payload }
  const as = (body: Body, usual: string) => ({ body, headers: { "content-type": contentType ?? usual } })
  const bytes = "application/octet-stream"
  if (payload instanceof ReadableStream) return { ...as(payload, bytes), duplex: "half" }
  if (payload instanceof Blob) return as(payload, payload.type || bytes)
  if (payload instanceof ArrayBuffer || ArrayBuffer.isView(payload)) return as(payload as Body, bytes)
  const isText = contentType !== undefined && typeof payload === "string"
  return as(isText ? payload : JSON.stringify(payload), "application/json")
}

/** Codes of Node, and Bun's one, for a connection that was never there. */
const UNSENT = /^(E(CONNREFUSED|NOTFOUND|AI_AGAIN|HOSTUNREACH|NETUNREACH)|UND_ERR_CONNECT_TIMEOUT|ConnectionRefused)$/

/** What `fetch` rejects with, as far as platforms agree. */
interface Cause {
  readonly message?: string
  readonly code?: unknown
  readonly cause?: Cause
}

/** The error of a call when its request, or the reading of its answer, has failed with `cause`. */
const failureOf = (cause: unknown, { why }: Ending, response?: Response): CallError => {
  const wasEnded = why !== undefined && why !== "left"
  if (cause instanceof CallError && !wasEnded) return cause
  const { cause: below, code, message = "" } = (cause ?? {}) as Cause
  const sent = response !== undefined || !UNSENT.test(String(below?.code ?? code))
  const error = wasEnded ? why : ({ _tag: "NetworkError", message, sent } as const)
  return response === undefined ? new CallError<Failure>(error, { cause }) : ofAnswer(error, response, cause)
}
