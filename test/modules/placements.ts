/** The places where the replicas of `Probe` may run, each as an app that has its handle. */
import { Deployment, HttpIngress } from "effect-serve"
import { Context, Effect, Layer } from "effect"
import type { ModuleFailed } from "../../src/core/ModuleFile.ts"
import { Logs, PartLive, probeLayer } from "./app.ts"
import { build } from "./probe.module.ts"
import { type Part, Probe } from "./Probe.ts"

/** What the deployment does where it runs, which may not be where it is called. */
export class Site extends Context.Service<Site, { readonly state: Effect.Effect<Deployment.DeploymentState> }>()(
  "test/modules/Site"
) {
  /** That of the handle in the context. */
  static readonly here = Layer.effect(
    Site,
    Effect.map(Probe, (probe) => ({ state: Effect.provideService(Probe.state, Probe, probe) }))
  )
}

const here = <E, R>(layer: Layer.Layer<Probe, E, R>) => Layer.provideMerge(Site.here, layer)

/** `Probe` behind an ingress, called over the network. */
const remote = (options: Deployment.DeploymentOptions) =>
  Layer.effectContext(
    Effect.gen(function* () {
      const served = here(Probe.toLayer(build, options))
      const ingress = HttpIngress.layerNode({ "/probe": Probe }, { port: 0, rpc: { trustPrincipals: true } })
      const server = yield* Layer.build(Layer.provideMerge(ingress, served))
      const { gracefulShutdownTimeout = "20 seconds" } = options
      const { url } = Context.get(server, HttpIngress.Address)
      const handle = yield* Layer.build(Probe.toLayerRemote({ url, gracefulShutdownTimeout }))
      return Context.add(handle, Site, Context.get(server, Site))
    })
  )

type Layers = (
  options: Deployment.DeploymentOptions
) => Layer.Layer<Probe | Site, Deployment.ConnectionRefused | HttpIngress.ListenFailed | ModuleFailed, Part>

const layers = {
  toLayer: (options: Deployment.DeploymentOptions) => here(Probe.toLayer(build, options)),
  "toLayerModule on a thread": (options: Deployment.DeploymentOptions) =>
    here(probeLayer({ ...options, isolation: "thread" })),
  toLayerRemote: remote
} satisfies Record<string, Layers>

export type Placement = keyof typeof layers

export const placements = Object.keys(layers) as ReadonlyArray<Placement>

/** An app that has `Probe` there, the deployment that it calls, and what is logged. `logs` has what is logged, and how. */
export const appAt = <E>(
  placement: Placement,
  options: Deployment.DeploymentOptions,
  logs: Layer.Layer<Logs, E> = Logs.layer
) => (layers[placement] as Layers)(options).pipe(Layer.provideMerge(PartLive), Layer.provideMerge(logs))
