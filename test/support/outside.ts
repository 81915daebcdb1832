/**
 * Who is left, told from outside: a world of processes gets something of its own that nothing else on the machine has, and
 * whoever lives and has it is left of that world, whatever Holdfast says.
 *
 * As root that is a uid (and then the count is atomic: everything of that uid is stopped while it is counted, so that none
 * can move on unseen). Else a user and pid namespace, counted the same way. Where neither can be had, an outermost mark,
 * the place's path in an environment, or in a command.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process"
import { randomInt } from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { candidateRange } from "../../src/services/InstanceMark.ts"
import { carriers } from "./markedProcesses.ts"
import { run } from "./gateway.ts"

const repository = path.resolve(import.meta.dirname, "../..")
export const tortures = path.join(repository, "test/fixtures/torture")

const runs = (command: string, ...args: ReadonlyArray<string>): boolean =>
  spawnSync(command, args, { stdio: "ignore" }).status === 0

const asUser = (uid: number): ReadonlyArray<string> => [
  "setpriv",
  `--reuid=${uid}`,
  `--regid=${uid}`,
  "--clear-groups",
  "--"
]
const inNamespaces = ["--user", "--map-current-user", "--pid", "--fork", "--mount-proc", "--kill-child"]

/** Numbers that no distribution and no container gives to anybody. */
const uids = { lowest: 1_100_000_000, highest: 2_100_000_000 } as const
const someUid = (): number => randomInt(uids.lowest, uids.highest)

const found = ((): "uid" | "namespaces" | "signs" => {
  if (process.getuid?.() === 0) {
    const [command, ...args] = asUser(someUid())
    if (runs(command!, ...args, "perl", "-e", "1")) return "uid"
  }
  return runs("unshare", ...inNamespaces, "perl", "-e", "1") ? "namespaces" : "signs"
})()

/** By what the tests of this run know who is left; it belongs into their names. */
export const proof = { uid: "a uid", namespaces: "a pid namespace", signs: "marks, cookies and commands" }[
  found
]

export interface Left {
  readonly pid: number
  readonly command: string
}

export interface Place {
  /** Absolute, and the world's own: 0700. Short enough for a Unix socket. */
  readonly home: string
  /** What every program of the world gets. */
  readonly env: Readonly<Record<string, string>>
  readonly spawn: (
    command: string,
    args: ReadonlyArray<string>,
    env?: Readonly<Record<string, string>>
  ) => ChildProcessWithoutNullStreams
  readonly run: (
    command: string,
    args: ReadonlyArray<string>,
    env?: Readonly<Record<string, string>>
  ) => ReturnType<typeof run>
  /** By the numbers that the world itself has for its processes. */
  readonly signal: (pid: number, name: NodeJS.Signals) => Effect.Effect<unknown>
  /** How long it has waited for a processor that others had, in its life, where the kernel says. */
  readonly waitedMs: (pid: number) => Effect.Effect<number>
  /** Everybody there is, in one look that disturbs nobody. A number is the world's own. */
  readonly look: Effect.Effect<ReadonlyArray<Left>>
  /** The same while all of them stand still, where that can be had. */
  readonly count: Effect.Effect<ReadonlyArray<Left>>
}

interface Stage {
  /** Where the torturers are. */
  readonly tortures: string
  readonly dist: string
  readonly node: string
  /** The program of a file below `test/fixtures`, bundled. */
  readonly program: (name: string) => string
  /** A file there, as it is. */
  readonly file: (name: string) => string
}

const lines = (stdout: string): ReadonlyArray<Left> =>
  stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [pid, , ...command] = line.split(" ")
      return { pid: Number(pid), command: command.join(" ") }
    })

/** Of a uid, in this process: the fields of /proc/PID/status, which say whose it is also of one that hides. */
const ofUser = (uid: number): ReadonlyArray<Left> =>
  fs.readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return []
    try {
      const status = fs.readFileSync(`/proc/${name}/status`, "utf8")
      if (!new RegExp(`^Uid:\\s+${uid}\\s`, "m").test(status) || /^State:\s+[ZX]/m.test(status)) return []
      return [{ pid: Number(name), command: /^Name:\s+(.*)$/m.exec(status)?.[1] ?? "" }]
    } catch {
      return []
    }
  })

const withSign = (sign: string): ReadonlyArray<number> =>
  fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) =>
      ["environ", "cmdline"].some((file) => {
        try {
          return fs.readFileSync(`/proc/${pid}/${file}`, "latin1").includes(sign)
        } catch {
          return false
        }
      })
    )
    .map(Number)

const commandOf = (pid: number): string => {
  try {
    return fs.readFileSync(`/proc/${pid}/comm`, "utf8").trim()
  } catch {
    return ""
  }
}

const removeAll = (directory: string) => fs.rmSync(directory, { recursive: true, force: true, maxRetries: 5 })

/** Everything the programs need, where any user may read it. */
const makeStage = Effect.gen(function* () {
  const root = yield* Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "hf-zoo-"))),
    (root) => Effect.sync(() => removeAll(root))
  )
  const copy = (from: string, to: string): string => {
    const target = path.join(root, to)
    fs.cpSync(from, target, { recursive: true, dereference: true })
    spawnSync("chmod", ["-R", "a+rX", target])
    return target
  }
  fs.chmodSync(root, 0o755)
  const isReadable = (file: string): boolean => {
    if (found !== "uid") return true
    const [command, ...args] = asUser(someUid())
    return runs(command!, ...args, "test", "-r", file)
  }
  const modules = fs.realpathSync(path.join(repository, "node_modules"))
  if (isReadable(path.join(modules, "node-pty/package.json")))
    fs.symlinkSync(modules, path.join(root, "node_modules"))
  else
    for (const name of ["node-pty", "koffi", "@koromix", "@xterm", "node-addon-api"])
      if (fs.existsSync(path.join(modules, name))) copy(path.join(modules, name), `node_modules/${name}`)
  const node = isReadable(process.execPath) ? process.execPath : copy(process.execPath, "bin/node")
  const dist = copy(path.join(repository, "dist"), "dist")
  const stage: Stage = {
    tortures: copy(tortures, "torture"),
    dist,
    node,
    file: (name) => copy(path.join(repository, "test/fixtures", name), path.join("files", name)),
    program: (name) => {
      const file = path.join(root, "programs", `${name}.mjs`)
      if (fs.existsSync(file)) return file
      const bundled = spawnSync(
        process.execPath,
        [
          path.join(repository, "node_modules/rolldown/bin/cli.mjs"),
          "--platform",
          "node",
          "--logLevel",
          "warn",
          ...["koffi", "node-pty"].flatMap((name) => ["--external", name]),
          path.join(repository, `test/fixtures/${name}.ts`),
          "--dir",
          path.dirname(file),
          "--entryFileNames",
          "[name].mjs",
          "--chunkFileNames",
          "[hash].mjs"
        ],
        { encoding: "utf8" }
      )
      if (bundled.status !== 0) throw new Error(`${name} cannot be bundled: ${bundled.stderr}`)
      spawnSync("chmod", ["-R", "a+rX", path.dirname(file)])
      return file
    }
  }
  copy(path.join(repository, "test/fixtures/census.pl"), "census.pl")
  return { root, stage }
})

/** Namespaces for as long as the scope, by the prefix of a command that gets into them; all there end with it. */
const enter = Effect.fnUntraced(function* (flags: ReadonlyArray<string>) {
  const init = yield* Effect.acquireRelease(
    Effect.promise(async () => {
      const program = '$SIG{CHLD} = "IGNORE"; $| = 1; print "up\\n"; 1 while sysread STDIN, my $x, 1'
      const child = spawn("unshare", [...flags, "perl", "-e", program], {
        stdio: ["pipe", "pipe", "inherit"]
      })
      await new Promise((up) => child.stdout.once("data", up))
      return child
    }),
    (child) => Effect.sync(() => child.stdin.end())
  )
  // unshare waits outside; its child is the first process inside.
  const inside = fs.readFileSync(`/proc/${init.pid}/task/${init.pid}/children`, "utf8").trim()
  const own = flags.includes("--user") ? ["--user", "--preserve-credentials"] : []
  return ["nsenter", "--target", inside, ...own, "--pid", "--mount", "--"]
})

/** Something of its own for a world, by whose prefix a command gets into it. */
const makeEntrance = Effect.fnUntraced(function* (home: string) {
  switch (found) {
    case "uid": {
      const uid = someUid()
      fs.chownSync(home, uid, uid)
      return { prefix: asUser(uid), uid, mark: null }
    }
    case "namespaces":
      return { prefix: yield* enter(inNamespaces), uid: null, mark: null }
    case "signs": {
      const mark = candidateRange(null, Math.random())!
      return {
        prefix: ["prlimit", `--locks=${mark.high}:${mark.high}`, "--"],
        uid: null,
        mark: carriers(mark.low, mark.high).length === 0 ? mark : null
      }
    }
  }
})

const namespaceOf = (): string => fs.readlinkSync("/proc/self/ns/pid")

const makePlace = Effect.fnUntraced(function* (root: string, { node }: Stage) {
  const home = yield* Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "hf-"))),
    (home) => Effect.sync(() => removeAll(home))
  )
  const { prefix, uid, mark } = yield* makeEntrance(home)
  const env = {
    PATH: process.env["PATH"] ?? "/usr/bin:/bin",
    HOME: home,
    TMPDIR: home,
    HOLDFAST_HOME: home,
    HOLDFAST_RUNTIME_DIR: path.join(home, "run"),
    HOLDFAST_NODE: node,
    // A user's own: Node keeps it by uid.
    NODE_COMPILE_CACHE: path.join(home, "compile"),
    HOLDFAST_LOG_LEVEL: "warn"
  }
  const into = (command: string, args: ReadonlyArray<string>) => {
    const [first, ...rest] = [...prefix, command, ...args]
    return [first!, rest] as const
  }
  const runInside: Place["run"] = (command, args, more = {}) => {
    const [first, rest] = into(command, args)
    return run(first, rest, { env: { ...env, ...more }, cwd: home })
  }
  const started = new Set<ChildProcessWithoutNullStreams>()
  const census = (what: "look" | "count" | "end") =>
    Effect.map(runInside("perl", [path.join(root, "census.pl"), what, namespaceOf()]), (ran) => {
      if (ran.code !== 0) throw new Error(`the census failed: ${ran.stderr}`)
      // nsenter stops itself when its child is stopped, and is outside, where nobody else wakes it.
      if (what === "count") for (const child of started) child.kill("SIGCONT")
      return lines(ran.stdout)
    })
  const signed = Effect.sync(() => {
    const pids = new Set([...(mark === null ? [] : carriers(mark.low, mark.high)), ...withSign(home)])
    return [...pids].map((pid): Left => ({ pid, command: commandOf(pid) }))
  })
  const look =
    uid !== null ? Effect.sync(() => ofUser(uid)) : found === "namespaces" ? census("look") : signed
  const place: Place = {
    home,
    env,
    spawn: (command, args, more = {}) => {
      const [first, rest] = into(command, args)
      const child = spawn(first, rest, { env: { ...env, ...more }, cwd: home, stdio: "pipe" })
      started.add(child)
      child.once("exit", () => started.delete(child))
      return child
    },
    run: runInside,
    waitedMs: (pid) =>
      Effect.map(
        found === "namespaces"
          ? Effect.map(runInside("cat", [`/proc/${pid}/schedstat`]), ({ stdout }) => stdout)
          : Effect.sync(() => fs.readFileSync(`/proc/${pid}/schedstat`, "utf8")),
        // Its second number, in nanoseconds.
        (text) => Number(text.split(" ")[1] ?? 0) / 1e6
      ).pipe(Effect.catchDefect(() => Effect.succeed(0))),
    signal: (pid, name) => runInside("sh", ["-c", `kill -${name.slice(3)} ${pid}`]),
    look,
    count: found === "signs" ? signed : census("count")
  }
  // Whatever a world leaves ends with it; what a failing test left is not the next one's.
  yield* Effect.addFinalizer(() =>
    Effect.gen(function* () {
      if (found === "signs") for (const { pid } of yield* signed) process.kill(pid, "SIGKILL")
      else yield* census("end")
      for (const child of started) child.kill("SIGKILL")
    })
  )
  return place
})

const ownNumbers = [
  ...(process.getuid?.() === 0 ? [] : ["--user", "--map-root-user"]),
  "--pid",
  "--fork",
  "--mount-proc",
  "--kill-child"
]
const setsNext =
  'open my $next, ">", "/proc/sys/kernel/ns_last_pid" or exit 1; print $next 300; close $next or exit 1'

/** Whether this machine lets us say which number the next process of a namespace gets. */
export const recycles = runs("unshare", ...ownNumbers, "perl", "-e", setsNext)

/** A place of this user with numbers of its own, where that can be had. Nobody is counted there. */
export const numberedPlace = Effect.gen(function* () {
  const home = yield* Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "hf-"))),
    (home) => Effect.sync(() => removeAll(home))
  )
  const prefix = recycles ? yield* enter(ownNumbers) : []
  const env = { PATH: process.env["PATH"] ?? "/usr/bin:/bin", HOME: home, TMPDIR: home }
  const into = (command: string, args: ReadonlyArray<string>) => {
    const [first, ...rest] = [...prefix, command, ...args]
    return [first!, rest] as const
  }
  return {
    home,
    spawn: (command: string, args: ReadonlyArray<string>) =>
      spawn(...into(command, args), { env, cwd: home, stdio: "pipe" }),
    run: (command: string, args: ReadonlyArray<string>) => run(...into(command, args), { env, cwd: home })
  }
})

/** The stage of a file's tests, and a place for each of their worlds. */
export class Outside extends Context.Service<
  Outside,
  { readonly stage: Stage; readonly place: Effect.Effect<Place, never, Scope.Scope> }
>()("holdfast/test/Outside") {}

export const layer = Layer.effect(
  Outside,
  Effect.map(makeStage, ({ root, stage }) => Outside.of({ stage, place: makePlace(root, stage) }))
)

const pollMs = 20

/**
 * Waits until nobody but those whom `without` takes out is there and a count agrees, and says when that was first seen;
 * after `hangMs` who is left all the same.
 */
export const untilNobody = Effect.fnUntraced(function* (
  place: Place,
  without: (left: ReadonlyArray<Left>) => ReadonlyArray<Left>,
  hangMs: number
) {
  const hangs = performance.now() + hangMs
  for (;;) {
    const at = performance.now()
    const seen = without(yield* place.look)
    if (seen.length === 0) {
      const counted = without(yield* place.count)
      if (counted.length === 0) return { at, left: counted }
    }
    if (at > hangs) return { at, left: without(yield* place.count) }
    yield* Effect.sleep(pollMs)
  }
})
