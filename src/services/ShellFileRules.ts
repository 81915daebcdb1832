/**
 * ShellFileRules: programs that delete, change and write files, and where that is refused or asked about.
 */
import { argumentsOf } from "./ShellCommand.ts"
import { copyRules } from "./ShellCopyRules.ts"
import { editRules } from "./ShellEditRules.ts"
import { findActions } from "./ShellFind.ts"
import {
  askIf,
  deletesTrees,
  deny,
  each,
  type Findings,
  none,
  raise,
  type Rule,
  writes
} from "./ShellFinding.ts"
import { concernOfDeletion, concernOfTree, type Text, type Whereabouts } from "./ShellPath.ts"

/** Null where a part of it is not known. */
const known = (word: string): Text => (word.includes("\u{E000}") ? null : word)

const rm: Rule = (words, at) => {
  const { has, operands } = argumentsOf(words)
  if (has("no-preserve-root")) return deny("it deletes everything")
  return has("r", "R", "recursive")
    ? deletesTrees(operands, at)
    : each(operands, (path) => concernOfDeletion(path, at), "it deletes a file of the system")
}

/** Of all that is below these: a place of the system only, for what is changed can be changed back. */
const changes = (paths: ReadonlyArray<Text>, at: Whereabouts): Findings =>
  each(
    paths,
    (path) => (path === null ? "ask" : concernOfTree(path, at) === "deny" ? "deny" : null),
    "it changes the owner, mode or attributes of the whole system"
  )

/** The last word names what is changed. */
const changesTree: Rule = (words, at) =>
  argumentsOf(words).has("R", "recursive") ? changes(words.slice(-1), at) : none

/** A mode that takes rights away looks like an option. */
const takesAway = /^-[rwxXstugo]+$/

const recursiveChange: Rule = (words, at) => {
  const mode = words.find((word) => word !== null && takesAway.test(word))
  const { has, operands } = argumentsOf(
    words.filter((word) => word !== mode),
    { long: ["reference", "from"] }
  )
  const targets = has("reference") || mode !== undefined ? operands : operands.slice(1)
  const given = operands[0] ?? ""
  return [
    ...(has("R", "recursive") ? changes(targets, at) : none),
    ...askIf(
      /(?:^|,)[ugoa]*[+=][rwxX]*s/.test(given) || /^0*[2467][0-7]{3}$/.test(given),
      "it makes a program run with its owner's rights"
    )
  ]
}

/** Every operand is written. */
const writesOperands =
  (short = "", long: ReadonlyArray<string> = []): Rule =>
  (words, at) =>
    writes(argumentsOf(words, { short, long }).operands, at)

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

/** What these options name is written, and with `operands` the rest too. */
const writesOptions =
  (names: ReadonlyArray<string>, more = ""): Rule =>
  (words, at) =>
    writes(
      argumentsOf(words, {
        short: names.filter((name) => name.length === 1).join("") + more,
        long: names.filter((name) => name.length > 1)
      }).all(...names),
      at
    )

const find: Rule = (_words, at, command) => {
  const actions = findActions(command)
  return [...deletesTrees(actions.deletes, at), ...writes(actions.writes, at)]
}

/** fd's -x has a form of its own that is not read. */
const runsForEach: Rule = (words) =>
  askIf(
    words.some((word) => /^(?:-[xX]|--exec(?:-batch)?)$/.test(word ?? "")),
    "what it runs for each file is not read"
  )

/** Each is deleted with all that is below. */
const rimraf: Rule = (words, at) => deletesTrees(argumentsOf(words).operands, at)

/** What it packs with -m is gone after. */
const zip: Rule = (words, at) => {
  const { has, operands } = argumentsOf(words, { short: "bntxiP" })
  return has("m", "move")
    ? each(operands.slice(1), (path) => concernOfDeletion(path, at), "it deletes a file of the system")
    : none
}

/** By program. */
export const fileRules: Readonly<Record<string, Rule>> = {
  ...copyRules,
  ...editRules,
  rm,
  unlink: rm,
  rimraf,
  trash: rimraf,
  zip,
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
  dd,
  tee: writesOperands(),
  truncate: writesOperands("sr", ["size", "reference"]),
  mkdir: writesOperands("m", ["mode"]),
  mkfifo: writesOperands("m", ["mode"]),
  sort: writesOptions(["o", "output"], "kStT"),
  openssl: writesOptions(["out"]),
  gpg: writesOptions(["o", "output"]),
  iconv: writesOptions(["o", "output"], "ft"),
  setfacl: changesTree,
  chattr: changesTree,
  touch: writesOperands("dtr", ["date", "reference"]),
  sponge: writesOperands(),
  nano: writesOperands(),
  wipefs: device,
  fdisk: device,
  sfdisk: device,
  parted: device,
  mkswap: device,
  gdisk: device,
  sgdisk: device,
  cfdisk: device,
  blkdiscard: device,
  badblocks: (words, at, command) => (argumentsOf(words).has("w", "n") ? device(words, at, command) : none),
  cryptsetup: (words, at, command) =>
    /^(?:luksFormat|erase|luksErase|reencrypt)$/.test(
      words.find((word) => word?.startsWith("-") !== true) ?? ""
    )
      ? device(words, at, command)
      : none,
  history: (words, at) => {
    const { has, operands } = argumentsOf(words)
    return has("w", "a") ? writes(operands, at) : none
  }
}
