/** Whether a file is one that can be read or run, and which one of a PATH. */
import * as fs from "node:fs"
import * as path from "node:path"

/** `mode`: of access(2). */
export const isFileFor = (file: string, mode: number): boolean => {
  try {
    fs.accessSync(file, mode)
    return fs.statSync(file).isFile()
  } catch {
    return false
  }
}

export const isExecutable = (file: string): boolean => isFileFor(file, fs.constants.X_OK)

/** Of the directories that are named in full: one that is relative, or empty, depends on where we happen to be. */
export const findOnPath = (name: string, searchPath: string): string | undefined =>
  searchPath
    .split(":")
    .filter((directory) => path.isAbsolute(directory))
    .map((directory) => path.join(directory, name))
    .find(isExecutable)
