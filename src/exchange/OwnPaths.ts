/**
 * What an ingress answers itself, below `/-/`.
 *
 * @since 0.1.0
 */
import { Effect } from "effect"
import { PROTOCOL } from "../wire/Connection.ts"
import { json, problem, type Reply, text } from "./Answer.ts"
import type { Document } from "./OpenApi.ts"
import type { Route, RouteTable } from "./RouteTable.ts"

/** The paths. */
export const paths = ["/-/healthz", "/-/routes", "/-/openapi.json", "/-/docs", "/-/rpc"] as const

/**
 * A path and its answer.
 *
 * @category models
 * @since 0.1.0
 */
export interface OwnPath {
  /** Whether anybody may read it. */
  readonly isOpen: boolean
  readonly answer: (requestId: string) => Reply | Effect.Effect<Reply>
}

/** Makes the answers. `document` is made once, when somebody wants to read it. */
export const make = <R extends Route>(options: {
  readonly table: RouteTable<R>
  readonly document: Effect.Effect<Document>
  readonly isDraining: () => boolean
  /** Whether only health checks are open to anybody. */
  readonly isClosed: boolean
}): ReadonlyMap<string, OwnPath> => {
  const { isClosed, isDraining, table } = options
  let made: Document | undefined
  const document = Effect.suspend(() =>
    made === undefined
      ? Effect.tap(options.document, (document) => Effect.sync(() => (made = document)))
      : Effect.succeed(made)
  )
  const routes = JSON.stringify(
    table.endpoints.map(({ deployment, method, path, stream }) => ({ path, deployment, method, stream }))
  )
  const health = (requestId: string): Reply => {
    if (isDraining()) return { ...text(503, "draining", requestId), close: true }
    return table.isReady()
      ? text(200, "success", requestId)
      : text(503, "starting: a deployment has no replica", requestId)
  }
  const described = (requestId: string, answer: (document: Document) => Effect.Effect<Reply>) =>
    document.pipe(
      Effect.flatMap(answer),
      Effect.catchCause((cause) =>
        Effect.as(
          Effect.logError("The methods can't be described as OpenAPI", cause),
          problem(500, "InternalServerError", "The methods can't be described; the log says why", requestId)
        )
      )
    )
  const answers: Record<(typeof paths)[number], OwnPath> = {
    "/-/healthz": { isOpen: true, answer: health },
    "/-/routes": { isOpen: !isClosed, answer: (requestId) => json(200, routes, requestId) },
    "/-/openapi.json": {
      isOpen: !isClosed,
      answer: (requestId) =>
        described(requestId, (document) => Effect.succeed(json(200, JSON.stringify(document), requestId)))
    },
    "/-/rpc": {
      isOpen: true,
      answer: (requestId) => ({
        ...problem(426, "UpgradeRequired", `Remote handles connect here, by WebSocket (${PROTOCOL})`, requestId),
        headers: { upgrade: "websocket" }
      })
    },
    "/-/docs": {
      isOpen: !isClosed,
      answer: (requestId) =>
        described(requestId, (document) =>
          Effect.promise(() => import("./DocsPage.ts")).pipe(
            Effect.flatMap(({ ofDocument }) => ofDocument(document)),
            Effect.map((html) => ({ ...text(200, html, requestId), contentType: "text/html; charset=utf-8" }))
          )
        )
    }
  }
  return new Map(Object.entries(answers))
}
