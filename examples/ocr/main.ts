/**
 * Optical character recognition: a real model in two threads, served over HTTP.
 *
 * `npm run example:ocr` runs it, once its packages are there (`npm ci --prefix examples/ocr`). `PORT` changes the port,
 * `SERVE_READER_REPLICAS` the number of threads.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Runtime } from "effect"
import { HttpIngress } from "effect-serve"
import { Reader } from "./Reader.ts"
import { Status, StatusLive } from "./Status.ts"

const ReaderLive = Reader.toLayerModule(new URL("reader.module.ts", import.meta.url), {
  replicas: 2,
  isolation: "thread",
  // A line fills the thread that reads it, so more at once would only wait there. Here they wait in the deployment's queue.
  maxOngoingRequests: 1
})

const banner = (port: number) => `
Reading lines of printed text

  POST http://localhost:${port}/reader/recognize   the text in a PNG file, base64, with one line
  POST http://localhost:${port}/status/show        what the reader is doing
  GET  http://localhost:${port}/-/healthz          whether it is ready
  GET  http://localhost:${port}/-/routes           what it serves

Try it, at the top of the repository:

curl -s localhost:${port}/reader/recognize -H 'content-type: application/json' -d "{\\"image\\":\\"$(base64 < examples/ocr/samples/receipt.png | tr -d '\\n')\\"}"
curl -s localhost:${port}/status/show -X POST -H 'content-type: application/json'

Ctrl-C to stop
`

const serve = Effect.fnUntraced(function* (port: number) {
  const Http = HttpIngress.layerNode({ "/reader": Reader, "/status": Status }, { port })
  const Banner = Layer.effectDiscard(Console.log(banner(port)))
  const App = Banner.pipe(Layer.provide(Http), Layer.provide(StatusLive), Layer.provide(ReaderLive))
  return yield* Layer.launch(App)
})

const main = Config.Port("PORT").pipe(Config.withDefault(8000), Effect.flatMap(serve))

NodeRuntime.runMain(main, {
  // A server never ends by itself: to be interrupted and to stop in good order is its success.
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
