// Seen red: each filter and colour type of Png, each refusal, both directions of the scaling, equal neighbours, blanks, margins, the
// space in the alphabet, the mean; and the reader on the loop that also answers the light endpoint.
import { afterAll, assert, beforeAll, describe, it, vi } from "vitest"
import { execFileSync, spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { existsSync } from "node:fs"
import { createServer, type AddressInfo } from "node:net"
import { crc32, deflateSync } from "node:zlib"
import { alphabetOf, toInput, toText } from "../../examples/ocr/Line.ts"
import { decode } from "../../examples/ocr/Png.ts"
import { samples } from "../../examples/ocr/samples.ts"

const isInstalled = existsSync("examples/ocr/node_modules/onnxruntime-node")
if (!isInstalled) console.log("The model of examples/ocr is not tested: `npm ci --prefix examples/ocr` installs it.")

const chunk = (name: string, data: Uint8Array) => {
  const named = Buffer.concat([Buffer.from(name), data])
  const length = Buffer.alloc(4)
  length.writeUInt32BE(data.length)
  const checksum = Buffer.alloc(4)
  checksum.writeUInt32BE(crc32(named))
  return Buffer.concat([length, named, checksum])
}

/** A PNG file from its colour type and its rows, each of which begins with the number of its filter. */
const png = (
  width: number,
  colour: number,
  rows: ReadonlyArray<ReadonlyArray<number>>,
  { depth = 8, interlaced = 0 } = {}
) => {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width)
  header.writeUInt32BE(rows.length, 4)
  header.set([depth, colour, 0, 0, interlaced], 8)
  return Buffer.concat([
    Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(Uint8Array.from(rows.flat()))),
    chunk("IEND", Buffer.alloc(0))
  ])
}

const pixels = (file: Uint8Array) => Array.from(decode(file, 100).pixels)

describe("ocr", () => {
  describe("Png", () => {
    it("undoes each filter", () => {
      const rows = [
        [1, 10, 5, 5], // to the left
        [2, 1, 1, 1], // above
        [3, 5, 253, 5], // the mean of both
        [4, 252, 251, 3], // whichever of three is nearest
        [0, 7, 8, 9] // none
      ]
      assert.deepStrictEqual(pixels(png(3, 0, rows)), [10, 15, 20, 11, 16, 21, 10, 10, 20, 6, 1, 13, 7, 8, 9])
    })

    it("sees colours as shades and what is transparent as white", () => {
      assert.deepStrictEqual(pixels(png(3, 2, [[0, 255, 0, 0, 0, 255, 0, 0, 0, 255]])), [76, 150, 29])
      assert.deepStrictEqual(pixels(png(2, 4, [[0, 0, 0, 0, 255]])), [255, 0])
      assert.deepStrictEqual(pixels(png(2, 6, [[0, 0, 0, 0, 0, 40, 40, 40, 255]])), [255, 40])
    })

    it("says what is wrong with a file", () => {
      const whole = png(2, 0, [[0, 1, 2]])
      assert.throws(() => decode(Buffer.from("GIF89a"), 100), "not a PNG file")
      assert.throws(() => decode(whole.subarray(0, 40), 100), "cut off")
      assert.throws(() => decode(png(2, 0, [[0, 1]]), 100), "cut off")
      assert.throws(() => decode(png(2, 3, [[0, 1, 2]]), 100), "no palette")
      assert.throws(() => decode(png(1, 0, [[0, 1, 2]], { depth: 16 }), 100), "8 bits")
      assert.throws(() => decode(png(2, 0, [[0, 1, 2]], { interlaced: 1 }), 100), "interlaced")
      assert.throws(() => decode(png(2, 0, [[9, 1, 2]]), 100), "damaged")
      assert.throws(() => decode(whole, 1), "1 to 1 pixels")
    })
  })

  describe("Line", () => {
    it("scales a picture to the height of the model and black and white to -1 and 1", () => {
      const { values, width } = toInput({
        width: 4,
        height: 24,
        pixels: new Uint8Array(96).map((_, i) => (i % 4) * 85)
      })
      assert.strictEqual(width, 8)
      assert.lengthOf(values, 3 * 48 * 8)
      for (const [i, shade] of [0, 21.25, 63.75, 106.25, 148.75, 191.25, 233.75, 255].entries()) {
        assert.closeTo(values[i]!, shade / 127.5 - 1, 1e-6)
      }
      for (const channel of [1, 2]) {
        assert.deepStrictEqual(values.subarray(channel * 384, (channel + 1) * 384), values.subarray(0, 384))
      }
    })

    it("scales from top to bottom as from left to right", () => {
      const { values, width } = toInput({ width: 1, height: 2, pixels: Uint8Array.of(0, 255) })
      assert.strictEqual(width, 24)
      for (const [row, value] of [
        [0, -1],
        [24, 1 / 24],
        [47, 1]
      ]) {
        assert.closeTo(values[row! * 24]!, value!, 1e-6)
      }
    })

    it("counts equal neighbours once, and both when there is a blank between them", () => {
      const alphabet = alphabetOf("a\nb")
      const steps = [3, 1, 1, 0, 1, 2, 2, 3, 0]
      const chances = Float32Array.from(steps.flatMap((best) => [0, 1, 2, 3].map((i) => (i === best ? 0.75 : 0.05))))
      assert.deepStrictEqual(toText(chances, alphabet), { text: "aab", confidence: 0.75 })
      assert.deepStrictEqual(toText(chances.subarray(0, 0), alphabet), { text: "", confidence: 0 })
    })
  })

  describe.runIf(isInstalled)("once its banner is printed", { timeout: 60_000 }, () => {
    let program: Awaited<ReturnType<typeof start>>

    beforeAll(async () => {
      program = await start()
      await program.printed("Ctrl-C")
    }, 60_000)
    afterAll(() => program.kill())

    const recognize = (image: Buffer | string) => {
      const base64 = typeof image === "string" ? image : image.toString("base64")
      return post(`${program.url}/reader/recognize`, JSON.stringify({ image: base64 }))
    }
    const status = async () => (await post(`${program.url}/status/show`, "")).body

    it("reads every sample exactly", async () => {
      for (const { file, text } of samples) {
        const { body } = await recognize(file)
        assert.strictEqual(body.text, text)
        assert.isAbove(body.confidence, 0.9)
      }
    })

    it.runIf(spawnSync("curl", ["--version"]).status === 0)("answers its curl lines", () => {
      const commands = program
        .output()
        .split("\n")
        .filter((line) => line.startsWith("curl"))
      const [reading, state] = commands.map((line) =>
        JSON.parse(execFileSync("sh", ["-c", line], { encoding: "utf8" }))
      )
      assert.strictEqual(reading.text, samples.find(({ name }) => name === "receipt")!.text)
      assert.strictEqual(state.replicas, 2)
    })

    it("refuses what is not a PNG file, and says so", async () => {
      const { body, status } = await recognize(Buffer.from("GIF89a"))
      assert.strictEqual(status, 422)
      assert.deepInclude(body, { _tag: "Unreadable", why: "It is not a PNG file" })
      assert.strictEqual((await recognize("not base64!")).status, 400)
    })

    it("reads in two threads at once, while the light endpoint answers", async () => {
      const before = await status()
      const from = performance.now()
      const reading = Promise.all(Array.from({ length: 24 }, (_, i) => recognize(samples[i % samples.length]!.file)))
      let most = 0
      const latencies: Array<number> = []
      for (let isDone = false; !isDone;) {
        const sent = performance.now()
        const now = await status()
        latencies.push(performance.now() - sent)
        most = Math.max(most, now.reading)
        isDone = now.done >= before.done + 24
      }
      assert.deepStrictEqual(
        (await reading).map(({ body }) => body.text),
        Array.from({ length: 24 }, (_, i) => samples[i % samples.length]!.text)
      )
      assert.strictEqual(most, 2)
      // One line takes longer than that, so the light calls did not wait for lines.
      const perLine = (performance.now() - from) / 12
      assert.isBelow(latencies.toSorted((a, b) => a - b)[Math.floor(latencies.length / 2)]!, perLine / 2)
    })

    it("exits with 0 after Ctrl-C, and answers what is running before", async () => {
      const answers = Promise.all(samples.map(({ file }) => recognize(file)))
      await vi.waitFor(async () => assert.isAbove((await status()).waiting, 0), { interval: 1 })
      const exitCode = await program.interrupt()
      for (const { status } of await answers) assert.strictEqual(status, 200)
      assert.strictEqual(exitCode, 0)
    })
  })

  it.runIf(isInstalled)("type-checks", { timeout: 60_000 }, () => {
    const { output, status } = spawnSync("npx", ["tsc", "-p", "examples/ocr"], { encoding: "utf8" })
    assert.strictEqual(status, 0, output?.join("\n"))
  })
})

const start = async () => {
  const server = createServer().listen(0)
  await once(server, "listening")
  const { port } = server.address() as AddressInfo
  server.close()
  const program = spawn(process.execPath, ["--conditions=effect-serve-source", "examples/ocr/main.ts"], {
    env: { ...process.env, PORT: `${port}` }
  })
  let output = ""
  program.stdout.on("data", (chunk) => (output += chunk))
  program.stderr.on("data", (chunk) => (output += chunk))
  const closed = once(program, "close")

  return {
    url: `http://localhost:${port}`,
    printed: (text: string) => vi.waitFor(() => assert.include(output, text), { timeout: 60_000, interval: 20 }),
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

const post = async (url: string, body: string) => {
  // Important, so that it is not refused when other programs keep the machine busy.
  const headers = { "content-type": "application/json", "x-request-priority": "critical" }
  const response = await fetch(url, { method: "POST", headers, body })
  return { status: response.status, body: JSON.parse(await response.text()) }
}
