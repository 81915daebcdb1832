/**
 * CodexAuth: as whom the app-server speaks to its provider, without ever showing what it says.
 *
 * The identity is a hash: two borrowers with different ones must not share a child. Codex keeps and renews its own login in
 * CODEX_HOME; an embedding program that keeps it elsewhere provides `refresh`.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"

/** Codex gives up on an answer to `account/chatgptAuthTokens/refresh` after 10 s; ours comes before. */
export const refreshDeadlineMs = 9_000

export interface AuthTokens {
  readonly accessToken: Redacted.Redacted<string>
  readonly accountId: string
  readonly planType: string | null
}

export class TokenRefreshFailed extends Schema.TaggedError<TokenRefreshFailed>()("TokenRefreshFailed", {
  problem: Schema.Literals(["not-ours", "timed-out", "failed", "account-changed"])
}) {
  override get message(): string {
    const problem = {
      "not-ours": "this gateway keeps no tokens for Codex",
      "timed-out": `no answer came within ${refreshDeadlineMs / 1000} s`,
      failed: "whoever keeps them could not renew them",
      "account-changed": "they belong to another account now"
    }[this.problem]
    return `Codex asked for new tokens and got none: ${problem}. Log in again with \`codex login\`.`
  }
}

/** What we know of `<CODEX_HOME>/auth.json`. Codex 0.169.0 keeps logins of other kinds in fields of their own. */
export const AuthFile = Schema.StructWithRest(
  Schema.Struct({
    OPENAI_API_KEY: Schema.optionalKey(Schema.NullOr(Schema.String)),
    tokens: Schema.optionalKey(
      Schema.NullOr(Schema.Struct({ account_id: Schema.optionalKey(Schema.NullOr(Schema.String)) }))
    )
  }),
  [Schema.Record(Schema.String, Schema.Unknown)]
)
export type AuthFile = typeof AuthFile.Type

/**
 * What tells two logins apart: of the tokens the account only, since they are renewed; all else as it is but the time of the
 * renewal. Hash it: keys are in it.
 */
export const loginOf = ({ tokens, ...others }: AuthFile): string =>
  JSON.stringify([
    tokens ? (tokens.account_id ?? "unnamed") : null,
    Object.entries(others)
      .filter(([name, value]) => name !== "last_refresh" && value !== null && value !== "")
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
  ])

export class CodexAuth extends Context.Service<
  CodexAuth,
  {
    /** Hex. Of the login in CODEX_HOME and of the environment variables the child is given beside the built-in list. */
    readonly identity: Effect.Effect<string>
    /** Answers Codex's own request for new tokens; `account` is the one it had. */
    readonly refresh: (account: string | null) => Effect.Effect<AuthTokens, TokenRefreshFailed>
  }
>()("holdfast/CodexAuth") {}
