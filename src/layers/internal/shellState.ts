/** What a shell knows at a point of a command line: its variables, functions, directory, parameters and input. */
import type { CommandNode, CompoundCommand, CompoundList } from "unbash"
import type { Input, ShellCommand } from "../../services/ShellCommand.ts"
import { resolvePath, type Text } from "../../services/ShellPath.ts"

export type Body = CompoundCommand | CompoundList | CommandNode

/** What a name may call. Where it is not `certain`, the program of that name may be meant as well. */
export interface Named {
  readonly bodies: ReadonlyArray<Body>
  readonly certain: boolean
}

export interface Shell {
  readonly variables: Map<string, Text>
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
  functions: new Map(shell.functions)
})

/** After one of two ways: what they do not agree on is unknown. */
export const join = (into: Shell, ways: ReadonlyArray<Shell>): void => {
  const names = new Set(ways.flatMap(({ variables }) => [...variables.keys()]))
  for (const name of names) {
    const values = new Set(ways.map(({ variables }) => (variables.has(name) ? variables.get(name)! : null)))
    into.variables.set(name, values.size === 1 ? [...values][0]! : null)
  }
  for (const name of new Set(ways.flatMap(({ functions }) => [...functions.keys()]))) {
    const found = ways.map(({ functions }) => functions.get(name))
    into.functions.set(name, {
      bodies: [...new Set(found.flatMap((one) => one?.bodies ?? []))],
      certain: found.every((one) => one?.certain === true)
    })
  }
  const directories = new Set(ways.map(({ cwd }) => cwd))
  into.cwd = directories.size === 1 ? [...directories][0]! : null
}

/** Commands of the shell that set variables by words like assignments. */
export const declares: ReadonlySet<string> = new Set(["export", "declare", "local", "readonly", "typeset"])

const assignment = /^([A-Za-z_]\w*)\+?=([^]*)$/

const forgetVariables = (shell: Shell): void => {
  for (const name of shell.variables.keys()) if (name !== "HOME") shell.variables.set(name, null)
}

/** What a command of the shell itself changes for those that follow. */
export const applyBuiltin = ({ words, input, variables }: ShellCommand, shell: Shell, home: Text): void => {
  const rest = words.slice(1).filter((word) => word === null || !/^-./.test(word))
  const name = words[0] ?? ""
  if (declares.has(name)) {
    const refers = words.some((word) => /^-\w*n/.test(word ?? ""))
    for (const word of rest) {
      const found = word === null ? null : assignment.exec(word)
      if (found !== null) shell.variables.set(found[1]!, refers ? null : found[2]!)
      if (refers && found !== null) shell.variables.set(found[2]!, null)
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
      for (const variable of rest) if (variable !== null) shell.variables.set(variable, null)
      break
    case "printf": {
      const [, option, variable] = words
      if (option === "-v" && typeof variable === "string") shell.variables.set(variable, null)
      else if (option?.startsWith("-v") === true) shell.variables.set(option.slice(2), null)
      break
    }
    case "unset":
      for (const variable of rest) {
        if (variable === null) continue
        shell.functions.delete(variable)
        shell.variables.set(variable, "")
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
