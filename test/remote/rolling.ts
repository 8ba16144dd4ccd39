/** Two servers that are restarted one after the other, while a remote handle of both is called. */
import { assert } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import { type AddressInfo, createServer } from "node:net"
import { call } from "../deployments.ts"
import { Quiet } from "../ingress/http.ts"
import { Book, Ledger, upTo } from "./Ledger.ts"

/** A port that nobody has. */
const freePort = Effect.callback<number>((resume) => {
  const server = createServer()
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address() as AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

/** An ingress for `Ledger` at a port. */
export type Ingress = (port: number) => Layer.Layer<never, unknown, Ledger>

/** A server that can be started again at the same port. */
const restartable = Effect.fnUntraced(function* (ingress: Ingress, book: Book) {
  const port = yield* freePort
  const outer = yield* Effect.scope
  const start = Effect.gen(function* () {
    const scope = yield* Scope.fork(outer)
    yield* Layer.buildWithScope(ingress(port).pipe(Layer.provide(book.layer), Layer.provideMerge(Quiet)), scope)
    return scope
  })
  let scope = yield* start
  return {
    url: `http://127.0.0.1:${port}`,
    restart: Effect.gen(function* () {
      yield* Scope.close(scope, Exit.void)
      yield* Effect.sleep(50)
      scope = yield* start
    })
  }
})

const PER_SECOND = 200
/** Milliseconds for which calls are made at least, and after the last restart. */
const LEAST = 2500
const AFTER = 500
/** Elements of a stream. */
const ELEMENTS = 60

/** Calls while both servers are restarted, and gives how many calls ended well, and how the others did. */
export const roll = Effect.fnUntraced(function* (ingress: Ingress) {
  const book = new Book()
  const [a, b] = [yield* restartable(ingress, book), yield* restartable(ingress, book)]
  const remote = Ledger.toLayerRemote({ urls: [a.url, b.url] })
  const context = yield* Layer.build(Layer.provideMerge(remote, Quiet))
  const client = Context.get(context, Ledger)
  const failures: Array<string> = []
  let answered = 0
  const note = (exit: Exit.Exit<unknown, unknown>) =>
    Effect.sync(() => {
      if (Exit.isSuccess(exit)) answered++
      else failures.push(String(exit.cause))
    })
  const work = (id: string) => Effect.flatMap(Effect.exit(client.work({ id, millis: 20 })), note)
  const count = (id: string) =>
    Stream.runCollect(client.count({ id, to: ELEMENTS, millis: 5 })).pipe(
      Effect.map((elements) => assert.deepStrictEqual(elements, upTo(ELEMENTS))),
      Effect.exit,
      Effect.flatMap(note)
    )
  const start = performance.now()
  let until = Infinity
  const loading = yield* call(
    Effect.gen(function* () {
      const calls: Array<Fiber.Fiber<void>> = []
      for (let sent = 0; performance.now() < until;) {
        const due = ((performance.now() - start) * PER_SECOND) / 1000
        for (; sent < due; sent++) {
          calls.push(yield* call(work(`${sent}`)))
          if (sent % 50 === 0) calls.push(yield* call(count(`stream-${sent}`)))
        }
        yield* Effect.sleep(2)
      }
      yield* Effect.forEach(calls, Fiber.await)
      return calls.length
    })
  )
  yield* Effect.sleep(300)
  yield* a.restart
  yield* Effect.sleep(200)
  yield* b.restart
  until = Math.max(performance.now() + AFTER, start + LEAST)
  const sent = yield* Fiber.join(loading)
  assert.strictEqual(answered + failures.length, sent)
  assert.isAbove(sent, (0.9 * PER_SECOND * LEAST) / 1000)
  assert.isTrue(Array.from(book.begun.values()).every((times) => times === 1))
  assert.strictEqual(book.running, 0)
  assert.deepInclude(yield* Effect.provide(Ledger.state, context), { running: 0, queued: 0 })
  return { answered, failures }
})
