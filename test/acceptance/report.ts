/**
 * What a trial measured.
 */
import { canBeMet, capacityOf, DEADLINE, meanOf, type Priority, type Trial, WARM_UP } from "./load.ts"

/** What happened in a trial, to the requests that arrived while it was measured. */
export interface Report extends Share {
  readonly server: string
  readonly trial: Trial
  /** Median and 99th percentile of the times to a good answer, in milliseconds. */
  readonly p50: number
  readonly p99: number
  /** Offered and good requests by the second since the warm-up in which they arrived. */
  readonly bySecond: ReadonlyArray<Pick<Share, "good" | "offered">>
  readonly byPriority: Readonly<Record<string, Share>>
  readonly byTenant: Readonly<Record<string, Share>>
  /** Of the attempts that started, the part that each replica got. */
  readonly byReplica: ReadonlyArray<number>
  /** Attempts per request. */
  readonly amplification: number
  /** Attempts that failed, by reason, and the times that it took to say so, in milliseconds. */
  readonly failures: Readonly<Record<string, Quantiles>>
}

interface Share {
  /** Requests that could be met. */
  readonly offered: number
  /** Those that were answered well within `DEADLINE` of their arrival. */
  readonly good: number
  /** `good` as a part of `offered`. */
  readonly ofOffered: number
  /** `good` as a part of what the capacity of the plant can give. */
  readonly ofCapacity: number
}

interface Quantiles {
  readonly count: number
  readonly p50: number
  readonly p99: number
}

/** All that happened, with the virtual times at which it did. */
export interface Log {
  readonly requests: Array<Request>
  readonly failures: Array<{ readonly at: number; readonly reason: string; readonly after: number }>
  readonly starts: Array<{ readonly at: number; readonly replica: number }>
}

/** A request, and what became of it. */
export interface Request {
  readonly at: number
  readonly serviceTime: number
  readonly priority?: Priority
  readonly tenant?: string
  attempts: number
  /** From its arrival to a good answer, in milliseconds. */
  latency: number
}

/** Makes the report of a trial from its log. */
export const report = (server: string, trial: Trial, duration: number, log: Log): Report => {
  const measured = <A extends { readonly at: number }>(all: ReadonlyArray<A>) =>
    all.filter(({ at }) => at >= WARM_UP && at < WARM_UP + duration)
  const requests = measured(log.requests)
  const starts = measured(log.starts)
  const capacity = (capacityOf(trial) * duration) / 1000

  const share = (requests: ReadonlyArray<Request>): Share => {
    const offered = requests.filter(({ serviceTime }) => canBeMet(serviceTime)).length
    const good = requests.filter(isGood).length
    return { offered, good, ofOffered: good / offered, ofCapacity: good / capacity }
  }
  const shares = (key: (request: Request) => string) => grouped(requests, key, share)
  const { p50, p99 } = quantiles(requests.filter(isGood).map(({ latency }) => latency))
  return {
    server,
    trial,
    ...share(requests),
    p50,
    p99,
    bySecond: Object.values(shares(({ at }) => String(Math.floor((at - WARM_UP) / 1000)))),
    byPriority: shares(({ priority }) => priority ?? "none"),
    byTenant: shares(({ tenant }) => tenant ?? "none"),
    byReplica: (trial.replicas ?? [{}]).map(
      (_, number) => starts.filter(({ replica }) => replica === number).length / starts.length
    ),
    amplification: meanOf(requests.map(({ attempts }) => attempts)),
    failures: grouped(
      measured(log.failures),
      ({ reason }) => reason,
      (failures) => quantiles(failures.map(({ after }) => after))
    )
  }
}

/** Of what was offered from one second to another, the part that was answered in time. */
export const ofOfferedBetween = ({ bySecond }: Report, from: number, to: number): number => {
  const seconds = bySecond.slice(from, to)
  const sum = (key: "good" | "offered") => seconds.reduce((total, second) => total + second[key], 0)
  return sum("good") / sum("offered")
}

const isGood = ({ latency }: Request) => latency <= DEADLINE

const grouped = <A, B>(
  all: ReadonlyArray<A>,
  key: (one: A) => string,
  summary: (group: ReadonlyArray<A>) => B
): Record<string, B> => Object.fromEntries(Array.from(Map.groupBy(all, key), ([name, group]) => [name, summary(group)]))

const quantiles = (numbers: ReadonlyArray<number>): Quantiles => {
  const sorted = numbers.toSorted((a, b) => a - b)
  const at = (p: number) => sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))] ?? Number.NaN
  return { count: sorted.length, p50: at(0.5), p99: at(0.99) }
}
