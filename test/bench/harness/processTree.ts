/**
 * A program and all the processes that it starts: on a core, with what they use together, and ended together.
 *
 * Reads `/proc`, so it is for Linux alone. A process belongs to the tree when its parent does, or when it is in the session of the first one.
 */
import { Data, Effect } from "effect"
import { spawn } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { isPinned } from "./machine.ts"

/** What the kernel counts in: clock ticks of 10 ms, and pages of 4 KiB. */
const TICK = 10
const PAGE = 4096

/** Milliseconds in which a tree may end by itself. */
const GRACE = 3000

export class Failed extends Data.TaggedError("Failed")<{ readonly why: string }> {}

export interface Program {
  readonly name: string
  readonly command: ReadonlyArray<string>
  /** The core on which it runs, where it can be told so; without it, any. */
  readonly core?: number
  readonly folder?: string
  readonly environment?: Record<string, string>
  /** Whether it is a program for Node that sends and gets messages. */
  readonly hasMessages: boolean
}

/** One process. */
interface Process {
  readonly pid: number
  /** Tells it from a later one with the same id. */
  readonly startedAt: string
  /** CPU time so far, in milliseconds. */
  readonly cpu: number
  /** Bytes of memory that it can reach without the disk. */
  readonly rss: number
}

/** The processes of the tree below `root`. */
export const processesOf = (root: number): ReadonlyArray<Process> => {
  const all = readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return []
    const stat = textOf(`/proc/${name}/stat`)
    if (stat === undefined) return []
    // The second field is a name in brackets, which may have spaces; the fields are numbered from 1 in proc(5).
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    const field = (number: number) => fields[number - 3]!
    return [
      {
        pid: Number(name),
        state: field(3),
        parent: Number(field(4)),
        session: Number(field(6)),
        startedAt: field(22),
        cpu: (Number(field(14)) + Number(field(15))) * TICK,
        rss: Number(field(24)) * PAGE
      }
    ]
  })
  const members = new Set([root])
  for (let size = 0; size < members.size;) {
    size = members.size
    for (const { parent, pid, session } of all) if (session === root || members.has(parent)) members.add(pid)
  }
  return all.filter(({ pid, state }) => members.has(pid) && state !== "Z")
}

/** The text of a file of `/proc`, unless its process is gone. */
const textOf = (path: string) => {
  try {
    return readFileSync(path, "utf8")
  } catch {
    return undefined
  }
}

/** CPU milliseconds that the processes of `after` have used since `before`. */
export const cpuBetween = (before: ReadonlyArray<Process>, after: ReadonlyArray<Process>) => {
  const used = new Map(before.map(({ cpu, pid, startedAt }) => [`${pid} ${startedAt}`, cpu]))
  return after.reduce((sum, { cpu, pid, startedAt }) => sum + cpu - (used.get(`${pid} ${startedAt}`) ?? 0), 0)
}

export const rssOf = (processes: ReadonlyArray<Process>) => processes.reduce((sum, { rss }) => sum + rss, 0)

/** Bytes of memory of the processes, with each page that several of them share counted once in all. */
export const pssOf = (processes: ReadonlyArray<Process>) =>
  processes.reduce((sum, { pid }) => {
    const kilobytes = /^Pss:\s+(\d+) kB$/m.exec(textOf(`/proc/${pid}/smaps_rollup`) ?? "")?.[1]
    return sum + 1024 * Number(kilobytes ?? 0)
  }, 0)

/** Starts a program; its whole tree is ended with the scope. */
export const launch = Effect.fnUntraced(function* ({ command, core, environment, folder, hasMessages, name }: Program) {
  const [file, ...args] = isPinned && core !== undefined ? ["taskset", "-c", `${core}`, ...command] : command
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(file!, args, {
        // A session of its own.
        detached: true,
        stdio: ["ignore", "pipe", "pipe", ...(hasMessages ? (["ipc"] as const) : [])],
        ...(folder === undefined ? {} : { cwd: folder }),
        env: { ...process.env, ...environment }
      })
    ),
    ({ pid }) => (pid === undefined ? Effect.void : end(pid))
  )
  let said = ""
  for (const stream of [child.stdout, child.stderr]) {
    stream!.setEncoding("utf8").on("data", (text: string) => (said = `${said}${text}`.slice(-4000)))
  }
  let exit: string | undefined
  child.once("error", ({ message }) => (exit = message))
  child.once("exit", (code, signal) => (exit = `${name} ended with ${code ?? signal}`))
  // What it wrote comes a little later than its end.
  const fail = Effect.suspend(() => Effect.fail(new Failed({ why: `${exit}: ${lastLineOf(said)}` })))
  const ended: Effect.Effect<never, Failed> = Effect.suspend(() =>
    exit === undefined ? Effect.andThen(Effect.sleep(20), ended) : Effect.andThen(Effect.sleep(100), fail)
  )
  const answer = <A>(ask: () => void) =>
    Effect.raceFirst(
      Effect.callback<A>((resume) => {
        child.once("message", (message) => resume(Effect.succeed(message as A)))
        ask()
      }),
      ended
    )
  return {
    pid: child.pid!,
    ended,
    lastLine: () => lastLineOf(said),
    ready: answer<number | string>(() => {}),
    disconnect: () => child.disconnect(),
    ask: <A>(message: object | string) =>
      answer<A>(() => {
        if (child.connected) child.send(message)
      })
  }
})

const lastLineOf = (text: string) => text.trim().split("\n").at(-1)!.slice(0, 300)

/** Asks a tree to end, and ends what is left of it. */
const end = Effect.fnUntraced(function* (root: number) {
  const members = new Map<number, string>()
  const remember = () => {
    const left = processesOf(root)
    for (const { pid, startedAt } of left) members.set(pid, startedAt)
    return left.length > 0
  }
  remember()
  signal(root, "SIGTERM")
  for (let waited = 0; waited < GRACE && remember(); waited += 50) yield* Effect.sleep(50)
  for (const [pid, startedAt] of members) {
    if (processesOf(pid).some((left) => left.pid === pid && left.startedAt === startedAt)) signal(pid, "SIGKILL")
  }
})

const signal = (pid: number, name: NodeJS.Signals) => {
  try {
    process.kill(pid, name)
  } catch {
    // It is gone.
  }
}
