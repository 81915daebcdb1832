/** node.sh and holdfast.sh, with small scripts in the place of Nodes: which of them runs, and what reaches it. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { run } from "./support/gateway.ts"

const programs = path.resolve(import.meta.dirname, "../src/programs")

const shells = ["sh", "dash", "bash", "ksh", "zsh", "busybox"].flatMap((name) => {
  const found = (process.env["PATH"] ?? "")
    .split(":")
    .map((directory) => path.join(directory, name))
    .find((file) => fs.existsSync(file))
  return found === undefined ? [] : [name === "busybox" ? [found, "sh"] : [found]]
})

/** Says who it is and which arguments it got, one per record. */
const node = (name: string, version: string): string => `#!/bin/sh
[ "$1" = --version ] && { echo '${version}'; exit; }
printf '%s\\0' '${name}' "$@"
`

interface Place {
  /** Its name has a blank, as users' directories have. */
  readonly root: string
  readonly file: (name: string, text: string) => string
  readonly copy: (name: string) => string
  readonly link: (name: string, to: string) => string
  /** The directory of a Node: what PATH is made of. */
  readonly nodeIn: (directory: string, version: string) => string
  /** PATH without any Node, but with what the launcher calls. */
  readonly tools: string
}

const makePlace = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "hf launcher-")))),
    (root) => Effect.sync(() => fs.rmSync(root, { recursive: true, force: true }))
  ),
  (root): Place => {
    const made = (name: string, make: (file: string) => void): string => {
      const file = path.join(root, name)
      fs.mkdirSync(path.dirname(file), { recursive: true })
      make(file)
      return file
    }
    const file = (name: string, text: string) =>
      made(name, (file) => fs.writeFileSync(file, text, { mode: 0o755 }))
    const link = (name: string, to: string) => made(name, (file) => fs.symlinkSync(to, file))
    link("tools/readlink", "/usr/bin/readlink")
    return {
      root,
      file,
      link,
      copy: (name) => made(name, (file) => fs.copyFileSync(path.join(programs, path.basename(name)), file)),
      nodeIn: (directory, version) =>
        path.dirname(file(path.join(directory, "node"), node(directory, version))),
      tools: path.join(root, "tools")
    }
  }
)

const words = (stdout: string): ReadonlyArray<string> => stdout.split("\0").slice(0, -1)

const old = "v20.20.2"
const recent = "v24.21.0"

const needsOne =
  "holdfast: needs Node 22.19 or newer and found none. Install one (https://nodejs.org), or set HOLDFAST_NODE to its path.\n"

describe("node.sh", () => {
  /** A clone with its own Node, and three other Nodes around it. */
  const choosing = Effect.fnUntraced(function* (
    env: (place: Place) => Readonly<Record<string, string>>,
    script = "clone/src/programs/node.sh"
  ) {
    const place = yield* makePlace
    place.nodeIn("old", old)
    place.nodeIn("recent", recent)
    place.nodeIn("other", "v22.19.0")
    place.nodeIn("clone/node_modules/.bin", recent)
    const ran = yield* run("/bin/sh", [place.copy(script), "x"], {
      env: { PATH: place.tools, ...env(place) },
      cwd: place.root
    })
    return ran.code === 0 ? words(ran.stdout)[0] : ran.stderr
  })

  const cases: ReadonlyArray<readonly [string, string, (place: Place) => Readonly<Record<string, string>>]> =
    [
      [
        "HOLDFAST_NODE goes before everything",
        "other",
        ({ root, tools }) => ({
          HOLDFAST_NODE: `${root}/other/node`,
          npm_node_execpath: `${root}/recent/node`,
          PATH: `${root}/recent:${tools}`
        })
      ],
      [
        "HOLDFAST_NODE may be a name on PATH",
        "other",
        ({ root, tools }) => ({ HOLDFAST_NODE: "node", PATH: `${root}/other:${tools}` })
      ],
      [
        "the Node that runs npm goes before PATH",
        "other",
        ({ root, tools }) => ({
          npm_node_execpath: `${root}/other/node`,
          PATH: `${root}/recent:${tools}`
        })
      ],
      [
        "an npm on an old Node does not hide a new one on PATH",
        "recent",
        ({ root, tools }) => ({ npm_node_execpath: `${root}/old/node`, PATH: `${root}/recent:${tools}` })
      ],
      [
        "the first on PATH that is new enough is the user's own",
        "other",
        ({ root, tools }) => ({ PATH: `${root}/old:${root}/other:${root}/recent:${tools}` })
      ],
      [
        "a node_modules/.bin that npm put on PATH is not the user's own",
        "other",
        ({ root, tools }) => ({
          PATH: `${root}/clone/node_modules/.bin:node_modules/.bin:${root}/clone/node_modules/.bin/:${root}/other:${tools}`
        })
      ],
      [
        "with old ones alone it is the repository's",
        "clone/node_modules/.bin",
        ({ root, tools }) => ({ PATH: `${root}/old:${tools}:${root}/old` })
      ],
      ["with none it is the repository's", "clone/node_modules/.bin", () => ({})],
      [
        "a HOLDFAST_NODE that is empty is none",
        "clone/node_modules/.bin",
        () => ({ HOLDFAST_NODE: "", npm_node_execpath: "" })
      ]
    ]
  for (const [promise, chosen, env] of cases)
    it.live(promise, () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* choosing(env), chosen)
      })
    )

  it.live("the build's copy finds the repository's Node as well", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* choosing(() => ({}), "clone/dist/node.sh"), "clone/node_modules/.bin")
    })
  )

  it.live("installed, it finds the Node that the project around it has", () =>
    Effect.gen(function* () {
      const place = yield* makePlace
      place.nodeIn("project/node_modules/.bin", recent)
      const script = place.copy("project/node_modules/holdfast/dist/node.sh")
      const ran = yield* run("/bin/sh", [script, "x"], { env: { PATH: place.tools } })
      assert.deepStrictEqual(words(ran.stdout), ["project/node_modules/.bin", "x"])
    })
  )

  it.live("nothing beside a clone, in the current directory or behind a pattern is taken for a Node", () =>
    Effect.gen(function* () {
      const place = yield* makePlace
      place.nodeIn(".bin", recent)
      place.nodeIn("node_modules/.bin", recent)
      place.nodeIn("here", recent)
      fs.mkdirSync(path.join(place.root, "directory/node"), { recursive: true })
      const ran = yield* run("/bin/sh", [place.copy("clone/dist/node.sh"), "x"], {
        env: { PATH: `:${place.tools}::${place.root}/her*:${place.root}/directory:` },
        cwd: path.join(place.root, "here")
      })
      assert.deepStrictEqual(ran, { code: 1, signal: null, stdout: "", stderr: needsOne })
    })
  )

  it.live("22.19 is new enough, and what is no version is not", () =>
    Effect.gen(function* () {
      const place = yield* makePlace
      const script = place.copy("dist/node.sh")
      const accepted = Effect.fnUntraced(function* (version: string) {
        const PATH = `${place.nodeIn("one", version)}:${place.tools}`
        const ran = yield* run("/bin/sh", [script, "x"], { env: { PATH } })
        assert.deepStrictEqual([ran.code, ran.stderr], ran.code === 0 ? [0, ""] : [1, needsOne])
        return ran.code === 0
      })
      const versions = [
        "v22.18.9",
        "v22.19.0",
        "v22.20.1",
        "v24.0.0",
        "v100.0.0",
        "v27.0.0-nightly20261120",
        "v9.99.0",
        "v0.10.48",
        "24.0.0",
        "v24",
        "node v24.0.0",
        "v24x.0.0",
        ""
      ]
      assert.deepStrictEqual(
        (yield* Effect.forEach(versions, (version) =>
          Effect.map(accepted(version), (yes) => (yes ? [version] : []))
        )).flat(),
        ["v22.19.0", "v22.20.1", "v24.0.0", "v100.0.0", "v27.0.0-nightly20261120"]
      )
    })
  )

  it.live("a HOLDFAST_NODE that is too old or not there is refused in one line, whatever else there is", () =>
    Effect.gen(function* () {
      const place = yield* makePlace
      const script = place.copy("dist/node.sh")
      const PATH = `${place.nodeIn("recent", recent)}:${place.tools}`
      place.nodeIn("old", old)
      const refused = Effect.fnUntraced(function* (chosen: string) {
        return yield* run("/bin/sh", [script, "x"], { env: { PATH, HOLDFAST_NODE: chosen } })
      })
      for (const chosen of [`${place.root}/old/node`, `${place.root}/gone/node`, place.root])
        assert.deepStrictEqual(yield* refused(chosen), {
          code: 1,
          signal: null,
          stdout: "",
          stderr: `holdfast: HOLDFAST_NODE=${chosen} is not Node 22.19 or newer. Point it at one, or unset it.\n`
        })
    })
  )

  const hard = ["", " a  b ", `it's "quoted"`, "two\nlines\n", "*", "$HOME `id` \\n", "-e", "--", "ü"]
  for (const shell of shells)
    it.live(
      `under ${shell.join(" ")} arguments pass unchanged, and the program takes the launcher's place`,
      () =>
        Effect.gen(function* () {
          const place = yield* makePlace
          const script = place.copy("dist/node.sh")
          const text = node("one", recent).replace(
            "printf",
            `[ "$1" = pid ] && { echo "$$ $PPID"; exit 7; }\nprintf`
          )
          const PATH = `${path.dirname(place.file("one/node", text))}:${place.tools}`
          const [command, ...before] = shell
          const ran = yield* run(command!, [...before, script, ...hard], { env: { PATH } })
          assert.deepStrictEqual(words(ran.stdout), ["one", ...hard])
          const pids = yield* run(command!, [...before, script, "pid"], { env: { PATH } })
          assert.deepStrictEqual([pids.code, pids.stdout.trim().split(" ")[1]], [7, String(process.pid)])
        })
    )
})

describe("holdfast.sh", () => {
  const built = Effect.map(makePlace, (place) => {
    place.file("clone/dist/cli.mjs", "")
    place.copy("clone/dist/node.sh")
    return {
      ...place,
      script: place.copy("clone/dist/holdfast.sh"),
      env: { PATH: `${place.nodeIn("one", recent)}:${place.tools}` }
    }
  })

  it.live("up and demo are programs of their own, everything else is for the command line's", () =>
    Effect.gen(function* () {
      const { env, root, script } = yield* built
      const started = (...args: ReadonlyArray<string>) =>
        Effect.map(run("/bin/sh", [script, ...args], { env }), ({ stdout }) => words(stdout))
      const program = (name: string, ...flags: ReadonlyArray<string>) => [
        "one",
        "--no-warnings",
        ...flags,
        `${root}/clone/dist/${name}.mjs`
      ]
      assert.deepStrictEqual(
        yield* Effect.all([
          started("up", "--json"),
          started("demo"),
          started("codex", "say\n'up'"),
          started("--json", "up"),
          started()
        ]),
        [
          [...program("gateway", "--max-semi-space-size=2"), "--json"],
          program("demo"),
          [...program("cli"), "codex", "say\n'up'"],
          [...program("cli"), "--json", "up"],
          program("cli")
        ]
      )
    })
  )

  it.live("a link to it, a link to a link and a name on PATH start the same program", () =>
    Effect.gen(function* () {
      const { env, link, root, script } = yield* built
      fs.chmodSync(script, 0o755)
      const first = link("bin/holdfast", "../clone/dist/holdfast.sh")
      const second = link("elsewhere/hf", "../bin/holdfast")
      for (const [command, ...args] of [["/bin/sh", first], ["/bin/sh", second], [second], ["holdfast"]])
        assert.deepStrictEqual(
          words((yield* run(command!, args, { env: { PATH: `${root}/bin:${env.PATH}` }, cwd: root })).stdout),
          ["one", "--no-warnings", `${root}/clone/dist/cli.mjs`]
        )
    })
  )

  it.live("by a link, with old Nodes alone, it finds the repository's", () =>
    Effect.gen(function* () {
      const { link, nodeIn, root, tools } = yield* built
      nodeIn("clone/node_modules/.bin", recent)
      const PATH = `${nodeIn("old", old)}:${tools}`
      const ran = yield* run("/bin/sh", [link("hf", "clone/dist/holdfast.sh")], { env: { PATH } })
      assert.deepStrictEqual(words(ran.stdout), [
        "clone/node_modules/.bin",
        "--no-warnings",
        `${root}/clone/dist/cli.mjs`
      ])
    })
  )

  it.live("before the build it says in one line what to run", () =>
    Effect.gen(function* () {
      const place = yield* makePlace
      const script = place.copy("clone/src/programs/holdfast.sh")
      place.copy("clone/src/programs/node.sh")
      const ran = yield* run("/bin/sh", [script, "status"], { env: { PATH: place.tools } })
      assert.deepStrictEqual(ran, {
        code: 1,
        signal: null,
        stdout: "",
        stderr: `holdfast: ${place.root}/clone/src/programs/cli.mjs is missing. In a clone, run: npm run build\n`
      })
    })
  )
})
