/**
 * HookRelay: the words between the program a provider starts for one hook and the gateway that answers it.
 *
 * One HTTP/1.1 POST over a Unix socket. The answer's body is exactly what the provider wants on stdout, so a client needs
 * no codec: 200 = print the body; anything else = fall in the declared direction. Every client (perl, nc, curl, Node)
 * keeps this contract, and one suite holds them all to it. The words on the wire are in HookWire.
 *
 * A client is given RECORD EVENT DIRECTION DEADLINE_MS and the payload on stdin. The direction is `closed` or `open`, with
 * the causes that fall the other way behind it: `closed:timeout:refused`. Before anything was accepted, a missing
 * record or a refused connection is the failure at once; a connection that was accepted and then lost is retried with a
 * freshly read record until the deadline, so that a restarted gateway can still answer. It prints the answer or the
 * failure's form, nothing else, and exits 0; 2 only where a failure has no form in JSON.
 *
 * With `wait` after the deadline a gateway that is not there yet is no failure: the agent outlives its gateway, and the next
 * one is on its way. Then only the deadline ends the trying.
 */
import * as Context from "effect/Context"
import * as Schema from "effect/Schema"
import { defaultDirection, type Direction, type FailureCause, type HookEventName } from "./HookEvent.ts"

/** Of what a provider gives, the fifth that is left to a busy machine to get an answer out; half a second at least. */
const spareShare = 5
const spareMs = 500

/** The client's own deadline, so that its answer is out before the provider kills the hook. */
export const clientDeadlineMs = (providerTimeoutMs: number): number =>
  providerTimeoutMs - Math.max(spareMs, Math.ceil(providerTimeoutMs / spareShare))

/** What a provider has to give for a client to wait so long; whole seconds. */
export const providerTimeoutFor = (waitMs: number): number =>
  1000 * Math.ceil(Math.max(waitMs + spareMs, (waitMs * spareShare) / (spareShare - 1)) / 1000)

/** The provider's timeout of an event's hook, in milliseconds, as configured. */
export const configuredTimeoutMs = (
  hook: { readonly timeoutMs: number; readonly decisionTimeoutMs: number },
  event: HookEventName
): number => (defaultDirection(event) === "closed" ? hook.decisionTimeoutMs : hook.timeoutMs)

/** From the gateway's last word about a hook to the client's own deadline. */
export const answerMarginMs = 500

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
  /** Causes that fall the other way. */
  readonly except?: ReadonlyArray<FailureCause>
  readonly providerTimeoutMs: number
  /** Another gateway follows one that is gone. */
  readonly waits?: boolean
}): string => {
  const call = [
    ...options.client.argv,
    options.recordPath,
    options.event,
    [options.direction, ...(options.except ?? [])].join(":"),
    String(clientDeadlineMs(options.providerTimeoutMs)),
    ...(options.waits === true ? ["wait"] : [])
  ]
    .map(shellQuote)
    .join(" ")
  return options.direction === "closed"
    ? `${call} || { echo "Holdfast: the hook client ended with status $?, so this is refused" >&2; exit 2; }`
    : `${call} || exit 0`
}

/** The most connections at once; each is one waiting tool call, and 32 parallel ones are a busy agent. */
export const maxConnections = 1024

/** A client sends its payload at once; one that takes this long to send is stuck. */
export const bodyDeadlineMs = 5000

/** What is still unwritten of the last answers when the gateway closes. */
export const closeGraceMs = 250

export class HookSocketUnusable extends Schema.TaggedError<HookSocketUnusable>()("HookSocketUnusable", {
  path: Schema.String,
  problem: Schema.Literals(["in-use", "unusable"]),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return this.problem === "in-use"
      ? `Another process answers hooks on ${this.path}. Stop it, or set HOLDFAST_HOME for a second gateway.`
      : `The hook socket ${this.path} cannot be opened. Check the directory's owner, mode and free space, or set HOLDFAST_RUNTIME_DIR.`
  }
}

/** The server, open for as long as its layer. Closing answers what waits with a refusal, in each hook's own direction. */
export class HookRelay extends Context.Service<HookRelay, { readonly socketPath: string }>()(
  "holdfast/HookRelay"
) {}
