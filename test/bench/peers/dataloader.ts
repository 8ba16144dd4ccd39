/**
 * What one writes by hand for the batching benchmark: Fastify with JSON schemas, and DataLoader with a lock around the model, so
 * that it runs one batch at a time.
 *
 * Takes two arguments. The first says when a batch is sealed: `timer` a time after its first item came, as DataLoader's docs show;
 * `slot` not before the model is free either, so that a batch fills as long as it would have to wait anyway. The second is that
 * time, in milliseconds.
 */
import DataLoader from "dataloader"
import Fastify from "fastify"
import { MAX_BATCH_SIZE, start } from "./device.ts"

const MAX_QUEUED = 1000

const [sealing, delay] = process.argv.slice(2)
const device = start()

let free: Promise<unknown> = Promise.resolve()

/** Runs something that holds the model, when it is free. */
const alone = <A>(work: () => Promise<A>): Promise<A> => {
  const result = free.then(work)
  free = result.catch(() => {})
  return result
}

const later = (dispatch: () => void) => {
  setTimeout(dispatch, Number(delay))
}

const timer = new DataLoader((items: ReadonlyArray<number>) => alone(() => device.double(items)), {
  cache: false,
  maxBatchSize: MAX_BATCH_SIZE,
  batchScheduleFn: later
})

let release = () => {}

const slot = new DataLoader((items: ReadonlyArray<number>) => device.double(items).finally(() => release()), {
  cache: false,
  maxBatchSize: MAX_BATCH_SIZE,
  batchScheduleFn: (dispatch) =>
    later(
      () =>
        void alone(
          () =>
            new Promise<void>((resolve) => {
              release = resolve
              dispatch()
            })
        )
    )
})

const loader = sealing === "slot" ? slot : timer
let queued = 0

const app = Fastify({
  bodyLimit: 1024 * 1024,
  keepAliveTimeout: 60_000,
  requestTimeout: 30_000,
  ajv: { customOptions: { coerceTypes: false } }
})

const number = { type: "number" }
const schema = {
  body: { type: "object", properties: { x: number }, required: ["x"] },
  response: {
    200: { type: "object", properties: { y: number }, required: ["y"] },
    503: { type: "object", properties: { error: { type: "string" } } }
  }
}

app.post<{ Body: { readonly x: number } }>("/model/double", { schema }, async ({ body }, reply) => {
  if (queued >= MAX_QUEUED) return reply.code(503).header("retry-after", "1").send({ error: "Too many requests wait" })
  queued++
  try {
    return { y: await loader.load(body.x) }
  } finally {
    queued--
  }
})

process.send!(await app.listen({ host: "127.0.0.1", port: 0 }))
