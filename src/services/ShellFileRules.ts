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

/** Null where a part of it is not known. */
const known = (word: string): Text => (word.includes("\u{E000}") ? null : word)

const deletes = "it deletes a whole directory that is not a part of the project, or not known"

const rm: Rule = (words, at) => {
  const { has, operands } = argumentsOf(words)
  if (has("no-preserve-root")) return deny("it deletes everything")
  return has("r", "R", "recursive")
    ? trees(operands, at, deletes)
    : each(operands, (path) => concernOfDeletion(path, at), "it deletes a file of the system")
}

/** A mode that takes rights away looks like an option. */
const takesAway = /^-[rwxXstugo]+$/

const recursiveChange: Rule = (words, at) => {
  const mode = words.find((word) => word !== null && takesAway.test(word))
  const { has, operands } = argumentsOf(
    words.filter((word) => word !== mode),
    { long: ["reference", "from"] }
  )
  const targets = has("reference") || mode !== undefined ? operands : operands.slice(1)
  const denied = targets.filter((path) => path !== null && concernOfTree(path, at) === "deny")
  const given = operands[0] ?? ""
  return [
    ...(has("R", "recursive")
      ? each(denied, () => "deny", "it changes the owner or mode of the whole system")
      : none),
    ...askIf(
      /(?:^|,)[ugoa]*[+=][rwxX]*s/.test(given) || /^0*[2467][0-7]{3}$/.test(given),
      "it makes a program run with its owner's rights"
    )
  ]
}

const copyOptions = {
  short: "tSgmo",
  long: ["target-directory", "suffix", "group", "mode", "owner"]
}

/** The last operand, or the directory that -t names, is written; with -d of install each of them. */
const copies: Rule = (words, at) => {
  const { has, operands, values } = argumentsOf(words, copyOptions)
  const named = values["t"] ?? values["target-directory"]
  const target = named ?? operands.at(-1)
  if (target === undefined || operands.length === 0) return none
  const sources = named === undefined ? operands.slice(0, -1) : operands
  return [
    ...writesWithNames(target, sources, at),
    ...(has("d", "directory")
      ? writes(
          operands.filter((path) => path !== null),
          at
        )
      : none),
    ...(has("delete", "del", "remove-source-files")
      ? trees([...(has("remove-source-files") ? sources : []), target], at, deletes)
      : none)
  ]
}

/** A directory is written by the names of what is put into it; whether a name is a directory is not known. */
const writesWithNames = (target: Text, sources: ReadonlyArray<Text>, at: Whereabouts): Findings => {
  if (target === null) return none
  const inside = sources.map((source) =>
    source === null ? target : `${target}/${source.replace(/\/+$/, "").split("/").at(-1)}`
  )
  return raise(strongest(...[target, ...inside].map((path) => concernOfWrite(path, at))), writesElsewhere)
}

const moves: Rule = (words, at, command) => {
  const { operands, values } = argumentsOf(words, copyOptions)
  const sources = (values["t"] ?? values["target-directory"]) === undefined ? operands.slice(0, -1) : operands
  return [
    ...copies(words, at, command),
    ...each(
      sources,
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
    words.flatMap((word) => (word?.startsWith("of=") === true ? [known(word.slice(3))] : [])),
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

/** The files, and the directories, that options name. */
const downloads =
  (files: ReadonlyArray<string>, directories: ReadonlyArray<string>): Rule =>
  (words, at) => {
    const own = [...files, ...directories]
    const { all, operands } = argumentsOf(words, {
      short: `${own.filter((name) => name.length === 1).join("")}dFHXAuebTxmrQtU`,
      long: [...own, "data", "header", "request", "form", "user", "user-agent", "upload-file", "proxy", "url"]
    })
    const written = all(...files).filter((file) => file !== "-")
    const placed = all(...directories).flatMap((directory) =>
      operands.map((url) => (directory === null ? null : `${directory}/${url?.split("/").at(-1) ?? ""}`))
    )
    return writes([...written, ...placed], at)
  }

/** What these options name is written, and with `operands` the rest too. */
const writesOptions =
  (names: ReadonlyArray<string>, more = ""): Rule =>
  (words, at) =>
    writes(
      argumentsOf(words, {
        short: names.filter((name) => name.length === 1).join("") + more,
        long: names.filter((name) => name.length > 1)
      })
        .all(...names)
        .filter((path) => path !== null),
      at
    )

const tar: Rule = (words, at) => {
  const given =
    words[0]?.startsWith("-") === false && words.length > 1 ? [`-${words[0]}`, ...words.slice(1)] : words
  const { has, all, operands } = argumentsOf(given, {
    short: "fCITXgKLbHV",
    long: ["file", "directory", "exclude", "transform", "files-from"]
  })
  return [
    ...(has("x", "extract", "get") ? writes(all("C", "directory"), at) : none),
    ...(has("c", "create", "r", "append", "u", "update")
      ? writes(
          all("f", "file").filter((file) => file !== "-" && file !== null),
          at
        )
      : none),
    ...(has("remove-files") ? trees(operands, at, deletes) : none)
  ]
}

const sed: Rule = (words, at) => {
  const { has, all, operands } = argumentsOf(words, {
    short: "efl",
    long: ["expression", "file", "line-length"]
  })
  const given = all("e", "expression")
  const fromFile = has("f", "file")
  const scripts = given.length > 0 ? given : fromFile ? [] : operands.slice(0, 1)
  const files = given.length > 0 || fromFile ? operands : operands.slice(1)
  const inPlace = has("i", "in-place")
  return [
    ...askIf(
      scripts.some((script) => script !== null && sedRuns(script)),
      "sed runs a command"
    ),
    ...writes(
      scripts.flatMap((script) => (script === null ? [] : sedWrites(script))),
      at
    ),
    ...(inPlace
      ? writes(
          files.filter((file) => file !== null),
          at
        )
      : none)
  ]
}

/** Files that a `w` command, or a substitution with that flag, names. */
const sedWrites = (script: string): ReadonlyArray<string> =>
  [...script.matchAll(/(?:^|[;{}\n\d$/!|,#@])[gpIiMm\d]*[ \t]*[wW][ \t]+([^\n;}]+)/g)].flatMap(([, file]) =>
    file!.startsWith("/dev/std") ? [] : [file!.trim()]
  )

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

const find: Rule = (_words, at, command) => {
  const actions = findActions(command)
  return [...trees(actions.deletes, at, deletes), ...writes(actions.writes, at)]
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
      operands.filter((path) => path !== null && !path.startsWith("+")),
      at
    )
  ]
}

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
  link: copies,
  rsync: copies,
  scp: copies,
  mv: moves,
  dd,
  tee: writesOperands(),
  truncate: writesOperands("sr", ["size", "reference"]),
  mkdir: writesOperands("m", ["mode"]),
  mkfifo: writesOperands("m", ["mode"]),
  sort: writesOptions(["o", "output"], "kStT"),
  unzip: writesOptions(["d"], "xP"),
  openssl: writesOptions(["out"]),
  gpg: writesOptions(["o", "output"]),
  iconv: writesOptions(["o", "output"], "ft"),
  tar,
  bsdtar: tar,
  setfacl: (words, at, command) =>
    argumentsOf(words).has("R", "recursive")
      ? rm(["-r", ...words.slice(-1)], at, command).filter(({ verdict }) => verdict === "deny")
      : none,
  chattr: (words, at, command) =>
    argumentsOf(words).has("R")
      ? rm(["-r", ...words.slice(-1)], at, command).filter(({ verdict }) => verdict === "deny")
      : none,
  touch: writesOperands("dtr", ["date", "reference"]),
  sponge: writesOperands(),
  sed,
  gsed: sed,
  awk,
  gawk: awk,
  mawk: awk,
  nawk: awk,
  curl: downloads(
    [
      "o",
      "D",
      "c",
      "output",
      "dump-header",
      "cookie-jar",
      "trace",
      "trace-ascii",
      "stderr",
      "etag-save",
      "hsts",
      "libcurl"
    ],
    ["output-dir"]
  ),
  wget: downloads(
    ["O", "o", "a", "output-document", "output-file", "append-output"],
    ["P", "directory-prefix"]
  ),
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
