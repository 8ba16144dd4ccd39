/**
 * A stream that waits between its elements: `npm run example -- 19`.
 *
 * The page's `AsyncStream`, an `async def` generator with an `await` before each `yield`. Here a handler returns a Stream: the loop is free
 * between two elements, several streams go on at once, and a reader that leaves ends the handler.
 */
import { Effect, Layer, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment, HttpIngress, WorkerPool } from "effect-serve"
import * as TestServe from "effect-serve/testing"
import { culprits, named, slowest, took } from "./calls.ts"
import { printChart, printEnd } from "./chart.ts"

export const title = "streams that wait between elements go on side by side"

class AsyncStream extends Deployment.Service<AsyncStream>()("AsyncStream", [
  Rpc.make("count", { payload: { to: Schema.Int }, success: Schema.String, stream: true })
]) {}

let sent = 0
let ended = 0

const AsyncStreamLive = AsyncStream.toLayer({
  count: ({ to }) =>
    Stream.range(1, to).pipe(
      Stream.mapEffect((i) => Effect.delay(Effect.succeed(`${i}\n`), "100 millis")),
      Stream.tap(() => Effect.sync(() => sent++)),
      Stream.ensuring(Effect.sync(() => ended++))
    )
})

class Client extends WorkerPool.Service<Client, typeof import("./modules/client.ts")>()("Client", {
  module: new URL("./modules/client.ts", import.meta.url)
}) {}

const Http = HttpIngress.layerNode({ "/async": AsyncStream }, { port: 0 }).pipe(Layer.provideMerge(AsyncStreamLive))

export const program = Effect.gen(function* () {
  const { url } = yield* HttpIngress.Address
  const client = yield* Client
  const [calls, reports] = yield* TestServe.blocked(
    client.send([
      ...[1, 2, 3].map((i) => ({ name: `stream ${i}`, url: `${url}/async/count`, payload: { to: 8 } })),
      ...[1, 2, 3].map((i) => ({ name: `health ${i}`, url: `${url}/-/healthz`, after: 200 * i }))
    ])
  )
  const streams = named(calls, "stream")

  // A reader that has enough after two elements of a thousand.
  const { count } = yield* AsyncStream
  sent = ended = 0
  yield* Stream.runDrain(Stream.take(count({ to: 1000 }), 2))
  const left = { sent, ended }

  yield* printChart([{ title: "Three streams of eight elements, over HTTP", calls }])
  yield* printEnd(
    culprits(reports),
    `Each element came when it was ready, and three streams took ${took(streams).toFixed(0)} ms, as long as one. ` +
      `A reader that left after two elements of a thousand ended its handler, which had made ${left.sent}.`
  )
  return {
    took: took(streams),
    firsts: streams.map(({ elements }) => elements![0]!),
    pieces: streams.map(({ elements }) => elements!.length),
    health: slowest(named(calls, "health")),
    left,
    culprits: culprits(reports)
  }
}).pipe(Effect.provide(Layer.merge(Http, Client.layer({ size: 1 }))))
