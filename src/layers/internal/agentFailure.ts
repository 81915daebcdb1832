/** The failure of a part below a run, as the run's own: at which stage, what it was, and whether trying again may help. */
import * as Schema from "effect/Schema"
import { AgentRunError, RunFailed } from "../../services/AgentDriver.ts"
import { AppServerFailure, isRetryable } from "../../services/AppServerFailure.ts"

const isFailure = Schema.is(AppServerFailure)
export const isAgentRunError = Schema.is(AgentRunError)

export const failedAt =
  (stage: RunFailed["stage"]) =>
  (error: { readonly _tag: string; readonly message: string }): RunFailed => {
    const failure = isFailure(error) ? error : null
    return new RunFailed({
      stage,
      detail: error.message,
      failure,
      retryable: failure === null ? error._tag === "ThreadInUse" : isRetryable(failure)
    })
  }
