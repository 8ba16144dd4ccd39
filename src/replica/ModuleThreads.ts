/**
 * The app's end of the threads that build a deployment's module: what the module finds there is the app's.
 *
 * @since 0.1.0
 */
import { Effect } from "effect"
import * as AppEnd from "../wire/AppEnd.ts"
import type { Link } from "../wire/Link.ts"
import type { Served } from "../wire/Serving.ts"

/**
 * Which module a replica is made of, and what it finds in the app.
 *
 * @category options
 * @since 0.1.0
 */
export interface ModuleOptions {
  readonly module: URL
  readonly deployment: string
  readonly replica: string
  readonly maxOngoingRequests: number
  /** The methods of another deployment, by target, if the app has it. */
  readonly uses: (deployment: string) => ReadonlyMap<string, Served> | undefined
}

/**
 * What such a thread is told, beside what its link needs.
 *
 * @category models
 * @since 0.1.0
 */
export interface ModuleData extends Omit<ModuleOptions, "module" | "uses"> {
  readonly module: string
}

/** What such threads are started with: makes the app's end of each. */
export const parts = ({ deployment, maxOngoingRequests, module, replica, uses }: ModuleOptions) =>
  Effect.map(AppEnd.make, (make) => {
    const data: ModuleData = { deployment, maxOngoingRequests, module: module.href, replica }
    const makeEnd = (onNote: (name: string, value: unknown) => void): AppEnd.AppEnd => {
      const end: AppEnd.AppEnd = make((name, value) => {
        if (name === "uses") grant(end.link, uses, value as ReadonlyArray<string>)
        else onNote(name, value)
      })
      return end
    }
    return { data, makeEnd }
  })

const grant = (link: Link, uses: ModuleOptions["uses"], names: ReadonlyArray<string>) => {
  const missing = names.filter((name) => {
    const methods = uses(name)
    for (const [target, served] of methods ?? []) link.served.set(target, served)
    return methods === undefined
  })
  link.note("missing", missing)
}
