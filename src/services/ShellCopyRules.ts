/** ShellCopyRules: programs that put files somewhere: copied, moved, unpacked, downloaded. */
import { argumentsOf, type Options } from "./ShellCommand.ts"
import {
  askIf,
  deletesTrees,
  each,
  fills,
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
  isAccountFile,
  resolvePath,
  strongest,
  type Text,
  type Whereabouts
} from "./ShellPath.ts"

const copyOptions: Options = {
  short: "tSgmo",
  long: ["target-directory", "suffix", "group", "mode", "owner"]
}

/** Its -t, -S, -g and -o take nothing. */
const rsyncOptions: Options = {
  short: "efBTM",
  long: [
    "rsh",
    "rsync-path",
    "exclude",
    "include",
    "filter",
    "files-from",
    "exclude-from",
    "include-from",
    "suffix"
  ]
}

/** A source whose files are put there by their own names, or one that nobody knows: `dot/`, `dot/.`, `dot/.*`. */
const isContents = (source: Text): boolean =>
  source === null || /(?:^|\/)\.{0,2}$|(?:^|\/)\.[^/]*[*?[][^/]*$/.test(source)

/** The last operand, or the directory that -t names, is written; with -d of install each of them. */
/** A place or program of the system: what is done to it by its new name is not seen. A copy of other files is one of text. */
const leadsAway = (source: Text, at: Whereabouts): boolean => {
  const full = resolvePath(source, at)
  return (
    full !== null &&
    /^(?:\/usr(?:\/local)?)?\/s?bin\/(?:rm|dd|shred|find|tee|chmod|chown|mkfs\S*|(?:ba|da|z|k)?sh|busybox|sudo|git|env|xargs)$/.test(
      full
    )
  )
}

const copying =
  (options: Options): Rule =>
  (words, at) => {
    const { has, operands, values } = argumentsOf(words, options)
    const named = options === rsyncOptions ? undefined : (values["t"] ?? values["target-directory"])
    const target = named ?? operands.at(-1)
    if (target === undefined || operands.length === 0) return none
    const sources = named === undefined ? operands.slice(0, -1) : operands
    const asOne = options !== rsyncOptions && has("T", "no-target-directory")
    return [
      ...writesWithNames(target, sources, at),
      ...askIf(
        sources.some((source) => leadsAway(source, at)),
        "a system's file or directory by another name"
      ),
      ...(target !== null && (asOne || sources.some(isContents)) ? fills([target], at) : none),
      ...(has("d", "directory") ? writes(operands, at) : none),
      ...(has("delete", "del", "remove-source-files")
        ? deletesTrees([...(has("remove-source-files") ? sources : []), target], at)
        : none)
    ]
  }

const copies = copying(copyOptions)

/** A link to a whole place of the system or to who may do what: a deletion or a text through it is not seen. */
const links: Rule = (words, at, command) => {
  const { operands } = argumentsOf(words, copyOptions)
  const targets = operands.length > 1 ? operands.slice(0, -1) : operands
  return [
    ...copies(words, at, command),
    ...askIf(
      targets.some(
        (path) =>
          path !== null &&
          path.startsWith("/") &&
          (concernOfTree(path, { ...at, project: null }) === "deny" || isAccountFile(path, at))
      ),
      "a link to a place of the system"
    )
  ]
}

/** A directory is written by the names of what is put into it; whether a name is a directory is not known. */
const writesWithNames = (target: Text, sources: ReadonlyArray<Text>, at: Whereabouts): Findings => {
  if (target === null) return raise("ask", writesElsewhere)
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

/** Of an archive nobody sees what it holds, and where it says that it belongs. */
const unpacked = (directories: ReadonlyArray<Text>, at: Whereabouts): Findings =>
  fills(directories.length === 0 ? ["."] : directories, at)

const tar: Rule = (words, at) => {
  const given =
    words[0]?.startsWith("-") === false && words.length > 1 ? [`-${words[0]}`, ...words.slice(1)] : words
  const { has, all, operands } = argumentsOf(given, {
    short: "fCITXgKLbHV",
    long: ["file", "directory", "exclude", "transform", "files-from"]
  })
  return [
    ...(has("x", "extract", "get") && !has("O", "to-stdout")
      ? [
          ...unpacked([...all("C", "directory"), ...all("one-top-level")], at),
          ...askIf(has("P", "absolute-names"), "an archive that says itself where it is unpacked")
        ]
      : none),
    ...(has("c", "create", "r", "append", "u", "update")
      ? writes(
          all("f", "file").filter((file) => file !== "-"),
          at
        )
      : none),
    ...(has("remove-files") ? deletesTrees(operands, at) : none)
  ]
}

const unzip: Rule = (words, at) => {
  const { has, all } = argumentsOf(words, { short: "dxP" })
  return has("l", "t", "v", "p", "Z", "z") ? none : unpacked(all("d"), at)
}

const sevenZip: Rule = (words, at) =>
  /^[xe]$/.test(words[0] ?? "")
    ? unpacked(
        words.flatMap((word) => (word === null ? [null] : word.startsWith("-o") ? [word.slice(2)] : [])),
        at
      )
    : none

const cpio: Rule = (words, at) => {
  const { has, all, operands } = argumentsOf(words, {
    short: "DFHIOEMCR",
    long: ["directory", "file", "format", "pattern-file"]
  })
  if (has("p", "pass-through")) return fills(operands, at)
  return has("i", "extract") ? unpacked(all("D", "directory"), at) : none
}

const patch: Rule = (words, at) => {
  const { all, operands } = argumentsOf(words, {
    short: "dpiorFBzYVgD",
    long: ["directory", "strip", "input", "output", "reject-file", "fuzz", "prefix", "suffix"]
  })
  return [
    ...unpacked(all("d", "directory"), at),
    ...writes([...operands.slice(0, 1), ...all("o", "output")], at)
  ]
}

const stow: Rule = (words, at) => {
  const targets = argumentsOf(words, { short: "td", long: ["target", "dir"] }).all("t", "target")
  return fills(targets.length === 0 ? [".."] : targets, at)
}

/** `dpkg -x FILE DIRECTORY`. */
const dpkg: Rule = (words, at) =>
  /^(?:-[xX]|--v?extract)$/.test(words[0] ?? "") ? fills(words.slice(2, 3), at) : none

/** The files, and the directories, that options name. */
const downloads =
  (files: ReadonlyArray<string>, directories: ReadonlyArray<string>): Rule =>
  (words, at) => {
    const own = [...files, ...directories]
    const { all, has, operands } = argumentsOf(words, {
      short: `${own.filter((name) => name.length === 1).join("")}dFHXAuebTxmrQtU`,
      long: [...own, "data", "header", "request", "form", "user", "user-agent", "upload-file", "proxy", "url"]
    })
    const written = all(...files).filter((file) => file !== "-")
    const into = all(...directories)
    // Without another word wget names a file by its address, and curl where it is told to.
    const byName = own.includes("P") ? all("O", "output-document").length === 0 : has("O", "remote-name-all")
    const places = into.length > 0 ? into : byName ? ["."] : []
    const placed = places.flatMap((directory) =>
      operands.map((url) => (directory === null ? null : `${directory}/${url?.split("/").at(-1) ?? ""}`))
    )
    const unnamed = own.includes("P")
      ? has("r", "recursive", "m", "mirror", "x", "content-disposition")
      : has("J", "remote-header-name")
    return [...writes([...written, ...placed], at), ...(unnamed ? fills(places, at) : none)]
  }

/** By program. */
export const copyRules: Readonly<Record<string, Rule>> = {
  cp: copies,
  install: copies,
  ln: links,
  link: copies,
  scp: copies,
  ditto: copies,
  rsync: copying(rsyncOptions),
  mv: moves,
  tar,
  bsdtar: tar,
  unzip,
  "7z": sevenZip,
  "7za": sevenZip,
  "7zz": sevenZip,
  cpio,
  patch,
  stow,
  dpkg,
  "dpkg-deb": dpkg,
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
  )
}
