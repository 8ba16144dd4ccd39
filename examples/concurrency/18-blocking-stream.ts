/**
 * A stream that blocks between its elements: `npm run example -- 18`.
 *
 * The page's `BlockingStream`, which is a mistake: a generator that does not give way between two elements. On the loop it holds up its
 * own elements, and everybody else. Marked with `Deployment.Blocking`, the same generator runs on a thread, element by element.
 */
import { Effect, Layer, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment, HttpIngress, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, named, slowest, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"
import { hash } from "./modules/work.ts"

export const title = "a mistake: a generator that blocks between elements; and the same on a thread"

const count = { payload: { to: Schema.Int }, success: Schema.String, stream: true } as const

class BlockingStream extends Deployment.Service<BlockingStream>()("BlockingStream", [Rpc.make("count", count)]) {}

class ThreadStream extends Deployment.Service<ThreadStream>()("ThreadStream", [
  Deployment.Blocking(Rpc.make("count", count))
]) {}

function* counting(to: number) {
  for (let i = 1; i <= to; i++) {
    hash(500_000)
    yield `${i}\n`
  }
}

const BlockingStreamLive = BlockingStream.toLayer({ count: ({ to }) => Stream.fromIterable(counting(to)) })

export default ThreadStream.module({ count: ({ to }) => counting(to) })

class Client extends WorkerPool.Service<Client, typeof import("./modules/client.ts")>()("Client", {
  module: new URL("./modules/client.ts", import.meta.url)
}) {}

const Http = HttpIngress.layerNode({ "/blocking": BlockingStream, "/thread": ThreadStream }, { port: 0 }).pipe(
  Layer.provide(BlockingStreamLive),
  Layer.provide(ThreadStream.toLayerModule(new URL(import.meta.url), { poolSize: 1 }))
)

export const program = Effect.gen(function* () {
  const { url } = yield* HttpIngress.Address
  const client = yield* Client
  const measure = (path: string) =>
    TestServe.blocked(
      client.send([
        { name: "stream", url: `${url}/${path}/count`, payload: { to: 6 } },
        ...[1, 2, 3].map((i) => ({ name: `health ${i}`, url: `${url}/-/healthz`, after: 100 * i }))
      ])
    )
  const [onLoop, reports] = yield* measure("blocking")
  const [onThread] = yield* measure("thread")

  yield* printChart([
    { title: "The mistake: the generator runs on the loop", calls: onLoop },
    { title: "Deployment.Blocking: it runs on a thread", calls: onThread }
  ])
  yield* printEnd(
    culprits(reports),
    "On the loop, the first element comes when the last one does, for there is no time to send it. " +
      "On a thread each comes when it is ready, and the loop has time for others."
  )
  const result = (calls: typeof onLoop) => {
    const [stream] = named(calls, "stream")
    return {
      first: stream!.elements![0]!,
      took: took([stream!]),
      pieces: stream!.elements!.length,
      health: slowest(named(calls, "health"))
    }
  }
  return { onLoop: result(onLoop), onThread: result(onThread), culprits: culprits(reports) }
}).pipe(Effect.provide(Layer.merge(Http, Client.layer({ size: 1 }))))
