/**
 * Continuous batching: a model that writes character by character, for many callers at once.
 *
 * `npm run example:characters` prints what it writes after a prompt, while it writes it; the prompt and the length can be given:
 * `npm run example:characters -- "The whale " 300`. Other callers, in the background, make the model write for them meanwhile.
 * The model learnt from one novel to spell and to punctuate, and little else: see README.md.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Layer, Stream } from "effect"
import { Writer, WriterLive } from "./Writer.ts"

const program = Effect.gen(function* () {
  const [prompt = "Call me ", length = "400"] = process.argv.slice(2)
  const writer = yield* Writer
  const others = Stream.runDrain(writer.write({ prompt: "The ", length: 100, temperature: 0.7 }))
  yield* Effect.forEach(Array.from({ length: 7 }), () => Effect.forkScoped(Effect.forever(others)))

  yield* print(prompt)
  yield* writer.write({ prompt, length: Number(length), temperature: 0.6 }).pipe(Stream.runForEach(print))
  const [replica] = (yield* Writer.state).replicas
  yield* Console.log(`\n\nThe loop, with 7 other callers: ${JSON.stringify(replica?.batchers)}`)
}).pipe(Effect.scoped)

const print = (text: string) => Effect.sync(() => process.stdout.write(text))

NodeRuntime.runMain(Effect.provide(program, Layer.provide(WriterLive, NodeServices.layer)))
