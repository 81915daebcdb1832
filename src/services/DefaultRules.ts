/**
 * DefaultRules: what is refused when the config names no policy of its own.
 *
 * Commands that destroy what no sandbox brings back. Like every rule they read a command line and not what a shell makes of
 * it: they stop accidents and habits.
 */
import type { Rule } from "./Policy.ts"

/** `name` as a word: after a path, a quote, `sudo`, `xargs` or `$(`, but not as part of another word. */
const word = (name: string): string => String.raw`(?<![\w.-])${name}(?=["'\s\\])`

/**
 * What follows up to the command's end. 512 characters: flags stand near their command, and a search that went further
 * from every `rm` of a long line would take quadratic time.
 */
const onward = String.raw`(?:[^;&|\n\\]|\\[^]){0,512}?`

/** An argument that starts like this somewhere in the command. */
const having = (...starts: ReadonlyArray<string>): string =>
  String.raw`(?=${onward}(?<=[\s"'])(?:${starts.join("|")}))`

/** A short flag, alone or among others: -r, -vr. */
const flag = (letters: string): string => String.raw`-[\w"'\\]{0,32}?[${letters}]`

export const defaultRules: ReadonlyArray<Rule> = [
  {
    id: "no-recursive-force-delete",
    command: word("rm") + having(flag("rR"), "--r") + having(flag("f"), "--f"),
    verdict: "deny",
    reason: "recursive forced deletion"
  },
  {
    id: "no-force-push",
    command:
      word("git") +
      having(String.raw`push(?![\w-])`) +
      having(flag("f"), "--force", "--mirror", String.raw`\+\w`),
    verdict: "deny",
    reason: "a forced push rewrites other people's history"
  },
  {
    id: "no-raw-disk-write",
    command: [
      word(String.raw`mkfs(?:\.\w+)?`),
      word("dd") + having(String.raw`of=["']?/dev/(?!null|zero|full|std|tty|fd/|shm/)`),
      String.raw`>\s{0,8}["']?/dev/(?:sd|hd|vd|xvd|nvme|mmcblk|disk|mapper|dm-|loop)`
    ].join("|"),
    verdict: "deny",
    reason: "writing to a raw device"
  }
]
