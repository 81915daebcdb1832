import { assert, describe, it } from "@effect/vitest"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { runDefaults } from "../src/services/Run.ts"
import {
  commandOf,
  longestMs,
  parseVariable,
  type RunOptions,
  separated
} from "../src/services/RunCommand.ts"

const options = (over: Partial<RunOptions> = {}): RunOptions => ({
  words: ["make", "-j", "all"],
  name: null,
  scope: null,
  replace: false,
  pty: null,
  timeoutMs: null,
  startTimeoutMs: null,
  idleTimeoutMs: null,
  killGraceMs: null,
  onGatewayLoss: "adopt",
  adoptGraceMs: null,
  restart: "temporary",
  cwd: "/w",
  env: [],
  ...over
})

const problemOf = (over: Partial<RunOptions>): string =>
  Result.match(commandOf(options(over), {}), { onFailure: ({ message }) => message, onSuccess: () => "none" })

describe("what a person types to start a run", () => {
  it("is a command with its arguments, and the defaults for what was not said", () => {
    assert.deepStrictEqual(Result.getOrThrow(commandOf(options(), {})), {
      spec: { ...runDefaults, command: "make", args: ["-j", "all"], cwd: "/w" },
      variables: {}
    })
  })

  it("keeps what was said", () => {
    const said = {
      name: "web-1",
      scope: "dev server",
      replace: true,
      pty: { cols: 100, rows: 30 },
      timeoutMs: longestMs,
      startTimeoutMs: 2,
      idleTimeoutMs: 3,
      killGraceMs: 4,
      onGatewayLoss: "kill",
      adoptGraceMs: 5,
      restart: "permanent"
    } as const
    const { spec } = Result.getOrThrow(commandOf(options(said), {}))
    assert.deepStrictEqual(spec, { ...runDefaults, ...said, command: "make", args: ["-j", "all"], cwd: "/w" })
  })

  it("takes along what a command needs of its caller's shell, and no secret of it", () => {
    const caller = { PATH: "/p", HOME: "/h", TZ: "UTC", API_KEY: "k", HOLDFAST_RUN: "r-1", LANG: undefined }
    const { spec, variables } = Result.getOrThrow(commandOf(options(), caller))
    assert.deepStrictEqual(variables, { PATH: "/p", HOME: "/h", TZ: "UTC" })
    assert.deepStrictEqual([spec.env, spec.spawnedBy], [{}, "r-1"])
  })

  it("a variable that is given counts over the caller's", () => {
    const given = options({ env: ["PATH=/mine", "API_KEY", "UNKNOWN", "EMPTY=", "TWO=a=b"] })
    const { spec, variables } = Result.getOrThrow(commandOf(given, { PATH: "/p", API_KEY: "k" }))
    assert.deepStrictEqual(spec.env, { PATH: "/mine", API_KEY: "k", EMPTY: "", TWO: "a=b" })
    assert.deepStrictEqual(variables, {})
  })

  it("a variable by its name alone is the caller's, or none", () => {
    assert.deepStrictEqual(
      ["A", "B", "C=", "=x", ""].map((text) =>
        Result.match(parseVariable(text, { A: "1" }), {
          onFailure: ({ _tag }) => _tag,
          onSuccess: Option.getOrNull
        })
      ),
      [["A", "1"], null, ["C", ""], "RunSpecRefused", "RunSpecRefused"]
    )
  })

  const refused: ReadonlyArray<readonly [string, Partial<RunOptions>, RegExp]> = [
    ["no command", { words: [] }, /There is no command to run.*holdfast run -- CMD ARGS/],
    ["an empty command", { words: [""] }, /There is no command to run/],
    ["a name that no reference could have", { name: "-x" }, /"-x" cannot be a run's name/],
    ["a name with a space", { name: "a b" }, /"a b" cannot be a run's name/],
    ["a name that is too long", { name: "a".repeat(65) }, /cannot be a run's name/],
    ["an empty scope", { scope: "" }, /A scope key cannot be empty/],
    ["a replacement of nothing", { replace: true }, /--replace needs --scope/],
    ["a variable without a name", { env: ["=1"] }, /--env "=1" has no name/],
    ["a command with a NUL in it", { words: ["a\0b"] }, /The run cannot be asked for/]
  ]
  for (const [what, over, problem] of refused)
    it(`refuses ${what}, in one line`, () => {
      assert.match(problemOf(over), problem)
      assert.notInclude(problemOf(over), "\n")
    })

  it("a value that is refused is not shown: it may be a key", () => {
    assert.notInclude(problemOf({ env: ["API_KEY=s3cr\0et"] }), "s3cr")
  })
})

describe("the words behind the command of a run", () => {
  const cases: ReadonlyArray<readonly [string, string]> = [
    ["run make -j all", "run -- make -j all"],
    ["run -d ls -l", "run -d -- ls -l"],
    ["run -d --name web npm run dev --port 1", "run -d --name web -- npm run dev --port 1"],
    ["run --name=web npm --help", "run --name=web -- npm --help"],
    ["run -e A=1 --no-pty env -i", "run -e A=1 --no-pty -- env -i"],
    ["--json run ls --json", "--json run -- ls --json"],
    ["run -d -- ls -l", "run -d -- ls -l"],
    ["run - -x", "run -- - -x"],
    ["run", "run"],
    ["run --help", "run --help"],
    ["run --name", "run --name"],
    ["ps -a", "ps -a"],
    ["send run -x", "send run -x"]
  ]
  for (const [typed, parsed] of cases)
    it(`${typed}: ${typed === parsed ? "stays" : "are its own"}`, () => {
      assert.strictEqual(separated(typed.split(" ")).join(" "), parsed)
    })
})
