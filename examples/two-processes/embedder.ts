/**
 * `Embedder` alone, in a process of its own: `npm run example:two-processes:embedder`; `PORT` changes the port.
 *
 * It is the deployment of the semantic search, with the same model and the same batches. Whoever has its class can call it from another
 * process: the ingress takes connections of remote handles at `/-/rpc`, beside `POST /embedder/embed`.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Runtime } from "effect"
import { HttpIngress } from "effect-serve"
import { Embedder, EmbedderLive } from "../semantic-search/Embedder.ts"

const banner = (port: number) => `
Embedder, on http://localhost:${port}, in process ${process.pid}

Search with it, in another terminal:

SERVE_EMBEDDER_URLS=http://localhost:${port} npm run example:two-processes:search

Ctrl-C to stop, or: kill -9 ${process.pid}
`

const main = Effect.gen(function* () {
  const port = yield* Config.Port("PORT").pipe(Config.withDefault(8001))
  const Http = HttpIngress.layerNode({ "/embedder": Embedder }, { port })
  const Banner = Layer.effectDiscard(Console.log(banner(port)))
  return yield* Layer.launch(Banner.pipe(Layer.provide(Http), Layer.provide(EmbedderLive)))
})

NodeRuntime.runMain(main, {
  // A server never ends by itself: to be interrupted and to stop in good order is its success.
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
