/** Syscalls on this machine, and what is left of them where koffi does not load. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as koffi from "koffi"
import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { rolldown } from "rolldown"
import {
  decodeProcBsdInfo,
  decodeUcred,
  decodeWaitStatus,
  decodeXucred,
  descriptorOf,
  done,
  layer,
  makeWith,
  notDone,
  type ReapOutcome,
  Syscalls,
  type SyscallTable,
  unavailable
} from "../src/layers/Syscalls.ts"

const table = Effect.flatMap(Syscalls, (syscalls) => syscalls.table).pipe(Effect.provide(layer))

const child = (command: string, ...args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const started = spawn(command, args, { stdio: ["pipe", "pipe", "ignore"] })
      await once(started, "spawn")
      return started
    }),
    (started) => Effect.sync(() => started.kill("SIGKILL"))
  )

const directory = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "syscalls-"))),
  (made) => Effect.sync(() => fs.rmSync(made, { recursive: true, force: true }))
)

/** Its parent is gone and, unlike a shell, has not taken its status: once we are its reaper it is ours to take. */
const orphan = (command: string): number =>
  Number(
    execFileSync("perl", [
      "-e",
      `if ($p = fork) { print $p; exit } open STDOUT, ">/dev/null"; open STDERR, ">&STDOUT"; exec "sh", "-c", $ARGV[0]`,
      command
    ])
  )

const reaped = (calls: SyscallTable, pid: number) =>
  Effect.sync(() => calls.reap(pid)).pipe(
    Effect.repeat({ schedule: Schedule.spaced(1), while: ({ _tag }) => _tag === "Running" }),
    Effect.timeoutOrElse({ duration: 5_000, orElse: () => Effect.succeed<ReapOutcome>({ _tag: "Running" }) })
  )

const asSubreaper = (calls: SyscallTable) =>
  Effect.acquireRelease(
    Effect.sync(() => calls.setSubreaper(true)),
    () => Effect.sync(() => calls.setSubreaper(false))
  )

const listening = (server: net.Server, at: net.ListenOptions) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      server.listen(at)
      await once(server, "listening")
      return server
    }),
    () => Effect.sync(() => server.close())
  )

/** The gateway's end of the next connection. */
const accepted = (coming: Promise<ReadonlyArray<unknown>>) =>
  Effect.acquireRelease(
    Effect.promise(async () => (await coming)[0] as net.Socket),
    (socket) => Effect.sync(() => socket.destroy())
  )

const yes = { available: true } as const

/** What no caller should pass, and one may. */
const nonsense = [-1, -0.5, 0.5, 1.5, Number.NaN, Infinity, -Infinity, 2 ** 31, 2 ** 32 + 1, 2 ** 53, 1e300]

describe("Syscalls on this machine", () => {
  it.live("every call of this platform is there, and another platform's says so", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual((yield* table).available, {
        closeOnExec: yes,
        pidfd: yes,
        peerCredentials: yes,
        subreaper: yes,
        reap: yes,
        processTimes: unavailable("processTimes", "linux has no such call")
      })
    })
  )

  it.live("a descriptor that is closed on exec is not given to children", () =>
    Effect.gen(function* () {
      const { closeOnExec } = yield* table
      const fd = yield* Effect.acquireRelease(
        Effect.sync(() => fs.openSync("/dev/null", "r")),
        (opened) => Effect.sync(() => fs.closeSync(opened))
      )
      // Node opens everything with O_CLOEXEC; what others open has no such flag.
      koffi.load(null).func("int fcntl(int fd, int cmd, ...)")(fd, 2, "int", 0)
      const inherited = () =>
        execFileSync("sh", ["-c", `test -e /proc/self/fd/${fd} && echo yes || echo no`], { encoding: "utf8" })
      const before = inherited()
      const outcome = closeOnExec(fd)
      assert.deepStrictEqual(
        { before, outcome, after: inherited() },
        { before: "yes\n", outcome: done, after: "no\n" }
      )
    })
  )

  it.live("a signal reaches the process that stands, and no other", () =>
    Effect.gen(function* () {
      const { signal } = yield* table
      const sleeper = yield* child("sleep", "60")
      const pid = sleeper.pid!
      const changed = signal(pid, "SIGKILL", () => false)
      const exit = once(sleeper, "exit")
      const sent = signal(pid, "SIGTERM", () => true)
      const status = yield* Effect.promise(() => exit)
      let asked = 0
      const after = signal(pid, "SIGKILL", () => ++asked > 0)
      assert.deepStrictEqual(
        { changed, sent, status, after, asked },
        { changed: "changed", sent: "sent", status: [null, "SIGTERM"], after: "gone", asked: 0 }
      )
    })
  )

  it.live("a process that ends and is buried after the look is gone, whoever has its number by then", () =>
    Effect.gen(function* () {
      const calls = yield* table
      yield* asSubreaper(calls)
      const pid = orphan("exec sleep 60")
      const outcome = calls.signal(pid, "SIGKILL", () => {
        process.kill(pid, "SIGKILL")
        while (calls.reap(pid)._tag === "Running");
        return true
      })
      assert.strictEqual(outcome, "gone")
    })
  )

  it.live("a thread's number is nobody's, and an unknown signal is refused", () =>
    Effect.gen(function* () {
      const { signal } = yield* table
      const thread = fs
        .readdirSync("/proc/self/task")
        .map(Number)
        .find((tid) => tid !== process.pid)!
      assert.deepStrictEqual(
        [signal(thread, "SIGWINCH", () => true), signal(process.pid, "SIGNONE", () => true)],
        ["gone", "refused"]
      )
    })
  )

  it.live("the peer of a Unix socket is told by its process, user and group", () =>
    Effect.gen(function* () {
      const { peerCredentials } = yield* table
      const socketPath = path.join(yield* directory, "s")
      const server = yield* listening(net.createServer(), { path: socketPath })
      const coming = once(server, "connection")
      const client = yield* child(
        process.execPath,
        "-e",
        `require("net").connect(${JSON.stringify(socketPath)}); process.stdin.resume()`
      )
      const socket = yield* accepted(coming)
      assert.deepStrictEqual(peerCredentials(descriptorOf(socket)!), {
        _tag: "Peer",
        pid: client.pid!,
        uid: process.getuid!(),
        gid: process.getgid!()
      })
    })
  )

  it.live("what has no peer says so: another kind of socket, a file, a closed descriptor", () =>
    Effect.gen(function* () {
      const { peerCredentials } = yield* table
      const server = yield* listening(net.createServer(), { host: "127.0.0.1", port: 0 })
      const coming = once(server, "connection")
      const client = net.connect((server.address() as net.AddressInfo).port, "127.0.0.1")
      const socket = yield* accepted(coming)
      const overTcp = peerCredentials(descriptorOf(socket)!)
      client.destroy()
      socket.destroy()
      const file = fs.openSync("/dev/null", "r")
      const ofFile = peerCredentials(file)
      fs.closeSync(file)
      assert.deepStrictEqual(
        { overTcp, ofFile, closed: peerCredentials(file), destroyed: descriptorOf(socket) },
        {
          overTcp: notDone("the socket has no peer"),
          ofFile: notDone("ENOTSOCK"),
          closed: notDone("EBADF"),
          destroyed: null
        }
      )
    })
  )

  it.live("orphans come to a subreaper, and each status is taken by name", () =>
    Effect.gen(function* () {
      const calls = yield* table
      const on = yield* asSubreaper(calls)
      const [seventh, sleeper] = [orphan("exit 7"), orphan("exec sleep 60")]
      const running = calls.reap(sleeper)
      process.kill(sleeper, "SIGKILL")
      assert.deepStrictEqual(
        {
          on,
          running,
          exited: yield* reaped(calls, seventh),
          killed: yield* reaped(calls, sleeper),
          again: calls.reap(sleeper)
        },
        {
          on: done,
          running: { _tag: "Running" },
          exited: { _tag: "Reaped", status: { code: 7, signal: null } },
          killed: { _tag: "Reaped", status: { code: null, signal: "SIGKILL" } },
          again: { _tag: "NotAChild" }
        }
      )
    })
  )

  it.live("Node keeps its own children's statuses while orphans are taken", () =>
    Effect.gen(function* () {
      const calls = yield* table
      yield* asSubreaper(calls)
      const own = yield* Effect.forEach(Array.from({ length: 20 }), (_, index) =>
        Effect.map(child("sh", "-c", `read line; exit ${index}`), (started) => ({
          started,
          exit: once(started, "exit")
        }))
      )
      const orphans = own.map((_, index) => orphan(`exit ${100 + index}`))
      for (const { started } of own) started.stdin!.write("go\n")
      const taken = yield* Effect.forEach(orphans, (pid) => reaped(calls, pid))
      const statuses = yield* Effect.promise(() => Promise.all(own.map(({ exit }) => exit)))
      assert.deepStrictEqual(
        { taken, statuses, mine: own.map(({ started }) => calls.reap(started.pid!)) },
        {
          taken: own.map((_, index) => ({ _tag: "Reaped", status: { code: 100 + index, signal: null } })),
          statuses: own.map((_, index) => [index, null]),
          mine: own.map(() => ({ _tag: "NotAChild" }))
        }
      )
    })
  )

  it.live("nothing but one process is ever waited for", () =>
    Effect.gen(function* () {
      const calls = yield* table
      yield* asSubreaper(calls)
      const waiting = orphan("exit 3")
      const others = [0, -1, -waiting, 1, ...nonsense].map(calls.reap)
      assert.deepStrictEqual(
        { others: new Set(others.map(({ _tag }) => _tag)), waiting: yield* reaped(calls, waiting) },
        {
          others: new Set(["NotAChild"]),
          waiting: { _tag: "Reaped", status: { code: 3, signal: null } }
        }
      )
    })
  )

  it.live("a process that is asked nonsense answers and lives", () =>
    Effect.gen(function* () {
      const calls = yield* table
      assert.deepStrictEqual<unknown>(
        nonsense.map((number) => [
          calls.closeOnExec(number),
          calls.peerCredentials(number),
          calls.signal(number, "SIGKILL", () => false),
          calls.processTimes(number)
        ]),
        nonsense.map(() => [notDone("EBADF"), notDone("EBADF"), "gone", notDone("linux has no such call")])
      )
    })
  )

  it.live("10,000 signals leave no descriptor behind", () =>
    Effect.gen(function* () {
      const { signal } = yield* table
      const open = () => fs.readdirSync("/proc/self/fd").length
      const before = open()
      for (let index = 0; index < 10_000; index++) signal(process.pid, "SIGWINCH", () => index % 2 === 0)
      assert.isAtMost(open(), before + 5)
    })
  )
})

const missing = "koffi does not load: Cannot find package 'koffi'"

const without = Effect.flatMap(
  makeWith(() => Promise.reject(new Error("Cannot find package 'koffi'\nRequire stack: …"))),
  (syscalls) => syscalls.table
)

describe("Syscalls where koffi does not load", () => {
  it.live("each call says why it is not there, and what is done instead", () =>
    Effect.gen(function* () {
      const calls = yield* without
      assert.deepStrictEqual(
        {
          available: calls.available,
          answers: [
            calls.closeOnExec(0),
            calls.peerCredentials(0),
            calls.setSubreaper(true),
            calls.reap(1),
            calls.processTimes(1)
          ]
        },
        {
          available: {
            closeOnExec: unavailable("closeOnExec", missing),
            pidfd: unavailable("pidfd", missing),
            peerCredentials: unavailable("peerCredentials", missing),
            subreaper: unavailable("subreaper", missing),
            reap: unavailable("reap", missing),
            processTimes: unavailable("processTimes", missing)
          },
          answers: Array.from({ length: 5 }, () => notDone(missing))
        }
      )
    })
  )

  it.live("a signal is sent by number, right after the look", () =>
    Effect.gen(function* () {
      const { signal } = yield* without
      const sleeper = yield* child("sleep", "60")
      const pid = sleeper.pid!
      const changed = signal(pid, "SIGKILL", () => false)
      const exit = once(sleeper, "exit")
      const sent = signal(pid, "SIGTERM", () => true)
      assert.deepStrictEqual(
        {
          changed,
          sent,
          status: yield* Effect.promise(() => exit),
          none: nonsense.map((number) => signal(number, "SIGKILL", () => true))
        },
        { changed: "changed", sent: "sent", status: [null, "SIGTERM"], none: nonsense.map(() => "gone") }
      )
    })
  )

  it.live("one call that is missing does not take the others with it", () =>
    Effect.gen(function* () {
      const library = koffi.load(null)
      const { table } = yield* makeWith(
        async () =>
          ({
            errno: koffi.errno,
            load: () => ({
              ...library,
              func: (definition: string) => {
                if (definition.includes("syscall")) throw new Error("Cannot find function 'syscall'")
                return library.func(definition)
              }
            })
          }) as never
      )
      const { available } = yield* table
      assert.deepStrictEqual(
        { pidfd: available.pidfd, closeOnExec: available.closeOnExec, reap: available.reap },
        { pidfd: unavailable("pidfd", "Cannot find function 'syscall'"), closeOnExec: yes, reap: yes }
      )
    })
  )

  it.live("nothing is loaded before the first use, and once for all", () =>
    Effect.gen(function* () {
      let loads = 0
      const { table } = yield* makeWith(async () => {
        loads++
        return koffi
      })
      const before = loads
      const tables = yield* Effect.all([table, table, table], { concurrency: 3 })
      assert.deepStrictEqual(
        { before, loads, tables: new Set(tables).size },
        { before: 0, loads: 1, tables: 1 }
      )
    })
  )

  it.live("a bundled program finds it beside itself, and goes on where it is not", () =>
    Effect.gen(function* () {
      const root = fileURLToPath(new URL("..", import.meta.url))
      const [bare, installed] = [yield* directory, yield* directory]
      const entry = path.join(root, "test", "bundled.ts")
      yield* Effect.promise(async () => {
        const bundle = await rolldown({
          input: entry,
          external: ["koffi"],
          platform: "node",
          plugins: [
            {
              name: "entry",
              resolveId: (id) => (id === entry ? id : null),
              load: (id) =>
                id === entry
                  ? `import * as Effect from "effect/Effect"
                     import { make } from "../src/layers/Syscalls.ts"
                     export const table = Effect.runPromise(Effect.flatMap(make, (made) => made.table))`
                  : null
            }
          ]
        })
        await bundle.write({ file: path.join(bare, "bundle.mjs") })
        await bundle.close()
      })
      fs.copyFileSync(path.join(bare, "bundle.mjs"), path.join(installed, "bundle.mjs"))
      fs.symlinkSync(path.join(root, "node_modules"), path.join(installed, "node_modules"))
      const run = (where: string) =>
        execFileSync(
          process.execPath,
          [
            "--input-type=module",
            "-e",
            `const { table } = await import(${JSON.stringify(String(pathToFileURL(path.join(where, "bundle.mjs"))))})
             const { available, signal } = await table
             console.log(available.pidfd.available, signal(process.pid, "SIGWINCH", () => true))`
          ],
          { encoding: "utf8" }
        )
      assert.deepStrictEqual([run(bare), run(installed)], ["false sent\n", "true sent\n"])
    })
  )
})

const bytes = (size: number, fields: (view: DataView) => void): Uint8Array => {
  const array = new Uint8Array(size)
  fields(new DataView(array.buffer))
  return array
}

describe("Syscalls, decoded", () => {
  it("Linux's credentials are twelve bytes, and a pid that we cannot see is none", () => {
    const ucred = (pid: number, uid: number, gid: number) =>
      bytes(12, (view) => {
        view.setInt32(0, pid, true)
        view.setUint32(4, uid, true)
        view.setUint32(8, gid, true)
      })
    assert.deepStrictEqual(
      [
        decodeUcred(ucred(4242, 1000, 100)),
        decodeUcred(ucred(0, 65_534, 65_534)),
        decodeUcred(ucred(0, 0xffff_ffff, 0xffff_ffff)),
        decodeUcred(ucred(1, 1, 1).subarray(1))
      ],
      [
        { _tag: "Peer", pid: 4242, uid: 1000, gid: 100 },
        { _tag: "Peer", pid: null, uid: 65_534, gid: 65_534 },
        notDone("the socket has no peer"),
        notDone("struct ucred has 11 bytes and not 12")
      ]
    )
  })

  it("macOS's credentials name the user, and the first group is the group", () => {
    const xucred = (version: number, groups: number) =>
      bytes(76, (view) => {
        view.setUint32(0, version, true)
        view.setUint32(4, 501, true)
        view.setInt16(8, groups, true)
        view.setUint32(12, 20, true)
        view.setUint32(16, 12, true)
      })
    assert.deepStrictEqual(
      [
        decodeXucred(xucred(0, 2), 4242),
        decodeXucred(xucred(0, 1), 0),
        decodeXucred(xucred(1, 2), 4242),
        decodeXucred(xucred(0, 0), 4242),
        decodeXucred(new Uint8Array(4), 4242)
      ],
      [
        { _tag: "Peer", pid: 4242, uid: 501, gid: 20 },
        { _tag: "Peer", pid: null, uid: 501, gid: 20 },
        notDone("struct xucred has version 1 and not 0"),
        notDone("struct xucred names no group"),
        notDone("struct xucred has 4 bytes and not 76")
      ]
    )
  })

  it("macOS's process times keep their microseconds", () => {
    const info = (micros: bigint) =>
      bytes(136, (view) => {
        view.setUint32(12, 4242, true)
        view.setUint32(16, 1, true)
        view.setUint32(20, 501, true)
        view.setUint32(100, 4200, true)
        view.setBigUint64(120, 1_795_000_000n, true)
        view.setBigUint64(128, micros, true)
      })
    assert.deepStrictEqual(
      [
        decodeProcBsdInfo(info(42n)),
        decodeProcBsdInfo(info(1_000_000n)),
        decodeProcBsdInfo(info(42n).subarray(0, 64))
      ],
      [
        {
          _tag: "ProcessTimes",
          pid: 4242,
          parent: 1,
          group: 4200,
          uid: 501,
          startToken: "1795000000.000042"
        },
        notDone("struct proc_bsdinfo tells of 1000000 microseconds"),
        notDone("struct proc_bsdinfo has 64 bytes and not 136")
      ]
    )
  })

  it("a wait status is a code or a signal, with or without a core", () => {
    const nameOf = (signal: number) => (signal === 9 ? "SIGKILL" : signal === 6 ? "SIGABRT" : undefined)
    assert.deepStrictEqual(
      [0x0000, 0xff00, 0x0009, 0x0086, 0x0022, 0x137f, 0xffff].map((status) =>
        decodeWaitStatus(status, nameOf)
      ),
      [
        { code: 0, signal: null },
        { code: 255, signal: null },
        { code: null, signal: "SIGKILL" },
        { code: null, signal: "SIGABRT" },
        { code: null, signal: "SIG34" },
        null,
        null
      ]
    )
  })

  it("the descriptor of a socket is a number that can be one, or none", () => {
    const of = (fd: unknown) => descriptorOf({ _handle: { fd } })
    assert.deepStrictEqual(
      [
        of(7),
        of(-1),
        of("7"),
        of(1.5),
        descriptorOf({ _handle: null }),
        descriptorOf({}),
        descriptorOf(null)
      ],
      [7, null, null, null, null, null, null]
    )
  })
})
