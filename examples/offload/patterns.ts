/**
 * Ways to run work that holds a thread, in an app that has other things to do.
 *
 * The work is the same in each: `count` passwords are hashed, or as many texts compressed.
 */
import { Effect, Layer, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment, WorkerPool } from "effect-serve"
import { createHash, pbkdf2 } from "node:crypto"
import { availableParallelism } from "node:os"
import { promisify } from "node:util"
import { gzip } from "node:zlib"
import { Hasher } from "./Hasher.ts"
import { compress, hash, ITERATIONS } from "./tasks.ts"

/** The functions of `tasks.ts`, on threads. */
export class Tasks extends WorkerPool.Service<Tasks, typeof import("./tasks.ts")>()("Tasks", {
  module: new URL("tasks.ts", import.meta.url)
}) {}

/** The same functions as handlers on the app's own loop: what not to do. */
class OnLoop extends Deployment.Service<OnLoop>()("OnLoop", [
  Rpc.make("hash", { payload: { password: Schema.String }, success: Schema.String }),
  Rpc.make("compress", { payload: { text: Schema.String }, success: Schema.Int })
]) {}

const OnLoopLive = OnLoop.toLayer({
  hash: ({ password }) => Effect.sync(() => hash(password)),
  compress: ({ text }) => Effect.sync(() => compress(text))
})

export const PatternsLive = Layer.mergeAll(
  OnLoopLive,
  // One thread a core, because the app's own loop has next to nothing to do. By default one core is left to it.
  Tasks.layer({ size: availableParallelism() }),
  Hasher.toLayerModule(new URL("hasher.module.ts", import.meta.url), { isolation: "thread" })
)

const hashAsync = promisify(pbkdf2)
const compressAsync = promisify(gzip)

// Both compute on a thread of libuv.
const hashNatively = (password: string) => Effect.promise(() => hashAsync(password, "salt", ITERATIONS, 32, "sha256"))
const compressNatively = (text: string) => Effect.promise(() => compressAsync(text))

/** A log of 5 MB, one line a request. */
const log = Array.from({ length: 50_000 }, (_, i) => {
  const id = createHash("sha256").update(`${i}`).digest("hex")
  return `2026-01-01T00:00:00Z info request=${id} status=200\n`
}).join("")

/** One after the other. Each call has its own turn of the loop, like a request that comes from outside. */
const oneByOne = <A, E, R>(items: ReadonlyArray<string>, work: (item: string) => Effect.Effect<A, E, R>) =>
  Effect.forEach(items, (item) => Effect.andThen(Effect.yieldNow, work(item)), { discard: true })

/** All at once; a pool or a library runs as many of them as it has threads. */
const fanOut = <A, E, R>(items: ReadonlyArray<string>, work: (item: string) => Effect.Effect<A, E, R>) =>
  Effect.forEach(items, work, { concurrency: "unbounded", discard: true })

/** Each pattern, with work of `count` calls. */
export const patterns = Effect.fnUntraced(function* (count: number) {
  const onLoop = yield* OnLoop
  const tasks = yield* Tasks
  const hasher = yield* Hasher
  const passwords = Array.from({ length: count }, (_, i) => `correct horse battery staple ${i}`)
  const texts = passwords.map(() => log)

  return [
    { name: "hash on the app's loop", work: oneByOne(passwords, (password) => onLoop.hash({ password })) },
    { name: "WorkerPool", work: oneByOne(passwords, (password) => tasks.hash(password)) },
    { name: "blocking method", work: oneByOne(passwords, (password) => hasher.hashBlocking({ password })) },
    { name: "replica in a thread", work: oneByOne(passwords, (password) => hasher.hash({ password })) },
    { name: "crypto.pbkdf2, async", work: oneByOne(passwords, hashNatively) },
    { name: "fan-out over WorkerPool", work: fanOut(passwords, (password) => tasks.hash(password)) },
    { name: "fan-out over crypto.pbkdf2", work: fanOut(passwords, hashNatively) },
    { name: "gzipSync on the app's loop", work: oneByOne(texts, (text) => onLoop.compress({ text })) },
    { name: "zlib.gzip, async", work: oneByOne(texts, compressNatively) }
  ]
})
