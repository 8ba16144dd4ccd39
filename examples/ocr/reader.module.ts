/**
 * A replica of `Reader`: it decodes the file and runs the model. Both compute, so each replica has a thread of its own.
 *
 * ONNX Runtime's `run` returns a promise and yet computes on the thread that calls it: on the thread that also serves HTTP, nothing
 * else would run for the 30 milliseconds that a line takes.
 */
import { Effect } from "effect"
import * as Png from "./Png.ts"
import { Reader, Unreadable } from "./Reader.ts"
import * as Recognizer from "./Recognizer.ts"

/** Enough for a line that is 200 pixels high and 20 times as long. */
const MAX_PIXELS = 800_000

const decode = (image: Uint8Array) =>
  Effect.try({
    try: () => Png.decode(image, MAX_PIXELS),
    catch: (error) => new Unreadable({ why: (error as Error).message })
  })

export default Reader.module(
  Effect.gen(function* () {
    const recognize = yield* Recognizer.make
    return Reader.of({ recognize: ({ image }) => Effect.flatMap(decode(image), recognize) })
  })
)
