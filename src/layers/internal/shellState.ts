/** What a shell knows at a point of a command line: its variables, functions, directory, parameters and input. */
import { type CommandNode, type CompoundCommand, type CompoundList, parse, type ParsedScript } from "unbash"
import type { Input, ShellCommand } from "../../services/ShellCommand.ts"
import { resolvePath, type Text } from "../../services/ShellPath.ts"
import { unknownPart } from "./shellWords.ts"

export type Body = CompoundCommand | CompoundList | CommandNode | ParsedScript

/**
 * What a name may call. Where it is not `certain`, the program of that name may be meant as well; an alias calls itself never.
 */
export interface Named {
  readonly bodies: ReadonlyArray<Body>
  readonly certain: boolean
  readonly isAlias?: boolean
}

export interface Shell {
  readonly variables: Map<string, Text>
  /** Of a variable that is an array: its elements; null: not known. */
  readonly arrays: Map<string, ReadonlyArray<Text> | null>
  /** What a variable that is not known has if nobody gave it a value before: `${x:=build}`. */
  readonly guesses: Map<string, Text>
  readonly functions: Map<string, Named>
  cwd: Text
  /** `$0` and the others. */
  self: Text
  parameters: ReadonlyArray<Text> | null
  /** What its commands read where they say nothing else. */
  input: Input
}

export const copyOf = (shell: Shell): Shell => ({
  ...shell,
  variables: new Map(shell.variables),
  arrays: new Map(shell.arrays),
  guesses: new Map(shell.guesses),
  functions: new Map(shell.functions)
})

/** A variable and nothing else, whatever it was before. */
export const setVariable = (shell: Shell, name: string, text: Text): void => {
  shell.variables.set(name, text)
  shell.arrays.delete(name)
  shell.guesses.delete(name)
}

/** After one of two ways: what they do not agree on is unknown. */
export const join = (into: Shell, ways: ReadonlyArray<Shell>): void => {
  const names = new Set(ways.flatMap(({ variables }) => [...variables.keys()]))
  for (const name of names) {
    const values = new Set(ways.map(({ variables }) => (variables.has(name) ? variables.get(name)! : null)))
    into.variables.set(name, values.size === 1 ? [...values][0]! : null)
  }
  for (const name of new Set(ways.flatMap(({ arrays }) => [...arrays.keys()]))) {
    const values = new Set(ways.map(({ arrays }) => arrays.get(name)))
    into.arrays.set(name, values.size === 1 ? ([...values][0] ?? null) : null)
  }
  for (const { guesses } of ways) for (const [name, text] of guesses) into.guesses.set(name, text)
  for (const name of new Set(ways.flatMap(({ functions }) => [...functions.keys()]))) {
    const found = ways.map(({ functions }) => functions.get(name))
    into.functions.set(name, {
      bodies: [...new Set(found.flatMap((one) => one?.bodies ?? []))],
      certain: found.every((one) => one?.certain === true),
      isAlias: found.some((one) => one?.isAlias === true)
    })
  }
  const directories = new Set(ways.map(({ cwd }) => cwd))
  into.cwd = directories.size === 1 ? [...directories][0]! : null
}

/** Commands of the shell that set variables by words like assignments. */
export const declares: ReadonlySet<string> = new Set(["export", "declare", "local", "readonly", "typeset"])

const assignment = /^([A-Za-z_]\w*)\+?=([^]*)$/

const forgetVariables = (shell: Shell): void => {
  for (const name of shell.variables.keys()) if (name !== "HOME") setVariable(shell, name, null)
}

/** What a command of the shell itself changes for those that follow. */
export const applyBuiltin = ({ words, input, variables }: ShellCommand, shell: Shell, home: Text): void => {
  const rest = words.slice(1).filter((word) => word === null || !/^-./.test(word))
  const name = words[0] ?? ""
  if (declares.has(name)) {
    const refers = words.some((word) => /^-\w*n/.test(word ?? ""))
    for (const word of rest) {
      const found = word === null ? null : assignment.exec(word)
      if (found !== null)
        setVariable(shell, found[1]!, refers || found[2]!.includes(unknownPart) ? null : found[2]!)
      if (refers && found !== null) setVariable(shell, found[2]!, null)
    }
    return
  }
  switch (name) {
    case "cd": {
      const to = rest.length === 0 ? home : words[1] === "-" ? null : rest[0]!
      const searched =
        (shell.variables.has("CDPATH") || "CDPATH" in variables) && to !== null && !/^[./]/.test(to)
      shell.cwd = searched ? null : resolvePath(to, shell)
      break
    }
    case "pushd":
      shell.cwd = rest.length === 0 ? null : resolvePath(rest[0]!, shell)
      break
    case "popd":
      shell.cwd = null
      break
    case "read":
    case "mapfile":
    case "readarray":
    case "getopts":
      for (const variable of ["REPLY", "MAPFILE", "OPTARG"]) setVariable(shell, variable, null)
      for (const variable of rest) if (variable !== null) setVariable(shell, variable, null)
      break
    case "printf": {
      const [, option, variable] = words
      if (option === "-v" && typeof variable === "string") setVariable(shell, variable, null)
      else if (option?.startsWith("-v") === true) setVariable(shell, option.slice(2), null)
      break
    }
    case "unset":
      for (const variable of rest) {
        if (variable === null) continue
        shell.functions.delete(variable)
        setVariable(shell, variable, "")
      }
      break
    case "alias":
      for (const word of rest) {
        const [, alias, text] = /^([^=]+)=([^]*)$/.exec(word ?? "") ?? []
        if (alias !== undefined && text?.includes(unknownPart) === false)
          shell.functions.set(alias, { bodies: [parse(`${text} "$@"`)], certain: false, isAlias: true })
      }
      break
    case "set": {
      const end = words.indexOf("--")
      const begin = words.findIndex((word, index) => index > 0 && (word === null || !/^[-+]/.test(word)))
      if (end > 0) shell.parameters = words.slice(end + 1)
      else if (begin > 0) shell.parameters = words.slice(begin)
      break
    }
    case "shift":
      shell.parameters = shell.parameters?.slice(Number(words[1] ?? 1) || 0) ?? null
      break
    // What a file of commands sets, nobody has read.
    case "source":
    case ".":
      forgetVariables(shell)
      break
    case "exec":
      if (words.length === 1) shell.input = input
  }
}
