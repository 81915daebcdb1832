/** `holdfast claude -- ARGS`: the user's own Claude Code, governed, as a run in the foreground. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import { ControlClient } from "../../layers/ControlClient.ts"
import { defaultDetachKeys, parseDetachKeys } from "../../services/Attachment.ts"
import { claudeVariables } from "../../services/ClaudeTerms.ts"
import { parseName, parseVariable, shellsOwn } from "../../services/RunCommand.ts"
import { cookieVariable } from "../../services/RunLedger.ts"
import { Json } from "./answers.ts"
import { isTerminal, windowSize } from "./device.ts"
import { answered, oneGateway } from "./operator.ts"
import { foregroundOnTerminal } from "./runAttach.ts"
import { foregroundOnPipes } from "./runFollow.ts"

const detachKeys = Result.getOrThrow(parseDetachKeys(defaultDetachKeys))

export const claude = Command.make(
  "claude",
  {
    name: Flag.String("name").pipe(Flag.optional, Flag.withDescription("How to call the run")),
    env: Flag.String("env").pipe(
      Flag.withAlias("e"),
      Flag.between(0, 1024),
      Flag.withDescription("NAME=VALUE for it, or NAME for the value it has here (repeatable)")
    ),
    args: Argument.String("args").pipe(
      Argument.variadic(),
      Argument.withDescription("Claude Code's own arguments")
    )
  },
  ({ name, env, args }) =>
    Effect.gen(function* () {
      const json = yield* Json
      const onTerminal = isTerminal() && !json
      const called = Option.isNone(name) ? null : yield* Effect.fromResult(parseName(name.value))
      const given = yield* Effect.forEach(env, (text) => Effect.fromResult(parseVariable(text, process.env)))
      const run = yield* oneGateway(
        Effect.flatMap(ControlClient, (client) =>
          answered(
            client.StartClaude({
              request: {
                args,
                cwd: process.cwd(),
                name: called,
                pty: onTerminal ? windowSize() : null,
                env: Object.fromEntries(given.flatMap(Option.toArray)),
                spawnedBy: process.env[cookieVariable] ?? null
              },
              variables: { ...shellsOwn(process.env), ...claudeVariables(process.env) }
            })
          )
        )
      )
      if (onTerminal) return yield* foregroundOnTerminal(run, detachKeys)
      return yield* foregroundOnPipes(run, json)
    })
).pipe(
  Command.withDescription("Run Claude Code with every tool call decided here; its arguments behind `--`"),
  Command.withExamples([
    { command: "holdfast claude", description: "On this terminal" },
    { command: 'holdfast claude -- -p "fix the tests"', description: "Without one; exits as it does" }
  ])
)
