/**
 * The three switches for where user code runs; Ray Serve has them by the same names.
 *
 * They are read through Effect's `Config`, so from the environment unless a program gives another `ConfigProvider`, and hold for
 * every deployment whose options don't say otherwise.
 *
 * @since 0.1.0
 */
import { Config, Effect } from "effect"

const flag = (name: string) => Effect.orDie(Config.Boolean(name).pipe(Config.withDefault(true)))

/** Whether blocking methods of module deployments run on threads of their own; if not, they block the loop of their replica. */
export const runSyncInThreadpool = flag("SERVE_RUN_SYNC_IN_THREADPOOL")

/** Whether each replica of a module deployment has a thread of its own; if not, they all run on the app's event loop. */
export const runUserCodeInSeparateThread = flag("SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD")

/** Whether ingress and router move to a thread of their own when replicas of a module deployment run on the app's event loop. */
export const runRouterInSeparateLoop = flag("SERVE_RUN_ROUTER_IN_SEPARATE_LOOP")
