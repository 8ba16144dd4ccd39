/**
 * Virtual load: which requests arrive in a trial, and what the plant could make of them.
 *
 * It is an open loop: requests arrive at random (Poisson) and do not wait for each other, and each wants its answer within
 * `DEADLINE`. All of it is drawn from the seed of the trial, by one generator for each purpose, so that two servers meet the
 * very same requests whatever each makes of them.
 *
 * **Capacity** is the rate of useful answers that the permits can give to a server that does not know service times:
 * `permits * P(S < D) / E[time a permit is held]`, where `S` is the service time and `D` the deadline. Work that can be
 * interrupted holds its permit for at most `D`, so for `min(S, D)`; work that cannot holds it for `S`, useful or not. It is no
 * bound for everyone: a server that starts a request late can interrupt it after less than `D`, so one that lets interruptible
 * requests wait gets its permits back sooner, and one that favours short requests answers more of them.
 *
 * **Load** 1 is the load that needs every permit all the time: `permits / E[time a permit is held]` requests per second.
 * Requests that nobody could meet, with `S >= D`, arrive and take permits like all others, but only those that can be met
 * count as offered.
 */
import type { Deployment } from "effect-serve"

/** Time in which each request wants its answer, and mean service time, in milliseconds. */
export const DEADLINE = 1000
const MEAN_SERVICE_TIME = 100

/** Time that a trial runs before it is measured, in milliseconds. */
export const WARM_UP = 5000

export type Priority = NonNullable<Deployment.CallOptions["priority"]>

/** What a replica does to the requests it gets. */
export interface Behaviour {
  /** Factor on every service time. Default `1`. */
  readonly slowdown?: number
  /** Milliseconds after which every request fails with a defect. Default: never. */
  readonly failsAfter?: number
}

/** One experiment. */
export interface Trial {
  readonly law: Law
  /** Whether the work stops when it is interrupted, or holds its permit to its end. */
  readonly interruptible: boolean
  /** Offered load, constant or by virtual time in milliseconds since the warm-up. */
  readonly load: number | ((time: number) => number)
  /** Milliseconds that are measured. Default `40_000`. */
  readonly duration?: number
  /** Default one that is well. */
  readonly replicas?: ReadonlyArray<Behaviour>
  /** Permits of each replica. Default `10`. */
  readonly permits?: number
  /** Attempts that a client makes after its first. Default `0`. */
  readonly retries?: number
  /** Weights of the priorities. Default: requests have none. */
  readonly priorities?: Partial<Record<Priority, number>>
  /** Weights of the tenants. Default: requests have none. */
  readonly tenants?: Readonly<Record<string, number>>
  /** Default `1`. */
  readonly seed?: number
}

/** A distribution of service times: a deck that is dealt out, shuffled anew each time, so that the mean is always exact. */
export interface Law {
  readonly name: string
  readonly deck: ReadonlyArray<number>
}

const CARDS = 2000

/** The law with a quantile function, stretched to the mean service time; in whole milliseconds, like all virtual times. */
const law = (name: string, quantile: (p: number) => number): Law => {
  const quantiles = Array.from({ length: CARDS }, (_, i) => quantile((i + 0.5) / CARDS))
  const scale = MEAN_SERVICE_TIME / meanOf(quantiles)
  return { name, deck: quantiles.map((time) => Math.max(1, Math.round(time * scale))) }
}

export const meanOf = (numbers: ReadonlyArray<number>) => numbers.reduce((sum, n) => sum + n, 0) / numbers.length

/** The quantile function of the standard normal distribution, to 0.0005 (Abramowitz and Stegun, 26.2.23). */
const normal = (p: number): number => {
  if (p > 0.5) return -normal(1 - p)
  const t = Math.sqrt(-2 * Math.log(p))
  return (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308))) - t
}

const bimodal = (ratio: number) => law(`bimodal 1:${ratio}`, (p) => (p < 0.95 ? 1 : ratio))

/** The laws of service time; in the bimodal ones 5 % of the requests take 10 or 50 times as long as the others. */
export const laws = {
  deterministic: law("deterministic", () => 1),
  lognormal: law("lognormal", (p) => Math.exp(-normal(p))),
  bimodal10: bimodal(10),
  bimodal50: bimodal(50),
  exponential: law("exponential", (p) => -Math.log(1 - p))
} as const

/**
 * The plants on which overload is measured. The lognormal law is smooth and heavy; in the bimodal ones a twentieth of the
 * requests is most of the work, and there are few of those to average over: goodput over these times is known to 2 %.
 */
export const matrix = [
  { law: laws.lognormal, duration: 60_000 },
  { law: laws.bimodal10, duration: 60_000 },
  { law: laws.bimodal50, duration: 240_000 }
].flatMap((row) => [true, false].map((interruptible) => ({ ...row, interruptible })))

/** What a plant of the matrix is called. */
export const called = ({ interruptible, law }: Pick<Trial, "interruptible" | "law">) =>
  `${law.name}, ${interruptible ? "interruptible" : "uninterruptible"}`

/** Whether anyone could meet a request of this service time. */
export const canBeMet = (serviceTime: number) => serviceTime < DEADLINE

const permitsOf = ({ permits = 10, replicas = [{}] }: Trial) => permits * replicas.length

/** Milliseconds for which a request holds its permit, in the mean. */
const holdTime = ({ interruptible, law: { deck } }: Trial) =>
  meanOf(deck.map((time) => (interruptible ? Math.min(time, DEADLINE) : time)))

/** Useful answers per second that the permits can give when all replicas are well. */
export const capacityOf = (trial: Trial): number => {
  const { deck } = trial.law
  return (1000 * permitsOf(trial) * deck.filter(canBeMet).length) / deck.length / holdTime(trial)
}

/** What arrives. */
export interface Arrival {
  /** When, in milliseconds on the virtual clock. */
  readonly at: number
  readonly serviceTime: number
  readonly options: Pick<Deployment.CallOptions, "priority" | "tenant"> & { readonly timeout: number }
  /** From what its client draws. */
  readonly seed: number
}

/** Every request that arrives until `end`, in order. */
export function* arrivals(trial: Trial, end: number): Generator<Arrival, void> {
  const { law, load, priorities, seed = 1, tenants } = trial
  const perMilli = permitsOf(trial) / holdTime(trial)
  const gap = seeded(seed, "gap")
  const serviceTimes = dealt(law.deck, seeded(seed, "service time"))
  const priority = choice(priorities, seeded(seed, "priority"))
  const tenant = choice(tenants, seeded(seed, "tenant"))
  let time = 0
  for (let i = 0; ; i++) {
    const now = typeof load === "number" ? load : load(time - WARM_UP)
    time -= Math.log(1 - gap()) / (now * perMilli)
    if (time > end) return
    yield {
      at: Math.floor(time),
      serviceTime: serviceTimes.next().value,
      options: { timeout: DEADLINE, ...priority("priority"), ...tenant("tenant") },
      seed: seed * 1e6 + i
    }
  }
}

/** A generator of numbers in [0, 1) of its own for each purpose (mulberry32). */
export const seeded = (seed: number, purpose: string): (() => number) => {
  let state = Array.from(purpose).reduce((hash, char) => Math.imul(hash ^ char.charCodeAt(0), 16777619), seed)
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

function* dealt<A>(deck: ReadonlyArray<A>, random: () => number): Generator<A, never> {
  for (;;) {
    const cards = Array.from(deck)
    for (let left = cards.length; left > 0; left--) {
      const at = Math.floor(random() * left)
      yield cards[at]!
      cards[at] = cards[left - 1]!
    }
  }
}

/** Chooses a value by weight, as a record with one key; an empty one when there are no weights. */
const choice = <A extends string>(weights: Partial<Record<A, number>> = {}, random: () => number) => {
  const entries = Object.entries(weights) as Array<[A, number]>
  const total = entries.reduce((sum, [, weight]) => sum + weight, 0)
  return <Key extends string>(key: Key): { readonly [K in Key]?: A } => {
    if (entries.length === 0) return {}
    let at = random() * total
    const [value] = entries.find(([, weight]) => (at -= weight) < 0) ?? entries[0]!
    return { [key]: value } as { [K in Key]: A }
  }
}
