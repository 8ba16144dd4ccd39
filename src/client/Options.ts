/**
 * What can be said of a client and of its calls.
 *
 * @since 0.1.0
 */

type HeaderFields = Readonly<Record<string, string>>

/**
 * How often failed calls are tried again.
 *
 * @category options
 * @since 0.1.0
 */
export interface RetryOptions {
  /** Attempts per call with the first, at least 1. Default `3`. */
  readonly attempts?: number
  /** Retries per call that the client may make, beside 10 that it may make at once. Default `0.2`. */
  readonly budget?: number
}

/**
 * The options of {@link client}.
 *
 * @category options
 * @since 0.1.0
 */
export interface ClientOptions<Name extends string = string> {
  /** Headers of every request, or what gives them before each attempt, such as a token that is renewed. Default none. */
  readonly headers?: HeaderFields | (() => HeaderFields | Promise<HeaderFields>)
  /** What sends requests. Default: the `fetch` of the platform. */
  readonly fetch?: (url: string, init: RequestInit) => Promise<Response>
  /** The `timeout` of calls that have none of their own, in milliseconds. Default none. */
  readonly timeout?: number
  /** How often failed calls are tried again; `false` for never. Default: 3 attempts, with a budget of 20 %. */
  readonly retry?: false | RetryOptions
  /**
   * The name of the deployment. Only with it is a refusal that a handler got from another deployment, and passed on, told from one before
   * the handler began; it is then tried again for none but idempotent calls. Default none.
   */
  readonly deployment?: Name
}

/**
 * What a caller can say about one call.
 *
 * @category options
 * @since 0.1.0
 */
export interface CallOptions {
  /** Ends the call, and its work on the server, with `Aborted`. Default none. */
  readonly signal?: AbortSignal
  /**
   * Milliseconds until the caller gives up, with all attempts; for a stream, until it has ended. The server knows them and answers with
   * `DeadlineExceeded`; half a second later the client stops waiting for that, with `TimedOut`. Default: that of the client.
   */
  readonly timeout?: number
  /** How important the call is. Default `"default"`. */
  readonly priority?: "critical" | "default" | "sheddable"
  /** On whose behalf it is. Default: nobody's. */
  readonly tenant?: string
  /** What the server calls the request in its log. Default: the server makes one up. */
  readonly requestId?: string
  /** Further headers. They come before those of the client. Default none. */
  readonly headers?: Readonly<Record<string, string>>
  /**
   * Whether the work may be done twice: then the call is also tried again when its connection was lost, or when a proxy gave a bad answer.
   * Default `false`.
   */
  readonly idempotent?: boolean
  /**
   * The type of a body that is not JSON: with it a text is sent as it is. Default: `application/json`, the type of a `Blob` or of a form, and
   * `application/octet-stream` for other bytes.
   */
  readonly contentType?: string
}

/**
 * The options of a call whose elements look like those of `HttpSchema.Event`.
 *
 * @category options
 * @since 0.1.0
 */
export interface EventOptions extends CallOptions {
  /**
   * Whether the elements are of `HttpSchema.Event`. Server-sent events say nothing about it, so types ask for it: with `true` each element
   * is `{ data, id?, event? }`. One whose name is `"error"` would be taken for a failure.
   */
  readonly events: boolean
}
