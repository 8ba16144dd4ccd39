/**
 * What one would use instead, beside effect-serve: node:http, Fastify, what one writes by hand with Fastify, Piscina and DataLoader, Moleculer,
 * and of Python FastAPI, mosec, LitServe, BentoML, and Ray Serve as it comes and with its flags for throughput.
 *
 * Each does the same work with one worker: echoes through one and two deployments, batches for a model that takes 5 ms and 0.2 ms for each
 * item, hashes on two threads or processes, and streams. A peer is started, takes turns with effect-serve, and is ended before the next
 * one starts. `npm run bench:peers` installs those of Python, which are left out without it.
 */
import { Console, Effect } from "effect"
import { spawnSync } from "node:child_process"
import { existsSync } from "node:fs"
import { Failed } from "../harness/processTree.ts"
import { race, type Side, type Times } from "../harness/race.ts"
import { footprintOf, outcomeOf, python, serve, type Server, smokeTest } from "../harness/servers.ts"
import type { Study } from "../harness/Study.ts"
import { isStream, type Kind, ours, peers as systems, type System } from "../peers/systems.ts"
import { reportOf, type Result } from "./peersReport.ts"
import { needsBothCores, type Workload, workloads } from "./peersWork.ts"

const ROUNDS = 5

/** An idle server is slow at first: the system may have taken memory from it. */
const usualTimes: Times = { warmUp: 300, turn: 500, pause: 100 }
/** Of a peer that gives a hundred answers in a second. */
const slowTimes: Times = { warmUp: 600, turn: 1200, pause: 600 }

/** Milliseconds of load before the turns that count. */
const FIRST_LOAD = 1000

const core = (kind: Kind) => (needsBothCores(kind) ? {} : { core: 0 })

const start = (system: System, { kind, questions }: Workload) => serve(system, kind, questions(system)[0]!, core(kind))

const sideOf = Effect.fnUntraced(function* (system: System, server: Server, workload: Workload) {
  const { kind, questions, units, wrong } = workload
  const exchanges = yield* smokeTest(system, kind, server.port, questions(system), wrong)
  const head = Math.min(...exchanges.map(({ answer }) => headOf(kind, answer)))
  const isSlow = system.isSlow === true
  return {
    name: system.name,
    pid: server.pid,
    times: isSlow ? slowTimes : usualTimes,
    load: {
      port: server.port,
      path: system.path(kind),
      exchanges,
      contentType: isStream(kind) ? (system.streamType ?? "text/event-stream") : "application/json",
      units,
      head,
      sleeps: needsBothCores(kind)
    }
  } satisfies Side
})

/** Bytes of an answer with which it has begun: its first event, or all of it. */
const headOf = (kind: Kind, answer: string) => {
  const end = kind === "stream" ? /\r?\n\r?\n/.exec(answer) : null
  return Buffer.byteLength(end === null ? answer : answer.slice(0, end.index + end[0].length))
}

/** Lets a peer and effect-serve take turns with a workload. */
const duel = Effect.fnUntraced(function* (workload: Workload, peer: System, theirs: Server, own: Server) {
  const sides = [yield* sideOf(ours, own, workload), yield* sideOf(peer, theirs, workload)]
  const learning = workload.kind === "batch" ? peer.learning : undefined
  return yield* race(sides, ROUNDS, ({ name }) => (name === peer.name ? (learning ?? FIRST_LOAD) : usualTimes.turn))
})

/** All workloads of a kind that are measured with a peer. */
const measureKind = Effect.fnUntraced(function* (peer: System, kind: Kind, own: Server) {
  const some = workloads.filter((workload) => workload.kind === kind)
  const measured = yield* outcomeOf(
    Effect.gen(function* () {
      const server = yield* start(peer, some[0]!)
      const footprint = kind === "echo" ? yield* footprintOf(server) : undefined
      const rounds = yield* Effect.forEach(some, (workload) => outcomeOf(duel(workload, peer, server, own)))
      return { footprint, rounds }
    })
  )
  const isFailed = measured instanceof Failed
  return {
    footprint: isFailed ? (kind === "echo" ? measured : undefined) : measured.footprint,
    rounds: some.map((workload, i) => [workload.title, isFailed ? measured : measured.rounds[i]!] as const)
  }
})

const kinds = [...new Set(workloads.map(({ kind }) => kind))]

const measure = Effect.fnUntraced(function* (peer: System, own: ReadonlyMap<Kind, Server>) {
  yield* Console.log(`  ${peer.name} ...`)
  const measured = yield* Effect.forEach(
    kinds.filter((kind) => peer.kinds.includes(kind)),
    (kind) => measureKind(peer, kind, own.get(kind)!)
  )
  return {
    system: peer,
    footprint: measured.find(({ footprint }) => footprint !== undefined)?.footprint,
    rounds: Object.fromEntries(measured.flatMap(({ rounds }) => rounds))
  } satisfies Result
})

/** The versions of what is installed, by package. */
export const versionsOf = (packages: ReadonlyArray<string>): Record<string, string> => {
  if (!existsSync(python)) return {}
  const program = `import importlib.metadata as m, json, platform, sys
found = {"Python": platform.python_version()}
for name in sys.argv[1:]:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: pass
print(json.dumps(found))`
  const { status, stdout } = spawnSync(python, ["-c", program, ...packages], { encoding: "utf8" })
  return status === 0 ? (JSON.parse(stdout) as Record<string, string>) : {}
}

/** Why a system can't be measured here, if it can't. */
export const missingOf = ({ language, packages }: System, versions: Record<string, string>) => {
  if (language === "node") return undefined
  if (versions["Python"] === undefined) return "no Python; npm run bench:peers installs it"
  const absent = packages.filter((name) => versions[name] === undefined)
  return absent.length === 0 ? undefined : `${absent.join(", ")} not installed`
}

/** The systems that can be measured here; says which ones can't, and why. */
export const presentOf = (all: ReadonlyArray<System>, versions: Record<string, string>) =>
  Effect.filter(all, (system) => {
    const why = missingOf(system, versions)
    return why === undefined ? Effect.succeed(true) : Effect.as(Console.log(`  ${system.name}: skipped, ${why}`), false)
  })

export const peers: Study = {
  name: "peers",
  measure: Effect.gen(function* () {
    const versions = versionsOf([...new Set(systems.flatMap(({ packages }) => packages))])
    const own = new Map<Kind, Server>()
    for (const kind of kinds)
      own.set(
        kind,
        yield* start(
          ours,
          workloads.find((workload) => workload.kind === kind)!
        )
      )
    const footprint = yield* footprintOf(own.get("echo")!)
    const results = yield* Effect.forEach(
      systems,
      Effect.fnUntraced(function* (system): Effect.fn.Return<Result> {
        const why = missingOf(system, versions)
        if (why === undefined) return yield* measure(system, own)
        yield* Console.log(`  ${system.name}: skipped, ${why}`)
        return { system, footprint: new Failed({ why }), rounds: {} }
      })
    )
    return reportOf(results, footprint, versions)
  }).pipe(Effect.scoped)
}
