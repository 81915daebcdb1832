/** The demo, as a newcomer runs it. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { holdfast, makePlace, type Place, startGateway } from "./support/gateway.ts"

const seconds = 60_000

const demo = Effect.fnUntraced(function* (
  env: Readonly<Record<string, string>>,
  flags: ReadonlyArray<string> = []
) {
  const made = yield* makePlace()
  const cache = path.join(made.home, "cache")
  const place: Place = { ...made, env: { ...made.env, XDG_CACHE_HOME: cache, ...env } }
  const ran = yield* holdfast(place, ["demo", ...flags])
  return { ...ran, left: fs.existsSync(cache) ? fs.readdirSync(cache) : [] }
})

describe("holdfast demo", () => {
  it.live(
    "tells the whole story, proves each step and leaves nothing",
    () =>
      Effect.gen(function* () {
        const { code, left, stdout } = yield* demo({})
        assert.strictEqual(code, 0, stdout)
        for (const line of [
          /DENY {4}Bash {2}rm -rf customers/,
          /allow {3}Bash {2}echo tidied > note\.txt/,
          /proof: customers\/ledger\.txt is still there/,
          /proof: note\.txt was written/,
          /proof: 3 decisions are in the audit log, 1 of them a refusal/,
          /cost: each hook took \d+ ms, \d+ ms, \d+ ms as Codex measured it/,
          /approval [0-9a-f]{10}: echo 1\.0\.0 > published\.txt \(publishing is for a person to decide\)/,
          /proof: nothing is published yet\n/,
          /proof: the same approval waits: [0-9a-f]{10}\n/,
          /proof: published\.txt was written\n/,
          /the keeper still holds \d+ processes: .*\bsleep\b/,
          /proof: the keeper is still pid \d+; of the dead gateway itself \d+ processes had to be ended\n/,
          /proof: it runs on, still as pid \d+\n/,
          /proof: its log counts from 1 to \d+ without a gap\n/,
          /proof: after its stop 0 processes of it are left, proven by a scan\n/,
          /proof: 0 processes\n/,
          /proof: 0 bridge records and sockets\n/,
          /\nEvery step held\.\n$/
        ])
          assert.match(stdout, line)
        assert.deepStrictEqual(left, [])
      }),
    seconds
  )

  it.live(
    "says so and exits 1 when a step does not hold: with a policy that allows everything the file is gone",
    () =>
      Effect.gen(function* () {
        const { code, left, stdout } = yield* demo({ HOLDFAST_POLICY: '{"default":"allow","policies":[]}' })
        assert.strictEqual(code, 1, stdout)
        assert.match(stdout, /FAILED: customers\/ledger\.txt is gone/)
        assert.match(stdout, /Not every step held/)
        assert.deepStrictEqual(left, [])
      }),
    seconds
  )

  it.live(
    "--live without a login says so at once instead of trying for half a minute",
    () =>
      Effect.gen(function* () {
        const { code, left, stderr, stdout } = yield* demo({}, ["--live"])
        assert.strictEqual(code, 1)
        assert.match(stdout, /note: Codex has no login here; run `CODEX_HOME=\S+ codex login`/)
        assert.match(
          stderr,
          /^holdfast: The demo cannot go on: it needs your Codex login; run `codex login` first\.\n$/
        )
        assert.deepStrictEqual(left, [])
      }),
    seconds
  )

  it.live(
    "does not touch a gateway that runs beside it",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const { pid } = yield* startGateway(place)
        const whoRuns = Effect.map(holdfast(place, ["status", "--json"]), ({ stdout }) => {
          const { epoch, owner } = JSON.parse(stdout) as { epoch: string; owner: { pid: number } }
          return { epoch, pid: owner.pid }
        })
        const before = yield* whoRuns
        assert.strictEqual(before.pid, pid)
        const { code } = yield* demo({})
        assert.strictEqual(code, 0)
        assert.deepStrictEqual(yield* whoRuns, before)
      }),
    seconds
  )
})
