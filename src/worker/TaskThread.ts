/**
 * The thread's side of a pool: runs the tasks that it is sent, one after the other.
 *
 * Threads load this file, so it does not load Effect. When there is nothing to do, a thread waits for its next task on shared
 * memory, from which it wakes much sooner than from its event loop; but only for a millisecond, because timers, sockets and
 * promises of the module of tasks can't go on meanwhile.
 *
 * @since 0.1.0
 */
import { receiveMessageOnPort, type Transferable, workerData } from "node:worker_threads"
import {
  About,
  type Announcement,
  type Answer,
  BELL,
  cellOf,
  describe,
  type Failure,
  here,
  type Kind,
  type Order,
  Progress,
  SLOTS,
  type Start,
  transferOf,
  WINDOW,
  type Wish
} from "./Wire.ts"

/** Milliseconds that the event loop is held at most while there is nothing to do. */
const LINGER = 1

const { cells, port, transfer } = workerData as Start

/**
 * Tells the pool that what this thread was to run could not be loaded.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fail = (error: unknown): void => port.postMessage({ failed: describe(error) } satisfies Announcement)

/**
 * Runs these functions for the pool that started this thread. What isn't a function is left out.
 *
 * @category constructors
 * @since 0.1.0
 */
export const serve = (functions: Readonly<Record<string, unknown>>): void => {
  const tasks = Object.entries(functions).flatMap(([name, run]) =>
    typeof run === "function" ? [{ name, run: run as Task["run"], kind: kindOf(run) }] : []
  )
  new TaskThread(tasks).listen()
  port.postMessage({ functions: tasks.map(({ kind, name }) => [name, kind]) } satisfies Announcement)
}

interface Task {
  readonly run: (...args: ReadonlyArray<unknown>) => unknown
  readonly kind: Kind
}

const kindOf = (task: Function): Kind =>
  Object.prototype.toString.call(task).endsWith("GeneratorFunction]") ? "generator" : "function"

class TaskThread {
  private readonly tasks: ReadonlyArray<Task>
  private readonly waiting: Array<Order> = []
  /** What keeps the event loop busy when there is no task, such as a connection that the module keeps. */
  private resources = 0
  private isRunning = false
  private flow: Flow | undefined = undefined
  private heard = 0
  private startedAt = 0
  private idleSince = 0
  private isAwake = false
  private awakeSince = 0

  constructor(tasks: ReadonlyArray<Task>) {
    this.tasks = tasks
  }

  listen(): void {
    here.cells = cells
    port.on("message", this.receive)
    this.resources = activeResources()
  }

  private readonly receive = (message: Order | Wish): void => {
    this.accept(message)
    this.wake()
  }

  /** Comes from the event loop, which has had its turn. */
  private readonly wake = (): void => {
    this.awakeSince = performance.now()
    this.work()
  }

  private accept(message: Order | Wish): void {
    if (typeof message !== "number") this.waiting.push(message)
    else if (this.isRunning && message % SLOTS === here.slot) this.grant(Math.floor(message / SLOTS))
  }

  /** Hands on that more elements are wanted, or, when none are, that the task should stop. */
  private grant(elements: number): void {
    if (elements === 0) {
      here.isTold = true
      here.controller?.abort()
    }
    this.flow?.want(elements)
  }

  /** Runs what there is to run, until a task waits for something or nothing more comes. */
  private work(): void {
    if (this.isAwake) return
    this.isAwake = true
    do {
      while (!this.isRunning && this.waiting.length > 0) this.start(this.waiting.shift()!)
    } while (this.linger())
    this.isAwake = false
  }

  private start([slot, number, ...args]: Order): void {
    if (Atomics.compareExchange(cells, cellOf(slot), Progress.Offered, Progress.Running) !== Progress.Offered) {
      return post([slot, About.TakenBack])
    }
    here.slot = slot
    here.controller = undefined
    here.isTold = false
    this.isRunning = true
    this.startedAt = performance.now()
    const { kind, run } = this.tasks[number]!
    try {
      const value = run(...args)
      if (kind === "generator") this.flow = new Flow(value as Elements, this)
      else if (isPromise(value)) Promise.resolve(value).then(this.succeed, this.fail)
      else return this.succeed(value)
    } catch (error) {
      return this.fail(error)
    }
    this.flow?.advance()
  }

  /** The generator that runs waits for its reader. */
  park(): void {
    this.idleSince = performance.now()
    this.work()
  }

  readonly succeed = (value: unknown): void => {
    this.end(() => give([here.slot, About.Result, value, this.millis]))
  }

  readonly fail = (error: unknown): void => {
    this.end(() => ({ kind: "threw", ...describe(error) }))
  }

  /** Ends the task that runs: `last` gives its result, or says why there is none. */
  end(last: () => Failure | undefined): void {
    Atomics.store(cells, cellOf(here.slot), Progress.Ended)
    this.isRunning = false
    this.flow = undefined
    this.idleSince = performance.now()
    const failure = last()
    if (failure !== undefined) post([here.slot, About.Failure, failure, this.millis])
    this.work()
  }

  private get millis(): number {
    return this.idleSince - this.startedAt
  }

  /** Waits a little for what comes next, and says whether it has come. */
  private linger(): boolean {
    if (this.isRunning && this.flow?.isParked !== true) return false
    do {
      if (this.fetch()) return true
      // Something that a task has begun goes on in the event loop.
      if (activeResources() > this.resources) return false
      if (this.idleSince - this.awakeSince > LINGER) {
        setImmediate(this.wake)
        return false
      }
    } while (Atomics.wait(cells, BELL, this.heard, LINGER) !== "timed-out")
    return false
  }

  /** Receives what has come since the bell was heard last, and says whether there was anything. */
  private fetch(): boolean {
    const bell = Atomics.load(cells, BELL)
    if (bell === this.heard) return false
    this.heard = bell
    let fetched = false
    for (let next = receiveMessageOnPort(port); next !== undefined; next = receiveMessageOnPort(port)) {
      this.accept(next.message)
      fetched = true
    }
    return fetched
  }
}

type Elements = Iterator<unknown> | AsyncIterator<unknown>

/** A generator that runs: it is advanced until it ends, or is as far ahead of its reader as it may be. */
class Flow {
  isParked = false
  private wanted = WINDOW
  private readonly elements: Elements
  private readonly thread: TaskThread

  constructor(elements: Elements, thread: TaskThread) {
    this.elements = elements
    this.thread = thread
  }

  want(more: number): void {
    this.wanted += more
    if (!this.isParked) return
    this.isParked = false
    this.advance()
  }

  advance(): void {
    try {
      for (;;) {
        if (Atomics.load(cells, cellOf(here.slot)) === Progress.Cancelled) return this.leave(undefined)
        if (this.wanted === 0) return this.park()
        const next = this.elements.next()
        if (isPromise(next)) return void next.then((result) => this.take(result) && this.advance(), this.fail)
        if (!this.take(next)) return
      }
    } catch (error) {
      this.fail(error)
    }
  }

  private park(): void {
    this.isParked = true
    this.thread.park()
  }

  /** Whether there may be more elements. */
  private take({ done, value }: IteratorResult<unknown>): boolean {
    if (done === true) {
      this.succeed()
      return false
    }
    this.wanted--
    const failure = give([here.slot, About.Element, value])
    if (failure !== undefined) this.leave(failure)
    return failure === undefined
  }

  /** Lets the generator clean up before it ends. */
  private leave(failure: Failure | undefined): void {
    const end = () => (failure === undefined ? this.succeed() : this.thread.end(() => failure))
    const left = this.elements.return?.()
    if (isPromise(left)) left.then(end, this.fail)
    else end()
  }

  private succeed(): void {
    this.thread.succeed(undefined)
  }

  private readonly fail = (error: unknown): void => this.thread.fail(error)
}

const post = (answer: Answer, moved?: ReadonlyArray<Transferable>): void => port.postMessage(answer, moved)

/** Posts a value, or says why it can't be. */
const give = (answer: Answer & { readonly 1: 0 | 1 }): Failure | undefined => {
  try {
    post(answer, transferOf([answer[2]], transfer))
    return undefined
  } catch (error) {
    return { kind: "result", ...describe(error) }
  }
}

/** What keeps the event loop busy, but for what {@link TaskThread} waits for itself. */
const activeResources = (): number =>
  process.getActiveResourcesInfo().reduce((count, name) => (name === "Immediate" ? count : count + 1), 0)

const isPromise = (value: unknown): value is PromiseLike<any> =>
  typeof value === "object" && value !== null && "then" in value && typeof value.then === "function"
