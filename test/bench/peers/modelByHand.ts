/**
 * The search of the study `model`, as one writes it by hand: Fastify with schemas, the model in a thread of Piscina, and DataLoader before it,
 * which seals a batch when the model is free. Takes how many texts go through the model together.
 */
import DataLoader from "dataloader"
import Fastify from "fastify"
import type { AddressInfo } from "node:net"
import { Piscina } from "piscina"
import { candidates, nearest } from "./model.ts"
import { report } from "./web.ts"

const pool = new Piscina({
  filename: new URL("./modelTask.ts", import.meta.url).href,
  minThreads: 1,
  maxThreads: 1,
  maxQueue: 1000
})

type Vectors = ReadonlyArray<ReadonlyArray<number>>

const embed = (texts: ReadonlyArray<string>): Promise<Vectors> => pool.run(texts, { name: "embed" })

let free: Promise<unknown> = Promise.resolve()

const loader = new DataLoader(
  (texts: ReadonlyArray<string>) => {
    const vectors = embed(texts)
    free = vectors.catch(() => {})
    return vectors
  },
  {
    cache: false,
    maxBatchSize: Number(process.argv[2]),
    batchScheduleFn: (dispatch) => setTimeout(() => void free.then(dispatch), 1)
  }
)

const all: Vectors = await embed(candidates)

const app = Fastify({ keepAliveTimeout: 60_000, ajv: { customOptions: { coerceTypes: false } } })

const schema = {
  body: {
    type: "object",
    properties: { text: { type: "string", minLength: 1, maxLength: 1000 } },
    required: ["text"]
  },
  response: { 200: { type: "object", properties: { nearest: { type: "integer" } }, required: ["nearest"] } }
}

app.post<{ Body: { readonly text: string } }>("/search/nearest", { schema }, async ({ body }) => ({
  nearest: nearest(await loader.load(body.text), all)
}))

await app.listen({ host: "127.0.0.1", port: 0 })
report((app.server.address() as AddressInfo).port)
