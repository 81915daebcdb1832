/**
 * ShellFileRules: programs that delete, move, change and write files, and where that is refused or asked about.
 */
import { argumentsOf } from "./ShellCommand.ts"
import { findActions } from "./ShellFind.ts"
import {
  ask,
  askIf,
  deny,
  each,
  type Findings,
  none,
  raise,
  type Rule,
  writes,
  writesElsewhere
} from "./ShellFinding.ts"
import {
  concernOfDeletion,
  concernOfTree,
  concernOfWrite,
  strongest,
  type Text,
  type Whereabouts
} from "./ShellPath.ts"

const trees = (paths: ReadonlyArray<Text>, at: Whereabouts, reason: string): Findings =>
  each(paths, (path) => concernOfTree(path, at), reason)

const deletes = "it deletes a whole directory that is not a part of the project, or not known"

const rm: Rule = (words, at) => {
  const { flags, operands } = argumentsOf(words)
  const recursive =
    flags.has("r") ||
    flags.has("R") ||
    [...flags].some((flag) => flag.length > 1 && "recursive".startsWith(flag))
  if (flags.has("no-preserve-root")) return deny("it deletes everything")
  return recursive
    ? trees(operands, at, deletes)
    : each(operands, (path) => concernOfDeletion(path, at), "it deletes a file of the system")
}

const recursiveChange: Rule = (words, at) => {
  const { flags, operands } = argumentsOf(words, { long: ["reference", "from"] })
  const targets = flags.has("reference") ? operands : operands.slice(1)
  const denied = targets.filter((path) => path !== null && concernOfTree(path, at) === "deny")
  const mode = operands[0] ?? null
  return [
    ...(flags.has("R") || flags.has("recursive")
      ? each(denied, () => "deny", "it changes the owner or mode of the whole system")
      : none),
    ...askIf(
      mode !== null && (/^[ugoa]*\+[rwxX]*s/.test(mode) || /^[2467][0-7]{3}$/.test(mode)),
      "it makes a program run with its owner's rights"
    )
  ]
}

/** The last operand, or the directory that -t names, is written. */
const copies: Rule = (words, at) => {
  const { operands, values } = argumentsOf(words, {
    short: "tSgmo",
    long: ["target-directory", "suffix", "group", "mode", "owner"]
  })
  const target = values["t"] ?? values["target-directory"] ?? operands.at(-1)
  return target === undefined || operands.length === 0
    ? none
    : writesWithName(target, operands[0] ?? null, at)
}

/** A directory is written by the name of what is put into it. */
const writesWithName = (target: Text, source: Text, at: Whereabouts): Findings => {
  const inside = target !== null && source !== null ? `${target}/${source.split("/").at(-1)}` : target
  // Of two places the one that matters: whether a name is a directory is not known.
  return raise(
    target === null ? null : strongest(concernOfWrite(target, at), concernOfWrite(inside, at)),
    writesElsewhere
  )
}

const moves: Rule = (words, at, command) => {
  const { operands } = argumentsOf(words, { short: "tS" })
  return [
    ...copies(words, at, command),
    ...each(
      operands.slice(0, -1),
      (path) =>
        path === null ? null : concernOfTree(path, at) === "deny" ? "deny" : concernOfDeletion(path, at),
      "it moves a directory of the system away"
    )
  ]
}

/** Every operand is written. */
const writesOperands =
  (short = "", long: ReadonlyArray<string> = []): Rule =>
  (words, at) =>
    writes(
      argumentsOf(words, { short, long }).operands.filter((path) => path !== null),
      at
    )

const dd: Rule = (words, at) =>
  writes(
    words.flatMap((word) => (word?.startsWith("of=") ? [word.slice(3)] : [])),
    at
  )

const device: Rule = (words, at) =>
  raise(
    words.some((word) => word !== null && word.startsWith("/dev/"))
      ? "deny"
      : words.includes(null)
        ? "ask"
        : null,
    "it writes to a raw device"
  ).concat(at.cwd === "/dev" ? deny("it writes to a raw device") : none)

/** The files that options name. */
const downloads =
  (short: string, long: ReadonlyArray<string>): Rule =>
  (words, at) => {
    const { values } = argumentsOf(words, {
      short: `${short}dFHXAuebTxmrPQC`,
      long: [...long, "data", "header", "request", "form", "user", "user-agent", "upload-file", "proxy"]
    })
    const files = [...short, ...long].flatMap((name) => (name in values ? [values[name]!] : []))
    return writes(
      files.filter((file) => file !== "-"),
      at
    )
  }

const sed: Rule = (words, at) => {
  const { flags, values, operands } = argumentsOf(words, {
    short: "efl",
    long: ["expression", "file", "line-length"]
  })
  const given = values["e"] ?? values["expression"]
  const script = given ?? (flags.has("f") || flags.has("file") ? "" : (operands[0] ?? null))
  const files = given === undefined && !flags.has("f") && !flags.has("file") ? operands.slice(1) : operands
  const inPlace = [...flags].some(
    (flag) => flag === "i" || flag === "in-place" || flag.startsWith("in-place")
  )
  return [
    ...askIf(script !== null && sedRuns(script), "sed runs a command"),
    ...(inPlace
      ? writes(
          files.filter((file) => file !== null),
          at
        )
      : none)
  ]
}

/** Whether a sed script has an `e` command, or a substitution with that flag. */
const sedRuns = (script: string): boolean => {
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

const awk: Rule = (words) => {
  const { operands, flags, values } = argumentsOf(words, {
    short: "Fvfe",
    long: ["field-separator", "assign", "file", "source"]
  })
  if ((flags.has("f") || flags.has("file")) && !("e" in values)) return none
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
    .replace(/"(?:[^"\\]|\\[^])*"/g, '""')
    .replace(/(^|[(,!~&|{;\n]\s*)\/(?:[^/\\\n]|\\[^])+\//g, "$1 0 ")
  if (/\b(?:system|getline)\b/.test(plain) || /(?:^|[^|])\|(?:[^|]|$)/.test(plain)) return true
  return plain.split(/[;{}\n]/).some((statement) => {
    const outside = statement.replace(/\([^()]*\)/g, "")
    return /\bprintf?\b[^>]*>/.test(outside)
  })
}

const find: Rule = (_words, at, command) => {
  const actions = findActions(command)
  return [...trees(actions.deletes, at, deletes), ...writes(actions.writes, at)]
}

const editor: Rule = (words, at) => [
  ...askIf(
    words.some((word) => /^\+?[^/]*!/.test(word ?? "") && word !== "!"),
    "an editor that runs a command"
  ),
  ...writes(
    argumentsOf(words, { short: "cS" }).operands.filter((path) => path !== null && !path.startsWith("+")),
    at
  )
]

/** fd's -x has a form of its own that is not read. */
const runsForEach: Rule = (words) =>
  askIf(
    words.some((word) => /^(?:-[xX]|--exec(?:-batch)?)$/.test(word ?? "")),
    "what it runs for each file is not read"
  )

/** By program. */
export const fileRules: Readonly<Record<string, Rule>> = {
  rm,
  unlink: rm,
  srm: rm,
  rmdir: rm,
  shred: (words, at, command) => [
    ...rm(words, at, command),
    ...device(words, at, command).filter(() => words.some((word) => word?.startsWith("/dev/")))
  ],
  find,
  fd: runsForEach,
  fdfind: runsForEach,
  chmod: recursiveChange,
  chown: recursiveChange,
  chgrp: recursiveChange,
  cp: copies,
  install: copies,
  ln: copies,
  rsync: copies,
  scp: copies,
  mv: moves,
  dd,
  tee: writesOperands(),
  truncate: writesOperands("sr", ["size", "reference"]),
  touch: writesOperands("dtr", ["date", "reference"]),
  sponge: writesOperands(),
  sed,
  gsed: sed,
  awk,
  gawk: awk,
  mawk: awk,
  nawk: awk,
  curl: downloads("oD", ["output", "dump-header", "cookie-jar"]),
  wget: downloads("Oo", ["output-document", "output-file"]),
  vim: editor,
  vi: editor,
  nvim: editor,
  ex: editor,
  ed: editor,
  nano: writesOperands(),
  wipefs: device,
  fdisk: device,
  sfdisk: device,
  parted: device,
  mkswap: device
}
