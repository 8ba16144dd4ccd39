/**
 * What the benchmark `remote` asks of another process: the methods, the same handlers for those who take them, the workloads, and the
 * loops of callers that run them.
 */
import { Deployment } from "effect-serve"
import { Effect, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { eventOf } from "../peers/web.ts"

export const Echo = Schema.Struct({ text: Schema.String, n: Schema.Int })
export const Vector = Schema.Struct({ vector: Schema.Array(Schema.Finite) })
export const Item = Schema.Struct({ index: Schema.Int, text: Schema.String })
export const Bytes = Schema.Struct({ bytes: Schema.Uint8Array })
const count = { count: Schema.Int }

export const methods = [
  Rpc.make("echo", { payload: Echo, success: Echo }),
  Rpc.make("bytes", { payload: Bytes, success: Bytes }),
  Rpc.make("vector", { payload: Vector, success: Vector }),
  Rpc.make("single", { payload: count, success: Item, stream: true }),
  Rpc.make("natural", { payload: count, success: Item, stream: true })
] as const

export class Work extends Deployment.Service<Work>()("Work", methods) {}

const items = (count: number) => Stream.map(Stream.range(0, count - 1), eventOf)

export const handlers = Work.of({
  echo: (body) => Effect.succeed(body),
  bytes: (body) => Effect.succeed(body),
  vector: (body) => Effect.succeed(body),
  single: ({ count }) => Stream.rechunk(items(count), 1),
  natural: ({ count }) => items(count)
})

/** A method, and by how many callers it is called at once. What counts is a call, or an item of a stream. */
export interface Workload {
  readonly title: string
  readonly method: (typeof methods)[number]["_tag"]
  readonly inFlight: number
  /** Items of each stream, and 1 for a call. */
  readonly units: number
  readonly unit: "call" | "item"
  /** What the time and the CPU time of a unit are shown in. */
  readonly scale: "us" | "ms"
}

const calls = { units: 1, unit: "call", scale: "us" } as const
const stream = { unit: "item", scale: "us" } as const

export const workloads: ReadonlyArray<Workload> = [
  { ...calls, title: "A small echo, one at a time", method: "echo", inFlight: 1 },
  { ...calls, title: "A small echo, 64 in flight", method: "echo", inFlight: 64 },
  { ...calls, title: "1 MB there and back, one at a time", method: "bytes", inFlight: 1, scale: "ms" },
  { ...calls, title: "384 numbers there and back, 16 in flight", method: "vector", inFlight: 16 },
  { ...stream, title: "A stream of 5,000 items", method: "single", inFlight: 1, units: 5000 },
  { ...stream, title: "16 streams of 1,000 items", method: "single", inFlight: 16, units: 1000 },
  { ...stream, title: "A stream of 5,000 items, in chunks", method: "natural", inFlight: 1, units: 5000 }
]

const text = "the quick brown fox jumps over"

/** What call `i` of each method sends. */
export const payloads = {
  echo: (i: number): typeof Echo.Type => ({ text, n: i }),
  bytes: (i: number): typeof Bytes.Type => ({ bytes: filled(i) }),
  vector: (): typeof Vector.Type => ({ vector })
}

const megabyte = Uint8Array.from({ length: 1_000_000 }, (_, i) => (i * 31) % 251)
const vector = Array.from({ length: 384 }, (_, i) => Math.sin(i))

/** The same bytes each time, but for the first ones, so that one answer can't be taken for another one. */
const filled = (i: number) => {
  new DataView(megabyte.buffer).setUint32(0, i)
  return megabyte
}

const check = (isRight: boolean, method: string) => {
  if (!isRight) throw new Error(`A wrong answer of "${method}"`)
}

/** Throws when the answer to call `i` is not what it sent, or an item of a stream is not the next one. */
export const checks = {
  echo: (answer: typeof Echo.Type, i: number) => check(answer.text === text && answer.n === i, "echo"),
  bytes: ({ bytes }: typeof Bytes.Type, i: number) => check(Buffer.compare(bytes, filled(i)) === 0, "bytes"),
  vector: (answer: typeof Vector.Type) =>
    check(answer.vector.length === vector.length && vector.every((x, i) => answer.vector[i] === x), "vector"),
  item: (item: typeof Item.Type, i: number) => check(item.index === i && item.text === eventOf(i).text, "a stream"),
  count: (items: number, expected: number) => check(items === expected, "a stream, which ended early")
}

/** What a client has done in a turn, and the CPU time that it used. */
export interface Done {
  readonly units: number
  readonly millis: number
  readonly cpu: number
}

/** Asked for a turn of a workload: its place in the list, and for how many milliseconds calls are begun. */
export interface Turn {
  readonly workload: number
  readonly millis: number
}

/** Runs the turns that the benchmark asks for. `run` begins calls while `isOver` is false, and gives how many it has made. */
export const takeTurns = (run: (workload: Workload, isOver: () => boolean) => Promise<number>): void => {
  const turn = async ({ millis, workload }: Turn): Promise<Done> => {
    const { units } = workloads[workload]!
    const before = process.cpuUsage()
    const start = performance.now()
    const calls = await run(workloads[workload]!, () => performance.now() - start >= millis)
    const end = performance.now()
    const { system, user } = process.cpuUsage(before)
    return { units: calls * units, millis: end - start, cpu: (system + user) / 1000 }
  }
  process.on("message", (message: Turn) => void turn(message).then((done) => process.send!(done)))
  process.on("disconnect", () => process.exit())
  process.send!(0)
}
