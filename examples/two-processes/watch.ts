/**
 * Kills and replaces `Embedder` while queries come: `npm run example:two-processes`, about 25 seconds.
 *
 * Starts the two programs of this example and sends 20 queries a second to the search, over HTTP. After 4 seconds the process of the embedder is
 * killed, as if it had crashed, and a second later it is started again. Later it is replaced as one does it on purpose: a second one is
 * started at the other URL, and the first is told to stop. The table says how the queries fare meanwhile, and what lies between its lines
 * is what happens and what the search logs. Exits with 0 when all went as it should.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Option } from "effect"
import * as Load from "./Load.ts"
import * as Program from "./Program.ts"

/** Seconds, of which the search is told: shorter than by default (5), so that there is something to see in half a minute. */
const UNREACHABLE_TIMEOUT = 1

/** Seconds between two tries of the search to connect, at most; `main.ts` says so. */
const MAX_RECONNECT_DELAY = 1

/** Seconds that the search may need to find an embedder that is back: the longest pause between two tries, and some for a busy machine. */
const RECOVERY = MAX_RECONNECT_DELAY + 2

const program = Effect.gen(function* () {
  const [searchPort, ...ports] = yield* Effect.all([Program.freePort, Program.freePort, Program.freePort])

  yield* Console.log("Starting the embedder, and then the search, which has it index the passages")
  let load: Load.Load | undefined
  const first = yield* startEmbedder(ports[0])
  yield* first.ready
  const search = yield* Program.start({
    file: "main.ts",
    env: {
      PORT: `${searchPort}`,
      SERVE_EMBEDDER_URLS: ports.map((port) => `http://127.0.0.1:${port}`).join(),
      SERVE_EMBEDDER_UNREACHABLE_TIMEOUT: `${UNREACHABLE_TIMEOUT} seconds`
    },
    onLine: (line) => {
      const [, level, text] = /^\[[\d:.]+\] ([A-Z]+) \(#\d+\): (.*)/.exec(line) ?? []
      if (level !== undefined && load !== undefined) Effect.runSync(load.event(`${level} of the search: ${text}`))
    }
  })
  yield* Console.log(`Embedder runs in process ${first.pid}, and the search in ${search.pid}`)
  yield* search.ready

  load = yield* Load.start(`http://127.0.0.1:${searchPort}`)
  yield* Effect.sleep("4 seconds")
  const killed = yield* killAndRestart(load, first, startEmbedder(ports[0]))
  yield* Effect.sleep("3 seconds")
  const replaced = yield* replace(load, killed.embedder, startEmbedder(ports[1]))
  yield* Effect.sleep("2 seconds")
  yield* load.end
  const ended = load
  load = undefined
  yield* summarize(ended, killed, replaced)
}).pipe(Effect.scoped)

const startEmbedder = (port: number) => Program.start({ file: "embedder.ts", env: { PORT: `${port}` } })

/** Waits until a query has come to the embedder, where it waits for its batch for 10 ms. */
const queryInside = (underWay: Effect.Effect<void>) => Effect.andThen(underWay, Effect.sleep("8 millis"))

/** Kills the embedder while it has a query, and starts it again. */
const killAndRestart = Effect.fnUntraced(function* <R>(
  { answer, event, now, underWay }: Load.Load,
  embedder: Program.Program,
  restart: Effect.Effect<Program.Program, never, R>
) {
  yield* queryInside(underWay)
  const killedAt = now()
  yield* embedder.kill("SIGKILL")
  yield* event("the embedder is killed (kill -9), with a query in it")
  yield* Effect.sleep("1 second")
  yield* event("the embedder is started again, and loads its model")
  const restarted = yield* restart
  yield* restarted.ready
  const readyAt = now()
  yield* event("the embedder is ready")
  const isAnswered = Option.isSome(yield* Effect.timeoutOption(answer, "10 seconds"))
  const answeredAt = isAnswered ? now() : Infinity
  yield* event(
    isAnswered
      ? `a query is answered again, ${(answeredAt - killedAt).toFixed(1)} s after the kill`
      : "no query is answered, for 10 s now"
  )
  return { killedAt, readyAt, answeredAt, embedder: restarted }
})

/** Replaces the embedder by another one, at another URL. */
const replace = Effect.fnUntraced(function* <R>(
  { event, now, underWay }: Load.Load,
  embedder: Program.Program,
  startOther: Effect.Effect<Program.Program, never, R>
) {
  const from = now()
  yield* event("another embedder is started, at the second URL")
  const other = yield* startOther
  yield* other.ready
  yield* event("the other embedder is ready")
  // The search tries to connect to it at least so often.
  yield* Effect.sleep(`${MAX_RECONNECT_DELAY + 0.5} seconds`)
  yield* queryInside(underWay)
  yield* event("the first embedder is told to stop (SIGTERM), with queries in it")
  yield* embedder.kill("SIGTERM")
  const exitCode = Option.getOrElse(yield* Effect.timeoutOption(embedder.ended, "30 seconds"), () => "nothing")
  yield* event(`the first embedder has ended, with ${exitCode}`)
  return { from, exitCode }
})

/** Prints what became of the queries, and what was different from what it should be. */
const summarize = Effect.fnUntraced(function* (
  { outcomes }: Load.Load,
  { answeredAt, killedAt, readyAt }: Effect.Success<ReturnType<typeof killAndRestart>>,
  { exitCode, from }: Effect.Success<ReturnType<typeof replace>>
) {
  const between = (start: number, end: number) =>
    outcomes.filter(({ endedAt, failure }) => failure !== undefined && endedAt >= start && endedAt < end)
  const answered = outcomes.filter(({ failure }) => failure === undefined).length
  const [before, lost, after, replacing] = [
    between(0, killedAt),
    between(killedAt, answeredAt),
    between(answeredAt, from),
    between(from, Infinity)
  ]
  const longest = Math.max(...outcomes.map(({ endedAt, sentAt }) => endedAt - sentAt))
  yield* Console.log(`
${outcomes.length} queries, ${answered} answered; none took longer than ${longest.toFixed(1)} s to be answered or to fail
failed before the kill                ${Load.countOf(before) || 0}
failed from the kill to the recovery  ${Load.countOf(lost) || 0}
failed after that                     ${Load.countOf(after) || 0}
failed in the planned replacement     ${Load.countOf(replacing) || 0}`)

  const others = lost.filter(({ failure }) => !failure!.includes("TransportError"))
  const differences = [
    ...differs(before.length > 0, "queries failed before anything had happened"),
    ...differs(others.length > 0, "a lost embedder made queries fail otherwise than with TransportError"),
    ...differs(lost.length === 0, `no query failed, though there was no embedder for longer than the search waits`),
    ...differs(answeredAt - readyAt > RECOVERY, `the search took longer than ${RECOVERY} s to find the embedder again`),
    ...differs(after.length > 0, "queries failed after the recovery"),
    ...differs(replacing.length > 0, "queries failed in the planned replacement"),
    ...differs(exitCode !== 0, `the embedder that was told to stop ended with ${exitCode}`),
    ...differs(
      outcomes.some(({ failure }) => failure === Load.HUNG),
      "queries hung"
    )
  ]
  yield* Console.log(
    differences.length === 0 ? "\nAll as it should be" : `\nNot as it should be: ${differences.join("; ")}`
  )
  if (differences.length > 0) process.exitCode = 1
})

const differs = (isDifferent: boolean, what: string): ReadonlyArray<string> => (isDifferent ? [what] : [])

NodeRuntime.runMain(program)
