/** The end of what an app-server wrote to stderr: enough to be redacted as a whole, and what of it is shown. */
import { redact } from "../../services/Redaction.ts"

/** Characters that are shown in a report; the reference system keeps the same. */
const shownLength = 2000
/** Kept to be redacted as a whole: a key that is cut in two is not known as one. The longest of PEM have 13 KB. */
export const keptLength = 16 * 1024

export const shownWords = (kept: string): string => redact(kept).slice(-shownLength)

/** The last line, for a message; `none` when there is none. */
export const lastLine = (words: string): string => words.trim().split("\n").at(-1) || "none"
