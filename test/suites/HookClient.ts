/** The promises of a hook client, run over every one that this machine has, with real time given by the caller. */
import { assert, describe, type it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import type * as net from "node:net"
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

/** A deadline in milliseconds that no test lives to see: what comes before the test's own end came without it. */
const far = 60_000

/** The writing end of a named pipe, open once somebody opened it to read. */
const readerOf = (pipe: string): Effect.Effect<number> =>
  Effect.callback<number>((resume) => {
    fs.open(pipe, "w", (error, fd) => resume(error ? Effect.die(error) : Effect.succeed(fd)))
    // Only a reader ends the wait of an open.
    return Effect.sync(() => fs.closeSync(fs.openSync(pipe, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)))
  })

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
        assert.deepStrictEqual(yield* alive.run({ deadlineMs: far }), denied("refused"))
        assert.deepStrictEqual(yield* dead.run({ deadlineMs: far }), denied("dead-owner"))
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

    live("lets a cause fall the other way where its direction says so, and no other", () =>
      Effect.gen(function* () {
        const { dir, run } = yield* scene(answers(503, ""))
        const missing = (direction: string) => run({ direction, record: `${dir}/nothing` })
        assert.deepStrictEqual(
          yield* Effect.all([
            run({ direction: "closed:timeout:refused" }),
            missing("closed:timeout:refused"),
            run({ direction: "open:not-found" }),
            missing("open:not-found"),
            run({ direction: "closed:not-found" }),
            missing("closed:not")
          ]),
          [
            said(""),
            denied("not-found"),
            said(""),
            denied("not-found"),
            denied("refused"),
            denied("not-found")
          ]
        )
      })
    )

    live("gives up at its own deadline: on a silent gateway, half an answer, a stdin that stays open", () =>
      Effect.gen(function* () {
        const patientAsked = yield* Deferred.make<net.Socket>()
        const silent = yield* scene((socket, _, nth) => {
          if (nth === 1) Deferred.doneUnsafe(patientAsked, Effect.succeed(socket))
        })
        const half = yield* scene((socket) => void socket.write(answer(200, "{}").slice(0, -1)))
        const patient = yield* Effect.forkChild(silent.run({ deadlineMs: far }))
        const socket = yield* Deferred.await(patientAsked)
        const outcomes = yield* Effect.all(
          [
            silent.run({ deadlineMs: 600 }),
            half.run({ deadlineMs: 600 }),
            silent.run({ deadlineMs: 600, stdin: null })
          ],
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(outcomes, [denied("timeout"), denied("timeout"), denied("timeout")])
        // One that was given longer still waits, though it came first; and nobody asked twice or without a payload.
        socket.end(answer(200, `{"late":true}`))
        assert.deepStrictEqual(yield* Fiber.join(patient), said(`{"late":true}`))
        assert.deepStrictEqual([silent.seen.length, half.seen.length], [2, 1])
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
        // Records that are pipes, so that each look at one is seen: an empty one, one that leads nowhere, the successor's.
        const pipes = ["empty", "nowhere", "second"].map((name) => `${dir}/${name}.pipe`)
        childProcess.execFileSync("mkfifo", pipes)
        const seen = yield* gateway(`${dir}/second.sock`, answers(200, `{"second":true}`))
        const texts = [
          "",
          recordText({ socketPath: `${dir}/nobody.sock`, pid: deadPid }),
          recordText({ socketPath: `${dir}/second.sock`, generation: 8, token: "t2" })
        ]
        const asked = yield* Deferred.make<void>()
        const first = yield* Effect.forkChild(
          Effect.scoped(
            Effect.andThen(
              gateway(`${dir}/g.sock`, (socket) => {
                fs.renameSync(pipes[0]!, record)
                Deferred.doneUnsafe(asked, Effect.void)
                socket.destroy()
              }),
              Deferred.await(asked)
            )
          ),
          { startImmediately: true }
        )
        const client = yield* Effect.forkChild(run({ deadlineMs: far }))
        yield* Fiber.join(first)
        for (const [index, text] of texts.entries()) {
          const looking = yield* readerOf(record)
          const next = pipes[index + 1]
          if (next !== undefined) fs.renameSync(next, record)
          fs.writeSync(looking, text)
          fs.closeSync(looking)
        }
        assert.deepStrictEqual(yield* Fiber.join(client), said(`{"second":true}`))
        assert.strictEqual(seen.length, 1)
        assert.match(seen[0]!.head, /x-holdfast-generation: 8/i)
        assert.match(seen[0]!.head, /Bearer t2/)
      })
    )

    live("told to wait, is answered by a gateway that comes later, and else gives up at its deadline", () =>
      Effect.gen(function* () {
        const { dir, record, run } = yield* lonely({ pid: deadPid })
        const nobody = yield* Effect.forkChild(run({ deadlineMs: 600, wait: true }))
        assert.deepStrictEqual(yield* Fiber.join(nobody), denied("timeout"))
        // A record that is a pipe, so that each look at it is seen: it was asked before there was anybody.
        fs.rmSync(record)
        childProcess.execFileSync("mkfifo", [record])
        const client = yield* Effect.forkChild(run({ deadlineMs: far, wait: true }))
        const looking = yield* readerOf(record)
        yield* gateway(`${dir}/g.sock`, answers(200, `{"late":true}`))
        fs.writeFileSync(`${dir}/next`, recordText({ socketPath: `${dir}/g.sock` }))
        fs.renameSync(`${dir}/next`, record)
        fs.closeSync(looking)
        assert.deepStrictEqual(yield* Fiber.join(client), said(`{"late":true}`))
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
        const asked = yield* Deferred.make<net.Socket>()
        const { dir, record, socketPath, run } = yield* scene(
          (socket) => void Deferred.doneUnsafe(asked, Effect.succeed(socket))
        )
        fs.writeFileSync(record, recordText({ socketPath, token }))
        const client = yield* Effect.forkChild(run({ deadlineMs: far }))
        const socket = yield* Deferred.await(asked)
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
        // It was there to be looked at all the while.
        socket.end(answer(200, "{}"))
        assert.deepStrictEqual(yield* Fiber.join(client), said("{}"))
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
