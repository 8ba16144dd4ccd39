/**
 * What is done to every answer: what it says to pages of other origins, and how its body is written.
 *
 * @since 0.1.0
 */
import { Effect } from "effect"
import type { Reply } from "./Answer.ts"
import * as Compression from "./Compression.ts"
import type { Cors } from "./Cors.ts"
import { Flow, type Piece } from "./Outlet.ts"
import type { Incoming } from "./Reception.ts"

/**
 * Completes answers, by the headers of their requests.
 *
 * @category models
 * @since 0.1.0
 */
export interface Seal {
  /** Completes the head alone. */
  readonly head: (headers: Incoming, reply: Reply) => Reply
  /** Completes head and body. */
  readonly whole: (headers: Incoming, reply: Effect.Effect<Reply>) => Effect.Effect<Reply>
  /** Whether `whole` would do more than `head`. */
  readonly isWorthIt: (reply: Reply) => boolean
}

/** Makes a seal. Without any options it does nothing, at no cost. */
export const make = (cors: Cors, compression: typeof Compression.Options.Type | undefined): Seal => {
  const head = (headers: Incoming, reply: Reply): Reply => {
    const said = cors.headers(headers["origin"])
    return isEmpty(said) ? reply : { ...reply, headers: joined(reply.headers, said) }
  }
  const isWorthIt = ({ body, contentType }: Reply): boolean =>
    compression !== undefined && !(body instanceof Flow) && Compression.worthIt(contentType, body.length, compression)
  const compressed = (headers: Incoming, reply: Reply): Effect.Effect<Reply> => {
    if (!isWorthIt(reply)) return Effect.succeed(reply)
    const body = reply.body as Piece
    const encoding = Compression.negotiate(headers["accept-encoding"], compression!)
    const labelled = { ...reply, headers: Compression.label(reply.headers, encoding) }
    return encoding === undefined
      ? Effect.succeed(labelled)
      : Effect.map(Compression.compress(body, encoding), (body) => ({ ...labelled, body }))
  }
  const isPlain = isEmpty(cors.headers("null"))
  return {
    isWorthIt,
    head: isPlain ? (_: Incoming, reply: Reply) => reply : head,
    whole: (headers: Incoming, reply: Effect.Effect<Reply>): Effect.Effect<Reply> => {
      const sealed = isPlain ? reply : Effect.map(reply, (reply) => head(headers, reply))
      return compression === undefined ? sealed : Effect.flatMap(sealed, (reply) => compressed(headers, reply))
    }
  }
}

const isEmpty = (headers: Readonly<Record<string, string>>) => {
  for (const _ in headers) return false
  return true
}

const joined = (own: Reply["headers"], added: Readonly<Record<string, string>>) => ({
  ...own,
  ...added,
  ...(own?.["vary"] === undefined || added["vary"] === undefined ? {} : { vary: `${own["vary"]}, ${added["vary"]}` })
})
