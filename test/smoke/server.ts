import { assert, vi } from "vitest"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { createServer, type AddressInfo } from "node:net"

const freePort = async () => {
  const server = createServer().listen(0)
  await once(server, "listening")
  const { port } = server.address() as AddressInfo
  server.close()
  return port
}

/** Starts the program of an example, which listens on `PORT`. */
export const start = async (example: string) => {
  const port = await freePort()
  const program = spawn(process.execPath, ["--conditions=effect-serve-source", `examples/${example}`], {
    env: { ...process.env, PORT: `${port}` }
  })
  let output = ""
  program.stdout.on("data", (chunk) => (output += chunk))
  program.stderr.on("data", (chunk) => (output += chunk))
  const closed = once(program, "close")

  return {
    url: `http://localhost:${port}`,
    printed: (text: string) =>
      vi.waitFor(() => (assert.include(output, text), output), { timeout: 60_000, interval: 20 }),
    output: () => output,
    /** Presses Ctrl-C and resolves to the exit code, or to the signal that killed the program. */
    interrupt: async () => {
      program.kill("SIGINT")
      const [exitCode, signal] = await closed
      return exitCode ?? signal
    },
    kill: () => program.kill("SIGKILL")
  }
}
