/** The promises of a hook client, run over every one that this machine has, with real time given by the caller. */
import { assert, describe, type it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import type { HookEventName } from "../../src/services/HookEvent.ts"
import {
  failureAnswer,
  type failureCauses,
  maxAnswerBytes,
  maxPayloadBytes,
  maxRecordBytes
} from "../../src/services/HookWire.ts"
import {
  answer,
  answers,
  ask,
  type Behaviour,
  type Call,
  gateway,
  payload,
  recordText,
  temporaryDirectory
} from "../support/HookGateway.ts"

type Cause = (typeof failureCauses)[number]

const denied = (cause: Cause) => failureAnswer("pre_tool_use", "closed", cause)
const said = (stdout: string) => ({ stdout, stderr: "", exitCode: 0 })

/** As many processes as a small machine runs side by side. */
const atOnce = { concurrency: 4 }

/** An object of that many bytes. */
const sized = (bytes: number): string => `{"x":"${"y".repeat(bytes - 8)}"}`

/** Far beyond any pid: Linux stops at 2^22. */
const deadPid = 99_999_999

export const suite = (name: string, argv: ReadonlyArray<string>, live: typeof it.live): void => {
  /** A directory with a record that leads to a gateway of this behaviour, which is open as long as the scope. */
  const scene = (behaviour: Behaviour, resets = 0) =>
    Effect.gen(function* () {
      const dir = yield* temporaryDirectory
      const socketPath = `${dir}/g.sock`
      const record = `${dir}/record`
      fs.writeFileSync(record, recordText({ socketPath }))
      const seen = yield* gateway(socketPath, behaviour, resets)
      const run = (call: Partial<Call> = {}) => ask({ argv, record, ...call })
      return { dir, record, socketPath, seen, run }
    })

  /** A record without a gateway. */
  const lonely = (fields: Readonly<Record<string, string | number>>) =>
    Effect.gen(function* () {
      const dir = yield* temporaryDirectory
      const record = `${dir}/record`
      fs.writeFileSync(record, recordText({ socketPath: `${dir}/g.sock`, ...fields }))
      return { dir, record, run: (call: Partial<Call> = {}) => ask({ argv, record, ...call }) }
    })

  describe(`hook client ${name}`, () => {
    live("asks as the protocol says, and prints the answer to the byte", () =>
      Effect.gen(function* () {
        const body = `{"reason":"100 % sure: \\\\ \\"é\\" $(id) \`id\` \\n"}\n`
        const { seen, run } = yield* scene(answers(200, body))
        assert.deepStrictEqual(yield* run(), said(body))
        assert.strictEqual(seen.length, 1)
        assert.strictEqual(seen[0]!.body, payload)
        const [request, ...headers] = seen[0]!.head.split("\r\n")
        const wanted = [
          "authorization: Bearer s3cret-T0ken_value",
          "x-holdfast-relay: relay-1",
          "x-holdfast-generation: 7",
          "content-type: application/json",
          `content-length: ${Buffer.byteLength(payload)}`
        ]
        const lowered = new Set(headers.map((line) => line.replace(/^[^:]*/, (key) => key.toLowerCase())))
        assert.strictEqual(request, "POST /v1/hooks/pre_tool_use HTTP/1.1")
        assert.deepStrictEqual(
          wanted.filter((line) => !lowered.has(line)),
          []
        )
      })
    )

    live("prints nothing for an empty answer", () =>
      Effect.gen(function* () {
        const { run } = yield* scene(answers(200, ""))
        assert.deepStrictEqual(yield* run(), said(""))
      })
    )

    live("carries the largest payload and the largest answer, and neither a byte more", () =>
      Effect.gen(function* () {
        const { seen, run } = yield* scene((socket, _, nth) => {
          socket.end(answer(200, sized(maxAnswerBytes + (nth === 1 ? 0 : 1))))
        })
        const largest = yield* run({ stdin: sized(maxPayloadBytes) })
        assert.deepStrictEqual([largest.stdout.length, largest.exitCode], [maxAnswerBytes, 0])
        assert.strictEqual(seen[0]!.body.length, maxPayloadBytes)
        assert.deepStrictEqual(yield* run(), denied("malformed"))
        assert.deepStrictEqual(yield* run({ stdin: sized(maxPayloadBytes + 1) }), denied("too-large"))
        assert.strictEqual(seen.length, 2)
      })
    )

    live("names the cause of every status", () =>
      Effect.gen(function* () {
        const causes: ReadonlyArray<readonly [number, Cause]> = [
          [400, "malformed"],
          [403, "forbidden"],
          [404, "not-found"],
          [408, "timeout"],
          [410, "stale-generation"],
          [413, "too-large"],
          [503, "refused"],
          [500, "malformed"],
          [204, "malformed"],
          [302, "malformed"]
        ]
        const outcomes = yield* Effect.forEach(
          causes,
          ([status]) => Effect.scoped(Effect.flatMap(scene(answers(status, "")), ({ run }) => run())),
          atOnce
        )
        assert.deepStrictEqual(
          outcomes,
          causes.map(([, cause]) => denied(cause))
        )
      })
    )

    live("falls in the direction it was given, in the form that the event has", () =>
      Effect.gen(function* () {
        const dir = yield* temporaryDirectory
        const record = `${dir}/none`
        const cases: ReadonlyArray<readonly [HookEventName, "closed" | "open"]> = [
          ["pre_tool_use", "closed"],
          ["permission_request", "closed"],
          ["post_tool_use", "closed"],
          ["pre_tool_use", "open"],
          ["stop", "open"]
        ]
        const outcomes = yield* Effect.forEach(
          cases,
          ([event, direction]) => ask({ argv, record, event, direction }),
          atOnce
        )
        assert.deepStrictEqual(
          outcomes,
          cases.map(([event, direction]) => failureAnswer(event, direction, "not-found"))
        )
      })
    )

    live("fails at once where nobody listens, and says whether the owner is gone", () =>
      Effect.gen(function* () {
        const alive = yield* lonely({ pid: process.pid })
        const dead = yield* lonely({ pid: deadPid })
        const startedAt = yield* Clock.currentTimeMillis
        assert.deepStrictEqual(yield* alive.run(), denied("refused"))
        assert.deepStrictEqual(yield* dead.run(), denied("dead-owner"))
        assert.isBelow((yield* Clock.currentTimeMillis) - startedAt, 3000)
      })
    )

    live("refuses an expired record", () =>
      Effect.gen(function* () {
        const { run } = yield* lonely({ expiresAt: Date.now() - 2000 })
        assert.deepStrictEqual(yield* run(), denied("expired"))
      })
    )

    live("takes nothing for a record that is none, and runs nothing that is written in one", () =>
      Effect.gen(function* () {
        const { dir, run } = yield* lonely({})
        const texts = [
          "",
          "\n\n",
          `{"version":1}`,
          recordText({ version: 2 }),
          recordText({ generation: "1e3" }),
          recordText({ pid: "" }),
          recordText({ socketPath: "relative.sock" }),
          recordText({ socketPath: `/$(touch ${dir}/ran)"` }),
          recordText({ token: `\`touch ${dir}/ran\`` }),
          recordText({ token: "a\r\nx-holdfast-relay: other" }),
          recordText({ relayId: `x; touch ${dir}/ran` }),
          recordText({}).replace(/expiresAt=.*\n/, ""),
          recordText({ padding: "x".repeat(maxRecordBytes) })
        ]
        const outcomes = yield* Effect.forEach(
          texts,
          (text, index) => {
            fs.writeFileSync(`${dir}/record-${index}`, text)
            return run({ record: `${dir}/record-${index}` })
          },
          atOnce
        )
        assert.deepStrictEqual(outcomes, Array(texts.length).fill(denied("malformed")))
        assert.isFalse(fs.existsSync(`${dir}/ran`))
        assert.deepStrictEqual(yield* run({ record: dir }), denied("not-found"))
      })
    )

    live("passes on no answer that is not an object, not whole or not HTTP", () =>
      Effect.gen(function* () {
        const broken = [
          answer(200, "allowed"),
          answer(200, "[]"),
          answer(200, `log line\n{}`),
          "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
          "HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n{}",
          `HTTP/1.1 200 OK\r\nX-Pad: ${"p".repeat(20_000)}\r\nContent-Length: 2\r\n\r\n{}`,
          "+OK this is a mail server\r\n\r\n"
        ]
        const outcomes = yield* Effect.forEach(
          broken,
          (text) =>
            Effect.scoped(
              Effect.flatMap(
                scene((socket) => void socket.end(text)),
                ({ run }) => run()
              )
            ),
          atOnce
        )
        assert.deepStrictEqual(outcomes, Array(broken.length).fill(denied("malformed")))
      })
    )

    live("gives up at the deadline: on a silent gateway, half an answer, a stdin that stays open", () =>
      Effect.gen(function* () {
        const silent = yield* scene(() => undefined)
        const half = yield* scene((socket) => void socket.write(answer(200, "{}").slice(0, -1)))
        const startedAt = yield* Clock.currentTimeMillis
        const outcomes = yield* Effect.all(
          [
            silent.run({ deadlineMs: 600 }),
            half.run({ deadlineMs: 600 }),
            silent.run({ deadlineMs: 600, stdin: null })
          ],
          { concurrency: "unbounded" }
        )
        const took = (yield* Clock.currentTimeMillis) - startedAt
        assert.deepStrictEqual(outcomes, [denied("timeout"), denied("timeout"), denied("timeout")])
        assert.isAtLeast(took, 500)
        assert.isBelow(took, 3000)
      })
    )

    live("asks again when an accepted connection is lost before its answer is whole", () =>
      Effect.gen(function* () {
        const { seen, run } = yield* scene((socket, _, nth) => {
          if (nth === 1) return void socket.destroy()
          socket.end(nth === 2 ? answer(200, `{"x":1}`).slice(0, -3) : answer(200, `{"x":1}`))
        }, 1)
        assert.deepStrictEqual(yield* run(), said(`{"x":1}`))
        assert.deepStrictEqual(
          seen.map(({ body }) => body),
          [payload, payload, payload]
        )
      })
    )

    live("is answered by the successor of a gateway that died over the question", () =>
      Effect.gen(function* () {
        const { dir, record, run } = yield* lonely({})
        const asked = yield* Deferred.make<void>()
        const first = yield* Effect.forkChild(
          Effect.scoped(
            Effect.andThen(
              gateway(`${dir}/g.sock`, (socket) => {
                fs.rmSync(record)
                Deferred.doneUnsafe(asked, Effect.void)
                socket.destroy()
              }),
              Deferred.await(asked)
            )
          ),
          { startImmediately: true }
        )
        const client = yield* Effect.forkChild(run({ deadlineMs: 8000 }))
        yield* Fiber.join(first)
        // For a while there is no record at all, then one that leads nowhere.
        yield* Effect.sleep(120)
        fs.writeFileSync(record, recordText({ socketPath: `${dir}/nobody.sock`, pid: deadPid }))
        yield* Effect.sleep(120)
        const seen = yield* gateway(`${dir}/second.sock`, answers(200, `{"second":true}`))
        fs.writeFileSync(
          `${record}.new`,
          recordText({ socketPath: `${dir}/second.sock`, generation: 8, token: "t2" })
        )
        fs.renameSync(`${record}.new`, record)
        assert.deepStrictEqual(yield* Fiber.join(client), said(`{"second":true}`))
        assert.match(seen[0]!.head, /x-holdfast-generation: 8/i)
        assert.match(seen[0]!.head, /Bearer t2/)
      })
    )

    live("keeps trying until the deadline when no successor comes", () =>
      Effect.gen(function* () {
        const { socketPath, run } = yield* scene((socket) => {
          fs.rmSync(socketPath)
          socket.destroy()
        })
        assert.deepStrictEqual(yield* run({ deadlineMs: 600 }), denied("timeout"))
      })
    )

    live("shows its token to nobody: not in an argument, not in the environment, not in a file", () =>
      Effect.gen(function* () {
        const token = `only-here-${name}-${process.pid}`
        const asked = yield* Deferred.make<void>()
        const { dir, record, socketPath, run } = yield* scene(
          () => void Deferred.doneUnsafe(asked, Effect.void)
        )
        fs.writeFileSync(record, recordText({ socketPath, token }))
        const client = yield* Effect.forkChild(run({ deadlineMs: 1500 }))
        yield* Deferred.await(asked)
        const shown = fs
          .readdirSync("/proc")
          .filter((entry) => /^\d+$/.test(entry) && Number(entry) !== process.pid)
          .filter((pid) =>
            ["cmdline", "environ"].some((file) => {
              try {
                return fs.readFileSync(`/proc/${pid}/${file}`, "latin1").includes(token)
              } catch {
                return false
              }
            })
          )
        assert.deepStrictEqual(shown, [])
        assert.deepStrictEqual(fs.readdirSync(dir).toSorted(), ["g.sock", "record"])
        yield* Fiber.interrupt(client)
      })
    )

    live("refuses to run without its four arguments, and never with status 2", () =>
      Effect.gen(function* () {
        const { record } = yield* lonely({})
        const calls: ReadonlyArray<Readonly<Record<string, unknown>>> = [
          { event: "Pre'Tool" },
          { direction: "ajar" },
          { deadlineMs: "1; exit 2" }
        ]
        for (const call of calls) {
          const outcome = yield* ask({ argv, record, ...call })
          assert.deepStrictEqual([outcome.stdout, outcome.exitCode], ["", 64])
        }
      })
    )

    live("answers 32 hooks at once", () =>
      Effect.gen(function* () {
        const { run } = yield* scene((socket, { body }) => void socket.end(answer(200, body)))
        const bodies = Array.from({ length: 32 }, (_, index) => `{"n":${index}}`)
        const outcomes = yield* Effect.forEach(bodies, (stdin) => run({ stdin, deadlineMs: 15_000 }), {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(outcomes, bodies.map(said))
      })
    )
  })
}
