/**
 * What the pools of the worker benchmark run. `bounce` sends a buffer back without a copy, which each pool has its own word for.
 */
import { move } from "effect-serve/task"
import { move as movePiscina } from "piscina"

export const nothing = (x: number): number => x

export const bounce = (bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> => move(bytes)

export const bouncePiscina = (bytes: Uint8Array<ArrayBuffer>) => movePiscina(bytes)

/** Computes for so many milliseconds. */
export const compute = (millis: number): void => {
  const end = performance.now() + millis
  while (performance.now() < end);
}
