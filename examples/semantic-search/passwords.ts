/** Work that holds whatever thread it runs on: a `WorkerPool` runs it. */
import { scryptSync, timingSafeEqual } from "node:crypto"

const hash = (password: string, salt: Uint8Array) => scryptSync(password, salt, 32)

/** Whether a password is the one whose hash this is. About 50 ms of one core. */
export const isRight = (password: string, salt: Uint8Array, hashed: Uint8Array): boolean =>
  timingSafeEqual(hash(password, salt), hashed)

export const make = (password: string, salt: Uint8Array): Uint8Array => new Uint8Array(hash(password, salt))
