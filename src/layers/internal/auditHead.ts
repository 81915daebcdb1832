/**
 * The head of the audit log outside of the database: one line in a file of its own, written over in place.
 *
 * In place, because a rename for every decision would cost more than the decision: the line has a fixed length and is
 * written by one call, so that who reads it sees the old or the new one.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as fs from "node:fs"
import { AuditHead } from "../../services/AuditChain.ts"
import { glance } from "./atomicFile.ts"

/** Numbers of sixteen digits and a hash are under a hundred. */
const lineBytes = 160

const decode = Schema.decodeUnknownOption(Schema.fromJsonString(AuditHead))

/** Null when there is none, or it is none. */
export const readHead = (path: string): AuditHead | null =>
  Option.getOrNull(decode(glance(path, lineBytes)?.text.trim() ?? ""))

/** Writes it, for as long as the scope; false when that failed. */
export const makeHead = (path: string) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.try({
        try: () => {
          const { O_CREAT, O_NOFOLLOW, O_WRONLY } = fs.constants
          const fd = fs.openSync(path, O_WRONLY | O_CREAT | O_NOFOLLOW, 0o600)
          fs.fchmodSync(fd, 0o600)
          return fd
        },
        catch: () => "unusable" as const
      }),
      (fd) => Effect.sync(() => fs.closeSync(fd))
    ),
    (fd) =>
      (head: AuditHead): boolean => {
        try {
          fs.writeSync(fd, `${JSON.stringify(head).padEnd(lineBytes - 1)}\n`, 0)
          return true
        } catch {
          return false
        }
      }
  )
