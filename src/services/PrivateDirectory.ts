/**
 * PrivateDirectory: a directory that nobody but its owner can enter, look into or replace entries of.
 *
 * State, runtime and bridges lie in such directories, so whatever is inside needs no further guard against other users.
 */
import * as Schema from "effect/Schema"

/** Exactly this, with no set-id or sticky bit. */
export const privateDirectoryMode = 0o700

export const DirectoryProblem = Schema.Literals([
  "not-a-directory",
  "symlink",
  "foreign-owner",
  "wrong-mode",
  "unusable"
])
export type DirectoryProblem = typeof DirectoryProblem.Type

const remedies: Record<DirectoryProblem, string> = {
  "not-a-directory": "it is not a directory; move it away",
  symlink: "it is a symbolic link; remove it, or name the directory it points to",
  "foreign-owner": "it belongs to another user; remove it",
  "wrong-mode": "others may enter it and its mode cannot be changed; remove it",
  unusable: "it cannot be created or read; check the disk and the directories above it"
}

export class DirectoryRefused extends Schema.TaggedError<DirectoryRefused>()("DirectoryRefused", {
  path: Schema.String,
  problem: DirectoryProblem,
  /** The system's word for it (EACCES, EROFS ...), when it said one. */
  code: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    const code = this.code === undefined ? "" : ` (${this.code})`
    return `The directory ${this.path} is refused: ${remedies[this.problem]}${code}. To use another one set HOLDFAST_HOME, or HOLDFAST_RUNTIME_DIR for the runtime directory alone.`
  }
}

/** What lstat tells of a path. */
export interface DirectoryFacts {
  readonly kind: "directory" | "symlink" | "other"
  readonly uid: number
  /** All twelve permission bits. */
  readonly mode: number
}

/** What is wrong with a directory for the user `uid`; null when it is private. Only `wrong-mode` may be repaired. */
export const directoryProblem = (facts: DirectoryFacts, uid: number): DirectoryProblem | null => {
  if (facts.kind === "symlink") return "symlink"
  if (facts.kind === "other") return "not-a-directory"
  if (facts.uid !== uid) return "foreign-owner"
  return facts.mode === privateDirectoryMode ? null : "wrong-mode"
}
