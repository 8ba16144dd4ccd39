/**
 * The options of a deployment: types, bounds and defaults in one place, and where their values come from.
 *
 * @since 0.1.0
 */
import { ConfigProvider, Duration, Effect, Option, Schema, SchemaTransformation } from "effect"

const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

const CountOrInfinity = Schema.Number.check(
  Schema.makeFilter((n: number) => n >= 0 && (Number.isSafeInteger(n) || n === Infinity), {
    expected: "an integer of at least 0, or Infinity"
  })
)

const isDurationInput = (input: unknown): input is Duration.Input =>
  Option.exists(Duration.fromInput(input as Duration.Input), Duration.isGreaterThanOrEqualTo(Duration.zero))

const Time = Schema.declare(isDurationInput, { expected: "a duration such as \"5 seconds\", at least 0" }).pipe(
  Schema.decodeTo(
    Schema.Duration,
    SchemaTransformation.transform<Duration.Duration, Duration.Input>({
      decode: Duration.fromInputUnsafe,
      encode: (duration) => duration
    })
  )
)

const withDefault = <A>(value: A) => Effect.succeed(value)

/**
 * The options of `toLayer`. Each can be overridden, without a change of code, by the `ConfigProvider` under
 * `serve.<Deployment>.<option>`; in the environment that is `SERVE_SENTIMENT_MAX_ONGOING_REQUESTS` for a deployment
 * named `Sentiment`.
 *
 * @category options
 * @since 0.1.0
 */
export const Options = Schema.Struct({
  /** Copies of the deployment, each with its own handlers and resources. `0` is allowed. Default `1`. */
  replicas: Count.pipe(Schema.withDecodingDefaultTypeKey(withDefault(1))),
  /** Requests that one replica runs at once, at least 1. Default `5`. */
  maxOngoingRequests: Schema.Int.check(Schema.isGreaterThanOrEqualTo(1)).pipe(
    Schema.withDecodingDefaultTypeKey(withDefault(5))
  ),
  /** Requests that wait for a replica; more fail with `QueueFull`. `0` never queues, `Infinity` always. Default `1000`. */
  maxQueuedRequests: CountOrInfinity.pipe(Schema.withDecodingDefaultTypeKey(withDefault(1000))),
  /** Time in which a request must be done, or a stream must give its first element. Default `"60 seconds"`. */
  requestTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(withDefault(Duration.seconds(60)))),
  /** Time that accepted requests get to finish at shutdown. Default `"20 seconds"`. */
  gracefulShutdownTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(withDefault(Duration.seconds(20))))
})

/**
 * The options of a deployment as they are written in code; what is left out has its default.
 *
 * @category options
 * @since 0.1.0
 */
export type DeploymentOptions = typeof Options.Encoded

/** Resolves the options of a deployment. Dies, naming the option, when a value is out of range. */
export const resolve = Effect.fnUntraced(function*(deployment: string, written: DeploymentOptions) {
  const configured = yield* fromConfig(deployment)
  return yield* Schema.decodeUnknownEffect(Options, { onExcessProperty: "error", errors: "all" })(
    { ...written, ...configured }
  ).pipe(
    Effect.catch((error) => Effect.die(new Error(`Invalid options of deployment "${deployment}": ${error.message}`)))
  )
})

const fromConfig = Effect.fnUntraced(function*(deployment: string) {
  const given = yield* ConfigProvider.ConfigProvider
  const provider = ConfigProvider.orElse(given, ConfigProvider.constantCase(given))
  const found: Record<string, string | number> = {}
  for (const option of Object.keys(Options.fields)) {
    const node = yield* Effect.orDie(provider.load(["serve", deployment, option]))
    if (node?.value !== undefined) found[option] = numberOrText(node.value)
  }
  return found
})

const numberOrText = (text: string): string | number => Number.isNaN(Number(text)) ? text : Number(text)
