/**
 * A deployment that goes on with a text, one character after the other.
 *
 * All the texts that are being written take part in each step of the model. A new one joins at the next step and one that is done
 * leaves, whatever the others do: this is continuous batching. The characters of a prompt are read like those that are written,
 * one each step.
 */
import { Effect, Random, Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Batching, Deployment } from "effect-serve"
import * as CharacterModel from "./CharacterModel.ts"
import { alphabet } from "./Weights.ts"

/** How a text begins, 1 to 200 characters of those that the model knows. */
const Prompt = Schema.String.check(
  Schema.isBetweenLength(1, 200),
  Schema.makeFilter((text) => Array.from(text).every((character) => alphabet.includes(character)), {
    expected: `only these characters: ${JSON.stringify(alphabet)}`
  })
)

export class Writer extends Deployment.Service<Writer>()("Writer", [
  Rpc.make("write", {
    payload: {
      prompt: Prompt,
      /** Characters to write, 1 to 2000. */
      length: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 2000 })),
      /** `0` always writes the likeliest character; from about `0.5` on texts differ, above `1` they fall apart. */
      temperature: Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 2 }))
    },
    success: Schema.String,
    stream: true
  })
]) {}

/** A text that is being written. */
interface Text {
  readonly state: Float32Array
  /** Characters that the model has to read before it writes the next one. */
  readonly unread: ReadonlyArray<number>
  /** Characters still to write. */
  readonly left: number
  readonly temperature: number
}

export const WriterLive = Writer.toLayer(
  Effect.gen(function* () {
    const model = yield* CharacterModel.make
    const random = yield* Random.Random

    const write = (text: Text, { scores, state }: ReturnType<typeof model.step>[number]) => {
      const unread = text.unread.slice(1)
      if (unread.length > 0) return { state: { ...text, state, unread }, emit: [], done: false }
      const character = CharacterModel.draw(scores, text.temperature, random.nextDoubleUnsafe())
      const next: Text = { ...text, state, unread: [character], left: text.left - 1 }
      return { state: next, emit: [alphabet[character]!], done: next.left === 0 }
    }

    const sequences = yield* Batching.continuous({
      name: "sequences",
      maxActive: 32,
      admit: ({ length, prompt, temperature }: { prompt: string; length: number; temperature: number }) =>
        Effect.succeed<Text>({
          state: CharacterModel.blank(),
          unread: Array.from(prompt, (character) => alphabet.indexOf(character)),
          left: length,
          temperature
        }),
      step: (texts) =>
        Effect.sync(() => {
          const steps = model.step(texts.map(({ state, unread }) => ({ state, character: unread[0]! })))
          return texts.map((text, i) => write(text, steps[i]!))
        })
    })
    return Writer.of({ write: sequences })
  }),
  { maxOngoingRequests: 64 }
)
