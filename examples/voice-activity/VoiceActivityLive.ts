/**
 * The implementation: a replica has a model, a stream has a decoder, an ear and what the segmenter knows of it.
 */
import { Effect, Stream } from "effect"
import type { HttpSchema } from "effect-serve"
import * as Audio from "./Audio.ts"
import * as Segmenter from "./Segmenter.ts"
import * as Silero from "./Silero.ts"
import { Unreadable, VoiceActivity } from "./VoiceActivity.ts"

export const VoiceActivityLive = VoiceActivity.toLayer(
  Effect.gen(function* () {
    const listen = yield* Silero.make
    const segmentsOf = (decoderOf: () => Audio.Decoder) => (bytes: HttpSchema.Body) =>
      Stream.suspend(() =>
        decode(bytes, decoderOf()).pipe(
          Stream.mapEffect(listen()),
          Stream.mapAccum(() => Segmenter.initial, Segmenter.step, { onHalt: Segmenter.last }),
          Stream.map(({ end, start }) => ({ start: start / Audio.RATE, end: end / Audio.RATE }))
        )
      )
    return VoiceActivity.of({ segments: segmentsOf(Audio.wav), raw: segmentsOf(Audio.raw) })
  }),
  {
    // About half of what a core keeps up with.
    maxOngoingRequests: 128,
    // A microphone that waits for its turn is no longer live: when all permits are taken, the next stream is refused at once.
    maxQueuedRequests: 0,
    // It would bound the time to the first segment, and there may be silence for as long as it likes.
    requestTimeout: "Infinity"
  }
)

const decode = (bytes: HttpSchema.Body, { end, push }: Audio.Decoder) =>
  bytes.pipe(
    Stream.mapEffect((piece) => attempt(() => push(piece))),
    Stream.concat(Stream.fromEffect(attempt(end))),
    Stream.flattenIterable
  )

const attempt = <A>(decoded: () => A) =>
  Effect.try({ try: decoded, catch: (error) => new Unreadable({ why: (error as Error).message }) })
