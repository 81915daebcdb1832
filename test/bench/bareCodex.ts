/**
 * A codex app-server by hand: a spawn, three pipes, lines. No Effect and nobody in between, which makes it the floor of
 * everything that goes through the lease.
 */
import * as childProcess from "node:child_process"
import * as readline from "node:readline"
import { codexConfig } from "../../src/services/ScriptedProvider.ts"
import type { Place } from "../support/gateway.ts"

/** A request that hangs has failed; the slowest takes a hundredth of it on two busy cores. */
const requestTimeoutMs = 30_000

/** As the gateway starts it: nothing asked of the network. */
const launchArguments = [
  "app-server",
  "--listen",
  "stdio://",
  ...[
    "features.plugins=false",
    "features.apps=false",
    "analytics.enabled=false",
    "check_for_update_on_startup=false",
    "thread_unload_delay_secs=0"
  ].flatMap((setting) => ["-c", setting])
]

interface Message {
  readonly id?: number
  readonly method?: string
  readonly result?: unknown
  readonly error?: { readonly message: string }
}

export interface BareCodex {
  readonly pid: number
  readonly request: (method: string, params: unknown) => Promise<unknown>
  /** Kills it and waits for its exit; how long that took, in ms. */
  readonly kill: () => Promise<number>
}

export interface Launch {
  readonly binary: string
  readonly codexHome: string
  readonly env: Readonly<Record<string, string>>
}

/** What a bare one of that place needs. */
export const launchOf = ({ codexHome, env, home, tmp }: Place): Launch => ({
  binary: env["HOLDFAST_CODEX"]!,
  codexHome,
  env: { PATH: env["PATH"]!, HOME: home, TMPDIR: tmp, CODEX_HOME: codexHome }
})

/** Up past its answer to `initialize`. */
export const startBare = async ({ binary, codexHome, env }: Launch): Promise<BareCodex> => {
  const child = childProcess.spawn(binary, launchArguments, {
    cwd: codexHome,
    env,
    stdio: ["pipe", "pipe", "ignore"]
  })
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()))
  const waiting = new Map<number, { readonly resolve: (value: unknown) => void; readonly reject: Reject }>()
  const failAll = (problem: string): void => {
    for (const { reject } of waiting.values()) reject(new Error(problem))
    waiting.clear()
  }
  child.on("error", (error) => failAll(`codex cannot be started: ${error.message}`))
  child.once("exit", () => failAll("codex ended"))
  child.stdin.on("error", () => undefined)
  readline.createInterface({ input: child.stdout }).on("line", (line) => {
    const { error, id, method, result } = JSON.parse(line) as Message
    if (id === undefined || method !== undefined) return
    const waiter = waiting.get(id)
    waiting.delete(id)
    if (error) waiter?.reject(new Error(error.message))
    else waiter?.resolve(result)
  })
  let nextId = 0
  const request = (method: string, params: unknown): Promise<unknown> => {
    const id = ++nextId
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${method}: no answer`)), requestTimeoutMs)
      const done =
        <A>(then: (value: A) => void) =>
        (value: A): void => {
          clearTimeout(timer)
          then(value)
        }
      waiting.set(id, { resolve: done(resolve), reject: done(reject) })
      child.stdin.write(`${JSON.stringify({ id, method, params })}\n`)
    })
  }
  const kill = async (): Promise<number> => {
    const from = performance.now()
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGKILL")
      await exited
    }
    return performance.now() - from
  }
  try {
    await request("initialize", {
      clientInfo: { name: "bench", title: null, version: "1" },
      capabilities: { experimentalApi: true, requestAttestation: false }
    })
  } catch (error) {
    await kill()
    throw error
  }
  child.stdin.write(`${JSON.stringify({ method: "initialized" })}\n`)
  return { pid: child.pid!, request, kill }
}

type Reject = (error: Error) => void

/** A thread that may run everything, asks nobody and speaks to that provider; its id. */
export const startThread = async (
  { request }: Pick<BareCodex, "request">,
  cwd: string,
  provider: string
): Promise<string> => {
  const started = await request("thread/start", threadParams(cwd, provider))
  return (started as { readonly thread: { readonly id: string } }).thread.id
}

export const threadParams = (cwd: string, provider: string) => ({
  cwd,
  approvalPolicy: "never",
  sandbox: "danger-full-access",
  model: "gpt-5.5",
  modelProvider: codexConfig(provider).model_provider,
  config: codexConfig(provider),
  ephemeral: false
})
