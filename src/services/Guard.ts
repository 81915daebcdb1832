/**
 * Guard: whether the hooks of each provider are known to be in force, told from the rows of the audit log as they fall.
 *
 * A hook of a call that was decided proves it. A call that ran without a decision, a hook that failed at its provider, a canary
 * that never came and a hook that fell open break it; what broke stays broken until a canary, asked for by an operator, is met.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { hasFallenOpen } from "./AuditChain.ts"
import type { AuditEntry, AuditRow } from "./AuditLog.ts"
import { type ToolCall, ProviderName } from "./HookEvent.ts"
import { nodeOfRelay } from "./NodeCalls.ts"
import type { Decision } from "./Policy.ts"

export const GuardState = Schema.Union([
  /** Nothing has been seen of it. */
  Schema.TaggedStruct("unproven", {}),
  /** `at`: epoch milliseconds of the last proof. */
  Schema.TaggedStruct("proven", { at: Schema.Finite }),
  Schema.TaggedStruct("broken", { at: Schema.Finite, reason: Schema.String })
])
export type GuardState = typeof GuardState.Type

export const Guards = Schema.Record(ProviderName, GuardState)
export type Guards = typeof Guards.Type

export const unproven: Guards = { codex: { _tag: "unproven" }, claude: { _tag: "unproven" } }

/** What `holdfast doctor --guard` has an agent call: it is refused always, by whatever policy, and does nothing where it runs. */
const canaryCommand = "holdfast guard-canary"
export const canaryPolicy = "guard-canary"

export const canaryCall = (nonce: string): string => `${canaryCommand} ${nonce}`

/** The word of a canary call; null for any other call. */
export const canaryNonce = (call: ToolCall | null): string | null => {
  const command = call?.command?.trim()
  return command?.startsWith(canaryCommand) === true ? command.slice(canaryCommand.length).trim() : null
}

export const canaryDecision: Decision = {
  verdict: { _tag: "deny" },
  policy: canaryPolicy,
  reason: "Holdfast: this is the canary of `holdfast doctor --guard`, refused as it should be",
  votes: []
}

const isProvider = Schema.is(ProviderName)

/** How the run of a relay is called that `relays open` holds. */
export const byHand = "by-hand-"

/** After one more row. One whose provider nobody knows counts for all of them. */
export const nextGuards = (guards: Guards, row: AuditRow): Guards => {
  // A hook on a node says nothing of the agents of this machine.
  if (nodeOfRelay(row.relayId) !== null) return guards
  const isAbout = (name: ProviderName): boolean => name === row.provider || !isProvider(row.provider)
  const codex = isAbout("codex") ? nextGuard(guards.codex, row) : guards.codex
  const claude = isAbout("claude") ? nextGuard(guards.claude, row) : guards.claude
  return codex === guards.codex && claude === guards.claude ? guards : { codex, claude }
}

const proofs: ReadonlySet<string> = new Set(["pre_tool_use", "session_start", "user_prompt_submit"])

const nextGuard = (guard: GuardState, row: AuditRow): GuardState => {
  switch (row.source) {
    case "incident":
      return { _tag: "broken", at: row.at, reason: row.reason }
    case "canary":
      return { _tag: "proven", at: row.at }
    case "client":
      return hasFallenOpen(row)
        ? { _tag: "broken", at: row.at, reason: `a hook fell open: ${row.reason}` }
        : guard
    case "approval":
      return guard
    case "hook": {
      // A relay that somebody opened by hand says nothing of an agent.
      if (row.runId.startsWith(byHand) || row.provider === "unknown") return guard
      if (row.policy === "unanswered")
        return hasFallenOpen(row)
          ? { _tag: "broken", at: row.at, reason: "a hook went away undecided, and fell open" }
          : guard
      return guard._tag !== "broken" && proofs.has(row.event) ? { _tag: "proven", at: row.at } : guard
    }
  }
}

/** The row of a proof. */
export const proofOf = (provider: ProviderName, epoch: string): AuditEntry => ({
  epoch,
  relayId: "guard",
  runId: "guard",
  provider,
  source: "canary",
  event: "pre_tool_use",
  sessionId: null,
  agentId: null,
  spawnedBy: null,
  callId: "guard",
  tool: null,
  subject: "",
  verdict: "deny",
  policy: canaryPolicy,
  reason: "an agent's hooks asked about the canary of `holdfast doctor --guard`",
  votes: [],
  tookMs: 0
})

/** How long a canary may take from being asked for to being met. */
export const canaryMs = 120_000

export interface GuardShape {
  readonly states: Effect.Effect<Guards>
  /** A word that one canary call, made soon, mends a guard with. */
  readonly arm: Effect.Effect<string>
  /** The hook of a provider asked about a canary with this word; whether it was one of ours. */
  readonly met: (provider: ProviderName, nonce: string) => Effect.Effect<boolean>
  /** The hooks of a provider were seen to answer as they must. */
  readonly mend: (provider: ProviderName) => Effect.Effect<void>
}

/** Where nobody keeps it, nothing is known. */
export class Guard extends Context.Reference<GuardShape>("holdfast/Guard", {
  defaultValue: (): GuardShape => ({
    states: Effect.succeed(unproven),
    arm: Effect.succeed(""),
    met: () => Effect.succeed(false),
    mend: () => Effect.void
  })
}) {}
