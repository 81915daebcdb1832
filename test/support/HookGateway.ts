/**
 * A gateway as a hook client sees it: a raw Unix socket whose behaviour a test gives per connection, the record that leads
 * there, and a client run against both as a real process.
 */
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import type { HookEventName } from "../../src/services/HookEvent.ts"

interface Seen {
  readonly head: string
  readonly body: string
}

/** What one connection gets; `nth` counts from one. */
export type Behaviour = (socket: net.Socket, seen: Seen, nth: number) => void

/** A whole answer, as node:http writes one. */
export const answer = (status: number, body: string): string =>
  `HTTP/1.1 ${status} Whatever\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`

export const answers =
  (status: number, body: string): Behaviour =>
  (socket) =>
    void socket.end(answer(status, body))

export const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "hf-"))),
  (dir) => Effect.sync(() => fs.rmSync(dir, { recursive: true, force: true }))
)

const lengthOf = (head: string): number => Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0)

/** Listens until the scope closes; returns what each connection asked, in order. The first `resets` it cuts off unread. */
export const gateway = (socketPath: string, behaviour: Behaviour, resets = 0) =>
  Effect.gen(function* () {
    let accepted = 0
    const seen: Array<Seen> = []
    const sockets = new Set<net.Socket>()
    const server = net.createServer((socket) => {
      if (++accepted <= resets) return void socket.destroy()
      sockets.add(socket)
      let bytes = Buffer.alloc(0)
      let done = false
      socket.on("error", () => undefined)
      socket.on("close", () => sockets.delete(socket))
      socket.on("data", (chunk) => {
        bytes = Buffer.concat([bytes, chunk])
        const end = bytes.indexOf("\r\n\r\n")
        if (done || end < 0) return
        const head = bytes.toString("latin1", 0, end)
        if (bytes.length < end + 4 + lengthOf(head)) return
        done = true
        const request = { head, body: bytes.toString("utf8", end + 4) }
        behaviour(socket, request, seen.push(request))
      })
    })
    yield* Effect.acquireRelease(
      Effect.callback<void>((resume) => void server.listen(socketPath, () => resume(Effect.void))),
      () =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          for (const socket of sockets) socket.destroy()
        })
    )
    return seen
  })

export const recordText = (fields: Readonly<Record<string, string | number>>): string =>
  Object.entries({
    version: 1,
    relayId: "relay-1",
    generation: 7,
    epoch: "01J00000000000000000000000",
    bootId: "b0",
    pidNamespace: "pid:[1]",
    pid: process.pid,
    startToken: "42",
    socketPath: "/nowhere/gateway.sock",
    token: "s3cret-T0ken_value",
    publishedAt: Date.now(),
    expiresAt: Date.now() + 60_000,
    ...fields
  })
    .map(([key, value]) => `${key}=${value}\n`)
    .join("")

export interface Call {
  readonly argv: ReadonlyArray<string>
  readonly record: string
  readonly event?: HookEventName
  /** With the causes that fall the other way behind it. */
  readonly direction?: string
  readonly deadlineMs?: number
  readonly wait?: boolean
  /** Null leaves stdin open for ever. */
  readonly stdin?: string | null
}

export interface Outcome {
  readonly stdout: string
  readonly stderr: string
  readonly exitCode: number | null
}

/** Starts a process and waits for its end; an interruption kills it. */
export const spawned = (argv: ReadonlyArray<string>, stdin: string | null): Effect.Effect<Outcome> =>
  Effect.callback<Outcome>((resume) => {
    const child = childProcess.spawn(argv[0]!, argv.slice(1), { stdio: "pipe" })
    const out: Array<Buffer> = []
    const err: Array<Buffer> = []
    child.stdout.on("data", (chunk: Buffer) => out.push(chunk))
    child.stderr.on("data", (chunk: Buffer) => err.push(chunk))
    // A client that has heard enough does not read on.
    child.stdin.on("error", () => undefined)
    if (stdin !== null) child.stdin.end(stdin)
    child.on("close", (exitCode) => {
      child.stdin.destroy()
      resume(
        Effect.succeed({
          stdout: Buffer.concat(out).toString(),
          stderr: Buffer.concat(err).toString(),
          exitCode
        })
      )
    })
    return Effect.sync(() => child.kill("SIGKILL"))
  })

export const payload = JSON.stringify({
  hook_event_name: "PreToolUse",
  tool_input: { command: "printf 'é' \"%s\\n\"" }
})

export const ask = ({
  argv,
  record,
  event,
  direction,
  deadlineMs,
  wait = false,
  stdin = payload
}: Call): Effect.Effect<Outcome> =>
  spawned(
    [
      ...argv,
      record,
      event ?? "pre_tool_use",
      direction ?? "closed",
      String(deadlineMs ?? 5000),
      ...(wait ? ["wait"] : [])
    ],
    stdin
  )
