/**
 * A scope of the user's own systemd: a cgroup that is delegated to whatever is started in it, so that the kernel ends each
 * run's as a whole. systemd-run(1) asks for it and becomes the program: the pid, the parent and the mark stay.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { findCgroups } from "./cgroups.ts"
import { findOnPath } from "./programFile.ts"

export type ScopeFound =
  /** `program`: systemd-run; `runtime`: where it finds the user's systemd. */
  | { readonly _tag: "Available"; readonly program: string; readonly runtime: string }
  | { readonly _tag: "NotNeeded" }
  | { readonly _tag: "NotAvailable"; readonly problem: string }

const notAvailable = (problem: string): ScopeFound => ({ _tag: "NotAvailable", problem })

/** Looks and asks nobody: whether systemd gives one is seen when it is asked for one. */
export const findScope = Effect.fnUntraced(
  function* (environment: Readonly<Record<string, string | undefined>>): Effect.fn.Return<ScopeFound> {
    if ((yield* findCgroups)._tag === "Delegated") return { _tag: "NotNeeded" }
    const runtime = environment["XDG_RUNTIME_DIR"]
    if (runtime === undefined || !path.isAbsolute(runtime)) return notAvailable("XDG_RUNTIME_DIR is not set")
    const socket = fs.statSync(`${runtime}/systemd/private`, { throwIfNoEntry: false })
    if (socket?.isSocket() !== true) return notAvailable("this user has no systemd of its own")
    const program = findOnPath("systemd-run", environment["PATH"] ?? "")
    return program === undefined
      ? notAvailable("no systemd-run on PATH")
      : { _tag: "Available", program, runtime }
  },
  Effect.catchDefect(() => Effect.succeed(notAvailable("XDG_RUNTIME_DIR cannot be looked at")))
)

/** `unit`: a name that no other scope of the user has. It is forgotten with its last process, however that ends. */
export const inScope = (
  { program }: Extract<ScopeFound, { readonly _tag: "Available" }>,
  unit: string,
  command: { readonly program: string; readonly args: ReadonlyArray<string> }
): { readonly program: string; readonly args: ReadonlyArray<string> } => ({
  program,
  args: [
    "--user",
    "--scope",
    "--quiet",
    "--collect",
    `--unit=${unit}`,
    "--property=Delegate=yes",
    "--",
    command.program,
    ...command.args
  ]
})
