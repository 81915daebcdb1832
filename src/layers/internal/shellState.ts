/** What a shell knows at a point of a command line: its variables, functions, directory and parameters. */
import type { CommandNode, CompoundCommand, CompoundList } from "unbash"
import type { ShellCommand } from "../../services/ShellCommand.ts"
import { resolvePath, type Text } from "../../services/ShellPath.ts"

export type Body = CompoundCommand | CompoundList | CommandNode

export interface Shell {
  readonly variables: Map<string, Text>
  readonly functions: Map<string, Body>
  cwd: Text
  parameters: ReadonlyArray<Text> | null
}

export const copyOf = ({ variables, functions, cwd, parameters }: Shell): Shell => ({
  variables: new Map(variables),
  functions: new Map(functions),
  cwd,
  parameters
})

/** After one of two ways: what they do not agree on is unknown. */
export const join = (into: Shell, ways: ReadonlyArray<Shell>): void => {
  const names = new Set(ways.flatMap(({ variables }) => [...variables.keys()]))
  for (const name of names) {
    const values = new Set(ways.map(({ variables }) => (variables.has(name) ? variables.get(name)! : null)))
    into.variables.set(name, values.size === 1 ? [...values][0]! : null)
  }
  for (const { functions } of ways) for (const [name, body] of functions) into.functions.set(name, body)
  const directories = new Set(ways.map(({ cwd }) => cwd))
  into.cwd = directories.size === 1 ? [...directories][0]! : null
}

/** What a command of the shell itself changes for those that follow. */
export const applyBuiltin = ({ words }: ShellCommand, shell: Shell, home: Text): void => {
  const rest = words.slice(1).filter((word) => word === null || !/^-./.test(word))
  switch (words[0]) {
    case "cd":
      shell.cwd = words[1] === "-" ? null : rest.length === 0 ? home : resolvePath(rest[0]!, shell)
      break
    case "pushd":
    case "popd":
      shell.cwd = null
      break
    case "read":
    case "mapfile":
    case "readarray":
    case "getopts":
      for (const name of rest) if (name !== null) shell.variables.set(name, null)
      break
    case "printf":
      if (words[1] === "-v" && typeof words[2] === "string") shell.variables.set(words[2], null)
      break
    case "unset":
      for (const name of rest) if (name !== null) shell.functions.delete(name)
      for (const name of rest) if (name !== null) shell.variables.set(name, "")
      break
    case "set":
      if (words.includes("--")) shell.parameters = words.slice(words.indexOf("--") + 1)
      break
    case "shift":
      shell.parameters = shell.parameters?.slice(1) ?? null
  }
}
