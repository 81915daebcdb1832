/** Doctor's checks, each on a machine that lacks what it is about, and on one that lacks nothing. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { DatabaseSync } from "node:sqlite"
import { type Check, Doctor, layer } from "../src/layers/Doctor.ts"
import { CodexBinary, CodexNotFound } from "../src/services/CodexBinary.ts"
import { makeWith } from "../src/layers/Syscalls.ts"
import { InstanceMark, type Marked, MarkUnavailable } from "../src/services/InstanceMark.ts"
import { resolvePaths, Settings } from "../src/services/Settings.ts"
import { Syscalls } from "../src/services/Syscalls.ts"
import { makeHome, type TestHome } from "./support/codex.ts"
import { range } from "../src/testing/InstanceMark.ts"
import { identity, layer as layerIdentity } from "../src/testing/ProcessIdentity.ts"

interface Machine {
  readonly runtimeDir?: string
  readonly codexHome?: string
  readonly codex?: false
  readonly connect?: string
  readonly tokenFile?: string
  readonly mark?: false
  readonly marked?: ReadonlyArray<Marked>
  readonly koffi?: false
  readonly environment?: Readonly<Record<string, string>>
}

const checksOf = Effect.fnUntraced(function* (home: TestHome, machine: Machine = {}) {
  const settings = yield* Settings
  const paths = resolvePaths({
    env: { HOLDFAST_HOME: home.home, HOLDFAST_RUNTIME_DIR: machine.runtimeDir ?? home.runtimeDir },
    uid: 0,
    homeDirectory: home.home,
    tempDirectory: home.tmp
  })
  const codex = Layer.succeed(
    CodexBinary,
    machine.codex === false
      ? {
          path: Effect.fail(new CodexNotFound({ looked: ["codex on PATH"] })),
          version: Effect.fail(new CodexNotFound({ looked: ["codex on PATH"] }))
        }
      : { path: Effect.succeed("/bin/codex"), version: Effect.succeed("0.169.0") }
  )
  const mark = Layer.mock(InstanceMark, {
    choose:
      machine.mark === false
        ? Effect.fail(new MarkUnavailable({ problem: "none" }))
        : Effect.succeed(range(0)),
    members: () => Effect.succeed(machine.marked ?? [])
  })
  const syscalls = Layer.effect(
    Syscalls,
    makeWith(machine.koffi === false ? () => Promise.reject(new Error("gone")) : () => import("koffi"))
  )
  const config = Layer.succeed(Settings, {
    ...settings,
    paths,
    environment: { TMPDIR: home.tmp, ...machine.environment },
    codex: { ...settings.codex, home: machine.codexHome ?? home.codexHome },
    appServer: { connect: machine.connect ?? null, tokenFile: machine.tokenFile ?? null }
  })
  return yield* Effect.provide(
    Effect.flatMap(Doctor, ({ checks }) => checks),
    layer.pipe(Layer.provide(Layer.mergeAll(codex, mark, config, syscalls, layerIdentity)))
  )
})

/** Of what the machine of the test is, whoever's it is. */
const aboutTheUser = "agents as your user"

const statusOf = (checks: ReadonlyArray<Check>) =>
  Object.fromEntries(
    checks.filter(({ what }) => what !== aboutTheUser).map(({ what, status }) => [what, status])
  )

const allOk: Readonly<Record<string, Check["status"]>> = {
  node: "ok",
  codex: "ok",
  CODEX_HOME: "ok",
  "state directory": "ok",
  "runtime directory": "ok",
  "bridge directory": "ok",
  "socket paths": "ok",
  "instance mark": "ok",
  "marked processes": "ok",
  "system calls": "ok",
  cgroup: "ok",
  "systemd scope": "ok",
  terminals: "ok"
}

const detailOf = (checks: ReadonlyArray<Check>, what: string) =>
  checks.find((check) => check.what === what)?.detail ?? ""

describe("Doctor", () => {
  it.live("says which ways past an approval are open to an agent of this user", () =>
    Effect.gen(function* () {
      const home = yield* makeHome
      const tmux = path.join(home.tmp, `tmux-${process.getuid?.() ?? 0}`)
      const way = `tmux servers of yours listen in ${tmux}`
      const said = Effect.map(checksOf(home, { environment: { TMUX_TMPDIR: home.tmp } }), (checks) =>
        checks.find(({ what }) => what === aboutTheUser)!
      )
      const before = yield* said
      fs.mkdirSync(tmux)
      const { status, detail, remedy } = yield* said
      assert.deepStrictEqual(
        { before: before.detail.includes(way), status, after: detail.includes(way) },
        { before: false, status: "warn", after: true }
      )
      assert.include(remedy, "sandbox")
    })
  )

  it.live("finds a machine that has everything ok", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(statusOf(yield* checksOf(yield* makeHome)), allOk)
    })
  )

  it.live("fails a state directory that is a symbolic link", () =>
    Effect.gen(function* () {
      const home = yield* makeHome
      fs.mkdirSync(path.join(home.home, "elsewhere"), { mode: 0o700 })
      fs.symlinkSync("elsewhere", path.join(home.home, "state"))
      const checks = yield* checksOf(home)
      assert.deepStrictEqual(statusOf(checks), { ...allOk, "state directory": "fail" })
      assert.include(detailOf(checks, "state directory"), path.join(home.home, "state"))
    })
  )

  it.live("fails a runtime directory that is a symbolic link, and a bridge directory that is one", () =>
    Effect.gen(function* () {
      const home = yield* makeHome
      fs.symlinkSync(home.runtimeDir, path.join(home.tmp, "run"))
      const linked = statusOf(yield* checksOf(home, { runtimeDir: path.join(home.tmp, "run") }))
      assert.strictEqual(linked["runtime directory"], "fail")
      fs.rmSync(path.join(home.runtimeDir, "bridges"), { recursive: true, force: true })
      fs.symlinkSync(home.tmp, path.join(home.runtimeDir, "bridges"))
      assert.deepStrictEqual(statusOf(yield* checksOf(home)), { ...allOk, "bridge directory": "fail" })
    })
  )

  it.live("fails a runtime directory whose sockets would have too long a path", () =>
    Effect.gen(function* () {
      const home = yield* makeHome
      const runtimeDir = path.join(home.runtimeDir, "x".repeat(90))
      const checks = yield* checksOf(home, { runtimeDir })
      assert.deepStrictEqual(statusOf(checks), { ...allOk, "socket paths": "fail" })
      // hooks-<12 characters>.sock is one longer than control-<8 characters>.sock.
      const bytes = Buffer.byteLength(`${runtimeDir}/hooks-000000000000.sock`)
      assert.match(detailOf(checks, "socket paths"), new RegExp(`^${bytes} bytes; this system allows `))
    })
  )

  it.live("fails a machine without codex, and says how to get one", () =>
    Effect.gen(function* () {
      const checks = yield* checksOf(yield* makeHome, { codex: false })
      assert.deepStrictEqual(statusOf(checks), { ...allOk, codex: "fail" })
      assert.match(detailOf(checks, "codex"), /Install it with/)
    })
  )

  it.live("needs no codex where an app-server is adopted", () =>
    Effect.gen(function* () {
      const checks = yield* checksOf(yield* makeHome, { codex: false, connect: "wss://codex.example" })
      assert.deepStrictEqual(statusOf(checks), { ...allOk, "app-server address": "ok" })
    })
  )

  it.live("warns of a CODEX_HOME below the temp dir, also by way of a link", () =>
    Effect.gen(function* () {
      const home = yield* makeHome
      const below = yield* checksOf(home, { codexHome: path.join(home.tmp, "below") })
      assert.deepStrictEqual(statusOf(below), { ...allOk, CODEX_HOME: "warn" })
      const link = path.join(home.home, "link")
      fs.symlinkSync(home.tmp, link)
      assert.deepStrictEqual(statusOf(yield* checksOf(home, { codexHome: link })), {
        ...allOk,
        CODEX_HOME: "warn"
      })
    })
  )

  it.live("fails the address of an app-server where no socket of ours is, until there is one", () =>
    Effect.gen(function* () {
      const home = yield* makeHome
      const socket = path.join(home.runtimeDir, "codex.sock")
      const connect = `unix:${socket}`
      const none = statusOf(yield* checksOf(home, { connect }))
      fs.writeFileSync(socket, "")
      const file = statusOf(yield* checksOf(home, { connect }))
      fs.rmSync(socket)
      yield* Effect.acquireRelease(
        Effect.callback<net.Server>((resume) => {
          const server = net.createServer()
          server.listen(socket, () => resume(Effect.succeed(server)))
        }),
        (server) => Effect.callback<void>((resume) => void server.close(() => resume(Effect.void)))
      )
      const there = statusOf(yield* checksOf(home, { connect }))
      assert.deepStrictEqual(
        [none, file, there],
        [
          { ...allOk, "app-server address": "fail" },
          { ...allOk, "app-server address": "fail" },
          { ...allOk, "app-server address": "ok" }
        ]
      )
    })
  )

  it.live(
    "fails a token file that others can read, that is empty, a link or not there; shows none of it",
    () =>
      Effect.gen(function* () {
        const home = yield* makeHome
        const tokenFile = path.join(home.home, "token")
        const look = Effect.fnUntraced(function* () {
          const checks = yield* checksOf(home, { connect: "ws://127.0.0.1:9", tokenFile })
          assert.notInclude(JSON.stringify(checks), "tell-nobody")
          return statusOf(checks)
        })
        const none = yield* look()
        fs.writeFileSync(tokenFile, "", { mode: 0o600 })
        const empty = yield* look()
        fs.writeFileSync(tokenFile, "tell-nobody")
        const ours = yield* look()
        fs.chmodSync(tokenFile, 0o640)
        const open = yield* look()
        fs.chmodSync(tokenFile, 0o600)
        fs.renameSync(tokenFile, `${tokenFile}.real`)
        fs.symlinkSync(`${tokenFile}.real`, tokenFile)
        const link = yield* look()
        assert.deepStrictEqual(
          [none, empty, ours, open, link].map((checks) => checks["app-server token"]),
          ["fail", "fail", "ok", "fail", "fail"]
        )
        assert.deepStrictEqual(ours, { ...allOk, "app-server address": "ok", "app-server token": "ok" })
      })
  )

  it.live("warns when nothing can be marked", () =>
    Effect.gen(function* () {
      const checks = yield* checksOf(yield* makeHome, { mark: false })
      assert.deepStrictEqual(statusOf(checks), { ...allOk, "instance mark": "warn" })
    })
  )

  it.live("says what is done instead where koffi does not load", () =>
    Effect.gen(function* () {
      const checks = yield* checksOf(yield* makeHome, { koffi: false })
      assert.deepStrictEqual(statusOf(checks), { ...allOk, "system calls": "warn" })
      assert.match(
        detailOf(checks, "system calls"),
        /no subreaper \(koffi does not load: gone\): orphans go to init/
      )
    })
  )

  it.live(
    "names who carries a mark of a dead gateway or of nobody, and not whom a living one vouches for",
    () =>
      Effect.gen(function* () {
        const home = yield* makeHome
        const marked = (pid: number, index: number) => ({
          identity: identity(pid),
          mark: range(index).low + 1,
          command: "sleep"
        })
        const look = (...members: ReadonlyArray<Marked>) =>
          Effect.map(checksOf(home, { marked: members }), (checks) => {
            const { status, detail } = checks.find(({ what }) => what === "marked processes")!
            return [status, detail.split(":")[0], ...(detail.match(/\d+ \(sleep/g) ?? [])]
          })
        const before = yield* look(marked(10, 0))
        const database = new DatabaseSync(path.join(home.home, "state", "holdfast.db"))
        database.exec(
          "CREATE TABLE epochs (boot_id, pid_namespace, pid, start_token, mark_low, mark_high, ended_at, swept_at)"
        )
        for (const [index, pid] of [1000, 77].entries()) {
          const { bootId, pidNamespace, startToken } = identity(pid)
          database
            .prepare("INSERT INTO epochs VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)")
            .run(bootId, pidNamespace, pid, startToken, range(index).low, range(index).high)
        }
        database.close()
        assert.deepStrictEqual(
          {
            before,
            living: yield* look(marked(10, 0)),
            dead: yield* look(marked(10, 0), marked(11, 1)),
            nobodys: yield* look(marked(10, 0), marked(12, 2))
          },
          {
            before: ["warn", "their mark is of no gateway of this state directory", "10 (sleep"],
            living: ["ok", "1, and a living gateway vouches for each"],
            dead: ["warn", "left by a gateway that is gone", "11 (sleep"],
            nobodys: ["warn", "their mark is of no gateway of this state directory", "12 (sleep"]
          }
        )
      })
  )
})
