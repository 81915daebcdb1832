/**
 * What a word of a command line comes to: the fields a shell makes of it, as far as that can be known before it runs.
 *
 * Variables count with the value that the line itself gave them; what the machine would say is not known, and a field with
 * such a part in it is null.
 */
import { forEachChild, type SyntaxNode, type Word, type WordPart } from "unbash"
import type { Text } from "../../services/ShellPath.ts"

/** What a word is read in. `printed` follows whatever a part of it runs, and says what that prints, if that is known. */
export interface Meaning {
  readonly valueOf: (name: string) => Text
  /** Null: not known. */
  readonly parameters: ReadonlyArray<Text> | null
  /** IFS: what splits an unquoted value; null: not known. */
  readonly separators: Text
  readonly home: Text
  readonly printed: (part: SyntaxNode) => Text
}

/** Fields of one word: a brace expansion can make many. */
const maxFields = 64

type Fields = ReadonlyArray<Text>

const glue = (left: Text, right: Text): Text => (left === null || right === null ? null : left + right)

/** Substitutions in what has no words of a command: tests, arithmetic, the operand of an expansion. */
export const substitutionsIn = (node: SyntaxNode, found: (part: SyntaxNode) => void): void =>
  forEachChild(node, (child) => {
    const is =
      child.type === "CommandExpansion" ||
      child.type === "ProcessSubstitution" ||
      child.type === "ArithmeticCommandExpansion"
    if (is) found(child)
    else substitutionsIn(child, found)
  })

/** A value that a shell always has: a number is none that a path could be. */
const numeric = /^[?$!#-]$/

const expansionOf = (part: WordPart, meaning: Meaning): Text => {
  const { valueOf, printed } = meaning
  if (part.type === "SimpleExpansion") {
    const name = part.text.replace(/^\$/, "")
    return numeric.test(name) ? "0" : valueOf(name)
  }
  if (part.type === "ArithmeticExpansion") {
    substitutionsIn(part, (inner) => void printed(inner))
    return (
      /^\$\(\(\s*(-?\d+)\s*\)\)$/.exec(part.text)?.[1] ??
      /^\$\(\(\s*\((-?\d+)\)\s*\)\)$/.exec(part.text)?.[1] ??
      "0"
    )
  }
  if (part.type !== "ParameterExpansion") return null
  substitutionsIn(part, (inner) => void printed(inner))
  if (part.operation?.type === "Replace") fieldsOf(part.operation.pattern, meaning)
  if (part.prefix === "#") return "0"
  if (part.prefix !== undefined || part.index !== undefined) return null
  const value = valueOf(part.parameter)
  if (part.operation === undefined) return numeric.test(part.parameter) ? "0" : value
  const { operation } = part
  if (operation.type !== "Default" || value === null || value === "") return null
  return operation.operator === "+" || operation.operator === ":+" ? null : value
}

const isExpansion = ({ type }: WordPart): boolean =>
  type === "SimpleExpansion" ||
  type === "ParameterExpansion" ||
  type === "CommandExpansion" ||
  type === "ArithmeticExpansion"

const quotedText = (parts: ReadonlyArray<WordPart>, meaning: Meaning): Text =>
  parts.reduce<Text>((text, part) => glue(text, partText(part, meaning)), "")

const partText = (part: WordPart, meaning: Meaning): Text => {
  switch (part.type) {
    case "Literal":
    case "SingleQuoted":
    case "AnsiCQuoted":
      return part.value
    case "Glob":
    case "ExtendedGlob":
      return part.text
    case "DoubleQuoted":
    case "LocaleString":
      return quotedText(part.parts, meaning)
    case "CommandExpansion":
    case "ProcessSubstitution":
      return meaning.printed(part)
    case "BraceExpansion":
      return null
    default:
      return expansionOf(part, meaning)
  }
}

/** `{a,b}` and `{1..3}`; null where another expansion is inside. */
const braces = (text: string): ReadonlyArray<string> | null => {
  const inner = text.slice(1, -1)
  if (/[$`'"\\]/.test(inner)) return null
  const range = /^(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.-?\d+)?$/.exec(inner)
  if (range !== null) return [range[1]!, range[2]!]
  const pieces: Array<string> = [""]
  let depth = 0
  for (const letter of inner) {
    if (letter === "{") depth++
    if (letter === "}") depth--
    if (letter === "," && depth === 0) pieces.push("")
    else pieces[pieces.length - 1] += letter
  }
  if (pieces.length > maxFields) return null
  const nested = pieces.map((piece) => (piece.includes("{") ? spread(piece) : [piece]))
  return nested.some((one) => one === null) ? null : nested.flatMap((one) => one ?? [])
}

/** A piece with braces inside it. */
const spread = (text: string): ReadonlyArray<string> | null => {
  const open = text.indexOf("{")
  let depth = 0
  for (let at = open; at < text.length; at++) {
    if (text[at] === "{") depth++
    if (text[at] === "}" && --depth === 0) {
      const middle = braces(text.slice(open, at + 1))
      const rest = text.slice(at + 1)
      const ends = rest.includes("{") ? spread(rest) : [rest]
      if (middle === null || ends === null || middle.length * ends.length > maxFields) return null
      return middle.flatMap((one) => ends.map((end) => text.slice(0, open) + one + end))
    }
  }
  return null
}

/** Only a literal beginning of a word means a home. */
const withHome = (word: Word, fields: Fields, home: Text): Fields => {
  const user = /^~([A-Za-z_][\w-]*)?(?=\/|$)/.exec(word.text)
  if (user === null) return fields
  const directory = user[1] === undefined ? home : `/home/${user[1]}`
  return fields.map((field) =>
    field === null || directory === null || !field.startsWith("~")
      ? field
      : directory + field.slice(user[0].length)
  )
}

/** In the place of what is not known, where the beginning of a word matters: a letter that no path or option has. */
export const unknownPart = "\u{E000}"

/** `+REF`, `:REF`, `NAME=`. */
const beginning = /^(?:[+:]|[A-Za-z_][\w.]*=)/

/** `"$@"` alone: as many fields as there are parameters. */
const isAllParameters = ({ parts }: Word): boolean => {
  const [only, ...more] = parts ?? []
  const inner = only?.type === "DoubleQuoted" && only.parts.length === 1 ? only.parts[0] : only
  return more.length === 0 && inner !== undefined && /^\$(?:\{?[@*]\}?)$/.test(inner.text)
}

/** The fields of one word; none at all where it comes to nothing. */
export const fieldsOf = (word: Word, meaning: Meaning): Fields => {
  const { parts } = word
  if (parts === undefined) return withHome(word, [word.value], meaning.home)
  if (isAllParameters(word)) return meaning.parameters ?? [null]
  // Each way that braces offer has its fields; the last of them goes on with the next part.
  let ways: ReadonlyArray<ReadonlyArray<Text>> = [[""]]
  for (const part of parts) {
    if (part.type === "BraceExpansion") {
      const pieces = braces(part.text)
      if (part.parts !== undefined) for (const inner of part.parts) partText(inner, meaning)
      if (pieces === null || pieces.length * ways.length > maxFields) return [null]
      ways = ways.flatMap((fields) => pieces.map((piece) => goingOn(fields, [piece])))
      continue
    }
    const text = partText(part, meaning)
    const pieces = isExpansion(part) ? splitBy(text, meaning.separators) : [text]
    ways = ways.map((fields) => goingOn(fields, pieces))
  }
  const [first] = parts
  const start = first?.type === "DoubleQuoted" ? first.parts[0] : first
  // What a word begins with may say what it is, whatever comes behind.
  if (
    start?.type === "Literal" &&
    beginning.test(start.value) &&
    ways.some((fields) => fields.includes(null))
  )
    return [`${beginning.exec(start.value)![0]}${unknownPart}`]
  // What an unquoted expansion leaves empty is no field.
  const expands = parts.some(isExpansion)
  const fields = ways.flat().filter((field) => field !== "" || !expands)
  return withHome(word, fields.slice(0, maxFields), meaning.home)
}

/** Any value may be split where nobody knows by what. */
const splitBy = (text: Text, separators: Text): Fields => {
  if (text === null || text === "") return [text]
  if (separators === null) return /^[\w./-]*$/.test(text) ? [text] : [null]
  const pieces: Array<string> = [""]
  for (const letter of text) {
    if (!separators.includes(letter)) pieces[pieces.length - 1] += letter
    else if (pieces.at(-1) !== "" || pieces.length === 1) pieces.push("")
  }
  return pieces
}

/** The first piece ends the field that was begun, and the last begins the one that goes on. */
const goingOn = (fields: Fields, [first = "", ...more]: Fields): Fields => [
  ...fields.slice(0, -1),
  glue(fields.at(-1) ?? "", first),
  ...more
]

/** The one text of a word where nothing is split: an assignment, a here-document. */
export const textOf = (word: Word, meaning: Meaning): Text => {
  const [text = ""] = withHome(
    word,
    [word.parts === undefined ? word.value : quotedText(word.parts, meaning)],
    meaning.home
  )
  return text
}

export const bodyText = (parts: ReadonlyArray<WordPart> | undefined, raw: string, meaning: Meaning): Text =>
  parts === undefined ? raw : quotedText(parts, meaning)
