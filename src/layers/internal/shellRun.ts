/** What one command with its words does in its shell: what it is, what it runs in turn, and what it changes for the next. */
import { parse, type ParsedScript } from "unbash"
import { type Follow, programOf, type ShellCommand } from "../../services/ShellCommand.ts"
import { follow, perhapsRun } from "../../services/ShellFollow.ts"
import type { Whereabouts } from "../../services/ShellPath.ts"
import { isShell } from "../../services/ShellRunners.ts"
import { type Finding, judge } from "../../services/ShellRules.ts"
import { commandIndex } from "../../services/ShellFinding.ts"
import { applyBuiltin, type Body, copyOf, join, type Named, setVariable, type Shell } from "./shellState.ts"

export const unseen = (reason: string): Finding => ({ verdict: "ask", reason })

/** As good as refused, to the next such program around it. */
export const suspected = unseen("a program that nobody here knows is given a command that would be refused")

/** The walk that a command is met on. */
export interface Walk {
  readonly at: Pick<Whereabouts, "home" | "project">
  readonly note: (...found: ReadonlyArray<Finding>) => void
  readonly deeper: (what: () => void) => void
  /** Scripts that run when their shell ends. */
  readonly traps: Array<{ readonly text: string; readonly shell: Shell }>
  /** Whether something would be, or `asked` about; nothing of it is kept. */
  readonly isRefused: (what: () => void, asked: boolean) => boolean
  /** Another command; false: there were too many, and it is not followed. */
  readonly counts: () => boolean
  readonly readScript: (script: ParsedScript, shell: Shell) => void
  readonly readBody: (body: Body, shell: Shell) => void
}

/** `plain`: by a program, which knows no functions. */
export type Run = (command: ShellCommand, shell: Shell, plain?: boolean) => void

export const runIn = ({ at, note, traps, isRefused, deeper, counts, readScript, readBody }: Walk): Run => {
  const readFollow = (one: Follow, from: ShellCommand, shell: Shell): void => {
    switch (one._tag) {
      case "command":
        return run(one.command, shell, true)
      case "unknown":
        return note(unseen(one.what))
      case "raised":
        return note(unseen("it runs with the rights of somebody else"))
      case "script": {
        const { text } = one
        if (text === null) return note(unseen("a shell would run a text that is not known before"))
        if (programOf(from) === "trap") traps.push({ text, shell })
        if (one.here) return deeper(() => readScript(parse(text), shell))
        const inner: Shell = { ...copyOf(shell), input: from.input }
        for (const [name, value] of Object.entries(from.variables)) setVariable(inner, name, value)
        const [self = "sh", ...parameters] = one.args
        inner.self = self
        inner.parameters = parameters
        return deeper(() => readScript(parse(text), inner))
      }
    }
  }

  const callNamed = ({ bodies, isAlias }: Named, command: ShellCommand, shell: Shell): void => {
    const ends = bodies.map((body) => {
      const inner: Shell = { ...copyOf(shell), parameters: command.words.slice(1), input: command.input }
      if (isAlias === true) inner.functions.delete(command.words[0] ?? "")
      if (command.words.some((word) => word !== null && commandIndex.test(word)))
        note(unseen("an index that runs a command"))
      deeper(() => readBody(body, inner))
      return inner
    })
    const { parameters, input } = shell
    const called = shell.functions.get(command.words[0] ?? "")
    join(shell, ends)
    if (isAlias === true && called !== undefined) shell.functions.set(command.words[0] ?? "", called)
    shell.parameters = parameters
    shell.input = input
  }

  const run: Run = (command, shell, plain = false) => {
    // What the walk met was counted there.
    if (plain && !counts()) return
    const named = plain ? undefined : shell.functions.get(command.words[0] ?? "")
    if (named !== undefined) callNamed(named, command, shell)
    if (named?.certain === true) return
    note(...judge(command, at))
    deeper(() => {
      const runs = follow(command)
      for (const one of runs) readFollow(one, command, shell)
      const perhaps = runs.length > 0 ? [] : perhapsRun(command)
      if (
        perhaps.some((one) => isRefused(() => run(one, copyOf(shell), true), isShell(programOf(one) ?? "")))
      )
        note(suspected)
    })
    applyBuiltin(command, shell, at.home)
  }

  return run
}
