/** A deployment that writes down what begins and ends in it, behind an ingress, and called through a network that can fail. */
import { assert, vi } from "@effect/vitest"
import { Deployment, HttpIngress, ServeError } from "effect-serve"
import { Context, Effect, Exit, Layer, Schema, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { Link } from "../../src/wire/Link.ts"
import { Quiet } from "../ingress/http.ts"
import { until } from "../modules/app.ts"
import { Proxy } from "./proxy.ts"

export class Ledger extends Deployment.Service<Ledger>()("Ledger", [
  /** Answers with its id after a while. */
  Rpc.make("work", { payload: { id: Schema.String, millis: Schema.Number }, success: Schema.String }),
  /** Answers with as many bytes. */
  Rpc.make("fetch", {
    payload: { id: Schema.String, bytes: Schema.Uint8Array, size: Schema.Int },
    success: Schema.Uint8Array
  }),
  /** Counts, with a pause before each number. */
  Rpc.make("count", {
    payload: { id: Schema.String, to: Schema.Int, millis: Schema.Number },
    success: Schema.Int,
    stream: true
  }),
  /** Gives many numbers at once, of which one is not of their type. */
  Rpc.make("wrong", { payload: { id: Schema.String, at: Schema.Int }, success: Schema.Int, stream: true })
]) {}

/** What the handlers have begun and ended, by the ids of the calls. */
export class Book {
  readonly begun = new Map<string, number>()
  readonly completed = new Set<string>()
  readonly stopped = new Set<string>()

  get running(): number {
    return Array.from(this.begun.values()).reduce((sum, n) => sum + n, 0) - this.completed.size - this.stopped.size
  }

  begin(id: string): void {
    this.begun.set(id, (this.begun.get(id) ?? 0) + 1)
  }

  end(id: string, exit: Exit.Exit<unknown, unknown>): void {
    if (Exit.isSuccess(exit)) this.completed.add(id)
    else this.stopped.add(id)
  }

  private keep<A, E>(id: string, work: Effect.Effect<A, E>): Effect.Effect<A, E> {
    return Effect.suspend(() => {
      this.begin(id)
      return Effect.onExit(work, (exit) => Effect.sync(() => this.end(id, exit)))
    })
  }

  readonly layer = Ledger.toLayer(
    {
      work: ({ id, millis }) => this.keep(id, Effect.as(Effect.sleep(millis), id)),
      fetch: ({ id, size }) => this.keep(id, Effect.succeed(new Uint8Array(size))),
      count: ({ id, millis, to }) =>
        Stream.suspend(() => {
          this.begin(id)
          return Stream.range(1, to).pipe(
            Stream.rechunk(1),
            Stream.tap(() => (millis === 0 ? Effect.void : Effect.sleep(millis))),
            Stream.onExit((exit) => Effect.sync(() => this.end(id, exit)))
          )
        }),
      wrong: ({ at, id }) =>
        Stream.suspend(() => {
          this.begin(id)
          const numbers = Stream.fromIterable(upTo(20_000).map((n) => (n === at ? 0.5 : n)))
          return Stream.onExit(numbers, (exit) => Effect.sync(() => this.end(id, exit)))
        })
    },
    { maxOngoingRequests: 1000 }
  )
}

const links = vi.spyOn(Link.prototype, "closeWithPeer")

/** What links know of their calls, which nothing of their surface shows. */
interface Inside {
  readonly outgoing: ReadonlyMap<number, unknown>
  readonly sizeOut: number
  readonly serving: { readonly calls: ReadonlyMap<number, unknown>; readonly size: number }
  readonly port: { readonly unsent: number; readonly mostCarried: number }
}

const isIdle = ({ outgoing, serving }: Inside) => outgoing.size + serving.calls.size === 0

/** The links that were opened since the last look. */
const opened = () => links.mock.contexts as unknown as ReadonlyArray<Inside>

type ServerOptions = typeof HttpIngress.NodeOptions.Encoded

/** The ingress of a server, where it is another than `layerNode`. */
type Ingress = Layer.Layer<HttpIngress.Address, unknown, Ledger>

/** A server, and a client that reaches it by a proxy. */
export const open = Effect.fnUntraced(function* (
  client: Deployment.DeploymentRemoteOptions = {},
  server: ServerOptions = {},
  ingress: Ingress = HttpIngress.layerNode({ "/ledger": Ledger }, { port: 0, processGate: false, ...server })
) {
  links.mockClear()
  const book = new Book()
  const serving = yield* Scope.fork(yield* Effect.scope)
  const there = yield* Layer.buildWithScope(
    ingress.pipe(Layer.provideMerge(book.layer), Layer.provideMerge(Quiet)),
    serving
  )
  const proxy = yield* Proxy.make(Context.get(there, HttpIngress.Address).port)
  const options = { gracefulShutdownTimeout: 0, reconnect: { maxDelay: "50 millis" }, ...client } as const
  const here = yield* Layer.build(Layer.provideMerge(Ledger.toLayerRemote({ url: proxy.url, ...options }), Quiet))
  const clientState = Effect.provide(Ledger.state, here)
  const serverState = Effect.provide(Ledger.state, there)
  const isSettled = Effect.map(Effect.all([clientState, serverState]), (states) =>
    states.every(({ queued, running }) => running + queued === 0)
  )
  return {
    book,
    proxy,
    client: Context.get(here, Ledger),
    clientState,
    serverState,
    closeServer: Scope.close(serving, Exit.void),
    /** Bytes that the client has to send and the system has not taken. */
    unsent: () => opened().find(({ port }) => port.mostCarried === Infinity)!.port.unsent,
    /** Waits until all has ended that was begun, and looks whether anything is left on either side. */
    nothingIsLeft: Effect.gen(function* () {
      yield* until(Effect.map(isSettled, (isSettled) => isSettled && book.running === 0))
      yield* until(Effect.sync(() => opened().every(isIdle)))
      for (const { serving, sizeOut } of opened()) assert.deepStrictEqual([serving.size, sizeOut], [0, 0])
      for (const { accepted, cancelled, completed, expired, failed } of [yield* clientState, yield* serverState])
        assert.strictEqual(completed + failed + cancelled + expired, accepted)
      for (const [id, times] of book.begun) assert.strictEqual(times, 1, `${id} has begun once`)
      assert.strictEqual(book.completed.size + book.stopped.size, book.begun.size)
    }),
    isConnected: until(Effect.map(clientState, ({ replicas }) => replicas.every(({ status }) => status === "Ready"))),
    isLost: until(Effect.map(clientState, ({ replicas }) => replicas.every(({ status }) => status === "Left")))
  }
})

/** The elements of a stream, and how it ended. */
export const read = <A, E>(stream: Stream.Stream<A, E>) =>
  Effect.suspend(() => {
    const elements: Array<A> = []
    return Effect.map(
      Effect.exit(Stream.runForEach(stream, (element) => Effect.sync(() => elements.push(element)))),
      (exit) => ({ elements, exit })
    )
  })

export const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1)

/** How long an effect takes, in milliseconds. */
export const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const start = performance.now()
    return Effect.map(effect, (value) => [value, performance.now() - start] as const)
  })

/** What a call of which it is not known how far it came fails with, or one that has not begun. */
export const isTransportError = (reason: ServeError.Reason, started: boolean): boolean =>
  reason._tag === "TransportError" && reason.deployment === "Ledger" && reason.started === started
