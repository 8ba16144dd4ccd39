/**
 * What the servers of the benchmarks `http` and `stream` have in common: the events of a stream, and how a server tells the benchmark
 * where it listens and what CPU time it has used.
 */

/** An event, one of those that a stream is asked for. */
export interface Event {
  readonly index: number
  readonly text: string
}

const words = ["alpha", "brave", "crown", "delta"]

/** Event `index` of a stream: about 30 bytes as JSON, as a token of a language model has. */
export const eventOf = (index: number): Event => ({ index, text: words[index % words.length]! })

/** Events of a stream. */
export const EVENTS = 1000

/** Tells the benchmark the port, and the CPU time of this process in milliseconds whenever it asks. */
export const report = (port: number): void => {
  process.on("message", () => {
    const { system, user } = process.cpuUsage()
    process.send!((system + user) / 1000)
  })
  process.on("disconnect", () => process.exit())
  process.send!(port)
}
