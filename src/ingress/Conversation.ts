/**
 * One request on a `node:http` server: the hot path from a socket to a handle and back.
 *
 * Between the parser of Node and the fiber of the request there is one map look-up, and a body that a method takes whole is read from
 * Node's request directly.
 *
 * @since 0.1.0
 */
import * as NodeStream from "@effect/platform-node/NodeStream"
import { Effect, type Exit, type Fiber, identity } from "effect"
import type { IncomingMessage, ServerResponse } from "node:http"
import type { Reply } from "../exchange/Answer.ts"
import { peerOf } from "../exchange/Auth.ts"
import { type Call, type Exchange, isWhole, type Received } from "../exchange/Exchange.ts"
import { Flow, Outlet } from "../exchange/Outlet.ts"
import type { Route } from "../exchange/RouteTable.ts"
import { CLIENT_CLOSED_REQUEST } from "../exchange/Status.ts"
import type { Count } from "../exchange/Tally.ts"
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
  readonly maxBodySize: number
  /** In milliseconds. */
  readonly stallTimeout: number
  readonly now: () => number
}

export class Conversation<R extends Route> {
  private readonly desk: Desk<R>
  private readonly request: IncomingMessage
  private readonly response: ServerResponse
  private call: Call<R> | undefined = undefined
  private fiber: Fiber.Fiber<unknown> | undefined = undefined
  private outlet: Outlet | undefined = undefined
  private isFinished = false
  /** Whether the client sends its body only when it is told to (`expect: 100-continue`). */
  private awaitsContinue: boolean

  constructor(desk: Desk<R>, request: IncomingMessage, response: ServerResponse, awaitsContinue = false) {
    this.desk = desk
    this.request = request
    this.response = response
    this.awaitsContinue = awaitsContinue
  }

  begin(): void {
    const { desk, request, response } = this
    desk.open.begin()
    response.on("close", () => this.closed())
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
    if (isWhole(call.endpoint.takes)) return this.receive(call)
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
    this.desk.open.add(fiber)
    fiber.addObserver((exit) => {
      this.fiber = undefined
      onEnd(exit)
    })
  }

  /** Reads the body, to its end or to more than it may have. */
  private receive(call: Call<R>): void {
    const { bodies, exchange, maxBodySize } = this.desk
    const { request } = this
    let first: Buffer | undefined
    let rest: Array<Buffer> | undefined
    let size = 0
    const onData = (chunk: Buffer) => {
      size += chunk.length
      if (size > maxBodySize) return refuse(exchange.tooLarge(call))
      if (first === undefined) first = chunk
      else (rest ??= [first]).push(chunk)
    }
    const onEnd = () => {
      bodies.end(onLate)
      const body = rest === undefined ? first : Buffer.concat(rest, size)
      this.work(call, call.endpoint.takes.form === "bytes" ? (body ?? new Uint8Array()) : (body?.toString() ?? ""))
    }
    const onLate = () => refuse(exchange.tooSlow(call))
    const refuse = (reply: Reply) => {
      bodies.end(onLate)
      request.off("data", onData)
      request.off("end", onEnd)
      this.finish(reply)
    }
    bodies.begin(onLate)
    this.askForBody()
    request.on("data", onData)
    request.on("end", onEnd)
  }

  private work(call: Call<R>, body: Received): void {
    const { exchange } = this.desk
    const answer =
      call.frames === undefined
        ? exchange.call(call, body)
        : Effect.scoped(Effect.flatMap(exchange.stream(call, body), (reply) => this.deliver(reply)))
    this.run(this.fork(call, answer), (exit) =>
      this.finish(exit._tag === "Success" ? exit.value : exchange.unavailable(call))
    )
  }

  /** Sends a stream, and gives the answer by which it is counted: the one to its failure, if it fails. */
  private deliver(reply: Reply): Effect.Effect<Reply> {
    const { body } = reply
    if (!(body instanceof Flow)) return Effect.succeed(reply)
    return Effect.suspend(() => {
      const { response } = this
      const outlet = new Outlet((load, taken) => response.write(load, taken), this.desk.now)
      this.outlet = outlet
      if (response.destroyed) outlet.close()
      else response.writeHead(reply.status, headOf(reply))
      return Effect.match(body.run(outlet), {
        onSuccess: () => {
          response.end()
          return reply
        },
        onFailure: (failure) => failure
      })
    })
  }

  private finish(reply: Reply): void {
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
    head["content-length"] = Buffer.byteLength(body)
    // Whether the body comes is not known, so neither is where the next request would begin.
    if (this.awaitsContinue) head["connection"] = "close"
    response.writeHead(reply.status, head)
    response.end(body)
    // More than the kernel takes: the client has to read, or lose the connection.
    if (response.writableLength > 0) response.setTimeout(this.desk.stallTimeout, () => response.destroy())
    if (!request.complete) this.discard()
  }

  /** What is left of a body that nobody reads would keep the connection from its next request. */
  private discard(): void {
    const { bodies } = this.desk
    const { request } = this
    const onLate = () => request.socket.destroy()
    bodies.begin(onLate)
    request.on("end", () => bodies.end(onLate))
    request.resume()
  }

  /** Tells of a failure in the middle of a stream, and closes the connection. */
  private breakOff({ frames }: Call<R>, failure: Reply): void {
    const { response } = this
    const end = (isTaken: boolean) => {
      if (!isTaken) return void response.destroy()
      if (frames!.tellsErrors) response.end()
      response.socket?.end()
    }
    const patience = isStalled(failure) ? 0 : this.desk.stallTimeout
    Effect.runFork(Effect.map(this.outlet!.finish(frames!.error(failure.body as string), patience), end))
  }

  private closed(): void {
    this.desk.open.end()
    if (this.response.writableEnded) return
    if (this.call?.outlivesClient === true) return this.outlet?.close()
    if (this.fiber !== undefined) this.fiber.interruptUnsafe()
    else if (!this.isFinished && this.call !== undefined) this.finish(this.desk.exchange.unreadable(this.call))
  }
}

const isStalled = ({ status }: Reply) => status === CLIENT_CLOSED_REQUEST

const headOf = (reply: Reply): Record<string, string | number> => {
  const head: Record<string, string | number> = {
    "content-type": reply.contentType,
    "x-request-id": reply.requestId
  }
  if (reply.headers !== undefined) Object.assign(head, reply.headers)
  if (reply.close === true) head["connection"] = "close"
  return head
}
