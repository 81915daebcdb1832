/**
 * HookWire: the plain words between a hook client and the gateway: names, causes, limits and what a client says when it
 * got no answer.
 *
 * It imports nothing, so that the bundled Node client starts without Effect. The perl and sh clients repeat these words;
 * one suite compares what they print with what is written here.
 */

export const hookEventNames = [
  "pre_tool_use",
  "permission_request",
  "post_tool_use",
  "user_prompt_submit",
  "session_start",
  "session_end",
  "subagent_start",
  "subagent_stop",
  "pre_compact",
  "post_compact",
  "interrupt",
  "stop"
] as const
type EventName = (typeof hookEventNames)[number]

export const failureCauses = [
  "not-found",
  "stale-generation",
  "dead-owner",
  "expired",
  "timeout",
  "refused",
  "too-large",
  "forbidden",
  "malformed"
] as const
type Cause = (typeof failureCauses)[number]

/** Sentence fragments for `Holdfast ... : <explanation>`; each says what to do next. None needs escaping in JSON. */
export const explainCause: Readonly<Record<Cause, string>> = {
  "not-found": "no relay record was found; is `holdfast up` running and the run still open?",
  "stale-generation": "the relay was replaced by a newer one; start the agent's turn again",
  "dead-owner": "the gateway that owned this relay is gone; start it with `holdfast up`",
  expired: "the relay has expired; start the agent's turn again",
  timeout: "no answer came before the deadline; look at `holdfast status`",
  refused: "the gateway does not accept connections; look at `holdfast status`",
  "too-large": "the hook's payload is over the size limit",
  forbidden: "the relay refused the caller's credentials; run `holdfast doctor`",
  malformed: "the hook's payload or the relay's answer was not what the protocol asks for"
}

/** POST /v1/hooks/EVENT with `authorization: Bearer TOKEN`, `x-holdfast-relay: ID`, `x-holdfast-generation: N`. */
export const hookPath = (event: EventName): string => `/v1/hooks/${event}`
export const relayHeader = "x-holdfast-relay"
export const generationHeader = "x-holdfast-generation"

/** The cause class of each refusal; a client maps any other status to `malformed`. */
export const statusOfCause = {
  malformed: 400,
  forbidden: 403,
  "not-found": 404,
  timeout: 408,
  "stale-generation": 410,
  "too-large": 413,
  refused: 503
} as const satisfies Partial<Record<Cause, number>>

export const causeOfStatus = (status: number): Cause =>
  failureCauses.find((cause) => (statusOfCause as Partial<Record<Cause, number>>)[cause] === status) ??
  "malformed"

/** Payloads above this are not sent; the server's own limit is the same. */
export const maxPayloadBytes = 5_000_000

/** Answers above this are not believed. */
export const maxAnswerBytes = 1_000_000

/** As BridgeStore writes them; a longer file is no record. */
export const maxRecordBytes = 4096

/** Beside the directory of records: a line for each hook that a client had to decide by itself. */
export const spoolName = "undecided.log"
/** Some seven hundred lines; what comes after them is not noted until a gateway has taken them. */
export const maxSpoolBytes = 65_536

/** The head of an answer has five short lines; one above this is not an answer. */
export const maxHeadBytes = 16_384

/** Between two attempts after an accepted connection was lost. */
export const retryDelayMs = 50

/** The two events whose refusal has a JSON form; Codex and Claude Code take the same. */
export type DeniableEvent = "pre_tool_use" | "permission_request"

/** The exact stdout that refuses a call. An empty reason would let the call run, so there is none. */
export const denyText = (event: DeniableEvent, reason: string): string =>
  JSON.stringify({
    hookSpecificOutput:
      event === "pre_tool_use"
        ? {
            hookEventName: "PreToolUse",
            permissionDecision: "deny",
            permissionDecisionReason: reason.trim() || "Holdfast: refused"
          }
        : {
            hookEventName: "PermissionRequest",
            decision: { behavior: "deny", message: reason.trim() || "Holdfast: refused" }
          }
  })

/** Before these an agent waits, and acts on the answer; the others only report. Any text, since rows carry foreign ones. */
export const isBlocking = (event: string): event is "pre_tool_use" | "permission_request" =>
  event === "pre_tool_use" || event === "permission_request"

export interface ClientAnswer {
  readonly stdout: string
  readonly stderr: string
  readonly exitCode: 0 | 2
}

/** What a client prints, and how it ends, when it got no decision. */
export const failureAnswer = (event: EventName, direction: "closed" | "open", cause: Cause): ClientAnswer => {
  const reason = `Holdfast: ${explainCause[cause]} [${cause}]`
  if (direction === "open") return { stdout: "", stderr: "", exitCode: 0 }
  return isBlocking(event)
    ? { stdout: denyText(event, reason), stderr: "", exitCode: 0 }
    : { stdout: "", stderr: `${reason}\n`, exitCode: 2 }
}

/** Providers run a tool when a hook's stdout is not JSON, so anything but an object or nothing is not passed on. */
export const isAnswerBody = (body: string): boolean => /^(\{[^]*\}\n?)?$/.test(body)
