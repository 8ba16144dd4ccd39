/**
 * One request on a `node:http` server: the hot path from a socket to a handle and back.
 *
 * Between the parser of Node and the fiber of the request there is one map look-up, and a body that a method takes whole is read from
 * Node's request directly.
 *
 * @since 0.1.0
 */
import * as NodeStream from "@effect/platform-node/NodeStream"
import { Effect, type Exit, type Fiber } from "effect"
import type { IncomingMessage, ServerResponse } from "node:http"
import type { Reply } from "../exchange/Answer.ts"
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
  private fiber: Fiber.Fiber<Reply> | undefined = undefined
  private outlet: Outlet | undefined = undefined
  private isFinished = false

  constructor(desk: Desk<R>, request: IncomingMessage, response: ServerResponse) {
    this.desk = desk
    this.request = request
    this.response = response
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
    this.call = opening
    if (opening.query !== undefined) this.work(opening, "")
    else if (isWhole(opening.endpoint.takes)) this.receive(opening)
    else
      this.work(
        opening,
        NodeStream.fromReadable({ evaluate: () => request, onError: (error) => error, closeOnDone: false })
      )
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
      if (size > maxBodySize) return refuse(exchange.tooLarge(call.endpoint, call.context.requestId))
      if (first === undefined) first = chunk
      else (rest ??= [first]).push(chunk)
    }
    const onEnd = () => {
      bodies.end(onLate)
      const body = rest === undefined ? first : Buffer.concat(rest, size)
      this.work(call, call.endpoint.takes.form === "bytes" ? (body ?? new Uint8Array()) : (body?.toString() ?? ""))
    }
    const onLate = () => refuse(exchange.tooSlow(call.context.requestId))
    const refuse = (reply: Reply) => {
      bodies.end(onLate)
      request.off("data", onData)
      request.off("end", onEnd)
      this.finish(reply)
    }
    bodies.begin(onLate)
    request.on("data", onData)
    request.on("end", onEnd)
  }

  private work(call: Call<R>, body: Received): void {
    const { desk, request } = this
    const { exchange } = desk
    const answer =
      call.frames === undefined
        ? exchange.call(call, body)
        : Effect.scoped(Effect.flatMap(exchange.stream(call, body), (reply) => this.deliver(call, reply)))
    const fiber = Effect.runForkWith(exchange.contextFor(call.context, request.headers))(answer)
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return this.ended(call, exit)
    this.fiber = fiber
    desk.open.add(fiber)
    fiber.addObserver((exit) => this.ended(call, exit))
  }

  private ended(call: Call<R>, exit: Exit.Exit<Reply>): void {
    if (exit._tag === "Success") return this.finish(exit.value)
    const { requestId } = call.context
    this.finish(this.desk.exchange.unavailable(call.endpoint, requestId))
  }

  /** Sends a stream, and gives the answer by which it is counted: the one to its failure, if it fails. */
  private deliver(call: Call<R>, reply: Reply): Effect.Effect<Reply> {
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
    const { desk, request, response } = this
    const isGone = response.destroyed
    desk.count(call.endpoint.path, isGone ? CLIENT_CLOSED_REQUEST : reply.status)
    if (isGone) {
      const { context, endpoint } = call
      const note = desk.exchange.clientLeft(endpoint, context.requestId)
      Effect.runForkWith(desk.exchange.contextFor(context, request.headers))(note)
    } else if (!response.headersSent) this.send(reply)
    else if (!response.writableEnded) this.breakOff(call, reply)
  }

  private send(reply: Reply): void {
    const { request, response } = this
    const head = headOf(reply)
    const body = reply.body as string | Uint8Array
    head["content-length"] = Buffer.byteLength(body)
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
    else if (!this.isFinished && this.call !== undefined)
      this.finish(this.desk.exchange.unreadable(this.call.context.requestId))
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
