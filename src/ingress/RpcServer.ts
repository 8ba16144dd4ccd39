/**
 * How a request to a `node:http` server becomes the connection of a remote handle.
 *
 * @since 0.1.0
 */
import * as NodeWS from "@effect/platform-node/NodeWS"
import { type Duration, Effect } from "effect"
import * as Http from "node:http"
import type { Socket } from "node:net"
import type { Reply } from "../exchange/Answer.ts"
import { peerOf } from "../exchange/Auth.ts"
import { type Exchange, RPC_PATH } from "../exchange/Exchange.ts"
import type { Incoming } from "../exchange/Reception.ts"
import type { Route } from "../exchange/RouteTable.ts"
import type { Count } from "../exchange/Tally.ts"
import { PROTOCOL } from "../wire/Connection.ts"
import { frameSize, type Socket as WebSocket } from "../wire/SocketPort.ts"
import type { Remotes } from "./Remotes.ts"

/** Whether a request wants to become a connection of a remote handle. */
export const isRpc = ({ headers, url }: { readonly headers: Incoming; readonly url?: string | undefined }): boolean =>
  url !== undefined &&
  (url === RPC_PATH || url.startsWith(`${RPC_PATH}?`)) &&
  String(headers["upgrade"]).toLowerCase() === "websocket"

export class RpcServer<R extends Route> {
  private readonly exchange: Exchange<R>
  private readonly remotes: Remotes
  private readonly count: Count
  private readonly decideTimeout: Duration.Duration
  private readonly sockets: NodeWS.WebSocketServer
  /** Those that are no connections yet, or will never be. */
  private readonly waiting = new Set<Socket>()
  private isStopping = false

  /** `headersTimeout` also bounds how long it may take to find out who connects. */
  constructor(
    exchange: Exchange<R>,
    remotes: Remotes,
    count: Count,
    { headersTimeout, maxBodySize }: { readonly maxBodySize: number; readonly headersTimeout: Duration.Duration }
  ) {
    this.exchange = exchange
    this.remotes = remotes
    this.count = count
    this.decideTimeout = headersTimeout
    this.sockets = new NodeWS.WebSocketServer({
      noServer: true,
      perMessageDeflate: false,
      maxPayload: frameSize(maxBodySize),
      handleProtocols: () => PROTOCOL
    })
  }

  /** Takes a request that {@link isRpc}, or answers it. */
  upgrade(request: Http.IncomingMessage, socket: Socket, head: Buffer): void {
    const onError = () => socket.destroy()
    socket.on("error", onError)
    this.waiting.add(socket)
    socket.once("close", () => this.waiting.delete(socket))
    const deciding = this.exchange
      .connect(request.url ?? "", request.headers, () => peerOf(socket))
      .pipe(Effect.timeoutOption(this.decideTimeout))
    const fiber = Effect.runFork(deciding)
    const onClose = () => fiber.interruptUnsafe()
    socket.once("close", onClose)
    fiber.addObserver((exit) => {
      socket.off("close", onClose)
      if (this.isStopping || exit._tag === "Failure" || exit.value._tag === "None") return void socket.destroy()
      const decision = exit.value.value
      if ("status" in decision) return this.answer(request, socket, decision)
      socket.off("error", onError)
      this.waiting.delete(socket)
      this.sockets.handleUpgrade(request, socket, head, (connection) => {
        this.count(RPC_PATH, 101)
        const received = { received: () => socket.bytesRead }
        Effect.runFork(this.remotes.serve(Object.assign(connection, received) as unknown as WebSocket, decision))
      })
    })
  }

  /** From now on nobody connects. */
  stop(): void {
    this.isStopping = true
    for (const socket of this.waiting) socket.destroy()
  }

  private answer(request: Http.IncomingMessage, socket: Socket, reply: Reply): void {
    this.count(RPC_PATH, reply.status)
    const response = new Http.ServerResponse(request)
    response.assignSocket(socket)
    response.on("finish", () => socket.end())
    response.writeHead(reply.status, {
      "content-type": reply.contentType,
      "x-request-id": reply.requestId,
      connection: "close",
      ...reply.headers
    })
    response.end(reply.body)
  }
}
