/**
 * Makes sure that a directory is private, at every call: created when missing, looked at without following links, its mode
 * repaired when it is ours. Whatever the umask is.
 */
import * as Effect from "effect/Effect"
import { chmodSync, lstatSync, mkdirSync, type Stats } from "node:fs"
import { dirname } from "node:path"
import {
  type DirectoryFacts,
  type DirectoryProblem,
  directoryProblem,
  DirectoryRefused,
  privateDirectoryMode
} from "../../services/PrivateDirectory.ts"
import { errorCode } from "./errorCode.ts"

export const ensurePrivateDirectory = (path: string): Effect.Effect<void, DirectoryRefused> =>
  Effect.suspend(() => {
    const found = verify(path, created)
    return found instanceof DirectoryRefused ? Effect.fail(found) : Effect.void
  })

/** The same without creating it: false when it is missing. */
export const privateDirectoryExists = (path: string): Effect.Effect<boolean, DirectoryRefused> =>
  Effect.suspend(() => {
    const found = verify(path, () => null)
    return found instanceof DirectoryRefused ? Effect.fail(found) : Effect.succeed(found)
  })

/** No user id at all (not a POSIX system) matches no owner. */
export const effectiveUid = (): number => process.geteuid?.() ?? -1

const factsOf = (stats: Stats): DirectoryFacts => ({
  kind: stats.isSymbolicLink() ? "symlink" : stats.isDirectory() ? "directory" : "other",
  uid: stats.uid,
  mode: stats.mode & 0o7777
})

const verify = (given: string, missing: (path: string) => Stats | null): DirectoryRefused | boolean => {
  // With a slash at its end lstat would follow a link.
  const path = given.replace(/\/+$/, "") || "/"
  const refused = (problem: DirectoryProblem, code?: string): DirectoryRefused =>
    new DirectoryRefused({ path, problem, ...(code === undefined ? {} : { code }) })
  try {
    const before = lstatSync(path, { throwIfNoEntry: false }) ?? missing(path)
    if (before === null) return false
    const problem = directoryProblem(factsOf(before), effectiveUid())
    if (problem !== "wrong-mode") return problem === null ? true : refused(problem)
    // chmod by path follows a link put here since, which then loses permissions for others and gains none; the second look
    // decides.
    chmodSync(path, privateDirectoryMode)
    const after = directoryProblem(factsOf(lstatSync(path)), effectiveUid())
    return after === null ? true : refused(after)
  } catch (error) {
    return refused("unusable", errorCode(error))
  }
}

const created = (path: string): Stats => {
  create(path)
  return lstatSync(path)
}

const create = (path: string): void => {
  try {
    createOne(path)
  } catch (error) {
    if (errorCode(error) !== "ENOENT" || dirname(path) === path) throw error
    create(dirname(path))
    createOne(path)
  }
}

const createOne = (path: string): void => {
  try {
    mkdirSync(path, privateDirectoryMode)
  } catch (error) {
    // Somebody was faster: the look that follows decides about theirs.
    if (errorCode(error) === "EEXIST") return
    throw error
  }
  // The umask may have taken bits from us.
  chmodSync(path, privateDirectoryMode)
}
