/**
 * What a relay keeps and writes of one call: what it may still answer an approval with, the digests that a fence knows it
 * by, and the line an operator reads.
 */
import * as crypto from "node:crypto"
import {
  defaultDirection,
  type DirectionOverrides,
  directionFor,
  type HookEvent,
  type ToolCall
} from "../../services/HookEvent.ts"
import type { AuditRow } from "../../services/AuditLog.ts"
import { maxReasonLength } from "../../services/HookAnswer.ts"
import type { Decision, Judgement } from "../../services/Policy.ts"
import {
  type ApprovalCall,
  fencedBecause,
  type FenceState,
  type Kept,
  maxKeptInputLength,
  type Remembered,
  textOf
} from "../../services/RelayRegistry.ts"

/** What the call is finally allowed to do. */
const grantedText = (call: ToolCall, { verdict }: Judgement): string => {
  if (verdict._tag !== "rewrite") return textOf(call)
  const command = (verdict.input as { readonly command?: unknown } | null)?.command
  return typeof command === "string" ? command : textOf({ ...call, input: verdict.input })
}

export const keptOf = (event: HookEvent, decision: Decision): Kept | null => {
  if (event.call === null) return null
  const text = grantedText(event.call, decision)
  if (decision.verdict._tag === "rewrite" && text.length > maxKeptInputLength) return null
  return {
    callId: event.callId._tag === "native" ? event.callId.id : null,
    tool: event.call.tool,
    does: digestOf(text),
    decision: { ...decision, reason: decision.reason.slice(0, maxReasonLength) }
  }
}

export const digestOf = (text: string): string => crypto.hash("sha256", text, "base64url")

const doesOf = (event: HookEvent, call: ToolCall, text: string): string =>
  digestOf(`${call.tool}\0${event.cwd ?? ""}\0${text}`)

/** What it was asked to do, and what it may do where that was rewritten. */
const doingsOf = (event: HookEvent, call: ToolCall, decision: Judgement): ReadonlyArray<string> => {
  const asked = doesOf(event, call, textOf(call))
  return decision.verdict._tag === "rewrite"
    ? [asked, doesOf(event, call, grantedText(call, decision))]
    : [asked]
}

/** What a fence remembers of a call that is about to run. */
export const rememberedOf = (event: HookEvent, decision: Decision): Remembered | null => {
  if (event.call === null || defaultDirection(event.event) === "open") return null
  const id = digestOf(event.callId.id)
  return { id, does: decision.verdict._tag === "deny" ? [] : doingsOf(event, event.call, decision) }
}

/** A policy may not grant what nobody may ask for, so its decision is looked at as well. */
export const fenceDenies = (
  fence: FenceState,
  begun: number,
  event: HookEvent,
  decision: Judgement
): string | null =>
  fence.raised === 0 || event.call === null || defaultDirection(event.event) === "open"
    ? null
    : fencedBecause(
        fence,
        { id: digestOf(event.callId.id), does: doingsOf(event, event.call, decision) },
        begun
      )

/** What became of a call whose hook did not wait for the answer. */
export const unanswered = (directions: DirectionOverrides, event: HookEvent): Decision => ({
  verdict: { _tag: directionFor(directions, event.event) === "closed" ? "deny" : "allow" },
  policy: "unanswered",
  reason: "the hook went away before the policies had decided, and fell in its declared direction",
  votes: []
})

export const subjectOf = ({ call }: Pick<HookEvent, "call">): string => {
  if (call === null) return ""
  return call.command !== null && call.kind !== "patch" ? call.command : call.paths.join(" ") || textOf(call)
}

/**
 * What a row says of a call that an earlier gateway's hook decided, as far as it says it exactly: of a rewrite not what was
 * granted, and a text that was masked or cut equals none that an approval shows.
 */
export const inheritedOf = (row: AuditRow): Kept | null =>
  row.source !== "hook" || row.event !== "pre_tool_use" || row.tool === null || row.verdict === "rewrite"
    ? null
    : {
        callId: row.callId,
        tool: row.tool,
        does: digestOf(row.subject),
        decision: {
          verdict: { _tag: row.verdict },
          policy: row.policy,
          reason: row.reason,
          votes: row.votes
        }
      }

/**
 * What a hook was told by the gateway before, where its row says that exactly: its answer was lost on the way. Not of a rewrite,
 * whose input is in no row, nor of one whose text was masked or cut, which could be another call's.
 */
export const toldBefore = (row: AuditRow | null, event: HookEvent, epoch: string): Decision | null =>
  row === null ||
  row.epoch === epoch ||
  row.verdict === "rewrite" ||
  row.policy === "unanswered" ||
  row.subject !== subjectOf(event) ||
  row.tool !== event.call?.tool
    ? null
    : { verdict: { _tag: row.verdict }, policy: row.policy, reason: row.reason, votes: row.votes }

/** An approval that shows nothing of what it is about: no policy could judge it. */
export const isUnseen = ({ call }: ApprovalCall): boolean => call.kind === "patch" && call.paths.length === 0

export const unseenPatch: Decision = {
  verdict: { _tag: "deny" },
  policy: "unseen",
  reason: "Codex asked about a patch that nobody here has seen, so nobody could judge it",
  votes: []
}
