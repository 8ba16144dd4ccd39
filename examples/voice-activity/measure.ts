/**
 * Measures how many microphones one replica listens to: `npm run example:voice:measure`, about three minutes, prints the table that
 * README.md shows.
 *
 * The example runs as a program of its own. So many clients at a time send the recording over WebSockets as fast as it was spoken,
 * 40 ms at a time. A segment is late by the time from when the sound was due to be sent by which it can be known to have ended until
 * it is there.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Schedule } from "effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { type AddressInfo, createServer } from "node:net"
import { fileURLToPath } from "node:url"
import { expected, speech } from "./samples.ts"

const rounds = 3
const streams = [1, 50, 100, 150, 200, 250]
const copies = 100

/** Milliseconds of sound in a message, and its bytes. */
const pace = 40
const piece = (16_000 * 2 * pace) / 1000
const sound = speech.subarray(44)
const seconds = sound.length / 2 / 16_000

const program = Effect.gen(function* () {
  const server = yield* start
  const measured = new Map(streams.map((count) => [count, Array.of<Measured>()]))
  yield* upload(server)
  const uploads: Array<number> = []
  for (let round = 1; round <= rounds; round++) {
    yield* Console.error(`Round ${round} of ${rounds}`)
    uploads.push(yield* upload(server))
    for (const count of streams) measured.get(count)!.push(yield* measure(server, count))
  }
  yield* Console.log(table(measured))
  yield* Console.log(
    `\nA file of ${(copies * seconds).toFixed(0)} s: ${summary(uploads, 0)} times as fast as it was spoken`
  )
}).pipe(Effect.scoped)

interface Measured {
  /** Share of a core that the server used. */
  readonly cores: number
  /** Segments that came, of those that there are. */
  readonly found: number
  /** Milliseconds by which segments were late, sorted. */
  readonly late: ReadonlyArray<number>
}

// Lets the example say how much processor time it has used.
const listener = "process.on('message', () => process.send(process.cpuUsage()))"

/** Starts the example on a free port and waits until it is ready. */
const start = Effect.gen(function* () {
  const port = yield* freePort
  const main = fileURLToPath(new URL("main.ts", import.meta.url))
  const program = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(
        process.execPath,
        ["--conditions=effect-serve-source", "--import", `data:text/javascript,${encodeURIComponent(listener)}`, main],
        {
          env: { ...process.env, PORT: `${port}`, SERVE_VOICE_ACTIVITY_MAX_ONGOING_REQUESTS: "1000" },
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

/** Sends a long recording at once, and gives how many times as fast as it was spoken the answer was there. */
const upload = ({ url }: Effect.Success<typeof start>) =>
  Effect.promise(async () => {
    const from = performance.now()
    const response = await fetch(`${url}/vad/raw`, {
      method: "POST",
      headers: { "content-type": "application/octet-stream", accept: "application/x-ndjson" },
      body: Buffer.concat(Array.from({ length: copies }, () => sound))
    })
    const found = (await response.text()).trim().split("\n").length
    if (found < copies * expected.length) throw new Error(`${response.status}: only ${found} segments`)
    return (1000 * copies * seconds) / (performance.now() - from)
  })

/** Lets so many clients speak at once. */
const measure = Effect.fnUntraced(function* ({ processor, url }: Effect.Success<typeof start>, count: number) {
  const used = yield* processor
  const from = performance.now()
  const spread = Array.from({ length: count }, (_, i) => (i * pace * 10) / count)
  const late = yield* Effect.forEach(spread, (delay) => speak(url, from + delay), { concurrency: "unbounded" })
  const elapsed = performance.now() - from
  return {
    cores: ((yield* processor) - used) / elapsed,
    found: late.flat().length / (count * expected.length),
    late: late.flat().toSorted((a, b) => a - b)
  } satisfies Measured
})

/** Sends the recording from a time on, and gives by how much each segment was late. */
const speak = (url: string, from: number) =>
  Effect.promise(async () => {
    const socket = new WebSocket(url.replace("http", "ws") + "/live")
    await once(socket, "open")
    const late: Array<number> = []
    socket.addEventListener("message", ({ data }) => late.push(performance.now() - dueAt(from, JSON.parse(data).end)))
    const closed = once(socket, "close")
    socket.send(speech.subarray(0, 44))
    for (let i = 0; i * piece < sound.length; i++) {
      await Effect.runPromise(Effect.sleep(Math.max(0, from + (i + 1) * pace - performance.now())))
      socket.send(sound.subarray(i * piece, (i + 1) * piece))
    }
    socket.send("end")
    await closed
    return late
  })

/** When the message with the window is sent that is the last of the silence after a segment: five after the end of speech. */
const dueAt = (from: number, end: number) =>
  from + pace * Math.ceil((2 * (Math.round(16_000 * end) - 480 + 5 * 512)) / piece)

const table = (measured: ReadonlyMap<number, ReadonlyArray<Measured>>) => {
  const row = (label: string, digits: number, of: (value: Measured) => number) =>
    `| ${label} | ${Array.from(measured.values(), (values) => summary(values.map(of), digits)).join(" | ")} |`
  const share = (wanted: number) => (value: Measured) => value.late[Math.floor(wanted * (value.late.length - 1))]!
  return `
| median (range) of ${rounds} rounds | ${Array.from(measured.keys(), (count) => `${count} streams`).join(" | ")} |
|---|${"---|".repeat(measured.size)}
${[
  row("segments found, %", 0, ({ found }) => 100 * found),
  row("late, p50 in ms", 1, share(0.5)),
  row("late, p99 in ms", 1, share(0.99)),
  row("cores that the server used", 2, ({ cores }) => cores)
].join("\n")}`
}

const summary = (values: ReadonlyArray<number>, digits: number) => {
  const [low, median, high] = [0, Math.floor(values.length / 2), values.length - 1].map(
    (i) => values.toSorted((a, b) => a - b)[i]!
  )
  return `${median!.toFixed(digits)} (${low!.toFixed(digits)} to ${high!.toFixed(digits)})`
}

NodeRuntime.runMain(program)
