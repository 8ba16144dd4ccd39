/**
 * The same search behind an API of one's own: `npm run example:api`; `PORT` changes the port.
 *
 * An `HttpApi` has the paths and verbs that its author wants, and calls the deployments as services. `HttpIngress.middleware` gives its
 * endpoints what methods of deployments have: deadlines, the request's id, refusals, metrics, and an end when the client hangs up. Checking
 * a password takes a core 50 ms, so it runs on a `WorkerPool`.
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Console, Context, Effect, Layer, Redacted, Runtime, Schema } from "effect"
import { HttpRouter } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { randomBytes } from "node:crypto"
import { createServer } from "node:http"
import { Auth, HttpIngress, RequestContext, WorkerPool } from "effect-serve"
import { EmbedderLive } from "./Embedder.ts"
import { passages } from "./passages.ts"
import { Search, SearchLive } from "./Search.ts"

class WrongPassword extends Schema.TaggedError<WrongPassword>()("WrongPassword", {}, { httpApiStatus: 401 }) {}

const Login = HttpApi.make("login").add(
  HttpApiGroup.make("session").add(
    HttpApiEndpoint.post("login", "/login", {
      payload: Schema.Struct({ user: Schema.String, password: Schema.Redacted(Schema.String) }),
      success: Schema.Struct({ token: Schema.String }),
      error: WrongPassword
    })
  )
)

const Passages = HttpApi.make("passages").add(
  HttpApiGroup.make("passages").add(
    HttpApiEndpoint.get("search", "/passages", {
      query: {
        text: Schema.NonEmptyString,
        top: Schema.FiniteFromString.pipe(Schema.withDecodingDefaultKey(Effect.succeed("3")))
      },
      success: Schema.Struct({ for: Schema.String, passages: Schema.Array(Schema.Unknown) })
    })
  )
)

class Passwords extends WorkerPool.Service<Passwords, typeof import("./passwords.ts")>()("Passwords", {
  module: new URL("./passwords.ts", import.meta.url)
}) {}

/** Who has logged in, by token. A real one would be kept in a database, and expire. */
class Sessions extends Context.Service<Sessions, Map<string, Auth.Principal>>()("example/Sessions") {
  static readonly layer = Layer.sync(Sessions, () => new Map())
}

/** The one user there is. */
const ada = Effect.gen(function* () {
  const salt = randomBytes(16)
  const password = yield* Config.Redacted("PASSWORD").pipe(Config.withDefault(Redacted.make("lovelace")))
  return { salt, hashed: yield* (yield* Passwords).make(Redacted.value(password), salt) }
})

const SessionGroup = HttpApiBuilder.group(Login, "session", (handlers) =>
  Effect.gen(function* () {
    const passwords = yield* Passwords
    const sessions = yield* Sessions
    const { hashed, salt } = yield* Effect.orDie(ada)
    return handlers.handle("login", ({ payload: { password, user } }) =>
      Effect.gen(function* () {
        // Also for a user that there is not, or the time would tell.
        const isRight = yield* Effect.orDie(passwords.isRight(Redacted.value(password), salt, hashed))
        if (!isRight || user !== "ada") return yield* new WrongPassword({})
        const token = randomBytes(32).toString("base64url")
        sessions.set(token, { id: user, tenant: user })
        return { token }
      })
    )
  })
)

const PassagesGroup = HttpApiBuilder.group(Passages, "passages", (handlers) =>
  handlers.handle("search", ({ query: { text, top } }) =>
    Effect.gen(function* () {
      const search = yield* Search
      const { principal } = yield* RequestContext.RequestContext
      const found = yield* Effect.orDie(search.query({ text, top }))
      return { for: principal!.id, passages: found.passages }
    })
  )
)

const authorize: Auth.Authorize<Sessions> = ({ authorization }) =>
  Effect.flatMap(Sessions, (sessions) => {
    const token = typeof authorization === "string" ? authorization.replace(/^Bearer /, "") : ""
    const principal = sessions.get(token)
    return principal === undefined
      ? Effect.fail(new Auth.Unauthorized({ why: "log in first, and send the token as: Bearer <token>" }))
      : Effect.succeed(principal)
  })

const Routes = Layer.mergeAll(
  HttpApiBuilder.layer(Login).pipe(Layer.provide(SessionGroup), Layer.provide(HttpIngress.middleware())),
  HttpApiBuilder.layer(Passages).pipe(
    Layer.provide(PassagesGroup),
    Layer.provide(HttpIngress.middleware({ authorize }))
  )
)

const banner = (port: number) => `
Search over ${passages.length} passages, for those who have logged in

curl -s localhost:${port}/login -H 'content-type: application/json' -d '{"user":"ada","password":"lovelace"}'
curl -s 'localhost:${port}/passages?text=I%20cannot%20log%20in&top=2' -H 'authorization: Bearer <token>' -H 'x-request-timeout-ms: 500'

Ctrl-C to stop
`

const main = Effect.gen(function* () {
  const port = yield* Config.Port("PORT").pipe(Config.withDefault(8000))
  const Server = NodeHttpServer.layer(createServer, { port })
  const Http = Layer.provide(HttpRouter.serve(Routes, { disableLogger: true }), Server)
  const Banner = Layer.effectDiscard(Console.log(banner(port)))
  const Services = Layer.mergeAll(SearchLive, Passwords.layer(), Sessions.layer)
  return yield* Layer.launch(Banner.pipe(Layer.provide(Http), Layer.provide(Services), Layer.provide(EmbedderLive)))
})

NodeRuntime.runMain(main, {
  // A server never ends by itself: to be interrupted and to stop in good order is its success.
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
