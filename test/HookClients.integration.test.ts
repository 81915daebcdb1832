/** HookClients, live: programs on a PATH of the test's making, tried as real processes. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import * as path from "node:path"
import { layer } from "../src/layers/HookClients.ts"
import { argvOf, HookClients } from "../src/services/HookClients.ts"
import type { HookClient } from "../src/services/HookRelay.ts"
import { resolve, Settings } from "../src/services/Settings.ts"
import { temporaryDirectory } from "./support/HookGateway.ts"

const programs = path.resolve("src/programs")
const systemPath = process.env["PATH"] ?? ""

/** A package directory with every client, and a PATH of the given programs: scripts by text, links by target. */
const machine = (scripts: Readonly<Record<string, string>>, options: { readonly systemToo?: boolean } = {}) =>
  Effect.gen(function* () {
    const home = yield* temporaryDirectory
    const [bin, dist] = [`${home}/bin`, `${home}/dist`]
    fs.mkdirSync(bin)
    fs.mkdirSync(dist)
    for (const file of ["hookRelay.pl", "hookRelay.sh"])
      fs.copyFileSync(`${programs}/${file}`, `${dist}/${file}`)
    fs.writeFileSync(`${dist}/hookRelay.cjs`, "")
    for (const [name, text] of Object.entries(scripts))
      fs.writeFileSync(`${bin}/${name}`, text, { mode: 0o755 })
    const searchPath = options.systemToo ? `${bin}:${systemPath}` : bin
    const found = (forced: HookClient["kind"] | null = null) =>
      Effect.scoped(
        Effect.gen(function* () {
          const settings = Result.getOrThrow(
            resolve(
              {
                env: {
                  HOLDFAST_HOME: home,
                  PATH: searchPath,
                  ...(forced ? { HOLDFAST_HOOK_CLIENT: forced } : {})
                },
                uid: 0,
                homeDirectory: home,
                tempDirectory: home,
                clientDirectory: dist
              },
              null
            )
          )
          return yield* HookClients.use(({ best, found }) =>
            Effect.map(found, (found) => ({ best, found }))
          ).pipe(Effect.provide(layer.pipe(Layer.provide(Layer.succeed(Settings, settings)))))
        })
      )
    return { home, bin, dist, found }
  })

/** Runs the real program of that name, as a wrapper on the test's own PATH. */
const passes = (program: string): string => `#!/bin/sh\nPATH='${systemPath}' exec ${program} "$@"\n`

const onPath = (program: string): boolean =>
  systemPath.split(":").some((dir) => fs.existsSync(`${dir}/${program}`))

const present = (["perl", "nc", "curl"] as const).filter(onPath)

console.log(`programs for hook clients here: ${present.join(", ") || "none"}`)

describe("HookClients", () => {
  it("has a fast client to find, on Linux", () => {
    if (process.platform === "linux") assert.isNotEmpty(present)
  })

  it.live("finds every client that brings an answer back, cheapest first, and Node in any case", () =>
    Effect.gen(function* () {
      const { bin, dist, found } = yield* machine(
        Object.fromEntries(present.map((program) => [program, passes(program)]))
      )
      const expected: ReadonlyArray<HookClient> = [
        ...present.map((kind) => ({ kind, argv: argvOf(kind, `${bin}/${kind}`, dist) })),
        { kind: "node", argv: argvOf("node", process.execPath, dist) }
      ]
      assert.deepStrictEqual(yield* found(), { found: expected, best: expected[0]! })
    })
  )

  it.live("passes over a program that is there and does not do the work", () =>
    Effect.gen(function* () {
      const { dist, found } = yield* machine({
        perl: "#!/bin/sh\necho '{}'\n",
        nc: "#!/bin/sh\necho 'nc: invalid option -- U' >&2\nexit 1\n",
        curl: "#!/bin/sh\nexec sleep 30\n"
      })
      const node: HookClient = { kind: "node", argv: argvOf("node", process.execPath, dist) }
      assert.deepStrictEqual(yield* found(), { found: [node], best: node })
    })
  )

  it.live("uses the one the settings name, or says why it cannot", () =>
    Effect.gen(function* () {
      const { dist, found } = yield* machine({ nc: "#!/bin/sh\nexit 1\n" })
      const node: HookClient = { kind: "node", argv: argvOf("node", process.execPath, dist) }
      assert.deepStrictEqual(yield* found("node"), { found: [node], best: node })
      const problems = yield* Effect.forEach(["perl", "nc"] as const, (kind) =>
        Effect.map(Effect.flip(found(kind)), (error) => ({ ...error }))
      )
      assert.deepStrictEqual(
        problems.map((problem) => ("kind" in problem ? [problem.kind, problem.problem] : [])),
        [
          ["perl", "not-found"],
          ["nc", "does-not-work"]
        ]
      )
      fs.rmSync(`${dist}/hookRelay.cjs`)
      const nothing = yield* Effect.flip(found())
      assert.include(nothing.message, "hookRelay.cjs is missing")
    })
  )

  it.live("leaves nothing of its trial behind", () =>
    Effect.gen(function* () {
      const { found, home } = yield* machine({}, { systemToo: true })
      yield* found()
      assert.deepStrictEqual(fs.readdirSync(`${home}/run`), [])
    })
  )
})
