/** The policy that comes with Holdfast: command lines followed as a shell would, and the files that a patch writes. */
import type { HookEvent } from "../../services/HookEvent.ts"
import type { Verdict } from "../../services/Policy.ts"
import type { Text, Whereabouts } from "../../services/ShellPath.ts"
import { judgePaths, worst } from "../../services/ShellRules.ts"
import { readShell } from "./shellWalk.ts"

/** What the pack says of an event; null where it has nothing to say. */
export const shellVerdict =
  (home: Text) =>
  ({ call, cwd }: HookEvent): Verdict | null => {
    if (call === null) return null
    const at: Pick<Whereabouts, "home" | "project"> = { home, project: cwd }
    const findings =
      call.kind === "shell"
        ? readShell(call.command ?? "", at)
        : call.kind === "patch"
          ? judgePaths(call.paths, { ...at, cwd })
          : []
    const found = worst(findings)
    return found === null ? null : { _tag: found.verdict, reason: found.reason }
  }
