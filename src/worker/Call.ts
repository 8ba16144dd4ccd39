/**
 * One call of a task, as its caller sees it: how far it has come, how it ends, and the elements of one that streams.
 *
 * @since 0.1.0
 */
import { Cause, Effect, Exit, type Pull, Schema } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import type { Transferable } from "node:worker_threads"
import type { Watched } from "../admission/Alarm.ts"
import type { Standing } from "../admission/Line.ts"
import type { RequestContext } from "../core/RequestContext.ts"
import type { ServeError } from "../core/ServeError.ts"
import type { Sendable, Thread } from "./Thread.ts"
import { describe, type Kind, type Thrown, transferOf, WINDOW } from "./Wire.ts"

const thrown = {
  /** The name of the error, such as `"RangeError"`, or the type of what was thrown when it is no `Error`. */
  name: Schema.String,
  /** Its message. */
  description: Schema.String,
  /** Its stack, in the thread. */
  stack: Schema.optionalKey(Schema.String)
}

const Thrown: Schema.Codec<Thrown> = Schema.Struct({
  ...thrown,
  cause: Schema.optionalKey(Schema.suspend((): Schema.Codec<Thrown> => Thrown))
})

/**
 * A task failed, or could not be called.
 *
 * @category errors
 * @since 0.1.0
 */
export class TaskError extends Schema.TaggedError<TaskError>("effect-serve/worker/TaskError")("TaskError", {
  task: Schema.String,
  /**
   * `"threw"`: it threw an error, which is described. `"argument"` and `"result"`: a value can't be sent to or from a thread.
   * `"missing"`: the module has no function of that name.
   */
  kind: Schema.Literals(["threw", "argument", "result", "missing"]),
  ...thrown,
  /** Its causes, down to a depth of 8. */
  cause: Schema.optionalKey(Thrown)
}) {
  override get message(): string {
    switch (this.kind) {
      case "threw":
        return `Task "${this.task}" threw ${this.name}: ${this.description}`
      case "argument":
        return `An argument of task "${this.task}" can't be sent to a thread: ${this.description}`
      case "result":
        return `A result of task "${this.task}" can't be sent from its thread: ${this.description}`
      case "missing":
        return `There is no task "${this.task}": ${this.description}`
    }
  }
}

/** A function that threads can run, and how long it takes. */
export class Task {
  readonly name: string
  readonly kind: Kind
  readonly number: number
  /** Milliseconds, on average, of its last runs; `Infinity` before the first. */
  meanMillis = Infinity

  constructor(name: string, kind: Kind, number: number) {
    this.name = name
    this.kind = kind
    this.number = number
  }

  ran(millis: number): void {
    this.meanMillis = this.meanMillis === Infinity ? millis : this.meanMillis + (millis - this.meanMillis) / 8
  }
}

type Failed = ServeError | TaskError

export type Outcome = Exit.Exit<unknown, Failed>

export class Call implements Standing, Watched<Call>, Sendable {
  turn = 0
  spot = 0
  due = Infinity
  laterDeadline: Call | undefined = undefined
  earlierDeadline: Call | undefined = undefined
  timed = false

  /** `Doomed` is `Stopping` in the second half of the grace, when another thread is started in place of its own. */
  state: "Queued" | "Sent" | "Stopping" | "Doomed" | "Settled" = "Queued"
  thread: Thread<Call> | undefined = undefined
  /** Threads that ended before they started it. */
  losses = 0
  /** Milliseconds that it was expected to take when it was sent. */
  expected = 0
  /** Called when its thread has done with it, after the answer if that could not wait. */
  onSettled: (() => void) | undefined = undefined
  isAnswered = false

  readonly task: Task
  readonly args: ReadonlyArray<unknown>
  readonly moved: ReadonlyArray<Transferable> | undefined
  /** When its caller gives up, in milliseconds on the clock. */
  readonly deadline: number
  /** Whether its caller serves a request. */
  readonly isServing: boolean
  /** Whether it was told to stop because it took too long, and its caller waits until it has. */
  isLate = false
  readonly elements: Elements | undefined
  private readonly resume: (outcome: Outcome) => void

  constructor(options: {
    readonly task: Task
    readonly args: ReadonlyArray<unknown>
    readonly moved: ReadonlyArray<Transferable> | undefined
    readonly request: RequestContext
    readonly elements?: Elements
    readonly resume: (outcome: Outcome) => void
  }) {
    this.task = options.task
    this.args = options.args
    this.moved = options.moved
    this.deadline = options.request.deadline
    this.isServing = options.request.requestId !== ""
    this.elements = options.elements
    this.resume = options.resume
  }

  /** Tells the caller the outcome; only the first one counts. */
  answer(outcome: Outcome): void {
    if (this.isAnswered) return
    this.isAnswered = true
    this.resume(outcome)
  }
}

type Chunk = NonEmptyReadonlyArray<unknown>

/** The elements that have come for the reader of a stream, and how many more it wants. */
export class Elements {
  private ready: Array<unknown> = []
  private taken = 0
  private ended: Exit.Exit<never, Failed | Cause.Done> | undefined = undefined
  private reader: ((pull: Pull.Pull<Chunk, Failed>) => void) | undefined = undefined
  private readonly want: (elements: number) => void

  /** `want` asks for more elements. */
  constructor(want: (elements: number) => void) {
    this.want = want
  }

  push(element: unknown): void {
    this.ready.push(element)
    this.wake()
  }

  /** Ends the stream, after the elements that have come. */
  end(outcome: Outcome): void {
    this.ended = Exit.isSuccess(outcome) ? Exit.fail(Cause.Done()) : Exit.failCause(outcome.cause)
    this.wake()
  }

  private wake(): void {
    const { reader } = this
    this.reader = undefined
    // What comes until the reader's fiber has its turn goes along.
    reader?.(this.pull)
  }

  /** The reader's side: all elements that have come, the failure, or `Cause.Done`. */
  readonly pull: Pull.Pull<Chunk, Failed> = Effect.suspend(() => {
    if (this.ready.length > 0) return Effect.succeed(this.take())
    if (this.ended !== undefined) return this.ended
    return Effect.callback<Chunk, Failed | Cause.Done>((resume) => {
      this.reader = resume
      return Effect.sync(() => {
        this.reader = undefined
      })
    })
  })

  private take(): Chunk {
    const { ready } = this
    this.ready = []
    this.taken += ready.length
    if (this.taken >= WINDOW / 2 && this.ended === undefined) {
      this.want(this.taken)
      this.taken = 0
    }
    return ready as unknown as Chunk
  }
}

/** A task that is not there. */
export const missing = (task: string): TaskError =>
  new TaskError({ task, kind: "missing", name: "TypeError", description: "the module exports no such function" })

/** A call whose arguments can't be sent: the error names the first such argument. */
export const unsendable = ({ args, task }: Call, error: unknown): TaskError => {
  const { description, ...thrown } = describe(error)
  // What can only be moved can't be cloned either.
  const at = args.findIndex((arg) => !isMoved(arg) && !isCloneable(arg))
  const argument = at === -1 ? args.findIndex(isMoved) : at
  return new TaskError({
    task: task.name,
    kind: "argument",
    ...thrown,
    description: `argument ${argument}: ${description}`
  })
}

const isMoved = (arg: unknown) => transferOf([arg], "marked") !== undefined

const isCloneable = (arg: unknown): boolean => {
  try {
    structuredClone(arg)
    return true
  } catch {
    return false
  }
}
