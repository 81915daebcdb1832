/**
 * What a word of a command line comes to: the fields a shell makes of it, as far as that can be known before it runs.
 *
 * Variables count with the value that the line itself gave them; what the machine would say is not known, and a field with
 * such a part in it is null.
 */
import {
  forEachChild,
  type ParameterDefaultOperation,
  type ParameterExpansionPart,
  type SyntaxNode,
  type Word,
  type WordPart
} from "unbash"
import type { Text } from "../../services/ShellPath.ts"

/** What a word is read in. `printed` follows whatever a part of it runs, and says what that prints, if that is known. */
export interface Meaning {
  readonly valueOf: (name: string) => Text
  /** The elements of an array; null: not known. */
  readonly listOf: (name: string) => ReadonlyArray<Text> | null
  /** Whether a default counts where a value is not known. */
  readonly guesses: boolean
  /** A default that an expansion sets; where it is not `certain`, only if there was no value. */
  readonly assigned: (name: string, text: Text, certain: boolean) => void
  /** A text that is expanded once more, as a here-document is: `${x@P}`. */
  readonly expanded: (text: Text) => void
  readonly cwd: Text
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

/** What a word may come to, in letters: a line can double a value over and over. */
const maxValue = 65_536

const glue = (left: Text, right: Text): Text =>
  left === null || right === null || left.length + right.length > maxValue ? null : left + right

/** Follows what is run and set in what has no words of a command: tests, arithmetic, patterns, the operand of an expansion. */
export const effectsIn = (node: SyntaxNode, meaning: Meaning): void =>
  forEachChild(node, (child) => {
    if (
      child.type === "CommandExpansion" ||
      child.type === "ProcessSubstitution" ||
      child.type === "ArithmeticCommandExpansion"
    )
      meaning.printed(child)
    else if (child.type === "ParameterExpansion") expansionOf(child, meaning)
    else effectsIn(child, meaning)
  })

/** A value that a shell always has: a number is none that a path could be. */
const numeric = /^[?$!#-]$/

const expansionOf = (part: WordPart, meaning: Meaning): Text => {
  const { valueOf } = meaning
  if (part.type === "SimpleExpansion") {
    const name = part.text.replace(/^\$/, "")
    return numeric.test(name) ? "0" : valueOf(name)
  }
  if (part.type === "ArithmeticExpansion") {
    effectsIn(part, meaning)
    return (
      /^\$\(\(\s*(-?\d+)\s*\)\)$/.exec(part.text)?.[1] ??
      /^\$\(\(\s*\((-?\d+)\)\s*\)\)$/.exec(part.text)?.[1] ??
      "0"
    )
  }
  return part.type === "ParameterExpansion" ? parameterOf(part, meaning) : null
}

const parameterOf = (part: ParameterExpansionPart, meaning: Meaning): Text => {
  const { operation, parameter } = part
  if (part.index !== undefined) effectsIn(part.index, meaning)
  const value = part.prefix !== undefined ? null : valueAt(part, meaning)
  if (operation?.type === "Default") {
    const other = textOf(operation.operand, meaning)
    return part.prefix === undefined ? defaultOf(parameter, value, operation.operator, other, meaning) : null
  }
  if (operation !== undefined) effectsIn(operation, meaning)
  // The parser ends the pattern at the first slash, which may be one of a command's.
  if (operation?.type === "Replace" && /\$\(|`/.test(part.text))
    meaning.expanded(part.text.slice(2 + parameter.length, -1))
  if (operation?.type === "Transform" && operation.operand.text.startsWith("P")) meaning.expanded(value)
  if (part.prefix === "#") return "0"
  return operation === undefined ? (numeric.test(parameter) ? "0" : value) : null
}

const valueAt = ({ parameter, index }: ParameterExpansionPart, { valueOf, listOf }: Meaning): Text => {
  if (index === undefined) return valueOf(parameter)
  return /^\d+$/.test(index.text) ? (listOf(parameter)?.[Number(index.text)] ?? null) : null
}

/** What `${name:-other}` and its kin come to. An empty value may be one that was never set. */
const defaultOf = (
  name: string,
  value: Text,
  operator: ParameterDefaultOperation["operator"],
  other: Text,
  meaning: Meaning
): Text => {
  const colon = operator.startsWith(":")
  const guess = meaning.guesses ? other : null
  switch (operator.at(-1)) {
    case "+":
      return value === "" && colon ? "" : value === null || value === "" ? guess : other
    case "?":
      return value
    case "=":
      if (value === null || value === "") meaning.assigned(name, other, value === "" && colon)
  }
  return value === "" && colon ? other : value === null || value === "" ? guess : value
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
      effectsIn(part, meaning)
      return part.text
    case "DoubleQuoted":
    case "LocaleString":
      return quotedText(part.parts, meaning)
    case "CommandExpansion":
    case "ProcessSubstitution":
      return meaning.printed(part)
    case "BraceExpansion":
      effectsIn(part, meaning)
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

/** Only a literal beginning of a word means a home, or a directory that the shell has been in. */
const withHome = (word: Word, fields: Fields, { home, cwd }: Meaning): Fields => {
  const [tilde, user, before] = /^~(?:([A-Za-z_][\w-]*)|([-+]?\d+|[-+]))?(?=\/|$)/.exec(word.text) ?? []
  if (tilde === undefined) return fields
  const directory =
    before !== undefined ? (before === "+" ? cwd : null) : user === undefined ? home : homeOf(user)
  return fields.map((field) =>
    field === null || !field.startsWith("~")
      ? field
      : directory === null
        ? null
        : directory + field.slice(tilde.length)
  )
}

const homeOf = (user: string): string => (user === "root" ? "/root" : `/home/${user}`)

/** In the place of what is not known, where the beginning of a word matters: a letter that no path or option has. */
export const unknownPart = "\u{E000}"

/** `+REF`, `:REF`, `NAME=`. */
const beginning = /^(?:[+:]|[A-Za-z_][\w.]*=)/

/** `"$@"` or `"${a[@]}"` alone: as many fields as there are elements, and more where the shell splits them. */
const elementsOf = ({ parts }: Word, meaning: Meaning): Fields | undefined => {
  const [only, ...more] = parts ?? []
  const isQuoted = only?.type === "DoubleQuoted"
  const inner = isQuoted && only.parts.length === 1 ? only.parts[0] : only
  if (more.length > 0 || inner === undefined) return undefined
  const isArray =
    inner.type === "ParameterExpansion" &&
    inner.prefix === undefined &&
    inner.operation === undefined &&
    /^[@*]$/.test(inner.index?.text ?? "")
  if (!isArray && !/^\$(?:\{?[@*]\}?)$/.test(inner.text)) return undefined
  const elements = (isArray ? meaning.listOf(inner.parameter) : meaning.parameters) ?? [null]
  return isQuoted
    ? elements
    : elements.flatMap((one) => splitBy(one, meaning.separators)).filter((one) => one !== "")
}

/** The fields of one word; none at all where it comes to nothing. */
export const fieldsOf = (word: Word, meaning: Meaning): Fields => {
  const { parts } = word
  if (parts === undefined) return withHome(word, [word.value], meaning)
  const elements = elementsOf(word, meaning)
  if (elements !== undefined) return elements
  // Each way that braces offer has its fields; the last of them goes on with the next part.
  let ways: ReadonlyArray<ReadonlyArray<Text>> = [[""]]
  for (const part of parts) {
    if (part.type === "BraceExpansion") {
      const pieces = braces(part.text)
      effectsIn(part, meaning)
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
  return withHome(word, fields.slice(0, maxFields), meaning)
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
    meaning
  )
  return text
}

export const bodyText = (parts: ReadonlyArray<WordPart> | undefined, raw: string, meaning: Meaning): Text =>
  parts === undefined ? raw : quotedText(parts, meaning)
