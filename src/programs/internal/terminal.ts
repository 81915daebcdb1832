/** The operator's end of a program: lines on stdout, one clear line on stderr when something is wrong, the designed codes. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Predicate from "effect/Predicate"
import type * as Runtime from "effect/Runtime"
import * as CliError from "effect/cli/CliError"
import * as CliOutput from "effect/cli/CliOutput"
import { RunFailed } from "../../services/AgentDriver.ts"
import type { AppServerFailure } from "../../services/AppServerFailure.ts"
import { member } from "../../services/Report.ts"
import { problemOf } from "./surroundings.ts"

/** The design's exit codes; a signal's is 128 and its number. */
export const exitCodes = {
  done: 0,
  failed: 1,
  usage: 2,
  noGateway: 3,
  notFound: 4,
  timedOut: 124,
  interrupted: 130
}

export const print = (line: string): Effect.Effect<void> =>
  Effect.sync(() => {
    process.stdout.write(`${line}\n`)
  })

/** A reader that has seen enough (`| head`) is no fault of ours. */
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(exitCodes.done)
})

export const complain = (line: string): void => {
  process.stderr.write(`holdfast: ${line}\n`)
}

/** Help stays the library's; a mistake is one line that names it and where to read on. */
export const presenter: CliOutput.Presenter = {
  present: (event) =>
    event._tag === "InvalidInvocation"
      ? Effect.sync(() => {
          const problems = event.errors.map((error) => error.message.replace(/\s*\n\s*/g, " ")).join("; ")
          complain(`${problems}. See: ${event.commandPath.join(" ")} --help`)
        })
      : CliOutput.defaultPresenter.present(event)
}

const codes: ReadonlyMap<unknown, number> = new Map([
  ["ApprovalAmbiguous", exitCodes.usage],
  ["NodeAmbiguous", exitCodes.usage],
  ["NodeNameMalformed", exitCodes.usage],
  ["ConfigKeyRefused", exitCodes.usage],
  ["NotATerminal", exitCodes.usage],
  ["NothingToSend", exitCodes.usage],
  ["OneScope", exitCodes.usage],
  ["RunAmbiguous", exitCodes.usage],
  ["RunSpecRefused", exitCodes.usage],
  ["UnknownKey", exitCodes.usage],
  ["GatewayGone", exitCodes.noGateway],
  ["NoGateway", exitCodes.noGateway],
  ["ApprovalNotFound", exitCodes.notFound],
  ["NoSuchRow", exitCodes.notFound],
  ["NodeNotFound", exitCodes.notFound],
  ["RunNotFound", exitCodes.notFound],
  ["ParentNotFound", exitCodes.notFound],
  ["ThreadNotFound", exitCodes.notFound],
  ["GatewayUnresponsive", exitCodes.timedOut],
  ["LeaseTimeout", exitCodes.timedOut],
  ["RunEndTimeout", exitCodes.timedOut],
  ["RunStillGoing", exitCodes.timedOut],
  ["StopTimeout", exitCodes.timedOut],
  ["TurnTimeout", exitCodes.timedOut]
])

/** A run that failed below is known by the app-server's failure, where it is one. */
const failureOf = (error: unknown): AppServerFailure | null =>
  error instanceof RunFailed ? error.failure : null

const tagOf = (error: unknown): unknown =>
  failureOf(error)?._tag ?? (Object(error) as { readonly _tag?: unknown })._tag

const codeOf = (error: unknown): number => {
  if (CliError.isCliError(error))
    return error._tag === "ShowHelp" && error.errors.length === 0 ? exitCodes.done : exitCodes.usage
  if (Predicate.isTagged(error, "ExitWith")) return (error as unknown as ExitWith).code
  return codes.get(tagOf(error)) ?? exitCodes.failed
}

/** An outcome that was already printed and only needs its code. */
export class ExitWith {
  readonly _tag = "ExitWith"
  readonly code: number
  constructor(code: number) {
    this.code = code
  }
}

export const teardown: Runtime.Teardown = (exit, onExit) => {
  if (Exit.isSuccess(exit)) return onExit(exitCodes.done)
  if (Cause.hasInterruptsOnly(exit.cause)) return onExit(exitCodes.interrupted)
  const error = Cause.squash(exit.cause)
  const failure = failureOf(error)
  if (!CliError.isCliError(error) && !Predicate.isTagged(error, "ExitWith"))
    complain(`${problemOf(exit)}${failure === null ? "" : ` ${member(failure)}`}`)
  onExit(codeOf(error))
}
