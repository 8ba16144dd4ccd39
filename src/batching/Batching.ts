/**
 * Dynamic batching: calls with one item each become calls with many.
 *
 * `make` gives a function that takes one item and runs with others, `makeStream` the same for results that stream, `resolver` the
 * same as a `RequestResolver`, and `continuous` a loop that items join and leave between two steps. A batch is released when it
 * is full, or when its first item has waited for `batchWaitTimeout`, and when one of `maxConcurrentBatches` slots is free: until
 * then it keeps filling. Whatever `run` does, each item has exactly one outcome, and the next one works.
 *
 * @since 0.1.0
 */
import {
  Cause,
  Context,
  Duration,
  Effect,
  Exit,
  type Option,
  Queue,
  type Request,
  RequestResolver,
  Schema,
  Scope,
  Stream,
  Tracer
} from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import { count, CountOrInfinity, decode, orElse, Time } from "../core/Options.ts"
import { because, BatchContract, type ServeError } from "../core/ServeError.ts"
import { BatchQueue, type Sizing } from "./BatchQueue.ts"
import { CostModel } from "./CostModel.ts"
import { Engine, type EngineLimits, type State } from "./Engine.ts"
import { Host, nameIn } from "./Host.ts"
import { deliver, type Outbox } from "./Rows.ts"
import { originIn, originOf, Ticket } from "./Ticket.ts"

export { continuous, ContinuousLimits } from "./Continuous.ts"
export type { Continuous, ContinuousOptions, ContinuousState, Step } from "./Continuous.ts"
export type { State } from "./Engine.ts"

/**
 * The options that can be changed while a batcher runs.
 *
 * @category options
 * @since 0.1.0
 */
export const Limits = Schema.Struct({
  /** Most items of a batch, or most cost with `batchSize`; at least 1. Default `10`. */
  maxBatchSize: Schema.Number.check(Schema.isGreaterThanOrEqualTo(1), Schema.isFinite()).pipe(
    Schema.withDecodingDefaultTypeKey(orElse(10))
  ),
  /**
   * Time that the first item of a batch waits for others. `"adaptive"` learns how long batches take, `a + b * n`, and waits for
   * one more item only while that pays: while the wait of the `n` items that are there, until the next one is expected, is
   * shorter in all than the fixed cost `a` that it saves, and as long as the tightest deadline among them can be met. Default
   * `"10 millis"`.
   */
  batchWaitTimeout: Schema.Union([Schema.Literal("adaptive"), Time]).pipe(
    Schema.withDecodingDefaultTypeKey(orElse(Duration.millis(10)))
  ),
  /** The most that `"adaptive"` waits. Default `"50 millis"`. */
  maxBatchWait: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.millis(50)))),
  /** Batches that run at once, at least 1. Default `1`. */
  maxConcurrentBatches: count(1).pipe(Schema.withDecodingDefaultTypeKey(orElse(1))),
  /** Items that wait; more fail with `QueueFull`. `Infinity` is allowed. Default `1000`. */
  maxQueuedItems: CountOrInfinity.pipe(Schema.withDecodingDefaultTypeKey(orElse(1000)))
})

/**
 * How the size of a batch is found in one pass: `size(add(add(empty, a), b))`, where `size` is the identity when the state is a
 * number. `add` must not change the state that it is given.
 *
 * @category options
 * @since 0.1.0
 */
export interface Cost<A, S> {
  readonly empty: S
  readonly add: (state: S, item: A) => S
  readonly size?: (state: S) => number
}

interface Common<A, S> extends Partial<Encoded> {
  /** Its name in states, spans and metrics. Default `"batcher"`, `"batcher-2"` for the second of a replica, and so on. */
  readonly name?: string
  /**
   * The size of a candidate batch, such as its tokens after padding. As a plain function it is called for
   * every item that is looked at, with all items so far; as a {@link Cost} it takes one step for each. An item that doesn't fit any
   * more is the first of the next batch; one that is larger than `maxBatchSize` alone fails with `ItemTooLarge`. Default: how many items
   * it has.
   */
  readonly batchSize?: ((items: ReadonlyArray<A>) => number) | Cost<A, S>
  /** Only items with equal keys (`Equal`) go together, such as a model's name, or the length of a text in steps of 16. Default none: any go together. */
  readonly key?: (item: A) => unknown
  /** Time that items which wait, and batches that run, get when the scope closes. Default `"20 seconds"`. */
  readonly gracefulShutdownTimeout?: Duration.Input
}

type Encoded = typeof Limits.Encoded

/**
 * The options of {@link make}.
 *
 * @category options
 * @since 0.1.0
 */
export type Options<A, B, E, R, S = number, EItem = never> = Common<A, S> & {
  /**
   * Runs a batch: one result for each item, in the same order. A result that is an `Exit` is the outcome of its own item; a
   * failure of `run` is that of every item. It runs in the services of the layer that makes the batcher, and is interrupted when
   * all its callers have left; then its slot is free, whatever a promise that it waited for goes on doing. Make it
   * `Effect.uninterruptible` when the next batch has to wait for that.
   */
  readonly run: (items: NonEmptyReadonlyArray<A>) => Effect.Effect<ReadonlyArray<B | Exit.Exit<B, EItem>>, E, R>
} & OnFailure

type OnFailure =
  | {
      /**
       * What happens when `run` fails. `"fail"` fails every item of the batch. `"bisect"` runs each half again, and their halves, until
       * the items that make it fail are alone; only for work that may be run twice, which `idempotent` declares: `k` bad items of `n`
       * cost up to `2 k log2 n` further runs. Default `"fail"`.
       */
      readonly onFailure?: "fail"
      /** Whether items may be run twice. Default `false`. */
      readonly idempotent?: boolean
    }
  | { readonly onFailure: "bisect"; readonly idempotent: true }

/**
 * A function that batches its calls. They fail with the error of `run` or of the item, or with a `ServeError`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Batched<A, B, E> extends Controls {
  (item: A): Effect.Effect<B, E | ServeError>
}

/**
 * A function that batches its calls, and whose results stream. They fail with the error of `run`, or with a `ServeError`.
 *
 * @category models
 * @since 0.1.0
 */
export interface BatchedStream<A, B, E> extends Controls {
  (item: A): Stream.Stream<B, E | ServeError>
}

/**
 * A `RequestResolver` that batches, see {@link resolver}.
 *
 * @category models
 * @since 0.1.0
 */
export interface BatchedResolver<A extends Request.Any> extends RequestResolver.RequestResolver<A>, Controls {}

interface Controls {
  /**
   * Changes some of the limits. A batch that items wait for already keeps its size and its wait. Dies when a value is out of
   * range, and then nothing has changed.
   */
  readonly update: (limits: Partial<Encoded>) => Effect.Effect<void>
  /** What the batcher does at the moment, and its limits. */
  readonly state: Effect.Effect<State>
}

/**
 * Makes a function that takes one item and runs it with others.
 *
 * Calls fail with the error of `run`, or with a `ServeError`: `QueueFull`, `BatchContract`, `ItemTooLarge`, `DeadlineExceeded`
 * (stage `"batch"`) or `Unavailable`. Dies when an option is out of range. Make it once, in the builder of a deployment.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Batching } from "effect-serve"
 *
 * const program = Effect.gen(function*() {
 *   const double = yield* Batching.make({
 *     maxBatchSize: 3,
 *     batchWaitTimeout: "5 millis",
 *     run: (numbers: ReadonlyArray<number>) =>
 *       Effect.as(Effect.log(`a batch of ${numbers.length}`), numbers.map((n) => 2 * n))
 *   })
 *   return yield* Effect.forEach([1, 2, 3], double, { concurrency: "unbounded" })
 * })
 *
 * console.log(await Effect.runPromise(Effect.scoped(program))) // => [ 2, 4, 6 ]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <A, B, E = never, R = never, S = number, EItem = never>(
  options: Options<A, B, E, R, S, EItem>
): Effect.Effect<Batched<A, B, E | EItem>, never, R | Scope.Scope> =>
  Effect.map(startUnary(options), (engine) => {
    const call = (item: A) =>
      Effect.withFiber((caller) =>
        Effect.callback<B, E | EItem | ServeError>((resume) => {
          const ticket = new Ticket(item, engine.now, originOf(caller), resume)
          engine.submit(ticket)
          return ticket.isLive ? engine.leave(ticket) : undefined
        })
      )
    return Object.assign(call, controls(engine))
  })

/**
 * The options of {@link makeStream}.
 *
 * @category options
 * @since 0.1.0
 */
export interface StreamOptions<A, B, E, R, S = number> extends Common<A, S> {
  /**
   * Runs a batch and gives rows: one cell for each item, `none` when its results have ended. A row of another length fails them
   * all. Rows are pulled when the slowest caller has room, and no further when nobody is left.
   */
  readonly run: (items: NonEmptyReadonlyArray<A>) => Stream.Stream<ReadonlyArray<Option.Option<B>>, E, R>
  /** Elements that a caller may lag behind before the others wait for it, at least 1. Default `16`. */
  readonly bufferSize?: number
}

/**
 * Makes a function that takes one item, runs it with others, and gives its results as a stream. A batch has its slot until its last
 * stream has ended.
 *
 * Streams fail with the error of `run`, or with a `ServeError`, as calls of {@link make} do. Dies when an option is out of range.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeStream = <A, B, E = never, R = never, S = number>(
  options: StreamOptions<A, B, E, R, S>
): Effect.Effect<BatchedStream<A, B, E>, never, R | Scope.Scope> =>
  Effect.gen(function* () {
    const { bufferSize } = yield* decode(Buffer, { bufferSize: options.bufferSize ?? 16 }, nameOf(options))
    const outboxes = new WeakMap<Ticket<A>, Outbox<B, E>>()
    const engine = yield* start<A, S, R>(options, (tickets) => {
      const own = tickets.map((ticket) => outboxes.get(ticket)!)
      return Stream.runForEachWhile(
        Stream.suspend(() => options.run(valuesOf(tickets))),
        (row) => deliver(tickets, own, row)
      ).pipe(
        Effect.andThen(
          Effect.sync(() => {
            for (const ticket of tickets) ticket.answer(Exit.void)
            return false
          })
        )
      )
    })
    const open = (item: A) =>
      Effect.withFiber((caller) =>
        Effect.map(Queue.bounded<B, E | ServeError | Cause.Done>(bufferSize), (outbox) => {
          const ticket = new Ticket(item, engine.now, originOf(caller), (exit: Exit.Exit<void, E | ServeError>) =>
            Exit.isSuccess(exit) ? Queue.endUnsafe(outbox) : Queue.failCauseUnsafe(outbox, exit.cause)
          )
          outboxes.set(ticket, outbox)
          engine.submit(ticket)
          return { outbox, ticket }
        })
      )
    const call = (item: A) =>
      Stream.unwrap(
        Effect.map(
          Effect.acquireRelease(open(item), ({ outbox, ticket }) =>
            Effect.andThen(Queue.shutdown(outbox), engine.leave(ticket))
          ),
          ({ outbox }) => Stream.fromQueue(outbox)
        )
      )
    return Object.assign(call, controls(engine))
  })

const Buffer = Schema.Struct({
  bufferSize: count(1)
})

/**
 * The options of {@link resolver}: those of {@link make}, where the items are requests.
 *
 * @category options
 * @since 0.1.0
 */
export type ResolverOptions<A extends Request.Any, R, S = number> = Options<
  A,
  Request.Success<A>,
  Request.Error<A>,
  R,
  S,
  Request.Error<A>
>

/**
 * Makes a `RequestResolver` for your own `Request.Class`, with everything that {@link make} does: late binding, bounds,
 * interruption. The error of the request must include `ServeError`. Combinators that wrap a resolver's `runAll`, such as
 * `RequestResolver.withSpan` or `withCache`, have no effect on it.
 *
 * @example
 * ```ts
 * import { Effect, Request } from "effect"
 * import { Batching, ServeError } from "effect-serve"
 *
 * class GetName extends Request.Class<{ id: number }, string, ServeError.ServeError> {}
 *
 * const program = Effect.gen(function*() {
 *   const resolver = yield* Batching.resolver<GetName>({
 *     run: (requests) => Effect.succeed(requests.map(({ id }) => `user ${id}`))
 *   })
 *   return yield* Effect.forEach([1, 2], (id) => Effect.request(new GetName({ id }), resolver), {
 *     concurrency: "unbounded"
 *   })
 * })
 *
 * console.log(await Effect.runPromise(Effect.scoped(program))) // => [ "user 1", "user 2" ]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const resolver = <A extends Request.Request<any, any>, R = never, S = number>(
  options: ResolverOptions<A, R, S> &
    ([Unfit<A>] extends [never] ? unknown : { readonly run: "The error of the request must include ServeError" })
): Effect.Effect<BatchedResolver<A>, never, R | Scope.Scope> =>
  Effect.map(startUnary<A, Request.Success<A>, Request.Error<A>, R, S, Request.Error<A>>(options), (engine) => {
    const tickets = new WeakMap<object, Ticket<A>>()
    const resolver = RequestResolver.makeWith<A>({
      // The engine takes the request, so that Effect makes no batch of it.
      preCheck: (entry) => {
        const ticket = new Ticket(entry.request, engine.now, originIn(entry.context), (exit) =>
          entry.completeUnsafe(exit)
        )
        tickets.set(entry, ticket)
        engine.submit(ticket)
        return false
      },
      // Asked only for an entry whose caller was interrupted: this is how the engine hears of it.
      batchKey: (entry) => {
        const ticket = tickets.get(entry)
        if (ticket !== undefined) Effect.runFork(engine.leave(ticket))
        return entry
      },
      delay: Effect.void,
      collectWhile: () => true,
      runAll: () => Effect.void
    })
    return Object.assign(resolver, controls(engine))
  })

/** The requests, of those that are given, whose errors don't include `ServeError`. */
type Unfit<A> = A extends Request.Any ? ([ServeError] extends [Request.Error<A>] ? never : A) : never

/** Starts an engine whose batches are runs of `options.run`. */
const startUnary = <A, B, E, R, S, EItem>(
  options: Options<A, B, E, R, S, EItem>
): Effect.Effect<Engine<A, S>, never, R | Scope.Scope> => {
  const { idempotent, onFailure, run } = options
  const attempt = (tickets: ReadonlyArray<Ticket<A>>): Effect.Effect<boolean, E, R> =>
    Effect.map(
      Effect.suspend(() => run(valuesOf(tickets))),
      (results) => settle(tickets, results)
    )
  const bisect = (tickets: ReadonlyArray<Ticket<A>>): Effect.Effect<boolean, never, R> =>
    Effect.suspend(() => {
      // Some may have left while the other half ran.
      const live = tickets.filter(({ isLive }) => isLive)
      if (live.length === 0) return Effect.succeed(false)
      const answered = Effect.tap(attempt(live), () =>
        Effect.sync(() => live.forEach((ticket) => ticket.answer(ticket.outcome!)))
      )
      return Effect.catchCause(answered, (cause) => {
        if (Cause.hasInterrupts(cause)) return Effect.failCause(cause as Cause.Cause<never>)
        if (live.length === 1)
          return Effect.as(
            Effect.sync(() => live[0]!.answer(Exit.failCause(cause))),
            false
          )
        const middle = Math.ceil(live.length / 2)
        return Effect.as(Effect.andThen(bisect(live.slice(0, middle)), bisect(live.slice(middle))), false)
      })
    })
  if (onFailure === "bisect" && !idempotent) {
    return Effect.die(
      new Error(
        `Invalid options of ${nameOf(options)}: onFailure "bisect" runs items again, so it needs idempotent: true`
      )
    )
  }
  return start<A, S, R>(options, onFailure === "bisect" ? bisect : attempt)
}

const settle = <A, B, E>(tickets: ReadonlyArray<Ticket<A>>, results: ReadonlyArray<B | Exit.Exit<B, E>>): boolean => {
  const received = Array.isArray(results) ? results.length : 0
  const isRight = received === tickets.length
  const wrong = isRight
    ? undefined
    : Exit.fail(because(() => new BatchContract({ expected: tickets.length, received })))
  tickets.forEach((ticket, i) => {
    const result = results?.[i]
    ticket.outcome = wrong ?? (Exit.isExit(result) ? outcomeOf(result) : Exit.succeed(result))
  })
  return isRight
}

const start = Effect.fnUntraced(function* <A, S, R>(
  options: Common<A, S>,
  work: (tickets: ReadonlyArray<Ticket<A>>) => Effect.Effect<boolean, unknown, R>
) {
  const host = yield* Host
  const name = nameIn(host, options.name)
  const written = Object.entries(options).filter(([key]) => key in Limits.fields)
  const limits = yield* limitsOf(Object.fromEntries(written), name)
  const shutdown = yield* decode(
    Time,
    options.gracefulShutdownTimeout ?? "20 seconds",
    `${name}, gracefulShutdownTimeout`
  )
  const context = Context.omit(Scope.Scope, Tracer.ParentSpan)(yield* Effect.context<R>())
  const cost = new CostModel()
  const engine = new Engine<A, S>({
    name: host === undefined ? name : `${host.deployment}.${name}`,
    limits,
    queue: new BatchQueue({ limits, sizing: sizingOf(options.batchSize), key: options.key, cost }),
    cost,
    work: (tickets) => Effect.scoped(work(tickets) as Effect.Effect<boolean, unknown, Scope.Scope>),
    context,
    gracefulShutdownTimeout: shutdown,
    // What items cost can't be compared with how many there may be.
    warn: (limits) =>
      host === undefined || options.batchSize !== undefined ? Effect.void : canFill(host, name, limits)
  })
  yield* Effect.addFinalizer(() => engine.close)
  yield* engine.tally.show({ deployment: host?.deployment ?? "none", replica: host?.replica ?? "none", batcher: name })
  if (host !== undefined) yield* register(host, name, engine)
  return engine
})

/** Shows a batcher in the state of the replica that makes it, and warns when its batches can't fill. */
const register = Effect.fnUntraced(function* <A, S>(host: Host, name: string, engine: Engine<A, S>) {
  const state = () => engine.state
  yield* Effect.acquireRelease(
    Effect.sync(() => host.batchers.add(state)),
    () => Effect.sync(() => host.batchers.delete(state))
  )
  yield* engine.warn
})

const canFill = (host: Host, name: string, { maxBatchSize, maxConcurrentBatches }: EngineLimits) =>
  maxBatchSize * maxConcurrentBatches <= host.maxOngoingRequests
    ? Effect.void
    : Effect.logWarning(
        `Batcher "${name}" of replica "${host.replica}" can't fill its batches: maxBatchSize ${maxBatchSize} times ` +
          `maxConcurrentBatches ${maxConcurrentBatches} is more than maxOngoingRequests ${host.maxOngoingRequests}. Raise the latter.`
      )

const controls = <A, S>(engine: Engine<A, S>): Controls => ({
  update: (changes) =>
    Effect.suspend(() => {
      const { state } = engine
      const current = Object.fromEntries(Object.keys(Limits.fields).map((key) => [key, state[key as keyof State]]))
      return Effect.flatMap(limitsOf({ ...current, ...changes }, state.name), (limits) => {
        engine.update(limits)
        return engine.warn
      })
    }),
  state: Effect.sync(() => engine.state)
})

const limitsOf = (written: object, name: string): Effect.Effect<EngineLimits> =>
  Effect.map(decode(Limits, written, name), (limits) => ({
    ...limits,
    maxBatchWait: Duration.toMillis(limits.maxBatchWait),
    batchWaitTimeout:
      limits.batchWaitTimeout === "adaptive" ? limits.batchWaitTimeout : Duration.toMillis(limits.batchWaitTimeout)
  }))

const nameOf = ({ name = "batcher" }: { readonly name?: string }) => name

const valuesOf = <A>(tickets: ReadonlyArray<Ticket<A>>) =>
  tickets.map(({ value }) => value) as unknown as NonEmptyReadonlyArray<A>

const sizingOf = <A, S>(batchSize: Common<A, S>["batchSize"]): Sizing<A, any> => {
  if (batchSize === undefined) return { empty: 0, add: (size) => size + 1, size: (size) => size }
  if (typeof batchSize === "function") {
    return { empty: [], add: (items: ReadonlyArray<A>, item) => [...items, item], size: batchSize }
  }
  const { add, empty, size } = batchSize
  return { empty, add, size: size ?? ((state) => state as number) }
}

// An item whose own outcome is an interruption must not look like an interruption of its caller.
const outcomeOf = <B, E>(exit: Exit.Exit<B, E>): Exit.Exit<B, E> =>
  Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)
    ? Exit.die(new Error("The outcome of this item in its batch was an interruption"))
    : exit
