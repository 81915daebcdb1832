/**
 * Processes with a mark, and the vices of those that get away from other supervisors. Each lives a minute at most.
 *
 * The truth about who is left is read here from /proc, by other code than the layer under test.
 */
import * as Effect from "effect/Effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { readdirSync, readFileSync } from "node:fs"

/**
 * Starts a command and waits for its first line; it is killed with the scope, its descendants are not. `silence` comes
 * when the last process that kept its output open is gone: no scan is needed to know that, and none can miss it.
 */
export const started = (command: string, ...args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const child = spawn(command, args, { stdio: ["ignore", "pipe", "ignore"] })
      const silence = once(child.stdout, "end")
      const mute = silence.then(() => Promise.reject(new Error(`${command} ended without a word`)))
      const [chunk] = await Promise.race([once(child.stdout, "data"), mute])
      mute.catch(() => {})
      return { child, line: String(chunk).trim(), silence: Effect.promise(() => silence) }
    }),
    ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
  )

/** The same under a mark; prlimit becomes the command. */
export const marked = (mark: number, command: string, ...args: ReadonlyArray<string>) =>
  started("prlimit", `--locks=${mark}:${mark}`, "--", command, ...args)

/** One process that does nothing for a minute, and is already what it will be when its first line is read. */
export const sleeper = ["perl", "-e", '$| = 1; print "up\\n"; sleep 60'] as const

/** A sleeper without a mark in a session of its own, as any program of the user might be. */
export const bystander = Effect.acquireRelease(
  Effect.promise(async () => {
    const child = spawn("sleep", ["60"], { stdio: "ignore", detached: true })
    await once(child, "spawn")
    return child
  }),
  (child) => Effect.sync(() => child.kill("SIGKILL"))
)

export const lives = (child: ChildProcess): boolean => child.exitCode === null && child.signalCode === null

/** Numbers of the live processes that have a text in their environment. */
export const withInEnvironment = (text: string): ReadonlyArray<number> =>
  readdirSync("/proc")
    .map(Number)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, "latin1").includes(text)
      } catch {
        return false
      }
    })

/** Every process with a hard RLIMIT_LOCKS from low to high that is not a zombie. */
export const carriers = (low: number, high: number): ReadonlyArray<number> =>
  readdirSync("/proc")
    .map(Number)
    .filter((pid) => {
      try {
        const limits = readFileSync(`/proc/${pid}/limits`, "utf8")
        const hard = Number(/^Max file locks +\S+ +(\S+)/m.exec(limits)?.[1])
        const state = /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]
        return hard >= low && hard <= high && state !== "Z"
      } catch {
        return false
      }
    })

const perl = (program: string): ReadonlyArray<string> => [
  "perl",
  "-e",
  `use POSIX qw(setsid :sys_wait_h); $| = 1; my $end = time + 60; sub nap { select undef, undef, undef, $_[0] } ${program}`
]

/** Each prints a line when its tree stands. `forked` says how many processes the tree has at least. */
export const vices: Readonly<
  Record<string, { readonly command: ReadonlyArray<string>; readonly forked: number }>
> = {
  "runs in the foreground": { command: ["sh", "-c", "echo up; exec sleep 60"], forked: 1 },
  "leaves its session": { command: ["sh", "-c", "setsid sleep 60 >&- & echo up; wait"], forked: 2 },
  "leaves its session and is orphaned": { command: ["sh", "-c", "setsid sleep 60 >&- & echo up"], forked: 1 },
  "is a daemon of two forks": {
    command: ["sh", "-c", "(cd /; setsid sh -c 'sleep 60 >&- &' </dev/null) & wait; echo up"],
    forked: 1
  },
  "clears its environment": {
    command: ["env", "-i", "/bin/sh", "-c", "setsid sleep 60 >&- & echo up"],
    forked: 1
  },
  "ignores what it is asked": {
    command: ["sh", "-c", "trap '' TERM HUP INT; echo up; sleep 60"],
    forked: 2
  },
  "is stopped": {
    command:
      perl(`my $child = fork; unless ($child) { $SIG{TERM} = "IGNORE"; kill STOP => $$; sleep 60; exit }
      waitpid $child, WUNTRACED; print "up\\n"; sleep 60`),
    forked: 2
  },
  "replaces whichever of two is killed": {
    command: perl(`$SIG{TERM} = $SIG{CHLD} = "IGNORE";
      sub watch { my $peer = shift; while (time < $end) { unless (kill 0, $peer) { my $me = $$; my $new = fork;
        next unless defined $new; if ($new) { $peer = $new } else { setsid; $peer = $me } } nap .002 } exit }
      my $me = $$; my $other = fork; unless ($other) { setsid; watch($me) } print "up\\n"; watch($other)`),
    forked: 2
  },
  "moves on to a new number every 2 ms": {
    command: perl(`$SIG{TERM} = $SIG{CHLD} = "IGNORE"; print "up\\n";
      while (time < $end) { my $new = fork; exit if $new; setsid; nap .002 }`),
    forked: 1
  },
  "moves on as fast as it can": {
    command: perl(`$SIG{TERM} = $SIG{CHLD} = "IGNORE"; print "up\\n";
      while (time < $end) { my $new = fork; exit if $new; setsid }`),
    forked: 1
  },
  "forks 120 in sessions of their own": {
    command:
      perl(`$SIG{TERM} = $SIG{CHLD} = "IGNORE"; for (1 .. 120) { unless (fork) { setsid; sleep 60; exit } }
      print "up\\n"; sleep 60`),
    forked: 121
  },
  "goes on forking while it is killed": {
    command: perl(`$SIG{TERM} = $SIG{CHLD} = "IGNORE"; my $n = 0; print "up\\n";
      while ($n++ < 1500) { unless (fork) { setsid; sleep 60; exit } } sleep 60`),
    forked: 1
  }
}
