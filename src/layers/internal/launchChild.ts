/** Starts a supervised child on a terminal or on pipes, or says why it cannot be started; nothing is left behind then. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { findCommand } from "./childCommand.ts"
import { launchPipes } from "./pipeChild.ts"
import { launchPty } from "./ptyChild.ts"
import type { ChildCalls, ChildFailed, ChildSpec, RunChild } from "./runChild.ts"

export const launchChild = Effect.fnUntraced(function* (
  spec: ChildSpec,
  calls: ChildCalls
): Effect.fn.Return<RunChild, ChildFailed, Scope.Scope> {
  const command = yield* findCommand(spec)
  return yield* spec.pty === null ? launchPipes(spec, command) : launchPty(spec, command, spec.pty, calls)
})
