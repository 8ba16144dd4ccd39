/**
 * The batching benchmark's model as a deployment, served over HTTP. Takes `batchWaitTimeout` as its argument.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Batching, Deployment, HttpIngress } from "effect-serve"
import { Effect, Layer, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { MAX_BATCH_SIZE, start } from "../peers/device.ts"

class Model extends Deployment.Service<Model>()("Model", [
  Rpc.make("double", { payload: { x: Schema.Finite }, success: Schema.Struct({ y: Schema.Finite }) })
]) {}

const device = start()

const ModelLive = Model.toLayer(
  Effect.gen(function* () {
    const double = yield* Batching.make({
      maxBatchSize: MAX_BATCH_SIZE,
      batchWaitTimeout: process.argv[2] as "adaptive",
      // The device can't be stopped, so a batch whose callers have all left still holds it.
      run: (items: ReadonlyArray<number>) => Effect.uninterruptible(Effect.promise(() => device.double(items)))
    })
    return Model.of({ double: ({ x }) => Effect.map(double(x), (y) => ({ y })) })
  }),
  { maxOngoingRequests: 256 }
)

const Ready = Layer.effectDiscard(Effect.map(HttpIngress.Address, ({ url }) => process.send!(url)))

const Http = HttpIngress.layerNode({ "/model": Model }, { port: 0 })

NodeRuntime.runMain(Layer.launch(Ready.pipe(Layer.provide(Http), Layer.provide(ModelLive))))
