import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { layer } from "../src/layers/Redaction.ts"
import { maxSubjectLength } from "../src/services/AuditLog.ts"
import { mask, redact, redactor, Redactor, secretsOf } from "../src/services/Redaction.ts"
import { Settings } from "../src/services/Settings.ts"

/** Built here so that no scanner takes the test for a leak. */
const openai = `sk-proj-${"a1B2".repeat(8)}`
const github = `ghp_${"x9".repeat(18)}`
const jwt = `eyJ${"hbGci".repeat(4)}.eyJ${"zdWIi".repeat(4)}.${"c2ln".repeat(8)}`
const aws = `AKIA${"Q7".repeat(8)}`

const live = layer.pipe(
  Layer.provide(
    Layer.effect(
      Settings,
      Effect.map(Settings, (settings) => ({
        ...settings,
        environment: { ...settings.environment, DEPLOY_TOKEN: "plain-words-here" }
      }))
    )
  )
)

const masked: ReadonlyArray<readonly [given: string, expected: string]> = [
  [`key ${openai} used`, `key ${mask} used`],
  [github, mask],
  [`github_pat_${"a_1".repeat(10)}`, mask],
  [`glpat-${"a-1".repeat(7)}`, mask],
  [`xoxb-${"123-".repeat(5)}`, mask],
  [`id ${aws}.`, `id ${mask}.`],
  [`(${jwt})`, `(${mask})`],
  ["Bearer abcdef0123456789", `Bearer ${mask}`],
  ["bearer\tabcdef0123456789==", `bearer\t${mask}`],
  ["Authorization: Basic dXNlcjpwYXNz", `Authorization: ${mask}`],
  ["curl -H 'Authorization: Bearer x' https://h/p", `curl -H 'Authorization: ${mask}' https://h/p`],
  [`{"authorization":"token x","a":1}`, `{"authorization":"${mask}","a":1}`],
  ["Proxy-Authorization: a b c\nnext", `Proxy-Authorization: ${mask}\nnext`],
  ["Set-Cookie: sid=1; Path=/", `Set-Cookie: ${mask}`],
  ["OPENAI_API_KEY=abc node x", `OPENAI_API_KEY=${mask} node x`],
  ["export DB_PASSWORD='two words' && y", `export DB_PASSWORD=${mask} && y`],
  [`MY_SECRET_NAME="a \\" b" c`, `MY_SECRET_NAME=${mask} c`],
  [`TOKEN=a"b c"'d e'f g`, `TOKEN=${mask} g`],
  [`SECRET="cut in the midd`, `SECRET=${mask}`],
  ["https://h/p?access_token=abc&x=1", `https://h/p?access_token=${mask}&x=1`],
  [`{"api_key": "abc", "n": 1}`, `{"api_key": "${mask}", "n": 1}`],
  ["{'password': 'two words'}", `{'password': '${mask}'}`],
  [
    String.raw`{"body":"{\"token\":\"abc\",\"n\":1}"}`,
    String.raw`{"body":"{\"token\":\"${mask}\",\"n\":1}"}`
  ],
  [
    String.raw`{"m":"TOKEN=\"a b\" c\nSECRET=x\nd","n":1}`,
    `{"m":"TOKEN=${mask} c\\nSECRET=${mask}\\nd","n":1}`
  ],
  [String.raw`PASSWORD=pa\$\$word x`, `PASSWORD=${mask} x`],
  ["login --password hunter2 -v", `login --password ${mask} -v`],
  ["x --api-key 'a b' y", `x --api-key ${mask} y`],
  ["git clone https://me:pw@host/r.git", `git clone https://${mask}@host/r.git`],
  ["postgres://u:p%40@h:5/d", `postgres://${mask}@h:5/d`],
  ["https://sometoken@github.com/a/b", `https://${mask}@github.com/a/b`],
  ["-----BEGIN RSA PRIVATE KEY-----\nMII\nx\n-----END RSA PRIVATE KEY-----\nafter", `${mask}\nafter`],
  ["-----BEGIN PRIVATE KEY-----\nMII cut", mask]
]

const untouched: ReadonlyArray<string> = [
  "",
  "rm -rf build && npm test",
  "the bearer of news",
  "missing key: id",
  "see https://host/path@1.2 and user@host:dir",
  "git log --author=me",
  "task-runner sk-1 eyJ",
  "A=1 B=two",
  "--keyboard us",
  "Cookies are fine"
]

describe("Redaction", () => {
  it.each(masked)("masks in %j", (given, expected) => {
    assert.strictEqual(redact(given), expected)
  })

  it.each(untouched)("leaves %j alone", (text) => {
    assert.strictEqual(redact(text), text)
  })

  const pieces = masked
    .map(([given]) => given)
    .concat([
      "KEY=",
      "token",
      "Bearer ",
      "://",
      "@",
      ":",
      "=",
      "'",
      '"',
      " ",
      "\n",
      "\\",
      "sk-",
      "eyJ",
      ".",
      ","
    ])
    .concat(["-----BEGIN PRIVATE KEY-----", "authorization:", "cookie:", "--token ", mask, "a", "Z9", "é"])
  const Noise = Schema.Array(Schema.Union([Schema.Literals(pieces), Schema.String])).check(
    Schema.isMaxLength(12)
  )

  it.effect.prop(
    "masking twice changes nothing",
    { noise: Noise },
    ({ noise }) =>
      Effect.sync(() => {
        const once = redact(noise.join(""))
        assert.strictEqual(redact(once), once)
      }),
    { arbitrary: { runs: 3_000, seed: 7 } }
  )

  it.effect.prop(
    "a JSON line with masks is still JSON",
    { noise: Noise },
    ({ noise }) =>
      Effect.sync(() => {
        const line = JSON.stringify({ message: noise.join(""), list: noise, last: noise.at(-1) })
        assert.doesNotThrow(() => JSON.parse(redact(line)))
      }),
    { arbitrary: { runs: 3_000, seed: 7 } }
  )

  it("the values of our own credentials are masked, whatever they look like", () => {
    const env = {
      DEPLOY_TOKEN: "plain-words-here",
      DEPLOY_TOKEN_2: "plain-words-here-too",
      SHORT_KEY: "abc",
      SSH_AUTH_SOCK: "/tmp/agent.sock",
      HOME: "/home/somebody"
    }
    assert.deepStrictEqual(secretsOf(env), ["plain-words-here-too", "plain-words-here"])
    const hide = redactor(secretsOf(env))
    assert.strictEqual(
      hide("curl -u x:plain-words-here-too plain-words-here /home/somebody abc"),
      `curl -u x:${mask} ${mask} /home/somebody abc`
    )
  })

  const secrets = [openai, github, jwt, aws].map((secret) => `${secret}Z9`)
  it.effect.prop(
    "a credential set off by blanks never survives, whatever stands around it",
    { before: Noise, after: Noise, secret: Schema.Literals(secrets) },
    ({ before, after, secret }) =>
      Effect.sync(() => {
        assert.notInclude(redact(`${before.join("")} ${secret} ${after.join("")}`), secret)
      }),
    { arbitrary: { runs: 1_000, seed: 7 } }
  )

  const detected = [
    `SG.${"a1".repeat(11)}.${"b2".repeat(21)}c`,
    `glsa_${"a1".repeat(16)}_${"ab12".repeat(2)}`,
    `lin_api_${"a1".repeat(20)}`,
    `ntn_${"1".repeat(11)}${"a1".repeat(17)}a`,
    `dapi${"a1".repeat(16)}`,
    `dckr_pat_${"a1-".repeat(9)}`,
    `figd_${"a1".repeat(20)}`,
    `shpat_${"a1".repeat(16)}`
  ]

  it.effect("with the live layer what detectors know is masked too, and what this process was given", () =>
    Effect.gen(function* () {
      const hide = yield* Redactor
      for (const secret of detected) {
        assert.strictEqual(redact(`put ${secret} there`), `put ${secret} there`)
        assert.strictEqual(hide(`put ${secret} there`), `put ${mask} there`)
      }
      assert.strictEqual(hide(`a ${detected[0]} b ${detected[4]} c`), `a ${mask} b ${mask} c`)
      assert.strictEqual(hide("deploy plain-words-here now"), `deploy ${mask} now`)
      for (const [given, expected] of masked) assert.strictEqual(hide(given), expected)
    }).pipe(Effect.provide(live))
  )

  it.effect("and it takes no longer for a long text of any of these", () =>
    Effect.gen(function* () {
      const hide = yield* Redactor
      for (const piece of pieces) {
        const text = piece.repeat(maxSubjectLength / piece.length)
        assert.strictEqual(hide(hide(text)), hide(text))
      }
      for (const secret of detected)
        assert.notInclude(hide(`${secret} `.repeat(maxSubjectLength / secret.length)), secret)
    }).pipe(Effect.provide(live))
  )

  // A pattern that looks at one place twice needs minutes for one of these.
  it.each(pieces)("two hundred thousand characters of %j is one short look", (piece) => {
    const text = piece.repeat(200_000 / piece.length)
    assert.strictEqual(redact(redact(text)), redact(text))
  })
})
