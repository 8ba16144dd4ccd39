/**
 * Where the microseconds of a small echo go, in effect-serve, in Fastify, and in node:http alone.
 *
 * Each server runs under the load of the study `http` with V8's sampling profiler, which says in which function the CPU was; functions are put
 * together by the file they are in. Then the servers take turns without the profiler, and each part gets its share of the CPU time that a
 * request took there, so that what the profiler itself costs is not counted.
 */
import { Console, Effect } from "effect"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parts } from "../harness/chart.ts"
import { launch } from "../harness/processTree.ts"
import { cpu, of, race, startNode, times } from "../harness/race.ts"
import type { Study } from "../harness/Study.ts"
import { medianOf, table } from "../harness/table.ts"

const CONNECTIONS = 64
const ROUNDS = 5
/** Microseconds between two samples, and milliseconds in which a server is watched. */
const INTERVAL = 100
const WATCHED = 6000

const programs = [
  ["effect-serve", new URL("../servers/webServer.ts", import.meta.url), ["node"]],
  ["Fastify", new URL("../peers/fastify.ts", import.meta.url), []],
  ["node:http", new URL("../peers/bare.ts", import.meta.url), []]
] as const

const exchanges = Array.from({ length: CONNECTIONS }, (_, id) => {
  const row = JSON.stringify({
    id,
    name: `item ${id}`,
    score: id / 4,
    isOpen: true,
    text: "the quick brown fox jumps over"
  })
  return { request: row, answer: row }
})

const load = { path: "/echo/small", exchanges, contentType: "application/json", units: 1, head: 1 }

/**
 * The parts, each with the functions that are in it, by their names and their files; the first one that fits has it. What V8 has built in, as
 * JSON is, is counted where it is called.
 */
const kinds: ReadonlyArray<readonly [part: string, fits: (name: string, url: string) => boolean]> = [
  ["garbage collection", (name) => name === "(garbage collector)"],
  [
    "kernel: reading and writing sockets",
    (name, url) => url === "" && /^(\(program\)|write|shutdown|readStart)/.test(name)
  ],
  ["node:http, net and streams", (_, url) => url === "" || url.startsWith("node:")],
  [
    "JSON, and checking it",
    (name, url) =>
      /Schema|ajv|fast-json-stringify|secure-json-parse|peers\/bare\.ts$/.test(url) ||
      (/exchange\/(Payload|Answer)\.ts$/.test(url) && /^(json|success|toText)$/.test(name)) ||
      /^(validate|anonymous)\d*$/.test(name)
  ],
  ["Effect: fibers and contexts", (_, url) => url.includes("/node_modules/effect/")],
  ["Fastify", (_, url) => url.includes("/node_modules/")],
  ["ingress: routes, bodies, heads of answers", (_, url) => /\/src\/(ingress|exchange)\//.test(url)],
  ["deployment: context, admission, permit, deadline, counts", (_, url) => url.includes("/src/")],
  ["the handler", () => true]
]

interface Profile {
  readonly nodes: ReadonlyArray<{
    readonly id: number
    readonly callFrame: { readonly functionName: string; readonly url: string }
  }>
  readonly samples: ReadonlyArray<number>
  readonly timeDeltas: ReadonlyArray<number>
}

/** The share of each part, of the last samples, those of the time in which the server was watched. */
const sharesOf = ({ nodes, samples, timeDeltas }: Profile) => {
  const frames = new Map(nodes.map(({ callFrame, id }) => [id, callFrame]))
  const sums = new Map<string, number>()
  let whole = 0
  let before = 0
  for (let i = samples.length - 1; i >= 0 && before < WATCHED * 1000; i--) {
    const { functionName, url } = frames.get(samples[i]!)!
    before += timeDeltas[i]!
    if (functionName === "(idle)" || functionName === "(root)") continue
    const [kind] = kinds.find(([, fits]) => fits(functionName, url))!
    sums.set(kind, (sums.get(kind) ?? 0) + timeDeltas[i]!)
    whole += timeDeltas[i]!
  }
  return new Map(Array.from(sums, ([kind, sum]) => [kind, sum / whole]))
}

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "profile"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

const generatorProgram = fileURLToPath(new URL("../harness/generator.ts", import.meta.url))

/** Runs a server under load with the profiler. */
const profileOf = Effect.fnUntraced(function* ([name, program, args]: (typeof programs)[number]) {
  const path = yield* folder
  const flags = ["--cpu-prof", `--cpu-prof-dir=${path}`, `--cpu-prof-interval=${INTERVAL}`]
  yield* Effect.scoped(
    Effect.gen(function* () {
      const command = [process.execPath, "--conditions=effect-serve-source", ...flags, fileURLToPath(program), ...args]
      const { disconnect, ended, ready } = yield* launch({ name, command, core: 0, hasMessages: true })
      const port = Number(yield* ready)
      const { ask } = yield* launch({
        name: "The load generator",
        command: [process.execPath, generatorProgram],
        core: 1,
        hasMessages: true
      })
      yield* ask({ ...load, port })
      yield* Effect.sleep(2000 + WATCHED)
      // The server ends, and writes what it saw.
      disconnect()
      yield* Effect.ignore(ended)
    })
  )
  const [file] = readdirSync(path).filter((file) => file.includes(".0."))
  return sharesOf(JSON.parse(readFileSync(join(path, file!), "utf8")) as Profile)
}, Effect.scoped)

export const breakdown: Study = {
  name: "breakdown",
  measure: Effect.gen(function* () {
    const shares = yield* Effect.forEach(programs, profileOf)
    const servers = yield* Effect.forEach(programs, ([name, program, args]) => startNode(name, program, args, 0))
    const rounds = yield* race(
      servers.map(({ name, pid, port }) => ({ name, pid, load: { ...load, port }, times })),
      ROUNDS
    )
    const micros = servers.map(({ name }) => medianOf(of(rounds, name, cpu)))
    const rows = kinds
      .map(([kind]) => ({ kind, values: shares.map((share, i) => (share.get(kind) ?? 0) * micros[i]!) }))
      .filter(({ values }) => values.some((value) => value >= 0.05))
    const text = table([
      ["part", ...programs.map(([name]) => `${name}, us`)],
      ...rows.map(({ kind, values }) => [kind, ...values.map((value) => value.toFixed(1))]),
      ["in all", ...micros.map((value) => value.toFixed(1))]
    ])
    yield* Console.log(text)
    return {
      title: "Where a request's microseconds go",
      text: `A small echo over HTTP at ${CONNECTIONS} connections. Each server ran for ${WATCHED / 1000} s with V8's sampling profiler, a sample every ${INTERVAL} us, and functions are put
together by the files they are in; then the servers took turns without it in ${ROUNDS} rounds, and each part has its share of the CPU time
of a request there. What the profiler can't see into, \`(program)\`, is counted as the kernel's.

${text}`,
      verdicts: [],
      data: { shares: shares.map((share) => Object.fromEntries(share)), rounds },
      charts: {
        "breakdown.svg": parts(
          "Where a request's microseconds go",
          "us of CPU",
          programs.map(([name], i) => ({
            name,
            parts: rows.map(({ kind, values }) => ({ name: kind, value: values[i]! }))
          }))
        )
      }
    }
  }).pipe(Effect.scoped)
}
