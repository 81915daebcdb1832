/**
 * RunPlace: the directories that are one run's own, and how its environment names the run in a way that outlasts it.
 *
 * A cookie variable alone is lost to programs that start others with a chosen environment: Codex gives its MCP servers
 * PATH, HOME and little else. So the run is named a second time, by an entry of PATH.
 */
import { cookieVariable } from "./RunLedger.ts"
import type { Paths } from "./Settings.ts"

export interface RunPlace {
  /** Empty, and there to be named in PATH. */
  readonly bin: string
  /** Where a tmux in the run keeps its server's socket; null where the path would be too long for one. */
  readonly tmux: string | null
}

/** What tmux puts below TMUX_TMPDIR is `tmux-<uid>/<name>`: `default`, or what `-L` says; longer names than this fail. */
const tmuxNameBytes = 16

/** `maxSocketBytes`: of this platform's socket paths. */
export const runPlace = (
  { state, runtime }: Pick<Paths, "state" | "runtime">,
  runId: string,
  { uid, maxSocketBytes }: { readonly uid: number; readonly maxSocketBytes: number }
): RunPlace => {
  // Not below the state directory: of the 108 bytes that a socket's path may have, its own would take most.
  const tmux = `${runtime}/t-${runId.slice(-12)}`
  const longest = new TextEncoder().encode(`${tmux}/tmux-${uid}/`).length + tmuxNameBytes
  return { bin: `${runsBelow(state)}${runId}/bin`, tmux: longest <= maxSocketBytes ? tmux : null }
}

const runsBelow = (state: string): string => `${state}/runs/`

/** What execvp takes when there is no PATH (confstr _CS_PATH of glibc and musl). */
export const defaultPath = "/bin:/usr/bin"

/**
 * The variables by which a run is found, over those it has. The entry is the last of PATH: in front, whatever is put into
 * that directory would hide the system's own programs, and every command would be looked for there first. Entries of other
 * runs of the same state directory, which a run that starts another passes on, are taken out: who has them would be ended
 * with that run. Those of other gateways stay, since this one is inside of their runs.
 */
export const placed = (
  env: Readonly<Record<string, string>>,
  { bin, tmux }: RunPlace,
  runId: string,
  { state }: Pick<Paths, "state">
): Readonly<Record<string, string>> => {
  const before = (env["PATH"] ?? defaultPath)
    .split(":")
    .filter((entry) => !entry.startsWith(runsBelow(state)))
  return {
    ...env,
    ...(tmux === null ? {} : { TMUX_TMPDIR: tmux }),
    PATH: [...before, bin].join(":"),
    [cookieVariable]: runId
  }
}

const cookies = new RegExp(`(?<=^|\\0)${cookieVariable}=([^\\0]+)`, "g")
const searchPaths = /(?<=^|\0)PATH=([^\0]+)/g
const entry = /\/runs\/(r-[0-9A-Z]{26})\/bin$/

/** The runs that an environment names, by either; NUL-separated, as /proc shows it. */
export const runsNamedIn = (environment: string): ReadonlySet<string> =>
  new Set([
    ...[...environment.matchAll(cookies)].map(([, runId]) => runId!),
    ...[...environment.matchAll(searchPaths)].flatMap(([, path]) =>
      path!.split(":").flatMap((place) => entry.exec(place)?.[1] ?? [])
    )
  ])
