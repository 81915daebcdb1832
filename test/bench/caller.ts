/**
 * Asks a server on a Unix socket over node:net itself, so that what is measured is the server's and the kernel's time and
 * as little as possible of a client's. A helper of its own: nobody else's garbage is collected in its numbers.
 */
import * as net from "node:net"
import { serve } from "./serve.ts"

export interface Target {
  readonly socketPath: string
  /** The whole request, head and body. */
  readonly request: string
}

/** Where the first whole answer in `text` ends; 0 when there is none yet. */
const endOfAnswer = (text: string): number => {
  const head = text.indexOf("\r\n\r\n")
  if (head < 0) return 0
  const length = Number(/\r\ncontent-length: *(\d+)/i.exec(text.slice(0, head))?.[1] ?? 0)
  return text.length >= head + 4 + length ? head + 4 + length : 0
}

const isDecision = (text: string): boolean => text.startsWith("HTTP/1.1 200")

/** One question on a connection of its own: from connecting until the whole answer is there. */
const askOnce = ({ socketPath, request }: Target): Promise<number> =>
  new Promise((resolve, reject) => {
    let text = ""
    let ms = Number.NaN
    const from = performance.now()
    const socket = net.connect(socketPath)
    socket.write(request)
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1")
      if (Number.isNaN(ms) && endOfAnswer(text) > 0) {
        ms = performance.now() - from
        socket.end()
      }
    })
    socket.on("error", reject)
    socket.on("close", () =>
      isDecision(text) && !Number.isNaN(ms) ? resolve(ms) : reject(new Error(`answered: ${text}`))
    )
  })

/** One client that asks again and again on one connection, until `next` says that it is enough. */
const keepAsking = ({ socketPath, request }: Target, next: () => boolean): Promise<void> =>
  new Promise((resolve, reject) => {
    let text = ""
    const socket = net.connect(socketPath)
    const ask = (): void => {
      if (next()) socket.write(request)
      else socket.end()
    }
    socket.on("connect", ask)
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1")
      const end = endOfAnswer(text)
      if (end === 0) return
      if (!isDecision(text)) return void socket.destroy(new Error(`answered: ${text}`))
      text = text.slice(end)
      ask()
    })
    socket.on("error", reject)
    socket.on("close", () => resolve())
  })

const handlers = {
  latency: async ({
    targets,
    rounds,
    warmup
  }: {
    readonly targets: ReadonlyArray<Target>
    readonly rounds: number
    readonly warmup: number
  }) => {
    const ms = targets.map(() => [] as Array<number>)
    for (let round = 0; round < warmup + rounds; round++) {
      for (let turn = 0; turn < targets.length; turn++) {
        const index = (round + turn) % targets.length
        const took = await askOnce(targets[index]!)
        if (round >= warmup) ms[index]!.push(took)
      }
    }
    return ms
  },

  load: async ({
    target,
    clients,
    questions
  }: {
    readonly target: Target
    readonly clients: number
    readonly questions: number
  }) => {
    let left = questions
    const from = performance.now()
    await Promise.all(Array.from({ length: clients }, () => keepAsking(target, () => left-- > 0)))
    return performance.now() - from
  }
}

export type Caller = typeof handlers

serve(handlers)
