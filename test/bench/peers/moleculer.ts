/**
 * The kinds of work of the benchmarks, as one writes them with Moleculer: services with actions, its validator, its bulkhead, its request
 * timeout, and the gateway `moleculer-web` in front, in one process. A kind is served at the path of its name; that of `chain` is
 * `/echo` and that of `chainStream` is `/stream`.
 *
 * Moleculer batches nothing, has no threads, so that `cpu` is Piscina's, and stops nothing that runs or waits.
 */
import { type ActionSchema, type Context, type Service, ServiceBroker, type ServiceSchema } from "moleculer"
import ApiGateway from "moleculer-web"
import type { AddressInfo } from "node:net"
import type { Server } from "node:http"
import { Readable } from "node:stream"
import { setTimeout as wait } from "node:timers/promises"
import { Piscina } from "piscina"
import { DEADLINE, note, STEP } from "./steps.ts"
import { eventOf, report } from "./web.ts"

const kind = process.argv[2]!

const broker = new ServiceBroker({
  logger: false,
  requestTimeout: kind === "work" ? DEADLINE : 60_000
})

const bulkhead = { enabled: true, concurrency: 128, maxQueueSize: 1000 }

/** The parameters of an action, all of them needed and no others allowed. */
const strict = (params: Record<string, unknown>) => ({ $$strict: true, ...params })

const integer = { type: "number", integer: true }
const row = strict({ id: integer, name: "string", score: "number", isOpen: "boolean", text: "string" })

const echo: ActionSchema = {
  params: row,
  bulkhead,
  handler: ({ params }: Context) => params
}

const stream: ActionSchema = {
  params: strict({ count: integer, delay: integer }),
  bulkhead,
  handler: ({ meta, params }: Context<{ count: number; delay: number }, { $responseType?: string }>) => {
    meta.$responseType = "text/event-stream"
    return Readable.from(events(params.count, params.delay))
  }
}

async function* events(count: number, delay: number) {
  for (let i = 0; i < count; i++) {
    if (delay > 0) await wait(delay)
    yield `data: ${JSON.stringify(eventOf(i))}\n\n`
  }
}

const serveCpu = (): ServiceSchema => {
  const pool = new Piscina<number, string>({
    filename: new URL("./hash.ts", import.meta.url).href,
    name: "hash",
    minThreads: 2,
    maxThreads: 2
  })
  return {
    name: "cpu",
    actions: {
      cpu: {
        params: strict({ x: integer }),
        // Two more than there are threads, so that a thread that is free finds work.
        bulkhead: { ...bulkhead, concurrency: 4 },
        handler: async ({ params }: Context<{ x: number }>) => ({ hash: await pool.run(params.x) })
      }
    }
  }
}

const noop: ActionSchema = {
  params: strict({ data: "string" }),
  bulkhead: { ...bulkhead, concurrency: Number(process.env["MAX_ONGOING"] ?? 128) },
  handler: () => ({ ok: true })
}

const work: ActionSchema = {
  params: strict({ steps: integer }),
  bulkhead: { enabled: true, concurrency: 4, maxQueueSize: 100 },
  handler: async ({ params: { steps } }: Context<{ steps: number }>) => {
    for (let i = 0; i < steps; i++) {
      await wait(STEP)
      note("s")
    }
    note("e")
    return { done: steps }
  }
}

/** A service that gives what the action of another one gives. */
const passOn = (action: ActionSchema, to: string): ActionSchema => ({
  ...action,
  handler: (context: Context) => context.call(to, context.params)
})

/** The services of each kind; the action of the first one has the route. */
const kinds: Record<string, () => ReadonlyArray<ServiceSchema>> = {
  echo: () => [{ name: "rows", actions: { echo } }],
  chain: () => [
    { name: "gateway", actions: { echo: passOn(echo, "rows.echo") } },
    { name: "rows", actions: { echo } }
  ],
  noop: () => [{ name: "nothing", actions: { noop } }],
  cpu: () => [serveCpu()],
  stream: () => [{ name: "events", actions: { stream } }],
  chainStream: () => [
    { name: "gateway", actions: { stream: passOn(stream, "events.stream") } },
    { name: "events", actions: { stream } }
  ],
  work: () => [{ name: "worker", actions: { work } }]
}

const services = kinds[kind]!()
const [{ actions, name }] = services as [ServiceSchema]
const [path] = Object.keys(actions!)

for (const service of services) broker.createService(service)

const { server } = broker.createService({
  name: "web",
  mixins: [ApiGateway],
  settings: {
    ip: "127.0.0.1",
    port: 0,
    logRequest: null,
    logResponse: null,
    routes: [
      {
        path: "/",
        aliases: { [`POST /${path}`]: `${name}.${path}` },
        mappingPolicy: "restrict",
        bodyParsers: { json: { limit: "16mb" } },
        logging: false
      }
    ]
  }
}) as Service & { readonly server: Server }

await broker.start()
server.keepAliveTimeout = 60_000
report((server.address() as AddressInfo).port)
