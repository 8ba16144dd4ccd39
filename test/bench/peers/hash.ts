/**
 * The work of the kind `cpu`, for the threads of a pool.
 */
import { pbkdf2Sync } from "node:crypto"

export const hash = (x: number): string => pbkdf2Sync(`${x}`, "effect-serve", 20_000, 32, "sha256").toString("hex")
