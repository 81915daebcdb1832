/** An OpenClaw-shaped plugin as a policy: registered once, its handlers run one by one within the plugin's budget. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import type { HookEvent } from "../../services/HookEvent.ts"
import { shown } from "../../services/AuditLog.ts"
import {
  afterEvent,
  beforeEvent,
  begin,
  contextOf,
  type Handler,
  inOrder,
  isPluginEvent,
  maxHandlers,
  nextState,
  verdictOf
} from "../../services/Plugin.ts"
import {
  defaultModuleTimeoutMs,
  PolicyLoadError,
  type PluginPolicy,
  type Voice
} from "../../services/Policy.ts"
import { askModule, importTrusted, type LoadedModule, textOf } from "./policyModule.ts"

/** Lines of a plugin that wait to be logged; a plugin that logs faster loses the oldest. */
const maxLines = 64
const maxLineLength = 512
/** Calls whose beginning is remembered, so that their end can say how long they took. */
const maxUnderway = 1_024

const levels = { debug: "Debug", info: "Info", warn: "Warn", error: "Error" } as const
type Level = keyof typeof levels

interface Line {
  readonly level: Level
  readonly text: string
}

const logged = ({ level, text }: Line): Effect.Effect<void> => Effect.logWithLevel(levels[level])(text)

/** `register` as it is exported: by name, as the default, or by the default. */
const registerOf = (exported: Readonly<Record<string, unknown>>): ((api: unknown) => unknown) | null => {
  const { default: main } = exported
  const found = [
    exported["register"],
    main,
    typeof main === "object" && main !== null
      ? (main as Readonly<Record<string, unknown>>)["register"]
      : undefined
  ].find((one) => typeof one === "function")
  return found === undefined ? null : (found as (api: unknown) => unknown).bind(main)
}

const idOf = (exported: Readonly<Record<string, unknown>>, otherwise: string): string => {
  const main = exported["default"]
  const named = [
    exported["id"],
    typeof main === "object" && main !== null && "id" in main ? main.id : undefined
  ]
  return named.find((id): id is string => typeof id === "string" && id !== "") ?? otherwise
}

export const loadPlugin = Effect.fnUntraced(function* (
  policy: PluginPolicy,
  order: number,
  directory: string
) {
  const refused = (problem: string) => new PolicyLoadError({ policy: policy.plugin, problem })
  const { exported, digest } = yield* importTrusted(policy.plugin, directory)
  const register = registerOf(exported)
  if (register === null) return yield* refused("it exports no register(api)")
  const id = idOf(exported, policy.plugin)
  const lines = yield* Queue.sliding<Line>(maxLines)
  yield* Queue.take(lines).pipe(Effect.flatMap(logged), Effect.forever, Effect.forkScoped)
  const say = (level: Level, text: unknown): void =>
    void Queue.offerUnsafe(lines, { level, text: `plugin ${id}: ${shown(textOf(text), maxLineLength)}` })
  const handlers: Array<Handler> = []
  let open = true
  const on = (event: unknown, run: unknown, options?: { readonly priority?: unknown }): void => {
    if (!open) return say("warn", "a handler that was registered after register() had ended is ignored")
    if (!isPluginEvent(event))
      return say("warn", `Holdfast has no hook ${String(event).slice(0, 64)}; its handler is ignored`)
    if (typeof run !== "function") throw new TypeError(`the handler of ${event} is no function`)
    if (handlers.length >= maxHandlers) throw new RangeError(`more than ${maxHandlers} handlers`)
    const priority = typeof options?.priority === "number" ? options.priority : 0
    handlers.push({ event, priority, run: run as Handler["run"] })
  }
  const api = {
    id,
    name: id,
    pluginConfig: structuredClone(policy.config ?? {}),
    config: {},
    logger: {
      debug: (text: unknown) => say("debug", text),
      info: (text: unknown) => say("info", text),
      warn: (text: unknown) => say("warn", text),
      error: (text: unknown) => say("error", text)
    },
    on
  }
  // What else OpenClaw lets a plugin register has no place here, and is no reason not to load its hooks.
  const lenient = new Proxy(api, {
    get: (target, name, self) =>
      typeof name === "string" && /^register[A-Z]/.test(name)
        ? () => say("warn", `${name} has no meaning here and is ignored`)
        : (Reflect.get(target, name, self) as unknown)
  })
  yield* Effect.tryPromise({
    try: async () => register(lenient),
    catch: (cause) => refused(`its register() failed with ${textOf(cause)}`)
  }).pipe(
    Effect.timeoutOrElse({
      duration: defaultModuleTimeoutMs,
      orElse: () => Effect.fail(refused(`its register() took more than ${defaultModuleTimeoutMs} ms`))
    })
  )
  open = false
  if (handlers.length === 0) return yield* refused("it registers no before_tool_call and no after_tool_call")
  const loaded: Omit<LoadedModule, "decide"> = {
    policy: id,
    digest,
    priority: policy.priority ?? 0,
    order,
    timeoutMs: policy.timeoutMs ?? defaultModuleTimeoutMs,
    onFailure: policy.onFailure ?? "deny"
  }
  return { ...loaded, ask: asking(loaded, handlers) }
})

const asking = (loaded: Omit<LoadedModule, "decide">, handlers: ReadonlyArray<Handler>) => {
  const before = inOrder(handlers, "before_tool_call")
  const after = inOrder(handlers, "after_tool_call")
  const begun = new Map<string, number>()

  const decideBefore = async (event: HookEvent, signal: AbortSignal) => {
    let state = begin(event)
    for (const { run } of before) {
      const next = nextState(
        state,
        await run(beforeEvent(event, structuredClone(state.params)), contextOf(event))
      )
      if (Result.isFailure(next)) return "nonsense"
      state = next.success
      if (state.blocked !== null || signal.aborted) break
    }
    return verdictOf(state)
  }

  const tellAfter = (tookMs: number | null) => async (event: HookEvent, signal: AbortSignal) => {
    for (const { run } of after) {
      await run(afterEvent(event, tookMs), contextOf(event))
      if (signal.aborted) break
    }
    return { _tag: "abstain" }
  }

  return (event: HookEvent): Effect.Effect<Voice | null> =>
    Effect.gen(function* () {
      if (event.call === null) return null
      const now = yield* Clock.currentTimeMillis
      const { id } = event.callId
      if (event.event === "pre_tool_use") {
        if (begun.size >= maxUnderway) begun.delete(begun.keys().next().value!)
        begun.set(id, now)
        return before.length === 0 ? null : yield* askModule({ ...loaded, decide: decideBefore }, event)
      }
      if (event.event !== "post_tool_use") return null
      const start = begun.get(id)
      begun.delete(id)
      if (after.length === 0) return null
      return yield* askModule(
        { ...loaded, decide: tellAfter(start === undefined ? null : now - start) },
        event
      )
    })
}
