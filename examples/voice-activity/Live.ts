/**
 * A microphone over a WebSocket, for browsers: over HTTP/1.1 they give no answer before the request has ended, so what is said could
 * not be shown while it is said.
 *
 * Messages with bytes are a WAV file while it is recorded; a text message ends it. Back come segments, as JSON, and when the last one
 * is there the socket is closed: with 1000, or with another code and the reason.
 */
import { type Cause, Deferred, Effect, Schema, Stream } from "effect"
import { HttpServerRequest, HttpServerResponse } from "effect/http"
import { Socket } from "effect/socket"
import type { ServeError } from "effect-serve"
import { Segment, VoiceActivity } from "./VoiceActivity.ts"

/** A microphone that sends nothing for so long, not even silence, is gone. */
const PATIENCE = "30 seconds"

export const live = Effect.gen(function* () {
  const vad = yield* VoiceActivity
  const socket = yield* (yield* HttpServerRequest.HttpServerRequest).upgrade
  const { write } = yield* socket.writer
  const { pull } = yield* socket.reader
  const gone = yield* Deferred.make<never, Socket.SocketError | Cause.TimeoutError>()
  const audio = Stream.fromPull(Effect.succeed(Effect.timeout(pull, PATIENCE))).pipe(
    Stream.takeWhile((message) => typeof message !== "string"),
    Stream.catch((error) => Stream.fromEffect(Effect.andThen(Deferred.fail(gone, error), Effect.never)))
  )
  const closing = yield* vad.segments(audio).pipe(
    Stream.runForEach((segment) => write(encode(segment))),
    Effect.as(new Socket.CloseEvent(1000)),
    Effect.catchTags({
      Unreadable: ({ why }) => Effect.succeed(new Socket.CloseEvent(1007, why)),
      ServeError: ({ message, reason }) => Effect.succeed(new Socket.CloseEvent(codeOf(reason), message.slice(0, 120)))
    }),
    // Whoever leaves interrupts the call, as over HTTP.
    Effect.raceFirst(Deferred.await(gone))
  )
  yield* write(closing)
  return HttpServerResponse.empty()
}).pipe(Effect.catchTag(["SocketError", "TimeoutError"], () => Effect.succeed(HttpServerResponse.empty())))

const encode = Schema.encodeSync(Schema.fromJsonString(Segment))

/** 1013 says to try again later, 1011 that the server has failed. */
const codeOf = (reason: ServeError.Reason) => ("retryAfter" in reason || reason._tag === "Unavailable" ? 1013 : 1011)
