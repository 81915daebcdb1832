/**
 * Redaction, live: with the detectors of secretlint's recommended rules, and the credentials that this process was given.
 *
 * Its core runs rules as promises and reads files; the rules themselves are functions of a text, and are called as such.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { type Detect, redactor, Redactor, secretsOf } from "../services/Redaction.ts"
import { Settings } from "../services/Settings.ts"

export * from "../services/Redaction.ts"

/** What is used of a rule: its own types come from a package that it does not bring along. */
interface Rule {
  readonly create: (
    context: {
      readonly sharedOptions: Readonly<Record<string, never>>
      readonly createTranslator: () => (messageId: PropertyKey) => {
        readonly message: string
        readonly messageId: string
      }
      readonly report: (found: { readonly range: readonly [start: number, end: number] }) => void
      readonly ignore: () => void
    },
    options: Readonly<Record<string, never>>
  ) => { readonly file?: (source: Source) => unknown }
}

interface Source {
  readonly content: string
  readonly filePath: string
  readonly ext: string
  readonly contentType: "text"
}

const detectorOf = (rules: ReadonlyArray<Rule>): Detect => {
  let found: Array<readonly [number, number]> = []
  const file = rules.flatMap((rule) => {
    const made = rule.create(
      {
        sharedOptions: {},
        createTranslator: () => (messageId) => ({ message: String(messageId), messageId: String(messageId) }),
        report: ({ range }) => void found.push(range),
        ignore: () => undefined
      },
      {}
    )
    return made.file === undefined ? [] : [made.file.bind(made)]
  })
  return (content) => {
    found = []
    // What a rule says later, of a binary key store, is of no text.
    for (const look of file) void look({ content, filePath: "text.txt", ext: ".txt", contentType: "text" })
    return found
  }
}

/** Loads the rules, 7 ms, while other layers are made. */
export const make = Effect.gen(function* () {
  const { environment } = yield* Settings
  const { rules } = yield* Effect.promise(() => import("@secretlint/secretlint-rule-preset-recommend"))
  return redactor(secretsOf(environment), detectorOf(rules))
})

export const layer = Layer.effect(Redactor, make)
