/** Guests who wait in queues, and the times that serving them takes. */
import { AdmissionQueue, type Discipline, type Fairness, type Waiter } from "../../src/admission/AdmissionQueue.ts"

/** Whatever is not said is of no importance. */
export type GuestOptions = Partial<Pick<Waiter, "deadline" | "method" | "priority" | "tenant">>

let guests = 0

export class Guest implements Waiter {
  /** The order in which they came. */
  turn = guests++
  spot = 0
  due = 0
  deadline: number
  readonly method: number
  readonly priority: Waiter["priority"]
  readonly tenant: string | undefined

  constructor(options: GuestOptions = {}) {
    this.deadline = options.deadline ?? Infinity
    this.method = options.method ?? 0
    this.priority = options.priority ?? "default"
    this.tenant = options.tenant
  }
}

export const priorities = ["critical", "default", "sheddable"] as const
export const disciplines: ReadonlyArray<Discipline> = ["adaptive", "fifo", "edf"]
export const fairnesses: ReadonlyArray<Fairness> = ["none", "tenant"]

/** A queue without a bound over one permit; `takes` says for how many milliseconds each method has always run. */
export const queueOf = (options: {
  readonly discipline?: Discipline
  readonly fairness?: Fairness
  readonly maxSize?: number
  readonly permits?: number
  readonly takes?: ReadonlyArray<number>
}) => {
  const { discipline = "adaptive", fairness = "none", maxSize = Infinity, permits = 1, takes = [] } = options
  const queue = new AdmissionQueue<Guest>({
    maxSize,
    discipline,
    fairness,
    methods: Math.max(takes.length, 2),
    permits: () => permits
  })
  takes.forEach((millis, method) => {
    queue.answered(method, millis)
    if (method === 0) queue.completed(millis)
  })
  return queue
}
