/** ShellEditRules: programs that edit text, which may run commands and write other files than those they are given. */
import { argumentsOf, isInput } from "./ShellCommand.ts"
import { ask, askIf, none, type Rule, writes } from "./ShellFinding.ts"
import { isCredential } from "./ShellPath.ts"

const sed: Rule = (words, at, { input }) => {
  const { has, all, operands } = argumentsOf(words, {
    short: "efl",
    long: ["expression", "file", "line-length"]
  })
  const given = all("e", "expression")
  const fromFile = has("f", "file")
  const typed = all("f", "file").some((file) => file === "-" || (file !== null && isInput(file)))
  const scripts = [
    ...(given.length > 0 ? given : fromFile ? [] : operands.slice(0, 1)),
    ...(typed && input._tag === "text" ? [input.text] : [])
  ]
  const files = given.length > 0 || fromFile ? operands : operands.slice(1)
  const inPlace = has("i", "in-place")
  return [
    ...askIf(
      scripts.some((script) => script !== null && sedRuns(script)) || (typed && scripts.includes(null)),
      "sed runs a command"
    ),
    ...askIf(
      scripts.some((script) => script !== null && sedReads(script).some((file) => isCredential(file, at))),
      "it names a file with credentials"
    ),
    ...writes(
      scripts.flatMap((script) => (script === null ? [] : sedWrites(script))),
      at
    ),
    ...(inPlace ? writes(files, at) : none)
  ]
}

/** Files that an `r` command names. */
const sedReads = (script: string): ReadonlyArray<string> =>
  [...script.matchAll(/(?:^|[;{}\n\d$/!])[ \t]*[rR][ \t]*([~/][^\n;}]+)/g)].map(([, file]) => file!.trim())

/** Files that a `w` command, or a substitution with that flag, names. */
const sedWrites = (script: string): ReadonlyArray<string> =>
  [
    ...script.matchAll(
      /(?:^|[;{}\n\d$/!|,#@])[gpIiMm\d]*[ \t]*[wW](?:[ \t]+|(?<=(?:^|[;{}\n\d$!])[wW])(?=\/))([^\n;}]+)/g
    )
  ].flatMap(([, file]) => (file!.startsWith("/dev/std") ? [] : [file!.trim()]))

/** Whether a sed script has an `e` command, or a substitution with that flag. */
const sedRuns = (whole: string): boolean => {
  // Addresses: what stands in them is text.
  const script = whole.replace(/(^|[;{}\n,!]\s*)(?:\\(.)|(\/))(?:[^\\\n/]|\\.)*?(?:\2|\3)[IM]*/g, "$11")
  let rest = ""
  for (let index = 0; index < script.length; index++) {
    const letter = script[index]!
    const begins = /(?:^|[;{}\n\s\d$/,!])$/.test(rest)
    if ((letter !== "s" && letter !== "y") || !begins || !/[^\w\s;]/.test(script[index + 1] ?? " ")) {
      rest += letter
      continue
    }
    const delimiter = script[index + 1]!
    let at = index + 2
    for (let part = 0; part < 2 && at < script.length; at++) {
      if (script[at] === "\\") at++
      else if (script[at] === delimiter) part++
    }
    const flags = /^[\w]*/.exec(script.slice(at))![0]
    if (letter === "s" && flags.includes("e")) return true
    index = at + flags.length - 1
    rest += " "
  }
  return /(?:^|[;{}\n\d$/!])[ \t]*e(?:[ \t;}\n]|$)/.test(rest)
}

const awk: Rule = (words, at) => {
  const { operands, has, values, all } = argumentsOf(words, {
    short: "FvfeilE",
    long: ["field-separator", "assign", "file", "source", "include", "load", "exec"]
  })
  const inPlace = all("i", "include").includes("inplace")
  if (inPlace)
    return [
      ...writes(operands.slice(1), at),
      ...(awkRuns(operands[0] ?? "") ? ask("awk runs a command") : none)
    ]
  if ((has("f") || has("file")) && !("e" in values)) return none
  const program = values["e"] ?? values["source"] ?? operands[0]
  return program === undefined
    ? none
    : program === null
      ? ask("an awk program that is not known before it runs")
      : askIf(awkRuns(program), "awk runs a command or writes a file")
}

/** Whether an awk program calls a command, reads from one, or prints into a file. */
const awkRuns = (program: string): boolean => {
  const plain = program
    .replace(/>{1,2}\s*"\/dev\/std(?:err|out)"/g, "")
    .replace(/"(?:[^"\\]|\\[^])*"/g, '""')
    .replace(/(^|[(,!~&|{;\n]\s*)\/(?:[^/\\\n]|\\[^])+\//g, "$1 0 ")
  if (/\b(?:system|getline)\b|@\w/.test(plain) || /(?:^|[^|])\|(?:[^|]|$)/.test(plain)) return true
  return plain.split(/[;{}\n]/).some((statement) => {
    const outside = statement.replace(/\([^()]*\)/g, "")
    return /\bprintf?\b[^>]*>/.test(outside)
  })
}

const editor: Rule = (words, at, { input }) => {
  const { has, operands } = argumentsOf(words, { short: "cSu", long: ["cmd"] })
  const typed =
    input._tag === "text" && (input.text === null || /(?:^|\n)\s*[\d,$%.]*(?:!|r\s*!|w\s*!)/.test(input.text))
  return [
    ...askIf(
      has("c", "cmd") || typed || words.some((word) => /^\+.*[!(]/.test(word ?? "")),
      "an editor that is told what to do"
    ),
    ...writes(
      operands.filter((path) => path?.startsWith("+") !== true),
      at
    )
  ]
}

/** By program. */
export const editRules: Readonly<Record<string, Rule>> = {
  sed,
  gsed: sed,
  awk,
  gawk: awk,
  mawk: awk,
  nawk: awk,
  "original-awk": awk,
  goawk: awk,
  vim: editor,
  vi: editor,
  view: editor,
  rvim: editor,
  gvim: editor,
  vimdiff: editor,
  nvim: editor,
  ex: editor,
  ed: editor,
  red: editor
}
