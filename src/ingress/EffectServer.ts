/**
 * The ingress on an Effect `HttpServer`, whichever it is: what `NodeServer` does, in its words.
 *
 * @since 0.1.0
 */
import { ByteSize, Cause, Clock, Duration, Effect, Exit, Fiber, Option, type Scope, Stream } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import { type HttpServerRequest, HttpServerResponse } from "effect/http"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import { Socket } from "node:net"
import { NO_CONTENT, type Reply } from "../exchange/Answer.ts"
import * as Auth from "../exchange/Auth.ts"
import type { Peer } from "../exchange/Auth.ts"
import { type Bounds, type Call, type Exchange, type Received, RPC_PATH } from "../exchange/Exchange.ts"
import { Flow, Outlet, type Piece } from "../exchange/Outlet.ts"
import type { Route } from "../exchange/RouteTable.ts"
import { CLIENT_CLOSED_REQUEST } from "../exchange/Status.ts"
import type { Count } from "../exchange/Tally.ts"
import { isWhole } from "../exchange/Terms.ts"
import type { Remotes } from "./Remotes.ts"
import { isRpc } from "./RpcServer.ts"

/** Makes the handler of all requests. */
export const handler = <R extends Route>(exchange: Exchange<R>, bounds: Bounds, count: Count, remotes: Remotes) =>
  Effect.fnUntraced(function* (request: HttpServerRequest.HttpServerRequest) {
    if (isRpc(request)) {
      const connected = yield* remotes.connect(exchange, request, () => peerOf(request))
      if (connected === undefined) count(RPC_PATH, 101)
      else count(RPC_PATH, connected.status)
      return connected === undefined ? HttpServerResponse.empty() : toResponse(connected)
    }
    const opening = exchange.open(request.method, request.url, request.headers)
    if (opening._tag !== "Call") {
      const reply = opening._tag === "Answer" ? opening.reply : yield* opening.answer(() => peerOf(request))
      count(opening.route, reply.status)
      return toResponse(reply)
    }
    const { endpoint } = opening
    const left = Effect.suspend(() => {
      count(endpoint.path, CLIENT_CLOSED_REQUEST)
      return exchange.clientLeft(opening)
    })
    const work = Effect.gen(function* () {
      const call = exchange.authorize === undefined ? opening : yield* exchange.authorize(opening, peerOf(request))
      if ("status" in call) return call
      return yield* Effect.matchEffect(receive(request, call, bounds, exchange), {
        onFailure: (reply) => Effect.succeed(reply),
        onSuccess: (body) => answer(exchange, call, body)
      })
    })
    const served = Effect.gen(function* () {
      const reply = yield* Effect.onInterrupt(work, () => left)
      if (reply.body instanceof Flow)
        return yield* streaming(opening, reply, reply.body, bounds, count, left, connectionOf(request))
      if (opening.outlivesClient && (yield* isInterrupted)) yield* left
      else count(endpoint.path, reply.status)
      return toResponse(reply)
    })
    return yield* Effect.provideContext(
      opening.outlivesClient ? Effect.uninterruptible(served) : served,
      exchange.contextFor(opening)
    )
  })

/** Whether the server has interrupted this fiber, which it does when the client leaves. */
const isInterrupted = Effect.map(Effect.exit(Effect.interruptible(Effect.yieldNow)), Exit.isFailure)

const answer = <R extends Route>(exchange: Exchange<R>, call: Call<R>, body: Received) => {
  const answered: Effect.Effect<Reply, never, Scope.Scope> =
    call.frames === undefined ? exchange.call(call, body) : exchange.stream(call, body)
  // Who makes the request is known by now.
  return Effect.provideContext(answered, exchange.contextFor(call))
}

/** What the connection says, where the server is Node's. */
export const peerOf = ({ remoteAddress, source }: HttpServerRequest.HttpServerRequest): Peer => {
  const { socket } = source as { readonly socket?: Socket }
  return socket instanceof Socket
    ? Auth.peerOf(socket)
    : { remoteAddress: Option.getOrUndefined(Option.map(remoteAddress, String)), certificate: undefined }
}

const receive = <R extends Route>(
  request: HttpServerRequest.HttpServerRequest,
  call: Call<R>,
  { maxBodySize, receiveTimeout }: Bounds,
  exchange: Exchange<R>
): Effect.Effect<Received, Reply> => {
  const { endpoint, query } = call
  if (query !== undefined) return Effect.succeed("")
  if (!isWhole(endpoint.takes)) return Effect.succeed(request.stream)
  const whole =
    endpoint.takes.form === "bytes" ? Effect.map(request.arrayBuffer, (_) => new Uint8Array(_)) : request.text
  const reading = (whole as Effect.Effect<Received, HttpServerError>).pipe(
    Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.bytes(maxBodySize)),
    Effect.mapError(({ reason }) =>
      reason._tag === "RequestParseError" && reason.reason === "BodyTooLarge"
        ? exchange.tooLarge(call)
        : exchange.unreadable(call)
    )
  )
  // The server closes the connection of a body that it stops reading, and the answer would not be sent.
  return Effect.flatMap(Effect.forkDetach(reading, { startImmediately: true }), (fiber) =>
    Effect.timeoutOrElse(Fiber.join(fiber), {
      duration: receiveTimeout,
      orElse: () => Effect.fail(exchange.tooSlow(call))
    }).pipe(Effect.onInterrupt(() => Fiber.interrupt(fiber)))
  )
}

type HttpServerError = Effect.Error<HttpServerRequest.HttpServerRequest["text"]>

/** An answer whose body is sent from a fiber of its own, which the server pulls from. */
const streaming = Effect.fnUntraced(function* (
  call: Call,
  reply: Reply,
  flow: Flow<Reply>,
  { stallTimeout }: Bounds,
  count: Count,
  left: Effect.Effect<void>,
  connection: Socket | undefined
): Effect.fn.Return<HttpServerResponse.HttpServerResponse, never, Scope.Scope> {
  const { endpoint, frames, outlivesClient } = call
  const over = (status: number) => (isGone ? left : Effect.sync(() => count(endpoint.path, status)))
  const clock = yield* Clock.Clock
  const server = yield* Effect.withFiber((fiber) => Effect.succeed(fiber))
  const pipe = new Pipe()
  let isOver = false
  let hasFailed = false
  let isGone = false
  const outlet = new Outlet(
    (load, taken) => pipe.give(load, taken),
    () => clock.currentTimeMillisUnsafe()
  )
  const sending = Effect.matchEffect(flow.run(outlet), {
    onSuccess: () =>
      Effect.map(over(reply.status), () => {
        isOver = true
        pipe.end()
      }),
    onFailure: (failure) =>
      Effect.gen(function* () {
        yield* over(failure.status)
        const patience = failure.status === CLIENT_CLOSED_REQUEST ? 0 : Duration.toMillis(stallTimeout)
        const isTaken = yield* outlet.finish(frames!.error(failure.body as string), patience)
        isOver = true
        hasFailed = true
        if (!isTaken) return server.interruptUnsafe()
        if (frames!.tellsErrors) return pipe.end()
        if (connection !== undefined) return yield* closeWhenSent(connection, stallTimeout)
        // The server has it, and gets a moment to pass it on.
        yield* Effect.sleep(1)
        pipe.breakOff()
      })
  }).pipe(Effect.onInterrupt(() => left))
  const fiber = yield* Effect.forkDetach(sending, { startImmediately: true })
  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => {
      if (isOver) return hasFailed && connection !== undefined ? closeWhenSent(connection, stallTimeout) : Effect.void
      if (!outlivesClient) return Fiber.interrupt(fiber)
      isGone = true
      outlet.close()
      return Fiber.await(fiber)
    })
  )
  return HttpServerResponse.stream(Stream.fromPull(Effect.succeed(pipe.pull)), head(reply))
})

/** What the request came by, where it is the request's alone to close. */
const connectionOf = ({ source }: HttpServerRequest.HttpServerRequest): Socket | undefined => {
  const { httpVersionMajor, socket } = source as { readonly httpVersionMajor?: number; readonly socket?: Socket }
  return httpVersionMajor === 1 && socket instanceof Socket ? socket : undefined
}

/** Closes a connection when all is sent that the server has; or later, if the client doesn't read it, or doesn't close its side. */
const closeWhenSent = (connection: Socket, patience: Duration.Duration): Effect.Effect<void> => {
  const closed = Effect.callback<void>((resume) => {
    if (connection.destroyed) return resume(Effect.void)
    connection.once("close", () => resume(Effect.void))
    connection.end()
  })
  const closing = Effect.andThen(
    Effect.timeoutOption(closed, patience),
    Effect.sync(() => connection.destroy())
  )
  return Effect.asVoid(Effect.forkDetach(closing, { startImmediately: true }))
}

/** Hands loads to a server that pulls. */
class Pipe {
  private load: Uint8Array | undefined = undefined
  private taken: (() => void) | undefined = undefined
  private ended: Exit.Exit<never, Cause.Done> | undefined = undefined
  private reader: ((effect: Effect.Effect<NonEmptyReadonlyArray<Uint8Array>, Cause.Done>) => void) | undefined =
    undefined

  give(load: Piece, taken: () => void): void {
    this.load = typeof load === "string" ? Buffer.from(load) : load
    this.taken = taken
    this.tell()
  }

  end(): void {
    this.ended = Exit.fail(Cause.Done())
    this.tell()
  }

  breakOff(): void {
    this.ended = Exit.die(new Error("The stream failed after its head was sent"))
    this.tell()
  }

  /** A server that asks again has taken what it got. */
  readonly pull = Effect.callback<NonEmptyReadonlyArray<Uint8Array>, Cause.Done>((resume) => {
    this.reader = resume
    if (this.load === undefined) {
      const { taken } = this
      this.taken = undefined
      taken?.()
    }
    this.tell()
    return Effect.sync(() => {
      this.reader = undefined
    })
  })

  private tell(): void {
    const { ended, load, reader } = this
    if (reader === undefined || (load === undefined && ended === undefined)) return
    this.reader = undefined
    if (load === undefined) return reader(ended!)
    this.load = undefined
    reader(Effect.succeed([load]))
  }
}

/** An answer that is sent whole. */
export const toResponse = (reply: Reply): HttpServerResponse.HttpServerResponse =>
  reply.status === NO_CONTENT
    ? HttpServerResponse.empty(head(reply))
    : typeof reply.body === "string"
      ? HttpServerResponse.text(reply.body, head(reply))
      : HttpServerResponse.uint8Array(reply.body as Uint8Array, head(reply))

const head = (reply: Reply) => ({
  status: reply.status,
  contentType: reply.contentType,
  headers: {
    "x-request-id": reply.requestId,
    ...reply.headers,
    ...(reply.close === true ? { connection: "close" } : {})
  }
})
