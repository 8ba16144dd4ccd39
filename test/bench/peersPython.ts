/**
 * The serving systems of Python beside an ingress: Ray Serve as it comes and with its flags for throughput, BentoML, LitServe, mosec, and
 * FastAPI on uvicorn, each as the smallest program that does the same, with one worker.
 *
 * An echo of JSON that is checked, of about 100 bytes and of 10 kB, and batches for a model that takes 5 ms and 0.2 ms for each item. A peer
 * is started, takes turns with effect-serve, and is ended before the next one starts. `npm run bench:peers` installs them; without that
 * this says so and does nothing. Writes `docs/benchmarks/peers.md`.
 */
import { Console, Effect } from "effect"
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, writeFileSync } from "node:fs"
import { duel, footprintOf, idleOf, outcomeOf, parsed, python, type Runner, serveOurs, servePeer } from "./peersRace.ts"
import { rate, ratios, type Result, written } from "./peersReport.ts"
import { batches, echoes, type Peer, peers, type Workload } from "./peersWork.ts"
import { Failed } from "./processTree.ts"
import { atLeast, medianOf, type Study, type Verdict } from "./report.ts"

const measure = Effect.fnUntraced(function* (peer: Peer, ourEcho: Runner, ourBatch: Runner) {
  yield* Console.log(`${peer.name} ...`)
  const echoed = yield* outcomeOf(
    Effect.gen(function* () {
      const server = yield* servePeer(peer, echoes[0]!)
      const footprint = yield* idleOf(server)
      const sides = [{ server, footprint }, ourEcho]
      return { footprint, rounds: yield* Effect.forEach(echoes, (echo) => outcomeOf(duel(echo, peer, sides))) }
    })
  )
  const batched = peer.batches
    ? yield* outcomeOf(
        Effect.gen(function* () {
          const server = yield* servePeer(peer, batches)
          return yield* duel(batches, peer, [{ server, footprint: footprintOf(server) }, ourBatch])
        })
      )
    : undefined
  const failed = echoed instanceof Failed
  return {
    peer,
    footprint: failed ? echoed : echoed.footprint,
    echoes: failed ? echoes.map(() => echoed) : echoed.rounds,
    batches: batched
  } satisfies Result
})

/** The versions of what is installed, by package. */
const versionsOf = (packages: ReadonlyArray<string>): Record<string, string> => {
  const program = `import importlib.metadata as m, json, platform, sys
found = {"Python": platform.python_version()}
for name in sys.argv[1:]:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: pass
print(json.dumps(found))`
  const { stdout } = spawnSync(python, ["-c", program, ...packages], { encoding: "utf8" })
  return (parsed(stdout) ?? {}) as Record<string, string>
}

export const peersPython: Study = {
  name: "peers",
  measure: Effect.gen(function* () {
    const versions = existsSync(python) ? versionsOf([...new Set(peers.flatMap(({ packages }) => packages))]) : {}
    if (versions["Python"] === undefined) {
      yield* Console.log("peers: skipped, because .peers/ has no Python; npm run bench:peers installs it")
      return []
    }
    const ours = Effect.fnUntraced(function* (workload: Workload) {
      const server = yield* serveOurs(workload)
      return { server, footprint: yield* idleOf(server) }
    })
    const ourEcho = yield* ours(echoes[0]!)
    const ourBatch = yield* ours(batches)
    const missing = (peer: Peer) => peer.packages.filter((name) => versions[name] === undefined)
    const results = yield* Effect.forEach(peers, (peer): Effect.Effect<Result> => {
      const absent = missing(peer)
      if (absent.length === 0) return measure(peer, ourEcho, ourBatch)
      const failed = new Failed({ why: `${absent.join(", ")} not installed` })
      return Effect.succeed({
        peer,
        footprint: failed,
        echoes: echoes.map(() => failed),
        batches: peer.batches ? failed : undefined
      })
    })
    const text = written(results, ourEcho.footprint, versions)
    yield* Console.log(text)
    mkdirSync("docs/benchmarks", { recursive: true })
    writeFileSync("docs/benchmarks/peers.md", text)
    return verdicts(results)
  }).pipe(Effect.scoped)
}

const verdicts = (results: ReadonlyArray<Result>): ReadonlyArray<Verdict> =>
  results.flatMap(({ batches, echoes: rounds, peer }) => [
    ...rounds.flatMap((round, i) =>
      round instanceof Failed
        ? []
        : [atLeast(`${echoes[i]!.title}: requests/s, of those of ${peer.name}`, medianOf(ratios(round, rate)), 1)]
    ),
    ...(batches === undefined || batches instanceof Failed
      ? []
      : // All of them may reach the bound.
        [atLeast(`Batches: requests/s, of those of ${peer.name}`, medianOf(ratios(batches, rate)), 0.95)])
  ])
