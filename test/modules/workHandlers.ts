import { RequestContext, ServeError } from "effect-serve"
import { isCancelled } from "effect-serve/task"
import { Duration, Effect } from "effect"
import { threadId } from "node:worker_threads"
import { Broken, Point } from "./Probe.ts"
import { Work } from "./Work.ts"

const now = () => performance.timeOrigin + performance.now()

let produced = 0
let finished = 0

/** The handlers of `Work`; `built` is what its builder has found out. */
export const handlers = (built: number) =>
  Work.of({
    spin: ({ millis }) => {
      const from = now()
      while (now() < from + millis);
      return { thread: threadId, from, to: now() }
    },
    move: ({ at, point }) => new Point({ x: point.x + at.getUTCFullYear(), y: point.y }),
    reverse: ({ bytes }) => bytes.toReversed(),
    request: (_, { deadline, priority, requestId, tenant }: RequestContext.RequestContext) => ({
      requestId,
      millisLeft: deadline - Date.now(),
      priority,
      tenant
    }),
    fail: ({ part }) => {
      throw new Broken({ part })
    },
    refuse: () => {
      throw ServeError.because(
        () => new ServeError.Shed({ deployment: "Work", why: "the test", retryAfter: Duration.millis(5) })
      )
    },
    die: ({ message }) => {
      throw new TypeError(message)
    },
    wrong: () => "not a number" as unknown as number,
    count: function* ({ failAt, to }) {
      try {
        for (let n = 1; n <= to; n++) {
          if (n === failAt) throw new Broken({ part: `${n}` })
          produced = n
          yield n
        }
      } finally {
        finished++
      }
    },
    list: () => [new Point({ x: 1, y: 2 }), new Point({ x: 3, y: 4 })],
    counts: () => ({ produced, finished }),
    endless: () => {
      for (;;);
    },
    obedient: () => {
      while (!isCancelled());
    },
    exit: ({ code }) => process.exit(code),
    built: () => built,
    loop: () => Effect.succeed(threadId)
  })
