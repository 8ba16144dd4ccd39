/**
 * What reads the streams of an ingress, from outside of its process where it can.
 */
import { assert } from "@effect/vitest"
import { Deployment, HttpIngress, HttpSchema } from "effect-serve"
import { Effect, Layer, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"

const event = HttpSchema.Event(Schema.Struct({ n: Schema.Int, text: Schema.String }))

export class Feed extends Deployment.Service<Feed>()("Feed", [
  Rpc.make("count", { payload: { to: Schema.Int }, success: event, stream: true }),
  Rpc.make("endless", { success: Schema.String, stream: true })
]) {}

/** Elements of the endless stream that have been made. */
const produced = { count: 0 }

const FeedLive = Feed.toLayer(
  {
    count: ({ to }) =>
      Stream.range(1, to).pipe(Stream.map((n) => ({ id: String(n), event: "number", data: { n, text: `ä\n${n}` } }))),
    endless: () =>
      Stream.fromEffectRepeat(
        Effect.sync(() => {
          produced.count++
          return "x".repeat(1000)
        })
      )
  },
  { gracefulShutdownTimeout: 0 }
)

export const has = (program: string): boolean => spawnSync(program, ["--version"]).status === 0

/** Runs a program until the scope closes. */
export const program = (command: string, ...parameters: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() => spawn(command, parameters, { stdio: ["ignore", "pipe", "ignore"] })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )

/** All that a program prints. */
export const outputOf = (child: ChildProcess) =>
  Effect.callback<string>((resume) => {
    let output = ""
    child.stdout!.on("data", (chunk) => (output += chunk))
    child.on("close", () => resume(Effect.succeed(output)))
  })

const until = <R>(condition: Effect.Effect<boolean, never, R>) =>
  Effect.repeat(Effect.delay(condition, "1 millis"), { until: (isTrue) => isTrue })

const running = Effect.map(Feed.state, ({ running }) => running)
const megabytes = (bytes: number) => bytes / 1024 / 1024

/**
 * A client takes one kilobyte a second of a stream that never ends, for as long as `seconds` say: the handler waits for it, memory
 * doesn't grow, another client is as fast as ever, and nothing is left once the slow one is killed. Tells how long that took.
 */
export const slowReader = (seconds: number) =>
  Effect.gen(function* () {
    const { url } = yield* HttpIngress.Address
    const curl = yield* program(
      "curl",
      "-sN",
      "--limit-rate",
      "1k",
      "-o",
      "/dev/null",
      "-X",
      "POST",
      `${url}/feed/endless`
    )
    yield* until(Effect.map(running, (count) => count === 1))
    // Until all buffers on the way are full.
    yield* until(
      Effect.gen(function* () {
        const before = produced.count
        yield* Effect.sleep("300 millis")
        return before > 0 && produced.count === before
      })
    )
    const parked = produced.count
    const memory = process.memoryUsage().rss
    yield* Effect.sleep(`${seconds} seconds`)
    // In that time it takes so much from the buffers that some room may come.
    assert.isAtMost(produced.count - parked, 200 + seconds * 100)
    assert.isBelow(megabytes(process.memoryUsage().rss - memory), 10)

    const before = performance.now()
    const read = yield* Effect.promise(() => readSome(`${url}/feed/endless`, 20_000_000))
    const rate = megabytes(read) / ((performance.now() - before) / 1000)
    assert.isAbove(rate, 10, "megabytes per second of another client")
    yield* until(Effect.map(running, (count) => count === 1))

    const killed = performance.now()
    curl.kill("SIGKILL")
    yield* until(Effect.map(running, (count) => count === 0))
    return performance.now() - killed
  })

const readSome = async (url: string, size: number) => {
  const leaving = new AbortController()
  const response = await fetch(url, { method: "POST", signal: leaving.signal })
  let read = 0
  for await (const chunk of response.body!) {
    read += chunk.length
    if (read >= size) break
  }
  leaving.abort()
  return read
}

export const feed = <E, R>(Ingress: Layer.Layer<HttpIngress.Address, E, R | Feed>) =>
  Ingress.pipe(Layer.provideMerge(FeedLive))
