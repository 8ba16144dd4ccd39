/**
 * The error of a call, and how it is read from an answer.
 *
 * @since 0.1.0
 */
// @effect-diagnostics asyncFunction:off extendsNativeError:off -- for programs without Effect
import type { BadAnswer, Failure } from "./Contract.ts"

/**
 * What is known beside the failure itself.
 *
 * @category models
 * @since 0.1.0
 */
interface About {
  readonly status?: number | undefined
  readonly requestId?: string | undefined
  readonly retryAfter?: number | undefined
  readonly cause?: unknown
}

/**
 * A call failed: what its promise rejects with, or its loop throws.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Rpc } from "effect/rpc"
 * import { Deployment } from "effect-serve"
 * import { CallError, client } from "effect-serve/client"
 *
 * class Echo extends Deployment.Service<Echo>()("Echo", [Rpc.make("shout", { payload: Schema.String, success: Schema.String })]) {}
 *
 * const echo = client<typeof Echo>("http://echo.test/echo", {
 *   fetch: async () => Response.json({ _tag: "NotFound", requestId: "r1", message: "Nothing is served at this path." }, { status: 404 })
 * })
 * try {
 *   await echo.shout("hello")
 * } catch (error) {
 *   if (!(error instanceof CallError)) throw error
 *   console.log(error.status, error.error._tag, error.requestId) // => 404 NotFound r1
 * }
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class CallError<E = Failure> extends Error {
  override readonly name = "CallError"
  /** What went wrong. */
  readonly error: E
  /** The status of the answer, if there was one: 200 when a stream failed after it had begun. */
  readonly status: number | undefined
  /** The id of the request, by which the server's log can be searched. */
  readonly requestId: string | undefined
  /** Milliseconds after which another attempt is likely to be admitted, if the server says so. */
  readonly retryAfter: number | undefined

  constructor(error: E, { cause, requestId, retryAfter, status }: About = {}) {
    super(messageOf(error), { cause })
    this.error = error
    this.status = status
    this.requestId = requestId
    this.retryAfter = retryAfter
  }
}

/** The fields that failures have, as far as they have any. */
interface Loose {
  readonly _tag?: string
  readonly message?: string
  readonly requestId?: string
  readonly reason?: { readonly retryAfter?: number } | null
}

const looseOf = (error: unknown): Loose => (typeof error === "object" && error !== null ? error : {})

const messageOf = (error: unknown): string => {
  const { _tag, message } = looseOf(error)
  if (_tag === undefined) return JSON.stringify(error)
  return message === undefined ? _tag : `${_tag}: ${message}`
}

/** The error that an answer tells of by its body, or in its stream. */
export const ofAnswer = (error: unknown, response: Response, cause?: unknown): CallError => {
  const { reason, requestId } = looseOf(error)
  const millis = reason?.retryAfter
  const seconds = Number(response.headers.get("retry-after"))
  return new CallError(error as Failure, {
    status: response.status,
    requestId: response.headers.get("x-request-id") ?? requestId,
    retryAfter: typeof millis === "number" ? millis : seconds > 0 ? seconds * 1000 : undefined,
    cause
  })
}

/** The error of an answer that can't be understood. */
export const ofBadAnswer = (message: string, response: Response, body = ""): CallError =>
  ofAnswer({ _tag: "BadAnswer", message, body: body.slice(0, 1000) } satisfies BadAnswer, response)

/**
 * The error of an answer whose status says that there is one. Proxies answer with JSON too: it is of an ingress when it has a tag, or the
 * id of a request, which an ingress sends with all that it says.
 */
export const ofStatus = async (response: Response): Promise<CallError> => {
  const text = await response.text()
  try {
    const error: unknown = JSON.parse(text)
    if (looseOf(error)._tag !== undefined || response.headers.has("x-request-id")) return ofAnswer(error, response)
  } catch {}
  return ofBadAnswer(`status ${response.status}`, response, text)
}
