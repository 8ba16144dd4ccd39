/**
 * One thread of a pool, from the pool's side: starts it, sends it tasks, takes back what it has not started, and ends it.
 *
 * @since 0.1.0
 */
import { MessageChannel, type MessagePort, type Transferable, Worker } from "node:worker_threads"
import type { ResourceLimits } from "../core/Options.ts"
import {
  About,
  type Announcement,
  type Answer,
  BELL,
  cellOf,
  CELLS,
  describe,
  type Kind,
  type Order,
  Progress,
  SLOTS,
  type Start,
  type Thrown,
  type Wish
} from "./Wire.ts"

/**
 * What threads of a pool are started with.
 *
 * @category options
 * @since 0.1.0
 */
export interface Origin {
  /** The name of the pool. */
  readonly name: string
  /** The module that a thread runs. It calls `TaskThread.serve` or `TaskThread.fail`. */
  readonly entry: URL
  /** Copied into every thread, as `workerData.data`. */
  readonly data: unknown
  /** What each thread gets for its own, as `workerData.attached`. */
  readonly attach?: () => { readonly data: unknown; readonly transfer: ReadonlyArray<Transferable> }
  readonly transfer: Start["transfer"]
  readonly resourceLimits: typeof ResourceLimits.Type
}

/** A task as a thread sees it. */
export interface Sendable {
  /** The number of its function. */
  readonly task: { readonly number: number }
  readonly args: ReadonlyArray<unknown>
  /** What is moved, and not copied, with its arguments. */
  readonly moved: ReadonlyArray<Transferable> | undefined
}

/** What a thread tells its pool. */
export interface Listener<A extends Sendable> {
  readonly onReady: (thread: Thread<A>, functions: ReadonlyArray<readonly [string, Kind]>) => void
  /** About the call that was sent first, if it was not taken back. */
  readonly onAnswer: (thread: Thread<A>, call: A | undefined, answer: Answer) => void
  /** The last that is heard of a thread: it was ended, or did so by itself, for what `error` says. */
  readonly onExit: (thread: Thread<A>, exitCode: number, error: Thrown | undefined) => void
}

export class Thread<A extends Sendable> {
  /** Tasks that were sent and not answered, in order; there is nothing where one was taken back. */
  private readonly line: Array<A | undefined> = []
  private readonly cells = new Int32Array(new SharedArrayBuffer(4 * CELLS))
  private readonly worker: Worker
  private readonly port: MessagePort
  private firstSlot = 0
  private error: Thrown | undefined = undefined

  /** `Ending` when its pool wants it to. */
  status: "Starting" | "Ready" | "Ending" = "Starting"
  /** Tasks in the line. */
  size = 0
  /** What its pool takes for the task that runs. */
  current: A | undefined = undefined
  /** Milliseconds that the tasks in the line are expected to take. */
  backlog = 0
  /** When it had nothing to do any more, and when it began with its current task. */
  idleSince = 0
  busySince = 0
  /** Whether it runs a task that will hardly stop by itself. */
  isDoomed = false
  /** Crashes in a row, of this thread's predecessors, without a task that was finished. */
  failures: number

  constructor(origin: Origin, failures: number, listener: Listener<A>) {
    this.failures = failures
    const { port1, port2 } = new MessageChannel()
    const { cells } = this
    const attached = origin.attach?.()
    const start: Start = { port: port2, cells, transfer: origin.transfer, data: origin.data, attached: attached?.data }
    this.port = port1
    this.worker = new Worker(origin.entry, {
      name: origin.name,
      workerData: start,
      transferList: [port2, ...(attached?.transfer ?? [])],
      resourceLimits: origin.resourceLimits
    })
    port1.on("message", (message: Answer | Announcement) => {
      if (Array.isArray(message)) this.answered(message as unknown as Answer, listener)
      else this.announced(message as Announcement, listener)
    })
    port1.on("messageerror", (error) => this.fail(describe(error)))
    this.worker.on("error", (error) => (this.error = describe(error)))
    // What a thread said at last comes before its port closes, which may be before or after the thread ends.
    let exit: number | undefined
    let isClosed = false
    const ended = () => isClosed && exit !== undefined && listener.onExit(this, exit, this.error)
    port1.on("close", () => {
      isClosed = true
      ended()
    })
    this.worker.on("exit", (exitCode) => {
      exit = exitCode
      ended()
    })
  }

  /** Whether one more task can be sent. */
  get hasRoom(): boolean {
    return this.status === "Ready" && this.line.length < SLOTS
  }

  /** The task that runs, or that will be the next to run. */
  get first(): A | undefined {
    for (const call of this.line) if (call !== undefined) return call
    return undefined
  }

  /** Sends a task. Throws, and has sent nothing, when an argument can't be. */
  send(call: A): void {
    const slot = this.slotAt(this.line.length)
    this.cells[cellOf(slot)] = Progress.Offered
    this.tell([slot, call.task.number, ...call.args], call.moved)
    this.line.push(call)
    this.size++
  }

  /** Takes a task back. Whether that was possible: not when it has been started. */
  takeBack(call: A): boolean {
    const at = this.line.indexOf(call)
    const cell = cellOf(this.slotAt(at))
    if (Atomics.compareExchange(this.cells, cell, Progress.Offered, Progress.TakenBack) !== Progress.Offered)
      return false
    this.line[at] = undefined
    this.size--
    return true
  }

  /** Takes back all tasks that were not started and that can be sent again. */
  takeBackAll(): ReadonlyArray<A> {
    return this.unanswered.filter((call) => call.moved === undefined && this.takeBack(call))
  }

  /** Tasks that it was sent and has not answered. */
  get unanswered(): ReadonlyArray<A> {
    return this.line.filter((call) => call !== undefined)
  }

  /** Tells a task that has been started to stop. */
  cancel(call: A): void {
    const slot = this.slotAt(this.line.indexOf(call))
    Atomics.compareExchange(this.cells, cellOf(slot), Progress.Running, Progress.Cancelled)
    this.tell(slot)
  }

  /** Wants more elements of a generator. */
  want(call: A, elements: number): void {
    this.tell(elements * SLOTS + this.slotAt(this.line.indexOf(call)))
  }

  /** Ends the thread, whatever it does. `onExit` tells when it has ended. */
  end(): void {
    this.status = "Ending"
    void this.worker.terminate()
  }

  private fail(error: Thrown): void {
    this.error = error
    void this.worker.terminate()
  }

  private slotAt(position: number): number {
    return (this.firstSlot + position) % SLOTS
  }

  private tell(message: Order | Wish, moved?: ReadonlyArray<Transferable>): void {
    this.port.postMessage(message, moved)
    Atomics.add(this.cells, BELL, 1)
    Atomics.notify(this.cells, BELL)
  }

  private answered(answer: Answer, listener: Listener<A>): void {
    const call = this.line[0]
    if (answer[1] !== About.Element) {
      this.line.shift()
      this.firstSlot = this.slotAt(1)
      if (call !== undefined) this.size--
    }
    listener.onAnswer(this, call, answer)
  }

  private announced(message: Announcement, listener: Listener<A>): void {
    if (this.status !== "Starting") return
    if ("failed" in message) return this.fail(message.failed)
    this.status = "Ready"
    listener.onReady(this, message.functions)
  }
}
