/**
 * Batches of a real model: the Universal Sentence Encoder finds the passage that is nearest to a query, in a thread, behind effect-serve and
 * behind what one writes by hand with Fastify, DataLoader and Piscina, with batches and without.
 */
import { Console, Effect } from "effect"
import { race, startNode, tableOf, timesAsFast, rate, ratios } from "../harness/race.ts"
import { ask } from "../harness/servers.ts"
import { atLeast, type Study } from "../harness/Study.ts"
import { medianOf } from "../harness/table.ts"
import { MAX_BATCH_SIZE, queries } from "../peers/model.ts"

const CLIENTS = 32
const ROUNDS = 5

const ours = new URL("../servers/model.ts", import.meta.url)
const byHand = new URL("../peers/modelByHand.ts", import.meta.url)

const [batched, byHandBatched, alone, byHandAlone] = [
  `effect-serve, batches of ${MAX_BATCH_SIZE}`,
  `Fastify + DataLoader + Piscina, batches of ${MAX_BATCH_SIZE}`,
  "effect-serve, one by one",
  "Fastify + Piscina, one by one"
]

const programs = [
  [batched, ours, MAX_BATCH_SIZE],
  [byHandBatched, byHand, MAX_BATCH_SIZE],
  [alone, ours, 1],
  [byHandAlone, byHand, 1]
] as const

const path = "/search/nearest"

export const model: Study = {
  name: "model",
  measure: Effect.gen(function* () {
    const servers = yield* Effect.forEach(programs, ([name, program, size]) =>
      startNode(name, program, [`${size}`], undefined, { MAX_BATCH_SIZE: `${size}` })
    )
    const requests = queries.slice(0, CLIENTS).map((text) => JSON.stringify({ text }))
    const exchanges = yield* Effect.forEach(requests, (request) =>
      Effect.map(ask(servers[0].port, path, request), ({ body }) => ({ request, answer: body }))
    )
    const load = { path, exchanges, contentType: "application/json", units: 1, sleeps: true }
    const sides = servers.map(({ name, pid, port }) => ({
      name,
      pid,
      load: { ...load, port, head: exchanges[0]!.answer.length },
      times: { warmUp: 500, turn: 2500, pause: 300 }
    }))
    const rounds = yield* race(sides, ROUNDS)
    const text = tableOf(rounds, "request", "latency")
    yield* Console.log(text)
    const throughput = (one: string, other: string) => medianOf(ratios(rounds, one, other, rate))
    return {
      title: "Batches of a real model",
      text: `${CLIENTS} connections send queries of seven words, each the next one when it has its answer: which of the passages is nearest, by the Universal
Sentence Encoder. The model is in one thread of the server's process; all have both cores, which they share with the load. The servers took turns, 2.5 s
each, in ${ROUNDS} rounds after one that does not count, and have to give the same answers.
[effect-serve](../../test/bench/servers/model.ts) is the deployment of the example and one that calls it; [by hand](../../test/bench/peers/modelByHand.ts) DataLoader seals a batch when the
model is free.

${text}`,
      verdicts: [
        atLeast(`requests/s, of those of ${byHandBatched}`, throughput(batched, byHandBatched), 1),
        atLeast(
          `requests per CPU second, of those of ${byHandBatched}`,
          timesAsFast(rounds, batched, byHandBatched),
          1
        ),
        atLeast("requests/s with batches, of those one by one", throughput(batched, alone), 1.5)
      ],
      data: rounds
    }
  }).pipe(Effect.scoped)
}
