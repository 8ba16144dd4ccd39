/**
 * One request on a `node:http` server: the hot path from a socket to a handle and back.
 *
 * Between the parser of Node and the fiber of the request there is one map look-up, and a body that a method takes whole comes from the
 * parser directly.
 *
 * @since 0.1.0
 */
import * as NodeStream from "@effect/platform-node/NodeStream"
import { Effect, type Exit, type Fiber, identity } from "effect"
import { IncomingMessage, type ServerResponse } from "node:http"
import { Readable } from "node:stream"
import { NO_CONTENT, type Reply } from "../exchange/Answer.ts"
import { peerOf } from "../exchange/Auth.ts"
import type { Call, Exchange, Received } from "../exchange/Exchange.ts"
import { Flow, Outlet } from "../exchange/Outlet.ts"
import type { Route } from "../exchange/RouteTable.ts"
import { CLIENT_CLOSED_REQUEST } from "../exchange/Status.ts"
import type { Count } from "../exchange/Tally.ts"
import { isWhole } from "../exchange/Terms.ts"
import type { Bodies, OpenRequests } from "./NodeServer.ts"

/**
 * What the conversations of a server share.
 *
 * @category models
 * @since 0.1.0
 */
export interface Desk<R extends Route> {
  readonly exchange: Exchange<R>
  readonly count: Count
  readonly open: OpenRequests
  readonly bodies: Bodies
  /** Those of requests that have been answered, on connections that will be closed. */
  readonly leftovers: Bodies
  readonly maxBodySize: number
  /** In milliseconds. */
  readonly stallTimeout: number
  readonly now: () => number
}

export class Conversation<R extends Route> {
  private readonly desk: Desk<R>
  private readonly request: Incoming
  private readonly response: ServerResponse
  private call: Call<R> | undefined = undefined
  private fiber: Fiber.Fiber<unknown> | undefined = undefined
  /** Ends a call that has no fiber here. */
  private cancel: Effect.Effect<void> | undefined = undefined
  private outlet: Outlet | undefined = undefined
  private first: Buffer | undefined = undefined
  /** All of the body so far, when it is more than the first piece. */
  private chunks: Array<Buffer> | undefined = undefined
  private size = 0
  private isFinished = false
  /** Whether the client sends its body only when it is told to (`expect: 100-continue`). */
  private awaitsContinue: boolean

  constructor(desk: Desk<R>, request: Incoming, response: ServerResponse, awaitsContinue = false) {
    this.desk = desk
    this.request = request
    this.response = response
    this.awaitsContinue = awaitsContinue
  }

  begin(): void {
    const { desk, request, response } = this
    desk.open.add(this)
    ;(response as Talking<ServerResponse>)[TALK] = this
    response.on("close", onClose)
    const opening = desk.exchange.open(request.method!, request.url!, request.headers)
    if (opening._tag === "Answer") {
      this.isFinished = true
      desk.count(opening.route, opening.reply.status)
      return this.send(opening.reply)
    }
    if (opening._tag === "Own") {
      const answer = opening.answer(() => peerOf(request.socket))
      return this.run(Effect.runFork(answer), (exit) => {
        const reply = exit._tag === "Success" ? exit.value : undefined
        this.isFinished = true
        desk.count(opening.route, reply === undefined || response.destroyed ? CLIENT_CLOSED_REQUEST : reply.status)
        if (reply !== undefined && !response.destroyed) this.send(reply)
      })
    }
    this.call = opening
    const { authorize } = desk.exchange
    if (authorize === undefined) return this.proceed(opening)
    this.run(this.fork(opening, authorize(opening, peerOf(request.socket))), (exit) => {
      if (exit._tag === "Failure") return this.finish(desk.exchange.unavailable(opening))
      if ("status" in exit.value) return this.finish(exit.value)
      this.call = exit.value
      this.proceed(exit.value)
    })
  }

  private proceed(call: Call<R>): void {
    const { request, response } = this
    if (response.destroyed && !call.outlivesClient) return this.finish(this.desk.exchange.unreadable(call))
    if (call.query !== undefined) return this.work(call, "")
    if (isWhole(call.endpoint.takes)) return this.receive()
    const evaluate = () => {
      this.askForBody()
      return request
    }
    this.work(call, NodeStream.fromReadable({ evaluate, onError: identity, closeOnDone: false }))
  }

  private askForBody(): void {
    if (this.awaitsContinue && !this.response.headersSent) this.response.writeContinue()
    this.awaitsContinue = false
  }

  private fork<A>(call: Call<R>, effect: Effect.Effect<A>): Fiber.Fiber<A> {
    return Effect.runForkWith(this.desk.exchange.contextFor(call))(effect)
  }

  /** Waits for a fiber, which ends with the client. */
  private run<A>(fiber: Fiber.Fiber<A>, onEnd: (exit: Exit.Exit<A>) => void): void {
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return onEnd(exit)
    this.fiber = fiber
    fiber.addObserver((exit) => {
      this.fiber = undefined
      onEnd(exit)
    })
  }

  /** Reads the body, to its end or to more than it may have. */
  private receive(): void {
    this.desk.bodies.begin(this)
    this.askForBody()
    this.request.giveTo(this)
  }

  received(chunk: Buffer): void {
    this.size += chunk.length
    if (this.size > this.desk.maxBodySize) return this.refuse(this.desk.exchange.tooLarge(this.call!))
    if (this.first === undefined) this.first = chunk
    else (this.chunks ??= [this.first]).push(chunk)
  }

  receivedAll(): void {
    const { call, chunks, desk, first, size } = this
    desk.bodies.end(this)
    const body = chunks === undefined ? first : Buffer.concat(chunks, size)
    this.work(call!, call!.endpoint.takes.form === "bytes" ? (body ?? new Uint8Array()) : (body?.toString() ?? ""))
  }

  /** The body takes too long. */
  giveUp(): void {
    this.refuse(this.desk.exchange.tooSlow(this.call!))
  }

  private refuse(reply: Reply): void {
    this.desk.bodies.end(this)
    this.request.giveTo(undefined)
    this.finish(reply)
  }

  private work(call: Call<R>, body: Received): void {
    const { exchange } = this.desk
    if (call.frames === undefined && exchange.direct !== undefined) {
      const cancel = exchange.direct(call, body, this.done)
      if (cancel !== false) {
        if (!this.isFinished) this.cancel = cancel
        return
      }
    }
    const answer =
      call.frames === undefined
        ? exchange.call(call, body)
        : Effect.scoped(Effect.flatMap(exchange.stream(call, body), (reply) => this.deliver(reply)))
    this.run(this.fork(call, answer), (exit) =>
      this.finish(exit._tag === "Success" ? exit.value : exchange.unavailable(call))
    )
  }

  private readonly done = (answer: Reply | Effect.Effect<Reply>): void => {
    this.cancel = undefined
    if (!Effect.isEffect(answer)) return this.finish(answer)
    const call = this.call!
    this.run(this.fork(call, answer), (exit) =>
      this.finish(exit._tag === "Success" ? exit.value : this.desk.exchange.unavailable(call))
    )
  }

  /** Sends a stream, and gives the answer by which it is counted: the one to its failure, if it fails. */
  private deliver(reply: Reply): Effect.Effect<Reply> {
    const { body } = reply
    if (!(body instanceof Flow)) return Effect.succeed(reply)
    return Effect.suspend(() => {
      const { response } = this
      const outlet = new Outlet((load, taken) => writeLoad(response, load, taken), this.desk.now)
      this.outlet = outlet
      if (response.destroyed) outlet.close()
      else response.writeHead(reply.status, headOf(reply))
      return Effect.match(body.run(outlet), {
        onSuccess: () => {
          response.end()
          if (!this.request.complete) this.discard()
          return reply
        },
        onFailure: (failure) => failure
      })
    })
  }

  private finish(reply: Reply): void {
    if (this.isFinished) return
    this.isFinished = true
    const call = this.call!
    const { desk, response } = this
    const isGone = response.destroyed
    desk.count(call.endpoint.path, isGone ? CLIENT_CLOSED_REQUEST : reply.status)
    if (isGone) this.fork(call, desk.exchange.clientLeft(call))
    else if (!response.headersSent) this.send(reply)
    else if (!response.writableEnded) this.breakOff(call, reply)
  }

  private send(reply: Reply): void {
    const { request, response } = this
    const head = headOf(reply)
    const body = reply.body as string | Uint8Array
    if (reply.status !== NO_CONTENT) head.push("content-length", String(Buffer.byteLength(body)))
    // Whether the body comes is not known, so neither is where the next request would begin.
    const isLast = reply.close === true || this.awaitsContinue
    if (isLast) head.push("connection", "close")
    response.writeHead(reply.status, head)
    if (!request.complete) request.giveTo(undefined)
    if (isLast && !request.complete && reply.status !== REQUEST_TIMEOUT) {
      return this.linger(body)
    }
    this.end(body)
    if (!request.complete) this.discard()
  }

  private end(body: string | Uint8Array): void {
    const { request, response } = this
    response.end(body)
    if (response.writableLength === 0) return
    // More than the kernel takes: the client has to read, or lose the connection.
    const { socket } = response
    response.setTimeout(this.desk.stallTimeout, () => response.destroy())
    // The time is the connection's, and the next answer has its own.
    response.prependListener("finish", () => request.socket.setTimeout(0))
    // What a client sends would count as a sign of life. There is no socket yet while another answer is before this one.
    if (socket === null || !request.complete) return
    // Not at once: the parser may be further down this very stack, and reads on when it is done with the request.
    process.nextTick(() => {
      if (response.writableFinished) return
      socket.pause()
      response.on("finish", () => socket.resume())
    })
  }

  /** Sends the last answer of a connection. Closed at once, a client that is still sending would not get to read it. */
  private linger(body: string | Uint8Array): void {
    const { leftovers } = this.desk
    const { request, response } = this
    const lingering = {
      giveUp: () => {
        leftovers.end(lingering)
        if (!response.destroyed) this.end("")
      }
    }
    leftovers.begin(lingering)
    request.on("end", lingering.giveUp)
    request.resume()
    response.write(body)
  }

  /** What is left of a body that nobody reads would keep the connection from its next request. */
  private discard(): void {
    const { bodies } = this.desk
    const { request } = this
    const rest = { giveUp: () => request.socket.destroy() }
    bodies.begin(rest)
    request.on("end", () => bodies.end(rest))
    request.resume()
  }

  /** Tells of a failure in the middle of a stream, and closes the connection. */
  private breakOff({ frames }: Call<R>, failure: Reply): void {
    const { stallTimeout } = this.desk
    const { response } = this
    const { socket } = response
    const close = () => {
      socket?.end()
      // Nor is it kept for a client that doesn't close its side.
      socket?.setTimeout(stallTimeout, () => socket.destroy())
    }
    const end = (isTaken: boolean) => {
      if (!isTaken) return void response.destroy()
      if (!frames!.tellsErrors) return close()
      // After Node's own listener, which gives the connection time for another request.
      response.on("finish", close)
      response.end()
    }
    const patience = isStalled(failure) ? 0 : stallTimeout
    Effect.runFork(Effect.map(this.outlet!.finish(frames!.error(failure.body as string), patience), end))
  }

  closed(): void {
    this.desk.open.delete(this)
    if (this.response.writableEnded) return
    if (this.call?.outlivesClient === true) this.outlet?.close()
    else this.stop()
  }

  /** Ends what works on the request, and answers it if anybody is there. */
  stop(): void {
    const { call, cancel } = this
    if (this.fiber !== undefined) return this.fiber.interruptUnsafe()
    if (this.isFinished || call === undefined) return
    const end = () => this.finish(this.desk.exchange.unavailable(call))
    if (cancel === undefined) end()
    else this.run(this.fork(call, cancel), end)
  }
}

// Functions that all requests share. One for each request costs more than what they do: V8 takes those that listeners keep for long-lived
// ones, and collects them late and slowly.
const TALK = Symbol("conversation")
type Talking<A> = A & { [TALK]?: Conversation<any> }

function onClose(this: Talking<ServerResponse>): void {
  this[TALK]!.closed()
}

/** Takes a body as it comes. */
interface Taker {
  received(chunk: Buffer): void
  receivedAll(): void
}

/**
 * A request whose body can be had from the parser directly, as soon as it is there. As a stream it would come some ticks and events later,
 * which take a tenth of the time that a small request does.
 */
export class Incoming extends IncomingMessage {
  private taker: Taker | undefined = undefined

  static {
    // By it Node sees that it need not keep the request any longer.
    Object.defineProperty(this.prototype, "readableEnded", {
      get(this: Incoming) {
        return this.taker === undefined ? Reflect.get(Readable.prototype, "readableEnded", this) : this.complete
      }
    })
  }

  /** Gives the body to `taker`, first what has already come. With `undefined` the rest is the stream's again. */
  giveTo(taker: Taker | undefined): void {
    this.taker = taker
    if (taker === undefined) return
    // So that Node knows that somebody reads: after the answer, it would make the stream flow.
    if (this.readableLength === 0 && !this.complete) return this._read(0)
    for (let chunk: Buffer | null; (chunk = this.read() as Buffer | null) !== null && this.taker === taker;) {
      taker.received(chunk)
    }
    if (this.complete && this.taker === taker) taker.receivedAll()
  }

  /** Takes what the parser has, which is `null` at the end. */
  override push(chunk: Buffer | null): boolean {
    const { taker } = this
    if (taker === undefined) return super.push(chunk)
    if (chunk === null) taker.receivedAll()
    else taker.received(chunk)
    return true
  }
}

/** Writes a load of a stream. A chunk of text leaves in one piece, which Node would hand to the system in three. */
const writeLoad = (response: ServerResponse, load: string | Uint8Array, taken: () => void): void => {
  if (typeof load !== "string" || !response.chunkedEncoding) return void response.write(load, taken)
  response.chunkedEncoding = false
  response.write(`${Buffer.byteLength(load).toString(16)}\r\n${load}\r\n`, taken)
  response.chunkedEncoding = true
}

const REQUEST_TIMEOUT = 408

const isStalled = ({ status }: Reply) => status === CLIENT_CLOSED_REQUEST

// As a flat list, which Node writes as it is.
const headOf = (reply: Reply): Array<string> => {
  const head = ["x-request-id", reply.requestId]
  if (reply.status !== NO_CONTENT) head.push("content-type", reply.contentType)
  for (const name in reply.headers) head.push(name, reply.headers[name]!)
  return head
}
