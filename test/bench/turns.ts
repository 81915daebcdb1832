/**
 * What governance costs a tool call: the same scripted turn on the same codex, through a gateway and without one, in turns.
 *
 * A call's time is that from one request of the turn at the provider to the next: the answer read, the call decided, run and
 * reported. Both app-servers are up and warm; every turn has a thread of its own.
 */
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import * as crypto from "node:crypto"
import * as readline from "node:readline"
import { hooksTable } from "../../src/services/HookProviderCodex.ts"
import { codexConfig } from "../../src/services/ScriptedProvider.ts"
import { codexBinary } from "../support/codex.ts"
import { ask, decisionsOf, endOf, makePlace, type Place, startGateway, turn } from "../support/gateway.ts"
import { BenchFailed, child, ensure, startHelper } from "./helper.ts"
import type { Provider } from "./provider.ts"
import { type Measured, median, row } from "./report.ts"

const model = "gpt-5.5"
const calls = 10
const prompt = `@@SCRIPT${JSON.stringify([
  ...Array.from({ length: calls }, () => ({ fn: "exec_command", args: { cmd: "true" } })),
  { say: "done" }
])}@@`

/** As the gateway starts it: nothing asked of the network. */
const launchArguments = [
  "app-server",
  "--listen",
  "stdio://",
  ...[
    "features.plugins=false",
    "features.apps=false",
    "analytics.enabled=false",
    "check_for_update_on_startup=false"
  ].flatMap((setting) => ["-c", setting])
]

/** A hook of one's own, trusted. */
const hooksOf = (command: string) => {
  const { table, trust } = hooksTable({ pre_tool_use: command }, 30_000)
  const state = trust.map(({ key, subject }) => [
    key,
    { enabled: true, trusted_hash: `sha256:${crypto.hash("sha256", subject)}` }
  ])
  return { features: { hooks: true }, hooks: { ...table, state: Object.fromEntries(state) } }
}

interface Message {
  readonly id?: number
  readonly method?: string
  readonly params?: { readonly threadId?: string; readonly turn?: { readonly status?: string } }
  readonly result?: { readonly thread?: { readonly id: string } }
  readonly error?: { readonly message: string }
}

/** An app-server without anybody between: nothing asks, nothing decides, the commands run as they come. */
const ungoverned = Effect.fnUntraced(function* (place: Place, url: string) {
  const server = yield* child(() =>
    childProcess.spawn(codexBinary, launchArguments, {
      cwd: place.codexHome,
      env: { PATH: place.env["PATH"], HOME: place.home, TMPDIR: place.tmp, CODEX_HOME: place.codexHome },
      stdio: ["pipe", "pipe", "ignore"]
    })
  )
  let nextId = 0
  const listeners = new Set<(message: Message) => void>()
  readline.createInterface({ input: server.stdout }).on("line", (line) => {
    const message = JSON.parse(line) as Message
    for (const listener of listeners) listener(message)
  })
  const awaiting = <A>(pick: (message: Message) => A | undefined, send?: () => void) =>
    Effect.callback<A>((resume) => {
      const listener = (message: Message): void => {
        const found = pick(message)
        if (found === undefined) return
        listeners.delete(listener)
        resume(Effect.succeed(found))
      }
      listeners.add(listener)
      send?.()
      return Effect.sync(() => listeners.delete(listener))
    })
  const request = (method: string, params: unknown) => {
    const id = ++nextId
    return awaiting(
      (message) => (message.id === id && message.method === undefined ? message : undefined),
      () => server.stdin.write(`${JSON.stringify({ id, method, params })}\n`)
    ).pipe(
      Effect.flatMap(({ error, result }) =>
        error
          ? Effect.fail(new BenchFailed({ problem: `${method}: ${error.message}` }))
          : Effect.succeed(result)
      )
    )
  }
  yield* request("initialize", {
    clientInfo: { name: "bench", title: null, version: "1" },
    capabilities: { experimentalApi: true, requestAttestation: false }
  })
  server.stdin.write(`${JSON.stringify({ method: "initialized" })}\n`)
  return Effect.fnUntraced(function* (hookCommand: string | null) {
    const started = yield* request("thread/start", {
      cwd: place.workspace,
      approvalPolicy: "never",
      sandbox: "danger-full-access",
      model,
      modelProvider: codexConfig(url).model_provider,
      config: { ...codexConfig(url), ...(hookCommand === null ? {} : hooksOf(hookCommand)) },
      ephemeral: false
    })
    const threadId = started!.thread!.id
    const [status] = yield* Effect.all(
      [
        awaiting((message) =>
          message.method === "turn/completed" && message.params?.threadId === threadId
            ? (message.params.turn?.status ?? "unknown")
            : undefined
        ),
        request("turn/start", { threadId, input: [{ type: "text", text: prompt, text_elements: [] }] })
      ],
      { concurrency: 2 }
    )
    yield* ensure(status === "completed", `the ungoverned turn ended as ${status}`)
    yield* request("thread/unsubscribe", { threadId })
    return threadId
  })
})

const governed = Effect.fnUntraced(function* (place: Place, url: string) {
  const events = yield* ask(place, turn(place, { provider: url, prompt, model }))
  yield* ensure(endOf(events) === "completed", `the governed turn ended as ${endOf(events)}`)
  const byHook = decisionsOf(events).filter((decision) => decision === "hook allow Bash: true").length
  yield* ensure(byHook === calls, `${byHook} of ${calls} calls were decided by the hook`)
  return events.flatMap((event) => (event._tag === "governed" ? [event.threadId] : []))[0]!
})

export const perCall = (quick: boolean) =>
  Effect.gen(function* () {
    const rounds = quick ? 3 : 9
    const provider = yield* startHelper<Provider>(new URL("./provider.ts", import.meta.url))
    const url = yield* provider("url", undefined)
    const [place, directPlace] = [yield* makePlace(), yield* makePlace()]
    yield* startGateway(place)
    const direct = yield* ungoverned(directPlace, url)
    const ways = { governed: governed(place, url), direct: direct(null), hooked: direct("/bin/true") }
    const names = ["governed", "direct", "hooked"] as const
    const ms = { governed: [] as Array<number>, direct: [] as Array<number>, hooked: [] as Array<number> }
    for (let round = -1; round < rounds; round++) {
      for (const way of round % 2 === 0 ? names : names.toReversed()) {
        const threadId = yield* ways[way]
        const times = yield* provider("arrivals", threadId)
        yield* ensure(
          times.length === calls + 1,
          `a turn of ${calls} calls made ${times.length} requests at the provider`
        )
        if (round >= 0) ms[way].push(...times.slice(1).map((time, index) => time - times[index]!))
      }
    }
    const against = (floor: "direct" | "hooked") => ({
      unit: "ms",
      value: median(ms.governed),
      floor: median(ms[floor]),
      n: ms.governed.length
    })
    return {
      rows: [
        row({
          id: "turn-call",
          what: "one tool call of a governed Codex turn, p50",
          ...against("direct"),
          floorIs: "the same turn without a gateway",
          budget: { on: "difference", atMost: 8 }
        }),
        row({
          id: "turn-call-hook",
          what: "the same",
          ...against("hooked"),
          floorIs: "the same turn without a gateway and with /bin/true as its hook"
        })
      ]
    } satisfies Measured
  })
