/**
 * The search of the study `model`: one deployment asks another one, the example's `Embedder`, whose replica has the model in a thread. The
 * environment's `MAX_BATCH_SIZE` says how many texts go through it together.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Deployment, HttpIngress } from "effect-serve"
import { Effect, Layer, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Embedder, EmbedderLive, Text } from "../../../examples/semantic-search/Embedder.ts"
import { candidates, nearest } from "../peers/model.ts"
import { report } from "../peers/web.ts"

class Search extends Deployment.Service<Search>()("Search", [
  Rpc.make("nearest", { payload: { text: Text }, success: Schema.Struct({ nearest: Schema.Int }) })
]) {}

const SearchLive = Search.toLayer(
  Effect.gen(function* () {
    const embedder = yield* Embedder
    const all = yield* embedder.embed({ texts: candidates })
    return Search.of({
      nearest: ({ text }) => Effect.map(embedder.embedOne({ text }), (vector) => ({ nearest: nearest(vector, all) }))
    })
  }),
  { maxOngoingRequests: 64 }
).pipe(Layer.provide(EmbedderLive))

const Ready = Layer.effectDiscard(Effect.map(HttpIngress.Address, ({ port }) => report(port)))

const Http = HttpIngress.layerNode({ "/search": Search }, { port: 0, processGate: false })

NodeRuntime.runMain(Layer.launch(Ready.pipe(Layer.provide(Http), Layer.provide(SearchLive))))
