/** ShellFinding: what is said of one command, and the words in which the rules say it. */
import type { ShellCommand } from "./ShellCommand.ts"
import { type Concern, concernOfWrite, strongest, type Text, type Whereabouts } from "./ShellPath.ts"

/** One reason to refuse or to ask, in words that hold nothing of the command. */
export interface Finding {
  readonly verdict: "deny" | "ask"
  readonly reason: string
}

export type Findings = ReadonlyArray<Finding>

/** What a program comes to with these words behind its name. */
export type Rule = (words: ReadonlyArray<Text>, at: Whereabouts, command: ShellCommand) => Findings

export const none: Findings = []
export const ask = (reason: string): Findings => [{ verdict: "ask", reason }]
export const deny = (reason: string): Findings => [{ verdict: "deny", reason }]
export const raise = (concern: Concern, reason: string): Findings =>
  concern === null ? none : [{ verdict: concern, reason }]
export const askIf = (is: boolean, reason: string): Findings => (is ? ask(reason) : none)

export const each = <A>(all: ReadonlyArray<A>, concern: (one: A) => Concern, reason: string): Findings =>
  raise(strongest(...all.map(concern)), reason)

export const writesElsewhere = "it writes where a command may not without being asked about"

export const writes = (paths: ReadonlyArray<Text>, at: Whereabouts): Findings =>
  each(paths, (path) => concernOfWrite(path, at), writesElsewhere)

/** All findings to one; among equals the first. */
export const worst = (findings: Findings): Finding | null =>
  findings.find(({ verdict }) => verdict === "deny") ?? findings[0] ?? null
