/**
 * The plant of the study `overload-http`, served over HTTP by a process of its own. Takes the options of the deployment as JSON.
 */
import { NodeRuntime } from "@effect/platform-node"
import { HttpIngress } from "effect-serve"
import { Effect, Layer } from "effect"
import { Plant } from "../../acceptance/plant.ts"
import { report } from "../peers/web.ts"

const PlantLive = Plant.toLayer(
  { run: ({ serviceTime }) => Effect.as(Effect.uninterruptible(Effect.sleep(serviceTime)), 0) },
  JSON.parse(process.argv[2]!)
)

const Ready = Layer.effectDiscard(Effect.map(HttpIngress.Address, ({ port }) => report(port)))

const Http = HttpIngress.layerNode({ "/plant": Plant }, { port: 0, gracefulShutdownTimeout: 0 })

NodeRuntime.runMain(Layer.launch(Ready.pipe(Layer.provide(Http), Layer.provide(PlantLive))))
