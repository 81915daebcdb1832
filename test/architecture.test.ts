/** The rules of the house that a machine can check; the README says why. */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"
import { version } from "../src/services/Settings.ts"

const filesIn = (dir: string): ReadonlyArray<string> =>
  fs
    .readdirSync(dir, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => path.join(dir, file))

const read = (file: string): string => fs.readFileSync(file, "utf8")

const importsOf = (file: string): ReadonlyArray<string> =>
  [...read(file).matchAll(/^(?:import|export)\s(?:[^"'=;]*?\sfrom\s)?["']([^"']+)["']/gm)].map(
    (match) => match[1]!
  )

const closureOf = (entry: string, seen = new Set<string>()): ReadonlySet<string> => {
  if (!seen.has(entry)) {
    seen.add(entry)
    for (const to of importsOf(entry))
      if (to.startsWith(".")) closureOf(path.join(path.dirname(entry), to), seen)
  }
  return seen
}

const manifest = JSON.parse(read("package.json"))

const name = (file: string): string => path.basename(file, ".ts")
const concepts = filesIn("src/services")
const testing = filesIn("src/testing")
const layers = filesIn("src/layers").filter((file) => !file.startsWith("src/layers/internal/"))

/** The longest concept that the layer's name starts with. */
const contractOf = (file: string): string | undefined =>
  concepts
    .map(name)
    .filter((concept) => name(file).startsWith(concept))
    .toSorted((a, b) => b.length - a.length)[0]

/** Where the build puts what becomes of a source file. */
const builtAt = (file: string): string => `./dist/library/${file.slice("src/".length, -".ts".length)}`

/**
 * `effect/rpc/Rpc`, `RpcGroup` and `RpcMiddleware` are words (schemas of questions and answers, and what has to be true of
 * who asks), so a service may name them; the transports below `effect/rpc` stay in layers.
 */
const mayImport: Record<string, RegExp> = {
  "src/services": /^(effect\/(?!Layer$)[A-Z]\w*|effect\/rpc\/(Rpc|RpcGroup|RpcMiddleware)|\.\/\w+\.ts)$/,
  "src/layers":
    /^(effect\/(\w+\/)?[A-Z]\w*|@effect\/platform-node\/[A-Z]\w*|node:[\w/]+|node-pty|koffi|@xterm\/headless|smol-toml|unbash|@peculiar\/x509|reflect-metadata|ws|@secretlint\/secretlint-rule-preset-recommend|(\.\.\/)+services\/\w+\.ts|\.\/(internal\/)?\w+\.ts)$/,
  // No others: a consumer has neither our tools nor a reason to start anything.
  "src/testing":
    /^(effect\/([\w-]+\/)?[A-Z]\w*|\.\.\/services\/\w+\.ts|\.\.\/layers\/(internal\/)?\w+\.ts|\.\/[A-Z]\w*\.ts)$/,
  "src/programs":
    /^(effect\/([\w-]+\/)?[A-Z]\w*|@effect\/platform-node\/[A-Z]\w*|node:[\w/]+|(\.\.\/){1,2}(services|layers)\/\w+\.ts|\.\/(internal\/)?\w+\.ts)$/
}

/** The one barrel: a test's imports cost nobody anything. */
const testingEntry = "src/testing/index.ts"

const bannedNames =
  /(Manager|Service|Handler|Helper|Utils?|Common|Shared|Core|Base|Impl|Live)$|^(types|index)$/

describe("architecture", () => {
  for (const [dir, rule] of Object.entries(mayImport)) {
    it(`${dir} imports only what it may`, () => {
      const broken = filesIn(dir).flatMap((file) =>
        importsOf(file)
          .filter((to) => !rule.test(to))
          .map((to) => `${file} -> ${to}`)
      )
      assert.deepStrictEqual(broken, [])
    })
  }

  it("a program never imports a program", () => {
    const broken = filesIn("src/programs")
      .filter((file) => path.dirname(file) === "src/programs")
      .flatMap((file) => importsOf(file).filter((to) => /^\.\/\w+\.ts$/.test(to)))
    assert.deepStrictEqual(broken, [])
  })

  it("a layer never imports a layer", () => {
    const broken = layers.flatMap((file) =>
      importsOf(file)
        .filter((to) => /^\.\/\w+\.ts$/.test(to))
        .map((to) => `${file} -> ${to}`)
    )
    assert.deepStrictEqual(broken, [])
  })

  it("only programs run effects or read their surroundings", () => {
    const broken = [...concepts, ...filesIn("src/layers"), ...testing].filter((file) =>
      /\bEffect\.run|\bprocess\.(env|argv)\b/.test(read(file))
    )
    assert.deepStrictEqual(broken, [])
  })

  it("a layer file starts with the name of the service it provides", () => {
    const strays = layers.filter((file) => !concepts.some((concept) => name(file).startsWith(name(concept))))
    assert.deepStrictEqual(strays, [])
  })

  it("no file has a name that says nothing", () => {
    assert.deepStrictEqual(
      filesIn("src").filter((file) => bannedNames.test(name(file)) && file !== testingEntry),
      []
    )
  })

  it("a fake has the name of the concept it stands for, and holdfast/testing has them all", () => {
    const own = testing.filter((file) => file !== testingEntry)
    assert.deepStrictEqual(
      own.filter((file) => !concepts.map(name).includes(name(file)) && name(file) !== "VirtualTime"),
      []
    )
    assert.deepStrictEqual(
      importsOf(testingEntry).toSorted(),
      own.map((file) => `./${path.basename(file)}`).toSorted()
    )
  })

  it("nothing that runs in earnest reaches a fake", () => {
    const reached = ["src/services", "src/layers", "src/programs"]
      .flatMap(filesIn)
      .flatMap((file) => [...closureOf(file)].filter((to) => testing.includes(to)))
    assert.deepStrictEqual(reached, [])
  })

  it("the bundled hook program starts without effect", () => {
    const outside = [...closureOf("src/programs/hookRelay.ts")].flatMap((file) =>
      importsOf(file).filter((to) => !to.startsWith(".") && !/^node:(net|fs)$/.test(to))
    )
    assert.deepStrictEqual(outside, [])
  })

  it("real time stays in the integration tests", () => {
    const live = filesIn("test").filter(
      (file) => !/\.(integration|soak)\.test\.ts$/.test(file) && /\bit\.live\(/.test(read(file))
    )
    assert.deepStrictEqual(
      live.filter((file) => !file.endsWith("architecture.test.ts")),
      []
    )
  })

  it("the package has one entry per concept and per named layer, each at a file of the build, and no other", () => {
    const entries = Object.fromEntries(
      [...concepts, ...layers].map((file) => [
        `./${name(file)}`,
        { types: `${builtAt(file)}.d.ts`, default: `${builtAt(file)}.js` }
      ])
    )
    assert.deepStrictEqual(manifest.exports, {
      ...entries,
      "./testing": { types: `${builtAt(testingEntry)}.d.ts`, default: `${builtAt(testingEntry)}.js` },
      "./package.json": "./package.json"
    })
  })

  it("a layer's entry gives its contract too", () => {
    assert.deepStrictEqual(
      layers.filter((file) => !read(file).includes(`\nexport * from "../services/${contractOf(file)}.ts"\n`)),
      []
    )
  })

  it("the version that programs print is the package's", () => {
    assert.strictEqual(version, manifest.version)
  })

  it("every concept has its line in the README", () => {
    const readme = read("README.md")
    assert.deepStrictEqual(
      concepts.map(name).filter((concept) => !readme.includes(`\`${concept}\``)),
      []
    )
  })

  it("no source file passes 600 lines", () => {
    assert.deepStrictEqual(
      filesIn("src").filter((file) => read(file).split("\n").length > 600),
      []
    )
  })
})
