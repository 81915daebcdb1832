/** What of containment this machine has, and whether anybody carries a mark that nobody vouches for. Ends nobody. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { DatabaseSync } from "node:sqlite"
import { belongingOf, type Holder } from "../../services/Containment.ts"
import { type Check, passed, warned } from "../../services/Doctor.ts"
import type { InstanceMark, Marked } from "../../services/InstanceMark.ts"
import type { Identity, ProcessIdentity } from "../../services/ProcessIdentity.ts"
import type { Availability, SyscallTable } from "../../services/Syscalls.ts"
import { findCgroups } from "./cgroups.ts"
import { errorCode } from "./errorCode.ts"
import { findScope } from "./systemdScope.ts"

/** Of one platform alone, and nothing that another lacks. */
const isElsewhere = (availability: Availability): boolean =>
  !availability.available && availability.problem.endsWith(" has no such call")

export const syscallsCheck = ({ available }: Pick<SyscallTable, "available">): Check => {
  const what = "system calls"
  const all = Object.entries(available).filter(([, one]) => !isElsewhere(one))
  const missing = all.flatMap(([name, one]) => (one.available ? [] : [{ name, ...one }]))
  if (missing.length === 0) return passed(what, `by koffi: ${all.map(([name]) => name).join(", ")}`)
  return warned(
    what,
    missing.map(({ name, problem, fallback }) => `no ${name} (${problem}): ${fallback}`).join("; "),
    "install with optional files, so that koffi loads; what is done instead is said"
  )
}

export const terminalCheck: Effect.Effect<Check> = Effect.tryPromise({
  try: async () => {
    await import("node-pty")
    fs.closeSync(fs.openSync("/dev/ptmx", fs.constants.O_RDWR | fs.constants.O_NOCTTY))
    return passed("terminals", "node-pty loads, and the system gives terminals")
  },
  catch: (error) => errorCode(error) ?? "unknown error"
}).pipe(
  Effect.catch((code) =>
    Effect.succeed(
      warned("terminals", `no run can have one (${code})`, "install node-pty's binary, or mount devpts")
    )
  )
)

/** Never more than a remark: the mark ends a run's tree without it. */
export const cgroupCheck: Effect.Effect<Check> = Effect.map(findCgroups, (found) =>
  passed(
    "cgroup",
    found._tag === "Delegated"
      ? `delegated: ${found.directory}`
      : `not delegated: ${found.problem}; a run's tree is ended by its mark`
  )
)

/** In which the keeper is started. */
export const scopeCheck = (environment: Readonly<Record<string, string | undefined>>): Effect.Effect<Check> =>
  Effect.map(findScope(environment), (found) =>
    passed(
      "systemd scope",
      found._tag === "Available"
        ? "the keeper starts in one of its own, and each run in a cgroup inside"
        : found._tag === "NotNeeded"
          ? "not needed: the cgroup is delegated already"
          : `none: ${found.problem}; a run's tree is ended by its mark`
    )
  )

const everything = { low: 0, high: Number.MAX_SAFE_INTEGER }
/** A line names so many processes. */
const namedMost = 8

const named = (members: ReadonlyArray<Marked>): string =>
  [
    ...members
      .slice(0, namedMost)
      .map(({ identity, command, mark }) => `${identity.pid} (${command}, ${mark})`),
    ...(members.length > namedMost ? [`and ${members.length - namedMost} more`] : [])
  ].join(", ")

const who = "boot_id, pid_namespace, pid, start_token, mark_low, mark_high"

/** The ranges of epochs and keepers that are not known to be over and swept. Read beside a gateway that writes. */
const ranges = (
  file: string
): ReadonlyArray<{ readonly owner: Identity; readonly range: Holder["range"] }> => {
  if (!fs.existsSync(file)) return []
  const database = new DatabaseSync(file, { readOnly: true })
  try {
    const keepers = database.prepare("SELECT 1 FROM sqlite_master WHERE name = 'keepers'").get() !== undefined
    return database
      .prepare(
        `SELECT ${who} FROM epochs WHERE mark_low IS NOT NULL AND (ended_at IS NULL OR swept_at IS NULL)${
          keepers
            ? ` UNION ALL SELECT ${who} FROM keepers WHERE mark_low IS NOT NULL AND pid IS NOT NULL AND ended_at IS NULL`
            : ""
        }`
      )
      .all()
      .map((row) => ({
        owner: {
          bootId: String(row["boot_id"]),
          pidNamespace: String(row["pid_namespace"]),
          pid: Number(row["pid"]),
          startToken: String(row["start_token"])
        },
        range: { low: Number(row["mark_low"]), high: Number(row["mark_high"]) }
      }))
  } finally {
    database.close()
  }
}

export const marksCheck = Effect.fnUntraced(
  function* (
    database: string,
    marks: Pick<InstanceMark["Service"], "members">,
    identities: Pick<ProcessIdentity["Service"], "verdict">
  ): Effect.fn.Return<Check> {
    const what = "marked processes"
    const open = yield* Effect.sync(() => ranges(database))
    const holders = yield* Effect.forEach(open, ({ owner, range }) =>
      Effect.map(identities.verdict(owner), (liveness): Holder => ({ range, liveness, open: null }))
    )
    const members = yield* marks.members(everything)
    const of = (belonging: string) => members.filter(({ mark }) => belongingOf(mark, holders) === belonging)
    const [orphaned, unknown] = [of("orphaned"), of("unknown")]
    if (orphaned.length > 0)
      return warned(
        what,
        `left by a gateway that is gone: ${named(orphaned)}`,
        "`holdfast up` ends them at its start"
      )
    return unknown.length > 0
      ? warned(
          what,
          `their mark is of no gateway of this state directory: ${named(unknown)}`,
          "nothing, if another gateway of yours runs; else look at them, and end what is not wanted"
        )
      : passed(what, `${members.length}, and a living gateway vouches for each`)
  },
  Effect.catchDefect((defect) =>
    Effect.succeed(
      warned(
        "marked processes",
        `the ledger cannot be read (${errorCode(defect) ?? "unknown error"})`,
        "stop the gateway and look at the state directory"
      )
    )
  )
)
