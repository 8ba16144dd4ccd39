/**
 * Measures what threads give: `npm run example:ocr:measure`, about two minutes, prints the table that README.md shows.
 *
 * The example runs three times as a program of its own: with the model on the thread that also serves HTTP, in one thread, and in two.
 * In each round each of them gets its turn, from 8 clients that send one line after the other; the others are idle meanwhile. At the
 * same time the light endpoint is called every 10 ms, whether or not it has answered before; its time counts from when it was due.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Schedule } from "effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { type AddressInfo, createServer } from "node:net"
import { fileURLToPath } from "node:url"
import { samples } from "./samples.ts"

const rounds = 7
const seconds = 3

const servers = {
  "on the app's loop": {
    SERVE_READER_ISOLATION: "loop",
    SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "0",
    SERVE_READER_REPLICAS: "1"
  },
  "1 thread": { SERVE_READER_REPLICAS: "1" },
  "2 threads": { SERVE_READER_REPLICAS: "2" }
}

const program = Effect.gen(function* () {
  const started = yield* Effect.forEach(Object.entries(servers), ([name, settings]) =>
    Effect.map(start(settings), (server) => ({ name, ...server }))
  )
  const cases = [
    { name: "nothing to read", clients: 0, server: started[1]! },
    ...started.map((server) => ({ name: server.name, clients: 8, server }))
  ]
  const measured = new Map(cases.map(({ name }) => [name, Array.of<Measured>()]))
  // The first round warms up.
  for (let round = 0; round <= rounds; round++) {
    yield* Console.error(round === 0 ? "Warming up" : `Round ${round} of ${rounds}`)
    for (const { clients, name, server } of round % 2 === 0 ? cases : cases.toReversed()) {
      const value = yield* measure(server, clients)
      if (round > 0) measured.get(name)!.push(value)
    }
  }
  yield* Console.log(table(measured))
}).pipe(Effect.scoped)

interface Measured {
  readonly perSecond: number
  readonly processorMillis: number
  /** Milliseconds that the light endpoint took, sorted. */
  readonly latencies: ReadonlyArray<number>
}

// Lets the example say how much processor time it has used.
const listener = "process.on('message', () => process.send(process.cpuUsage()))"

interface Server {
  readonly url: string
  /** Processor time that it has used, in milliseconds. */
  readonly processor: Effect.Effect<number>
}

/** Starts the example on a free port and waits until it is ready. */
const start = Effect.fnUntraced(function* (settings: Readonly<Record<string, string>>) {
  const port = yield* freePort
  const main = fileURLToPath(new URL("main.ts", import.meta.url))
  const program = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(
        process.execPath,
        ["--conditions=effect-serve-source", "--import", `data:text/javascript,${encodeURIComponent(listener)}`, main],
        { env: { ...process.env, ...settings, PORT: `${port}` }, stdio: ["ignore", "ignore", "ignore", "ipc"] }
      )
    ),
    (program) => Effect.sync(() => program.kill("SIGKILL"))
  )
  const url = `http://127.0.0.1:${port}`
  yield* Effect.tryPromise(() => fetch(`${url}/-/healthz`)).pipe(
    Effect.retry({ schedule: Schedule.spaced("100 millis"), times: 600 })
  )
  const processor = Effect.promise(async () => {
    program.send("processor")
    const [{ system, user }] = await once(program, "message")
    return (system + user) / 1000
  })
  return { url, processor } satisfies Server
})

const freePort = Effect.promise(async () => {
  const server = createServer().listen(0)
  await once(server, "listening")
  const { port } = server.address() as AddressInfo
  server.close()
  return port
})

const bodies = samples.map(({ file }) => JSON.stringify({ image: file.toString("base64") }))

/** Sends a request as a client does, and reads the answer. */
const post = (url: string, body: string) =>
  Effect.promise(async () => {
    // Important, so that it is not refused while something else keeps this machine busy.
    const headers = { "content-type": "application/json", "x-request-priority": "critical" }
    const response = await fetch(url, { method: "POST", headers, body })
    if (!response.ok) throw new Error(await response.text())
    return response.json()
  })

/** Lets clients send lines to a server, each one after the other, and calls its light endpoint meanwhile. */
const measure = Effect.fnUntraced(function* ({ processor, url }: Server, clients: number) {
  const used = yield* processor
  const from = performance.now()
  const until = from + 1000 * seconds
  let next = 0
  let done = 0
  const latencies: Array<number> = []

  const client = Effect.gen(function* () {
    while (performance.now() < until) {
      yield* post(`${url}/reader/recognize`, bodies[next++ % bodies.length]!)
      done++
    }
  })
  const lightCall = Effect.fnUntraced(function* (due: number) {
    yield* Effect.sleep(due - performance.now())
    // A timer may be a little early.
    const counted = Math.min(due, performance.now())
    yield* post(`${url}/status/show`, "")
    latencies.push(performance.now() - counted)
  })
  const lightCalls = Effect.forEach(
    Array.from({ length: 100 * seconds }, (_, i) => from + 10 * i),
    lightCall,
    { concurrency: "unbounded" }
  )
  yield* Effect.all([...Array.from({ length: clients }, () => client), lightCalls], { concurrency: "unbounded" })

  const elapsed = performance.now() - from
  return {
    perSecond: (1000 * done) / elapsed,
    processorMillis: ((yield* processor) - used) / done,
    latencies: latencies.toSorted((a, b) => a - b)
  } satisfies Measured
})

const table = (measured: ReadonlyMap<string, ReadonlyArray<Measured>>) => {
  const cells = Array.from(measured.values())
  const [, loop] = cells
  const row = (label: string, digits: number, of: (value: Measured, round: number) => number) =>
    `| ${label} | ${cells.map((values) => summary(values.map(of), digits)).join(" | ")} |`
  const share = (wanted: number) => (value: Measured) =>
    value.latencies[Math.floor(wanted * (value.latencies.length - 1))]!
  return `
| median (range) of ${rounds} rounds | ${Array.from(measured.keys()).join(" | ")} |
|---|${"---|".repeat(cells.length)}
${[
  row("lines per second", 1, ({ perSecond }) => perSecond),
  row("times as many as on the app's loop", 2, ({ perSecond }, round) => perSecond / loop![round]!.perSecond),
  row("processor time per line, ms", 1, ({ processorMillis }) => processorMillis),
  row("light endpoint, p50 in ms", 1, share(0.5)),
  row("light endpoint, p99 in ms", 1, share(0.99))
].join("\n")}`
}

const summary = (values: ReadonlyArray<number>, digits: number) => {
  const sorted = values.toSorted((a, b) => a - b)
  const [median, low, high] = [sorted[Math.floor(sorted.length / 2)]!, sorted[0]!, sorted.at(-1)!]
  if (!Number.isFinite(median) || high === 0) return "–"
  return `${median.toFixed(digits)} (${low.toFixed(digits)} to ${high.toFixed(digits)})`
}

NodeRuntime.runMain(program)
