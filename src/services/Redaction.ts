/**
 * Redaction: text that leaves our hands (logs, stderr tails, audit subjects) with its credentials masked.
 *
 * It knows the shapes below, and where a Redactor is there also what a list of detectors knows and what this process was given,
 * so it lowers the harm of a leak and is no licence to log. It masks rather too
 * much than too little, masking twice changes nothing, and its time grows with the length of the text and no faster.
 */
import * as Context from "effect/Context"

export const mask = "[redacted]"

/** A quote as it stands in text, or escaped inside a JSON string. */
const quote = String.raw`\\?["']`

/**
 * A value as a shell reads it, glued from pieces: "...", \"...\", '...', plain text. A quoted piece may have lost its end.
 * A quote before `,:]}` closes a JSON string and an escaped letter is a JSON line break: both end the value, so that a
 * masked JSON line is still one.
 */
const value = `(?:${[
  String.raw`"(?![,:\]}]|$)(?:[^"\\\r\n]|\\.)*"?`,
  String.raw`\\"(?:[^"\\\r\n]|\\[^"\r\n])*(?:\\")?`,
  String.raw`'[^'"\\\r\n]*'?`,
  String.raw`[^\s"'\\;&|,<>(){}` + "`]",
  String.raw`\\[^\s\w"]`
].join("|")})+`

const secretName = "key|token|secret|passw(?:or)?d|passphrase|credential"

/** The inside of a quoted text on one line. */
const quoted = String.raw`(?:[^"'\\\r\n]|\\[^"'\r\n])`

/**
 * In this order: what is named first may contain what is named later. Each pattern starts only where a word starts, or
 * at a fixed text, and has bounded names, so that no text makes it look at the same place again and again.
 */
const patterns: ReadonlyArray<readonly [pattern: RegExp, replacement: string]> = [
  // A private key, also when its end is cut off.
  [
    /-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----[^"']*?(?:-----END [A-Z ]{0,32}PRIVATE KEY-----|(?=\\{0,8}["'])|$)/g,
    mask
  ],

  // Authorization: anything up to the end of the line or of the quoted text
  [
    new RegExp(
      String.raw`((?<![\w-])(?:(?:proxy-)?authorization|(?:set-)?cookie)(?:${quote})?[ \t]{0,8}:[ \t]{0,8}(?:${quote}(?![,:\]}]|$))?)(?!\s)${quoted}+`,
      "gi"
    ),
    `$1${mask}`
  ],

  // scheme://user:password@host, scheme://token@host
  [/((?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,31}:\/\/)[^\s/?#@"'`<>\\]{1,1024}@/gi, `$1${mask}@`],

  // "name": "value"
  [
    new RegExp(
      String.raw`((?<![\w.-])[\w.-]{0,64}(?:${secretName})[\w.-]{0,64}${quote}[ \t]{0,8}:[ \t]{0,8}${quote})${quoted}+`,
      "gi"
    ),
    `$1${mask}`
  ],
  // NAME=value
  [
    new RegExp(
      String.raw`((?<![\w.-])[\w.-]{0,64}(?:${secretName})[\w.-]{0,64}(?:${quote})?=)${value}`,
      "gi"
    ),
    `$1${mask}`
  ],
  // --password value, --api-key value
  [
    new RegExp(String.raw`((?<![\w.-])--?(?:\w{1,32}-){0,4}(?:${secretName})[ \t]{1,8})(?!-)${value}`, "gi"),
    `$1${mask}`
  ],

  // Bearer abc, Basic abc
  [/((?<![\w-])(?:bearer|basic)[ \t]{1,8})[\w.~+/=-]{8,}/gi, `$1${mask}`],

  // What providers issue: OpenAI, Anthropic, Stripe; GitHub, GitLab; Slack; npm; Hugging Face; Google; AWS ids
  [/(?<![\w-])(?:sk|rk|pk)[-_][\w-]{8,}/g, mask],
  [/(?<![\w-])(?:gh[a-z]_\w{8,}|github_pat_\w{8,}|glpat-[\w-]{8,}|npm_\w{16,}|hf_\w{16,})/g, mask],
  [/(?<![\w-])xox[a-z]-[\w-]{8,}/g, mask],
  [/(?<![\w-])AIza[\w-]{30,}/g, mask],
  [/(?<![A-Za-z0-9])(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{12,}/g, mask],

  // A JSON web token: {" in base64 starts with eyJ
  [/(?<![\w-])eyJ[\w-]{4,}\.[\w-]{4,}(?:\.[\w-]*)?/g, mask]
]

/** A mask can set free a word that stood behind a credential, so masking goes on until nothing changes; this ends it. */
const maxRounds = 8

/**
 * Every pattern needs one of these, so a text with none of them has nothing to mask. Nearly every audit row is such a text,
 * and one look costs a tenth of thirteen.
 */
const suspicious =
  /private key|authorization|cookie|:\/\/|key|token|secret|passw|passphrase|credential|bearer|basic|[srp]k[-_]|gh[a-z]_|github_pat_|glpat-|npm_|hf_|xox|AIza|AKIA|ASIA|ABIA|ACCA|AROA|AIDA|eyJ/i

export const redact = (text: string): string => {
  if (!suspicious.test(text)) return text
  let current = text
  for (let round = 0; round < maxRounds; round++) {
    const next = once(current)
    if (next === current) break
    current = next
  }
  return current
}

/** Shorter values are words of everyday text. */
const minSecretLength = 8
const secretVariable = new RegExp(`(?:${secretName}|auth|cookie|dsn|webhook)`, "i")

/** The values of an environment that are somebody's credentials, by their names; the longest first. */
export const secretsOf = (env: Readonly<Record<string, string | undefined>>): ReadonlyArray<string> =>
  Object.entries(env)
    .flatMap(([name, value]) =>
      value !== undefined &&
      value.length >= minSecretLength &&
      secretVariable.test(name) &&
      !value.startsWith("/")
        ? [value]
        : []
    )
    .toSorted((a, b) => b.length - a.length)

/** Where in a text somebody else sees a credential, from its first unit to behind its last; in any order. */
export type Detect = (text: string) => ReadonlyArray<readonly [start: number, end: number]>

/** No detector finds anything in a text without so long a word, and nearly every audit row is such a text. */
const longWord = /[\w+/=.~-]{16}/

const maskedAt = (text: string, found: ReturnType<Detect>): string => {
  let rest = ""
  let at = 0
  for (const [start, end] of found.toSorted((a, b) => a[0] - b[0])) {
    if (end <= at) continue
    rest += start >= at ? `${text.slice(at, start)}${mask}` : ""
    at = end
  }
  return rest + text.slice(at)
}

/** The same, and these values too, whatever they look like, and what is detected. */
export const redactor =
  (secrets: ReadonlyArray<string>, detect: Detect = () => []) =>
  (text: string): string => {
    const masked = redact(secrets.reduce((rest, secret) => rest.replaceAll(secret, mask), text))
    return longWord.test(masked) ? maskedAt(masked, detect(masked)) : masked
  }

/** What masks a text before it is kept. Where nobody knows more, the shapes above. */
export class Redactor extends Context.Reference<(text: string) => string>("holdfast/Redactor", {
  defaultValue: () => redact
}) {}

const once = (text: string): string =>
  patterns.reduce((text, [pattern, replacement]) => text.replace(pattern, replacement), text)
