/**
 * Keeps note of the method whose code runs on this event loop, for the thread that watches the loop.
 *
 * A method's code is what its handler's fiber runs, and what the fibers do that it starts, now or when they go on after they have
 * waited. Each of their steps asks the scheduler of its context whether it is time to yield, so a scheduler that knows its method
 * is told of every step, and costs the comparison of two numbers.
 *
 * @since 0.1.0
 */
import { Context, Effect, type Exit, type Fiber, Scheduler } from "effect"
import { CURRENT, here, idOf, type Method, waitingCell } from "./Pulse.ts"

const { cells } = here

/** Calls of {@link fork} on the stack: each of them says whose code runs after it. */
let forks = 0
/** Whether {@link clear} will be called before the loop starts over. */
let isClearing = false

class MethodScheduler implements Scheduler.Scheduler {
  readonly executionMode: "sync" | "async"
  readonly id: number
  readonly inner: Scheduler.Scheduler

  constructor(id: number, inner: Scheduler.Scheduler) {
    this.id = id
    this.inner = inner
    this.executionMode = inner.executionMode
  }

  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    if (cells[CURRENT] !== this.id) enter(this.id)
    return this.inner.shouldYield(fiber)
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return this.inner.makeDispatcher()
  }
}

const enter = (id: number) => {
  cells[CURRENT] = id
  // A fiber that goes on after it has waited does not tell when it stops again. Once a turn of the loop is often enough to forget
  // it: to do so after each of them would cost as much as a tenth of a short call.
  if (forks > 0 || isClearing) return
  isClearing = true
  setImmediate(clear)
}

const clear = () => {
  isClearing = false
  cells[CURRENT] = 0
}

/** The services in which code of a method is to run, so that it is known whose it is. */
export const contextOf = <R>(context: Context.Context<R>, method: Method): Context.Context<R> => {
  const scheduler = Context.get(context, Scheduler.Scheduler)
  const inner = scheduler instanceof MethodScheduler ? scheduler.inner : scheduler
  return Context.add(context, Scheduler.Scheduler, new MethodScheduler(idOf(method), inner))
}

/** Starts the work of a request at once, on this stack. What called it has the loop again afterwards. */
export const fork = <A, E, R>(context: Context.Context<R>, work: Effect.Effect<A, E, R>): Fiber.Fiber<A, E> => {
  const caller = cells[CURRENT]!
  forks++
  try {
    return Effect.runForkWith(context)(work)
  } finally {
    forks--
    cells[CURRENT] = caller
  }
}

/**
 * Calls `onEnd` when work that waits for something has ended. Until then its method is one that may have left something running,
 * such as an async function.
 */
export const whenEnded = <A, E>(fiber: Fiber.Fiber<A, E>, onEnd: (exit: Exit.Exit<A, E>) => void): void => {
  const { scheduler } = fiber.cache
  const cell = waitingCell(scheduler instanceof MethodScheduler ? scheduler.id : 0)
  cells[cell]!++
  fiber.addObserver((exit) => {
    cells[cell]!--
    onEnd(exit)
  })
}
