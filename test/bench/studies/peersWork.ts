/**
 * What the systems are asked in the study `peers`: the requests, and what has to be answered.
 */
import { type Kind, type Question, type System } from "../peers/systems.ts"
import { eventOf } from "../peers/web.ts"
import { hash } from "../peers/hash.ts"

export interface Workload {
  readonly title: string
  readonly kind: Kind
  readonly unit: "request" | "event"
  /** What one answer counts for. */
  readonly units: number
  readonly questions: (system: System) => ReadonlyArray<Question>
  /** What every server has to refuse. */
  readonly wrong: string
}

const same = (body: unknown): Question => ({ request: JSON.stringify(body), answer: body })

// No score is whole, because Python would write 1.0 for it.
const rowOf = (id: number, text: string) => ({ id, name: `item ${id}`, score: id + 0.5, isOpen: id % 2 === 0, text })

const sentence = "the quick brown fox jumps over "
const texts = { "100 bytes": sentence, "10 kB": sentence.repeat(325) }

const times = <A>(count: number, of: (i: number) => A) => Array.from({ length: count }, (_, i) => of(i))

const echo = (kind: "echo" | "chain", size: keyof typeof texts, connections: number): Workload => ({
  title: `An echo of ${size}${kind === "chain" ? " through two deployments" : ""}, ${connections === 1 ? "one connection" : `${connections} connections`}`,
  kind,
  unit: "request",
  units: 1,
  questions: () => times(connections, (i) => same(rowOf(i, texts[size]))),
  wrong: JSON.stringify({ ...rowOf(1, texts[size]), id: "1" })
})

const levels = [1, 64, 256]

const batches: Workload = {
  title: "Batches, 64 connections",
  kind: "batch",
  unit: "request",
  units: 1,
  questions: (system) =>
    times(64, (x) => {
      const { answer, request } = system.batch?.(x) ?? { request: { x }, answer: { y: 2 * x } }
      return { request: JSON.stringify(request), answer }
    }),
  wrong: JSON.stringify({ x: "1" })
}

const hashes: Workload = {
  title: "A hash of some milliseconds, 2 threads or processes, 8 connections",
  kind: "cpu",
  unit: "request",
  units: 1,
  questions: () => times(8, (x) => ({ request: JSON.stringify({ x }), answer: { hash: hash(x) } })),
  wrong: JSON.stringify({ x: "1" })
}

export const streamed = (
  kind: "stream" | "chainStream",
  count: number,
  delay: number,
  connections: number
): Workload => ({
  title: `Streams of ${count} events${kind === "chainStream" ? " through two deployments" : ""}, ${connections} connections`,
  kind,
  unit: "event",
  units: count,
  questions: () =>
    times(connections, () => ({ request: JSON.stringify({ count, delay }), answer: times(count, eventOf) })),
  wrong: JSON.stringify({ count: "1", delay })
})

export const workloads: ReadonlyArray<Workload> = [
  ...(["100 bytes", "10 kB"] as const).flatMap((size) => levels.map((level) => echo("echo", size, level))),
  ...(["100 bytes", "10 kB"] as const).flatMap((size) => levels.map((level) => echo("chain", size, level))),
  batches,
  hashes,
  streamed("stream", 50, 0, 16),
  streamed("stream", 1000, 0, 16)
]

/** Whether a server of this kind has both cores, and the load sleeps. */
export const needsBothCores = (kind: Kind) => kind === "cpu"
