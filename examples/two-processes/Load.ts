/**
 * Clients that come at a steady rate, whether or not those before them have been answered, and a table of how they fare.
 */
import { Console, Effect, Fiber } from "effect"
import { passages } from "../semantic-search/passages.ts"

/** Queries each second. */
const RATE = 20

/** Seconds of a line of the table. */
const WINDOW = 0.5

/** Seconds after which a query without any answer counts as hung. */
const PATIENCE = 15

/** What became of a query. Times are seconds since the load began. */
export interface Outcome {
  readonly sentAt: number
  readonly endedAt: number
  /** `undefined` for an answer; else the status and the error. */
  readonly failure: string | undefined
}

export interface Load {
  readonly outcomes: ReadonlyArray<Outcome>
  /** Seconds since it began. */
  readonly now: () => number
  /** Prints what happens, between the lines of the table. */
  readonly event: (text: string) => Effect.Effect<void>
  /** Waits until a query has been sent just now, and is not answered yet. */
  readonly underWay: Effect.Effect<void>
  /** Waits until a query is answered that was sent after now. */
  readonly answer: Effect.Effect<void>
  /** Sends no more, and waits for those that have been sent. */
  readonly end: Effect.Effect<void>
}

/** Starts to send queries to the search at `url`, and to print. */
export const start = Effect.fnUntraced(function* (url: string) {
  const outcomes: Array<Outcome> = []
  const from = performance.now()
  const now = () => (performance.now() - from) / 1000
  let sent = 0
  const state = { isOver: false }

  const send = Effect.suspend(() => {
    const sentAt = now()
    const { text } = passages[sent++ % passages.length]!
    return Effect.map(ask(url, text), (failure) => outcomes.push({ sentAt, endedAt: now(), failure }))
  })
  const sending = Effect.gen(function* () {
    for (let due = 0; !state.isOver; due += 1 / RATE) {
      yield* Effect.sleep(Math.max(0, 1000 * (due - now())))
      yield* Effect.forkChild(send)
    }
    return yield* Effect.never
  })

  yield* Console.log(header)
  const printing = Effect.gen(function* () {
    let before = { sent: 0, ended: 0 }
    for (let due = WINDOW; ; due += WINDOW) {
      yield* Effect.sleep(Math.max(0, 1000 * (due - now())))
      yield* Console.log(row(due, sent - before.sent, outcomes.slice(before.ended), sent - outcomes.length))
      before = { sent, ended: outcomes.length }
      if (state.isOver && outcomes.length === sent) return
    }
  })
  yield* Effect.forkScoped(sending)
  const table = yield* Effect.forkScoped(printing)

  const until = (condition: () => boolean): Effect.Effect<void> =>
    Effect.suspend(() => (condition() ? Effect.void : Effect.andThen(Effect.sleep("2 millis"), until(condition))))

  return {
    outcomes,
    now,
    event: (text) => Console.log(`${seconds(now())} --- ${text}`),
    underWay: Effect.suspend(() => {
      const before = sent
      return until(() => sent > before && sent > outcomes.length)
    }),
    answer: Effect.suspend(() => {
      const after = now()
      return until(() => outcomes.some(({ failure, sentAt }) => failure === undefined && sentAt > after))
    }),
    end: Effect.suspend(() => {
      state.isOver = true
      return Fiber.join(table)
    })
  } satisfies Load
})

/** Sends a query, and gives what went wrong. */
const ask = (url: string, text: string): Effect.Effect<string | undefined> =>
  Effect.tryPromise(async (signal) => {
    const response = await fetch(`${url}/search/query`, {
      method: "POST",
      // Important, so that it is not refused while something else keeps this machine busy.
      headers: { "content-type": "application/json", "x-request-priority": "critical" },
      body: JSON.stringify({ text }),
      signal
    })
    const body = (await response.json()) as { readonly reason?: { readonly _tag: string; readonly started?: boolean } }
    if (response.ok) return undefined
    const started = body.reason?.started === undefined ? "" : ` started:${body.reason.started}`
    return `${response.status} ${body.reason?._tag ?? JSON.stringify(body)}${started}`
  }).pipe(
    Effect.catch(({ cause }) => Effect.succeed(`no response: ${String((cause as Error).cause ?? cause)}`)),
    Effect.timeoutOrElse({ duration: `${PATIENCE} seconds`, orElse: () => Effect.succeed(HUNG) })
  )

export const HUNG = `nothing within ${PATIENCE} s`

const header = `
   time  sent  answered  waiting  p50 ms  p99 ms  failed
-------  ----  --------  -------  ------  ------  ------`

const row = (time: number, sent: number, ended: ReadonlyArray<Outcome>, waiting: number) => {
  const times = ended.map(({ endedAt, sentAt }) => 1000 * (endedAt - sentAt)).toSorted((a, b) => a - b)
  const at = (share: number) => times[Math.floor(share * (times.length - 1))]?.toFixed(0) ?? "-"
  const answered = ended.filter(({ failure }) => failure === undefined).length
  const cells = [sent, answered, waiting, at(0.5), at(0.99)]
  return [seconds(time), ...cells.map((cell, i) => `${cell}`.padStart(widths[i]!)), countOf(ended)].join("  ").trimEnd()
}

const widths = [4, 8, 7, 6, 6]

const seconds = (time: number) => `${time.toFixed(1).padStart(5)} s`

/** How often which failure occurs: "2 x 503 TransportError started:false". */
export const countOf = (outcomes: ReadonlyArray<Outcome>): string => {
  const failed = outcomes.flatMap(({ failure }) => failure ?? [])
  return Array.from(
    Map.groupBy(failed, (failure) => failure),
    ([failure, { length }]) => `${length} x ${failure}`
  ).join(", ")
}
