/**
 * Trains the character model on one novel and writes `weights.bin`, which is in the repository: you need not run this.
 *
 * `node --conditions=effect-serve-source examples/characters/train.ts [updates]` makes 2400 updates unless told otherwise, and gets
 * the text from npm. Gradients go back through 40 characters (truncated backpropagation through time), 32
 * places of the novel at once; Adam (Kingma & Ba, 2015) applies them.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Random } from "effect"
import { gradient, type Lane } from "./Gradient.ts"
import { ready } from "./Matrix.ts"
import { novel } from "./text.ts"
import * as Weights from "./Weights.ts"

const lanes = 32
const steps = 40
const rate = { first: 4e-3, last: 2e-4 }

const program = Effect.gen(function* () {
  const updates = Number(process.argv[2] ?? 2400)
  const text = Array.from(yield* novel, (character) => Weights.alphabet.indexOf(character))
  yield* ready
  const random = yield* Random.Random
  const weights = Weights.initial(() => random.nextDoubleUnsafe())
  const apply = adam(weights)
  const reader = read(text)
  let recent = 0
  for (let update = 1; update <= updates; update++) {
    const { loss, slopes } = gradient(weights, reader(), steps)
    apply(slopes, rate.last + (rate.first - rate.last) * 0.5 * (1 + Math.cos((Math.PI * update) / updates)))
    recent += loss / Math.LN2 / 100
    if (update % 100 > 0) continue
    yield* Console.log(`${update} of ${updates} updates, ${recent.toFixed(2)} bits per character`)
    recent = 0
  }
  yield* Weights.write(weights)
}).pipe(Random.withSeed("Ishmael"))

/** Reads the novel at many places at once, each a little further at every call. */
const read = (text: ReadonlyArray<number>) => {
  const length = Math.floor((text.length - 1) / lanes)
  const places = Array.from({ length: lanes }, (_, lane): Lane => ({
    state: new Float32Array(Weights.units),
    characters: text.slice(lane * length, (lane + 1) * length + 1)
  }))
  let from = 0
  return () => {
    if (from + steps + 1 > length) from = 0
    const windows = places.map(({ characters, state }) => ({
      state,
      characters: characters.slice(from, from + steps + 1)
    }))
    from += steps
    return windows
  }
}

/** Moves weights against their slopes, each as far as its own history of slopes allows. */
const adam = (weights: Weights.Weights) => {
  const names = ["input", "hidden", "output"] as const
  const zeros = () => names.map((name) => new Float32Array(weights[name].length))
  const [means, squares] = [zeros(), zeros()]
  let updates = 0
  return (slopes: Weights.Weights, rate: number) => {
    updates++
    const norm = Math.sqrt(names.reduce((sum, name) => sum + slopes[name].reduce((s, g) => s + g * g, 0), 0))
    const scale = Math.min(1, 1 / norm)
    const size = (rate * Math.sqrt(1 - 0.99 ** updates)) / (1 - 0.9 ** updates)
    names.forEach((name, k) => {
      const [weight, slope, mean, square] = [weights[name], slopes[name], means[k]!, squares[k]!]
      for (let i = 0; i < weight.length; i++) {
        const g = scale * slope[i]!
        mean[i] = 0.9 * mean[i]! + 0.1 * g
        square[i] = 0.99 * square[i]! + 0.01 * g * g
        weight[i]! -= (size * mean[i]!) / (Math.sqrt(square[i]!) + 1e-8)
      }
    })
  }
}

NodeRuntime.runMain(Effect.provide(program, NodeServices.layer))
