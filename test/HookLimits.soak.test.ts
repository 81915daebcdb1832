/** Payloads at their limits, over the built gateway's own socket. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as http from "node:http"
import { ControlClient } from "../src/layers/ControlClient.ts"
import { ask, eventually, launchGateway, makePlace } from "./support/gateway.ts"

const soak = Boolean(process.env["HOLDFAST_SOAK"])
const calls = soak ? 10_000 : 200
const atOnce = 4
/** What large payloads may leave in the gateway's memory, in MB. */
const maxGrowthMb = 80

const residentMb = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+) kB$/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024

const payload = (id: string, pad: unknown) =>
  JSON.stringify({
    session_id: "s",
    cwd: "/",
    hook_event_name: "PreToolUse",
    tool_name: "Bash",
    tool_input: { command: "true", pad },
    tool_use_id: id
  })

const nested = (levels: number): string => `${"[".repeat(levels)}${"]".repeat(levels)}`

describe("large payloads", () => {
  it.live(
    `${calls} of 5 MB are decided and leave less than ${maxGrowthMb} MB; over a limit each is refused by its status`,
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const { pid } = yield* launchGateway(place)
        yield* ask(
          place,
          Effect.gen(function* () {
            const client = yield* ControlClient
            const opened = client.OpenRelay({ provider: "codex", sessionId: null, events: ["pre_tool_use"] })
            yield* opened.pipe(
              Stream.take(1),
              Stream.mapEffect(({ recordPath }) => scene(recordPath, pid)),
              Stream.runDrain
            )
          })
        )
      }),
    soak ? 900_000 : 90_000
  )
})

const scene = Effect.fnUntraced(function* (recordPath: string, pid: number) {
  const record = Object.fromEntries(
    fs
      .readFileSync(recordPath, "utf8")
      .split("\n")
      .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)])
  )
  const send = (body: string | Buffer, method = "POST", headers: Readonly<Record<string, string>> = {}) =>
    Effect.callback<number | undefined>((resume) => {
      const request = http.request(
        {
          socketPath: record["socketPath"],
          path: "/v1/hooks/pre_tool_use",
          method,
          agent: false,
          headers: {
            authorization: `Bearer ${record["token"]}`,
            "x-holdfast-relay": record["relayId"],
            "x-holdfast-generation": record["generation"],
            "content-length": Buffer.byteLength(body),
            ...headers
          }
        },
        (response) => {
          response.resume()
          response.on("end", () => resume(Effect.succeed(response.statusCode)))
        }
      )
      request.on("error", () => resume(Effect.succeed(undefined)))
      request.end(body)
    })
  const large = Array.from({ length: 5 }, () => "x".repeat(980_000))
  assert.strictEqual(yield* send(payload("small", "")), 200)
  const before = residentMb(pid)
  const body = Buffer.from(payload("large", large))
  const statuses = yield* Effect.forEach(
    Array.from({ length: calls }, () => body),
    (body) => send(body),
    { concurrency: atOnce }
  )
  assert.deepStrictEqual([...new Set(statuses)], [200])
  yield* eventually(
    `it has grown by less than ${maxGrowthMb} MB`,
    () => residentMb(pid) - before < maxGrowthMb
  )
  // Nobody reads it, so that its sender may still be writing when the answer comes.
  assert.notStrictEqual(yield* send("x".repeat(5_000_001)), 200)
  assert.deepStrictEqual(
    [
      yield* send(payload("deep", "@").replace('"@"', nested(100))),
      yield* send(
        payload(
          "wide",
          Array.from({ length: 20_001 }, () => 0)
        )
      ),
      yield* send(payload("long", "x".repeat(1_000_001))),
      yield* send(payload("text", "\uD800").replace("\\ud800", String.fromCharCode(0xd800))),
      yield* send("{"),
      yield* send("", "GET"),
      yield* send(payload("method", ""), "PUT"),
      yield* send(payload("token", ""), "POST", { authorization: "Bearer wrong" }),
      yield* send(payload("token", ""), "POST", { authorization: "" }),
      yield* send(payload("generation", ""), "POST", { "x-holdfast-generation": "999" }),
      yield* send(payload("relay", ""), "POST", { "x-holdfast-relay": "another" })
    ],
    [413, 413, 413, 200, 400, 405, 405, 403, 403, 410, 404]
  )
})
