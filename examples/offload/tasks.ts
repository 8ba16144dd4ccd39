/**
 * The work, as plain functions. Each takes about 80 ms and lets nothing else run on its thread meanwhile.
 */
import { pbkdf2Sync } from "node:crypto"
import { gzipSync } from "node:zlib"

/** As many as OWASP advises for PBKDF2 with SHA-256. */
export const ITERATIONS = 600_000

/** Hashes a password so that it can be stored. */
export const hash = (password: string): string => pbkdf2Sync(password, "salt", ITERATIONS, 32, "sha256").toString("hex")

/** Compresses a text and returns how many bytes are left. */
export const compress = (text: string): number => gzipSync(text).length
