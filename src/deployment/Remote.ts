/**
 * A deployment in another process: connections to where it runs, kept up, as the replicas of a router.
 *
 * @since 0.1.0
 */
import { Clock, Context, Duration, Effect, Exit, Latch, Random, Redacted, Result, Scope, Tracer } from "effect"
import type * as Rpc from "effect/rpc/Rpc"
import { takesStream } from "../core/HttpSchema.ts"
import { decode } from "../core/Options.ts"
import { because, TransportError } from "../core/ServeError.ts"
import * as RemoteReplica from "../replica/RemoteReplica.ts"
import type { Replica } from "../replica/Replica.ts"
import * as Router from "../routing/Router.ts"
import * as Connection from "../wire/Connection.ts"
import * as MethodCodec from "../wire/MethodCodec.ts"
import { Options, type RemoteOptions } from "./DeploymentOptions.ts"

/**
 * What a client shows of itself: a bearer token, or the headers that an effect gives, which runs for each connection.
 *
 * @category options
 * @since 0.1.0
 */
export type Credentials = Redacted.Redacted | Effect.Effect<Readonly<Record<string, string>>>

interface Contract {
  readonly deployment: string
  readonly methods: ReadonlyArray<Rpc.AnyWithProps>
}

/** Milliseconds for which a connection must have lasted for the next try to be a first one. */
const LASTED = 5000

/**
 * Connects, and starts a router over the connections. Waits for the first of them, but not for longer than a connection may take; fails when
 * no server will ever have this client.
 */
export const start = Effect.fnUntraced(function* (
  { deployment, methods }: Contract,
  options: typeof RemoteOptions.Type,
  auth: Credentials | undefined
): Effect.fn.Return<
  { readonly router: Router.Router; readonly options: typeof Options.Type },
  Connection.Refused,
  Scope.Scope
> {
  yield* assertCrossing(deployment, methods)
  const codecs = methods.map((rpc) => MethodCodec.make(rpc, MethodCodec.binary))
  const services = Context.omit(Scope.Scope, Tracer.ParentSpan)(yield* Effect.context())
  const contexts = methods.map(() => services)
  const targets = (options.urls ?? [options.url!]).flatMap((url) =>
    Array.from({ length: options.connections }, (): Connection.Target => ({
      ...options,
      url,
      deployment,
      headers: headersOf(auth)
    }))
  )
  const routing = { ...(yield* routingOf(deployment, options)), replicas: targets.length }
  const scope = yield* Effect.scope
  const home = yield* Scope.fork(scope)
  const connecting = yield* Scope.fork(scope)
  const places = targets.map((_, i) => unconnected(`${deployment}#${i}`))
  const router = yield* Router.make({
    ...routing,
    deployment,
    methods: methods.map(({ _tag }) => _tag),
    replicas: places,
    byLatency: true
  })
  const reach = new Reach(router, deployment, options.unreachableTimeout, targets.length)
  for (let place = 0; place < targets.length; place++) router.retire(place)
  yield* Effect.forkIn(reach.watch, connecting)
  yield* Effect.forEach(targets, (target, place) =>
    Effect.forkIn(keepConnected(router, place, target, codecs, contexts, options, reach, home), connecting)
  )
  yield* Effect.raceFirst(reach.first, Effect.provideService(Effect.sleep(options.connectTimeout), Clock.Clock, wall))
  return { router, options: routing }
})

const assertCrossing = (deployment: string, methods: ReadonlyArray<Rpc.AnyWithProps>) => {
  const stuck = methods.find(({ payloadSchema }) => takesStream(payloadSchema.ast))
  return stuck === undefined
    ? Effect.void
    : Effect.die(
        new Error(
          `Deployment "${deployment}": method "${stuck._tag}" takes an upload, which can't be sent to another process. ` +
            `Send pieces of it to a method of their own, or put it into a deployment of its own.`
        )
      )
}

/** The options of the router here. What waits in it waits for a connection, and not for others to be done. */
const routingOf = (deployment: string, options: typeof RemoteOptions.Type) => {
  const { gracefulShutdownTimeout, maxQueuedRequests, outlierEjection, requestTimeout } = options
  const written: typeof Options.Encoded = {
    gracefulShutdownTimeout,
    maxQueuedRequests,
    outlierEjection,
    requestTimeout,
    queueDiscipline: "fifo"
  }
  return Effect.map(decode(Options, written, `deployment "${deployment}"`), (decoded) => ({
    ...decoded,
    maxOngoingRequests: Infinity
  }))
}

const headersOf = (auth: Credentials | undefined): Connection.Target["headers"] => {
  if (auth === undefined) return Effect.succeed({})
  return Redacted.isRedacted(auth) ? Effect.sync(() => ({ authorization: `Bearer ${Redacted.value(auth)}` })) : auth
}

/** What stands in the place of a replica that there is no connection to. */
const unconnected = (id: string): Replica => ({
  id,
  contexts: [],
  batchers: () => [],
  call: () => Effect.succeedNone,
  whenFree: Effect.never,
  hasLeft: () => true,
  left: Effect.void,
  end: Effect.void,
  resize: () => Effect.void
})

/** Whether any of the connections is up, and what is to be done as long as none is. */
class Reach {
  private up = 0
  private readonly refused = new Set<number>()
  private readonly some = Latch.makeUnsafe()
  private readonly none = Latch.makeUnsafe(true)
  private readonly allRefused = Latch.makeUnsafe()
  private refusal: Connection.Refused | undefined = undefined
  /** Why each place is not up, in words. */
  private readonly reasons: Array<string> = []
  private readonly router: Router.Router
  private readonly deployment: string
  private readonly timeout: Duration.Duration
  private readonly size: number

  /** `size` is how many connections there are to be. */
  constructor(router: Router.Router, deployment: string, timeout: Duration.Duration, size: number) {
    this.router = router
    this.size = size
    this.deployment = deployment
    this.timeout = timeout
  }

  joined(place: number): void {
    this.up++
    this.reasons[place] = ""
    this.none.closeUnsafe()
    this.some.openUnsafe()
  }

  left(): void {
    if (--this.up > 0) return
    this.some.closeUnsafe()
    this.none.openUnsafe()
  }

  /** A place can't be connected. Returns whether that is known already, for that reason. */
  failed(place: number, reason: Connection.Refused | Connection.Unreachable): boolean {
    const isKnown = this.reasons[place] === reason.message
    this.reasons[place] = reason.message
    if (reason._tag === "Refused") this.refuse(place, reason)
    return isKnown
  }

  private refuse(place: number, refusal: Connection.Refused): void {
    this.refusal = refusal
    if (this.refused.add(place).size === this.size) this.allRefused.openUnsafe()
  }

  /** Waits until one is up; fails when each of them has been refused before. */
  get first(): Effect.Effect<void, Connection.Refused> {
    return Effect.raceFirst(
      this.some.await,
      Effect.andThen(
        this.allRefused.await,
        Effect.suspend(() => Effect.fail(this.refusal!))
      )
    )
  }

  /** Lets nobody wait any more when none has been up for so long. */
  get watch(): Effect.Effect<never> {
    const time = Duration.format(this.timeout)
    const description = `there has been no connection to it for ${time}`
    const giveUp = Effect.sync(() =>
      this.router.cutOff(
        because(() => new TransportError({ deployment: this.deployment, started: false, description }))
      )
    ).pipe(
      Effect.andThen(
        Effect.suspend(() => {
          const reasons = this.reasons.filter((reason) => reason !== "").join("; ")
          return Effect.logError(
            `Deployment "${this.deployment}" can't be reached for ${time}, and its calls fail until it can. ${reasons}`
          )
        })
      ),
      Effect.delay(this.timeout),
      Effect.provideService(Clock.Clock, wall)
    )
    return this.none.await.pipe(
      Effect.andThen(Effect.raceFirst(this.some.await, giveUp)),
      Effect.andThen(this.some.await),
      Effect.forever
    )
  }
}

/** Connects a place of the router, and does so again whenever its connection is lost or its server is to stop. */
const keepConnected = Effect.fnUntraced(function* (
  router: Router.Router,
  place: number,
  target: Connection.Target,
  codecs: ReadonlyArray<MethodCodec.MethodCodec>,
  contexts: ReadonlyArray<Context.Context<never>>,
  { reconnect }: typeof RemoteOptions.Type,
  reach: Reach,
  home: Scope.Scope
): Effect.fn.Return<never> {
  const id = `${target.deployment}#${place}`
  let failures = 0
  let isPlanned = false
  while (true) {
    const scope = yield* Scope.fork(home)
    const connecting = RemoteReplica.connect(id, target, codecs, contexts)
    const connected = yield* Effect.result(Scope.provide(connecting, scope))
    if (Result.isSuccess(connected)) {
      const { done, replica, ...remote } = connected.success
      const from = wall.currentTimeMillisUnsafe()
      yield* Effect.logInfo(`Replica "${id}" is connected to ${target.url}`)
      yield* router.join(place, replica)
      reach.joined(place)
      yield* replica.left
      router.retire(place)
      reach.left()
      // What it still runs goes on.
      yield* Effect.forkIn(Effect.andThen(done, Scope.close(scope, Exit.void)), home)
      failures = wall.currentTimeMillisUnsafe() - from < LASTED ? failures + 1 : 0
      isPlanned = remote.isPlanned()
      const log = isPlanned ? Effect.logInfo : Effect.logWarning
      yield* log(`Replica "${id}" at ${target.url} has left: ${remote.why()}`)
    } else {
      yield* Scope.close(scope, Exit.void)
      failures++
      const log = isPlanned ? Effect.logInfo : Effect.logWarning
      if (!reach.failed(place, connected.failure)) yield* log(`Replica "${id}": ${connected.failure.message}`)
    }
    const doubled = Duration.toMillis(reconnect.firstDelay) * 2 ** Math.min(Math.max(failures - 1, 0), 20)
    const most = Math.min(doubled, Duration.toMillis(reconnect.maxDelay))
    // At random, so that clients which were cut off together don't come back together (full jitter: Brooker, "Exponential
    // Backoff and Jitter", AWS 2015).
    const delay = (yield* Random.next) * most
    yield* Effect.provideService(Effect.sleep(Duration.millis(delay)), Clock.Clock, wall)
  }
})

// Connections take real time, whatever the clock of the program.
const wall = Context.get(Context.empty(), Clock.Clock)
