/**
 * hookRelay, on Node: answers one hook where the machine has neither perl nor nc nor curl. RECORD EVENT DIRECTION
 * DEADLINE_MS [wait] in argv, the provider's JSON on stdin, the gateway's answer on stdout; the promises are in
 * services/HookRelay.ts. Speaks HTTP over node:net itself, because importing node:http costs as much as Node's own start.
 */
import * as fs from "node:fs"
import * as net from "node:net"
import {
  causeOfStatus,
  failureAnswer,
  failureCauses,
  generationHeader,
  hookEventNames,
  hookPath,
  isAnswerBody,
  maxAnswerBytes,
  maxHeadBytes,
  maxPayloadBytes,
  maxRecordBytes,
  maxSpoolBytes,
  relayHeader,
  retryDelayMs,
  spoolName
} from "../services/HookWire.ts"

type Cause = (typeof failureCauses)[number]
type Event = (typeof hookEventNames)[number]

interface RelayRecord {
  readonly relayId: string
  readonly generation: string
  readonly pid: number
  readonly socketPath: string
  readonly token: string
}

/** `early`: before anything was accepted. `lost`: accepted, and no whole answer. `busy`: the gateway's queue is full. */
type Attempt =
  | { readonly kind: "answer"; readonly body: Buffer }
  | { readonly kind: "early" | "final"; readonly cause: Cause }
  | { readonly kind: "lost" | "busy" }

const [recordPath, event, direction, deadlineMs, wait] = process.argv.slice(2)

const code = (error: unknown): string | undefined => (error as NodeJS.ErrnoException | null)?.code

/** Milliseconds since this process started; the global `performance` would have to be loaded first. */
const aliveMs = (): number => process.uptime() * 1000

const leave = (status: number, line = ""): never => {
  try {
    fs.writeSync(2, line)
  } catch {
    // Nobody listens to stderr; the status says it too.
  }
  process.exit(status)
}

/** Writes everything and ends with status 0. A pipe may be full for a moment, when the provider shares its end with us. */
const sayAll = (bytes: Buffer): never => {
  for (let at = 0; at < bytes.length;) {
    try {
      at += fs.writeSync(1, bytes, at)
    } catch (error) {
      if (code(error) !== "EAGAIN" || aliveMs() > Number(deadlineMs)) leave(70)
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)
    }
  }
  return process.exit(0)
}

/** A line for the next gateway: nobody else has seen this. Whatever goes wrong with it, the answer is the same. */
const note = (cause: Cause, closed: boolean): void => {
  const place = /^(.*)\/bridges\/([^/]+)$/.exec(recordPath!)
  if (place === null) return
  const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = fs.constants
  try {
    // Whatever lies there in its place: a link is not followed, and a pipe not waited for.
    const flags = O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK
    const fd = fs.openSync(`${place[1]}/${spoolName}`, flags, 0o600)
    const stats = fs.fstatSync(fd)
    if (!stats.isFile() || stats.size >= maxSpoolBytes) return
    const line = [Math.floor(Date.now() / 1000), event, closed ? "closed" : "open", cause, place[2]].join(" ")
    fs.writeSync(fd, `${line}\n`)
  } catch {
    // No disk, or no directory: the audit log will not know, and the agent is told all the same.
  }
}

const fail = (cause: Cause): never => {
  const [way, ...except] = direction!.split(":")
  const closed = (way === "closed") !== except.includes(cause)
  note(cause, closed)
  const answer = failureAnswer(event as Event, closed ? "closed" : "open", cause)
  return answer.exitCode === 0 ? sayAll(Buffer.from(answer.stdout)) : leave(answer.exitCode, answer.stderr)
}

const readPayload = (done: (payload: Buffer) => void): void => {
  const chunks: Array<Buffer> = []
  let size = 0
  const take = (chunk: Buffer): void => {
    chunks.push(chunk)
    size += chunk.length
    if (size > maxPayloadBytes) fail("too-large")
  }
  let stdin: net.Socket
  try {
    stdin = new net.Socket({ fd: 0, readable: true, writable: false })
  } catch {
    // A file or /dev/null, which is read without waiting.
    const buffer = Buffer.alloc(65_536)
    for (let n = fs.readSync(0, buffer); n > 0; n = fs.readSync(0, buffer))
      take(Buffer.from(buffer.subarray(0, n)))
    return done(Buffer.concat(chunks))
  }
  stdin.on("data", take)
  stdin.on("end", () => done(Buffer.concat(chunks)))
  stdin.on("error", () => fail("malformed"))
}

const recordText = (): string | Cause => {
  const buffer = Buffer.alloc(maxRecordBytes + 1)
  try {
    const fd = fs.openSync(recordPath!, "r")
    let size = 0
    for (let n = -1; n !== 0 && size < buffer.length; size += n)
      n = fs.readSync(fd, buffer, size, buffer.length - size, null)
    fs.closeSync(fd)
    return size > maxRecordBytes ? "malformed" : buffer.toString("utf8", 0, size)
  } catch {
    return "not-found"
  }
}

const shapes: Readonly<Record<string, RegExp>> = {
  version: /^1$/,
  relayId: /^[A-Za-z0-9._-]{1,128}$/,
  generation: /^[0-9]{1,15}$/,
  pid: /^[0-9]{1,10}$/,
  // oxlint-disable-next-line no-control-regex -- a value may hold none of them
  socketPath: /^\/[^\u0000-\u001f\u007f"\\]{1,106}$/,
  token: /^[A-Za-z0-9._~+/=-]{1,512}$/,
  expiresAt: /^[0-9]{1,15}$/
}

const readRecord = (): RelayRecord | Cause => {
  const text = recordText()
  if ((failureCauses as ReadonlyArray<string>).includes(text)) return text as Cause
  const fields: Record<string, string> = {}
  for (const line of text.split("\n")) {
    const at = line.indexOf("=")
    if (at > 0) fields[line.slice(0, at)] = line.slice(at + 1)
  }
  if (!Object.entries(shapes).every(([key, shape]) => shape.test(fields[key] ?? ""))) return "malformed"
  if (Number(fields["expiresAt"]) <= Date.now()) return "expired"
  return {
    relayId: fields["relayId"]!,
    generation: fields["generation"]!,
    pid: Number(fields["pid"]),
    socketPath: fields["socketPath"]!,
    token: fields["token"]!
  }
}

const unreachable = (pid: number): Cause => {
  try {
    process.kill(pid, 0)
    return "refused"
  } catch (error) {
    return code(error) === "ESRCH" ? "dead-owner" : "refused"
  }
}

/** What an answer is so far: whole, hopeless, or null for not yet. */
const judge = (bytes: Buffer): Attempt | null => {
  const malformed: Attempt = { kind: "final", cause: "malformed" }
  if (bytes.length >= 5 && bytes.toString("latin1", 0, 5) !== "HTTP/") return malformed
  const end = bytes.indexOf("\r\n\r\n")
  if ((end < 0 ? bytes.length : end) > maxHeadBytes) return malformed
  if (end < 0) return null
  const head = bytes.toString("latin1", 0, end + 2)
  const status = /^HTTP\/1\.[01] ([0-9]{3})[ \r]/.exec(head)?.[1]
  if (status === undefined) return malformed
  if (status !== "200") return { kind: "final", cause: causeOfStatus(Number(status)) }
  const length = Number(/\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n/i.exec(head)?.[1] ?? Number.NaN)
  if (!(length <= maxAnswerBytes)) return malformed
  const body = bytes.subarray(end + 4, end + 4 + length)
  if (body.length < length) return null
  return isAnswerBody(body.toString("latin1")) ? { kind: "answer", body } : malformed
}

const attempt = (payload: Buffer, done: (result: Attempt) => void): void => {
  const record = readRecord()
  if (typeof record === "string") return done({ kind: "early", cause: record })
  let connected = false
  let answer = Buffer.alloc(0)
  const socket = net.connect(record.socketPath)
  const end = (result: Attempt): void => {
    socket.removeAllListeners()
    socket.on("error", () => undefined)
    socket.destroy()
    done(result)
  }
  socket.on("connect", () => {
    connected = true
    socket.write(
      `POST ${hookPath(event as Event)} HTTP/1.1\r\nhost: holdfast\r\nconnection: close\r\n` +
        `authorization: Bearer ${record.token}\r\n${relayHeader}: ${record.relayId}\r\n` +
        `${generationHeader}: ${record.generation}\r\ncontent-type: application/json\r\n` +
        `content-length: ${payload.length}\r\n\r\n`
    )
    socket.write(payload)
  })
  socket.on("data", (chunk: Buffer) => {
    answer = Buffer.concat([answer, chunk])
    const result = judge(answer)
    if (result !== null) end(result)
  })
  socket.on("error", (error) => {
    if (connected) return end({ kind: "lost" })
    end(code(error) === "EAGAIN" ? { kind: "busy" } : { kind: "early", cause: unreachable(record.pid) })
  })
  socket.on("close", () => end({ kind: "lost" }))
}

const ask = (payload: Buffer, accepted: boolean): void =>
  attempt(payload, (result) => {
    if (result.kind === "answer") sayAll(result.body)
    if (result.kind === "final" || (result.kind === "early" && !accepted)) fail(result.cause)
    setTimeout(ask, retryDelayMs, payload, accepted || result.kind === "lost")
  })

if (
  (process.argv.length !== 6 && (process.argv.length !== 7 || wait !== "wait")) ||
  !(hookEventNames as ReadonlyArray<string | undefined>).includes(event) ||
  !/^(?:closed|open)(?::[a-z-]+)*$/.test(direction ?? "") ||
  !/^[0-9]{1,9}$/.test(deadlineMs ?? "")
)
  leave(64, "Holdfast: usage: hookRelay RECORD EVENT closed|open[:CAUSE...] DEADLINE_MS [wait]\n")

// Node's own start counts too: the provider's clock began before it.
setTimeout(() => fail("timeout"), Math.max(0, Number(deadlineMs) - aliveMs()))
// Who waits for a successor takes a gateway that is not there for one that was lost.
readPayload((payload) => ask(payload, wait !== undefined))
