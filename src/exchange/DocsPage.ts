/**
 * The page on which the OpenAPI document of an ingress is read and tried.
 *
 * @since 0.1.0
 */
import { Context, Effect } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as HttpApi from "effect/http-api/HttpApi"
import { Transform } from "effect/http-api/OpenApi"
import type { Document } from "./OpenApi.ts"

const pages = new WeakMap<Document, string>()

/**
 * Makes the page that shows a document, with its script in it: 3 MB that need nothing from other hosts. Made once for a document.
 */
export const ofDocument = (document: Document): Effect.Effect<string> =>
  Effect.suspend(() => {
    const made = pages.get(document)
    return made === undefined
      ? Effect.tap(makePage(document), (html) => Effect.sync(() => pages.set(document, html)))
      : Effect.succeed(made)
  })

// Effect has the script, and gives it away only as an answer over HTTP.
const makePage = Effect.fnUntraced(
  function* (document: Document) {
    const { layer } = yield* Effect.promise(() => import("effect/http-api/HttpApiScalar"))
    const api = HttpApi.make("Ingress").annotate(Transform, () => document)
    const authentication = { preferredSecurityScheme: "securitySchemes" in document.components ? "bearer" : null }
    const scalar = { withDefaultFonts: false, authentication }
    const handle = yield* HttpRouter.toHttpEffect(layer(api, { path: "/", scalar }))
    const request = HttpServerRequest.fromWeb(new Request("http://localhost/"))
    const response = yield* Effect.provideService(handle, HttpServerRequest.HttpServerRequest, request)
    return yield* Effect.promise(() => HttpServerResponse.toWeb(response).text())
  },
  Effect.scoped,
  Effect.orDie,
  // Away from the layers of the application: the router of the page would be the application's own.
  Effect.updateContext((context: Context.Context<never>) => Context.pick()(context))
)
