/** What a child gets of this process's environment: by name, so that secrets stay where they are. */

import { shellVariables } from "../../services/RunCommand.ts"

/** What a program needs to work as in its user's shell; whose it is does not differ between shells. */
const passedVariables = ["USER", "LOGNAME", ...shellVariables]

/** Those that are set, and the ones named beside them. */
export const passed = (
  environment: Readonly<Record<string, string | undefined>>,
  more: ReadonlyArray<string> = []
): Readonly<Record<string, string>> =>
  Object.fromEntries(
    [...passedVariables, ...more].flatMap((name) => {
      const value = environment[name]
      return value === undefined ? [] : [[name, value] as const]
    })
  )
