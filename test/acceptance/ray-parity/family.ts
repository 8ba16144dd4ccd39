/** Two deployments over HTTP, of which one calls the other, and work that lasts until a test says so. */
import { Deployment, HttpIngress } from "effect-serve"
import { Deferred, Effect, Layer, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { settle } from "../../deployments.ts"
import { Quiet } from "../../ingress/http.ts"

const methods = [
  Rpc.make("ping", { success: Schema.String }),
  Rpc.make("wait"),
  Rpc.make("count", { payload: { to: Schema.Int }, success: Schema.Int, stream: true })
] as const

export class Child extends Deployment.Service<Child>()("Child", methods) {}

/** Answers with what `Child` does. */
class Parent extends Deployment.Service<Parent>()("Parent", methods) {}

/** How many elements `Child` has made since its layer was built. */
export const made = { elements: 0 }

const ChildLive = (options: Deployment.DeploymentOptions) =>
  Child.toLayer(
    Effect.sync(() => {
      made.elements = 0
      return Child.of({
        ping: () => Effect.succeed("pong"),
        wait: () => Effect.never,
        count: ({ to }) =>
          Stream.range(1, to).pipe(
            Stream.rechunk(1),
            Stream.mapEffect((n) =>
              Effect.delay(
                Effect.sync(() => (made.elements = n)),
                "20 millis"
              )
            )
          )
      })
    }),
    { gracefulShutdownTimeout: 0, ...options }
  )

const ParentLive = Parent.toLayer(
  Effect.map(Child, (child) =>
    Parent.of({
      ping: () => child.ping(),
      wait: () => child.wait(),
      count: (payload) => child.count(payload)
    })
  ),
  { gracefulShutdownTimeout: 0 }
)

/** Both, behind an ingress. */
export const family = (options: Deployment.DeploymentOptions = {}) =>
  HttpIngress.layerNode({ "/parent": Parent, "/child": Child }, { port: 0, gracefulShutdownTimeout: 0 }).pipe(
    Layer.provideMerge(ParentLive),
    Layer.provideMerge(ChildLive(options)),
    Layer.provideMerge(Quiet)
  )

/** Work that lasts until the test says so, and notes when it starts and when it is interrupted. */
export const held = (name: string, log: Array<string> = []) => {
  const gate = Deferred.makeUnsafe<string>()
  const work = Effect.sync(() => log.push(`start ${name}`)).pipe(
    Effect.andThen(Deferred.await(gate)),
    Effect.onInterrupt(() => Effect.sync(() => log.push(`interrupt ${name}`)))
  )
  return { work, end: Effect.andThen(Deferred.succeed(gate, name), settle) }
}
