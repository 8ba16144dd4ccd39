/**
 * Semantic search: two deployments, one calling the other, served over HTTP.
 *
 * `npm start` runs it; `PORT` changes the port.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Runtime } from "effect"
import { HttpIngress } from "effect-serve"
import { Embedder, EmbedderLive } from "./Embedder.ts"
import { passages } from "./passages.ts"
import { Search, SearchLive } from "./Search.ts"

const banner = (port: number) => `
Semantic search over ${passages.length} passages

  POST http://localhost:${port}/search/query     the passages closest in meaning to a text
  POST http://localhost:${port}/search/topics    what the passages are about
  POST http://localhost:${port}/embedder/embed   vectors of texts
  GET  http://localhost:${port}/-/healthz        whether it is ready
  GET  http://localhost:${port}/-/routes         what it serves

Try it:

curl -s localhost:${port}/search/query -H 'content-type: application/json' -d '{"text":"I cannot log in to my account","top":3}'
curl -s localhost:${port}/embedder/embed -H 'content-type: application/json' -d '{"texts":["A dog slept on the couch"]}'

Ctrl-C to stop
`

const serve = Effect.fnUntraced(function* (port: number) {
  const Http = HttpIngress.layerNode({ "/embedder": Embedder, "/search": Search }, { port })
  const Banner = Layer.effectDiscard(Console.log(banner(port)))
  const App = Banner.pipe(Layer.provide(Http), Layer.provide(SearchLive), Layer.provide(EmbedderLive))
  return yield* Layer.launch(App)
})

const main = Config.Port("PORT").pipe(Config.withDefault(8000), Effect.flatMap(serve))

NodeRuntime.runMain(main, {
  // A server never ends by itself: to be interrupted and to stop in good order is its success.
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
