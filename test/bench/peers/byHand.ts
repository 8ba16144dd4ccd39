/**
 * The kinds of work of the benchmarks, as one writes them by hand: Fastify with JSON schemas of the requests and the responses, a line
 * in front of each handler, an `AbortSignal` for deadlines and for clients that hang up, Piscina, and DataLoader with a lock around the
 * model. A kind is served at the path of its name.
 */
import DataLoader from "dataloader"
import Fastify, { type FastifyReply, type FastifyRequest } from "fastify"
import type { AddressInfo } from "node:net"
import { finished, Readable } from "node:stream"
import { setTimeout as wait } from "node:timers/promises"
import { Piscina } from "piscina"
import { MAX_BATCH_SIZE, start } from "./device.ts"
import { DEADLINE, note, STEP } from "./steps.ts"
import { eventOf, report } from "./web.ts"

const kind = process.argv[2]!

const failure = (statusCode: number, message: string) => Object.assign(new Error(message), { statusCode })

const full = () => failure(503, "Too many requests wait")

/** A line: `atOnce` requests have their turn, `most` wait for one. */
const makeLine = (atOnce: number, most: number) => {
  let running = 0
  const waiting = new Set<() => void>()

  const turn = (signal: AbortSignal) =>
    new Promise<void>((resolve, reject) => {
      const settle = (then: () => void) => {
        waiting.delete(begin)
        signal.removeEventListener("abort", giveUp)
        then()
      }
      const begin = () => settle(resolve)
      const giveUp = () => settle(() => reject(signal.reason))
      waiting.add(begin)
      signal.addEventListener("abort", giveUp)
    })

  return {
    /** Waits for a turn. Fails when too many wait, or when the signal says that nobody does any more. */
    enter: async (signal: AbortSignal) => {
      if (running < atOnce) running++
      else if (waiting.size < most) await turn(signal)
      else throw full()
    },
    leave: () => {
      const [next] = waiting
      if (next === undefined) running--
      else next()
    }
  }
}

const line =
  kind === "work" ? makeLine(4, 100) : makeLine(kind === "noop" ? Number(process.env["MAX_ONGOING"] ?? 128) : 128, 1000)

const deadline = kind === "work" ? DEADLINE : 60_000

/**
 * Says when a request is late, or when its client has hung up. Fastify's `request.signal` and `handlerTimeout` take the end of a body for
 * a client that hangs up (https://github.com/fastify/fastify/pull/6725).
 */
const signalOf = ({ raw }: FastifyReply): AbortSignal => {
  const controller = new AbortController()
  const timer = setTimeout(() => controller.abort(failure(504, "Too late")), deadline)
  raw.once("close", () => {
    clearTimeout(timer)
    if (!raw.writableFinished) controller.abort(failure(499, "The client hung up"))
  })
  return controller.signal
}

/** A handler in the line. */
const inLine =
  <Body, A>(handle: (body: Body, signal: AbortSignal) => A | Promise<A>) =>
  async ({ body }: FastifyRequest, reply: FastifyReply) => {
    const signal = signalOf(reply)
    await line.enter(signal)
    try {
      return await handle(body as Body, signal)
    } catch (error) {
      throw signal.aborted ? signal.reason : error
    } finally {
      line.leave()
    }
  }

const app = Fastify({
  bodyLimit: 16 * 1024 * 1024,
  keepAliveTimeout: 60_000,
  ajv: { customOptions: { coerceTypes: false } }
})

app.setErrorHandler<Error & { readonly statusCode?: number }>((error, _request, reply) => {
  if (error.statusCode === 503) reply.header("retry-after", "1")
  return reply.send(error)
})

const object = (properties: Record<string, object>) => ({
  type: "object",
  properties,
  required: Object.keys(properties)
})

const string = { type: "string" }
const number = { type: "number" }
const integer = { type: "integer" }
const boolean = { type: "boolean" }
const row = object({ id: integer, name: string, score: number, isOpen: boolean, text: string })

const schemaOf = (body: object, answer: object) => ({
  schema: { body, response: { 200: answer } }
})

const serveEcho = () => {
  app.post(
    "/echo",
    schemaOf(row, row),
    inLine((body) => body)
  )
}

const serveNoop = () => {
  app.post(
    "/noop",
    schemaOf(object({ data: string }), object({ ok: boolean })),
    inLine(() => ({ ok: true }))
  )
}

const serveBatch = () => {
  const device = start()
  let free = Promise.resolve()
  let release: () => void

  /** Runs a batch, and each half of one that fails again, so that a bad item fails alone. */
  const run = async (items: ReadonlyArray<number>): Promise<Array<number | Error>> => {
    try {
      return Array.from(await device.double(items))
    } catch (error) {
      if (items.length === 1) return [error as Error]
      const middle = items.length >> 1
      return [...(await run(items.slice(0, middle))), ...(await run(items.slice(middle)))]
    }
  }

  const loader = new DataLoader((items: ReadonlyArray<number>) => run(items).finally(() => release()), {
    cache: false,
    maxBatchSize: MAX_BATCH_SIZE,
    // A batch is sealed when the model is free, and fills until then.
    batchScheduleFn: (dispatch) => {
      setTimeout(() => {
        free = free.then(
          () =>
            new Promise<void>((resolve) => {
              release = resolve
              dispatch()
            })
        )
      }, 1)
    }
  })

  app.post(
    "/batch",
    schemaOf(object({ x: number }), object({ y: number })),
    inLine(async ({ x }: { readonly x: number }) => ({ y: await loader.load(x) }))
  )
}

const serveCpu = () => {
  const pool = new Piscina<number, string>({
    filename: new URL("./hash.ts", import.meta.url).href,
    name: "hash",
    minThreads: 2,
    maxThreads: 2,
    maxQueue: 1000
  })

  app.post<{ Body: { readonly x: number } }>(
    "/cpu",
    schemaOf(object({ x: integer }), object({ hash: string })),
    async ({ body }, reply) => {
      const signal = signalOf(reply)
      try {
        return { hash: await pool.run(body.x, { signal }) }
      } catch (error) {
        if (signal.aborted) throw signal.reason
        throw (error as Error).message === "Task queue is at limit" ? full() : error
      }
    }
  )
}

async function* events(count: number, delay: number, signal: AbortSignal) {
  for (let i = 0; i < count; i++) {
    if (delay > 0) await wait(delay, undefined, { signal })
    yield `data: ${JSON.stringify(eventOf(i))}\n\n`
  }
}

const serveStream = () => {
  app.post<{ Body: { readonly count: number; readonly delay: number } }>(
    "/stream",
    { schema: { body: object({ count: integer, delay: integer }) } },
    async ({ body }, reply) => {
      const signal = signalOf(reply)
      await line.enter(signal)
      const readable = Readable.from(events(body.count, body.delay, signal))
      finished(readable, line.leave)
      return reply.type("text/event-stream").send(readable)
    }
  )
}

const serveWork = () => {
  app.post(
    "/work",
    schemaOf(object({ steps: integer }), object({ done: integer })),
    inLine(async ({ steps }: { readonly steps: number }, signal) => {
      for (let i = 0; i < steps; i++) {
        await wait(STEP, undefined, { signal })
        note("s")
      }
      note("e")
      return { done: steps }
    })
  )
}

const kinds: Record<string, () => void> = {
  echo: serveEcho,
  noop: serveNoop,
  batch: serveBatch,
  cpu: serveCpu,
  stream: serveStream,
  work: serveWork
}

kinds[kind]!()
await app.listen({ host: "127.0.0.1", port: 0 })
const { port } = app.server.address() as AddressInfo
// The device answers the benchmark itself.
if (kind === "batch") process.send!(port)
else report(port)
