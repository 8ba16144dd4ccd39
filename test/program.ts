import { execFile, spawn } from "node:child_process"
import { delimiter, resolve } from "node:path"
import { promisify } from "node:util"

const anyPort = new URL("anyPort.ts", import.meta.url).href
const env = { ...process.env, PATH: `${resolve("node_modules/.bin")}${delimiter}${process.env["PATH"]}` }

/** Runs a command to its end. Rejects with all that it printed when it fails. */
export const command = (cwd: string, file: string, ...args: ReadonlyArray<string>) =>
  promisify(execFile)(file, args, { cwd, env }).catch(({ stdout, stderr }: { stdout: string; stderr: string }) => {
    throw new Error(`${file} ${args.join(" ")}\n${stdout}${stderr}`)
  })

/**
 * Runs a program with `node` for at most 20 seconds. One that serves, or is not done after 10 seconds, gets a SIGINT.
 * Servers get a free port, whichever they ask for, so that programs can run side by side.
 */
export const run = (
  cwd: string,
  args: ReadonlyArray<string>,
  onListen: (origin: string) => Promise<void> = () => Promise.resolve()
) =>
  new Promise<{ readonly exitCode: number | null; readonly output: string }>((settle, reject) => {
    const program = spawn("node", ["--import", anyPort, ...args], { cwd, env, timeout: 20_000, killSignal: "SIGKILL" })
    const interrupt = () => program.kill("SIGINT")
    const patience = setTimeout(interrupt, 10_000)
    let output = ""
    let listening = false
    const read = (chunk: Buffer) => {
      output += chunk.toString()
      const [, port] = /^listening:(\d+)$/m.exec(output) ?? []
      if (port === undefined || listening) return
      listening = true
      onListen(`http://127.0.0.1:${port}`).catch(reject).finally(interrupt)
    }
    program.stdout.on("data", read)
    program.stderr.on("data", read)
    program.on("error", reject)
    program.on("close", (exitCode) => {
      clearTimeout(patience)
      settle({ exitCode, output })
    })
  })
