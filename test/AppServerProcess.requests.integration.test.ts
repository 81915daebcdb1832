/** What an app-server asks its gateway about no thread, and what it gets for an answer. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import * as path from "node:path"
import { TokenRefreshFailed } from "../src/services/CodexAuth.ts"
import { answer, type ServerOptions, serverOf } from "./support/appServer.ts"
import { makeHome } from "./support/codex.ts"

describe("AppServerProcess", () => {
  const refreshed = { accessToken: Redacted.make("at-0123"), accountId: "acc-2", planType: "plus" }
  const asks = (method: string, params: unknown) => JSON.stringify({ id: 0, method, params })
  const refreshMethod = "account/chatgptAuthTokens/refresh"
  const refreshFailed = new TokenRefreshFailed({ problem: "failed" }).message
  const questions: ReadonlyArray<{
    readonly promise: string
    readonly asks: string
    readonly refresh: NonNullable<ServerOptions["refresh"]>
    readonly answer: object
  }> = [
    {
      promise: "a request for new tokens is answered with them, for the account that had the old ones",
      asks: asks(refreshMethod, { reason: "unauthorized", previousAccountId: "acc-1" }),
      refresh: (account) => Effect.succeed({ ...refreshed, planType: account }),
      answer: {
        id: 0,
        result: { accessToken: "at-0123", chatgptAccountId: "acc-2", chatgptPlanType: "acc-1" }
      }
    },
    {
      promise: "tokens that cannot be renewed are an error that says so",
      asks: asks(refreshMethod, { reason: "unauthorized" }),
      refresh: () => Effect.fail(new TokenRefreshFailed({ problem: "failed" })),
      answer: { id: 0, error: { code: -32000, message: refreshFailed } }
    },
    {
      promise: "a renewal that breaks is an error that quotes nothing of what broke",
      asks: asks(refreshMethod, { reason: "unauthorized", previousAccountId: null }),
      refresh: () => Effect.die(new Error("at-0123")),
      answer: { id: 0, error: { code: -32000, message: refreshFailed } }
    },
    {
      promise: "a request for new tokens in another form is refused",
      asks: asks(refreshMethod, { previousAccountId: 7 }),
      refresh: () => Effect.succeed(refreshed),
      answer: { id: 0, error: { code: -32602, message: "this gateway does not know these parameters" } }
    },
    {
      promise: "any other request of the server is refused",
      asks: asks("attestation/generate", {}),
      refresh: () => Effect.succeed(refreshed),
      answer: { id: 0, error: { code: -32601, message: "this gateway does not answer such a request" } }
    }
  ]
  for (const question of questions)
    it.live(question.promise, () =>
      Effect.gen(function* () {
        const { codexHome } = yield* makeHome
        const { start } = yield* serverOf({
          codexHome,
          refresh: question.refresh,
          script: `${answer}read -r line
echo '${question.asks}'
IFS= read -r line; printf '%s' "$line" > "$CODEX_HOME/reply"
exit 0\n`
        })
        yield* Effect.scoped(Effect.flatMap(start, (connection) => connection.lost))
        assert.deepStrictEqual(
          JSON.parse(fs.readFileSync(path.join(codexHome, "reply"), "utf8")),
          question.answer
        )
      })
    )
})
