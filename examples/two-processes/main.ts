/**
 * The semantic search, whose `Embedder` is here or in another process: `npm run example:two-processes:search`; `PORT` changes the port.
 *
 * `SERVE_EMBEDDER_URLS` says where `Embedder` is, as one URL or as several with commas between them. Without it, it is in this process. What
 * calls it, `Search`, is the same file as in the other example and knows nothing of this.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Option, Runtime } from "effect"
import { HttpIngress } from "effect-serve"
import { Embedder, EmbedderLive } from "../semantic-search/Embedder.ts"
import { Search, SearchLive } from "../semantic-search/Search.ts"

/** Looks for an embedder that is not there at least once a second, which costs a local network nothing. */
const EmbedderRemote = Embedder.toLayerRemote({ reconnect: { maxDelay: "1 second" } })

const banner = (port: number, urls: Option.Option<string>) => `
Semantic search on http://localhost:${port}, with Embedder ${Option.match(urls, {
  onNone: () => "in the same process",
  onSome: (urls) => `at ${urls}`
})}

curl -s localhost:${port}/search/query -H 'content-type: application/json' -d '{"text":"I cannot log in to my account","top":3}'

Ctrl-C to stop
`

const main = Effect.gen(function* () {
  const port = yield* Config.Port("PORT").pipe(Config.withDefault(8000))
  const urls = yield* Config.option(Config.String("SERVE_EMBEDDER_URLS"))
  // The handle reads the variable itself. All that follows is the same for both.
  const EmbedderSomewhere: Layer.Layer<Embedder, Error> = Option.isSome(urls) ? EmbedderRemote : EmbedderLive
  const Http = HttpIngress.layerNode({ "/search": Search }, { port })
  const Banner = Layer.effectDiscard(Console.log(banner(port, urls)))
  return yield* Layer.launch(
    Banner.pipe(Layer.provide(Http), Layer.provide(SearchLive), Layer.provide(EmbedderSomewhere))
  )
})

NodeRuntime.runMain(main, {
  // A server never ends by itself: to be interrupted and to stop in good order is its success.
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
