// Seen red: each rule and number of the segmenter; of Audio the padding of chunks, the end of the sound, half samples, each refusal, the
// mean of the channels, the size of the last window; the filter of the resampler, its phases and its edges; the model without its
// context or its memory, with the memory of another stream, with one ear for all; segments that end with the recording left out; the
// queue, and the end of a call whose socket is gone; the page without its picture, its sound, or its errors.
import { Effect, type Scope } from "effect"
import { afterAll, assert, beforeAll, describe, it, vi } from "vitest"
import { execFileSync, spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { type ClientRequest, type IncomingMessage, request } from "node:http"
import { createRequire } from "node:module"
import { createServer, type AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { delimiter, join, resolve } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import * as Audio from "../../examples/voice-activity/Audio.ts"
import { expected, probabilities, speech } from "../../examples/voice-activity/samples.ts"
import * as Segmenter from "../../examples/voice-activity/Segmenter.ts"

const folder = "examples/voice-activity"
const isInstalled = existsSync(`${folder}/node_modules/onnxruntime-node`)
if (!isInstalled) console.log(`The model of ${folder} is not tested: \`npm ci --prefix ${folder}\` installs it.`)

const chromium = (process.env["PATH"] ?? "")
  .split(delimiter)
  .flatMap((path) => ["chromium", "chromium-browser", "google-chrome"].map((name) => join(path, name)))
  .find((path) => existsSync(path))
const hasBrowser = isInstalled && chromium !== undefined && existsSync(`${folder}/node_modules/playwright-core`)
if (isInstalled && !hasBrowser) console.log(`The page of ${folder} is not tested: there is no Chromium.`)

type Ear = (window: Audio.Window) => Effect.Effect<Segmenter.Heard>

/** The recording without its header. */
const sound = speech.subarray(44)
const seconds = sound.length / 2 / 16_000

interface Segment {
  readonly start: number
  readonly end: number
}

const assertSegments = (found: ReadonlyArray<Segment>, tolerance = 0.06) => {
  assert.lengthOf(found, expected.length, JSON.stringify(found))
  for (const [i, { end, start }] of expected.entries()) {
    assert.closeTo(found[i]!.start, start / 16_000, tolerance)
    assert.closeTo(found[i]!.end, end / 16_000, tolerance)
  }
}

describe("voice-activity", () => {
  describe("Segmenter", () => {
    it("gives a segment with 30 ms before and after it, once there was silence for 100 ms", () => {
      assert.deepStrictEqual(segments(windows(10, 0), windows(10, 1), windows(30, 0)), [
        [10 * 512 - 480, 20 * 512 + 480, 25]
      ])
    })

    it("does not end speech for a shorter silence, nor for what is neither", () => {
      const speaking = windows(10, 0.5)
      assert.deepStrictEqual(
        segments(windows(10, 0), speaking, windows(4, 0.34), speaking, windows(20, 0.4), windows(9, 0)),
        [[10 * 512 - 480, 54 * 512 + 480, 59]]
      )
      assert.lengthOf(segments(speaking, windows(5, 0.34), speaking), 2)
      assert.lengthOf(segments(windows(30, 0.49)), 0)
    })

    it("counts silence from where it began, though it is not certain meanwhile", () => {
      assert.deepStrictEqual(segments(windows(10, 1), windows(1, 0), windows(3, 0.4), windows(1, 0)), [
        [0, 10 * 512 + 480, 15]
      ])
    })

    it("leaves out what is shorter than 250 ms", () => {
      assert.lengthOf(segments(windows(7, 1), windows(9, 0)), 0)
      assert.lengthOf(segments(windows(8, 1), windows(9, 0)), 1)
      assert.lengthOf(segments(windows(7, 1), [{ probability: 1, size: 416 }]), 0)
      assert.lengthOf(segments(windows(7, 1), [{ probability: 1, size: 417 }]), 1)
    })

    it("ends with the recording", () => {
      assert.deepStrictEqual(segments(windows(3, 0), windows(9, 1), [{ probability: 1, size: 100 }]), [
        [3 * 512 - 480, 12 * 512 + 100, 13]
      ])
      assert.deepStrictEqual(segments(windows(12, 1), windows(2, 0)), [[0, 14 * 512, 14]])
    })
  })

  describe("Audio", () => {
    it("gives the same windows however the bytes are split", () => {
      const whole = samplesOf(Audio.wav(), speech)
      assert.lengthOf(whole, sound.length / 2)
      for (const size of [3, 43, 45, 1001, 65_537]) assert.deepStrictEqual(samplesOf(Audio.wav(), speech, size), whole)
      assert.deepStrictEqual(samplesOf(Audio.raw(), sound, 333), whole)
      assert.deepStrictEqual(
        whole.subarray(0, 9_000).map((sample) => 32_768 * sample),
        read(sound.subarray(0, 18_000))
      )
    })

    it("fills the last window up with silence, and says how much of it is of the recording", () => {
      const decoder = Audio.raw()
      assert.lengthOf(decoder.push(Buffer.alloc(2 * 512 + 7, 1)), 1)
      const [last, ...more] = decoder.end()
      assert.lengthOf(more, 0)
      assert.strictEqual(last!.size, 3)
      assert.deepStrictEqual(Array.from(last!.samples.subarray(2, 5)), [257 / 32_768, 0, 0])
      assert.lengthOf(Audio.raw().end(), 0)
    })

    for (const rate of [8000, 11_025, 22_050, 44_100, 48_000, 192_000]) {
      it(`hears a tone at ${rate} Hz as at 16 kHz, whatever its bytes are split into`, () => {
        const file = wav(tone(440, rate, rate), { rate })
        const heard = samplesOf(Audio.wav(), file, 4099)
        assert.lengthOf(heard, 16_000)
        for (let i = 200; i < 15_800; i++) {
          assert.closeTo(heard[i]!, 0.5 * Math.sin((2 * Math.PI * 440 * i) / 16_000), 0.01)
        }
        assert.deepStrictEqual(samplesOf(Audio.wav(), file), heard)
      })
    }

    it("leaves out what 16 kHz can't carry, which would be heard as something else", () => {
      const loudest = samplesOf(Audio.wav(), wav(tone(10_000, 48_000, 48_000), { rate: 48_000 }))
        .subarray(200, 15_800)
        .reduce((most, sample) => Math.max(most, Math.abs(sample)), 0)
      assert.isBelow(loudest, 0.005)
    })

    it("mixes channels", () => {
      const file = wav([1000, 3000, -500, 500], { channels: 2 })
      assert.deepStrictEqual(Array.from(samplesOf(Audio.wav(), file)), [2000 / 32_768, 0])
    })

    it("passes over what is not sound, and reads on when the length is not known", () => {
      const samples = tone(440, 16_000, 1600)
      const heard = samplesOf(Audio.wav(), wav(samples))
      const list = chunk("LIST", Buffer.from("INFOodd"))
      assert.deepStrictEqual(samplesOf(Audio.wav(), wav(samples, { before: list, after: list }), 5), heard)
      assert.deepStrictEqual(samplesOf(Audio.wav(), wav(samples, { size: 0xffffffff })), heard)
      assert.deepStrictEqual(samplesOf(Audio.wav(), wav(samples, { size: 0 })), heard)
      assert.deepStrictEqual(samplesOf(Audio.wav(), wav(samples, { isExtensible: true })), heard)
    })

    it("says what is wrong with a file", () => {
      refused(Buffer.from("ID3\x04\x00 and so on"), "It is not a WAV file")
      refused(Buffer.from("RIFF\0\0\0\0AVI LIST"), "It is not a WAV file")
      refused(speech.subarray(0, 40), "It ends before its sound begins")
      refused(wav([], { bits: 8 }), "16 bits")
      refused(wav([], { tag: 3 }), "not compressed")
      refused(wav([], { channels: 9 }), "1 to 8 channels")
      refused(wav([], { rate: 12_345 }), "12345 samples per second")
      refused(riff(chunk("data", Buffer.alloc(4))), "what its sound is like")
      refused(riff(chunk("fmt ", Buffer.alloc(8))), "damaged")
      refused(riff(chunk("LIST", Buffer.alloc(70_000))), "header is too long")
    })
  })

  it.runIf(isInstalled)("hears in each window what Silero's own code hears", { timeout: 60_000 }, async () => {
    // Only when its packages are installed, so that its types can't be looked at.
    const file = "../../examples/voice-activity/Silero.ts"
    const Silero = (await import(/* @vite-ignore */ file)) as {
      readonly make: Effect.Effect<() => Ear, never, Scope.Scope>
    }
    const hear = Effect.gen(function* () {
      const [ear, decoder] = [(yield* Silero.make)(), Audio.wav()]
      return yield* Effect.forEach([...decoder.push(speech), ...decoder.end()], ear)
    })
    const heard = await Effect.runPromise(Effect.scoped(hear))
    for (const [window, probability] of probabilities) {
      assert.closeTo(heard[window]!.probability, probability, 0.002, `window ${window}`)
    }
  })

  describe.runIf(isInstalled)("once its banner is printed", { timeout: 60_000 }, () => {
    let program: Awaited<ReturnType<typeof start>>
    beforeAll(async () => {
      program = await start()
    }, 60_000)
    afterAll(() => program.kill())

    const post = async (path: string, contentType: string, body: Uint8Array) => {
      const headers = { "content-type": contentType, accept: "application/x-ndjson" }
      const response = await fetch(`${program.url}/vad/${path}`, { method: "POST", headers, body: Buffer.from(body) })
      const text = await response.text()
      return { status: response.status, lines: linesOf(text) }
    }

    it("finds what Silero's own code finds in a file", async () => {
      const { lines, status } = await post("segments", "audio/wav", speech)
      assert.strictEqual(status, 200)
      assertSegments(lines)
    })

    it("finds the same in raw samples, and in a file at another rate", async () => {
      assertSegments((await post("raw", "application/octet-stream", sound)).lines)
      const doubled = Array.from(read(sound)).flatMap((sample) => [sample, sample])
      assertSegments((await post("segments", "audio/x-wav", wav(doubled, { rate: 32_000 }))).lines)
    })

    it("ends speech where the recording ends", async () => {
      const { lines } = await post("raw", "application/octet-stream", sound.subarray(0, 2 * 30_000))
      assert.lengthOf(lines, 1)
      assert.closeTo(lines[0].start, expected[0]!.start / 16_000, 0.06)
      assert.strictEqual(lines[0].end, 30_000 / 16_000)
    })

    it("finds nothing where nobody speaks", async () => {
      const { lines, status } = await post("segments", "audio/wav", wav(tone(440, 16_000, 32_000)))
      assert.strictEqual(status, 200)
      assert.lengthOf(lines, 0)
    })

    it("gives each segment before the rest is sent", async () => {
      const upload = open(program.url)
      let text = ""
      const ended = upload.answer.then(async (response) => {
        assert.strictEqual(response.headers["content-type"], "application/x-ndjson")
        for await (const piece of response) text += piece
      })
      let sent = 0
      for (const [i, { end }] of expected.entries()) {
        assert.lengthOf(linesOf(text), i)
        // Speech has ended when there were five windows without: one that begins the silence, and four that make 100 ms of it.
        const known = 44 + 2 * (end - 480 + 5 * 512)
        for (; sent < known + 2000; sent += 1000) {
          upload.request.write(speech.subarray(sent, sent + 1000))
          await sleep(1)
        }
        await vi.waitFor(() => assert.lengthOf(linesOf(text), i + 1), { timeout: 10_000, interval: 5 })
      }
      upload.request.end(speech.subarray(sent))
      await ended
      assertSegments(linesOf(text))
    })

    it("says what is wrong with a request", async () => {
      const notWav = await post("segments", "audio/wav", Buffer.from("ID3\x04\x00"))
      assert.strictEqual(notWav.status, 422)
      assert.deepStrictEqual(notWav.lines, [{ _tag: "Unreadable", why: "It is not a WAV file" }])
      const cutOff = await post("segments", "audio/wav", speech.subarray(0, 20))
      assert.strictEqual(cutOff.status, 422)
      assert.strictEqual((await post("segments", "audio/mpeg", speech)).status, 415)
      assert.strictEqual((await fetch(`${program.url}/vad/segments`)).status, 405)
    })

    it("listens to a WebSocket as to an upload", async () => {
      const socket = await connect(program.url)
      for (let i = 0; i < speech.length; i += 3001) socket.send(speech.subarray(i, i + 3001))
      await vi.waitFor(() => assert.lengthOf(socket.segments, 3), { timeout: 10_000 })
      socket.send("end")
      assert.deepStrictEqual(await socket.closed, { code: 1000, reason: "" })
      assertSegments(socket.segments)

      const notWav = await connect(program.url)
      notWav.send(Buffer.from("ID3\x04\x00"))
      assert.deepStrictEqual(await notWav.closed, { code: 1007, reason: "It is not a WAV file" })
    })

    it("keeps streams apart that it listens to at once", async () => {
      const shifts = [0, 8000, 16_000, 24_000]
      const answers = await Promise.all(
        shifts.map((shift) => post("raw", "application/octet-stream", Buffer.concat([Buffer.alloc(2 * shift), sound])))
      )
      for (const [i, { lines }] of answers.entries()) {
        const shift = shifts[i]! / 16_000
        assertSegments(lines.map(({ end, start }: Segment) => ({ start: start - shift, end: end - shift })))
      }
    })

    it.runIf(spawnSync("curl", ["--version"]).status === 0)("answers its curl lines", () => {
      const commands = program
        .output()
        .split("\n")
        .filter((line) => line.startsWith("curl"))
      const [whole, piecewise] = commands.map((line) => execFileSync("sh", ["-c", line], { encoding: "utf8" }))
      assertSegments(linesOf(whole!.replaceAll("data: ", "")))
      assertSegments(linesOf(piecewise!))
    })

    describe.runIf(hasBrowser)("in Chromium", () => {
      let browser: Awaited<ReturnType<typeof browse>>
      beforeAll(async () => {
        browser = await browse()
      }, 60_000)
      afterAll(() => browser.close())

      it("draws a file and the speech in it", async () => {
        const page = await browser.open(program.url)
        await page.setInputFiles("#file", `${folder}/samples/speech.wav`)
        await page.waitForFunction(() => document.querySelector("#status")!.textContent === "Speech: 3")
        assertSegments(await listed(page))
        assertSegments(await drawn(page))
        await page.close()
      })

      it("says what the server says of a file that is none", async () => {
        const page = await browser.open(program.url)
        await page.setInputFiles("#file", { name: "x.wav", mimeType: "audio/wav", buffer: Buffer.from("ID3\x04\x00") })
        await page.waitForFunction(() => document.querySelector("#status.failed") !== null)
        assert.strictEqual(await page.textContent("#status"), "It is not a WAV file")
        await page.close()
      })

      it("hears the microphone, and shows what was said while it goes on", { retry: 2 }, async () => {
        const page = await browser.open(program.url)
        await page.click("#microphone")
        for (const count of [1, 2, 3]) {
          await page.waitForFunction((n: number) => document.querySelectorAll("#segments li").length === n, count)
        }
        assert.strictEqual(await page.textContent("#status"), "Listening")
        await page.click("#microphone")
        await page.waitForFunction(() => document.querySelector("#status")!.textContent === "Speech: 3")
        // The recording may have begun a little before the page heard it.
        const found = await listed(page)
        const late = expected[1]!.start / 16_000 - found[1]!.start
        const [first, ...others] = found.map(({ end, start }) => ({ start: start + late, end: end + late }))
        assertSegments([{ start: expected[0]!.start / 16_000, end: first!.end }, ...others], 0.15)
        await page.close()
      })
    })
  })

  describe.runIf(isInstalled)("with one permit", { timeout: 60_000 }, () => {
    let program: Awaited<ReturnType<typeof start>>
    beforeAll(async () => {
      program = await start({ SERVE_VOICE_ACTIVITY_MAX_ONGOING_REQUESTS: "1" })
    }, 60_000)
    afterAll(() => program.kill())

    const becomes = (state: { readonly running: number; readonly cancelled: number }) =>
      vi.waitFor(async () => assert.deepInclude(await (await fetch(`${program.url}/state`)).json(), state), {
        timeout: 10_000,
        interval: 20
      })

    it("refuses a second stream, until the client of the first has hung up", async () => {
      const upload = open(program.url)
      upload.answer.catch(() => {})
      upload.request.write(speech.subarray(0, 50_000))
      await becomes({ running: 1, cancelled: 0 })

      const second = open(program.url)
      second.request.end(speech)
      const { headers, statusCode } = await second.answer
      assert.strictEqual(statusCode, 503)
      assert.isDefined(headers["retry-after"])
      const socket = await connect(program.url)
      socket.send(speech)
      const { code, reason } = await socket.closed
      assert.strictEqual(code, 1013)
      assert.include(reason, "is full")

      upload.request.destroy()
      await becomes({ running: 0, cancelled: 1 })
      const third = open(program.url)
      third.request.end(speech)
      assert.strictEqual((await third.answer).statusCode, 200)
    })

    it("notices that a WebSocket is gone, whether it says goodbye or not", async () => {
      await becomes({ running: 0, cancelled: 1 })
      const socket = await connect(program.url)
      socket.send(speech.subarray(0, 50_000))
      await becomes({ running: 1, cancelled: 1 })
      socket.close()
      await becomes({ running: 0, cancelled: 2 })

      const client = spawn(process.execPath, [
        "--eval",
        `const socket = new WebSocket(${JSON.stringify(liveUrl(program.url))}); socket.onopen = () => socket.send(new TextEncoder().encode("RI"))`
      ])
      await becomes({ running: 1, cancelled: 2 })
      client.kill("SIGKILL")
      await becomes({ running: 0, cancelled: 3 })
    })

    it("exits with 0 after Ctrl-C, though someone still speaks", async () => {
      const socket = await connect(program.url)
      socket.send(speech.subarray(0, 50_000))
      await becomes({ running: 1, cancelled: 3 })
      assert.strictEqual(await program.interrupt(), 0)
      assert.notStrictEqual((await socket.closed).code, 1000)
    })
  })

  it.runIf(isInstalled)("type-checks", { timeout: 60_000 }, () => {
    const { output, status } = spawnSync("npx", ["tsc", "-p", folder], { encoding: "utf8" })
    assert.strictEqual(status, 0, output?.join("\n"))
  })
})

const windows = (count: number, probability: number) =>
  Array.from({ length: count }, () => ({ probability, size: 512 }))

/** The segments of windows, in samples, each with the number of windows that had been heard when it was known. */
const segments = (...parts: ReadonlyArray<ReadonlyArray<Segmenter.Heard>>) => {
  let state = Segmenter.initial
  const found: Array<readonly [number, number, number]> = []
  const keep = (more: ReadonlyArray<Segmenter.Segment>) => {
    for (const { end, start } of more) found.push([start, end, Math.ceil(state.heard / 512)])
  }
  for (const heard of parts.flat()) {
    const [next, more] = Segmenter.step(state, heard)
    state = next
    keep(more)
  }
  keep(Segmenter.last(state))
  return found
}

/** All samples that a decoder gives of bytes in pieces. */
const samplesOf = (decoder: Audio.Decoder, bytes: Uint8Array, size = bytes.length) => {
  const samples: Array<number> = []
  const keep = (windows: ReadonlyArray<Audio.Window>) => {
    for (const window of windows) {
      assert.lengthOf(window.samples, Audio.WINDOW)
      for (const sample of window.samples.subarray(0, window.size)) samples.push(sample)
    }
  }
  for (let i = 0; i < bytes.length; i += size) keep(decoder.push(bytes.subarray(i, i + size)))
  keep(decoder.end())
  return Float32Array.from(samples)
}

const refused = (file: Uint8Array, why: string) => {
  for (const size of [7, file.length]) assert.throws(() => samplesOf(Audio.wav(), file, size), why)
}

/** Samples of 16 bits, as numbers. */
const read = (bytes: Buffer) => Float32Array.from({ length: bytes.length / 2 }, (_, i) => bytes.readInt16LE(2 * i))

const tone = (frequency: number, rate: number, length: number) =>
  Array.from({ length }, (_, i) => Math.round(16_384 * Math.sin((2 * Math.PI * frequency * i) / rate)))

const chunk = (name: string, content: Uint8Array, size = content.length) => {
  const header = Buffer.from(`${name}....`)
  header.writeUInt32LE(size, 4)
  return Buffer.concat([header, content, Buffer.alloc(content.length % 2)])
}

const riff = (...chunks: ReadonlyArray<Uint8Array>) => Buffer.concat([Buffer.from("RIFF....WAVE"), ...chunks])

const wav = (
  samples: ReadonlyArray<number>,
  options: {
    readonly rate?: number
    readonly channels?: number
    readonly bits?: number
    readonly tag?: number
    readonly size?: number
    readonly isExtensible?: boolean
    readonly before?: Buffer
    readonly after?: Buffer
  } = {}
) => {
  const { after, before, bits = 16, channels = 1, isExtensible = false, rate = 16_000, tag = 1 } = options
  const format = Buffer.alloc(isExtensible ? 40 : 16)
  format.writeUInt16LE(isExtensible ? 0xfffe : tag)
  format.writeUInt16LE(channels, 2)
  format.writeUInt32LE(rate, 4)
  format.writeUInt16LE(bits, 14)
  if (isExtensible) format.writeUInt16LE(tag, 24)
  const data = Buffer.alloc(2 * samples.length)
  for (const [i, sample] of samples.entries()) data.writeInt16LE(sample, 2 * i)
  return riff(
    before ?? Buffer.alloc(0),
    chunk("fmt ", format),
    chunk("data", data, options.size ?? data.length),
    after ?? Buffer.alloc(0)
  )
}

const linesOf = (text: string) =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line))

const start = async (settings: Readonly<Record<string, string>> = {}) => {
  const server = createServer().listen(0)
  await once(server, "listening")
  const { port } = server.address() as AddressInfo
  server.close()
  const program = spawn(process.execPath, ["--conditions=effect-serve-source", `${folder}/main.ts`], {
    env: { ...process.env, ...settings, PORT: `${port}` }
  })
  let output = ""
  program.stdout.on("data", (piece) => (output += piece))
  program.stderr.on("data", (piece) => (output += piece))
  const closed = once(program, "close")
  await vi.waitFor(() => assert.include(output, "Ctrl-C"), { timeout: 60_000, interval: 20 })

  return {
    url: `http://localhost:${port}`,
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

/** Begins an upload. */
const open = (url: string): { readonly request: ClientRequest; readonly answer: Promise<IncomingMessage> } => {
  const headers = { "content-type": "audio/wav", accept: "application/x-ndjson" }
  const upload = request(`${url}/vad/segments`, { method: "POST", headers })
  return { request: upload, answer: once(upload, "response").then(([response]) => response as IncomingMessage) }
}

const liveUrl = (url: string) => `${url.replace("http", "ws")}/live`

const connect = async (url: string) => {
  const socket = new WebSocket(liveUrl(url))
  const segments: Array<Segment> = []
  socket.addEventListener("message", ({ data }) => segments.push(JSON.parse(data)))
  const closed = new Promise<{ code: number; reason: string }>((settle) =>
    socket.addEventListener("close", ({ code, reason }) => settle({ code, reason }))
  )
  await new Promise((settle) => socket.addEventListener("open", settle))
  return {
    segments,
    closed,
    send: (message: string | Buffer) => socket.send(message),
    close: () => socket.close()
  }
}

/** Starts a browser whose microphone plays the recording, once for each page that listens. */
const browse = async () => {
  const playwright = createRequire(resolve(folder, "package.json"))("playwright-core")
  const profile = mkdtempSync(join(tmpdir(), "voice-activity-"))
  const context = await playwright.chromium.launchPersistentContext(profile, {
    executablePath: chromium,
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--use-fake-device-for-media-stream",
      "--use-fake-ui-for-media-stream",
      `--use-file-for-fake-audio-capture=${resolve(folder, "samples/speech.wav")}%noloop`
    ]
  })
  return {
    open: async (url: string): Promise<Page> => {
      const page = await context.newPage()
      await page.goto(url)
      return page
    },
    close: async () => {
      await context.close()
      rmSync(profile, { recursive: true, force: true })
    }
  }
}

/** What is used here of Playwright, whose types are there only when it is installed. */
interface Page {
  readonly click: (selector: string) => Promise<void>
  readonly close: () => Promise<void>
  readonly evaluate: <A>(run: () => A) => Promise<A>
  readonly setInputFiles: (
    selector: string,
    file: string | { readonly name: string; readonly mimeType: string; readonly buffer: Buffer }
  ) => Promise<void>
  readonly textContent: (selector: string) => Promise<string>
  readonly waitForFunction: <A>(run: (argument: A) => boolean, argument?: A) => Promise<unknown>
}

/** What runs in the page; its types are a browser's. */
declare const document: {
  readonly querySelector: (selector: string) => any
  readonly querySelectorAll: (selector: string) => ArrayLike<any>
}

/** The segments that the page lists. */
const listed = (page: Page): Promise<ReadonlyArray<Segment>> =>
  page.evaluate(() =>
    Array.from(document.querySelectorAll("#segments li"), ({ dataset }) => ({
      start: Number(dataset.start),
      end: Number(dataset.end)
    }))
  )

/** The segments as they are drawn, by the colour at the upper edge of the picture; and the sound is loud only there. */
const drawn = async (page: Page): Promise<ReadonlyArray<Segment>> => {
  const { columns, loud } = await page.evaluate(() => {
    const canvas = document.querySelector("#picture")
    const { data, height, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
    const alphaAt = (x: number, y: number): number => data[4 * (y * width + x) + 3]
    const xs = Array.from({ length: width }, (_, x) => x)
    return {
      columns: xs.map((x) => alphaAt(x, 1) === 255),
      loud: xs.filter((x) => alphaAt(x, Math.round((height - 20) * 0.45)) === 255)
    }
  })
  const edges = columns.flatMap((isSpeech, x) => (isSpeech === (columns[x - 1] ?? false) ? [] : [x]))
  assert.isAbove(loud.length, 50)
  assert.isTrue(loud.every((x) => columns[x]))
  return Array.from({ length: edges.length / 2 }, (_, i) => ({
    start: (edges[2 * i]! / columns.length) * seconds,
    end: (edges[2 * i + 1]! / columns.length) * seconds
  }))
}
