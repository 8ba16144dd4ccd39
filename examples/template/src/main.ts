/**
 * Serves the deployment over HTTP.
 *
 * `HOST` and `PORT` say where. Each option of the deployment has a variable too, such as `SERVE_WRITER_MAX_ONGOING_REQUESTS`.
 */
import { NodeRuntime } from "@effect/platform-node"
import { HttpIngress } from "effect-serve"
import { Config, Effect, Layer, Runtime } from "effect"
import { Writer, WriterLive } from "./Writer.ts"

const where = Config.all({
  host: Config.String("HOST").pipe(Config.withDefault("127.0.0.1")),
  port: Config.Port("PORT").pipe(Config.withDefault(8000))
})

const Http = Layer.unwrap(Effect.map(where, (options) => HttpIngress.layerNode({ "/writer": Writer }, options)))

NodeRuntime.runMain(Layer.launch(Http.pipe(Layer.provide(WriterLive))), {
  // A server never ends by itself: to be interrupted and to stop in good order is its success.
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
