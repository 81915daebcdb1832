/**
 * HookRelay: the words between the program a provider starts for one hook and the gateway that answers it.
 *
 * One HTTP/1.1 POST over a Unix socket. The answer's body is exactly what the provider wants on stdout, so a client needs
 * no codec: 200 = print the body; anything else = fall in the declared direction. Every client (perl, nc, curl, Node)
 * keeps this contract, and one suite holds them all to it.
 */
import type { Direction, FailureCause, HookEventName } from "./HookEvent.ts"

/** POST /v1/hooks/EVENT with `authorization: Bearer TOKEN`, `x-holdfast-relay: ID`, `x-holdfast-generation: N`. */
export const hookPath = (event: HookEventName): string => `/v1/hooks/${event}`
export const relayHeader = "x-holdfast-relay"
export const generationHeader = "x-holdfast-generation"

/** The cause class of each refusal; a client maps any other status to `malformed`. */
export const statusOfCause = {
  malformed: 400,
  forbidden: 403,
  "not-found": 404,
  timeout: 408,
  "stale-generation": 410,
  "too-large": 413
} as const satisfies Partial<Record<FailureCause, number>>

/** Payloads above this are not sent; the server's own limit is the same. */
export const maxPayloadBytes = 5_000_000

/** Answers above this are not believed. */
export const maxAnswerBytes = 1_000_000

/** Between two attempts after an accepted connection was lost. */
export const retryDelayMs = 50

/**
 * The client's own deadline: the provider's timeout less a fifth, clamped to 250..1000 ms, so that the answer is out before
 * the provider kills the hook.
 */
export const clientDeadlineMs = (providerTimeoutMs: number): number =>
  providerTimeoutMs - Math.min(1000, Math.max(250, Math.floor(providerTimeoutMs / 5)))

/** Single-quoted for sh; our paths and words cannot contain a quote after this. */
export const shellQuote = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`

export interface HookClient {
  readonly kind: "perl" | "nc" | "curl" | "node"
  /** The interpreter's absolute path and what comes before our own arguments. */
  readonly argv: ReadonlyArray<string>
}

/**
 * The command a provider runs for one event: client, record, event, direction, deadline, and around it the wrapper that
 * turns "the client could not even start" (127, a signal, any odd status) into the declared direction. Codex and Claude
 * Code run a tool whose hook is missing; they stop one whose hook exits 2 with a message.
 */
export const hookCommand = (options: {
  readonly client: HookClient
  readonly recordPath: string
  readonly event: HookEventName
  readonly direction: Direction
  readonly providerTimeoutMs: number
}): string => {
  const call = [
    ...options.client.argv,
    options.recordPath,
    options.event,
    options.direction,
    String(clientDeadlineMs(options.providerTimeoutMs))
  ]
    .map(shellQuote)
    .join(" ")
  return options.direction === "closed"
    ? `${call} || { echo "Holdfast: the hook client failed (status $?), so this is refused" >&2; exit 2; }`
    : `${call} || exit 0`
}
