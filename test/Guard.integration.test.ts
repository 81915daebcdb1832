/** `holdfast doctor --guard`, with the real Codex and a host in Claude Code's place. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { holdfast, makePlace, startGateway } from "./support/gateway.ts"

const host = path.resolve(import.meta.dirname, "fixtures/claude.ts")

/** With these words before it, in its environment. */
const claudeAt = (home: string, words: string): string => {
  const file = path.join(home, "claude")
  fs.writeFileSync(
    file,
    `#!/bin/sh\nexec env ${words} '${process.execPath}' --no-warnings '${host}' "$@"\n`,
    {
      mode: 0o755
    }
  )
  return file
}

const guardsOf = (stdout: string): ReadonlyArray<string> =>
  stdout.split("\n").flatMap((line) => /guard of \w+ +[A-Z]+/.exec(line)?.[0].replace(/ +/g, " ") ?? [])

describe("doctor --guard", () => {
  it.live(
    "proves each agent's guard by a canary that is refused, and says BROKEN where no hook answers",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace({ claude: { canarySeconds: 2 } }, {})
        const claude = { ...place, env: { ...place.env, HOLDFAST_CLAUDE: path.join(place.home, "claude") } }
        claudeAt(place.home, "A=1")
        yield* startGateway(claude)
        const before = yield* holdfast(claude, ["status"])
        assert.deepStrictEqual(guardsOf(before.stdout), [
          "guard of codex UNPROVEN",
          "guard of claude UNPROVEN"
        ])
        const proven = yield* holdfast(claude, ["doctor", "--guard"])
        assert.deepStrictEqual(
          [proven.code, guardsOf(proven.stdout.replaceAll(/ {2,}(?=PROVEN|BROKEN)/g, " "))],
          [0, ["guard of codex PROVEN", "guard of claude PROVEN"]]
        )
        assert.deepStrictEqual(guardsOf((yield* holdfast(claude, ["status"])).stdout), [
          "guard of codex PROVEN",
          "guard of claude PROVEN"
        ])
        claudeAt(place.home, "FAKE_CLAUDE_NO_HOOKS=1")
        const broken = yield* holdfast(claude, ["doctor", "--guard"])
        assert.deepStrictEqual(
          [broken.code, guardsOf(broken.stdout)],
          [1, ["guard of codex PROVEN", "guard of claude BROKEN"]]
        )
        const after = yield* holdfast(claude, ["status", "--json"])
        const { guard } = JSON.parse(after.stdout)
        assert.deepStrictEqual([guard.codex._tag, guard.claude._tag], ["proven", "broken"])
      })
  )
})
