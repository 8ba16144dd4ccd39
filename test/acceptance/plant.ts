/**
 * A virtual plant: what a server does in a minute of overload, in a second.
 *
 * The plant serves requests whose service time comes with the request, and `load.ts` says which requests come. Time is virtual
 * and everything is drawn from the seed of the trial, so the same trial has the same result, to the last request.
 */
import { Deployment, ServeError } from "effect-serve"
import { Cause, Clock, Context, Effect, Exit, Layer, Option, Schema, type Scope } from "effect"
import { Rpc } from "effect/rpc"
import { type Arrival, arrivals, type Behaviour, DEADLINE, seeded, type Trial, WARM_UP } from "./load.ts"
import { type Log, report, type Report, type Request } from "./report.ts"
import * as VirtualTime from "./virtualTime.ts"

/** Pause of a client before its second attempt; each further one is twice as long. All are jittered by half, both ways. */
const RETRY_PAUSE = 100

/** What serves: it is given the plant, and gives a function to call. */
export interface Server {
  readonly name: string
  readonly start: (plant: {
    readonly replicas: number
    /** Permits of each replica. */
    readonly permits: number
    /** What a replica does; it answers with its number. */
    readonly work: (replica: number, serviceTime: number) => Effect.Effect<number>
  }) => Effect.Effect<Call, never, Scope.Scope>
}

type Call = (serviceTime: number, options: Arrival["options"]) => Effect.Effect<number, unknown>

/** A deployment whose requests say how long they take. */
export class Plant extends Deployment.Service<Plant>()("Plant", [
  Rpc.make("run", { payload: { serviceTime: Schema.Number }, success: Schema.Int })
]) {}

/** A deployment of effect-serve with these options, which may be of a version that is yet to come. */
export const deployment = (options: Deployment.DeploymentOptions & Readonly<Record<string, unknown>> = {}): Server => ({
  name: "effect-serve",
  start: Effect.fnUntraced(function* ({ permits, replicas, work }) {
    let built = 0
    const build = Effect.sync(() => {
      const replica = built++
      return Plant.of({ run: ({ serviceTime }) => work(replica, serviceTime) })
    })
    const all = { replicas, maxOngoingRequests: permits, gracefulShutdownTimeout: 0, ...options }
    const { run } = Context.get(yield* Layer.build(Plant.toLayer(build, all)), Plant)
    return (serviceTime, options) => run({ serviceTime }, options)
  })
})

/** Runs a trial against a server, in virtual time. */
export const simulate = (server: Server, trial: Trial): Report =>
  VirtualTime.run(Effect.scoped(play(server, trial)), trial.seed ?? 1)

const play = Effect.fnUntraced(function* (server: Server, trial: Trial) {
  const { duration = 40_000, permits = 10, replicas = [{}], retries = 0 } = trial
  const clock = yield* Clock.Clock
  const log: Log = { requests: [], failures: [], starts: [] }
  const call = yield* server.start({
    replicas: replicas.length,
    permits,
    work: (replica, serviceTime) => {
      log.starts.push({ at: clock.currentTimeMillisUnsafe(), replica })
      return work(replica, replicas[replica]!, serviceTime, trial.interruptible)
    }
  })
  // Those that are measured are served in the presence of those that come after them.
  const end = WARM_UP + duration + DEADLINE * (1 + retries)
  for (const arrival of arrivals(trial, end)) {
    const wait = arrival.at - clock.currentTimeMillisUnsafe()
    if (wait > 0) yield* Effect.sleep(wait)
    yield* Effect.forkChild(client(arrival, call, retries, clock, log), { startImmediately: true })
  }
  return report(server.name, trial, duration, log)
})

const work = (replica: number, behaviour: Behaviour, serviceTime: number, interruptible: boolean) => {
  const { failsAfter, slowdown = 1 } = behaviour
  if (failsAfter !== undefined) {
    return Effect.andThen(Effect.sleep(failsAfter), Effect.die(new Error(`Replica ${replica} is broken`)))
  }
  const done = Effect.as(Effect.sleep(serviceTime * slowdown), replica)
  return interruptible ? done : Effect.uninterruptible(done)
}

/** Calls until an answer is good or the last attempt has failed. */
const client = Effect.fnUntraced(function* (
  { at, options, seed, serviceTime }: Arrival,
  call: Call,
  retries: number,
  clock: Clock.Clock,
  log: Log
) {
  const request: Request = { at, serviceTime, ...options, attempts: 0, latency: Infinity }
  log.requests.push(request)
  let jitter: (() => number) | undefined
  for (;;) {
    const sentAt = clock.currentTimeMillisUnsafe()
    const exit = yield* Effect.exit(call(serviceTime, options))
    const now = clock.currentTimeMillisUnsafe()
    request.attempts++
    if (Exit.isSuccess(exit)) {
      request.latency = now - at
      return
    }
    log.failures.push({ at: now, after: now - sentAt, reason: reasonOf(exit.cause) })
    if (request.attempts > retries) return
    jitter ??= seeded(seed, "pause")
    yield* Effect.sleep(Math.round(RETRY_PAUSE * 2 ** (request.attempts - 1) * (0.5 + jitter())))
  }
})

const reasonOf = (cause: Cause.Cause<unknown>): string => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (error === undefined) return "defect"
  if (!(error instanceof ServeError.ServeError)) return Cause.isTimeoutError(error) ? "timeout" : "error"
  return error.reason._tag === "DeadlineExceeded" ? `DeadlineExceeded ${error.reason.stage}` : error.reason._tag
}
