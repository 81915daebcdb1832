/** ShellFinding: what is said of one command, and the words in which the rules say it. */
import { argumentsOf, type ShellCommand } from "./ShellCommand.ts"
import {
  type Concern,
  concernOfFilling,
  concernOfTree,
  concernOfWrite,
  strongest,
  type Text,
  type Whereabouts
} from "./ShellPath.ts"

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

/** Deletes everything below. */
export const deletesTrees = (paths: ReadonlyArray<Text>, at: Whereabouts): Findings =>
  each(
    paths,
    (path) => concernOfTree(path, at),
    "it deletes a whole directory that is not a part of the project, or not known"
  )

/** Puts files below these whose names are not known. */
export const fills = (directories: ReadonlyArray<Text>, at: Whereabouts): Findings =>
  each(directories, (directory) => concernOfFilling(directory, at), writesElsewhere)

/** An index with a command in it, which arithmetic runs however it was quoted before: `a[$(date)]`. */
export const commandIndex = /\w\[(?:[^[\]]|\[[^[\]]*\])*(?:\$\(|`)/

/** All findings to one; among equals the first. */
export const worst = (findings: Findings): Finding | null =>
  findings.find(({ verdict }) => verdict === "deny") ?? findings[0] ?? null

/** The sub-command. */
export const sub = (words: ReadonlyArray<Text>): Text =>
  words.find((word) => word === null || !word.startsWith("-")) ?? ""

/** Asked about, but for these sub-commands. */
export const askBut =
  (reason: string, harmless: RegExp): Rule =>
  (words) => {
    const name = sub(words)
    return askIf(name === null || !harmless.test(name), reason)
  }

/** Options of a program that take a value. */
export interface Valued {
  readonly short?: string
  readonly long?: ReadonlyArray<string>
}

/** Asked about for these, said as the first words that are no options. `options`: those that take a value. */
export const askFor =
  (reason: string, options: Valued, ...phrases: ReadonlyArray<string>): Rule =>
  (words) => {
    const said = argumentsOf(words, options).operands.filter((word) => word?.startsWith("+") !== true)
    return askIf(
      !words.includes("--dry-run") &&
        phrases.some((phrase) => phrase.split(" ").every((part, index) => said[index] === part)),
      reason
    )
  }

export const always =
  (reason: string): Rule =>
  () =>
    ask(reason)
