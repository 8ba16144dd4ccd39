/**
 * The kinds of work of the benchmarks, served by effect-serve.
 *
 * Every kind is a deployment at the route `/`, so a method has the path of its name: `/echo`, `/noop`, `/batch`, `/cpu`, `/stream`,
 * `/work`; that of `chain` is `/echo` and that of `chainStream` is `/stream`.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Batching, Deployment, HttpIngress, WorkerPool } from "effect-serve"
import { Effect, Layer, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { MAX_BATCH_SIZE, start } from "./device.ts"
import { DEADLINE, note, STEP } from "./steps.ts"
import { eventOf, report } from "./web.ts"

const kind = process.argv[2]!

const limits = { maxOngoingRequests: 128, maxQueuedRequests: 1000, requestTimeout: "60 seconds" } as const

const http = {
  port: 0,
  maxBodySize: 16 * 1024 * 1024,
  // Else it would refuse requests because of what other programs do.
  processGate: kind === "work"
}

const Row = Schema.Struct({
  id: Schema.Int,
  name: Schema.String,
  score: Schema.Finite,
  isOpen: Schema.Boolean,
  text: Schema.String
})

const echo = Rpc.make("echo", { payload: Row, success: Row })

class Echo extends Deployment.Service<Echo>()("Echo", [echo]) {}

const EchoLive = Echo.toLayer({ echo: (row) => Effect.succeed(row) }, limits)

class Gateway extends Deployment.Service<Gateway>()("Gateway", [echo]) {}

const GatewayLive = Gateway.toLayer(
  Effect.map(Echo, (handle) => Gateway.of({ echo: (row) => handle.echo(row) })),
  limits
)

class Noop extends Deployment.Service<Noop>()("Noop", [
  Rpc.make("noop", { payload: { data: Schema.String }, success: Schema.Struct({ ok: Schema.Boolean }) })
]) {}

const NoopLive = Noop.toLayer(
  { noop: () => Effect.succeed({ ok: true }) },
  { ...limits, maxOngoingRequests: Number(process.env["MAX_ONGOING"] ?? 128) }
)

class ModelFailed extends Schema.TaggedError<ModelFailed>()("ModelFailed", {}) {}

class Model extends Deployment.Service<Model>()("Model", [
  Rpc.make("batch", {
    payload: { x: Schema.Finite },
    success: Schema.Struct({ y: Schema.Finite }),
    error: ModelFailed
  })
]) {}

const ModelLive = Model.toLayer(
  Effect.gen(function* () {
    const device = start()
    const double = yield* Batching.make({
      maxBatchSize: MAX_BATCH_SIZE,
      batchWaitTimeout: "adaptive",
      // The device can't be stopped, so a batch whose callers have all left still holds it.
      run: (items: ReadonlyArray<number>) =>
        Effect.uninterruptible(Effect.tryPromise({ try: () => device.double(items), catch: () => new ModelFailed() })),
      onFailure: "bisect",
      idempotent: true
    })
    return Model.of({ batch: ({ x }) => Effect.map(double(x), (y) => ({ y })) })
  }),
  limits
)

class Hashing extends WorkerPool.Service<Hashing, typeof import("./hash.ts")>()("Hashing", {
  module: new URL("./hash.ts", import.meta.url)
}) {}

class Cpu extends Deployment.Service<Cpu>()("Cpu", [
  Rpc.make("cpu", { payload: { x: Schema.Int }, success: Schema.Struct({ hash: Schema.String }) })
]) {}

const CpuLive = Cpu.toLayer(
  Effect.map(Hashing, (hashing) =>
    Cpu.of({
      cpu: ({ x }) =>
        hashing.hash(x).pipe(
          Effect.map((hash) => ({ hash })),
          Effect.catchTag("TaskError", Effect.die)
        )
    })
  ),
  // Two more than there are threads, so that a thread that is free finds work.
  { ...limits, maxOngoingRequests: 4 }
).pipe(Layer.provide(Hashing.layer({ size: 2, minSize: 2 })))

const stream = Rpc.make("stream", {
  payload: { count: Schema.Int, delay: Schema.Int },
  success: Schema.Struct({ index: Schema.Int, text: Schema.String }),
  stream: true
})

class Events extends Deployment.Service<Events>()("Events", [stream]) {}

const EventsLive = Events.toLayer(
  {
    stream: ({ count, delay }) => {
      const indices = Stream.range(0, count - 1)
      return delay === 0
        ? Stream.map(indices, eventOf)
        : Stream.mapEffect(indices, (index) => Effect.as(Effect.sleep(delay), eventOf(index)))
    }
  },
  limits
)

class EventsGateway extends Deployment.Service<EventsGateway>()("EventsGateway", [stream]) {}

const EventsGatewayLive = EventsGateway.toLayer(
  Effect.map(Events, (handle) => EventsGateway.of({ stream: (payload) => handle.stream(payload) })),
  limits
)

class Work extends Deployment.Service<Work>()("Work", [
  Rpc.make("work", { payload: { steps: Schema.Int }, success: Schema.Struct({ done: Schema.Int }) })
]) {}

const step = Effect.andThen(
  Effect.sleep(STEP),
  Effect.sync(() => note("s"))
)

const WorkLive = Work.toLayer(
  {
    work: Effect.fnUntraced(function* ({ steps }) {
      for (let i = 0; i < steps; i++) yield* step
      note("e")
      return { done: steps }
    })
  },
  { maxOngoingRequests: 4, maxQueuedRequests: 100, requestTimeout: DEADLINE }
)

const serve = <D extends Deployment.Any>(deployment: D) => HttpIngress.layerNode({ "/": deployment }, http)

const kinds: Record<string, Layer.Layer<HttpIngress.Address, HttpIngress.ListenFailed | WorkerPool.ModuleFailed>> = {
  echo: Layer.provide(serve(Echo), EchoLive),
  chain: Layer.provide(serve(Gateway), Layer.provide(GatewayLive, EchoLive)),
  noop: Layer.provide(serve(Noop), NoopLive),
  batch: Layer.provide(serve(Model), ModelLive),
  cpu: Layer.provide(serve(Cpu), CpuLive),
  stream: Layer.provide(serve(Events), EventsLive),
  chainStream: Layer.provide(serve(EventsGateway), Layer.provide(EventsGatewayLive, EventsLive)),
  work: Layer.provide(serve(Work), WorkLive)
}

const Ready = Layer.effectDiscard(
  // The device answers the benchmark itself.
  Effect.map(HttpIngress.Address, ({ port }) => (kind === "batch" ? process.send!(port) : report(port)))
)

NodeRuntime.runMain(Layer.launch(Layer.provide(Ready, kinds[kind]!)))
