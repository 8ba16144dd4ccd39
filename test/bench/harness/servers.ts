/**
 * Starts the servers that are compared, asks them the first questions, and says what they need.
 */
import { Cause, Effect, Exit, type Scope } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { request } from "node:http"
import { type AddressInfo, createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { isDeepStrictEqual } from "node:util"
import { answersOf, isStream, type Kind, type Question, type System } from "../peers/systems.ts"
import { cpuBetween, Failed, launch, processesOf, pssOf, rssOf } from "./processTree.ts"

/** Milliseconds in which a server that is asked nothing is watched. */
const IDLE = 1500
const START_LIMIT = 60_000

const folderOf = { node: new URL("../peers/", import.meta.url), python: new URL("../peers/python/", import.meta.url) }
export const python = fileURLToPath(new URL("../../../.peers/bin/python", import.meta.url))

const interpreters = { node: [process.execPath, "--conditions=effect-serve-source"], python: [python] }

/** A server that has given its first right answer. */
export interface Server {
  readonly name: string
  readonly pid: number
  readonly port: number
  /** Milliseconds from its start until then. */
  readonly startUp: number
}

/** What a server needs when it is asked nothing. Memory is in bytes. */
export interface Footprint {
  readonly startUp: number
  readonly processes: number
  readonly rss: number
  /** With each page that several of its processes share counted once. */
  readonly pss: number
  /** The share of a core. */
  readonly cpu: number
}

export type Outcome<A> = A | Failed

interface Raw {
  readonly status: number
  readonly body: string
}

/** Sends one request. */
export const ask = (port: number, path: string, body: string) =>
  Effect.callback<Raw, Failed>((resume) => {
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

const freePort = Effect.callback<number>((resume) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address() as AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

const isRight = (kind: Kind, { answer }: Question, { body, status }: Raw) =>
  status === 200 && isDeepStrictEqual(answersOf(kind, body), answer)

const untilAnswered = (port: number, system: System, kind: Kind, question: Question): Effect.Effect<void> =>
  ask(port, system.path(kind), question.request).pipe(
    Effect.timeout("5 seconds"),
    Effect.map((raw) => isRight(kind, question, raw)),
    Effect.orElseSucceed(() => false),
    Effect.flatMap((right) =>
      right ? Effect.void : Effect.andThen(Effect.sleep(20), untilAnswered(port, system, kind, question))
    )
  )

interface Setting {
  /** The core on which all processes of the server are; without it, any. */
  readonly core?: number
  readonly environment?: Record<string, string>
  /** Milliseconds in which a request has to be done. Default: 60,000 */
  readonly deadline?: number
}

/** Starts a server for a kind of work, and waits for its first right answer. */
export const serve = Effect.fnUntraced(function* (
  system: System,
  kind: Kind,
  first: Question,
  { core, deadline = 60_000, environment }: Setting
) {
  const files = yield* Effect.acquireRelease(
    // The path of a socket may have about 100 bytes.
    Effect.sync(() => mkdtempSync(join(tmpdir(), "p"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
  )
  const isNode = system.language === "node"
  const given = yield* freePort
  const since = performance.now()
  const { ended, lastLine, pid, ready } = yield* launch({
    name: system.name,
    command: [...interpreters[system.language], ...system.command(kind, given, files, deadline)],
    folder: fileURLToPath(folderOf[system.language]),
    environment: {
      PYTHONDONTWRITEBYTECODE: "1",
      DEADLINE_MS: `${deadline}`,
      ...system.environment?.(kind, files),
      ...environment
    },
    hasMessages: isNode,
    ...(core === undefined ? {} : { core })
  })
  const port = isNode ? Number(yield* ready) : given
  yield* Effect.raceFirst(untilAnswered(port, system, kind, first), ended).pipe(
    Effect.timeoutOrElse({
      duration: START_LIMIT,
      orElse: () => Effect.fail(new Failed({ why: `no right answer within ${START_LIMIT / 1000} s: ${lastLine()}` }))
    })
  )
  return { name: system.name, pid, port, startUp: performance.now() - since } satisfies Server
})

/** Lets a server answer each question, and refuse a wrong one; gives the very bytes of its answers. */
export const smokeTest = Effect.fnUntraced(function* (
  system: System,
  kind: Kind,
  port: number,
  questions: ReadonlyArray<Question>,
  wrong: string
) {
  const path = system.path(kind)
  const exchanges = yield* Effect.forEach(
    questions,
    Effect.fnUntraced(function* (question) {
      const raw = yield* ask(port, path, question.request)
      if (isRight(kind, question, raw)) return { request: question.request, answer: raw.body }
      const why = `answers ${question.request.slice(0, 100)} with ${raw.status} ${raw.body.slice(0, 100)}`
      return yield* new Failed({ why })
    }),
    { concurrency: 64 }
  )
  if (system.takesAll === true || (isStream(kind) && system.refusesInStream === true)) return exchanges
  const { status } = yield* ask(port, path, wrong)
  if (status < 400 || status > 499) return yield* new Failed({ why: `answers a wrong body with ${status}` })
  return exchanges
})

/** What a server needs when it is asked nothing. */
export const footprintOf = Effect.fnUntraced(function* ({ pid, startUp }: Server) {
  yield* Effect.sleep(500)
  const before = processesOf(pid)
  yield* Effect.sleep(IDLE)
  const after = processesOf(pid)
  return {
    startUp,
    processes: after.length,
    rss: rssOf(after),
    pss: pssOf(after),
    cpu: cpuBetween(before, after) / IDLE
  } satisfies Footprint
})

/** What an effect gives, or why it could not. */
export const outcomeOf = <A>(effect: Effect.Effect<A, Failed, Scope.Scope>): Effect.Effect<Outcome<A>> =>
  Effect.map(Effect.exit(Effect.scoped(effect)), (exit) => {
    if (Exit.isSuccess(exit)) return exit.value
    const error = Cause.squash(exit.cause)
    return error instanceof Failed ? error : new Failed({ why: String(error) })
  })
