/** HookRelay, with real clients as real processes: each promise over every client of this machine, and the wrapper around them. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll } from "vitest"
import { argvOf } from "../src/services/HookClients.ts"
import { type HookClient, hookCommand } from "../src/services/HookRelay.ts"
import { suite } from "./suites/HookClient.ts"
import { answers, gateway, payload, recordText, spawned, temporaryDirectory } from "./support/HookGateway.ts"

const programs = path.resolve("src/programs")

const onPath = (program: string): string | undefined =>
  (process.env["PATH"] ?? "")
    .split(":")
    .map((dir) => `${dir}/${program}`)
    .find((file) => fs.existsSync(file))

/** The Node client as it ships. */
const bundled = fs.mkdtempSync(path.join(os.tmpdir(), "hf-bundle-"))
childProcess.execFileSync(
  process.execPath,
  [
    "node_modules/rolldown/bin/cli.mjs",
    "--platform=node",
    "--minify",
    "--logLevel=silent",
    "src/programs/hookRelay.ts",
    "--format=cjs",
    `--file=${bundled}/hookRelay.cjs`
  ],
  { stdio: "ignore" }
)
afterAll(() => fs.rmSync(bundled, { recursive: true, force: true }))

const clients = (["perl", "nc", "curl"] as const).flatMap((kind): ReadonlyArray<HookClient> => {
  const program = onPath(kind)
  return program === undefined ? [] : [{ kind, argv: argvOf(kind, program, programs) }]
})

// Who reads a log can tell which clients these promises were kept by.
console.log(`hook clients here: ${[...clients.map(({ kind }) => kind), "node"].join(", ")}`)

for (const { kind, argv } of clients) suite(kind, argv, it.live)
suite("node", argvOf("node", process.execPath, bundled), it.live)

const run = (argv: ReadonlyArray<string>, direction: "closed" | "open", shell: string) =>
  spawned(
    [
      shell,
      "-c",
      hookCommand({
        client: { kind: "perl", argv },
        recordPath: "/nowhere/it's a record",
        event: "pre_tool_use",
        direction,
        providerTimeoutMs: 30_000
      })
    ],
    payload
  )

describe("hook clients", () => {
  it("have a fast one among them, on Linux", () => {
    if (process.platform === "linux") assert.isNotEmpty(clients)
  })
})

describe("hook command", () => {
  const shells = ["bash", "dash", "sh"].filter((shell) => onPath(shell) !== undefined)

  it("finds a shell to be run by", () => assert.isNotEmpty(shells))

  for (const shell of shells)
    it.live(`turns a client that cannot answer into the declared direction, under ${shell}`, () =>
      Effect.gen(function* () {
        const dir = yield* temporaryDirectory
        const broken = [
          ["/nowhere/perl", "x.pl"],
          ["/bin/sh", `${dir}/missing.sh`],
          ...["perl", "node"]
            .filter((program) => onPath(program))
            .map((program) => [onPath(program)!, `${dir}/missing`]),
          ["/bin/sh", "-c", "exit 1"],
          ["/bin/sh", "-c", "exit 2"],
          ["/bin/sh", "-c", "kill -KILL $$"],
          ["/bin/sh", "-c", "kill -TERM $$"]
        ]
        for (const argv of broken) {
          const closed = yield* run(argv, "closed", shell)
          assert.deepStrictEqual({ argv, out: [closed.stdout, closed.exitCode] }, { argv, out: ["", 2] })
          assert.match(
            closed.stderr,
            /Holdfast: the hook client ended with status \d+, so this is refused\n$/
          )
          const open = yield* run(argv, "open", shell)
          assert.deepStrictEqual({ argv, out: [open.stdout, open.exitCode] }, { argv, out: ["", 0] })
        }
      })
    )

  for (const shell of shells)
    it.live(`leaves a client's answer alone, under ${shell}`, () =>
      Effect.gen(function* () {
        const dir = yield* temporaryDirectory
        const recordPath = `${dir}/it's a record`
        fs.writeFileSync(recordPath, recordText({ socketPath: `${dir}/g.sock` }))
        yield* gateway(`${dir}/g.sock`, answers(200, `{"x":"it's"}`))
        const client = clients[0] ?? {
          kind: "node" as const,
          argv: argvOf("node", process.execPath, bundled)
        }
        const command = hookCommand({
          client,
          recordPath,
          event: "pre_tool_use",
          direction: "closed",
          providerTimeoutMs: 30_000
        })
        assert.deepStrictEqual(yield* spawned([shell, "-c", command], payload), {
          stdout: `{"x":"it's"}`,
          stderr: "",
          exitCode: 0
        })
      })
    )
})
