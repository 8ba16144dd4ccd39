/**
 * The contract: sound in, and where there is speech in it out, while the sound still comes.
 */
import { Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment, HttpSchema } from "effect-serve"

/** The bytes are not sound as it should be; `why` says what is wrong. */
export class Unreadable extends Schema.TaggedError<Unreadable>()(
  "Unreadable",
  { why: Schema.String },
  { httpApiStatus: 422 }
) {}

/** Where someone speaks, in seconds from the beginning. */
export const Segment = Schema.Struct({ start: Schema.Finite, end: Schema.Finite })

export class VoiceActivity extends Deployment.Service<VoiceActivity>()("VoiceActivity", [
  /** A WAV file, or one that is still being recorded. */
  Rpc.make("segments", {
    payload: HttpSchema.Upload({ contentType: ["audio/wav", "audio/wave", "audio/x-wav", "audio/vnd.wave"] }),
    success: Segment,
    error: Unreadable,
    stream: true
  }),
  /** Samples with nothing before them: 16 bits, little-endian, one channel, 16 kHz. */
  Rpc.make("raw", {
    payload: HttpSchema.Upload({ contentType: ["application/octet-stream", "audio/pcm"] }),
    success: Segment,
    error: Unreadable,
    stream: true
  })
]) {}
