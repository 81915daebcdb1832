/**
 * The package as a stranger gets it: packed from a copy of the working tree, installed by npm into an empty project, used
 * with nothing but what npm put there. Needs the registry, or npm's cache of it.
 */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import * as path from "node:path"
import { run } from "./support/gateway.ts"
import { carriers, withInEnvironment } from "./support/markedProcesses.ts"
import {
  begin,
  effectVersion,
  filesIn,
  makeStranger,
  npm,
  npmEnv,
  plainEnv,
  readJson,
  root,
  startRegistry,
  Stranger,
  temporary,
  withoutWarnings
} from "./support/stranger.ts"

/** The design's bounds for the package with everything it needs, effect included. */
const maxPackages = 60
const maxInstalledBytes = 130_000_000

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
    const program = Effect.fnUntraced(function* (name: string, env = {}) {
      const { project } = yield* Stranger
      const ran = yield* run(process.execPath, [name], { env: { ...plainEnv, ...env }, cwd: project })
      assert.deepStrictEqual([ran.code, withoutWarnings(ran.stderr)], [0, ""])
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
        const { name, version, description, license, type, engines, dependencies, peerDependencies } = ours
        const { bin, files, exports } = ours
        assert.deepStrictEqual(readJson(path.join(project, "node_modules/holdfast/package.json")), {
          name,
          version,
          description,
          license,
          type,
          engines,
          dependencies,
          peerDependencies,
          bin,
          files,
          exports
        })
      })
    )

    it.effect("it holds the programs, without a fake, the library with its types, and nothing else", () =>
      Effect.gen(function* () {
        const { project } = yield* Stranger
        const programs = filesIn(path.join(project, "node_modules/holdfast/dist"))
          .filter((file) => /^[\w-]+\.[mc]js$/.test(file))
          .map((file) => fs.readFileSync(path.join(project, "node_modules/holdfast/dist", file), "utf8"))
        assert.isAbove(programs.length, 0)
        assert.isFalse(programs.some((text) => text.includes("holdfast/testing")))
        const library = /^dist\/library\/(services|layers|layers\/internal|testing)\/\w+\.(js|d\.ts)$/
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
          const files = filesIn(modules)
          assert.deepStrictEqual(
            files.filter((file) => /(^|\/node_modules\/)effect\/package\.json$/.test(file)),
            ["effect/package.json"]
          )
          assert.isAtMost(installed.length, maxPackages)
          const bytes = files.reduce(
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
      "npm brings effect along where nobody has asked for it, as for a command",
      () =>
        Effect.gen(function* () {
          const { tarball } = yield* Stranger
          const prefix = yield* temporary("hf-g-")
          fs.mkdirSync(path.join(prefix, "lib"))
          const plan = yield* npm(
            prefix,
            "install",
            "-g",
            "--prefix",
            prefix,
            "--dry-run",
            "--prefer-offline",
            tarball
          )
          assert.deepStrictEqual(
            plan.split("\n").filter((line) => / effect /.test(line)),
            [`add effect ${effectVersion}`]
          )
        }),
      seconds
    )

    it.effect(
      "a gateway of the installed package needs no effect: it becomes ready, runs a command, and is ended by down",
      () =>
        Effect.gen(function* () {
          const { project } = yield* Stranger
          const alone = yield* temporary("hf-n-")
          fs.cpSync(path.join(project, "node_modules/holdfast/dist"), path.join(alone, "dist"), {
            recursive: true
          })
          fs.mkdirSync(path.join(alone, "node_modules"))
          for (const name of ["koffi", "node-pty"])
            fs.symlinkSync(path.join(project, "node_modules", name), path.join(alone, "node_modules", name))
          const env = {
            ...plainEnv,
            HOLDFAST_HOME: yield* temporary("hf-h-"),
            HOLDFAST_RUNTIME_DIR: yield* temporary("hf-r-"),
            HOLDFAST_LOG_LEVEL: "warn"
          }
          const command = path.join(alone, "dist/holdfast.sh")
          const gateway = yield* begin(command, ["up"], { env, cwd: alone })
          assert.match(gateway.said, /^holdfast: ready, pid \d+/)
          assert.strictEqual((yield* holdfast(["status"], env)).code, 0)
          const ran = yield* run(command, ["run", "--", "printf", "hello"], { env, cwd: alone })
          assert.deepStrictEqual([ran.code, ran.stdout], [0, "hello"])
          const down = yield* holdfast(["down"], env)
          assert.deepStrictEqual([down.code, down.stderr], [0, ""])
          assert.deepStrictEqual(yield* gateway.ended, { code: 0, signal: null, stderr: "" })
        }),
      seconds
    )

    it.effect(
      "a certificate is made without a package that only this repository has",
      () =>
        Effect.gen(function* () {
          const home = yield* temporary("hf-h-")
          const out = yield* program("certificate.mjs", { HOLDFAST_HOME: home })
          assert.strictEqual(out, "-----BEGIN CERTIFICATE-----\n")
        }),
      seconds
    )

    it.effect(
      "every entry can be imported, one with a layer gives make and layer too, and nothing behind them",
      () =>
        Effect.gen(function* () {
          const { project } = yield* Stranger
          fs.writeFileSync(
            path.join(project, "entries.mjs"),
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
          const out = yield* program("entries.mjs")
          assert.deepStrictEqual(JSON.parse(out), [[], "ERR_PACKAGE_PATH_NOT_EXPORTED"])
        }),
      seconds
    )

    it.effect(
      "every entry has types that a strict compiler takes, down to the last library, and so has who uses them",
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
          const strict =
            "--strict --exactOptionalPropertyTypes --noUncheckedIndexedAccess --erasableSyntaxOnly"
          const modern = "--target es2024 --module nodenext --lib es2024,dom,dom.iterable,esnext --types node"
          const flags = `--noEmit --allowImportingTsExtensions ${strict} ${modern}`
          const ran = yield* run(
            process.execPath,
            [tsc, ...flags.split(" "), "consumer.mts", "app.ts", "waits-three-days.ts"],
            { env: plainEnv, cwd: project }
          )
          assert.deepStrictEqual([ran.code, ran.stdout], [0, ""])
        }),
      seconds
    )

    it.effect(
      "a program with a graph of its own has every concern without a gateway, and leaves nothing behind",
      () =>
        Effect.gen(function* () {
          const { project } = yield* Stranger
          const place = yield* temporary("hf-a-")
          const [home, TMPDIR] = [path.join(place, "home"), path.join(place, "tmp")]
          fs.mkdirSync(TMPDIR)
          const app = yield* begin(process.execPath, ["app.ts"], {
            env: { ...plainEnv, HOLDFAST_HOME: home, TMPDIR },
            cwd: project
          })
          const { mark, hooks, appServer, run, tls } = JSON.parse(app.said)
          const { recordPath, ...decided } = hooks
          const alive = () => [appServer.pid, run.pid].filter((pid) => fs.existsSync(`/proc/${pid}`))
          assert.deepStrictEqual(
            {
              decided,
              said: appServer.said,
              shared: appServer.shared,
              run: { ...run, pid: null },
              tls,
              alive: alive()
            },
            {
              decided: { said: ["allow", "deny", "allow"], recordMode: "600", sameRelay: true },
              said: "hello from the app-server",
              shared: true,
              run: { printed: "hello", status: { code: 0, signal: null }, proven: true, pid: null },
              tls: { same: true, failure: "TlsUnreachable" },
              alive: [appServer.pid, run.pid]
            }
          )
          assert.isTrue(fs.existsSync(recordPath) && recordPath.startsWith(home))
          assert.isAbove(withInEnvironment(TMPDIR).length, 2)
          app.child.kill("SIGTERM")
          const { stderr, ...ended } = yield* app.ended
          assert.deepStrictEqual(
            {
              ...ended,
              stderr: withoutWarnings(stderr),
              alive: alive(),
              marked: carriers(mark.low, mark.high),
              byEnvironment: withInEnvironment(TMPDIR),
              // What survives by its promise: the ledger, where the log of decisions ends, and what the two runs printed.
              files: filesIn(place)
                .map((file) => file.replace(/runs\/[^/]+/, "runs/ID"))
                .toSorted()
            },
            {
              code: 0,
              signal: null,
              stderr: "",
              alive: [],
              marked: [],
              byEnvironment: [],
              files: [
                "home/state/audit.head",
                "home/state/holdfast.db",
                ...Array(2).fill("home/state/runs/ID/output.0000000000000000.log"),
                ...Array(2).fill("home/state/runs/ID/output.marks")
              ]
            }
          )
        }),
      seconds
    )

    it.effect(
      "with holdfast/testing a consumer's test has an approval wait for three days, in milliseconds",
      () =>
        Effect.gen(function* () {
          const { tookMs } = JSON.parse(yield* program("waits-three-days.ts"))
          assert.isBelow(tookMs, 10_000)
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
          assert.deepStrictEqual(
            [announced["dependencies"], announced["peerDependencies"]],
            [theirs.dependencies, theirs.peerDependencies]
          )
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
