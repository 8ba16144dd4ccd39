/**
 * Starts the servers of the benchmark `peers`, and lets a peer and effect-serve take turns.
 */
import { Cause, Effect, Exit, type Scope } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { request } from "node:http"
import { createServer, type AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { isDeepStrictEqual } from "node:util"
import type { Count, Load } from "./generator.ts"
import { CONNECTIONS, type Exchange, type Peer, type Workload } from "./peersWork.ts"
import { cpuBetween, Failed, launch, processesOf, type Program, pssOf, rssOf } from "./processTree.ts"

export const ROUNDS = 5
/** Milliseconds of a turn: before it is measured, while it is, and after it, for what is still on its way. */
interface Times {
  readonly warmUp: number
  readonly turn: number
  readonly pause: number
}

export const ourTimes: Times = { warmUp: 150, turn: 350, pause: 150 }
export const usualTimes: Times = { warmUp: 150, turn: 600, pause: 150 }
/** Of a peer that gives a hundred answers in a second. */
export const slowTimes: Times = { warmUp: 600, turn: 1200, pause: 600 }
const timesOf = ({ isSlow }: Peer) => (isSlow === true ? slowTimes : usualTimes)

/** Milliseconds of load before the first turn: of effect-serve, which had it with the peer before too, and of a peer. */
const OUR_FIRST_LOAD = 400
export const FIRST_LOAD = 1000

/** Milliseconds in which a server that is asked nothing is watched. */
const IDLE = 1500
const START_LIMIT = 60_000

const folder = fileURLToPath(new URL("./peers/python/", import.meta.url))
export const python = fileURLToPath(new URL("../../.peers/bin/python", import.meta.url))

/** A server that has given its first right answer. */
export interface Server {
  readonly pid: number
  readonly port: number
  /** Milliseconds from its start until then. */
  readonly startUp: number
}

/** What a server needed before and while it served the echoes. */
export interface Footprint {
  readonly startUp: number
  readonly processes: number
  readonly idleRss: number
  readonly idlePss: number
  /** The share of a core. */
  readonly idleCpu: number
  peakRss: number
}

export interface Turn {
  readonly rate: number
  /** Microseconds of CPU for each request, of the whole tree. */
  readonly cpu: number
  readonly p50: number
  readonly p99: number
  readonly busy: number
}

/** A peer and effect-serve in each round. */
export interface Rounds {
  readonly theirs: ReadonlyArray<Turn>
  readonly ours: ReadonlyArray<Turn>
}

export type Outcome<A> = A | Failed

/** Sends one request. */
const ask = (port: number, path: string, body: string) =>
  Effect.callback<{ readonly status: number; readonly body: string }, Failed>((resume) => {
    const fail = ({ message }: Error) => resume(Effect.fail(new Failed({ why: message })))
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) }
    const sent = request({ host: "127.0.0.1", port, path, method: "POST", headers, agent: false }, (response) => {
      let text = ""
      response.setEncoding("utf8").on("data", (part: string) => (text += part))
      response.once("error", fail).once("end", () => {
        resume(Effect.succeed({ status: response.statusCode!, body: text }))
      })
    })
    sent.once("error", fail).end(body)
    return Effect.sync(() => sent.destroy())
  })

export const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const freePort = Effect.callback<number>((resume) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address() as AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

const untilAnswered = (port: number, path: string, { answer, request }: Exchange): Effect.Effect<void> =>
  ask(port, path, request).pipe(
    Effect.timeout("5 seconds"),
    Effect.map(({ body, status }) => status === 200 && isDeepStrictEqual(parsed(body), answer)),
    Effect.orElseSucceed(() => false),
    Effect.flatMap((isRight) =>
      isRight ? Effect.void : Effect.andThen(Effect.sleep(20), untilAnswered(port, path, { answer, request }))
    )
  )

/** Starts a server, and waits for its first right answer to the first request of a workload. */
const serve = Effect.fnUntraced(function* (
  program: Omit<Program, "core">,
  workload: Workload,
  peer?: { readonly peer: Peer; readonly port: number }
) {
  const since = performance.now()
  const { ended, lastLine, pid, ready } = yield* launch({ ...program, core: 0 })
  const address = peer === undefined ? yield* ready : peer.port
  const port = typeof address === "string" ? Number(new URL(address).port) : address
  const path = peer === undefined ? workload.ourPath : workload.path
  yield* Effect.raceFirst(untilAnswered(port, path, workload.exchanges(peer?.peer)[0]!), ended).pipe(
    Effect.timeoutOrElse({
      duration: START_LIMIT,
      orElse: () => Effect.fail(new Failed({ why: `no right answer within ${START_LIMIT / 1000} s: ${lastLine()}` }))
    })
  )
  return { pid, port, startUp: performance.now() - since } satisfies Server
})

const ourPrograms = {
  echo: [fileURLToPath(new URL("./webServer.ts", import.meta.url)), "node"],
  batch: [fileURLToPath(new URL("./batchingServer.ts", import.meta.url)), "adaptive"]
}

export const serveOurs = (workload: Workload) => {
  const command = [process.execPath, "--conditions=effect-serve-source", ...ourPrograms[workload.kind]]
  return serve({ name: "effect-serve", command, hasMessages: true }, workload)
}

export const servePeer = Effect.fnUntraced(function* (peer: Peer, workload: Workload) {
  const files = yield* Effect.acquireRelease(
    // The path of a socket may have about 100 bytes.
    Effect.sync(() => mkdtempSync(join(tmpdir(), "p"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
  )
  const port = yield* freePort
  const program = {
    name: peer.name,
    command: [python, ...peer.command(workload.kind, port, files)],
    folder,
    environment: { PYTHONDONTWRITEBYTECODE: "1", ...peer.environment?.(workload.kind, files) },
    hasMessages: false
  }
  return yield* serve(program, workload, { peer, port })
})

/** Lets a server answer each request of a workload, and refuse the wrong one; gives the very bytes of its answers. */
const smokeTest = Effect.fnUntraced(function* (
  port: number,
  path: string,
  { exchanges, wrong }: Workload,
  peer?: Peer
) {
  const answers = yield* Effect.forEach(
    exchanges(peer),
    Effect.fnUntraced(function* ({ answer, request }) {
      const { body, status } = yield* ask(port, path, request)
      if (status === 200 && isDeepStrictEqual(parsed(body), answer)) return { request, answer: body }
      return yield* new Failed({ why: `answers ${request.slice(0, 100)} with ${status} ${body.slice(0, 100)}` })
    }),
    { concurrency: CONNECTIONS }
  )
  const { status } = yield* ask(port, path, JSON.stringify(wrong))
  if (status < 400 || status > 499) return yield* new Failed({ why: `answers a wrong body with ${status}` })
  return answers
})

/** What a server needs when it is asked nothing. */
export const idleOf = Effect.fnUntraced(function* (server: Server) {
  yield* Effect.sleep(500)
  const before = processesOf(server.pid)
  yield* Effect.sleep(IDLE)
  return footprintOf(server, before)
})

/** What a server needs now, and the CPU time that it has used since it was seen before. */
export const footprintOf = ({ pid, startUp }: Server, before?: ReturnType<typeof processesOf>): Footprint => {
  const processes = processesOf(pid)
  const rss = rssOf(processes)
  return {
    startUp,
    processes: processes.length,
    idleRss: rss,
    idlePss: pssOf(processes),
    idleCpu: before === undefined ? 0 : cpuBetween(before, processes) / IDLE,
    peakRss: rss
  }
}

/** The load generator, on a core of its own. */
const generate = Effect.map(
  launch({
    name: "The load generator",
    command: [process.execPath, fileURLToPath(new URL("./generator.ts", import.meta.url))],
    core: 1,
    hasMessages: true
  }),
  ({ ask }) => ask
)

/** A server that takes part in a race. */
export interface Runner {
  readonly server: Server
  readonly footprint: Footprint
}

interface Side extends Runner {
  readonly times: Times
  readonly load: Load
}

/** Lets a peer and effect-serve take turns under the same load. */
export const duel = Effect.fnUntraced(function* (workload: Workload, peer: Peer, sides: ReadonlyArray<Runner>) {
  const generator = yield* generate
  const [theirs, ours] = yield* Effect.forEach(
    sides,
    Effect.fnUntraced(function* (side, i) {
      const { port } = side.server
      const path = i === 0 ? workload.path : workload.ourPath
      const exchanges = yield* smokeTest(port, path, workload, i === 0 ? peer : undefined)
      const head = Math.min(...exchanges.map(({ answer }) => Buffer.byteLength(answer)))
      return {
        ...side,
        times: i === 0 ? timesOf(peer) : ourTimes,
        load: { port, path, exchanges, contentType: "application/json", units: 1, head }
      }
    })
  )
  const turn = Effect.fnUntraced(function* ({ footprint, load, server, times }: Side) {
    const usage = Effect.sync(() => processesOf(server.pid))
    const measure = Effect.all([usage, generator<Count>("count")], { concurrency: 2 })
    yield* generator(load)
    yield* Effect.sleep(times.warmUp)
    const [before] = yield* measure
    yield* Effect.sleep(times.turn)
    const [after, { busy, millis, p50, p99, units }] = yield* measure
    footprint.peakRss = Math.max(footprint.peakRss, rssOf(after))
    yield* generator("stop")
    yield* Effect.sleep(times.pause)
    if (units === 0) return yield* new Failed({ why: `${workload.title}: no answer in ${times.turn / 1000} s` })
    const cpu = (1000 * cpuBetween(before, after)) / units
    return { rate: (1000 * units) / millis, cpu, p50, p99, busy } satisfies Turn
  })
  const first = Effect.fnUntraced(function* ({ load, times }: Side, millis: number) {
    yield* generator(load)
    yield* Effect.sleep(millis)
    yield* generator("stop")
    yield* Effect.sleep(times.pause)
  })
  yield* first(ours!, OUR_FIRST_LOAD)
  yield* first(theirs!, workload.kind === "batch" ? (peer.learning ?? FIRST_LOAD) : FIRST_LOAD)
  const rounds = { theirs: new Array<Turn>(), ours: new Array<Turn>() }
  for (let round = 0; round < ROUNDS; round++) {
    const order = round % 2 === 0 ? (["theirs", "ours"] as const) : (["ours", "theirs"] as const)
    for (const who of order) rounds[who].push(yield* turn(who === "ours" ? ours! : theirs!))
  }
  return rounds satisfies Rounds
}, Effect.scoped)

/** What an effect gives, or why it could not. */
export const outcomeOf = <A>(effect: Effect.Effect<A, Failed, Scope.Scope>): Effect.Effect<Outcome<A>> =>
  Effect.map(Effect.exit(Effect.scoped(effect)), (exit) => {
    if (Exit.isSuccess(exit)) return exit.value
    const error = Cause.squash(exit.cause)
    return error instanceof Failed ? error : new Failed({ why: String(error) })
  })
