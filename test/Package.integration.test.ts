/**
 * The package as a stranger gets it: packed from a copy of the working tree, installed by npm into an empty project, used
 * with nothing but what npm put there. Needs the registry, or npm's cache of it.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as http from "node:http"
import type { AddressInfo } from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { eventually, run } from "./support/gateway.ts"

const root = path.resolve(import.meta.dirname, "..")

/** The design's bounds for the package with everything it needs, effect included. */
const maxPackages = 60
const maxInstalledBytes = 130_000_000

const temporary = (prefix: string) =>
  Effect.acquireRelease(
    Effect.sync(() => fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), prefix)))),
    (directory) =>
      Effect.promise(() => fs.promises.rm(directory, { recursive: true, force: true, maxRetries: 5 }))
  )

/** The machine's own npm on its own Node, not on the repository's; npm's settings stay, what an outer script says goes. */
const npmEnv: Readonly<Record<string, string>> = Object.fromEntries(
  Object.entries({
    ...process.env,
    PATH: (process.env["PATH"] ?? "")
      .split(":")
      .filter((directory) => !directory.endsWith("node_modules/.bin"))
      .join(":"),
    NO_PROXY: "127.0.0.1"
  }).filter(
    (entry): entry is [string, string] =>
      entry[1] !== undefined && !/^(npm_(?!config_)|npm_config_local_prefix|HOLDFAST_)/.test(entry[0])
  )
)

/** For what a stranger runs: a shell's variables, and a Node that is new enough. */
const plainEnv = { PATH: `${path.dirname(process.execPath)}:/usr/bin:/bin`, HOME: os.homedir() }

const npm = Effect.fnUntraced(function* (cwd: string, ...args: ReadonlyArray<string>) {
  const ran = yield* run("npm", [...args, "--no-audit", "--no-fund", "--loglevel=error"], {
    env: npmEnv,
    cwd
  })
  if (ran.code !== 0) return yield* Effect.die(new Error(`npm ${args.join(" ")}: ${ran.stderr}`))
  return ran.stdout
})

/** What git would put in a commit now, and links to the packages that are installed here. */
const copyRepository = Effect.fnUntraced(function* (to: string) {
  const listed = yield* run("git", ["ls-files", "-co", "--exclude-standard", "-z"], {
    env: npmEnv,
    cwd: root
  })
  const files = listed.stdout
    .split("\0")
    .filter((file) => file !== "" && fs.existsSync(path.join(root, file)))
  if (files.length === 0) return yield* Effect.die(new Error(`git lists no files: ${listed.stderr}`))
  for (const file of files) fs.cpSync(path.join(root, file), path.join(to, file))
  fs.mkdirSync(path.join(to, "node_modules"))
  for (const name of fs.readdirSync(path.join(root, "node_modules")))
    if (name !== ".cache")
      fs.symlinkSync(path.join(root, "node_modules", name), path.join(to, "node_modules", name))
})

const readJson = (file: string) => JSON.parse(fs.readFileSync(file, "utf8"))

const filesIn = (directory: string): ReadonlyArray<string> =>
  fs
    .readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => path.relative(directory, path.join(entry.parentPath, entry.name)))

class Stranger extends Context.Service<
  Stranger,
  {
    readonly repository: string
    readonly tarball: string
    readonly manifestBefore: Buffer
    /** An empty project that has installed the tarball and, as an Effect program would, effect itself. */
    readonly project: string
  }
>()("test/Stranger") {}

const makeStranger = Effect.gen(function* () {
  const place = yield* temporary("hf-package-")
  const repository = path.join(place, "repository")
  const project = path.join(place, "project")
  yield* copyRepository(repository)
  const manifestBefore = fs.readFileSync(path.join(repository, "package.json"))
  yield* npm(repository, "pack", "--pack-destination", place)
  const tarball = path.join(
    place,
    fs.readdirSync(place).find((name) => name.endsWith(".tgz"))!
  )
  fs.mkdirSync(project)
  fs.writeFileSync(path.join(project, "package.json"), '{"private":true,"type":"module"}')
  const { effect } = readJson(path.join(repository, "package.json")).dependencies
  yield* npm(project, "install", "--prefer-offline", tarball, `effect@${effect}`)
  return { repository, tarball, manifestBefore, project }
})

const seconds = 60_000

layer(Layer.effect(Stranger, makeStranger), { excludeTestServices: true, timeout: seconds })(
  "the package",
  (it) => {
    const holdfast = Effect.fnUntraced(function* (
      args: ReadonlyArray<string>,
      env: Readonly<Record<string, string>> = plainEnv
    ) {
      const { project } = yield* Stranger
      const home = yield* temporary("hf-h-")
      return yield* run(path.join(project, "node_modules/.bin/holdfast"), args, {
        env: { HOLDFAST_HOME: home, ...env },
        cwd: project
      })
    })

    /** A file of the stranger's own, run by Node without any flag. */
    const program = Effect.fnUntraced(function* (name: string, text: string, env = {}) {
      const { project } = yield* Stranger
      fs.writeFileSync(path.join(project, name), text)
      const ran = yield* run(process.execPath, [name], { env: { ...plainEnv, ...env }, cwd: project })
      assert.deepStrictEqual(
        [ran.code, ran.stderr.replace(/.*(Experimental|--trace-warnings).*\n/g, "")],
        [0, ""]
      )
      return ran.stdout
    })

    it.effect("packing leaves package.json as it was, byte for byte, and nothing beside it", () =>
      Effect.gen(function* () {
        const { manifestBefore, repository } = yield* Stranger
        assert.isTrue(manifestBefore.equals(fs.readFileSync(path.join(repository, "package.json"))))
        assert.deepStrictEqual(fs.readdirSync(path.join(repository, "node_modules/.cache")), [])
      })
    )

    it.effect("its manifest has what a consumer's npm needs, and no word for ours", () =>
      Effect.gen(function* () {
        const { manifestBefore, project } = yield* Stranger
        const ours = JSON.parse(manifestBefore.toString())
        const { name, version, description, license, type, engines, dependencies, bin, files, exports } = ours
        assert.deepStrictEqual(readJson(path.join(project, "node_modules/holdfast/package.json")), {
          name,
          version,
          description,
          license,
          type,
          engines,
          dependencies,
          bin,
          files,
          exports
        })
      })
    )

    it.effect("it holds the programs, the library with its types, and nothing else", () =>
      Effect.gen(function* () {
        const { project } = yield* Stranger
        const library = /^dist\/library\/(services|layers|layers\/internal)\/\w+\.(js|d\.ts)$/
        assert.deepStrictEqual(
          filesIn(path.join(project, "node_modules/holdfast"))
            .filter((file) => !library.test(file) && !/^dist\/chunk-[\w-]+\.mjs$/.test(file))
            .toSorted(),
          [
            "README.md",
            "dist/cli.mjs",
            "dist/demo.mjs",
            "dist/gateway.mjs",
            "dist/holdfast.sh",
            "dist/hookRelay.cjs",
            "dist/hookRelay.pl",
            "dist/hookRelay.sh",
            "dist/keeper.mjs",
            "dist/node.sh",
            "package.json"
          ]
        )
      })
    )

    it.effect(
      "it brings no Node, no Codex and no tools, one effect, and stays within the design's bounds",
      () =>
        Effect.gen(function* () {
          const { project } = yield* Stranger
          const modules = path.join(project, "node_modules")
          const installed = Object.keys(readJson(path.join(modules, ".package-lock.json")).packages)
          const ofOurs =
            /^node(-linux|-darwin|$)|(^|\/)(@openai\/|typescript|@typescript\/|@effect\/(tsgo|vitest)|vitest|rolldown|oxlint|prettier|knip)/
          assert.deepStrictEqual(
            installed.map((at) => at.slice("node_modules/".length)).filter((name) => ofOurs.test(name)),
            []
          )
          assert.deepStrictEqual(
            installed.filter((at) => /(^|\/)node_modules\/effect$/.test(at)),
            ["node_modules/effect"]
          )
          assert.isAtMost(installed.length, maxPackages)
          const bytes = filesIn(modules).reduce(
            (sum, file) => sum + fs.lstatSync(path.join(modules, file)).blocks * 512,
            0
          )
          assert.isAtMost(bytes, maxInstalledBytes)
        })
    )

    it.effect(
      "the command runs on the user's Node",
      () =>
        Effect.gen(function* () {
          const { repository } = yield* Stranger
          const { version } = readJson(path.join(repository, "package.json"))
          const said = yield* holdfast(["--version"])
          assert.deepStrictEqual([said.code, said.stdout, said.stderr], [0, `holdfast v${version}\n`, ""])
          const status = yield* holdfast(["status"])
          assert.deepStrictEqual([status.code, status.stdout], [3, ""])
          assert.match(status.stderr, /^holdfast: No gateway answers on [^\n]+\n$/)
        }),
      seconds
    )

    it.effect("with an old Node alone the command says in one line what it needs", () =>
      Effect.gen(function* () {
        const PATH = yield* temporary("hf-old-")
        fs.writeFileSync(path.join(PATH, "node"), "#!/bin/sh\necho v20.0.0\n", { mode: 0o755 })
        fs.symlinkSync("/usr/bin/readlink", path.join(PATH, "readlink"))
        assert.deepStrictEqual(yield* holdfast(["status"], { PATH }), {
          code: 1,
          signal: null,
          stdout: "",
          stderr:
            "holdfast: needs Node 22.19 or newer and found none. Install one (https://nodejs.org), or set HOLDFAST_NODE to its path.\n"
        })
      })
    )

    it.effect(
      "a gateway of the installed package becomes ready, answers, and is ended by down",
      () =>
        Effect.gen(function* () {
          const { project } = yield* Stranger
          const env = {
            ...plainEnv,
            HOLDFAST_HOME: yield* temporary("hf-h-"),
            HOLDFAST_RUNTIME_DIR: yield* temporary("hf-r-"),
            HOLDFAST_LOG_LEVEL: "warn"
          }
          const gateway = yield* startInstalled(path.join(project, "node_modules/.bin/holdfast"), env)
          assert.strictEqual((yield* holdfast(["status"], env)).code, 0)
          const down = yield* holdfast(["down"], env)
          assert.deepStrictEqual([down.code, down.stderr], [0, ""])
          assert.deepStrictEqual(yield* gateway.ended, { code: 0, signal: null, stderr: "" })
        }),
      seconds
    )

    it.effect(
      "an Effect program runs a layer under its own effect, and the record is there just as long",
      () =>
        Effect.gen(function* () {
          const home = yield* temporary("hf-h-")
          const out = yield* program("embed.mjs", embedding, { HOLDFAST_HOME: home })
          assert.match(out, /^(\/\S+\/bridges\/[0-9a-f]{32}) 600\ngone\n$/)
          assert.isTrue(out.startsWith(home))
        }),
      seconds
    )

    it.effect(
      "every entry can be imported, one with a layer gives make and layer too, and nothing behind them",
      () =>
        Effect.gen(function* () {
          const out = yield* program(
            "entries.mjs",
            `import manifest from "holdfast/package.json" with { type: "json" }
          const bad = []
          for (const [entry, { default: file }] of Object.entries(manifest.exports)) {
            if (file === undefined) continue
            const names = Object.keys(await import("holdfast" + entry.slice(1)))
            const whole = !file.includes("/layers/") || (names.includes("make") && names.includes("layer"))
            if (names.length === 0 || !whole) bad.push([entry, names])
          }
          const inside = await import("holdfast/dist/library/layers/internal/atomicFile.js").catch(({ code }) => code)
          console.log(JSON.stringify([bad, inside]))`
          )
          assert.deepStrictEqual(JSON.parse(out), [[], "ERR_PACKAGE_PATH_NOT_EXPORTED"])
        }),
      seconds
    )

    it.effect(
      "every entry has types that a strict compiler takes, down to the last library",
      () =>
        Effect.gen(function* () {
          const { project, repository } = yield* Stranger
          const { exports } = readJson(path.join(repository, "package.json"))
          const names = Object.keys(exports).flatMap((entry) => /^\.\/(\w+)$/.exec(entry)?.[1] ?? [])
          const consumer = `${names.map((name) => `export * as ${name} from "holdfast/${name}"`).join("\n")}
import type * as Effect from "effect/Effect"
import { BridgeStore, type BridgeRecord, layer } from "holdfast/BridgeStore"
export const token = (record: BridgeRecord): string => record.token
export const prune: Effect.Effect<unknown, unknown, BridgeStore> = BridgeStore.use(({ prune }) => prune)
// @ts-expect-error the layer makes no other service
layer satisfies import("effect/Layer").Layer<"another">
`
          fs.writeFileSync(path.join(project, "consumer.mts"), consumer)
          const tsc = path.join(root, "node_modules/typescript/bin/tsc")
          const flags = "--noEmit --strict --exactOptionalPropertyTypes --target es2024 --module nodenext"
          const ran = yield* run(
            process.execPath,
            [
              tsc,
              ...flags.split(" "),
              "--lib",
              "es2024,dom,dom.iterable,esnext",
              "--types",
              "node",
              "consumer.mts"
            ],
            { env: plainEnv, cwd: project }
          )
          assert.deepStrictEqual([ran.code, ran.stdout], [0, ""])
        }),
      seconds
    )

    it.effect(
      "publishing the directory is refused; publishing the tarball announces the consumer's manifest",
      () =>
        Effect.gen(function* () {
          const { repository, tarball, project } = yield* Stranger
          const registry = yield* startRegistry
          const home = yield* temporary("hf-npm-")
          const userconfig = path.join(home, "npmrc")
          fs.writeFileSync(userconfig, `registry=${registry.url}\n${registry.url.slice(5)}:_authToken=none\n`)
          const publish = (...args: ReadonlyArray<string>) =>
            run("npm", ["publish", `--userconfig=${userconfig}`, `--registry=${registry.url}`, ...args], {
              env: npmEnv,
              cwd: repository
            })
          const refused = yield* publish()
          assert.strictEqual(refused.code, 1)
          assert.match(refused.stderr, /^holdfast: publish what was packed: npm pack, then/m)
          assert.deepStrictEqual(registry.published, [])
          const ran = yield* publish(tarball)
          assert.deepStrictEqual([ran.code, registry.published.length], [0, 1])
          const announced = Object.values(registry.published[0]!.versions)[0]!
          const theirs = readJson(path.join(project, "node_modules/holdfast/package.json"))
          assert.deepStrictEqual(announced["dependencies"], theirs.dependencies)
          assert.deepStrictEqual(
            ["optionalDependencies", "devDependencies", "scripts"].filter(
              (key) => announced[key] !== undefined
            ),
            []
          )
        }),
      seconds
    )
  }
)

describe(".ci/manifest", () => {
  const makeClone = Effect.gen(function* () {
    const place = yield* temporary("hf clone-")
    for (const file of [".ci/manifest", "src/programs/node.sh", "package.json"])
      fs.cpSync(path.join(root, file), path.join(place, file))
    const file = path.join(place, "package.json")
    // Neither the bytes that npm would write nor the usual mode.
    fs.appendFileSync(file, "\n\n")
    fs.chmodSync(file, 0o640)
    const read = () => ({ text: fs.readFileSync(file, "utf8"), mode: fs.statSync(file).mode & 0o777 })
    return {
      file,
      read,
      full: read(),
      kept: path.join(place, "node_modules/.cache/holdfast-manifest"),
      manifest: (...args: ReadonlyArray<string>) =>
        run("/bin/sh", [path.join(place, ".ci/manifest"), ...args], { env: plainEnv, cwd: "/" })
    }
  })
  const nothing = { code: 0, signal: null, stdout: "", stderr: "" }

  it.live("what strip took, restore gives back with every byte and the mode", () =>
    Effect.gen(function* () {
      const { full, kept, manifest, read } = yield* makeClone
      assert.deepStrictEqual(yield* manifest("strip"), nothing)
      assert.notMatch(read().text, /node-linux|devDependencies|scripts/)
      assert.deepStrictEqual(yield* manifest("restore"), nothing)
      assert.deepStrictEqual([read(), fs.existsSync(kept)], [full, false])
    })
  )

  it.live("a pack after an interrupted one starts from the full file", () =>
    Effect.gen(function* () {
      const { full, manifest, read } = yield* makeClone
      yield* manifest("strip")
      assert.deepStrictEqual(yield* manifest("strip"), nothing)
      assert.deepStrictEqual(yield* manifest("restore"), nothing)
      assert.deepStrictEqual(read(), full)
    })
  )

  it.live("when npm ends and asks for nothing, the file comes back all the same", () =>
    Effect.gen(function* () {
      const { full, kept, manifest, read } = yield* makeClone
      yield* manifest("strip", "1")
      assert.notDeepEqual(read(), full)
      yield* eventually("the file is back", () => !fs.existsSync(kept))
      assert.deepStrictEqual(read(), full)
    })
  )

  it.live("what was written after an interruption stays, and so does what was written before it", () =>
    Effect.gen(function* () {
      const { file, full, kept, manifest, read } = yield* makeClone
      yield* manifest("strip")
      fs.writeFileSync(file, '{ "name": "edited" }')
      const edited = read()
      for (const again of ["restore", "strip"]) {
        const ran = yield* manifest(again)
        assert.deepStrictEqual([ran.code, ran.stdout], [1, ""])
        assert.match(ran.stderr, /^holdfast: package\.json has changed since a pack was interrupted[^\n]+\n$/)
        assert.deepStrictEqual(
          [read(), fs.readFileSync(path.join(kept, "full.json"), "utf8")],
          [edited, full.text]
        )
      }
    })
  )

  it.live("a restore with nothing to restore fails, so that no wrong tarball goes unnoticed", () =>
    Effect.gen(function* () {
      const { full, manifest, read } = yield* makeClone
      const ran = yield* manifest("restore")
      assert.deepStrictEqual([ran.code, ran.stderr.split("\n").length, read()], [1, 2, full])
    })
  )
})

/** BridgeStore in somebody's program: its neighbours by their entries, Settings by value. */
const embedding = `import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import { existsSync, statSync } from "node:fs"
import { BridgeStore, layer } from "holdfast/BridgeStore"
import * as Database from "holdfast/Database"
import * as Epoch from "holdfast/Epoch"
import * as InstanceMark from "holdfast/InstanceMark"
import * as ProcessIdentity from "holdfast/ProcessIdentity"
import { resolve, Settings } from "holdfast/Settings"

const settings = Result.getOrThrow(resolve({
  env: process.env, uid: process.getuid(), homeDirectory: "/", tempDirectory: "/", clientDirectory: "/"
}, null))

const publish = Effect.gen(function* () {
  const store = yield* BridgeStore
  const path = yield* store.publish({ relayId: "mine", generation: 1, socketPath: "/run/mine.sock", token: "t" })
  yield* Console.log(path, (statSync(path).mode & 0o777).toString(8))
  return path
})

Effect.runFork(Effect.gen(function* () {
  const path = yield* Effect.scoped(publish)
  yield* Console.log(existsSync(path) ? "left" : "gone")
}).pipe(Effect.provide(layer.pipe(
  Layer.provide(Epoch.layer),
  Layer.provide([InstanceMark.layer, Database.layer]),
  Layer.provide(ProcessIdentity.layer),
  Layer.provide(Layer.succeed(Settings, settings))
))))
`

/** A gateway by the installed command, past its ready line; killed with the scope if it still runs. */
const startInstalled = Effect.fnUntraced(function* (command: string, env: Readonly<Record<string, string>>) {
  let stderr = ""
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => childProcess.spawn(command, ["up"], { env, stdio: ["ignore", "pipe", "pipe"] })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
  const over = new Promise<{ code: number | null; signal: string | null; stderr: string }>((resolve) =>
    child.once("close", (code, signal) => resolve({ code, signal, stderr }))
  )
  yield* Effect.callback<void>((resume) => {
    child.stdout.once("data", (line: Buffer) =>
      resume(
        /^holdfast: ready, pid \d+/.test(line.toString())
          ? Effect.void
          : Effect.die(new Error(`instead of ready: ${line}`))
      )
    )
    child.once("close", () => resume(Effect.die(new Error(`the gateway did not start: ${stderr}`))))
  })
  return { ended: Effect.promise(() => over) }
})

type Announced = Readonly<Record<string, unknown>>

/** A registry that knows no package and remembers what it is told. */
const startRegistry = Effect.gen(function* () {
  const published: Array<{ readonly versions: Readonly<Record<string, Announced>> }> = []
  const server = yield* Effect.acquireRelease(
    Effect.callback<http.Server>((resume) => {
      const server = http.createServer((request, response) => {
        let body = ""
        request.setEncoding("utf8").on("data", (text: string) => (body += text))
        request.once("end", () => {
          if (request.method === "PUT") published.push(JSON.parse(body))
          response.writeHead(request.method === "PUT" ? 201 : 404, { "content-type": "application/json" })
          response.end("{}")
        })
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        server.closeAllConnections()
      })
  )
  return { published, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` }
})
