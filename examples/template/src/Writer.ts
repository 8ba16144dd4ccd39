/** A deployment that writes on from a text. The model is a stand-in: put yours in the place of `load`. */
import { Deployment } from "effect-serve"
import { Effect, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"

/** The prompt has more words than the model takes. */
export class PromptTooLong extends Schema.TaggedError<PromptTooLong>("Writer/PromptTooLong")(
  "PromptTooLong",
  { words: Schema.Int, most: Schema.Int },
  { httpApiStatus: 422 }
) {}

const payload = {
  prompt: Schema.NonEmptyString,
  /** How many words to write. */
  words: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 200 }))
}

/** The contract: what callers see, here and over HTTP. */
export class Writer extends Deployment.Service<Writer>()("Writer", [
  Rpc.make("write", { payload, success: Schema.String, error: PromptTooLong }),
  Rpc.make("stream", { payload, success: Schema.String, error: PromptTooLong, stream: true })
]) {}

const MOST_WORDS = 100

/** A model that takes 100 milliseconds for a word, and repeats what it was told. */
const load = Effect.acquireRelease(
  Effect.succeed((prompt: ReadonlyArray<string>, words: number) =>
    Stream.range(0, words - 1).pipe(
      Stream.mapEffect((i) => Effect.delay(Effect.succeed(prompt[i % prompt.length]!), "100 millis"))
    )
  ),
  () => Effect.logInfo("The model is unloaded")
)

/** The implementation. Each replica builds it once, with a model of its own. */
export const WriterLive = Writer.toLayer(
  Effect.gen(function* () {
    const model = yield* load
    const stream = ({ prompt, words }: { readonly prompt: string; readonly words: number }) => {
      const given = prompt.trim().split(/\s+/)
      return given.length > MOST_WORDS
        ? Stream.fail(new PromptTooLong({ words: given.length, most: MOST_WORDS }))
        : model(given, words)
    }
    return Writer.of({
      stream,
      write: (request) => Effect.map(Stream.runCollect(stream(request)), (words) => words.join(" "))
    })
  }),
  { replicas: 1, maxOngoingRequests: 2, maxQueuedRequests: 100, requestTimeout: "30 seconds" }
)
