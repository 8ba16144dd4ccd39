/**
 * Voice activity: a real model hears where someone speaks, while the sound still comes.
 *
 * `npm run example:voice` runs it, once its packages are there (`npm ci --prefix examples/voice-activity`). `PORT` changes the port.
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Runtime } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { HttpIngress } from "effect-serve"
import { readFileSync } from "node:fs"
import { createServer } from "node:http"
import { live } from "./Live.ts"
import { VoiceActivity } from "./VoiceActivity.ts"
import { VoiceActivityLive } from "./VoiceActivityLive.ts"

const page = HttpServerResponse.html(readFileSync(new URL("page.html", import.meta.url), "utf8"))

const state = Effect.map(VoiceActivity.state, ({ cancelled, completed, failed, running }) =>
  HttpServerResponse.jsonUnsafe({ running, completed, failed, cancelled })
)

const Routes = Layer.mergeAll(
  HttpIngress.layerRouter({ "/vad": VoiceActivity }),
  // A request id, a deadline and a priority from the headers, and a refusal under overload, as methods have.
  HttpRouter.add("GET", "/live", live).pipe(Layer.provide(HttpIngress.middleware())),
  HttpRouter.add("GET", "/", page),
  HttpRouter.add("GET", "/state", state)
)

const banner = (port: number) => `
Listening for speech

  GET  http://localhost:${port}/               a page with a microphone
  POST http://localhost:${port}/vad/segments   where someone speaks in a WAV file
  POST http://localhost:${port}/vad/raw        the same for samples of 16 bits at 16 kHz, with nothing before them
  GET  http://localhost:${port}/live           a WebSocket, for the page
  GET  http://localhost:${port}/state          how many streams it listens to
  GET  http://localhost:${port}/-/healthz      whether it is ready
  GET  http://localhost:${port}/-/routes       what it serves

Try it, at the top of the repository:

curl -sN localhost:${port}/vad/segments -H 'content-type: audio/wav' --data-binary @examples/voice-activity/samples/speech.wav
curl -sN localhost:${port}/vad/segments -H 'content-type: audio/wav' -H 'accept: application/x-ndjson' -X POST -T - < examples/voice-activity/samples/speech.wav

Ctrl-C to stop
`

const serve = Effect.fnUntraced(function* (port: number) {
  const Server = NodeHttpServer.layer(
    // By default a request must be there after five minutes, and who speaks may take longer.
    () => createServer({ requestTimeout: 0 }),
    { port, host: "127.0.0.1", gracefulShutdownTimeout: "2 seconds", websocket: { maxPayload: 1024 * 1024 } }
  )
  const Http = HttpRouter.serve(Routes, { disableLogger: true }).pipe(Layer.provide(Server))
  const Banner = Layer.effectDiscard(Console.log(banner(port)))
  return yield* Layer.launch(Banner.pipe(Layer.provide(Http), Layer.provide(VoiceActivityLive)))
})

const main = Config.Port("PORT").pipe(Config.withDefault(8000), Effect.flatMap(serve))

NodeRuntime.runMain(main, {
  // A server never ends by itself: to be interrupted and to stop in good order is its success.
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
