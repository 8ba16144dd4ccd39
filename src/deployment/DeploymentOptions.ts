/**
 * The options of a deployment: types, bounds and defaults in one place, and where their values come from.
 *
 * @since 0.1.0
 */
import { Duration, Schema, SchemaTransformation } from "effect"
import { count, CountOrInfinity, Flag, orElse, ResourceLimits, Time } from "../core/Options.ts"

const minAtMostMax = Schema.makeFilter(
  ({ maxOngoingRequests, minOngoingRequests }: { maxOngoingRequests: number; minOngoingRequests: number }) =>
    minOngoingRequests <= maxOngoingRequests
      ? undefined
      : {
          path: ["minOngoingRequests"],
          issue: `Expected at most maxOngoingRequests, which is ${maxOngoingRequests}, got ${minOngoingRequests}`
        }
)

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
  replicas: count(0).pipe(Schema.withDecodingDefaultTypeKey(orElse(1))),
  /** Requests that one replica runs at once, at least 1. Default `5`. */
  maxOngoingRequests: count(1).pipe(Schema.withDecodingDefaultTypeKey(orElse(5))),
  /** Requests that wait for a replica; more fail with `QueueFull`. `0` never queues, `Infinity` always. Default `1000`. */
  maxQueuedRequests: CountOrInfinity.pipe(Schema.withDecodingDefaultTypeKey(orElse(1000))),
  /**
   * Who is served next among those who wait. `"adaptive"`: first come, first served, and newest first with a bound on the
   * wait while more comes than is served. `"fifo"`: first come, first served. `"edf"`: earliest deadline first, when it can
   * be met. More important requests come first in each. Default `"adaptive"`.
   */
  queueDiscipline: Schema.Literals(["adaptive", "fifo", "edf"]).pipe(
    Schema.withDecodingDefaultTypeKey(orElse("adaptive" as const))
  ),
  /**
   * `"tenant"` gives each tenant (`CallOptions.tenant`, header `x-request-tenant`) its own line among requests of one
   * priority, and all of them the same share of the time of the replicas. Default `"none"`.
   */
  fairness: Schema.Literals(["none", "tenant"]).pipe(Schema.withDecodingDefaultTypeKey(orElse("none" as const))),
  /**
   * `"adaptive"` finds out, for each replica, how many requests it should run at once to serve most, between
   * `minOngoingRequests` and `maxOngoingRequests`. Not for handlers that batch: their limit is the batch. Default `"fixed"`.
   */
  concurrencyLimit: Schema.Literals(["fixed", "adaptive"]).pipe(
    Schema.withDecodingDefaultTypeKey(orElse("fixed" as const))
  ),
  /** Requests that an adaptive limit allows at the least, at least 1 and at most `maxOngoingRequests`. Default `1`. */
  minOngoingRequests: count(1).pipe(Schema.withDecodingDefaultTypeKey(orElse(1))),
  /**
   * Whether a replica that fails while the others don't gets no requests for a while: 5 seconds, and longer each time. At
   * most half of the replicas are taken out of service. Default `true`.
   */
  outlierEjection: Schema.Boolean.pipe(Schema.withDecodingDefaultTypeKey(orElse(true))),
  /** Time in which a request must be done, or a stream must give its first element. Default `"60 seconds"`. */
  requestTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(60)))),
  /**
   * Until when a stream holds its permit: to its `"end"`, or to its `"firstElement"`, so that streams which do their work before it, and
   * then are as long as their readers take, don't keep others waiting. How many of these there are at once is then not bounded.
   * Default `"end"`.
   */
  releasePermit: Schema.Literals(["end", "firstElement"]).pipe(
    Schema.withDecodingDefaultTypeKey(orElse("end" as const))
  ),
  /** Time that accepted requests get to finish at shutdown. Default `"20 seconds"`. */
  gracefulShutdownTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(20))))
}).check(minAtMostMax)

/**
 * What {@link Options} has, and the options of a deployment that is built from a module.
 *
 * @category options
 * @since 0.1.0
 */
export const ModuleOptions = Schema.Struct({
  ...Options.fields,
  /**
   * Where each replica runs: `"thread"` gives it a thread with an event loop of its own, `"loop"` builds it on the app's. Default
   * `"thread"`, or `"loop"` when `SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD` is 0.
   */
  isolation: Schema.optionalKey(Schema.Literals(["thread", "loop"])),
  /** Whether blocking methods run on threads of their own. Default: `SERVE_RUN_SYNC_IN_THREADPOOL`, which is 1 if not set. */
  runSyncInThreadpool: Schema.optionalKey(Flag),
  /**
   * Whether an ingress that serves the deployment moves to a thread of its own, with a router before it, when the replicas run on
   * the app's event loop. Default: `SERVE_RUN_ROUTER_IN_SEPARATE_LOOP`, which is 1 if not set.
   */
  runRouterInSeparateLoop: Schema.optionalKey(Flag),
  /** Threads for the blocking methods of one replica. Default: `maxOngoingRequests`, and no more than there are cores. */
  poolSize: Schema.optionalKey(count(1)),
  /** Time that a blocking call gets to stop by itself when it is cancelled, before its thread is ended. Default `"100 millis"`. */
  cancelGrace: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.millis(100)))),
  /**
   * Time for which the thread of a replica may not react, because its event loop is held, before it is ended and replaced. `Infinity`
   * for ever. Default `"30 seconds"`, as Ray Serve waits for a health check.
   */
  unresponsiveTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(30)))),
  /** Bounds of the memory of each thread, in MiB; one that needs more ends. Default: Node's. */
  resourceLimits: ResourceLimits.pipe(Schema.withDecodingDefaultTypeKey(orElse({})))
}).check(minAtMostMax)

const Url = Schema.String.check(
  Schema.makeFilter((url: string) => /^https?:$/.test(URL.parse(url)?.protocol ?? ""), {
    expected: 'the URL of an ingress, such as "http://10.0.0.1:8000"'
  })
)

/** Several, with commas between them where they are one text, as in the environment. */
const Urls = Schema.Union([
  Schema.Array(Url).check(Schema.isMinLength(1)),
  Schema.String.pipe(
    Schema.decodeTo(
      Schema.Array(Url).check(Schema.isMinLength(1)),
      SchemaTransformation.transform<ReadonlyArray<string>, string>({
        decode: (text) =>
          text
            .split(",")
            .map((url) => url.trim())
            .filter((url) => url !== ""),
        encode: (urls) => urls.join(",")
      })
    )
  )
])

/** Either of the two that say where. */
const oneOfUrls = Schema.makeFilter(({ url, urls }: { readonly url?: string; readonly urls?: ReadonlyArray<string> }) =>
  (url === undefined) === (urls === undefined)
    ? { path: ["url"], issue: "Expected either url or urls, the ingresses that serve the deployment" }
    : undefined
)

/**
 * The options of `toLayerRemote`, beside `auth`. How many requests run, and in which order, is decided by the deployment where it runs.
 *
 * @category options
 * @since 0.1.0
 */
export const RemoteOptions = Schema.Struct({
  /**
   * The ingress that serves the deployment, such as `"http://10.0.0.1:8000"`; `https:` for TLS. A path is what stands before `/-/rpc`.
   * Default none: there are `urls`.
   */
  url: Schema.optionalKey(Url),
  /** Several of them, among which requests are shared out by how many each has and how long it takes. Default none: there is `url`. */
  urls: Schema.optionalKey(Urls),
  /** Connections to each URL. One carries many calls at once. Default `1`. */
  connections: count(1).pipe(Schema.withDecodingDefaultTypeKey(orElse(1))),
  /** Time in which a connection must be there. Default `"5 seconds"`. */
  connectTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(5)))),
  /** The waits before other tries to connect: twice as long each time, less a random part, so that clients don't come back together. Default `{}`. */
  reconnect: Schema.Struct({
    /** The longest that the first one may be. Default `"100 millis"`. */
    firstDelay: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.millis(100)))),
    /** The longest that any of them may be. Default `"2 seconds"`. */
    maxDelay: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(2))))
  }).pipe(Schema.withDecodingDefaultKey(orElse({}))),
  /**
   * How long requests wait for a connection while there is none at all; then they fail with `TransportError`, and so do others at once
   * until there is one. Default `"5 seconds"`.
   */
  unreachableTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(5)))),
  /** Time after which a connection is dead on which nothing is heard, not even the answer to a ping. Default `"20 seconds"`. */
  pingTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.seconds(20)))),
  /** Bytes that an answer, or an element of a stream, may have. Default `67108864` (64 MiB). */
  maxAnswerSize: count(1).pipe(Schema.withDecodingDefaultTypeKey(orElse(64 * 1024 ** 2))),
  /** Requests that wait for a connection, or for one that has room; more fail with `QueueFull`. Default `1000`. */
  maxQueuedRequests: Options.fields.maxQueuedRequests,
  /** Time in which a request must be done, or a stream must give its first element, beside the deployment's own. Default `Infinity`. */
  requestTimeout: Time.pipe(Schema.withDecodingDefaultTypeKey(orElse(Duration.infinity))),
  /** As for `toLayer`, among connections. Default `true`. */
  outlierEjection: Options.fields.outlierEjection,
  /** Time that requests get to finish at shutdown. Default `"20 seconds"`. */
  gracefulShutdownTimeout: Options.fields.gracefulShutdownTimeout,
  /** Whom to trust and who to be, for `https:` URLs, in PEM. Default: Node's authorities, and no certificate. */
  tls: Schema.Struct({
    /** Who signs the certificates of servers. Default: Node's authorities. */
    ca: Schema.optionalKey(Schema.NonEmptyString),
    /** The certificate of this client. Default none. */
    cert: Schema.optionalKey(Schema.NonEmptyString),
    /** The key of that certificate. Default none. */
    key: Schema.optionalKey(Schema.NonEmptyString)
  }).pipe(Schema.withDecodingDefaultKey(orElse({})))
}).check(oneOfUrls)

/**
 * The options of a deployment as they are written in code; what is left out has its default.
 *
 * @category options
 * @since 0.1.0
 */
export type DeploymentOptions = typeof Options.Encoded

/**
 * The options of a deployment that is built from a module, as they are written in code.
 *
 * @category options
 * @since 0.1.0
 */
export type DeploymentModuleOptions = typeof ModuleOptions.Encoded

/**
 * The options of a deployment in another process, as they are written in code.
 *
 * @category options
 * @since 0.1.0
 */
export type DeploymentRemoteOptions = typeof RemoteOptions.Encoded
