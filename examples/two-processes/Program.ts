/** A program of this example, in a process of its own. */
import { Deferred, Effect, Schedule } from "effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { createServer, type AddressInfo } from "node:net"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

/** Which file to run, with which environment besides this one's. It listens on `env.PORT`. */
export interface Options {
  readonly file: string
  readonly env: { readonly PORT: string } & Readonly<Record<string, string>>
  /** Gets each line that it prints. */
  readonly onLine?: (line: string) => void
}

export interface Program {
  readonly pid: number
  readonly kill: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Waits until it has ended: with an exit code, or by a signal. */
  readonly ended: Effect.Effect<number | NodeJS.Signals>
  /** Waits until it can take requests. Dies, with what it has printed, when it ends before, or takes longer than a minute. */
  readonly ready: Effect.Effect<void>
}

/** Starts a program. When the scope closes it is killed, if it still runs. */
export const start = Effect.fnUntraced(function* ({ env, file, onLine }: Options) {
  const printed: Array<string> = []
  const ended = Deferred.makeUnsafe<number | NodeJS.Signals>()

  const launch = Effect.sync(() => {
    const child = spawn(
      process.execPath,
      ["--conditions=effect-serve-source", fileURLToPath(new URL(file, import.meta.url))],
      { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] }
    )
    for (const input of [child.stdout, child.stderr]) {
      createInterface({ input }).on("line", (line) => {
        printed.push(line)
        onLine?.(line)
      })
    }
    child.on("exit", (code, signal) => Deferred.doneUnsafe(ended, Effect.succeed(code ?? signal!)))
    return child
  })
  const child = yield* Effect.acquireRelease(launch, (child) =>
    Effect.andThen(
      Effect.sync(() => child.kill("SIGKILL")),
      Deferred.await(ended)
    )
  )

  const unready = (why: string) => Effect.die(new Error(`${file} ${why}:\n${printed.join("\n")}`))
  const healthy = Effect.tryPromise(() => fetch(`http://127.0.0.1:${env.PORT}/-/healthz`)).pipe(
    Effect.retry(Schedule.spaced("50 millis")),
    Effect.timeout("1 minute"),
    Effect.catch(() => unready("is not ready after a minute"))
  )
  const endedBefore = Effect.flatMap(Deferred.await(ended), (how) => unready(`has ended (${how}) before it was ready`))

  return {
    pid: child.pid!,
    kill: (signal) => Effect.sync(() => void child.kill(signal)),
    ended: Deferred.await(ended),
    ready: Effect.asVoid(Effect.raceFirst(healthy, endedBefore))
  } satisfies Program
})

export const freePort = Effect.promise(async () => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const { port } = server.address() as AddressInfo
  server.close()
  return port
})
