/**
 * The contract of the deployment that reads pictures of lines of text; `reader.module.ts` implements it, in threads.
 */
import { Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"

/** The file could not be decoded; `why` says what it should have been. */
export class Unreadable extends Schema.TaggedError<Unreadable>()(
  "Unreadable",
  { why: Schema.String },
  { httpApiStatus: 422 }
) {}

/** A PNG file with one line of text; base64 in JSON. At most 500 kB. */
const Png = Schema.Uint8Array.check(
  Schema.makeFilter((file) => file.length <= 500_000 || "a file of at most 500,000 bytes")
)

export class Reader extends Deployment.Service<Reader>()("Reader", [
  Rpc.make("recognize", {
    payload: { image: Png },
    success: Schema.Struct({ text: Schema.String, confidence: Schema.Finite }),
    error: Unreadable
  })
]) {}
