/** A network between a client and a server, that fails when it is told to. */
import { Effect } from "effect"
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net"

/** The way that bytes go. */
export type Way = "toServer" | "toClient"

/** One way of a connection. */
class Lane {
  /** Bytes that are passed before the connection is cut. */
  private left = Infinity
  private isHeld = false
  private readonly from: Socket
  private readonly to: Socket
  private readonly proxy: Proxy

  constructor(proxy: Proxy, from: Socket, to: Socket) {
    this.from = from
    this.to = to
    this.proxy = proxy
    from.on("data", (bytes: Buffer) => proxy.later(() => this.pass(bytes)))
    from.on("end", () => proxy.later(() => to.end()))
  }

  /** Lets only so many bytes of what comes next pass, and then cuts the connection. */
  truncate(bytes: number): void {
    this.left = bytes
  }

  hold(): void {
    this.isHeld = true
    this.from.pause()
  }

  flow(): void {
    this.isHeld = false
    this.from.resume()
  }

  /** Says to the receiver that nothing comes any more, and passes nothing more. */
  end(): void {
    this.to.end()
  }

  private pass(bytes: Buffer): void {
    const { from, to } = this
    if (!to.writable) return
    if (this.left !== Infinity) {
      const rest = bytes.subarray(0, this.left)
      to.write(rest, () => {
        from.destroy()
        to.destroy()
      })
      return
    }
    const hasRoom = to.write(bytes)
    if (hasRoom && this.proxy.rate === Infinity) return
    from.pause()
    const resume = () => {
      if (!this.isHeld) from.resume()
    }
    if (hasRoom) setTimeout(resume, bytes.length / this.proxy.rate)
    else to.once("drain", resume)
  }
}

class Pair {
  readonly toServer: Lane
  readonly toClient: Lane
  private readonly ends: ReadonlyArray<Socket>

  constructor(proxy: Proxy, client: Socket, server: Socket) {
    this.ends = [client, server]
    this.toServer = new Lane(proxy, client, server)
    this.toClient = new Lane(proxy, server, client)
    for (const end of this.ends) {
      end.setNoDelay(true)
      end.on("error", () => {})
      // Nobody hears of a connection that has closed behind a network through which nothing passes.
      end.on("close", () => {
        if (!proxy.isStalled) this.cut()
        proxy.closed(this)
      })
    }
    if (proxy.isStalled) this.hold("toServer", "toClient")
  }

  get isOpen(): boolean {
    return this.ends.some(({ destroyed }) => !destroyed)
  }

  get isCut(): boolean {
    return this.ends.some(({ destroyed }) => destroyed)
  }

  cut(): void {
    for (const end of this.ends) end.destroy()
  }

  hold(...ways: ReadonlyArray<Way>): void {
    for (const way of ways) this[way].hold()
  }

  flow(): void {
    this.toServer.flow()
    this.toClient.flow()
  }
}

export class Proxy {
  /** Connections that were opened through it. */
  count = 0
  /** Whether nothing passes, although connections stay open and others are opened. */
  isStalled = false
  /** Whether connections are closed as soon as they are opened. */
  isDown = false
  /** Bytes that pass each way in a millisecond. */
  rate = Infinity
  private delay = 0
  private readonly pairs = new Set<Pair>()
  private readonly server: Server

  private constructor(port: number) {
    this.server = createServer({ allowHalfOpen: true }, (client) => {
      if (this.isDown) return void client.on("error", () => {}).destroy()
      this.count++
      const server = connect({ port, host: "127.0.0.1", allowHalfOpen: true })
      this.pairs.add(new Pair(this, client, server))
    })
  }

  /** Passes connections on to a port of this machine, until the scope closes. */
  static readonly make = (port: number) =>
    Effect.acquireRelease(
      Effect.callback<Proxy>((resume) => {
        const proxy = new Proxy(port)
        proxy.server.listen(0, "127.0.0.1", () => resume(Effect.succeed(proxy)))
      }),
      (proxy) =>
        Effect.sync(() => {
          proxy.isDown = true
          proxy.server.close()
          proxy.cut()
        })
    )

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`
  }

  /** Connections of which one end at least is open. */
  get open(): number {
    return this.pairs.size
  }

  /** Lets everything come so many milliseconds later. */
  slow(millis: number): void {
    this.delay = millis
  }

  /** Closes every connection, at both ends and at once. */
  cut(): void {
    for (const pair of this.pairs) pair.cut()
  }

  /** Ends one direction of every connection. */
  halfClose(way: Way): void {
    for (const pair of this.pairs) pair[way].end()
  }

  /** From now on nothing passes. */
  stall(): void {
    this.isStalled = true
    for (const pair of this.pairs) pair.hold("toServer", "toClient")
  }

  /** From now on nothing passes one way, on the connections that there are. */
  hold(way: Way): void {
    for (const pair of this.pairs) pair.hold(way)
  }

  /** What has been held up passes again, except on connections of which one end has closed. */
  flow(): void {
    this.isStalled = false
    for (const pair of this.pairs) {
      if (pair.isCut) pair.cut()
      else pair.flow()
    }
  }

  /** Passes on the first bytes of what comes next, and then cuts the connection. */
  truncate(way: Way, bytes: number): void {
    for (const pair of this.pairs) pair[way].truncate(bytes)
  }

  later(pass: () => void): void {
    if (this.delay === 0) pass()
    else setTimeout(pass, this.delay)
  }

  closed(pair: Pair): void {
    if (!pair.isOpen) this.pairs.delete(pair)
  }
}
